//! How `vb-fire` gets along with servers that close, flood, refuse early or answer one connection at a time: both transports.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use crate::{
    fire::{fire, records, requests},
    transport::{RESPONSE, read_request, response},
};

const TRANSPORTS: [&str; 2] = ["stamped", "portable"];

/// Gives each connection to `serve`, on its own thread.
fn server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, serve) = (stream.unwrap(), Arc::clone(&serve));
            thread::spawn(move || serve(stream));
        }
    });
    url
}

/// A stream that always has bytes ready: events without end, in the largest writes that the kernel takes.
fn flood(mut stream: TcpStream, head: &str, piece: &str) {
    if read_request(&mut stream).is_empty() {
        return;
    }
    let pieces = piece.repeat((1 << 16) / piece.len());
    let _ = stream.write_all(head.as_bytes());
    while stream.write_all(pieces.as_bytes()).is_ok() {}
}

const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";

#[test]
fn limits_hold_while_a_stream_always_has_bytes_ready() {
    let chunk = "data: {\"choices\":[{\"index\":0,\"text\":\"a\",\"finish_reason\":null}]}\n\n";
    let lines = "{\"message\":{\"content\":\"a\"},\"done\":false}\n";
    let ndjson = STREAM.replace("text/event-stream", "application/x-ndjson");
    let comments = ": nothing\n\n";
    for transport in TRANSPORTS {
        for (backend, head, piece, flags, kind) in [
            ("openai", STREAM, chunk, &["--timeout-total", "300ms"][..], "timeout_total"),
            ("openai", STREAM, comments, &["--timeout-first-token", "300ms"], "timeout_first_token"),
            ("openai", STREAM, chunk, &["--cancel-rate", "1", "--cancel-after", "300ms"], "abandoned"),
            ("ollama", &ndjson, lines, &["--timeout-total", "300ms"], "timeout_total"),
            ("openai", STREAM, chunk, &["--max-seconds", "0.3", "--grace", "100ms"], "cancelled"),
        ] {
            let (head, piece) = (head.to_owned(), piece.to_owned());
            let url = server(move |stream| flood(stream, &head, &piece));
            let always = ["--backend", backend, "--model", "m", "--transport", transport, "--no-text"];
            let done = fire(&url, &[&always[..], flags].concat(), &requests(1, ""));
            let (_, outputs, _) = records(&done.stdout);
            assert_eq!(outputs[0]["error_kind"], kind, "{transport} {backend} {flags:?}: {}", outputs[0]["error"]);
        }
    }
}

#[test]
fn a_response_without_end_is_an_error_before_it_fills_the_memory() {
    for transport in TRANSPORTS {
        let text = "a".repeat(1 << 15);
        let chunk = format!("data: {{\"choices\":[{{\"index\":0,\"text\":\"{text}\",\"finish_reason\":null}}]}}\n\n");
        let url = server(move |stream| flood(stream, STREAM, &chunk));
        let done = fire(&url, &["--model", "m", "--transport", transport, "--no-text"], &requests(1, ""));
        let (_, outputs, _) = records(&done.stdout);
        let error = outputs[0]["error"].as_str().unwrap();
        assert!(outputs[0]["error_kind"] == "protocol" && error.contains("has no end"), "{transport}: {error}");
    }
}

#[test]
fn interim_responses_without_end_fail_the_request() {
    let flooded = server(|stream| flood(stream, "", "HTTP/1.1 100 Continue\r\n\r\n"));
    for transport in TRANSPORTS {
        let flags = ["--model", "m", "--transport", transport, "--timeout-first-token", "2s"];
        let done = fire(&flooded, &flags, &requests(1, ""));
        let (_, outputs, _) = records(&done.stdout);
        let error = outputs[0]["error"].as_str().unwrap();
        assert_eq!(outputs[0]["success"], false, "{transport}: {error}");
        assert!(transport == "portable" || error.contains("64 KiB of interim responses (HTTP 100)"), "{error}");
    }
}

/// A server that refuses a request by its head does not take the body.
#[test]
fn a_refusal_is_read_before_the_body_is_taken() {
    let refuse = |mut stream: TcpStream| {
        let mut head = [0; 1 << 10];
        if stream.read(&mut head).is_ok_and(|read| read > 0) {
            let body = "{\"error\":{\"message\":\"too large\"}}";
            let status = "HTTP/1.1 413 Payload Too Large\r\ncontent-type: application/json\r\n";
            let _ = stream.write_all(format!("{status}content-length: {}\r\n\r\n{body}", body.len()).as_bytes());
            // It neither reads on nor closes.
            thread::sleep(Duration::from_mins(1));
        }
    };
    let url = server(refuse);
    let line = format!("{{\"prompt\":\"{}\"}}\n", "a ".repeat(8 << 20));
    for transport in TRANSPORTS {
        let flags =
            ["--model", "m", "--transport", transport, "--timeout-first-token", "20s", "--max-concurrency", "1"];
        let done = fire(&url, &flags, &line.repeat(2));
        let (_, outputs, _) = records(&done.stdout);
        for output in outputs {
            assert_eq!((&output["error_kind"], &output["status"]), (&"http_status".into(), &413.into()), "{transport}");
            assert!(output["error"].as_str().unwrap().contains("too large"), "{transport}: {}", output["error"]);
        }
    }
}

/// A server that announces keep-alive and closes anyway: `delay` after the response, so that the close meets the next request
/// anywhere, or only when the next request arrives.
fn closes_after_each(delay: Option<Duration>) -> (String, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let url = server(move |mut stream| {
        counted.fetch_add(1, SeqCst);
        if read_request(&mut stream).is_empty() {
            return;
        }
        stream.write_all(response().as_bytes()).unwrap();
        match delay {
            Some(delay) => thread::sleep(delay),
            // As if the next request had been on its way when the connection was closed.
            None => drop(stream.read(&mut [0; 10])),
        }
        let _ = stream.shutdown(Shutdown::Both);
    });
    (url, connections)
}

#[test]
fn a_server_that_closes_in_spite_of_keep_alive_costs_no_request() {
    for transport in TRANSPORTS {
        for delay in [None, Some(Duration::ZERO), Some(Duration::from_micros(200))] {
            let (url, _) = closes_after_each(delay);
            let flags = ["--model", "m", "--transport", transport, "--max-concurrency", "1"];
            let done = fire(&url, &flags, &requests(60, ""));
            let (_, outputs, end) = records(&done.stdout);
            assert_eq!((done.code, &end["outcomes"]["ok"]), (0, &60.into()), "{transport} {delay:?}: {}", done.stderr);
            let resent = outputs.iter().filter(|output| output["resent"] == true).count();
            assert_eq!(end["resent"].as_u64().unwrap_or(0), resent as u64);
            assert!(resent <= 1, "{transport} {delay:?}: connections are not reused after the first close: {resent}");
            if delay.is_none() {
                assert_eq!((resent, &end["reuse_ended"]), (1, &true.into()), "{transport}: {end}");
                let warning = "closes connections after a response without announcing it, so each request opened its own; 1 requests";
                assert_eq!(done.stderr.matches(warning).count(), 1, "{transport}: {}", done.stderr);
                let stats = crate::tool::run("vb-stats", &[], &done.stdout);
                let result: serde_json::Value = serde_json::from_str(&stats.stdout).unwrap();
                assert_eq!(result["vb"]["client"]["resent"], 1, "{transport}: {}", stats.stderr);
            }
            for output in outputs.iter().filter(|output| output["resent"] == true) {
                assert_eq!(output["reused"], false, "{output}");
                assert!(output["ttft"].as_f64() <= output["phases"]["done"].as_f64(), "{output}");
            }
        }
    }
}

/// A request that a new connection has carried was seen by the server: it is not sent again.
#[test]
fn a_close_on_a_new_connection_is_an_error_and_nothing_is_sent_twice() {
    for transport in TRANSPORTS {
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let url = server(move |mut stream| {
            // The portable transport asks for the models first.
            if read_request(&mut stream).starts_with("POST") {
                counted.fetch_add(1, SeqCst);
            }
        });
        let flags = ["--model", "m", "--transport", transport, "--max-concurrency", "1", "--preconnect", "0"];
        let done = fire(&url, &flags, &requests(5, ""));
        let (_, outputs, end) = records(&done.stdout);
        assert!(outputs.iter().all(|output| output["error_kind"] == "reset"), "{transport}: {}", done.stdout);
        assert_eq!((connections.load(SeqCst), &end["resent"]), (5, &serde_json::Value::Null), "{transport}");
    }
}

/// A response that has begun is not requested again, and a second close in a row is an error.
#[test]
fn a_request_is_sent_again_once_and_only_without_any_byte_of_a_response() {
    // Reqwest does not report whether a part of the head has arrived.
    for (transport, cut, sent) in [("stamped", "HTTP/1.1 200 OK\r\n", 2), ("stamped", "", 3), ("portable", "", 3)] {
        let requests_seen = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests_seen);
        // The first request of all is answered; each later one is cut.
        let url = server(move |mut stream| {
            while read_request(&mut stream).starts_with("POST") {
                let number = counted.fetch_add(1, SeqCst);
                let text = if number == 0 { response() } else { cut.to_owned() };
                stream.write_all(text.as_bytes()).unwrap();
                if number > 0 {
                    return;
                }
            }
        });
        let flags = ["--model", "m", "--transport", transport, "--max-concurrency", "1", "--preconnect", "0"];
        let done = fire(&url, &flags, &requests(2, ""));
        let (_, outputs, _) = records(&done.stdout);
        assert_eq!((&outputs[0]["success"], &outputs[1]["error_kind"]), (&true.into(), &"reset".into()), "{transport}");
        assert_eq!(requests_seen.load(SeqCst), sent, "{transport} {cut:?}: {}", outputs[1]);
    }
}

/// A server that sends these chunks for each request: the pause before a step, and the number of chunks in it.
fn server_in_steps(steps: &'static [(u64, usize)], header: &'static str) -> String {
    server(move |mut stream| {
        let chunk = "data: {\"choices\":[{\"index\":0,\"text\":\"a\",\"finish_reason\":null}]}\n\n";
        let last = "data: {\"choices\":[{\"index\":0,\"text\":\"\",\"finish_reason\":\"length\"}]}\n\ndata: [DONE]\n\n";
        if !read_request(&mut stream).starts_with("POST") {
            return;
        }
        stream.set_nodelay(true).unwrap();
        stream.write_all(STREAM.replace("\r\n\r\n", &format!("\r\n{header}\r\n\r\n")).as_bytes()).unwrap();
        for (pause, chunks) in steps {
            thread::sleep(Duration::from_millis(*pause));
            stream.write_all(chunk.repeat(*chunks).as_bytes()).unwrap();
        }
        stream.write_all(last.as_bytes()).unwrap();
    })
}

#[test]
fn responses_that_a_proxy_holds_back_are_not_clean_and_a_server_with_several_tokens_per_step_is() {
    for transport in TRANSPORTS {
        for (steps, buffered) in [
            (&[(60, 12)][..], true),
            (&[(50, 16), (50, 16), (50, 5)], true),
            (&[(50, 1), (20, 3), (20, 5), (20, 1), (20, 4)], false),
            (&[(50, 1), (20, 8), (20, 8)], false),
            (&[(20, 1), (20, 1), (20, 1), (20, 1), (20, 1), (20, 1), (20, 1), (20, 1)], false),
        ] {
            let url = server_in_steps(steps, "server: nginx/1.22.1");
            let flags = ["--model", "m", "--transport", transport, "--max-concurrency", "2"];
            let done = fire(&url, &flags, &requests(8, ""));
            let (_, outputs, end) = records(&done.stdout);
            let marked = outputs.iter().filter(|output| output["buffered"] == true).count();
            if end["verdict"] == "client_bound" {
                // A client without a core joins chunks itself.
                continue;
            }
            assert_eq!(end["buffering"]["buffered"], marked, "{transport} {steps:?}: {end}");
            // The machine may be busy, so that a few bursts look different.
            assert_eq!(marked >= 5, buffered, "{transport} {steps:?}: {end}");
            if buffered {
                assert_eq!(end["verdict"], "suspect", "{transport} {steps:?}");
                let cure = "`nginx/1.22.1`) or the server holds chunks back, so TTFT, TPOT and ITL are not the model's: set `proxy_buffering off`";
                assert!(done.stderr.contains(cure), "{transport} {steps:?}: {}", done.stderr);
            }
            let stats = crate::tool::run("vb-stats", &["--table", "full"], &done.stdout);
            let notes = stats.stderr.matches("not the model's: ").count();
            assert_eq!(notes > 0, buffered, "{transport} {steps:?}: {}", stats.stderr);
        }
    }
}

/// Connections without a request must not be in the way of others.
#[test]
fn a_server_that_answers_one_connection_at_a_time_is_asked_for_models_and_metrics() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            loop {
                let line = read_request(&mut stream);
                let (media, body) = match line.split(' ').nth(1) {
                    Some("/v1/models") => ("application/json", "{\"data\":[{\"id\":\"m\"}]}"),
                    Some("/metrics") => ("text/plain", "vllm:num_requests_running 0\n"),
                    Some(_) => ("text/event-stream", RESPONSE),
                    None => break,
                };
                let head =
                    format!("HTTP/1.1 200 OK\r\ncontent-type: {media}\r\ncontent-length: {}\r\n\r\n", body.len());
                if stream.write_all((head + body).as_bytes()).is_err() {
                    break;
                }
            }
        }
    });
    let flags = ["--scrape", "--max-concurrency", "1", "--num-warmups", "1", "--timeout-first-token", "20s"];
    let done = fire(&url, &flags, &requests(3, ""));
    let lines: Vec<serde_json::Value> = done.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let scrapes: Vec<_> = lines.iter().filter(|line| line["type"] == "scrape").collect();
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(scrapes.len() >= 2 && scrapes.iter().all(|scrape| scrape["error"].is_null()), "{scrapes:?}");
}

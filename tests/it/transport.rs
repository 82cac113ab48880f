//! How `vb-fire` carries and stamps bytes: both transports, its threads, its memory.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::Stdio,
    sync::mpsc,
};

use serde_json::Value;
use vb::record::Truth;

use crate::{
    fire::{FULL, fire, most_in_flight, outputs, records, requests, server_that_says},
    tool::{self, Sim, command, folder, truths},
};

/// Joins the arrivals of each request with the truth log: on every transport, nothing arrives before it was sent.
#[test]
fn every_transport_sees_what_the_server_sent() {
    for (tls, transport) in [(false, "stamped"), (true, "stamped"), (false, "portable"), (true, "portable")] {
        let log = folder(&format!("transport-{transport}-{tls}")).join("truth.ndjson");
        let args = ["--truth-log", log.to_str().unwrap(), "--step-base", "2ms"];
        let sim = if tls { Sim::start_tls(&args) } else { Sim::start(&args) };
        let flags = ["--transport", transport, "--insecure", "--max-concurrency", "8", "--threads", "2", "--read-lags"];
        let done = fire(&sim.url, &flags, &requests(40, FULL));
        assert_eq!(done.code, 0, "{transport}: {}", done.stderr);
        sim.stop();
        let (run, _, end) = records(&done.stdout);
        assert_eq!((&run["transport"], &run["threads"]), (&transport.into(), &2.into()));
        let kernel = cfg!(target_os = "linux") && transport == "stamped";
        let stamps = &end["stamps"];
        assert_eq!(stamps["chunks"], 320);
        // Stamping is switched on before the first request, so that every chunk has a stamp.
        assert_eq!(stamps["user"], if kernel { 0 } else { 320 }, "{transport} {tls}");
        assert_eq!(end["read_lag"].is_object(), kernel);
        let truth = truths(&log);
        let by_id: BTreeMap<&str, &Truth> = truth.iter().map(|t| (t.request_id.as_str(), t)).collect();
        for output in outputs(&done.stdout).1 {
            let sent = &by_id[output.request_id.as_str()].sent;
            let mut arrival = output.start_time.unwrap() + output.ttft.unwrap();
            // The two programs convert the clock with different anchors.
            let anchors = vb::units::Nanos(50_000);
            for (sent, gap) in sent.iter().zip(output.itl.iter().map(Some).chain([None])) {
                assert!(arrival + anchors > *sent, "{transport} {tls}: it arrives before it is sent");
                arrival = arrival + gap.copied().unwrap_or_default();
            }
            assert_eq!(sent.len(), output.itl.len() + 1);
            assert_eq!(output.read_lag.unwrap().len(), sent.len());
            assert_eq!(serde_json::to_value(output.stamp).unwrap(), if kernel { "kernel" } else { "user" });
        }
    }
}

/// The server of `examples/referee`, which shares no code with `vb-sim`. `cargo test` builds it.
#[test]
#[cfg(target_os = "linux")]
fn the_referee_logs_what_the_client_records() {
    let program = std::env::current_exe().unwrap().parent().unwrap().with_file_name("examples").join("referee");
    if !program.exists() {
        eprintln!("skipped: {} is not built (cargo build --example referee)", program.display());
        return;
    }
    let log = folder("referee").join("truth.ndjson");
    let mut command = tool::plain_command(program);
    command.args(["--step", "2ms", "--log", log.to_str().unwrap()]).stdout(Stdio::piped());
    let mut referee = command.spawn().unwrap();
    let mut url = String::new();
    BufReader::new(referee.stdout.take().unwrap()).read_line(&mut url).unwrap();
    let done = fire(url.trim_end(), &["--max-concurrency", "8"], &requests(40, FULL));
    assert_eq!(done.code, 0, "{}", done.stderr);
    rustix::process::kill_process(rustix::process::Pid::from_child(&referee), rustix::process::Signal::TERM).unwrap();
    assert!(referee.wait().unwrap().success());
    let truth = truths(&log);
    let by_id: BTreeMap<&str, &Truth> = truth.iter().map(|t| (t.request_id.as_str(), t)).collect();
    let outputs = outputs(&done.stdout).1;
    assert_eq!((outputs.len(), by_id.len()), (40, 40));
    for output in outputs {
        let truth = by_id[output.request_id.as_str()];
        assert!(output.success && truth.arrived.is_some());
        assert_eq!(truth.sent.len(), output.itl.len() + 1);
        assert_eq!(output.output_tokens, truth.output_tokens);
        assert!(truth.sent.is_sorted() && truth.arrived < Some(truth.sent[0]));
    }
}

#[test]
fn concurrency_is_exact_over_several_threads() {
    let sim = Sim::start(&["--step-base", "1ms"]);
    let done = fire(&sim.url, &["--max-concurrency", "5", "--threads", "3"], &requests(60, FULL));
    assert_eq!(done.code, 0, "{}", done.stderr);
    let outputs = outputs(&done.stdout).1;
    assert_eq!((outputs.len(), most_in_flight(&outputs)), (60, 5));
}

/// Reads a request to its end, and returns its first line.
pub fn read_request(stream: &mut TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let (mut first, mut line, mut length) = (String::new(), String::new(), 0);
    reader.read_line(&mut first).unwrap();
    while reader.read_line(&mut line).unwrap() > 2 {
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.trim().parse().unwrap();
        }
        line.clear();
    }
    reader.read_exact(&mut vec![0; length]).unwrap();
    first
}

pub const RESPONSE: &str =
    "data: {\"choices\":[{\"index\":0,\"text\":\"a\",\"finish_reason\":\"length\"}]}\n\ndata: [DONE]\n\n";

pub fn response() -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n{RESPONSE}",
        RESPONSE.len()
    )
}

#[test]
fn the_portable_transport_goes_through_the_proxy_of_the_environment() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = format!("http://{}", listener.local_addr().unwrap());
    let (sender, asked) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, sender) = (stream.unwrap(), sender.clone());
            std::thread::spawn(move || {
                let first = read_request(&mut stream);
                stream.write_all(response().as_bytes()).unwrap();
                sender.send(first).unwrap();
            });
        }
    });
    // A server that only the proxy can find.
    let args =
        ["--base-url", "http://server.invalid:8000", "--model", "m", "--max-concurrency", "1", "--no-keep-alive"];
    let mut child = command("vb-fire")
        .args(args)
        .args(["--transport", "portable"])
        .env("http_proxy", proxy)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(requests(2, "").as_bytes()).unwrap();
    let done = tool::done(child.wait_with_output().unwrap());
    assert_eq!(done.code, 0, "{}", done.stdout);
    assert!(outputs(&done.stdout).1.iter().all(|o| o.success));
    let asked: Vec<String> = asked.iter().take(3).collect();
    assert!(asked[0].starts_with("GET http://server.invalid:8000/v1/models "), "{asked:?}");
    for line in &asked[1..] {
        assert!(line.starts_with("POST http://server.invalid:8000/v1/completions "), "{line}");
    }
}

#[test]
fn an_unreachable_server_without_a_proxy_is_reported_once() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let done = fire(&format!("http://{free}"), &["--model", "m", "--transport", "portable"], &requests(2, ""));
    assert_eq!((done.code, done.stdout.as_str()), (4, ""), "{}", done.stderr);
    assert!(done.stderr.contains("is the server running"), "{}", done.stderr);
}

#[test]
fn the_portable_transport_speaks_http_2() {
    use http_body_util::Full;
    use hyper::{Request, Response, body::Bytes, server::conn::http2, service::service_fn};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

    let cert = CertificateDer::from_pem_file(tool::data("tls-cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(tool::data("tls-key.pem")).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .unwrap();
    // It supports nothing else.
    config.alpn_protocols = vec![b"h2".to_vec()];
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    let (sender, versions) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let Ok(tls) = acceptor.accept(tcp).await else { continue };
                let sender = sender.clone();
                let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                    // A server that gets both `:authority` and `host` may refuse the request, as nginx does.
                    assert!(!request.headers().contains_key("host"), "{request:?}");
                    sender.send((request.method().clone(), request.version())).unwrap();
                    let response = Response::builder().header("content-type", "text/event-stream");
                    std::future::ready(response.body(Full::new(Bytes::from(RESPONSE))))
                });
                let connection = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(tls), service);
                tokio::spawn(async move { drop(connection.await) });
            }
        });
    });
    let flags = ["--model", "m", "--transport", "portable", "--insecure", "--max-concurrency", "4"];
    let done = fire(&url, &flags, &requests(12, ""));
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(outputs(&done.stdout).1.iter().all(|o| o.success));
    let seen: Vec<_> = versions.try_iter().collect();
    assert!(seen.iter().all(|(_, version)| *version == hyper::Version::HTTP_2), "{seen:?}");
    assert_eq!(seen.iter().filter(|(method, _)| method == "POST").count(), 12);

    let done = fire(&url, &["--model", "m", "--insecure"], &requests(1, ""));
    let advice = "the server speaks HTTP/2 only: use --transport portable";
    assert!(done.code == 4 && done.stderr.contains(advice), "{}", done.stderr);
    let done = fire(&url, &["--model", "m", "--transport", "portable"], &requests(1, ""));
    let cure = "check the server's certificate; --insecure accepts any";
    assert!(done.code == 4 && done.stderr.contains(cure), "{}", done.stderr);
}

#[test]
fn connections_are_open_before_the_clock_starts() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, opened) = mpsc::channel();
    std::thread::spawn(move || {
        // One to check that the server is there, and the three that `--preconnect` asks for: no request until all are accepted.
        let mut streams: Vec<TcpStream> = (0..4).map(|_| listener.accept().unwrap().0).collect();
        sender.send(streams.len()).unwrap();
        // The first is closed by now, so it brings no request.
        for stream in &mut streams[1..] {
            read_request(stream);
            stream.write_all(response().as_bytes()).unwrap();
        }
    });
    let flags = ["--model", "m", "--preconnect", "3", "--max-concurrency", "3"];
    let done = fire(&url, &flags, &requests(3, ""));
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(opened.recv().unwrap(), 4);
    let (_, outputs, _) = records(&done.stdout);
    assert!(outputs.iter().all(|o| o["reused"] == false && o["phases"]["connect"].as_f64().unwrap() > 0.0));
}

/// Unusual HTTP that the RFC allows.
#[test]
fn http_in_odd_shapes_is_read() {
    let stream = "content-type: text/event-stream\r\n";
    let mut chunks = String::new();
    for piece in RESPONSE.as_bytes().chunks(7) {
        write!(chunks, "{:x};x=y\r\n{}\r\n", piece.len(), str::from_utf8(piece).unwrap()).unwrap();
    }
    for (name, response, kind) in [
        ("to the close", format!("HTTP/1.1 200 OK\r\n{stream}\r\n{RESPONSE}"), None),
        ("old", format!("HTTP/1.0 200 OK\r\n{stream}\r\n{RESPONSE}"), None),
        (
            "interim",
            format!("HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\n{stream}\r\n{RESPONSE}"),
            None,
        ),
        (
            "chunks",
            format!("HTTP/1.1 200 OK\r\n{stream}transfer-encoding: chunked\r\n\r\n{chunks}0\r\nx: y\r\n\r\n"),
            None,
        ),
        ("bad chunk", format!("HTTP/1.1 200 OK\r\n{stream}transfer-encoding: chunked\r\n\r\nzz\r\n"), Some("protocol")),
        ("half", format!("HTTP/1.1 200 OK\r\n{stream}content-length: 999\r\n\r\ndata: "), Some("truncated")),
        ("nothing", String::new(), Some("reset")),
        ("half a head", "HTTP/1.1 200 OK\r\ncontent".into(), Some("reset")),
        ("not HTTP", "220 mail.example ESMTP\r\n".into(), Some("protocol")),
    ] {
        for transport in ["stamped", "portable"] {
            let url = server_that_says(response.clone());
            let done = fire(&url, &["--model", "m", "--transport", transport], &requests(1, ""));
            let (_, outputs, _) = records(&done.stdout);
            let got = outputs[0]["error_kind"].as_str();
            println!("{name:12} {transport:9} {got:?} {}", outputs[0]["error"]);
            assert_eq!(got, kind, "{name} {transport}: {}", outputs[0]);
        }
    }
}

/// A server or a proxy that never ends its bodies does not hold a slot for long.
#[test]
fn a_body_that_stays_open_after_its_response_does_not_hold_the_slot() {
    let piece = |body: &str| format!("{:x}\r\n{body}\r\n", body.len());
    let line = "{\"message\":{\"content\":\"a\"},\"done\":true,\"done_reason\":\"stop\"}\n";
    for (backend, media, body) in
        [("openai", "text/event-stream", piece(RESPONSE)), ("ollama", "application/x-ndjson", piece(line))]
    {
        for transport in ["stamped", "portable"] {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {media}\r\ntransfer-encoding: chunked\r\n\r\n");
            let url = server_that_stays(head + &body);
            let flags = ["--backend", backend, "--model", "m", "--transport", transport, "--max-concurrency", "1"];
            let done = fire(&url, &[&flags[..], &["--timeout-stall", "20s"]].concat(), &requests(2, ""));
            let (_, outputs, end) = records(&done.stdout);
            assert_eq!((done.code, outputs.len()), (0, 2), "{backend} {transport}: {}", done.stderr);
            for output in outputs {
                assert_eq!((&output["success"], &output["reused"]), (&true.into(), &false.into()), "{output}");
                assert_eq!(output["phases"]["done"], output["latency"], "the last event's time: {output}");
            }
            let duration = end["duration"].as_f64().unwrap();
            assert!((0.9..5.0).contains(&duration), "one wait between the two, and none after them: {duration}");
        }
    }
}

/// Sends these bytes for every request and never closes a connection.
fn server_that_stays(response: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, response) = (stream.unwrap(), response.clone());
            std::thread::spawn(move || {
                while !read_request(&mut stream).is_empty() && stream.write_all(response.as_bytes()).is_ok() {}
            });
        }
    });
    url
}

/// Compressed bytes are reported as compressed, and not read as a broken stream.
#[test]
fn a_compressed_response_is_reported_with_its_cure() {
    for transport in ["stamped", "portable"] {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-encoding: gzip\r\n";
        let url = server_that_says(format!("{head}content-length: 4\r\nconnection: close\r\n\r\n\u{1f}\u{1f}ab"));
        let done = fire(&url, &["--model", "m", "--transport", transport], &requests(1, ""));
        let (_, outputs, _) = records(&done.stdout);
        let (kind, error) = (&outputs[0]["error_kind"], outputs[0]["error"].as_str().unwrap());
        assert_eq!(kind, "protocol", "{transport}: {error}");
        assert!(error.starts_with("the server compresses its responses (gzip)"), "{transport}: {error}");
        assert!(done.stderr.contains("turn compression off"), "{transport}: {}", done.stderr);
    }
}

#[test]
fn a_reader_that_stalls_costs_memory_up_to_a_limit_and_then_stops_the_run() {
    let sim = Sim::start(&["--step-base", "1ms"]);
    let start = |grace: &str| {
        let flags = ["--base-url", &sim.url, "--max-concurrency", "32", "--max-buffer", "200k", "--grace", grace];
        let vb =
            command("vb-fire").args(flags).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = vb.unwrap();
        let mut pipe = child.stdin.take().unwrap();
        // vb-fire exits before it has read all of this.
        std::thread::spawn(move || drop(pipe.write_all(requests(20_000, FULL).as_bytes())));
        child
    };
    // The reader wakes when the run has been stopped: it gets everything that was offered.
    let mut child = start("60s");
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    out.read_line(&mut first).unwrap();
    // The pipe and its buffers are full long before that many responses are complete: no more requests reach the server.
    let mut quiet = 0;
    while quiet < 10 {
        quiet = if sim_is_quiet(&sim.url) { quiet + 1 } else { 0 };
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    let done = tool::done(child.wait_with_output().unwrap());
    assert!(done.code == 4 && done.stderr.contains("--max-buffer"), "{} {}", done.code, done.stderr);
    let (_, outputs, end) = records(&(first + &rest));
    assert_eq!(end["offered"], outputs.len());
    assert!(outputs.len() < 20_000 && end["interrupted"] == true);
    // This reader never wakes.
    let mut child = start("100ms");
    let held = child.stdout.take().unwrap();
    let done = tool::done(child.wait_with_output().unwrap());
    drop(held);
    assert!(done.code == 4 && done.stderr.contains("does not read"), "{} {}", done.code, done.stderr);
}

/// Requests that were never sent are recorded too, and wait for the reader like all others.
#[test]
fn records_of_what_was_not_sent_count_as_waiting() {
    let sim = Sim::start(&["--fault", "status_500"]);
    let flags = ["--base-url", &sim.url, "--max-concurrency", "1", "--max-buffer", "1M", "--grace", "100ms"];
    let vb = command("vb-fire").args(flags).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = vb.unwrap();
    let mut pipe = child.stdin.take().unwrap();
    // The first turn fails, and the turns after it go on until too many records wait for their reader.
    let endless = std::thread::spawn(move || {
        let turns = "{\"prompt\":\"a\",\"session_id\":\"s\"}\n".repeat(1000);
        while pipe.write_all(turns.as_bytes()).is_ok() {}
    });
    let held = child.stdout.take().unwrap();
    let done = tool::done(child.wait_with_output().unwrap());
    drop(held);
    endless.join().unwrap();
    assert!(done.code == 4 && done.stderr.contains("--max-buffer"), "{} {}", done.code, done.stderr);
}

/// Whether no request is in flight, by the server's own metrics.
fn sim_is_quiet(url: &str) -> bool {
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let count = |name: &str| {
        let line = text.lines().find(|l| l.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    count("vllm:num_requests_running") + count("vllm:num_requests_waiting") == 0.0
        && count("vllm:generation_tokens_total") > 0.0
}

#[test]
fn the_flags_say_what_they_are_for() {
    let done = fire("http://127.0.0.1:9", &["--threads", "0"], "");
    assert!(done.code == 2 && done.stderr.contains("--threads"), "{}", done.stderr);
    let done = fire("http://127.0.0.1:9", &["--transport", "carrier-pigeon"], "");
    assert!(done.code == 2 && done.stderr.contains("portable"), "{}", done.stderr);
    let _: Value = serde_json::from_str(&tool::run("vb-fire", &["--schema"], "").stdout).unwrap();
}

/// As in a small container. A server without TLS needs no certificates.
#[test]
fn a_system_without_certificates_reaches_plain_servers() {
    let sim = Sim::start(&[]);
    let empty = folder("no-certificates");
    let environment = [("SSL_CERT_FILE", "/dev/null"), ("SSL_CERT_DIR", empty.to_str().unwrap())];
    let run = |program: &str, args: &[&str], input: &str| tool::run_with(program, args, input, &environment);
    let made = run("vb-gen", &["--tokenizer", "server", "--base-url", &sim.url, "--num-prompts", "2"], "");
    assert_eq!(made.code, 0, "{}", made.stderr);
    for transport in ["stamped", "portable"] {
        let sent = run("vb-fire", &["--base-url", &sim.url, "--transport", transport], &made.stdout);
        assert_eq!(sent.code, 0, "{transport}: {}", sent.stderr);
    }
    let encrypted = run("vb-fire", &["--base-url", "https://127.0.0.1:1", "--transport", "portable"], &made.stdout);
    assert!(encrypted.code != 0 && encrypted.stderr.contains("certificates"), "{}", encrypted.stderr);
}

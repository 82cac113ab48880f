//! How a response may be framed, and how it may end, with the `vb-fire` binary against a server that follows a script.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::Stdio,
    thread,
    time::Duration,
};

use nix::{
    libc,
    sys::socket::{setsockopt, sockopt},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    fire::records,
    tool::{Done, command, done, folder, run},
};

/// Starts a server that gives each POST to `serve` with its body, and answers each GET with `models`.
fn scripted(models: &str, serve: impl Fn(&str, &mut TcpStream) + Send + Sync + Copy + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let models = models.to_owned();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let models = models.clone();
            thread::spawn(move || {
                let (head, body) = read_request(&mut stream);
                if head.starts_with("GET") {
                    let _ = stream.write_all(models.as_bytes());
                } else if !head.is_empty() {
                    serve(&body, &mut stream);
                }
            });
        }
    });
    url
}

/// Reads a request: its head and its body.
fn read_request(stream: &mut TcpStream) -> (String, String) {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap_or(0) > 0 {
        if let Some(value) = head.lines().last().and_then(|line| line.strip_prefix("content-length: ")) {
            length = value.parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    let _ = reader.read_exact(&mut body);
    (head, String::from_utf8_lossy(&body).into_owned())
}

fn whole_response(status: &str, media: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {media}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

const NO_MODELS: &str = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

fn fire(url: &str, args: &[&str], input: &str) -> Done {
    run("vb-fire", &[&["--base-url", url, "--model", "m", "--endpoint", "/x"], args].concat(), input)
}

fn outputs(done: &Done) -> Vec<Value> {
    records(&done.stdout).1
}

/// The text of an API's stream without its end: a chunk, and the beginning of a second one.
fn begun_stream(backend: &str) -> (String, String) {
    let (first, second) = match backend {
        "openai" => (r#"{"choices":[{"index":0,"text":"a"}]}"#, r#"{"choices":[{"index":0,"text":" b""#),
        "openai-chat" | "openai-audio" => {
            (r#"{"choices":[{"index":0,"delta":{"content":"a"}}]}"#, r#"{"choices":[{"index":0,"delta":{"con"#)
        }
        "openai-responses" => (r#"{"type":"response.output_text.delta","delta":"a"}"#, r#"{"type":"response.outp"#),
        "anthropic" => (r#"{"type":"content_block_delta","delta":{"text":"a"}}"#, r#"{"type":"content_block_"#),
        "tgi" => (r#"{"token":{"text":"a"}}"#, r#"{"token":{"text":" b"#),
        "sglang" => (r#"{"text":"a","meta_info":{"completion_tokens":1}}"#, r#"{"text":"a b","meta_"#),
        "tensorrt-llm" => (r#"{"text_output":"a"}"#, r#"{"text_output":" b"#),
        _ => (r#"{"message":{"content":"a"},"text":"a"}"#, r#"{"message":{"content":" b"},"te"#),
    };
    if matches!(backend, "ollama" | "lines") {
        (format!("{first}\n"), second.into())
    } else {
        (format!("data: {first}\n\n"), format!("data: {second}"))
    }
}

/// Ends a response as the prompt asks; the body has the name of the stream.
fn end_response(body: &str, stream: &mut TcpStream) {
    let asked = |word: &str| body.contains(word);
    let names =
        ["openai-chat", "openai-audio", "openai-responses", "anthropic", "tgi", "sglang", "tensorrt-llm", "ollama"];
    let names = names.into_iter().chain(["events", "lines", "openai"]);
    let (first, second) = begun_stream(names.into_iter().find(|name| asked(&format!("<{name}>"))).unwrap());
    let second = if asked("whole") { String::new() } else { second };
    let unframed = asked("unframed");
    let framing = if unframed { "connection: close" } else { "transfer-encoding: chunked" };
    let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n{framing}\r\n\r\n").as_bytes());
    for part in [first, second].iter().filter(|part| !part.is_empty()) {
        let part = if unframed { part.clone() } else { format!("{:x}\r\n{part}\r\n", part.len()) };
        let _ = stream.write_all(part.as_bytes());
        thread::sleep(Duration::from_millis(30));
    }
    if asked("stall") {
        // Until the client closes the connection.
        let _ = stream.read(&mut [0; 1]);
    } else if asked("reset") {
        setsockopt(stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).unwrap();
    } else if asked("proper") {
        let _ = stream.write_all(b"0\r\n\r\n");
    }
}

/// The requests' prompt, in the form that the backend takes.
fn prompt_line(backend: &str, stream: &str, ending: &str) -> String {
    let sound = r#""multi_modal_data":{"input_audio":{"data":"UklGRg==","format":"wav"}},"#;
    let sound = if backend == "openai-audio" { sound } else { "" };
    format!("{{\"request_id\":\"{ending}\",{sound}\"prompt\":\"x\",\"body\":{{\"user\":\"<{stream}> {ending}\"}}}}\n")
}

/// Each backend with the arguments that select it; templates have neither `finish` nor `done`.
fn every_stream(folder: &std::path::Path) -> Vec<(&'static str, &'static str, Vec<String>)> {
    let mut all: Vec<_> = [
        "openai",
        "openai-chat",
        "openai-responses",
        "anthropic",
        "tgi",
        "sglang",
        "tensorrt-llm",
        "ollama",
        "openai-audio",
    ]
    .map(|backend| (backend, backend, vec![]))
    .into();
    for stream in ["events", "lines"] {
        let file = folder.join(format!("{stream}.yaml"));
        fs::write(&file, format!("endpoint: /x\nbody: '{{}}'\nstream: {stream}\ntext: /text\n")).unwrap();
        all.push((stream, "template", vec!["--template".into(), file.display().to_string()]));
    }
    all
}

#[test]
fn a_response_cut_within_a_chunk_is_reported_as_what_ended_it() {
    let folder = folder("reading-endings");
    let url = scripted(NO_MODELS, end_response);
    thread::scope(|scope| {
        for transport in ["stamped", "portable"] {
            scope.spawn(|| every_stream(&folder).iter().for_each(|stream| check_endings(&url, transport, stream)));
        }
    });
}

fn check_endings(url: &str, transport: &str, (stream, backend, own): &(&str, &str, Vec<String>)) {
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let args = [&["--backend", backend, "--transport", transport, "--timeout-stall", "700ms"][..], &own].concat();
    // Neither the API nor HTTP marks the end of the last.
    let unmarked = matches!(*stream, "tensorrt-llm" | "events" | "lines");
    let cases = [
        ("stall", "timeout_stall"),
        ("reset", "reset"),
        ("close", "truncated"),
        ("close unframed", "truncated"),
        ("proper", "truncated"),
        ("close unframed whole", "truncated"),
        ("proper whole", if unmarked { "" } else { "truncated" }),
    ];
    let input: String = cases.iter().map(|(ending, _)| prompt_line(backend, stream, ending)).collect();
    let done = fire(url, &args, &input);
    let outputs = outputs(&done);
    assert_eq!(outputs.len(), cases.len(), "{transport} {stream}: {done:?}");
    for (ending, want) in cases {
        let output = outputs.iter().find(|output| output["request_id"] == ending).unwrap();
        let kind = output["error_kind"].as_str().unwrap_or_default();
        assert_eq!(kind, want, "{transport} {stream} {ending}: {output}");
        assert_eq!(output["generated_text"], "a", "{transport} {stream} {ending}: {output}");
    }
    let cancel = ["--cancel-rate", "1", "--cancel-after", "300ms"];
    let done = fire(url, &[&args[..], &cancel].concat(), &prompt_line(backend, stream, "stall"));
    assert_eq!(self::outputs(&done)[0]["error_kind"], "abandoned", "{transport} {stream}: {done:?}");
}

#[test]
fn a_stopped_run_cancels_lines_that_have_not_ended() {
    let folder = folder("reading-stopped");
    let url = scripted(NO_MODELS, end_response);
    for (stream, backend, own) in
        every_stream(&folder).into_iter().filter(|(stream, ..)| matches!(*stream, "ollama" | "lines"))
    {
        let mut child = command("vb-fire")
            .args(["--base-url", &url, "--model", "m", "--endpoint", "/x", "--backend", backend, "--grace", "0s"])
            .args(own)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(prompt_line(backend, stream, "stall").as_bytes()).unwrap();
        drop(stdin);
        thread::sleep(Duration::from_millis(500));
        kill_process(Pid::from_child(&child), Signal::INT).unwrap();
        let done = done(child.wait_with_output().unwrap());
        assert_eq!(outputs(&done)[0]["error_kind"], "cancelled", "{stream}: {done:?}");
    }
}

const CHAT: [&str; 3] = [
    r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":"a"}}]}"#,
    r#"{"choices":[{"index":0,"delta":{"content":" b"}}]}"#,
    r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":2,"completion_tokens":2}}"#,
];

/// Answers with what the prompt asks for: `STATUS MEDIA BODY`, where `|` begins a line.
fn answer_asked(body: &str, stream: &mut TcpStream) {
    let value: Value = serde_json::from_str(body).unwrap();
    let [status, media, text] = ["status", "media", "text"].map(|key| value[key].as_str().unwrap());
    let _ = stream.write_all(whole_response(status, media, text).as_bytes());
}

fn ask(status: &str, media: &str, text: &str) -> String {
    json!({"prompt": "hi", "body": {"status": status, "media": media, "text": text}}).to_string() + "\n"
}

#[test]
fn a_body_is_what_it_begins_with() {
    let url = scripted(NO_MODELS, answer_asked);
    let events = CHAT.map(|chunk| format!("data: {chunk}\n\n")).concat();
    let lines = CHAT.map(|chunk| format!("{chunk}\n")).concat();
    let media =
        ["text/event-stream", "application/json", "text/plain; charset=utf-8", "text/html", "application/x-ndjson", ""];
    for transport in ["stamped", "portable"] {
        for status in ["200 OK", "201 Created", "202 Accepted"] {
            let input: String =
                media.iter().flat_map(|media| [&events, &lines].map(|body| ask(status, media, body))).collect();
            let done = fire(&url, &["--backend", "openai-chat", "--transport", transport], &input);
            for output in outputs(&done) {
                let read = (&output["success"], &output["generated_text"], &output["output_tokens"]);
                assert_eq!(read, (&json!(true), &json!("a b"), &json!(2)), "{transport} {status}: {output}");
                assert_eq!(output["itl"].as_array().unwrap().len(), 1, "{output}");
            }
        }
    }
    let ollama = "{\"message\":{\"content\":\"a\"},\"done\":false}\n{\"message\":{\"content\":null},\"done\":true}\n";
    let framed = ollama.lines().map(|line| format!("data: {line}\n\n")).collect::<Vec<_>>().concat();
    for body in [ollama, &framed, ollama.trim_end()] {
        let done = fire(&url, &["--backend", "ollama"], &ask("200 OK", "text/event-stream", body));
        assert_eq!(outputs(&done)[0]["generated_text"], "a", "{done:?}");
        assert_eq!(done.code, 0, "{done:?}");
    }
}

#[test]
fn a_body_of_another_format_is_reported_with_the_cure() {
    let url = scripted(NO_MODELS, answer_asked);
    let whole =
        r#"{"object":"chat.completion","choices":[{"index":0,"message":{"content":"a b"},"finish_reason":"stop"}]}"#;
    let pretty = serde_json::to_string_pretty(&serde_json::from_str::<Value>(whole).unwrap()).unwrap();
    let events = CHAT.map(|chunk| format!("data: {chunk}\n\n")).concat();
    let page = "<html><head><title>Welcome to the gateway</title></head><body><h1>Welcome</h1></body></html>";
    for (args, body, message, cure) in [
        (&[][..], whole, "the server answered JSON, not an event stream: ", "use --no-stream"),
        (&[], &pretty, "the server answered JSON, not an event stream: ", "use --no-stream"),
        (&[], &format!("{whole}\n"), "the server answered JSON, not an event stream: ", "use --no-stream"),
        (&[], page, "the response is not an event stream: Welcome to the gateway", "is --endpoint its path?"),
        (&["--no-stream"], &events, "the server answered an event stream, not JSON: ", "leave --no-stream out"),
        (&["--no-stream"], page, "Welcome to the gateway", "is --endpoint its path?"),
    ] {
        let done =
            fire(&url, &[&["--backend", "openai-chat"], args].concat(), &ask("200 OK", "text/event-stream", body));
        let output = &outputs(&done)[0];
        assert_eq!((&output["success"], &output["error_kind"]), (&json!(false), &json!("protocol")), "{output}");
        assert!(output["error"].as_str().unwrap().contains(message), "{output}");
        assert!(done.stderr.contains(cure), "{done:?}");
    }
}

#[test]
fn errors_keep_their_words_in_every_form() {
    let url = scripted(NO_MODELS, answer_asked);
    let long = "x".repeat(3000);
    let nginx = |status: &str| {
        format!(
            "<html>\r\n<head><title>{status}</title></head>\r\n<body>\r\n<center><h1>{status}</h1></center>\r\n\
             <hr><center>nginx/1.24.0</center>\r\n</body>\r\n</html>\r\n"
        )
    };
    for (status, body, want) in [
        ("502 Bad Gateway", nginx("502 Bad Gateway"), "HTTP 502 Bad Gateway"),
        (
            "413 Payload Too Large",
            nginx("413 Request Entity Too Large"),
            "HTTP 413 Payload Too Large: Request Entity Too Large",
        ),
        ("500 Internal Server Error", "Internal Server Error".into(), "HTTP 500 Internal Server Error"),
        ("404 Not Found", r#"{"message":"Model not found","code":404}"#.into(), "HTTP 404 Not Found: Model not found"),
        (
            "400 Bad Request",
            "data: {\"error\":{\"message\":\"no\"}}\n\ndata: [DONE]\n\n".into(),
            "HTTP 400 Bad Request: no",
        ),
        (
            "422 Unprocessable Entity",
            r#"{"detail":[{"loc":["body","model"],"msg":"Field required"}]}"#.into(),
            "HTTP 422 Unprocessable Entity: body.model: Field required",
        ),
        (
            "429 Too Many Requests",
            json!({"error": {"message": long}}).to_string(),
            &format!("HTTP 429 Too Many Requests: {long}"),
        ),
        ("200 OK", r#"{"base_resp":{"status_code":1004,"status_msg":"login fail"}}"#.into(), "login fail (code 1004)"),
    ] {
        for args in [&[][..], &["--no-stream"]] {
            let done = fire(&url, &[&["--backend", "openai-chat"], args].concat(), &ask(status, "text/html", &body));
            let output = &outputs(&done)[0];
            let error = output["error"].as_str().unwrap();
            assert!(error == want || status == "200 OK" && error.ends_with(want), "{error}");
            assert_eq!(output["success"], false, "{output}");
        }
    }
}

#[test]
fn a_list_of_models_may_have_any_form_or_be_missing() {
    let serve: fn(&str, &mut TcpStream) = |body, stream| {
        let text = CHAT.map(|chunk| format!("data: {chunk}\n\n")).concat();
        let text =
            text.replace("\"a\"", &format!("\"{}\"", if body.contains("\"first\"") { "first" } else { "named" }));
        let _ = stream.write_all(whole_response("200 OK", "", &text).as_bytes());
    };
    let list = |body: &str| whole_response("200 OK", "application/json", body);
    let internal = whole_response("500 Internal Server Error", "text/plain", "Internal Server Error");
    for (models, missing) in [
        (list(r#"[{"id":"first"}]"#), ""),
        (list(r#"{"models":[{"name":"first"}]}"#), ""),
        (list(r#"{"data":null}"#), "its `data` is null"),
        (internal, "HTTP 500 Internal Server Error"),
        (NO_MODELS.to_owned(), "HTTP 404 Not Found"),
    ] {
        let url = scripted(&models, serve);
        let args = ["--base-url", &url, "--backend", "openai-chat", "--ready-check", "20s"];
        let named = run("vb-fire", &[&args[..], &["--model", "m"]].concat(), "{\"prompt\":\"hi\"}\n");
        assert_eq!(outputs(&named)[0]["generated_text"], "named b", "{models}: {named:?}");
        let done = run("vb-fire", &args, "{\"prompt\":\"hi\"}\n");
        if missing.is_empty() {
            assert_eq!(outputs(&done)[0]["generated_text"], "first b", "{models}: {done:?}");
        } else {
            let want = format!("/v1/models lists no model ({missing}): use --model");
            assert!(done.code == 2 && done.stderr.contains(&want), "{models}: {done:?}");
        }
    }
}

#[test]
fn a_refused_key_that_was_added_can_be_left_out() {
    let serve: fn(&str, &mut TcpStream) = |body, stream| {
        let value: Value = serde_json::from_str(body).unwrap();
        let added = ["ignore_eos", "stream_options", "max_completion_tokens"];
        let response = match added.iter().find(|key| value.get(**key).is_some()) {
            Some(key) => {
                let text = json!({"detail": format!("Unexpected fields in the request: {{'{key}'}}")}).to_string();
                whole_response("422 Unprocessable Entity", "application/json", &text)
            }
            None => whole_response("200 OK", "", &CHAT.map(|chunk| format!("data: {chunk}\n\n")).concat()),
        };
        let _ = stream.write_all(response.as_bytes());
    };
    let url = scripted(NO_MODELS, serve);
    let line = "{\"prompt\":\"hi\",\"expected_output_len\":2,\"body\":{\"ignore_eos\":true}}\n";
    let mut extra = json!({});
    for key in ["ignore_eos", "stream_options", "max_completion_tokens"] {
        let done = fire(&url, &["--backend", "openai-chat", "--extra-body", &extra.to_string()], line);
        let cure = format!("--extra-body '{{\"{key}\": null}}' leaves `{key}` out");
        assert!(done.stderr.contains(&cure), "{key}: {done:?}");
        extra[key] = Value::Null;
    }
    let done = fire(&url, &["--backend", "openai-chat", "--extra-body", &extra.to_string()], line);
    assert_eq!(done.code, 0, "{done:?}");
}

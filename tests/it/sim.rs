//! Tests the `vb-sim` binary through raw sockets: every byte, and how each connection ends.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::pki_types::{CertificateDer, pem::PemObject};
use serde_json::{Value, json};
use vb::sim::FaultKind;

use crate::tool::{self, Sim, data, truths};

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Closed by the server.
    Closed,
    /// Reset by the server.
    Reset,
    /// Still open, without more data.
    Open,
}

/// The response on a connection, and how the connection ended.
#[derive(Debug)]
struct RawResponse {
    head: String,
    /// The received part of the body, without chunk framing.
    body: String,
    /// Whether the body is complete by its framing.
    complete: bool,
    /// Whether the framing is broken.
    broken: bool,
    end: End,
}

impl RawResponse {
    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap_or("0").parse().unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The data of the server-sent events.
    fn event_data(&self) -> Vec<String> {
        let text = self.body.replace("\r\n", "\n");
        let event = |block: &str| {
            let lines = block.lines().filter_map(|l| l.strip_prefix("data:"));
            let lines: Vec<_> = lines.map(|l| l.strip_prefix(' ').unwrap_or(l)).collect();
            (!lines.is_empty()).then(|| lines.join("\n"))
        };
        text.split_terminator("\n\n").filter_map(event).collect()
    }

    fn json_events(&self) -> Vec<Value> {
        let data = self.event_data();
        let events = data.iter().filter(|d| *d != "[DONE]");
        events.map(|d| serde_json::from_str(d).unwrap_or_else(|e| panic!("{e}: {d}"))).collect()
    }

    fn is_done(&self) -> bool {
        self.event_data().last().is_some_and(|d| d == "[DONE]")
    }

    /// The non-empty texts of the events at this JSON pointer.
    fn texts_at(&self, pointer: &str) -> Vec<String> {
        let text = |event: &Value| event.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        self.json_events().iter().filter_map(text).filter(|t| !t.is_empty()).collect()
    }

    fn finish_reason(&self) -> Option<String> {
        let reason = |e: &Value| e["choices"][0]["finish_reason"].as_str().map(str::to_owned);
        self.json_events().iter().find_map(reason)
    }
}

fn address(url: &str) -> &str {
    url.split("//").nth(1).unwrap()
}

fn connect(sim: &Sim) -> TcpStream {
    let socket = TcpStream::connect(address(&sim.url)).unwrap();
    // Long enough that only a server that hangs on purpose reaches it.
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
}

fn request_text(method: &str, path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nhost: sim\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n{headers}\r\n{body}"
    )
}

/// Sends a request on a new connection and reads until the connection ends.
fn send(sim: &Sim, method: &str, path: &str, headers: &str, body: &str) -> RawResponse {
    let mut socket = connect(sim);
    socket.write_all(request_text(method, path, headers, body).as_bytes()).unwrap();
    read_response(socket)
}

fn post(sim: &Sim, path: &str, body: &Value) -> RawResponse {
    send(sim, "POST", path, "", &body.to_string())
}

fn get(sim: &Sim, path: &str) -> RawResponse {
    send(sim, "GET", path, "", "")
}

fn read_response(mut stream: impl Read) -> RawResponse {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    let end = loop {
        match stream.read(&mut buffer) {
            Ok(0) => break End::Closed,
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => break End::Reset,
            // TLS reports this if the connection is closed without `close_notify`.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break End::Closed,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => break End::Open,
            Err(e) => panic!("{e}"),
        }
    };
    let split = bytes.windows(4).position(|w| w == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
    let (head, framed_body) = bytes.split_at(split);
    let head = String::from_utf8(head.to_vec()).unwrap().to_ascii_lowercase();
    let (body, complete, broken) = if head.contains("transfer-encoding: chunked") {
        decode_chunks(framed_body)
    } else {
        (framed_body.to_vec(), true, false)
    };
    RawResponse { head, body: String::from_utf8(body).unwrap(), complete, broken, end }
}

/// The body, whether it is complete, and whether its framing is broken.
fn decode_chunks(mut bytes: &[u8]) -> (Vec<u8>, bool, bool) {
    let mut body = Vec::new();
    loop {
        let Some(line) = bytes.windows(2).position(|w| w == b"\r\n") else { return (body, false, false) };
        let size = std::str::from_utf8(&bytes[..line]).ok().and_then(|s| usize::from_str_radix(s, 16).ok());
        let Some(size) = size else { return (body, false, true) };
        bytes = &bytes[line + 2..];
        if size == 0 {
            return (body, true, false);
        }
        if bytes.len() < size + 2 {
            return (body, false, false);
        }
        body.extend_from_slice(&bytes[..size]);
        bytes = &bytes[size + 2..];
    }
}

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

/// A request for a stream of exactly eight tokens and the usage.
fn eight_tokens(chat: bool) -> Value {
    let mut body = json!({"model": "tiny", "max_tokens": 8, "ignore_eos": true, "stream": true,
        "stream_options": {"include_usage": true}});
    if chat {
        body["messages"] = json!([{"role": "user", "content": "Shall I compare thee"}]);
    } else {
        body["prompt"] = json!("Shall I compare thee");
    }
    body
}

fn post_with_fault(sim: &Sim, chat: bool, fault: &str) -> RawResponse {
    let mut body = eight_tokens(chat);
    body["vb_fault"] = json!(fault);
    post(sim, if chat { CHAT } else { COMPLETIONS }, &body)
}

const TEXT: &str = "/choices/0/text";
const CONTENT: &str = "/choices/0/delta/content";

#[test]
fn it_prints_its_url_and_exits_with_0_when_stopped() {
    let sim = Sim::start(&[]);
    assert!(sim.url.starts_with("http://127.0.0.1:"), "{}", sim.url);
    assert_eq!(get(&sim, "/health").status(), 200);
    let done = sim.stop();
    assert_eq!((done.code, done.stdout.as_str(), done.stderr.as_str()), (0, "", ""));
}

#[test]
fn a_port_in_use_is_reported_with_its_cure() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let done = tool::run("vb-sim", &["--port", &port], "");
    assert_eq!((done.code, done.stdout.as_str()), (4, ""));
    assert!(done.stderr.contains("in use: choose another port with --port"), "{}", done.stderr);
}

#[test]
fn invalid_options_are_rejected() {
    for (args, what) in [
        (vec!["--fault", "flood"], "no fault is called `flood`"),
        (vec!["--profile", "gpt-9"], "llama3.1-8b-h100"),
        (vec!["--num-gpu-blocks", "3"], "--max-model-len"),
        (vec!["--num-gpu-blocks", "4g", "--max-model-len", "4g"], "more than any server has"),
        (vec!["--tls-cert", "x.pem"], "must be given together"),
        (vec!["--tls-cert", "/nowhere/x.pem", "--tls-key", "/nowhere/y.pem"], "/nowhere/x.pem"),
        (vec!["--step-base", "fast"], "not a duration"),
    ] {
        let done = tool::run("vb-sim", &[vec!["--port", "0"], args.clone()].concat(), "");
        assert_eq!((done.code, done.stdout.as_str()), (2, ""), "{args:?}");
        assert!(done.stderr.contains(what), "{}", done.stderr);
    }
}

#[test]
fn a_truth_log_that_cannot_be_written_is_reported_before_serving() {
    let done = tool::run("vb-sim", &["--port", "0", "--truth-log", "/nowhere/truth.ndjson"], "");
    assert_eq!((done.code, done.stdout.as_str()), (4, ""));
    assert!(done.stderr.contains("cannot write /nowhere/truth.ndjson"), "{}", done.stderr);
}

#[test]
fn a_config_sets_flags() {
    let config = tool::folder("sim-config").join("config.yaml");
    std::fs::write(&config, "served_model_name: [big, small]\nfault: status_503\nseed: 7\n").unwrap();
    let sim = Sim::start(&["--config", config.to_str().unwrap()]);
    let models = get(&sim, "/v1/models").json();
    assert_eq!((&models["data"][0]["id"], &models["data"][1]["id"]), (&json!("big"), &json!("small")));
    assert_eq!(post(&sim, COMPLETIONS, &json!({"model": "small", "prompt": "a"})).status(), 503);
}

#[test]
fn a_completion_stream_has_every_token_the_usage_and_done() {
    let sim = Sim::start(&[]);
    let response = post(&sim, COMPLETIONS, &eight_tokens(false));
    assert_eq!((response.status(), response.complete, response.end), (200, true, End::Closed));
    assert!(response.head.contains("content-type: text/event-stream; charset=utf-8"));
    assert_eq!(
        (response.texts_at(TEXT).len(), response.finish_reason().as_deref(), response.is_done()),
        (8, Some("length"), true)
    );
    let events = response.json_events();
    assert_eq!(events.len(), 9);
    assert_eq!(events[8]["choices"], json!([]));
    assert_eq!(events[8]["usage"], json!({"prompt_tokens": 4, "total_tokens": 12, "completion_tokens": 8}));
    // Tokenizing the text again gives the same tokens.
    let recount = post(&sim, "/tokenize", &json!({"prompt": response.texts_at(TEXT).concat()})).json();
    assert_eq!(recount["count"], 8);
}

#[test]
fn a_chat_stream_opens_with_the_role_and_has_ids_and_usage_on_request() {
    let sim = Sim::start(&[]);
    let mut body = eight_tokens(true);
    body["return_token_ids"] = json!(true);
    body["stream_options"]["continuous_usage_stats"] = json!(true);
    let response = post(&sim, CHAT, &body);
    let events = response.json_events();
    assert_eq!(events.len(), 10);
    assert_eq!(events[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let prompt = events[0]["prompt_token_ids"].as_array().unwrap().len();
    for (place, event) in events[1..9].iter().enumerate() {
        assert_eq!(event["choices"][0]["token_ids"].as_array().unwrap().len(), 1);
        assert_eq!(event["usage"]["completion_tokens"], place + 1);
        assert_eq!(event["usage"]["prompt_tokens"], prompt);
    }
    assert_eq!((response.texts_at(CONTENT).len(), response.is_done()), (8, true));
}

#[test]
fn a_non_streaming_response_has_the_content_of_a_stream() {
    let sim = Sim::start(&[]);
    for (chat, path, full_text, chunk_text) in
        [(false, COMPLETIONS, TEXT, TEXT), (true, CHAT, "/choices/0/message/content", CONTENT)]
    {
        let mut body = eight_tokens(chat);
        let streamed = post(&sim, path, &body).texts_at(chunk_text).concat();
        body.as_object_mut().unwrap().retain(|key, _| !key.starts_with("stream"));
        let response = post(&sim, path, &body).json();
        assert_eq!(response.pointer(full_text).unwrap(), &json!(streamed));
        assert_eq!(
            (&response["usage"]["completion_tokens"], &response["choices"][0]["finish_reason"]),
            (&json!(8), &json!("length"))
        );
    }
}

#[test]
fn an_output_that_stops_is_shorter_and_its_last_token_has_no_text() {
    let sim = Sim::start(&[]);
    let mut body = eight_tokens(false);
    body["ignore_eos"] = json!(false);
    body["max_tokens"] = json!(40);
    let response = post(&sim, COMPLETIONS, &body);
    let usage = response.json_events().last().unwrap()["usage"]["completion_tokens"].as_u64().unwrap();
    assert!((1..=40).contains(&usage));
    assert_eq!((response.finish_reason().as_deref(), response.texts_at(TEXT).len() as u64), (Some("stop"), usage - 1));
}

#[test]
fn the_same_seed_gives_the_same_outputs_in_every_process() {
    let output = |seed: &str| post(&Sim::start(&["--seed", seed]), COMPLETIONS, &eight_tokens(false)).texts_at(TEXT);
    assert_eq!(output("1"), output("1"));
    assert_ne!(output("1"), output("2"));
}

#[test]
fn errors_have_the_status_and_format_of_vllm() {
    let sim = Sim::start(&["--max-model-len", "64"]);
    assert_eq!(get(&sim, "/nope").json(), json!({"detail": "Not Found"}));
    let wrong = get(&sim, COMPLETIONS);
    assert_eq!((wrong.status(), wrong.json()), (405, json!({"detail": "Method Not Allowed"})));
    assert!(wrong.head.contains("allow: post"));
    for (body, status, start) in [
        (json!({"model": "nope", "prompt": "a"}), 404, "The model `nope` does not exist."),
        (json!({"prompt": vec![1; 100]}), 400, "This model's maximum context length is 64 tokens."),
        (json!({"prompt": "a", "max_tokens": 65}), 400, "max_tokens=65 cannot be greater than max_model_len=64."),
    ] {
        let response = post(&sim, COMPLETIONS, &body);
        assert_eq!(response.status(), status);
        let error = &response.json()["error"];
        assert!(error["message"].as_str().unwrap().starts_with(start), "{error}");
        assert_eq!(error["code"], status);
    }
    assert_eq!(send(&sim, "POST", COMPLETIONS, "", "{bad").status(), 400);
}

#[test]
fn an_api_key_is_required_where_vllm_requires_it() {
    let sim = Sim::start(&["--api-key", "secret"]);
    let body = json!({"prompt": "a", "max_tokens": 1}).to_string();
    let with = |headers: &str| send(&sim, "POST", COMPLETIONS, headers, &body).status();
    assert_eq!(with("authorization: Bearer secret\r\n"), 200);
    assert_eq!((with(""), with("authorization: Bearer wrong\r\n")), (401, 401));
    assert_eq!(get(&sim, "/v1/models").json(), json!({"error": "Unauthorized"}));
    assert_eq!(get(&sim, "/health").status(), 200);
}

#[test]
fn text_is_tokenized_and_detokenized() {
    let sim = Sim::start(&[]);
    let there = post(&sim, "/tokenize", &json!({"prompt": "naïve 你好", "return_token_strs": true})).json();
    assert_eq!(there["count"], there["token_strs"].as_array().unwrap().len());
    let back = post(&sim, "/detokenize", &json!({"tokens": there["tokens"]})).json();
    assert_eq!(back, json!({"prompt": "naïve 你好"}));
    let chat = post(&sim, "/tokenize", &json!({"messages": [{"role": "user", "content": "hi"}]})).json();
    let text = post(&sim, "/detokenize", &json!({"tokens": chat["tokens"]})).json();
    assert_eq!(text, json!({"prompt": "user: hi\nassistant:"}));
    assert_eq!(post(&sim, "/tokenize", &json!({})).status(), 400);
}

#[test]
fn the_prefix_cache_shows_in_usage_and_metrics_until_it_is_reset() {
    let sim = Sim::start(&["--block-size", "4"]);
    let body = json!({"prompt": (1..=10).collect::<Vec<_>>(), "max_tokens": 2, "ignore_eos": true});
    let cached = || post(&sim, COMPLETIONS, &body).json()["usage"]["prompt_tokens_details"].clone();
    assert_eq!(cached(), Value::Null);
    assert_eq!(cached(), json!({"cached_tokens": 8}));
    assert_eq!(post(&sim, "/reset_prefix_cache", &json!({})).json(), json!({"success": true}));
    assert_eq!(cached(), Value::Null);
    let metrics = get(&sim, "/metrics").body;
    for line in [
        r#"vllm:prefix_cache_queries_total{engine="0",model_name="tiny"} 30.0"#,
        r#"vllm:prefix_cache_hits_total{engine="0",model_name="tiny"} 8.0"#,
        r#"vllm:prompt_tokens_total{engine="0",model_name="tiny"} 30.0"#,
        r#"vllm:generation_tokens_total{engine="0",model_name="tiny"} 6.0"#,
        r#"vllm:request_success_total{engine="0",finished_reason="length",model_name="tiny"} 3.0"#,
        r#"vllm:inter_token_latency_seconds_count{engine="0",model_name="tiny"} 3.0"#,
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line}\n{metrics}");
    }
}

#[test]
fn the_next_turn_of_a_chat_hits_the_cache_including_the_output() {
    let sim = Sim::start(&["--block-size", "4"]);
    let mut body = eight_tokens(true);
    let output = post(&sim, CHAT, &body).texts_at(CONTENT).concat();
    let messages = body["messages"].as_array_mut().unwrap();
    messages.push(json!({"role": "assistant", "content": output}));
    messages.push(json!({"role": "user", "content": "more"}));
    let usage = post(&sim, CHAT, &body).json_events().last().unwrap()["usage"].clone();
    let first = post(&sim, "/tokenize", &eight_tokens(true)).json()["count"].as_u64().unwrap();
    // Full blocks of the first turn, without its last token: it was generated and never computed.
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], (first + 7) / 4 * 4);
}

#[test]
fn a_canceled_request_is_removed_from_the_engine() {
    let sim = Sim::start(&[]);
    for stream in [true, false] {
        let mut socket = connect(&sim);
        let body = json!({"prompt": "a", "max_tokens": 30_000, "ignore_eos": true, "stream": stream}).to_string();
        socket.write_all(request_text("POST", COMPLETIONS, "", &body).as_bytes()).unwrap();
        while !get(&sim, "/metrics").body.contains(r#"num_requests_running{engine="0",model_name="tiny"} 1.0"#) {}
        socket.shutdown(Shutdown::Both).unwrap();
        while !get(&sim, "/metrics").body.contains(r#"num_requests_running{engine="0",model_name="tiny"} 0.0"#) {}
    }
    assert!(get(&sim, "/metrics").body.contains(r#"finished_reason="abort",model_name="tiny"} 2.0"#));
}

#[test]
fn the_truth_log_has_a_line_for_each_request_and_no_token_is_early() {
    let log = tool::folder("sim-truth").join("truth.ndjson");
    let sim =
        Sim::start(&["--truth-log", log.to_str().unwrap(), "--step-base", "4ms", "--step-per-prefill-token", "1ms"]);
    let mut socket = connect(&sim);
    // Two requests on one connection, so that a line must be written before the connection ends.
    for name in ["first", "second"] {
        let body = eight_tokens(false).to_string();
        let text = request_text("POST", COMPLETIONS, &format!("x-request-id: {name}\r\n"), &body);
        let text = if name == "first" { text.replace("connection: close\r\n", "") } else { text };
        socket.write_all(text.as_bytes()).unwrap();
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).ends_with("0\r\n\r\n") {
            let mut buffer = [0; 4096];
            let n = socket.read(&mut buffer).unwrap();
            seen.extend_from_slice(&buffer[..n]);
        }
    }
    send(&sim, "POST", COMPLETIONS, "x-request-id: third\r\n", r#"{"prompt":"a","max_tokens":3,"ignore_eos":true}"#);
    send(&sim, "POST", COMPLETIONS, "x-request-id: fourth\r\n", r#"{"prompt":""}"#);
    // A request that is in flight when the server stops.
    let mut open = connect(&sim);
    let body = json!({"prompt": "a", "max_tokens": 30_000, "ignore_eos": true, "stream": true}).to_string();
    open.write_all(request_text("POST", COMPLETIONS, "x-request-id: fifth\r\n", &body).as_bytes()).unwrap();
    open.read_exact(&mut [0; 600]).unwrap();
    assert_eq!(sim.stop().code, 0);

    let truths = truths(&log);
    let names: Vec<_> = truths.iter().map(|t| t.request_id.as_str()).collect();
    assert_eq!(names, ["first", "second", "third", "fourth", "fifth"]);
    for truth in &truths[..2] {
        assert_eq!((truth.tokens.as_slice(), truth.sent.len()), ([1; 8].as_slice(), 8));
        assert_eq!((truth.prompt_tokens, truth.output_tokens, truth.status), (4, 8, Some(200)));
        assert_eq!(truth.finish_reason.as_deref(), Some("length"));
        assert_eq!(truth.arrived.is_some(), cfg!(target_os = "linux"));
        assert!(truth.arrived.is_none_or(|arrived| arrived <= truth.received), "{truth:?}");
        for (place, sent) in truth.sent.iter().enumerate() {
            // One step with four prompt tokens, then one step for each token.
            let due = 4_000_000 + 4_000_000 * (place as u64 + 1);
            assert!(sent.since(truth.received).0 >= due, "{place}: {truth:?}");
        }
    }
    assert_eq!((truths[2].tokens.as_slice(), truths[2].sent.len()), ([3].as_slice(), 1));
    assert_eq!((truths[3].status, truths[3].output_tokens), (Some(400), 0));
    assert!(truths[4].finish_reason.is_none() && !truths[4].sent.is_empty());
}

#[test]
fn slow_headers_also_delay_the_engine() {
    let log = tool::folder("sim-slow").join("truth.ndjson");
    let sim = Sim::start(&["--truth-log", log.to_str().unwrap(), "--fault", "slow_headers@20"]);
    assert_eq!(post(&sim, COMPLETIONS, &eight_tokens(false)).texts_at(TEXT).len(), 8);
    sim.stop();
    let truth = &truths(&log)[0];
    assert_eq!(truth.fault.as_deref(), Some("slow_headers@20"));
    assert!(truth.sent[0].since(truth.received).0 >= 25_000_000, "20 ms, then a step of 5 ms: {truth:?}");
}

#[test]
fn tokens_per_chunk_groups_tokens() {
    let log = tool::folder("sim-chunks").join("truth.ndjson");
    let sim = Sim::start(&["--tokens-per-chunk", "3", "--truth-log", log.to_str().unwrap()]);
    let response = post(&sim, COMPLETIONS, &eight_tokens(false));
    assert_eq!(response.texts_at(TEXT).len(), 4);
    assert_eq!(response.json_events().last().unwrap()["usage"]["completion_tokens"], 8);
    sim.stop();
    assert_eq!(truths(&log)[0].tokens, [1, 3, 3, 1]);
}

#[test]
fn https_works_with_the_test_certificate() {
    let sim = Sim::start_tls(&[]);
    assert!(sim.url.starts_with("https://127.0.0.1:"));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(data("tls-ca.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    for name in ["localhost", "127.0.0.1"] {
        let client = rustls::ClientConnection::new(Arc::clone(&config), name.try_into().unwrap()).unwrap();
        let mut stream = rustls::StreamOwned::new(client, connect(&sim));
        stream.write_all(request_text("POST", COMPLETIONS, "", &eight_tokens(false).to_string()).as_bytes()).unwrap();
        let response = read_response(stream);
        assert_eq!((response.texts_at(TEXT).len(), response.is_done(), response.complete), (8, true, true));
    }
}

#[test]
fn faults_hit_their_share_and_always_the_same_requests() {
    let hit = || {
        let sim = Sim::start(&["--fault", "status_500:0.3", "no_done:0.3"]);
        let body = json!({"prompt": "a", "max_tokens": 1, "stream": true}).to_string();
        let one = |i| send(&sim, "POST", COMPLETIONS, &format!("x-request-id: r{i}\r\n"), &body);
        (0..40).map(one).map(|r| (r.status(), r.status() == 200 && r.is_done())).collect::<Vec<_>>()
    };
    let first = hit();
    for kind in [(500, false), (200, false), (200, true)] {
        let count = first.iter().filter(|one| **one == kind).count();
        assert!((3..30).contains(&count), "{kind:?}: {count}");
    }
    assert_eq!(first, hit());
}

#[test]
fn a_server_can_be_embedded() {
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (address_sender, address) = std::sync::mpsc::channel();
    let serving = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            address_sender.send(listener.local_addr().unwrap()).unwrap();
            let options =
                vb::sim::SimOptions { models: vec!["tiny".into()], tokens_per_chunk: 1, ..Default::default() };
            let server = vb::sim::PreparedServer::new(options).unwrap();
            server.serve_until(listener, async { drop(stopped.await) }).await.unwrap();
        });
    });
    let mut socket = TcpStream::connect(address.recv().unwrap()).unwrap();
    socket.write_all(request_text("POST", COMPLETIONS, "", &eight_tokens(false).to_string()).as_bytes()).unwrap();
    assert_eq!(read_response(socket).texts_at(TEXT).len(), 8);
    stop.send(()).unwrap();
    serving.join().unwrap();
}

/// Every fault has a match arm, so that a new one cannot be added without a test.
#[test]
fn each_fault_does_on_the_wire_what_the_manual_says() {
    let sim = Sim::start(&[]);
    for kind in FaultKind::ALL {
        check_fault(&sim, *kind);
    }
}

fn check_fault(sim: &Sim, kind: FaultKind) {
    let name = kind.name();
    match kind {
        FaultKind::NeverAnswer | FaultKind::Stall => check_hang(sim, kind),
        FaultKind::CloseBeforeHeaders | FaultKind::ResetBeforeHeaders => {
            let response = post_with_fault(sim, false, name);
            let end = if kind == FaultKind::CloseBeforeHeaders { End::Closed } else { End::Reset };
            assert_eq!((response.head.as_str(), response.end), ("", end), "{name}");
        }
        FaultKind::SlowHeaders => assert!(post_with_fault(sim, false, "slow_headers@20").is_done()),
        FaultKind::Status400
        | FaultKind::Status401
        | FaultKind::Status404
        | FaultKind::Status429
        | FaultKind::Status500
        | FaultKind::Status503 => {
            let response = post_with_fault(sim, true, name);
            assert_eq!(format!("status_{}", response.status()), name);
            let limited = matches!(kind, FaultKind::Status429 | FaultKind::Status503);
            assert_eq!(response.head.contains("retry-after: 1"), limited);
            assert!(!response.json()["error"].is_null());
        }
        FaultKind::Html500 | FaultKind::Html200 => {
            let response = post_with_fault(sim, false, name);
            assert_eq!(format!("html_{}", response.status()), name);
            assert!(response.head.contains("text/html") && response.body.starts_with("<html>"));
        }
        FaultKind::Reset | FaultKind::Cut | FaultKind::BadChunking => {
            for chat in [false, true] {
                let response = post_with_fault(sim, chat, &format!("{name}@2"));
                let end = if kind == FaultKind::Reset { End::Reset } else { End::Closed };
                assert_eq!(
                    (response.end, response.complete, response.broken),
                    (end, false, kind == FaultKind::BadChunking),
                    "{name}"
                );
                assert_eq!(response.texts_at(if chat { CONTENT } else { TEXT }).len(), 2, "{name}");
            }
        }
        _ => check_content(sim, kind),
    }
}

fn check_hang(sim: &Sim, kind: FaultKind) {
    let mut socket = connect(sim);
    let mut body = eight_tokens(false);
    body["vb_fault"] = json!(kind.name());
    socket.write_all(request_text("POST", COMPLETIONS, "", &body.to_string()).as_bytes()).unwrap();
    if kind == FaultKind::Stall {
        // Read up to the third token with the long timeout, for slow machines; only then set the short one.
        let mut seen = Vec::new();
        while seen.windows(6).filter(|w| w == b"data: ").count() < 3 || !seen.ends_with(b"\n\n\r\n") {
            let mut buffer = [0; 4096];
            let n = socket.read(&mut buffer).unwrap();
            seen.extend_from_slice(&buffer[..n]);
        }
    }
    socket.set_read_timeout(Some(Duration::from_millis(40))).unwrap();
    let response = read_response(socket);
    assert_eq!((response.head.as_str(), response.end), ("", End::Open), "{}", kind.name());
}

/// Faults in the content of a response, on a connection without faults.
fn check_content(sim: &Sim, kind: FaultKind) {
    let name = kind.name();
    let text = post_with_fault(sim, false, name);
    let chat = post_with_fault(sim, true, name);
    for response in [&text, &chat] {
        assert_eq!((response.status(), response.complete, response.end), (200, true, End::Closed), "{name}");
    }
    let tokens = text.event_data().iter().filter(|d| d.contains(r#""text":" "#)).count();
    let usages = text.event_data().iter().filter(|d| d.contains(r#""usage":"#)).count();
    let finish = |place: usize| text.json_events()[place]["choices"][0]["finish_reason"].clone();
    let want = match kind {
        FaultKind::EndEarly => {
            assert_eq!((text.finish_reason(), text.is_done()), (None, false));
            (3, 0)
        }
        FaultKind::ErrorInStream => {
            assert_eq!(text.json_events()[3]["error"]["code"], 500);
            assert!(text.is_done() && text.finish_reason().is_none());
            (3, 0)
        }
        FaultKind::Abort => {
            assert_eq!((text.finish_reason().as_deref(), text.is_done()), (Some("abort"), true));
            assert_eq!(text.json_events().last().unwrap()["usage"]["completion_tokens"], 3);
            (3, 1)
        }
        FaultKind::BadJson => {
            let bad = |d: &&String| *d != "[DONE]" && serde_json::from_str::<Value>(d).is_err();
            assert_eq!(text.event_data().iter().position(|d| bad(&d)), Some(3));
            (8, 1)
        }
        FaultKind::Crlf => {
            assert!(text.body.contains(": a comment\r\nevent: message\r\nid: 7\r\n"));
            assert!(!text.body.replace("\r\n", "").contains('\n'));
            (8, 1)
        }
        FaultKind::Split => {
            assert!(text.texts_at(TEXT).iter().all(|t| t.ends_with("é🙂")));
            (8, 1)
        }
        FaultKind::MultiToken => (3, 1),
        FaultKind::EmptyChunks => {
            assert_eq!(text.json_events().len(), 17);
            (8, 1)
        }
        FaultKind::FinishEmpty => {
            assert_eq!((finish(7), finish(8)), (Value::Null, json!("length")));
            (8, 1)
        }
        FaultKind::NoUsage => (8, 0),
        FaultKind::DoubleUsage => (8, 2),
        FaultKind::UsageInChoices => {
            assert_eq!((finish(7), &text.json_events()[7]["usage"]["completion_tokens"]), (json!("length"), &json!(8)));
            (8, 1)
        }
        FaultKind::NoDone => {
            assert!(!text.is_done() && text.finish_reason().is_some());
            (8, 1)
        }
        FaultKind::DoneOnly => {
            assert!(text.is_done() && text.finish_reason().is_none());
            (8, 1)
        }
        FaultKind::Empty => {
            assert_eq!((text.finish_reason().as_deref(), text.is_done()), (Some("stop"), true));
            assert_eq!(text.json_events().last().unwrap()["usage"]["completion_tokens"], 0);
            (0, 1)
        }
        FaultKind::Reasoning | FaultKind::ReasoningContent => {
            assert_eq!(chat.texts_at(&format!("/choices/0/delta/{name}")).len(), 4);
            assert_eq!(chat.texts_at(CONTENT).len(), 4);
            let details = chat.json_events().last().unwrap()["usage"]["completion_tokens_details"].clone();
            assert_eq!(details["reasoning_tokens"].as_u64(), (kind == FaultKind::Reasoning).then_some(4));
            (8, 1)
        }
        FaultKind::ToolCalls => {
            assert_eq!(chat.texts_at("/choices/0/delta/tool_calls/0/function/arguments").len(), 8);
            assert_eq!(chat.finish_reason().as_deref(), Some("tool_calls"));
            (8, 1)
        }
        FaultKind::RoleEarly => {
            assert_eq!(chat.json_events()[0]["choices"][0]["delta"]["role"], "assistant");
            (8, 1)
        }
        FaultKind::Coalesce => (8, 1),
        other => panic!("{other:?} has no check"),
    };
    assert_eq!((tokens, usages), want, "{name}");
}

/// Error formats and ends of streams differ between APIs.
#[test]
fn other_apis_fail_and_end_as_their_servers_do() {
    let sim = Sim::start(&[]);
    let tgi =
        |p: f64| post(&sim, "/generate", &json!({"inputs": "hi", "parameters": {"max_new_tokens": 2, "top_p": p}}));
    let error = tgi(1.0);
    assert_eq!((error.status(), &error.json()["error_type"]), (422, &json!("validation")));
    assert_eq!(error.json()["error"], "Input validation error: `top_p` must be > 0.0 and < 1.0");
    let details = tgi(0.9).json()["details"].clone();
    assert_eq!(
        (&details["input_length"], &details["prefill"], &details["tokens"]),
        (&json!(null), &json!([]), &json!([]))
    );
    let triton = "/v2/models/ensemble/generate";
    let error = post(&sim, triton, &json!({"text_input": "hi"}));
    assert_eq!(error.status(), 400);
    assert!(error.json()["error"].as_str().unwrap().starts_with("missing required input(s) ['max_tokens']"));
    for prompt in ["a", "b", "c", "d"] {
        let body = json!({"text_input": prompt, "max_tokens": 3});
        let ends = post(&sim, &format!("{triton}_stream"), &body);
        assert_eq!(ends.json_events().last().unwrap()["text_output"], "", "the end token");
        let body = json!({"text_input": prompt, "max_tokens": 3, "min_tokens": 3});
        let full_length = post(&sim, &format!("{triton}_stream"), &body);
        assert!(
            full_length.json_events().len() == 3
                && full_length.json_events().iter().all(|event| event["text_output"] != "")
        );
        let messages = json!([{"role": "user", "content": prompt}]);
        let body = json!({"messages": messages, "max_tokens": 3, "stream": true});
        let messages = post(&sim, "/v1/messages", &body);
        assert!(
            messages.body.contains("message_stop") && !messages.body.contains("\"type\":\"text_delta\",\"text\":\"\"")
        );
        let body =
            json!({"text": prompt, "sampling_params": {"max_new_tokens": 3, "ignore_eos": true}, "stream": true});
        let ids: Vec<usize> = post(&sim, "/generate", &body)
            .json_events()
            .iter()
            .map(|event| event["output_ids"].as_array().unwrap().len())
            .collect();
        assert_eq!(ids, [1, 2, 3]);
    }
}

#[test]
fn vectors_and_ranks_have_the_requested_format() {
    let sim = Sim::start(&[]);
    let vector = |format: &str| {
        let body = json!({"input": "hi", "dimensions": 3, "encoding_format": format});
        post(&sim, "/v1/embeddings", &body).json()["data"][0]["embedding"].clone()
    };
    let numbers: Vec<f64> = vector("float").as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, vector("base64").as_str().unwrap());
    let bytes = bytes.unwrap();
    assert_eq!((numbers.len(), bytes.len()), (3, 12));
    for (number, bytes) in numbers.iter().zip(bytes.chunks(4)) {
        assert!((number - f64::from(f32::from_le_bytes(bytes.try_into().unwrap()))).abs() < 1e-6);
    }
    assert_eq!(post(&sim, "/v1/embeddings", &json!({"input": "hi", "encoding_format": "hex"})).status(), 400);

    let body = json!({"query": "a", "documents": ["one", {"text": "two"}, "three"], "top_n": 2});
    let all = post(&sim, "/rerank", &json!({"query": "a", "documents": ["one", "two", "three"]})).json();
    let best = post(&sim, "/rerank", &body).json();
    assert_eq!(best["results"].as_array().unwrap()[..], all["results"].as_array().unwrap()[..2]);
}

/// The shape of a value: the keys of objects in order, with the type of each value. An array has the shape of its first item.
fn json_shape(value: &Value) -> Value {
    match value {
        // The likely tokens of a completion are keys, so only their number is compared.
        Value::Object(map) if map.values().all(|value| value.as_f64().is_some_and(|p| p < 0.0)) => json!(map.len()),
        Value::Object(map) => json!(map.iter().map(|(key, value)| json!([key, json_shape(value)])).collect::<Vec<_>>()),
        Value::Array(list) => json!({"list of": list.first().map(json_shape)}),
        Value::String(_) => json!("text"),
        Value::Number(_) => json!("number"),
        Value::Bool(_) => json!("switch"),
        Value::Null => Value::Null,
    }
}

/// Whether two shapes are equal. A value that is null or empty on one side matches anything.
fn shapes_match(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Null, _) | (_, Value::Null) => true,
        (Value::Object(a), Value::Object(b)) => shapes_match(&a["list of"], &b["list of"]),
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a[0] == b[0] && shapes_match(&a[1], &b[1]))
        }
        (a, b) => a == b,
    }
}

#[track_caller]
fn assert_shape(name: &str, got: &Value, want: &Value) {
    let [got, want] = [got, want].map(json_shape);
    assert!(shapes_match(&got, &want), "{name}\n got {got}\nwant {want}");
}

/// A key that distinguishes kinds of events.
fn event_kind(event: &Value) -> String {
    let choice = &event["choices"][0];
    let delta = choice["delta"].as_object().map(|delta| delta.keys().cloned().collect::<Vec<_>>());
    let first_call = choice.pointer("/delta/tool_calls/0/id").is_some();
    // The last event of a chat has one more key.
    format!("{} {} {delta:?} {first_call} {}", event["type"], choice.is_null(), choice["finish_reason"].is_null())
}

#[test]
fn the_responses_of_every_vllm_api_have_the_keys_of_vllm() {
    let sim = Sim::start(&[]);
    let hi = json!([{"role": "user", "content": "hi"}]);
    let tool = json!([{"type": "function", "function": {"name": "recite", "parameters": {}}}]);
    let named = json!({"type": "function", "function": {"name": "recite"}});
    let usage = json!({"include_usage": true});
    let pair = json!({"query": "Shall I", "documents": ["compare thee", "to a summers day"]});
    for (path, body, file) in [
        ("/v1/responses", json!({"input": "hi", "max_output_tokens": 6, "ignore_eos": true}), "responses.json"),
        (
            "/v1/responses",
            json!({"input": "hi", "max_output_tokens": 6, "ignore_eos": true, "stream": true}),
            "responses.txt",
        ),
        ("/v1/messages", json!({"messages": hi, "max_tokens": 6, "ignore_eos": true}), "messages.json"),
        ("/v1/messages", json!({"messages": hi, "max_tokens": 6, "ignore_eos": true, "stream": true}), "messages.txt"),
        ("/v1/messages", json!({"messages": hi, "max_tokens": 6, "model": "nope"}), "messages_error.json"),
        ("/v1/embeddings", json!({"input": ["hi"]}), "embeddings.json"),
        ("/v1/embeddings", json!({"input": ["hi"], "model": "nope"}), "embeddings_error.json"),
        ("/pooling", json!({"input": ["hi"]}), "pooling.json"),
        ("/rerank", pair, "rerank.json"),
        (
            COMPLETIONS,
            json!({"prompt": "hi", "max_tokens": 4, "ignore_eos": true, "n": 2, "logprobs": 2, "stream": true, "stream_options": usage}),
            "completions-n2.txt",
        ),
        (
            CHAT,
            json!({"messages": hi, "max_tokens": 4, "ignore_eos": true, "n": 2, "logprobs": true, "top_logprobs": 2}),
            "chat-n2.json",
        ),
        (CHAT, json!({"messages": hi, "tools": tool, "tool_choice": named, "max_tokens": 8}), "chat-tool.json"),
        (
            CHAT,
            json!({"messages": hi, "tools": tool, "tool_choice": named, "max_tokens": 8, "stream": true, "stream_options": usage}),
            "chat-tool.txt",
        ),
    ] {
        let real = std::fs::read_to_string(data(&format!("backends/{file}"))).unwrap();
        let response = post(&sim, path, &body);
        if body["stream"] != true {
            assert_shape(file, &response.json(), &serde_json::from_str(&real).unwrap());
            continue;
        }
        let events = |data: Vec<String>| -> Vec<(String, Value)> {
            let events = data.iter().filter(|data| *data != "[DONE]").map(|data| serde_json::from_str(data).unwrap());
            let mut events: Vec<_> = events.map(|event: Value| (event_kind(&event), event)).collect();
            // Keep the first event of each kind.
            let mut seen = std::collections::HashSet::new();
            events.retain(|(kind, _)| seen.insert(kind.clone()));
            events
        };
        let real = RawResponse { body: real, head: String::new(), complete: true, broken: false, end: End::Closed };
        let [got, want] = [&response, &real].map(|response| events(response.event_data()));
        let kinds = |events: &[(String, Value)]| events.iter().map(|(kind, _)| kind.clone()).collect::<Vec<_>>();
        assert_eq!(kinds(&got), kinds(&want), "{file}");
        for ((kind, got), (_, want)) in got.iter().zip(&want) {
            assert_shape(&format!("{file}: {kind}"), got, want);
        }
    }
}

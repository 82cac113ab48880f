//! Every API, with the `vb-fire` binary against a server that replays recorded responses.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    thread,
};

use serde_json::{Value, json};
use vb::backend::{BACKENDS, Backend};

use crate::{
    fire::records,
    tool::{Done, Sim, data, folder, golden_section, run, truths},
};

/// A server that replays one response.
struct ReplayServer {
    url: String,
    /// The requests received, head and body.
    requests: mpsc::Receiver<String>,
}

/// Starts a server that sends this response to every request, and then closes the connection.
fn replay(status: &str, media: &str, body: impl Into<Vec<u8>>) -> ReplayServer {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, requests) = mpsc::channel();
    let (head, body) = (format!("HTTP/1.1 {status}\r\ncontent-type: {media}\r\n"), body.into());
    thread::spawn(move || {
        let serve = |mut stream: TcpStream| {
            let request = read_request(&mut stream);
            if !request.is_empty() {
                let head = format!("{head}content-length: {}\r\nconnection: close\r\n\r\n", body.len());
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
                let _ = sender.send(request);
            }
        };
        listener.incoming().map_while(Result::ok).for_each(serve);
    });
    ReplayServer { url, requests }
}

/// Reads a request to its end.
pub fn read_request(stream: &mut TcpStream) -> String {
    let mut reader = BufReader::new(stream);
    let (mut request, mut length) = (String::new(), 0);
    while !request.ends_with("\r\n\r\n") && reader.read_line(&mut request).unwrap_or(0) > 0 {
        if let Some(value) = request.lines().last().and_then(|line| line.strip_prefix("content-length: ")) {
            length = value.parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    request + &String::from_utf8(body).unwrap()
}

fn fixture(name: &str) -> String {
    fs::read_to_string(data("backends").join(name)).unwrap()
}

/// Sends one request to a backend.
pub fn fire(url: &str, backend: &str, args: &[&str], line: &str) -> Done {
    run("vb-fire", &[&["--base-url", url, "--backend", backend, "--model", "tiny"], args].concat(), line)
}

pub fn output(done: &Done) -> Value {
    let (_, outputs, _) = records(&done.stdout);
    outputs.into_iter().next().unwrap_or_else(|| panic!("{done:?}"))
}

/// The main values of an output, on one line.
pub fn summary(output: &Value) -> String {
    let text = |key: &str| output[key].as_str().unwrap_or("-").to_owned();
    let chunks = output["ttft"].is_number().then(|| output["itl"].as_array().unwrap().len() + 1);
    format!(
        "prompt {} cached {} tokens {} by {} chunks {} finish {} text {:?}",
        output["prompt_len"],
        output["cached_tokens"],
        output["output_tokens"],
        text("token_source"),
        chunks.map_or("-".into(), |n| n.to_string()),
        text("finish_reason"),
        text("generated_text"),
    )
}

pub const HI: &str = "{\"prompt\":\"hi\",\"prompt_len\":1,\"expected_output_len\":4}\n";
pub const RANK: &str = "{\"prompt\":[\"who\",\"he\",\"she\"],\"prompt_len\":3}\n";
pub const AUDIO: &str =
    "{\"multi_modal_data\":{\"type\":\"input_audio\",\"input_audio\":{\"data\":\"UklGRg==\",\"format\":\"wav\"}}}\n";

const TGI: &str = r#"data: {"index":1,"token":{"id":1,"text":" a","logprob":-0.1,"special":false},"generated_text":null,"details":null}

data: {"index":2,"token":{"id":2,"text":"</s>","logprob":-0.1,"special":true},"generated_text":" a","details":{"finish_reason":"eos_token","generated_tokens":2,"input_length":3}}

"#;
const SGLANG: &str = r#"data: {"text":" a","meta_info":{"finish_reason":null,"prompt_tokens":3,"completion_tokens":1,"cached_tokens":2}}

data: {"text":" a","meta_info":{"finish_reason":null,"prompt_tokens":3,"completion_tokens":2,"cached_tokens":2}}

data: {"text":" a\u00e9!","meta_info":{"finish_reason":{"type":"length","length":4},"prompt_tokens":3,"completion_tokens":4,"cached_tokens":2}}

data: [DONE]

"#;
/// With `--incremental-streaming-output`.
const SGLANG_NEWS: &str = r#"data: {"text":"ha","output_ids":[7],"meta_info":{"finish_reason":null,"prompt_tokens":3,"completion_tokens":1,"cached_tokens":2}}

data: {"text":"ha","output_ids":[7],"meta_info":{"finish_reason":null,"prompt_tokens":3,"completion_tokens":2,"cached_tokens":2}}

data: {"text":"! b","output_ids":[8,9],"meta_info":{"finish_reason":null,"prompt_tokens":3,"completion_tokens":4,"cached_tokens":2}}

data: {"text":"ha","output_ids":[7],"meta_info":{"finish_reason":{"type":"length","length":5},"prompt_tokens":3,"completion_tokens":5,"cached_tokens":2,"reasoning_tokens":2}}

data: [DONE]

"#;
const TENSORRT: &str = r#"data: {"model_name":"ensemble","model_version":"1","sequence_end":false,"sequence_id":0,"text_output":" a"}

data: {"model_name":"ensemble","model_version":"1","sequence_end":false,"sequence_id":0,"text_output":" b"}

"#;
const OLLAMA: &str = r#"{"model":"m","created_at":"t","message":{"role":"assistant","content":"","thinking":"hm"},"done":false}
{"model":"m","created_at":"t","message":{"role":"assistant","content":" a"},"done":false}
{"model":"m","created_at":"t","message":{"role":"assistant","content":""},"done":true,"done_reason":"length","total_duration":9,"prompt_eval_count":3,"eval_count":2}
"#;
const TRANSCRIPTION: &str = r#"data: {"id":"trsc-1","object":"transcription.chunk","created":1,"model":"m","choices":[{"delta":{"content":" a"},"finish_reason":null,"stop_reason":null}],"usage":{"prompt_tokens":3,"completion_tokens":1,"total_tokens":4}}

data: {"id":"trsc-1","object":"transcription.chunk","created":1,"model":"m","choices":[{"delta":{"content":" b"},"finish_reason":"stop","stop_reason":null}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}

data: {"id":"trsc-1","object":"transcription.chunk","created":1,"model":"m","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}

data: [DONE]

"#;
const EVENTS: &str = "text/event-stream; charset=utf-8";

#[test]
fn streams_of_every_api_are_read() {
    let thee = "text \"henAgainst speechving mans whereon\"";
    for (backend, line, media, body, want) in [
        (
            "openai-responses",
            HI,
            EVENTS,
            fixture("responses.txt"),
            format!("prompt 13 cached 0 tokens 6 by usage chunks 6 finish length {thee}"),
        ),
        (
            "anthropic",
            HI,
            EVENTS,
            fixture("messages.txt"),
            "prompt 13 cached null tokens 6 by usage chunks 6 finish length text \"eth newerumphcuse reckonouchs\""
                .into(),
        ),
        (
            "openai",
            HI,
            EVENTS,
            fixture("completions-n2.txt"),
            "prompt 2 cached null tokens 8 by usage chunks 7 finish length text \"ixedwardgrim\"".into(),
        ),
        (
            "tgi",
            HI,
            EVENTS,
            TGI.into(),
            "prompt 3 cached null tokens 2 by usage chunks 2 finish stop text \" a\"".into(),
        ),
        (
            "sglang",
            HI,
            EVENTS,
            SGLANG.into(),
            "prompt 3 cached 2 tokens 4 by usage chunks 3 finish length text \" aé!\"".into(),
        ),
        (
            "tensorrt-llm",
            HI,
            EVENTS,
            TENSORRT.into(),
            "prompt 1 cached null tokens 2 by chunks chunks 2 finish - text \" a b\"".into(),
        ),
        (
            "ollama",
            HI,
            "application/x-ndjson",
            OLLAMA.into(),
            "prompt 3 cached null tokens 2 by usage chunks 2 finish length text \" a\"".into(),
        ),
        (
            "openai-audio",
            AUDIO,
            EVENTS,
            TRANSCRIPTION.into(),
            "prompt 3 cached null tokens 2 by usage chunks 2 finish stop text \" a b\"".into(),
        ),
    ] {
        let server = replay("200 OK", media, body.clone());
        let done = fire(&server.url, backend, &[], line);
        assert_eq!((done.code, summary(&output(&done))), (0, want), "{backend}: {done:?}");
        // Without its last event the stream is truncated, except in an API that does not mark the end.
        let lines = media != EVENTS;
        let end = body.trim_end().rfind(if lines { "\n" } else { "\n\n" }).unwrap() + if lines { 1 } else { 2 };
        let cut = match backend {
            "openai" | "openai-audio" => body[..body.find("\"finish_reason\":\"").unwrap()].rfind("data:").unwrap(),
            "anthropic" => body.find("event: message_delta").unwrap(),
            "sglang" => body[..end - 2].rfind("data:").unwrap(),
            _ => end,
        };
        let done = fire(&replay("200 OK", media, &body[..cut]).url, backend, &[], line);
        let want = if backend == "tensorrt-llm" { json!(null) } else { json!("truncated") };
        assert_eq!(output(&done)["error_kind"], want, "{backend}: {done:?}");
    }
}

#[test]
fn tokens_of_each_chunk_are_known_where_the_server_counts_as_it_goes() {
    let done = fire(&replay("200 OK", EVENTS, SGLANG).url, "sglang", &[], HI);
    assert_eq!(output(&done)["chunk_tokens"], json!([1, 1, 2]));
    let output = output(&fire(&replay("200 OK", EVENTS, SGLANG_NEWS).url, "sglang", &[], HI));
    let want = "prompt 3 cached 2 tokens 5 by usage chunks 4 finish length text \"haha! bha\"";
    assert_eq!((summary(&output).as_str(), &output["chunk_tokens"]), (want, &json!([1, 1, 2, 1])), "{output}");
    assert_eq!(output["reasoning_tokens"], 2);
    let done = fire(&replay("200 OK", EVENTS, TRANSCRIPTION).url, "openai-audio", &[], AUDIO);
    assert_eq!(self::output(&done)["chunk_tokens"], json!(null), "one each");
}

#[test]
fn tool_calls_have_tokens_in_every_api() {
    for (backend, name) in [("openai-chat", "chat-tool.txt"), ("anthropic", "messages-tool.txt")] {
        let body = fixture(name);
        let deltas = body.matches("\"arguments\":").count() + body.matches("\"partial_json\":").count();
        let done = fire(&replay("200 OK", EVENTS, body).url, backend, &[], HI);
        let output = output(&done);
        assert_eq!(output["itl"].as_array().unwrap().len() + 1, deltas, "{backend}: {output}");
        assert!(output["output_tokens"].as_u64() > Some(2) && output["success"] == true, "{backend}: {output}");
    }
}

/// The opening of an output has no token, a refusal is an answer, and a tool call is not text.
#[test]
fn each_chunk_is_classified_by_its_api() {
    let events = |list: &[&str]| list.iter().map(|data| ["data: ", data, "\n\n"].concat()).collect::<String>();
    for (backend, line, body, want) in [
        (
            "openai-responses",
            HI,
            events(&[
                r#"{"type":"response.output_text.delta","delta":"Let me look. "}"#,
                r#"{"type":"response.custom_tool_call_input.delta","delta":""}"#,
                r#"{"type":"response.custom_tool_call_input.delta","delta":"Rome"}"#,
                r#"{"type":"response.completed","response":{"status":"completed","usage":{"input_tokens":3,"output_tokens":5}}}"#,
            ]),
            "prompt 3 cached null tokens 5 by usage chunks 2 finish stop text \"Let me look. \"",
        ),
        (
            "anthropic",
            HI,
            events(&[
                r#"{"type":"message_start","message":{"usage":{"input_tokens":3,"output_tokens":1}}}"#,
                r#"{"type":"content_block_delta","delta":{"type":"input_json_delta","partial_json":""}}"#,
                r#"{"type":"content_block_delta","delta":{"type":"input_json_delta","partial_json":"{\"a\":"}}"#,
                r#"{"type":"content_block_delta","delta":{"type":"input_json_delta","partial_json":"1}"}}"#,
                r#"{"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":4}}"#,
                r#"{"type":"message_stop"}"#,
            ]),
            "prompt 3 cached null tokens 4 by usage chunks 2 finish tool_calls text \"\"",
        ),
        (
            "openai-chat",
            HI,
            events(&[
                r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":null,"refusal":null}}]}"#,
                r#"{"choices":[{"index":0,"delta":{"refusal":"I will"}}]}"#,
                r#"{"choices":[{"index":0,"delta":{"refusal":" not."}}]}"#,
                r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#,
                "[DONE]",
            ]),
            "prompt 1 cached null tokens 2 by chunks chunks 2 finish stop text \"I will not.\"",
        ),
        (
            "openai-audio",
            AUDIO,
            events(&[
                r#"{"type":"transcript.text.delta","delta":"a"}"#,
                r#"{"type":"transcript.text.delta","delta":" b"}"#,
                r#"{"type":"transcript.text.done","text":"a b","usage":{"type":"tokens","input_tokens":14,"output_tokens":2}}"#,
            ]),
            "prompt 14 cached null tokens 2 by usage chunks 2 finish - text \"a b\"",
        ),
        (
            "ollama",
            HI,
            "{\"message\":{\"content\":\"a\",\"tool_calls\":[{}]},\"done\":true,\"eval_count\":9,\"prompt_eval_count\":3}\n".into(),
            "prompt 3 cached null tokens 9 by usage chunks 1 finish stop text \"a\"",
        ),
    ] {
        let media = if backend == "ollama" { "application/x-ndjson" } else { EVENTS };
        let output = output(&fire(&replay("200 OK", media, body).url, backend, &[], line));
        assert_eq!((summary(&output).as_str(), &output["success"]), (want, &json!(true)), "{backend}: {output}");
    }
    let whole = r#"{"choices":[{"index":0,"message":{"content":null,"refusal":"No."},"finish_reason":null}]}"#;
    let output = output(&fire(&replay("200 OK", "application/json", whole).url, "openai-chat", &["--no-stream"], HI));
    assert_eq!((&output["success"], &output["generated_text"]), (&json!(true), &json!("No.")), "{output}");
}

#[test]
fn non_streaming_responses_have_a_latency_and_no_ttft() {
    let sglang =
        r#"{"text":" a b","meta_info":{"finish_reason":{"type":"length"},"prompt_tokens":3,"completion_tokens":2}}"#;
    let tgi = r#"{"generated_text":" a b","details":{"finish_reason":"length","generated_tokens":2,"input_length":3}}"#;
    let tensorrt = r#"{"model_name":"ensemble","text_output":" a b"}"#;
    let ollama = r#"{"message":{"role":"assistant","content":" a b"},"done":true,"done_reason":"stop","prompt_eval_count":3,"eval_count":2}"#;
    let completion = r#"{"choices":[{"index":0,"text":" a b","finish_reason":"length"}],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#;
    let usual = "prompt 3 cached null tokens 2 by usage chunks - finish length text \" a b\"";
    for (backend, line, body, want) in [
        ("openai", HI, completion.to_owned(), usual),
        (
            "openai-chat",
            HI,
            fixture("chat-n2.json"),
            "prompt 10 cached null tokens 8 by usage chunks - finish length text \"swwardine diseased\"",
        ),
        ("openai-chat", HI, fixture("chat-tool.json"), ""),
        (
            "openai-responses",
            HI,
            fixture("responses.json"),
            "prompt 13 cached 0 tokens 6 by usage chunks - finish length text \"ail\u{fffd} hold sheTill slave\"",
        ),
        (
            "anthropic",
            HI,
            fixture("messages.json"),
            "prompt 13 cached null tokens 6 by usage chunks - finish length text \" suppcess return witness ofpped\"",
        ),
        (
            "openai-embeddings",
            HI,
            fixture("embeddings.json"),
            "prompt 4 cached null tokens 0 by - chunks - finish - text \"\"",
        ),
        ("vllm-pooling", HI, fixture("pooling.json"), "prompt 4 cached null tokens 0 by - chunks - finish - text \"\""),
        (
            "vllm-rerank",
            RANK,
            fixture("rerank.json"),
            "prompt 10 cached null tokens 0 by - chunks - finish - text \"\"",
        ),
        (
            "openai-audio",
            AUDIO,
            r#"{"text":" a b","usage":{"type":"duration","seconds":3}}"#.into(),
            "prompt 0 cached null tokens 0 by - chunks - finish - text \" a b\"",
        ),
        ("tgi", HI, tgi.into(), usual),
        ("sglang", HI, sglang.into(), usual),
        ("tensorrt-llm", HI, tensorrt.into(), "prompt 1 cached null tokens 0 by - chunks - finish - text \" a b\""),
        ("ollama", HI, ollama.into(), "prompt 3 cached null tokens 2 by usage chunks - finish stop text \" a b\""),
    ] {
        let done = fire(&replay("200 OK", "application/json", body.clone()).url, backend, &["--no-stream"], line);
        let output = output(&done);
        assert!(want.is_empty() || summary(&output) == want, "{backend}: {}", summary(&output));
        assert_eq!((done.code, &output["success"]), (0, &json!(true)), "{backend}: {done:?}");
        assert!(
            output["ttft"].is_null() && output["tpot"].is_null() && output["latency"].as_f64() > Some(0.0),
            "{output}"
        );
        assert!(done.stdout.contains("\"stream\":false"), "{}", done.stdout);
        // Half a response is an error.
        let half = body[..body.len() / 2].replace('\u{fffd}', "");
        let done = fire(&replay("200 OK", "application/json", half).url, backend, &["--no-stream"], line);
        assert_eq!(self::output(&done)["error_kind"], "protocol", "{backend}: {done:?}");
    }
}

#[test]
fn apis_that_generate_nothing_report_no_tokens() {
    let server = replay("200 OK", "application/json", fixture("embeddings.json"));
    let done = fire(&server.url, "openai-embeddings", &[], &HI.repeat(5));
    let result = run("vb-stats", &["--table", "full", "--goodput", "e2el:10s"], &done.stdout);
    assert_eq!(result.code, 0, "{}", result.stderr);
    let json: Value = serde_json::from_str(&result.stdout).unwrap();
    assert_eq!(
        (&json["completed"], &json["total_input_tokens"], &json["total_output_tokens"]),
        (&json!(5), &json!(20), &json!(0))
    );
    assert!(json["mean_e2el_ms"].as_f64() > Some(0.0) && json["request_goodput"].as_f64() > Some(0.0), "{json}");
    assert!(!result.stderr.contains("NaN") && !result.stderr.contains("inf"), "{}", result.stderr);
    let shown: Vec<&str> = result.stderr.lines().filter(|line| line.contains("TTFT")).collect();
    assert_eq!(shown.len(), 1, "a latency that was not measured is not shown as 0: {}", result.stderr);
    assert!(shown[0].ends_with("-          no request has any"), "{shown:?}");
    for (backend, flag) in [("openai-embeddings", "--top-k"), ("tgi", "--min-p"), ("anthropic", "--logprobs")] {
        let done = fire(&server.url, backend, &[flag, "1"], HI);
        assert!(done.code == 2 && done.stderr.contains(&format!("{flag} does not work with")), "{done:?}");
    }
}

#[test]
fn responses_without_token_counts_are_reported() {
    let server = replay("200 OK", "application/json", r#"{"model_name":"ensemble","text_output":" a b"}"#);
    let done = fire(&server.url, "tensorrt-llm", &["--no-stream"], &HI.repeat(3));
    let result = run("vb-stats", &["--table", "full"], &done.stdout);
    let json: Value = serde_json::from_str(&result.stdout).unwrap();
    assert_eq!((&json["completed"], &json["total_output_tokens"]), (&json!(3), &json!(0)), "{json}");
    assert_eq!(json["vb"]["token_sources"]["none"], 3);
    let note = "tokens: 3 of 3 responses have no token count\n";
    assert!(result.stderr.contains(note) && !result.stderr.contains("NaN"), "{}", result.stderr);
}

#[test]
fn errors_are_reported_with_the_message_of_each_api() {
    let error = r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#;
    let named = format!("event: error\ndata: {error}\n\n");
    let failed = "event: response.failed\ndata: {\"type\":\"response.failed\",\"response\":{\"status\":\"failed\",\"error\":{\"code\":\"server_error\",\"message\":\"Overloaded\"}}}\n\n";
    let cancelled = "event: response.cancelled\ndata: {\"response\":{\"status\":\"cancelled\",\"error\":{\"message\":\"Overloaded\"}}}\n\n";
    let tgi = "data: {\"error\":\"Overloaded\",\"error_type\":\"overloaded\"}\n\n";
    for (backend, media, body) in [
        ("anthropic", EVENTS, named),
        // The format of gateways.
        ("anthropic", EVENTS, "data: {\"error\":{\"message\":\"Overloaded\"}}\n\ndata: [DONE]\n\n".into()),
        ("openai-responses", EVENTS, "data: {\"error\":{\"message\":\"Overloaded\"}}\n\ndata: [DONE]\n\n".into()),
        ("openai-responses", EVENTS, "data: {\"type\":\"error\",\"message\":\"Overloaded\"}\n\n".into()),
        ("openai-responses", EVENTS, failed.into()),
        ("tgi", EVENTS, tgi.into()),
        ("tgi", EVENTS, "data: {\"error\":{\"message\":\"Overloaded\",\"http_status_code\":500}}\n\n".into()),
        ("openai-responses", EVENTS, cancelled.into()),
        ("sglang", EVENTS, "data: {\"error\":{\"message\":\"Overloaded\"}}\n\ndata: [DONE]\n\n".into()),
        ("tensorrt-llm", EVENTS, "data: {\"error\":\"Overloaded\"}\n\n".into()),
        (
            "sglang",
            EVENTS,
            "data: {\"text\":\"\",\"meta_info\":{\"finish_reason\":{\"type\":\"abort\",\"message\":\"Overloaded\",\"status_code\":400}}}\n\n"
                .into(),
        ),
        ("ollama", "application/x-ndjson", "{\"error\":\"Overloaded\"}\n".into()),
    ] {
        let output = output(&fire(&replay("200 OK", media, body).url, backend, &[], HI));
        assert_eq!(
            (&output["error_kind"], &output["error"]),
            (&json!("stream_error"), &json!("Overloaded")),
            "{backend}"
        );
    }
    for (backend, name) in [("anthropic", "messages_error.json"), ("openai-embeddings", "embeddings_error.json")] {
        let output = output(&fire(&replay("404 Not Found", "application/json", fixture(name)).url, backend, &[], HI));
        assert_eq!(output["error_kind"], "http_status");
        assert!(output["error"].as_str().unwrap().contains("The model `nope` does not exist."), "{output}");
    }
    // A 200 whose body is not a stream, despite its headers.
    for media in ["text/plain", "application/x-ndjson", EVENTS] {
        let body = "{\"error\":{\"message\":\"Overloaded\"}}\n";
        let output = output(&fire(&replay("200 OK", media, body).url, "openai", &[], HI));
        assert_eq!(output["error_kind"], "protocol", "{output}");
        assert!(output["error"].as_str().unwrap().ends_with("not an event stream: Overloaded"), "{output}");
    }
    let done = fire(&replay("200 OK", "application/json", "{}").url, "ollama", &["--no-stream"], HI);
    assert!(output(&done)["error"].as_str().unwrap().contains("it has no `message`"), "{done:?}");
}

#[test]
fn requests_go_where_each_api_wants_them_with_its_headers() {
    let sent_request = |backend: &str, args: &[&str], line: &str| {
        let server = replay("200 OK", EVENTS, "data: [DONE]\n\n");
        fire(&server.url, backend, args, line);
        server.requests.try_iter().last().unwrap()
    };
    for (backend, args, line, path) in [
        ("openai-responses", &[][..], HI, "/v1/responses"),
        ("openai-embeddings", &[], HI, "/v1/embeddings"),
        ("vllm-pooling", &[], HI, "/pooling"),
        ("vllm-rerank", &[], RANK, "/v1/rerank"),
        ("tgi", &[], HI, "/generate_stream"),
        ("tgi", &["--no-stream"], HI, "/generate"),
        ("sglang", &[], HI, "/generate"),
        ("tensorrt-llm", &[], HI, "/v2/models/ensemble/generate_stream"),
        ("tensorrt-llm", &["--no-stream"], HI, "/v2/models/ensemble/generate"),
        ("ollama", &[], HI, "/api/chat"),
        ("ollama", &["--endpoint", "/other"], HI, "/other"),
    ] {
        let request = sent_request(backend, args, line);
        assert!(request.starts_with(&format!("POST {path} HTTP/1.1\r\n")), "{backend}: {request}");
        assert!(request.contains("content-type: application/json\r\n"), "{request}");
    }
    let request = sent_request("openai", &[], HI);
    assert!(request.contains("\r\naccept-encoding: identity\r\n"), "{request}");
    let request = sent_request("openai", &["--header", "Accept-Encoding=br", "--transport", "portable"], HI);
    assert!(request.contains("\r\naccept-encoding: br\r\n") && !request.contains("identity"), "{request}");
    let request = sent_request("anthropic", &["--header", "anthropic-version=later"], HI);
    assert!(request.contains("anthropic-version: later\r\n"), "{request}");
    let request = sent_request("openai-audio", &[], AUDIO);
    assert!(request.contains("content-type: multipart/form-data; boundary=vb-part-0\r\n"), "{request}");
    assert!(
        request.contains("filename=\"audio.wav\"\r\ncontent-type: audio/wav\r\n\r\nRIFF\r\n--vb-part-0--"),
        "{request}"
    );
}

/// `vb-sim` supports it in every API; not all real servers do.
const TO_THE_END: &str = r#"{"ignore_eos":true}"#;

/// The requests for each backend, and whether a non-streaming response reports token counts.
fn every_backend(count: usize) -> Vec<(&'static str, String, bool)> {
    let hi = |i| format!("{{\"request_id\":\"r{i}\",\"prompt\":\"Say {i} words\",\"expected_output_len\":6}}\n");
    let sound = |i| {
        let head = "\"multi_modal_data\":{\"input_audio\":{\"data\":\"UklGRg==\",\"format\":\"wav\"}}";
        format!("{{\"request_id\":\"r{i}\",{head},\"expected_output_len\":6}}\n")
    };
    let lines = |line: &dyn Fn(usize) -> String| (0..count).map(line).collect::<String>();
    let mut all = Vec::new();
    for backend in ["openai", "openai-chat", "openai-responses", "anthropic", "tgi", "sglang", "tensorrt-llm", "ollama"]
    {
        all.push((backend, lines(&hi), backend != "tensorrt-llm"));
    }
    all.push(("openai-audio", lines(&sound), false));
    all
}

#[test]
fn vb_sim_serves_each_api_and_its_truth_log_agrees_with_the_client() {
    let folder = folder("backends-truth");
    let log = folder.join("truth.ndjson");
    let sim = Sim::start(&["--truth-log", log.to_str().unwrap(), "--step-base", "2ms"]);
    let mut seen = Vec::new();
    for (backend, lines, _) in every_backend(4) {
        let lines = lines.replace(":\"r", &format!(":\"{backend}-"));
        let done = fire(&sim.url, backend, &["--max-concurrency", "2", "--extra-body", TO_THE_END], &lines);
        assert_eq!(done.code, 0, "{backend}: {done:?}");
        let (_, outputs, _) = records(&done.stdout);
        for output in &outputs {
            let counted = if backend == "tensorrt-llm" { "chunks" } else { "usage" };
            assert_eq!((&output["output_tokens"], &output["token_source"]), (&json!(6), &json!(counted)), "{backend}");
            assert_eq!(output["itl"].as_array().unwrap().len(), 5, "{backend}: {output}");
        }
        seen.extend(outputs);
    }
    sim.stop();
    let truths = truths(&log);
    assert_eq!(truths.len(), seen.len());
    for truth in truths {
        let output = seen.iter().find(|output| output["request_id"] == truth.request_id.as_str()).unwrap();
        assert_eq!((truth.sent.len(), &truth.tokens), (6, &vec![1; 6]), "{output}");
        // A token is never received before it was sent, up to the difference between two readings of one clock.
        let start = output["start_time"].as_f64().unwrap();
        let first = start + output["ttft"].as_f64().unwrap();
        let last = start + output["latency"].as_f64().unwrap();
        assert!(first + 1e-4 > truth.sent[0].as_secs_f64() && last + 1e-4 > truth.sent[5].as_secs_f64(), "{output}");
    }
}

#[test]
fn vb_sim_sends_non_streaming_responses_in_each_api() {
    let sim = Sim::start(&[]);
    for (backend, lines, counts) in every_backend(3) {
        let done = fire(&sim.url, backend, &["--no-stream", "--extra-body", TO_THE_END], &lines);
        assert_eq!(done.code, 0, "{backend}: {done:?}");
        for output in records(&done.stdout).1 {
            assert!(output["ttft"].is_null() && output["success"] == true, "{backend}: {output}");
            assert!(!counts || output["output_tokens"] == 6, "{backend}: {output}");
        }
    }
    let texts = "{\"prompt\":[\"one two\",\"three\",\"four five six\"]}\n";
    let ids = "{\"prompt\":[[1,2],[3]]}\n{\"prompt\":[1,2,3]}\n";
    for (backend, lines, prompt) in [
        ("openai-embeddings", "{\"prompt\":\"one two\"}\n", 2),
        ("openai-embeddings", ids, 3),
        ("vllm-pooling", texts, 9),
        ("vllm-rerank", texts, 9),
    ] {
        let done = fire(&sim.url, backend, &[], lines);
        assert_eq!(done.code, 0, "{backend}: {done:?}");
        for output in records(&done.stdout).1 {
            assert_eq!((&output["prompt_len"], &output["output_tokens"]), (&json!(prompt), &json!(0)), "{backend}");
        }
    }
}

#[test]
fn all_outputs_of_a_request_are_counted_and_a_tool_call_is_an_answer() {
    let folder = folder("backends-answers");
    let log = folder.join("truth.ndjson");
    let sim = Sim::start(&["--truth-log", log.to_str().unwrap()]);
    let line =
        "{\"request_id\":\"a\",\"prompt\":\"one two\",\"expected_output_len\":5,\"body\":{\"ignore_eos\":true}}\n";
    for (backend, likely) in [("openai", "2"), ("openai-chat", "true,\"top_logprobs\":2")] {
        let body = format!("{{\"n\":3,\"logprobs\":{likely}}}");
        let streamed = output(&fire(&sim.url, backend, &["--extra-body", &body], line));
        assert_eq!(
            (&streamed["output_tokens"], streamed["itl"].as_array().unwrap().len()),
            (&json!(15), 14),
            "{streamed}"
        );
        let whole = output(&fire(&sim.url, backend, &["--no-stream", "--extra-body", &body], line));
        assert_eq!((&whole["output_tokens"], &whole["prompt_len"]), (&json!(15), &streamed["prompt_len"]));
        assert_eq!(whole["generated_text"], streamed["generated_text"], "the text belongs to the first output");
    }
    let tools = "{\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\"}}],\"tool_choice\":\"required\",\"ignore_eos\":false}";
    for how in [&["--extra-body", tools][..], &["--extra-body", tools, "--no-stream"]] {
        let called = output(&fire(&sim.url, "openai-chat", how, &line.replace("true", "false")));
        assert_eq!((&called["success"], &called["finish_reason"]), (&json!(true), &json!("tool_calls")), "{called}");
    }
    sim.stop();
    let truths = truths(&log);
    let tokens: Vec<u32> = truths[..4].iter().map(|truth| truth.tokens.iter().sum()).collect();
    assert_eq!((tokens, truths[0].output_tokens), (vec![15; 4], 15));
    assert_eq!((truths[0].sent.len(), truths[1].sent.len()), (15, 1));
}

#[test]
fn faults_of_every_api_have_their_error_kind() {
    let sim = Sim::start(&[]);
    let pooled = "{\"prompt\":\"one\",\"body\":{\"vb_fault\":\"status_503\"}}\n";
    assert_eq!(output(&fire(&sim.url, "openai-embeddings", &[], pooled))["status"], 503);
    for (backend, body, want) in [
        ("openai-embeddings", "\"dimensions\":4000000000", "dimensions must be from 1 to 65536"),
        ("tgi", "\"parameters\":{\"max_new_tokens\":0}", "max_tokens must be at least 1"),
    ] {
        let line = format!("{{\"prompt\":\"one\",\"body\":{{{body}}}}}\n");
        let refused = output(&fire(&sim.url, backend, &["--no-stream"], &line));
        assert!(
            refused["status"].as_u64() >= Some(400) && refused["error"].as_str().unwrap().contains(want),
            "{refused}"
        );
    }
    for (backend, lines, _) in every_backend(1) {
        let tells_abort = ["openai", "openai-chat", "sglang"].contains(&backend);
        for (fault, want) in [
            ("error_in_stream@2", "stream_error"),
            ("cut@2", "reset truncated"),
            ("end_early@2", "truncated"),
            ("abort@2", if tells_abort { "stream_error" } else { "" }),
            ("bad_json@2", "protocol"),
            ("split", ""),
            ("coalesce", ""),
            ("status_503", "http_status"),
        ] {
            // A stream without an end marker looks complete.
            let want = if backend == "tensorrt-llm" && fault.starts_with("end_early") { "" } else { want };
            let body = format!("{{\"ignore_eos\":true,\"vb_fault\":\"{fault}\"}}");
            let kind = &output(&fire(&sim.url, backend, &["--extra-body", &body], &lines))["error_kind"];
            let got = kind.as_str().unwrap_or("");
            assert!(want.split(' ').any(|w| w == got), "{backend} {fault}: {got}");
        }
    }
}

/// The stream was complete, and it was empty.
#[test]
fn a_stream_that_only_its_end_could_complete_may_be_empty() {
    let end = "data: {\"model_name\":\"ensemble\",\"text_output\":\"\"}\n\n";
    for (body, kind) in [(end, "empty"), ("", "truncated")] {
        let output = output(&fire(&replay("200 OK", EVENTS, body).url, "tensorrt-llm", &[], HI));
        assert_eq!(output["error_kind"], kind, "{output}");
    }
}

#[test]
fn a_server_without_models_needs_no_model() {
    let server = replay("200 OK", EVENTS, TGI);
    let done = run("vb-fire", &["--base-url", &server.url, "--backend", "tgi"], HI);
    let (record, _, _) = records(&done.stdout);
    assert_eq!((done.code, &record["model"]), (0, &json!("tgi")), "{done:?}");
}

#[test]
fn a_template_describes_an_unknown_server() {
    let folder = folder("template");
    let file = folder.join("tgi.yaml");
    let body =
        "{\"inputs\": {{ prompt | tojson }}, \"max\": {{ expected_output_len }}, \"stream\": {{ stream | tojson }}}";
    let text = format!(
        "endpoint: /mine\nbody: |\n  {body}\nstream: events\ntext: /token/text\nfinish: /details/finish_reason\n\
         prompt_tokens: /details/input_length\noutput_tokens: /details/generated_tokens\nerror: /error\n"
    );
    fs::write(&file, text).unwrap();
    let args = ["--template", file.to_str().unwrap(), "--temperature", "0.5"];
    let server = replay("200 OK", EVENTS, TGI);
    let done = fire(&server.url, "template", &args, HI);
    let want = "prompt 3 cached null tokens 2 by usage chunks 2 finish eos_token text \" a</s>\"";
    assert_eq!((done.code, summary(&output(&done)).as_str()), (0, want), "{done:?}");
    let request = server.requests.try_iter().last().unwrap();
    assert!(request.starts_with("POST /mine HTTP/1.1"), "{request}");
    assert!(request.ends_with(r#"{"inputs":"hi","max":4,"stream":true,"temperature":0.5}"#), "{request}");
    let done = fire(&server.url, "template", &["--template", "/no/such.yaml"], HI);
    assert!(done.code != 0 && done.stderr.contains("/no/such.yaml"), "{done:?}");
}

/// Cumulative text of a server that reports usage only at the end, and a pointer at which there is never a text.
#[test]
fn a_template_counts_only_new_text() {
    let folder = folder("template-new");
    let file = folder.join("all.yaml");
    let keys = "endpoint: /mine\nbody: '{}'\nstream: events\nreasoning: /thought\ncumulative: true\nfinish: /end\noutput_tokens: /count\n";
    fs::write(&file, format!("{keys}text: /text\n")).unwrap();
    let body = [
        "\"thought\":\"x\"",
        "\"thought\":\"x\"",
        "\"text\":\"a\"",
        "\"text\":\"ab\"",
        "\"text\":\"ab\",\"end\":\"stop\",\"count\":9",
    ];
    let body = body.map(|keys| format!("data: {{{keys}}}\n\n")).concat();
    let args = ["--template", file.to_str().unwrap()];
    let output = output(&fire(&replay("200 OK", EVENTS, body.clone()).url, "template", &args, HI));
    let want = "prompt 1 cached null tokens 9 by usage chunks 3 finish stop text \"ab\"";
    assert_eq!(summary(&output), want, "{output}");
    fs::write(&file, format!("{keys}text: /wrong\n").replace("reasoning", "#")).unwrap();
    let output = self::output(&fire(&replay("200 OK", EVENTS, body).url, "template", &args, HI));
    assert_eq!((&output["success"], &output["error_kind"]), (&json!(false), &json!("empty")), "{output}");
}

#[test]
fn backends_are_listed_without_a_server_or_input() {
    let done = run("vb-fire", &["--list-backends"], "");
    assert_eq!((done.code, done.stderr.as_str()), (0, ""), "{done:?}");
    let lines: Vec<&str> = done.stdout.lines().collect();
    assert_eq!(lines.len(), 1 + BACKENDS.len());
    for column in ["API", "NEEDS", "CHECKED AGAINST"] {
        let at = lines[0].find(column).unwrap();
        assert!(lines.iter().all(|line| line.get(at - 2..at) == Some("  ")), "{column}: {}", done.stdout);
    }
    for (line, backend) in lines[1..].iter().zip(BACKENDS) {
        assert!(line.starts_with(backend.name) && line.contains(backend.about), "{line}");
    }
    assert!(lines[1].starts_with("openai (vllm) ") && done.stdout.contains("--template FILE"), "{}", done.stdout);
}

/// The row of a backend in `docs/BACKENDS.md`.
fn docs_row(backend: &Backend) -> String {
    let aliases = backend.aliases.iter().map(|alias| format!(" (or `{alias}`)")).collect::<Vec<_>>().concat();
    let endpoint = match backend.api.map(|api| [true, false].map(|stream| api.endpoint_path(stream))) {
        Some([streaming, other]) if streaming == other => format!("`{streaming}`"),
        Some([streaming, other]) => format!("`{streaming}`; non-streaming `{other}`"),
        None => "named in its file".into(),
    };
    let Backend { name, about, needs, token_counts, checked_against, .. } = backend;
    format!("| `{name}`{aliases} | {about} | {endpoint} | {needs} | {token_counts} | {checked_against} |\n")
}

#[test]
fn the_manual_lists_the_backends_of_the_source() {
    let rows: Vec<String> = BACKENDS.iter().map(|backend| docs_row(backend)).collect();
    let table = format!(
        "| `--backend` | API | endpoint | a request needs | tokens are counted by | checked against |\n\
         |---|---|---|---|---|---|\n{}",
        rows.concat()
    );
    golden_section("docs/BACKENDS.md", "backends", &table);
}

#[test]
fn a_chat_may_be_limited_by_max_tokens() {
    let body =
        r#"{"choices":[{"message":{"content":"a b c d e f"}}],"usage":{"prompt_tokens":36,"completion_tokens":6}}"#;
    let server = replay("200 OK", "application/json", body);
    let line = r#"{"prompt":"hi","prompt_len":10,"expected_output_len":4}"#;
    let ask = |flags: &[&str]| {
        let done = fire(&server.url, "openai-chat", &[&["--no-stream"], flags].concat(), line);
        assert_eq!(done.code, 0, "{}", done.stderr);
        (server.requests.recv().unwrap(), done)
    };
    let (request, done) = ask(&[]);
    assert!(request.contains(r#""max_completion_tokens":4"#) && !request.contains("\"max_tokens"), "{request}");
    assert!(done.stderr.contains("1 of 1 outputs are longer than requested"), "{}", done.stderr);
    assert!(done.stderr.contains("use --send-max-tokens"), "{}", done.stderr);
    let counts =
        "the server counts 36.0 tokens in each prompt, not 10.0 as asked for (+260.0 %), as the chat template adds";
    assert!(done.stderr.contains(counts), "{}", done.stderr);
    assert_eq!(output(&done)["expected_prompt_len"], 10);
    let (request, _) = ask(&["--send-max-tokens"]);
    assert!(request.contains(r#""max_tokens":4"#) && !request.contains("max_completion_tokens"), "{request}");
    let other = fire(&server.url, "openai", &["--send-max-tokens"], line);
    assert_eq!((other.code, other.stderr.contains("--backend openai-chat only")), (2, true), "{}", other.stderr);
}

#[test]
fn unknown_lengths_are_not_compared() {
    let body = r#"{"choices":[{"message":{"content":"a"}}],"usage":{"prompt_tokens":36,"completion_tokens":1}}"#;
    let server = replay("200 OK", "application/json", body);
    let image = r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,AA=="}}"#;
    for line in [
        r#"{"prompt":"hi"}"#.to_owned(),
        format!(r#"{{"prompt":"hi","prompt_len":10,"multi_modal_data":{image}}}"#),
        format!(r#"{{"messages":[{{"role":"user","content":[{image}]}}],"prompt_len":10}}"#),
    ] {
        let done = fire(&server.url, "openai-chat", &["--no-stream"], &line);
        assert!(done.code == 0 && !done.stderr.contains("as asked for"), "{}", done.stderr);
        assert_eq!(output(&done)["expected_prompt_len"], Value::Null);
    }
}

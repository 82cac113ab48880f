//! Tests: each field of a stream of each API with values that it should not have.

use serde_json::{Value, json};

use super::response::ReceivedResponse;
use crate::{
    backend::{Backend, Protocol},
    http::{body::BodyFormat, socket::ReadStamp},
    record::{ErrorKind, RequestFuncOutput},
    units::Nanos,
};

/// A stream of an API: `a`, ` b`, and its end.
struct Stream {
    backend: &'static str,
    events: Vec<Value>,
    /// The fields without which a token or the end is missing, and those that may report a failure.
    needed: &'static [&'static str],
}

#[allow(clippy::too_many_lines, reason = "a table")]
fn streams() -> Vec<Stream> {
    let chat = |delta: Value, finish: Value| {
        json!({"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m", "system_fingerprint": null,
            "choices": [{"index": 0, "delta": delta, "logprobs": {"content": []}, "finish_reason": finish,
                "token_ids": null, "message": null}],
            "usage": {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4,
                "prompt_tokens_details": {"cached_tokens": 0}, "completion_tokens_details": {"reasoning_tokens": 0}},
            "metrics": {"time_to_first_token_ms": 1.5}, "error": null, "x_groq": null, "timings": null})
    };
    let message = |text: &str| {
        json!({"role": "assistant", "content": text, "reasoning": null, "reasoning_content": "", "refusal": null,
            "tool_calls": [], "function_call": null, "audio": null, "reasoning_details": []})
    };
    let completion = |text: &str, finish: Value| {
        json!({"choices": [{"index": 0, "text": text, "finish_reason": finish, "token_ids": null, "stop_reason": null}],
            "usage": null})
    };
    let anthropic = |text: &str| {
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text},
            "usage": null, "message": null, "error": null})
    };
    let responses = |text: &str| {
        json!({"type": "response.output_text.delta", "delta": text, "item": null, "response": null, "logprobs": [],
            "sequence_number": 1, "output_index": 0})
    };
    let tgi = |text: &str, whole: Value, details: Value| {
        json!({"index": 1, "token": {"id": 1, "text": text, "logprob": -0.1, "special": false}, "generated_text": whole,
            "details": details, "top_tokens": []})
    };
    let sglang = |text: &str, finish: Value, count: u32| {
        json!({"text": text, "output_ids": [1], "meta_info": {"id": "x", "finish_reason": finish, "prompt_tokens": 2,
            "completion_tokens": count, "cached_tokens": 0, "queue_time": 0.1}, "index": 0})
    };
    let ollama = |text: &str, done: bool| {
        json!({"model": "m", "created_at": "t", "message": {"role": "assistant", "content": text, "thinking": "",
            "tool_calls": null, "images": null}, "done": done, "done_reason": "stop", "eval_count": 2,
            "prompt_eval_count": 2, "total_duration": 9})
    };
    let triton = |text: &str| {
        json!({"model_name": "ensemble", "model_version": "1", "sequence_end": false, "sequence_id": 0,
            "text_output": text, "num_output_tokens": 1, "num_input_tokens": [2]})
    };
    let finish = json!("stop");
    vec![
        Stream {
            backend: "openai-chat",
            events: vec![
                chat(message("a"), json!(null)),
                chat(message(" b"), json!(null)),
                chat(json!({}), finish.clone()),
            ],
            needed: &[
                "/choices",
                "/choices/0",
                "/choices/0/index",
                "/choices/0/finish_reason",
                "/choices/0/delta",
                "/choices/0/delta/content",
            ],
        },
        Stream {
            backend: "openai",
            events: vec![
                completion("a", json!(null)),
                completion(" b", json!(null)),
                completion("", finish.clone()),
                json!({"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 2}}),
            ],
            needed: &["/choices", "/choices/0", "/choices/0/index", "/choices/0/finish_reason", "/choices/0/text"],
        },
        Stream {
            backend: "anthropic",
            events: vec![
                json!({"type": "message_start", "message": {"id": "x", "content": [], "stop_reason": null,
                    "usage": {"input_tokens": 2, "output_tokens": 1, "cache_read_input_tokens": 0}}}),
                json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
                anthropic("a"),
                anthropic(" b"),
                json!({"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": null},
                    "usage": {"output_tokens": 2}}),
                json!({"type": "message_stop"}),
            ],
            needed: &["/type", "/delta", "/delta/text"],
        },
        Stream {
            backend: "openai-responses",
            events: vec![
                json!({"type": "response.created", "response": {"id": "x", "status": "in_progress", "error": null,
                    "output": []}}),
                json!({"type": "response.output_item.added", "item": {"type": "message", "content": [], "name": ""}}),
                responses("a"),
                responses(" b"),
                json!({"type": "response.completed", "response": {"status": "completed", "error": null,
                    "incomplete_details": null, "output": [{"type": "message", "content": [{"type": "output_text"}]}],
                    "usage": {"input_tokens": 2, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 0}}}}),
            ],
            needed: &["/type", "/delta", "/response", "/response/status"],
        },
        Stream {
            backend: "tgi",
            events: vec![
                tgi("a", json!(null), json!(null)),
                tgi(" b", json!(null), json!(null)),
                tgi("", json!("a b"), json!({"finish_reason": "length", "generated_tokens": 2, "input_length": 2})),
            ],
            needed: &["/token", "/token/text", "/token/special", "/generated_text"],
        },
        Stream {
            backend: "sglang",
            events: vec![
                sglang("a", json!(null), 1),
                sglang("a b", json!(null), 2),
                sglang("a b", json!({"type": "length", "length": 2}), 2),
            ],
            needed: &["/text", "/meta_info", "/meta_info/finish_reason", "/meta_info/finish_reason/type"],
        },
        Stream {
            backend: "ollama",
            events: vec![ollama("a", false), ollama(" b", false), ollama("", true)],
            needed: &["/message", "/message/content", "/done"],
        },
        Stream {
            backend: "tensorrt-llm",
            events: vec![triton("a"), triton(" b"), triton("")],
            needed: &["/text_output"],
        },
        Stream {
            backend: "openai-audio",
            events: vec![
                chat(json!({"content": "a"}), json!(null)),
                chat(json!({"content": " b"}), json!(null)),
                json!({"type": "transcript.text.done", "text": "a b",
                    "usage": {"type": "tokens", "input_tokens": 2, "output_tokens": 2}}),
            ],
            needed: &[
                "/type",
                "/choices",
                "/choices/0",
                "/choices/0/index",
                "/choices/0/finish_reason",
                "/choices/0/delta",
                "/choices/0/delta/content",
            ],
        },
    ]
}

/// Values that a server may write for nothing, or in place of another type. No word, since that may be a finish reason.
const ODD_VALUES: [&str; 14] =
    ["null", "false", "true", "0", "-1", "1.0", "1.5", "5000000000", "\"\"", "\"1\"", "[]", "{}", "[null]", "NaN"];

/// Those that mean nothing, and so no error.
const NOTHING: [&str; 8] = ["null", "false", "0", "\"\"", "[]", "{}", "[null]", "NaN"];

/// The pointers to all fields of a value.
fn pointers_of_fields(value: &Value, at: &str) -> Vec<String> {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(object) => object.iter().map(|(key, child)| (format!("{at}/{key}"), child)).collect(),
        Value::Array(list) => list.iter().enumerate().map(|(i, child)| (format!("{at}/{i}"), child)).collect(),
        _ => vec![],
    };
    children
        .into_iter()
        .flat_map(|(pointer, child)| {
            let below = pointers_of_fields(child, &pointer);
            std::iter::once(pointer).chain(below)
        })
        .collect()
}

fn read_stream(backend: &str, events: &[impl AsRef<[u8]>]) -> RequestFuncOutput {
    let api = Backend::from_name(backend).unwrap().open_api(None).unwrap();
    let protocol = Protocol { api, stream: true };
    let mut response = ReceivedResponse::with_capacity(protocol, None, true);
    response.set_framed(true);
    for (i, event) in events.iter().enumerate() {
        let (before, after): (&[u8], &[u8]) = match protocol.body_format() {
            BodyFormat::Events => (b"data: ", b"\n\n"),
            _ => (b"", b"\n"),
        };
        let text = [before, event.as_ref(), after].concat();
        let arrival = ReadStamp { time: Nanos(i as u64), lag: None, read: i as u64, ..ReadStamp::default() };
        if response.push(arrival, &text).is_err() {
            break;
        }
    }
    finish_stream(response)
}

fn finish_stream(response: ReceivedResponse) -> RequestFuncOutput {
    let mut output = RequestFuncOutput::default();
    response.finish(Nanos(0), None, |_| None, &mut output);
    output
}

#[test]
fn an_odd_field_never_costs_a_request() {
    let mut wrong = Vec::new();
    for Stream { backend, events, needed } in streams() {
        let texts: Vec<String> = events.iter().map(Value::to_string).collect();
        let plain = read_stream(backend, &texts);
        assert!(plain.success && plain.generated_text.as_deref() == Some("a b"), "{backend}: {plain:?}");
        for (at, event) in events.iter().enumerate() {
            for pointer in pointers_of_fields(event, "") {
                let is_error = pointer.ends_with("/error");
                for odd in ODD_VALUES.iter().filter(|odd| !is_error || NOTHING.contains(odd)) {
                    let mut event = event.clone();
                    *event.pointer_mut(&pointer).unwrap() = json!("ODD");
                    let mut texts = texts.clone();
                    texts[at] = event.to_string().replace("\"ODD\"", odd);
                    let output = read_stream(backend, &texts);
                    let got = (output.error_kind, &output.error, &output.generated_text);
                    let case = format!("{backend}: {pointer} = {odd}: {got:?}");
                    if needed.contains(&pointer.as_str()) {
                        let failed = matches!(output.error_kind, Some(ErrorKind::Protocol));
                        wrong.extend(failed.then_some(case));
                    } else if !output.success || output.generated_text != plain.generated_text {
                        wrong.push(case);
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn an_event_that_the_api_does_not_have_costs_nothing() {
    for Stream { backend, events, .. } in streams() {
        let texts: Vec<String> = events.iter().map(Value::to_string).collect();
        for odd in
            ["{}", "null", "1", "\"x\"", "[]", "{\"id\":\"x\"}", "{\"message\":\"your place in the queue is 3\"}"]
        {
            for at in 0..texts.len() {
                let mut texts = texts.clone();
                texts.insert(at, odd.to_owned());
                let output = read_stream(backend, &texts);
                assert!(
                    output.success && output.generated_text.as_deref() == Some("a b"),
                    "{backend}: {odd}: {output:?}"
                );
            }
            let output = read_stream(backend, &[odd.to_owned(), "[DONE]".into()]);
            assert!(!output.success && !output.error.contains("0 chunks"), "{backend}: {odd}: {output:?}");
        }
    }
}

/// The words of an error in place of an event, in every form; it is never a success, and never "ended after 0 chunks".
#[test]
fn an_error_in_place_of_an_event_keeps_its_words() {
    for Stream { backend, events, .. } in streams() {
        let first = events[..events.len() - 1].iter().map(Value::to_string);
        for error in [
            r#"{"error":{"message":"boom","code":500}}"#,
            r#"{"error":"boom"}"#,
            r#"{"error":true,"message":"boom"}"#,
            r#"{"code":400,"message":"boom"}"#,
            r#"{"code":"InvalidApiKey","message":"boom"}"#,
            r#"{"error_code":18,"error_msg":"boom"}"#,
            r#"{"base_resp":{"status_code":1004,"status_msg":"boom"}}"#,
            r#"{"type":"error","message":"boom"}"#,
            r#"{"type":"error","error":{"type":"overloaded_error","message":"boom"}}"#,
            r#"{"success":false,"msg":"boom"}"#,
        ] {
            let after: Vec<String> = first.clone().chain([error.to_owned(), "[DONE]".into()]).collect();
            for texts in [vec![error.to_owned()], vec![error.to_owned(), "[DONE]".into()], after] {
                let output = read_stream(backend, &texts);
                let kind = output.error_kind;
                assert!(!output.success && output.error.contains("boom"), "{backend}: {texts:?}: {output:?}");
                assert_eq!(kind, Some(ErrorKind::StreamError), "{backend}: {texts:?}: {output:?}");
            }
        }
    }
}

/// Deltas, and then everything again.
#[test]
fn a_whole_message_after_its_parts_is_not_new() {
    let chunk = |part: &str| format!(r#"{{"choices":[{{"index":0,{part}}}]}}"#);
    let whole = r#""message":{"role":"assistant","content":"a b c"},"finish_reason":"stop""#;
    let parts = [r#""delta":{"content":"a"}"#, r#""delta":{"content":" b"}"#, r#""delta":{"content":" c"}"#];
    let both = |part: &str, all: &str| format!(r#""message":{{"content":"{all}"}},"delta":{{"content":"{part}"}}"#);
    let read = |backend: &str, events: &[String]| {
        let output = read_stream(backend, events);
        (output.generated_text.unwrap_or_default(), output.itl.len() + 1, output.success)
    };
    let want = ("a b c".to_owned(), 3, true);
    let events: Vec<String> = parts.iter().chain([&whole]).map(|part| chunk(part)).collect();
    assert_eq!(read("openai-chat", &events), want);
    let events = [chunk(&both("a", "a")), chunk(&both(" b", "a b")), chunk(&both(" c", "a b c")), "[DONE]".into()];
    assert_eq!(read("openai-chat", &events), want);
    let grows = ["a", "a b", "a b c"].map(|text| chunk(&format!(r#""message":{{"content":"{text}"}}"#)));
    assert_eq!(read("openai-chat", &[&grows[..], &["[DONE]".into()]].concat()), want, "only whole messages");
    let completion = |text: &str| chunk(&format!(r#""text":"{text}""#));
    let last = chunk(r#""text":"a b c","finish_reason":"stop""#);
    assert_eq!(read("openai", &[completion("a"), completion(" b"), completion(" c"), last]), want);
    let line = |text: &str, done: bool| format!(r#"{{"message":{{"content":"{text}"}},"done":{done}}}"#);
    let lines = [line("a", false), line(" b", false), line(" c", false), line("a b c", true)];
    assert_eq!(read("ollama", &lines), want);
}

#[test]
fn half_characters_are_replaced_in_every_api() {
    for Stream { backend, events, .. } in streams() {
        let halves = |half: &[u8]| -> Vec<Vec<u8>> {
            let texts = events.iter().map(|event| event.to_string().into_bytes());
            texts.map(|text| replace_bytes(&text, b" b", half)).collect()
        };
        for half in [&br"\ud83d"[..], b"\xf0\x9f"] {
            let output = read_stream(backend, &halves(half));
            assert!(output.success && output.generated_text.as_deref() == Some("a\u{fffd}"), "{backend}: {output:?}");
        }
    }
}

fn replace_bytes(text: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), text);
    while let Some(at) = memchr::memmem::find(rest, old) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(new);
        rest = &rest[at + old.len()..];
    }
    [&out, rest].concat()
}

/// The value with each key written twice, first with null.
fn with_keys_twice(value: &Value) -> String {
    match value {
        Value::Object(object) => {
            let twice = |(key, value): (&String, &Value)| {
                let key = Value::from(key.as_str());
                format!("{key}:null,{key}:{}", with_keys_twice(value))
            };
            format!("{{{}}}", object.iter().map(twice).collect::<Vec<_>>().join(","))
        }
        Value::Array(list) => format!("[{}]", list.iter().map(with_keys_twice).collect::<Vec<_>>().join(",")),
        other => other.to_string(),
    }
}

#[test]
fn a_key_that_occurs_twice_has_its_last_value() {
    for Stream { backend, events, .. } in streams() {
        let twice: Vec<String> = events.iter().map(with_keys_twice).collect();
        let once: Vec<String> = events.iter().map(Value::to_string).collect();
        let (twice, once) = (read_stream(backend, &twice), read_stream(backend, &once));
        assert!(twice.success, "{backend}: {twice:?}");
        let values =
            |output: RequestFuncOutput| (output.generated_text, output.output_tokens, output.finish_reason, output.itl);
        assert_eq!(values(twice), values(once), "{backend}");
    }
}

/// Non-streaming responses, and the fields that they need.
fn wholes() -> Vec<(&'static str, Value, &'static [&'static str])> {
    let usage = json!({"prompt_tokens": 2, "completion_tokens": 2, "prompt_tokens_details": null});
    vec![
        (
            "openai-chat",
            json!({"id": "x", "object": "chat.completion", "choices": [{"index": 0, "message": {"role": "assistant",
                "content": "a b", "tool_calls": [], "reasoning": null, "refusal": null}, "finish_reason": "stop",
                "logprobs": null}], "usage": usage, "error": null}),
            &["/choices", "/choices/0", "/choices/0/index", "/choices/0/message", "/choices/0/message/content"],
        ),
        (
            "openai",
            json!({"choices": [{"index": 0, "text": "a b", "finish_reason": "stop"}], "usage": usage}),
            &["/choices", "/choices/0", "/choices/0/index", "/choices/0/text"],
        ),
        (
            "anthropic",
            json!({"type": "message", "role": "assistant", "content": [{"type": "text", "text": "a b"}],
                "stop_reason": "end_turn", "usage": {"input_tokens": 2, "output_tokens": 2}, "error": null}),
            &["/content", "/content/0", "/content/0/type", "/content/0/text"],
        ),
        (
            "openai-responses",
            json!({"id": "x", "status": "completed", "error": null, "incomplete_details": null, "output": [
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a b"}]}],
                "usage": {"input_tokens": 2, "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 0}}}),
            &[
                "/status",
                "/output",
                "/output/0",
                "/output/0/content",
                "/output/0/content/0",
                "/output/0/content/0/type",
                "/output/0/content/0/text",
            ],
        ),
        (
            "tgi",
            json!({"generated_text": "a b", "details": {"finish_reason": "length", "generated_tokens": 2, "seed": null}}),
            &["/generated_text"],
        ),
        (
            "sglang",
            json!({"text": "a b", "output_ids": [1, 2], "meta_info": {"finish_reason": {"type": "length", "length": 2},
                "prompt_tokens": 2, "completion_tokens": 2}}),
            &["/text"],
        ),
        (
            "ollama",
            json!({"message": {"role": "assistant", "content": "a b", "thinking": null, "tool_calls": []}, "done": true,
                "done_reason": "stop", "eval_count": 2, "prompt_eval_count": 2}),
            &["/message", "/message/content", "/done"],
        ),
        ("tensorrt-llm", json!({"model_name": "m", "text_output": "a b", "num_output_tokens": 2}), &["/text_output"]),
        (
            "openai-audio",
            json!({"text": "a b", "usage": {"type": "duration", "seconds": 3}, "error": null}),
            &["/text"],
        ),
        (
            "openai-embeddings",
            json!({"object": "list", "data": [{"index": 0, "embedding": [0.5]}], "usage": {"prompt_tokens": 2}, "meta": null,
                "results": null}),
            &["/data"],
        ),
        (
            "vllm-rerank",
            json!({"results": [{"index": 0, "relevance_score": 0.5}], "usage": {"total_tokens": 4}, "error": null}),
            &["/results"],
        ),
    ]
}

fn read_whole(backend: &str, body: &str) -> RequestFuncOutput {
    let api = Backend::from_name(backend).unwrap().open_api(None).unwrap();
    let mut response = ReceivedResponse::with_capacity(Protocol { api, stream: false }, None, true);
    response.set_framed(true);
    response.push(ReadStamp { time: Nanos(1), lag: None, read: 1, ..ReadStamp::default() }, body.as_bytes()).unwrap();
    finish_stream(response)
}

#[test]
fn an_odd_field_never_costs_a_whole_response() {
    let mut wrong = Vec::new();
    for (backend, body, needed) in wholes() {
        let plain = read_whole(backend, &body.to_string());
        assert!(plain.success, "{backend}: {plain:?}");
        let twice = read_whole(backend, &with_keys_twice(&body));
        assert!(twice.success && twice.generated_text == plain.generated_text, "{backend}: {twice:?}");
        for pointer in pointers_of_fields(&body, "") {
            // Without what it needs, it must not be a success by accident; elements of a list need no certain form.
            if needed.contains(&pointer.as_str()) {
                continue;
            }
            for odd in if pointer.ends_with("/error") { &NOTHING[..] } else { &ODD_VALUES[..] } {
                let mut body = body.clone();
                *body.pointer_mut(&pointer).unwrap() = json!("ODD");
                let output = read_whole(backend, &body.to_string().replace("\"ODD\"", odd));
                // A list of one element that is null has no result.
                let lost = matches!(*odd, "null" | "NaN") && matches!(pointer.as_str(), "/data/0" | "/results/0");
                if !lost && (!output.success || output.generated_text != plain.generated_text) {
                    wrong.push(format!("{backend}: {pointer} = {odd}: {:?} {}", output.error_kind, output.error));
                }
            }
        }
        for error in [r#"{"code":400,"message":"boom"}"#, r#"{"error":{"message":"boom"}}"#, r#"{"detail":"boom"}"#] {
            let output = read_whole(backend, error);
            assert!(!output.success && output.error.contains("boom"), "{backend}: {error}: {output:?}");
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

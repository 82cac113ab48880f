//! Responses whose token counts are zero, partial, incremental or absurd, in every API.

use super::response::ReceivedResponse;
use crate::{
    backend::{Backend, Protocol},
    http::socket::ReadStamp,
    record::{RequestFuncOutput, TokenSource},
    units::Nanos,
};

/// The output of a response whose chunks arrive 20 ms apart. A tokenizer counts words, if there is one.
fn output_of(backend: &str, stream: bool, events: &[&str], tokenizer: bool) -> RequestFuncOutput {
    let api = Backend::from_name(backend).unwrap().open_api(None).unwrap();
    let protocol = Protocol { api, stream };
    let mut response = ReceivedResponse::with_capacity(protocol, Some(4), tokenizer);
    for (i, event) in events.iter().enumerate() {
        let arrival =
            ReadStamp { time: Nanos((i as u64 + 1) * 20_000_000), lag: None, read: i as u64, ..ReadStamp::default() };
        let bytes = if stream && backend != "ollama" { format!("data: {event}\n\n") } else { format!("{event}\n") };
        response.push(arrival, bytes.as_bytes()).unwrap();
    }
    let mut output = RequestFuncOutput { prompt_len: 7, expected_output_len: Some(4), ..RequestFuncOutput::default() };
    let count = |text: &str| tokenizer.then(|| u32::try_from(text.split_whitespace().count()).unwrap());
    response.finish(Nanos(0), None, count, &mut output);
    assert!(output.success, "{events:?}: {output:?}");
    output
}

/// Prompt, tokens, source, hidden tokens, and tokens per chunk, of a chat with these deltas and usages.
fn chat(chunks: &[(&str, &str)]) -> (u32, u32, Option<TokenSource>, u32, Option<Vec<u32>>) {
    let events: Vec<String> = chunks
        .iter()
        .map(|(delta, usage)| {
            let choice = if delta.is_empty() { String::new() } else { format!(r#"{{"index":0,"delta":{{{delta}}}}}"#) };
            let usage = if usage.is_empty() { String::new() } else { format!(r#","usage":{{{usage}}}"#) };
            format!(r#"{{"choices":[{choice}]{usage}}}"#)
        })
        .chain(["[DONE]".to_owned()])
        .collect();
    let events: Vec<&str> = events.iter().map(String::as_str).collect();
    let output = output_of("openai-chat", true, &events, false);
    (output.prompt_len, output.output_tokens, output.token_source, output.hidden_tokens, output.chunk_tokens)
}

const A: &str = r#""content":" word""#;
const R: &str = r#""reasoning_content":" think""#;
const USAGE: Option<TokenSource> = Some(TokenSource::Usage);
const CHUNKS: Option<TokenSource> = Some(TokenSource::Chunks);

#[test]
fn a_zero_is_not_a_count() {
    let zero = r#""prompt_tokens":0,"completion_tokens":0,"total_tokens":0"#;
    let count = r#""prompt_tokens":2,"completion_tokens":2,"total_tokens":4"#;
    assert_eq!(chat(&[(A, zero), (A, zero), ("", zero)]), (7, 2, CHUNKS, 0, None));
    assert_eq!(chat(&[(A, ""), (A, ""), ("", zero)]), (7, 2, CHUNKS, 0, None));
    assert_eq!(chat(&[(A, ""), (A, count), ("", zero)]), (2, 2, USAGE, 0, None), "a later zero");
    let only_total = r#""prompt_tokens":2,"completion_tokens":0,"total_tokens":6"#;
    assert_eq!(chat(&[(A, ""), (A, ""), ("", only_total)]), (2, 4, USAGE, 0, Some(vec![])));
}

#[test]
fn fewer_tokens_than_chunks_are_not_believed() {
    let usage = r#""prompt_tokens":2,"completion_tokens":1,"total_tokens":3"#;
    assert_eq!(chat(&[(A, ""), (A, ""), (A, ""), ("", usage)]), (2, 3, CHUNKS, 0, None));
}

#[test]
fn absurd_counts_are_unknown() {
    for count in ["4294967295", "2147483647", "1000000"] {
        let usage = format!(r#""prompt_tokens":{count},"completion_tokens":{count}"#);
        let (_, tokens, source, ..) = chat(&[(A, ""), (A, ""), ("", &usage)]);
        assert_eq!((tokens, source), (2, CHUNKS), "{count}");
    }
    let usage = r#""prompt_tokens":4294967295,"completion_tokens":2"#;
    assert_eq!(chat(&[(A, ""), (A, ""), ("", usage)]), (7, 2, USAGE, 0, None));
    let usage = r#""prompt_tokens":2,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":99}"#;
    let events = [format!(r#"{{"choices":[{{"delta":{{{A}}}}}],"usage":{{{usage}}}}}"#), "[DONE]".into()];
    let output = output_of("openai-chat", true, &[&events[0], &events[1]], false);
    assert_eq!(output.cached_tokens, None, "more than the prompt");
}

#[test]
fn counts_of_single_chunks_are_added() {
    let each = |n: u32| format!(r#""prompt_tokens":2,"completion_tokens":{n},"total_tokens":{}"#, n + 2);
    let [zero, one, two, six] = [0, 1, 2, 6].map(each);
    assert_eq!(chat(&[(A, &one), (A, &one), (A, &one), ("", &zero)]), (2, 3, USAGE, 0, None));
    let varied = chat(&[(A, &two), (A, &one), (A, &two), ("", "")]);
    assert_eq!(varied, (2, 5, USAGE, 0, Some(vec![2, 1, 2])));
    assert_eq!(chat(&[(A, &one), (A, &one), ("", &one)]), (2, 3, USAGE, 0, None), "with an end of sequence");
    let summary = chat(&[(A, &two), (A, &one), (A, &two), ("", &six)]);
    assert_eq!((summary.1, summary.2), (6, USAGE), "and the sum at the end");
    let cumulative = chat(&[(A, &two), (A, &two), (A, &six), ("", &six)]);
    assert_eq!((cumulative.1, cumulative.4), (6, Some(vec![])), "a token cut in two");
    assert_eq!(chat(&[(A, &two), (A, &six), ("", &six)]), (2, 6, USAGE, 0, Some(vec![2, 4])));
}

#[test]
fn reasoning_that_the_count_leaves_out_is_added() {
    let detail = r#""completion_tokens_details":{"reasoning_tokens":2}"#;
    let excluded = format!(r#""prompt_tokens":2,"completion_tokens":1,"total_tokens":5,{detail}"#);
    let chunks = |usage| [(R, ""), (R, ""), (A, ""), ("", usage)];
    assert_eq!(chat(&chunks(&excluded)), (2, 3, USAGE, 0, None));
    let no_total = format!(r#""prompt_tokens":2,"completion_tokens":1,{detail}"#);
    assert_eq!(chat(&chunks(&no_total)), (2, 3, USAGE, 0, None), "visible from the chunks");
    let included = format!(r#""prompt_tokens":2,"completion_tokens":3,"total_tokens":5,{detail}"#);
    assert_eq!(chat(&chunks(&included)), (2, 3, USAGE, 0, None));
    let cached = r#""prompt_tokens":2,"completion_tokens":2,"total_tokens":10,"cached_tokens":6"#;
    assert_eq!(chat(&[(A, ""), (A, ""), ("", cached)]), (8, 2, USAGE, 0, None), "the cached part of the prompt");
}

#[test]
fn tokens_that_no_chunk_showed_are_hidden() {
    let detail = r#""completion_tokens_details":{"reasoning_tokens":100}"#;
    let usage = format!(r#""prompt_tokens":2,"completion_tokens":104,"total_tokens":106,{detail}"#);
    let four = |usage| [(A, ""), (A, ""), (A, ""), (A, ""), ("", usage)];
    assert_eq!(chat(&four(&usage)), (2, 104, USAGE, 100, None));
    assert_eq!(chat(&four(r#""completion_tokens":104"#)), (7, 104, USAGE, 100, None), "more than the text can have");
    assert_eq!(chat(&four(r#""completion_tokens":12"#)), (7, 12, USAGE, 0, Some(vec![])), "three in each chunk");
    let running = |n: u32, total: u32| format!(r#""prompt_tokens":2,"completion_tokens":{n},"total_tokens":{total}"#);
    let [one, two, end] = [running(1, 12), running(2, 13), running(2, 104)];
    assert_eq!(chat(&[(A, &one), (A, &two), ("", &end)]), (2, 102, USAGE, 100, None));
    let [one, two] = [running(1, 9), running(2, 9)];
    assert_eq!(chat(&[(A, &one), (A, &two)]), (2, 2, USAGE, 0, None), "a total that does not grow");
    let tags = [
        (r#""content":"<think>hm""#, ""),
        (A, ""),
        ("", &*usage.replace("104", "9").replace("106", "11").replace("100", "4")),
    ];
    assert_eq!(chat(&tags).3, 0, "the reasoning is in the answer");
}

#[test]
fn a_pace_counts_the_tokens_that_arrived() {
    let one = |delta: &str, usage: &str| format!(r#"{{"choices":[{{"delta":{{{delta}}}}}],"usage":{{{usage}}}}}"#);
    let tpot = |events: &[String]| {
        let events: Vec<&str> = events.iter().map(String::as_str).chain(["[DONE]"]).collect();
        output_of("openai-chat", true, &events, false).tpot
    };
    let hidden = r#""completion_tokens":103,"reasoning_tokens":100"#;
    assert_eq!(tpot(&[one(A, ""), one(A, ""), one(A, hidden)]), Some(Nanos(20_000_000)));
    assert_eq!(tpot(&[one(A, r#""completion_tokens":4"#)]), None, "one chunk");
}

#[test]
fn every_api_is_held_against_its_chunks() {
    let responses = |usage: &str| {
        format!(r#"{{"type":"response.completed","response":{{"status":"completed","usage":{{{usage}}}}}}}"#)
    };
    let text = r#"{"type":"response.output_text.delta","delta":" word"}"#;
    let think = r#"{"type":"response.reasoning_text.delta","delta":" think"}"#;
    let zero = responses(r#""input_tokens":0,"output_tokens":0"#);
    let left_out = responses(r#""input_tokens":2,"output_tokens":1,"output_tokens_details":{"reasoning_tokens":2}"#);
    let hidden = responses(r#""input_tokens":2,"output_tokens":90,"output_tokens_details":{"reasoning_tokens":88}"#);
    let block = |delta: &str, usage: &str| format!(r#"{{"type":"content_block_delta","delta":{{{delta}}}{usage}}}"#);
    let (word, thought) = (block(r#""text":" word""#, ""), block(r#""thinking":" think""#, ""));
    let counted = block(r#""text":" words of two tokens""#, r#","usage":{"input_tokens":2,"output_tokens":2}"#);
    let start = r#"{"type":"message_start","message":{"usage":{"input_tokens":2,"output_tokens":1}}}"#;
    let end = |n: u32| {
        format!(r#"{{"type":"message_delta","delta":{{"stop_reason":"end_turn"}},"usage":{{"output_tokens":{n}}}}}"#)
    };
    let stop = r#"{"type":"message_stop"}"#;
    let line = |text: &str, rest: &str| format!(r#"{{"message":{{"content":"{text}"}}{rest}}}"#);
    let ended = |n: u32| line("", &format!(r#","done":true,"prompt_eval_count":0,"eval_count":{n}"#));
    let generated = |text: &str, n: u32, end: &str| {
        format!(
            r#"{{"text":"{text}","meta_info":{{"prompt_tokens":2,"completion_tokens":{n},"finish_reason":{end}}}}}"#
        )
    };
    let stops = r#"{"type":"stop"}"#;
    let token = |end: &str| format!(r#"{{"token":{{"text":" word"}}{end}}}"#);
    let details =
        r#","generated_text":"word","details":{"finish_reason":"length","generated_tokens":0,"input_length":0}"#;
    let triton = r#"{"text_output":" word"}"#;
    let completion = |usage: &str| format!(r#"{{"choices":[{{"text":" word"}}],"usage":{{{usage}}}}}"#);
    let owned = |events: &[&str]| events.iter().map(|event| (*event).to_owned()).collect::<Vec<String>>();
    let rows = [
        ("openai", owned(&[&completion(r#""completion_tokens":0"#), &completion(""), "[DONE]"]), (7, 2, 0)),
        ("openai-responses", owned(&[text, text, &zero]), (7, 2, 0)),
        ("openai-responses", owned(&[think, think, text, &left_out]), (2, 3, 0)),
        ("openai-responses", owned(&[text, text, &hidden]), (2, 90, 88)),
        ("anthropic", owned(&[start, &word, &word, &end(0), stop]), (2, 2, 0)),
        ("anthropic", owned(&[start, &word, &word, &end(2), &end(0), stop]), (2, 2, 0)),
        ("anthropic", owned(&[&counted, &counted, stop]), (2, 4, 0)),
        ("anthropic", owned(&[start, &thought, &word, &end(500), stop]), (2, 500, 498)),
        ("ollama", owned(&[&line(" word", ""), &line(" word", ""), &ended(0)]), (7, 2, 0)),
        ("ollama", owned(&[&line(" word", ""), &line(" word", ""), &ended(9)]), (7, 9, 0)),
        ("sglang", owned(&[&generated(" a", 0, "null"), &generated(" a b", 0, stops), "[DONE]"]), (2, 2, 0)),
        ("sglang", owned(&[&generated(" a", 1, "null"), &generated(" a b", 4, stops), "[DONE]"]), (2, 4, 0)),
        ("tgi", owned(&[&token(""), &token(details)]), (7, 2, 0)),
        ("tensorrt-llm", owned(&[triton, triton]), (7, 2, 0)),
        ("openai-audio", owned(&[&completion(r#""completion_tokens":0"#), &completion(""), "[DONE]"]), (7, 2, 0)),
    ];
    for (backend, events, want) in rows {
        let parts: Vec<&str> = events.iter().map(String::as_str).collect();
        let output = output_of(backend, true, &parts, false);
        assert_eq!((output.prompt_len, output.output_tokens, output.hidden_tokens), want, "{backend} {events:?}");
    }
}

#[test]
fn a_tokenizer_counts_all_that_was_generated() {
    let call = r#""tool_calls":[{"index":0,"function":{"name":"find","arguments":" the city"}}]"#;
    let delta = |index: u32, delta: &str| format!(r#"{{"choices":[{{"index":{index},"delta":{{{delta}}}}}]}}"#);
    let count = |backend: &str, stream: bool, events: &[&str]| {
        let output = output_of(backend, stream, events, true);
        (output.output_tokens, output.token_source.unwrap())
    };
    let events = [delta(0, R), delta(0, A), delta(0, call), delta(1, r#""content":" three more words""#)];
    let mut events: Vec<&str> = events.iter().map(String::as_str).collect();
    events.push("[DONE]");
    assert_eq!(count("openai-chat", true, &events), (8, TokenSource::Tokenizer));
    let cut = [&*delta(0, r#""content":"wo""#), &*delta(0, r#""content":"rd""#), "[DONE]"];
    assert_eq!(count("openai-chat", true, &cut), (2, TokenSource::Tokenizer), "never fewer than chunks");
    for (backend, body) in [
        (
            "openai",
            r#"{"choices":[{"index":0,"text":"one two"},{"index":1,"text":"three"}],"usage":{"completion_tokens":0}}"#,
        ),
        (
            "openai-chat",
            r#"{"choices":[{"message":{"content":"one","reasoning":"two","tool_calls":[{"function":{"name":" f","arguments":"{}"}}]}}]}"#,
        ),
        (
            "openai-responses",
            r#"{"status":"completed","output":[{"type":"reasoning","content":[{"type":"reasoning_text","text":"one"}]},
                {"type":"message","content":[{"type":"output_text","text":"two"}]},
                {"type":"function_call","name":" f","arguments":""}]}"#,
        ),
        (
            "anthropic",
            r#"{"content":[{"type":"thinking","thinking":"one"},{"type":"text","text":"two"},
                {"type":"tool_use","name":" f","input":{}}]}"#,
        ),
        ("ollama", r#"{"message":{"content":"one two","thinking":"three"},"done":true}"#),
        ("sglang", r#"{"text":"one two three","meta_info":{"finish_reason":{"type":"stop"},"completion_tokens":0}}"#),
        ("tgi", r#"{"generated_text":"one two three","details":{"finish_reason":"length","generated_tokens":0}}"#),
        ("tensorrt-llm", r#"{"text_output":["one two","three"],"num_output_tokens":0}"#),
        ("openai-audio", r#"{"text":"one two three"}"#),
    ] {
        assert_eq!(count(backend, false, &[body]), (3, TokenSource::Tokenizer), "{backend}");
        let unknown = output_of(backend, false, &[body], false);
        assert_eq!((unknown.output_tokens, unknown.token_source), (0, None), "{backend}");
    }
}

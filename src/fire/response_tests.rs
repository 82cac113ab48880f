//! Responses event by event: their times, their tokens, and how they end.

use super::response::ReceivedResponse;
use crate::{
    backend::Protocol,
    http::{exchange::RequestFailure, socket::ReadStamp},
    record::{ErrorKind, RequestFuncOutput, Stamp, Stamps, TokenSource},
    units::Nanos,
};

/// Feeds events one millisecond apart, the first at 11 ms, into a request that began at 10 ms.
fn output_of(events: &[&str], broken: Option<RequestFailure>) -> RequestFuncOutput {
    let mut response = ReceivedResponse::default();
    for (i, event) in events.iter().enumerate() {
        if response
            .push(arrival(i as u64, (11 + i as u64) * 1_000_000), format!("data: {event}\n\n").as_bytes())
            .is_err()
        {
            break;
        }
    }
    let mut output = RequestFuncOutput::default();
    response.finish(Nanos(10_000_000), broken, |text| u32::try_from(text.len()).ok(), &mut output);
    output
}

/// A read stamped in user space.
fn arrival(read: u64, time: u64) -> ReadStamp {
    ReadStamp { time: Nanos(time), lag: None, read, ..ReadStamp::default() }
}

fn ms(n: u64) -> Nanos {
    Nanos(n * 1_000_000)
}

const ROLE: &str = r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#;
const USAGE: &str =
    r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":4}}}"#;

fn text(text: &str) -> String {
    format!(r#"{{"choices":[{{"index":0,"text":"{text}","finish_reason":null}}]}}"#)
}

#[test]
fn tokens_and_nothing_else_make_the_times() {
    let last = r#"{"choices":[{"index":0,"delta":{"content":"c"},"finish_reason":null}]}"#;
    let end = r#"{"choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}]}"#;
    let reasoning = r#"{"choices":[{"index":0,"delta":{"reasoning":"hm"}}]}"#;
    let output = output_of(&[ROLE, reasoning, last, last, end, USAGE, "[DONE]"], None);
    assert!(output.success, "{output:?}");
    assert_eq!((output.ttft, output.ttft_answer, output.latency), (Some(ms(2)), Some(ms(3)), Some(ms(4))));
    assert_eq!(output.itl, [ms(1), ms(1)]);
    assert_eq!((output.output_tokens, output.token_source), (3, Some(TokenSource::Usage)));
    assert_eq!((output.prompt_len, output.cached_tokens, output.tpot), (5, Some(4), Some(ms(1))));
    assert_eq!((output.generated_text.as_deref(), output.finish_reason.as_deref()), (Some("cc"), Some("stop")));
    assert_eq!(output.chunk_tokens, None);
}

#[test]
fn an_error_inside_the_stream_is_a_failure() {
    let output = output_of(&[&text("a"), r#"{"error":{"message":"out of memory","code":500}}"#, "[DONE]"], None);
    assert!(!output.success);
    assert_eq!((output.error_kind, output.error.as_str()), (Some(ErrorKind::StreamError), "out of memory"));
    assert_eq!(output.ttft, Some(ms(1)), "what arrived is kept");
    let old = output_of(&[r#"{"object":"error","message":"boom"}"#], None);
    assert_eq!((old.error_kind, old.error.as_str()), (Some(ErrorKind::StreamError), "boom"));
}

#[test]
fn the_end_decides() {
    let finished = r#"{"choices":[{"index":0,"text":"b","finish_reason":"length"}]}"#;
    let reset = || Some(RequestFailure::new(ErrorKind::Reset, "reset"));
    let a = text("a");
    let unfinished = r#"{"choices":[{"index":0,"text":"b","finish_reason":""}]}"#;
    for (events, broken, kind) in [
        (vec![unfinished], None, Some(ErrorKind::Truncated)),
        (vec![unfinished, "[DONE]"], None, None),
        (vec![a.as_str()], None, Some(ErrorKind::Truncated)),
        (vec![&a, "[DONE]"], None, None),
        (vec![&a, finished], None, None),
        (vec![&a, "[DONE]"], reset(), None),
        (vec![&a, finished], reset(), Some(ErrorKind::Reset)),
        (vec![&a], reset(), Some(ErrorKind::Reset)),
        (vec![ROLE, USAGE, "[DONE]"], None, Some(ErrorKind::Empty)),
        (vec!["[DONE]"], None, Some(ErrorKind::Empty)),
        (vec!["", &a, " ", "[DONE] "], None, None),
        (vec![], None, Some(ErrorKind::Truncated)),
        (vec![&a, "{oops"], None, Some(ErrorKind::Protocol)),
        (vec![&a, r#"{"choices":"none"}"#], None, Some(ErrorKind::Truncated)),
        (vec![&a, r#"{"choices":"none"}"#, "[DONE]"], None, None),
        (vec![r#"{"choices":"none"}"#, "[DONE]"], None, Some(ErrorKind::Protocol)),
    ] {
        let output = output_of(&events, broken);
        assert_eq!((output.error_kind, output.success), (kind, kind.is_none()), "{events:?}");
    }
}

#[test]
fn a_body_without_an_event_is_quoted() {
    for (body, want) in [
        (&[r#"{"error":{"message":"boom"}}"#][..], "the server answered JSON, not an event stream: boom"),
        (&["{\"error\":", "{\"message\":\"boom\"}}\n"], "the server answered JSON, not an event stream: boom"),
        (&["{\n  \"error\":\n", "\"boom\"}\n"], "the server answered JSON, not an event stream: boom"),
        (&["{\"error\":", "{\"mess"], "the stream ended after 0 chunks, within another"),
        (&["<html><title>busy</title>"], "the response is not an event stream: busy"),
        (&["data lost: ", "no upstream\n\n"], "the response is not an event stream: data lost: no upstream"),
        (&[": ping\n\n", ": ping\n\n"], "the stream ended after 0 chunks, before [DONE] or a finish reason"),
        (&["\u{feff}\r\ndata: {\"choi"], "the stream ended after 0 chunks, within another"),
        (&["\n"], "the stream ended after 0 chunks, before [DONE] or a finish reason"),
        (&[], "the stream ended after 0 chunks, before [DONE] or a finish reason"),
    ] {
        let mut response = ReceivedResponse::default();
        for bytes in body {
            response.push(arrival(1, 1), bytes.as_bytes()).unwrap();
        }
        let mut output = RequestFuncOutput::default();
        response.finish(Nanos(0), None, |_| None, &mut output);
        assert_eq!(output.error, want);
        let kind = if want.contains(", not an") || want.contains("is not an") {
            ErrorKind::Protocol
        } else {
            ErrorKind::Truncated
        };
        assert_eq!(output.error_kind, Some(kind), "{want}");
    }
}

#[test]
fn chunks_are_not_tokens() {
    let ids = |n: usize| format!(r#"{{"choices":[{{"index":0,"text":"ab","token_ids":{:?}}}]}}"#, vec![7; n]);
    let output = output_of(&[&ids(1), &ids(3), "[DONE]"], None);
    assert_eq!((output.output_tokens, output.token_source), (4, Some(TokenSource::TokenIds)));
    assert_eq!(output.chunk_tokens, Some(vec![1, 3]));

    let so_far = |n: u32| format!(r#"{{"choices":[{{"index":0,"text":"ab"}}],"usage":{{"completion_tokens":{n}}}}}"#);
    let output = output_of(&[&so_far(2), &so_far(5), "[DONE]"], None);
    assert_eq!((output.output_tokens, output.chunk_tokens), (5, Some(vec![2, 3])));

    let output = output_of(&[&text("a"), USAGE, "[DONE]"], None);
    assert_eq!((output.output_tokens, output.chunk_tokens), (3, Some(vec![])), "three tokens in one chunk, unsaid");

    let output = output_of(&[&text("a"), &text("bc"), "[DONE]"], None);
    assert_eq!((output.output_tokens, output.token_source), (3, Some(TokenSource::Tokenizer)));
}

#[test]
fn absurd_counts_are_not_believed() {
    let most = r#"{"choices":[{"text":"a"}],"usage":{"completion_tokens":4294967295}}"#;
    let none = r#"{"choices":[{"text":"a","token_ids":[7]}],"usage":{"completion_tokens":0}}"#;
    let unsaid = r#"{"choices":[{"text":"a","token_ids":[7]}],"usage":{}}"#;
    let output = output_of(&[most, none, most, unsaid, "[DONE]"], None);
    assert_eq!((output.success, output.output_tokens), (true, 4));
}

#[test]
fn chunks_of_one_read_share_a_stamp_and_are_counted() {
    let mut response = ReceivedResponse::default();
    let one = format!("data: {}\n\n", text("a"));
    let reads = [(1, 5_000_000), (2, 100), (2, 100), (2, 100), (3, 2_000_000), (3, 2_000_000)];
    for (n, lag) in reads {
        let arrival = ReadStamp { time: Nanos(n * 100), lag: Some(Nanos(lag)), read: n, ..ReadStamp::default() };
        response.push(arrival, one.as_bytes()).unwrap();
    }
    response.push(arrival(4, 400), one.as_bytes()).unwrap();
    // A token cut in two belongs to the read that completes it.
    response.push(arrival(5, 500), &one.as_bytes()[..9]).unwrap();
    response.push(ReadStamp { lag: Some(Nanos(1)), ..arrival(6, 600) }, &one.as_bytes()[9..]).unwrap();
    let stamps = response.stamps();
    let want = Stamps { chunks: 8, coalesced: 3, user: 1, late: 3, late_coalesced: 1, ..Stamps::default() };
    assert_eq!(stamps, want);
    let mut output = RequestFuncOutput::default();
    response.finish(Nanos(0), None, |_| None, &mut output);
    assert_eq!((output.stamp, output.coalesced, output.read_lag_max), (Stamp::Kernel, 3, Some(ms(5))));
    assert_eq!(output.read_lag.unwrap().len(), output.itl.len() + 1);
    assert_eq!(output.latency, Some(Nanos(600)));
}

#[test]
fn chunks_that_were_read_late_get_the_times_of_their_packets() {
    let mut response = ReceivedResponse::default();
    let reasoning = format!("data: {}\n\n", r#"{"choices":[{"index":0,"delta":{"reasoning":"hm"}}]}"#);
    let answer = format!("data: {}\n\n", r#"{"choices":[{"index":0,"delta":{"content":"a"}}]}"#);
    // The first comes alone, three wait together, and the last one comes alone. Bytes 0 to 99 were the head.
    let mut end = 100;
    let mut ends = Vec::new();
    for (read, events) in [(1, &[&reasoning][..]), (2, &[&reasoning, &answer, &answer]), (3, &[&answer])] {
        let bytes: String = events.iter().map(|event| event.as_str()).collect();
        ends.extend(events.iter().scan(end, |end, event| {
            *end += event.len() as u64;
            Some(*end)
        }));
        end += bytes.len() as u64;
        let lag = if read == 2 { ms(30) } else { Nanos(1_000) };
        let arrival = ReadStamp { time: ms(read * 50), lag: Some(lag), read, end: Some(end) };
        response.push(arrival, bytes.as_bytes()).unwrap();
    }
    response.parse_remaining(false);
    assert_eq!(response.stamps().coalesced, 2);
    // Of the last chunk the packet was missed, and the one before it has an absurd time.
    let packets = [Some(ms(50)), Some(ms(60)), Some(ms(80)), Some(ms(500)), None];
    response.use_packet_times(ms(10), |end| packets[ends.iter().position(|other| *other == end).unwrap()]);
    let want = Stamps { chunks: 5, packets: 3, coalesced: 2, late_coalesced: 2, late: 3, ..Stamps::default() };
    assert_eq!(response.stamps(), want);
    let mut output = RequestFuncOutput::default();
    response.finish(ms(10), None, |_| None, &mut output);
    assert_eq!((output.ttft, output.ttft_answer, output.latency), (Some(ms(40)), Some(ms(70)), Some(ms(140))));
    assert_eq!(output.itl, [10, 20, 20, 50].map(ms));
    assert_eq!(output.read_lag.unwrap()[1..4], [ms(70), ms(50), ms(30)]);
    assert_eq!(output.stamp, Stamp::Kernel, "not all are known");
}

#[test]
fn a_chunk_with_the_stamp_of_a_later_one_is_bounded_by_what_the_reader_knows() {
    let one = format!("data: {}\n\n", text("a"));
    // Reads at 20, 40 and 60 ms: one chunk, three, and two with the end.
    let reads = [(1, 20, 1), (2, 40, 3), (3, 60, 2)];
    let stamp_error = |earliest: [u64; 3]| {
        let mut response = ReceivedResponse::default();
        for ((n, at, chunks), earliest) in reads.into_iter().zip(earliest) {
            for _ in 0..chunks {
                response
                    .push(ReadStamp { time: ms(at), lag: Some(ms(1)), read: n, ..ReadStamp::default() }, one.as_bytes())
                    .unwrap();
                if response.has_joined_chunks() {
                    response.bound_error(Nanos(earliest * 1_000));
                }
            }
            assert!(!response.has_joined_chunks());
        }
        response
            .push(ReadStamp { time: ms(60), lag: Some(ms(1)), read: 3, ..ReadStamp::default() }, b"data: [DONE]\n\n")
            .unwrap();
        assert!(!response.has_joined_chunks(), "the end follows its token at once");
        let mut output = RequestFuncOutput::default();
        response.finish(Nanos(0), None, |_| None, &mut output);
        assert_eq!(output.coalesced, 3);
        output.stamp_error
    };
    let joined = [(1, ms(15)), (2, ms(15)), (4, ms(2))];
    assert_eq!(stamp_error([0, 25_000, 58_000]), Some(joined.to_vec()));
    assert_eq!(stamp_error([0, 39_950, 59_990]), None, "the server sent them together");
    let since_the_last_read = [(1, ms(20)), (2, ms(20)), (4, ms(20))];
    assert_eq!(stamp_error([0, 0, 0]), Some(since_the_last_read.to_vec()));
}

#[test]
fn a_non_streaming_response_has_as_many_tokens_as_are_counted() {
    let protocol = Protocol { stream: false, ..Protocol::default() };
    let tokens = |usage: &str, count: Option<u32>| {
        let mut response = ReceivedResponse::with_capacity(protocol, None, true);
        let body = format!(r#"{{"choices":[{{"index":0,"text":"a b","finish_reason":"stop"}}]{usage}}}"#);
        response.push(arrival(1, 1), body.as_bytes()).unwrap();
        let mut output = RequestFuncOutput::default();
        response.finish(Nanos(0), None, |_| count, &mut output);
        assert!(output.success, "{output:?}");
        (output.output_tokens, output.token_source, output.chunk_tokens)
    };
    assert_eq!(tokens(r#","usage":{"completion_tokens":2}"#, None), (2, Some(TokenSource::Usage), Some(vec![])));
    assert_eq!(tokens("", Some(3)), (3, Some(TokenSource::Tokenizer), Some(vec![])));
    assert_eq!(tokens("", None), (0, None, Some(vec![])), "without chunks");
}

#[test]
fn a_body_that_waits_to_be_read_counts_as_memory() {
    let protocol = Protocol { stream: false, ..Protocol::default() };
    let mut response = ReceivedResponse::with_capacity(protocol, None, true);
    response.push(arrival(1, 1), &vec![b' '; 1 << 20]).unwrap();
    assert!(response.heap_bytes() >= 1 << 20);
}

#[test]
fn an_event_called_error_is_one() {
    let mut response = ReceivedResponse::default();
    let failure = response.push(arrival(1, 1), b"event: error\ndata: {\"message\":\"overloaded\"}\n\n").unwrap_err();
    assert_eq!((failure.kind, failure.message.as_str()), (ErrorKind::StreamError, "overloaded"));
}

#[test]
fn a_keep_alive_is_not_a_chunk() {
    let mut response = ReceivedResponse::default();
    for name in ["ping", "keepalive"] {
        response.push(arrival(1, 1), format!("event: {name}\ndata: still here\n\n").as_bytes()).unwrap();
    }
    assert!(!response.has_token());
}

#[test]
fn every_choice_must_be_finished() {
    let choice = |index: u32, reason: &str| {
        format!(r#"{{"choices":[{{"index":{index},"text":"a","finish_reason":{reason}}}]}}"#)
    };
    let (a, b) = (choice(0, "\"length\""), choice(1, "null"));
    assert_eq!(output_of(&[&b, &a], None).error_kind, Some(ErrorKind::Truncated));
    assert!(output_of(&[&b, &a, &choice(1, "\"length\"")], None).success);
    assert!(output_of(&[&b, &a, "[DONE]"], None).success);
    let reason = |events: &[&str]| output_of(events, None).finish_reason;
    assert_eq!(reason(&[&a, &choice(1, "\"stop\"")]).as_deref(), Some("length"), "the first one's");
}

#[test]
fn a_token_whose_text_is_held_back_is_still_a_token() {
    let held = r#"{"choices":[{"index":0,"text":"","finish_reason":"length"}]}"#;
    let usage = |n: u32| format!(r#"{{"choices":[],"usage":{{"prompt_tokens":5,"completion_tokens":{n}}}}}"#);
    let output = output_of(&[held, &usage(1), "[DONE]"], None);
    assert!(output.success, "{output:?}");
    assert_eq!((output.ttft, output.latency, output.output_tokens), (Some(ms(1)), Some(ms(1)), 1));
    assert_eq!((output.itl.len(), output.chunk_tokens), (0, None));
    assert_eq!(output_of(&[held, &usage(0), "[DONE]"], None).error_kind, Some(ErrorKind::Empty));
    let chat = r#"{"choices":[{"index":0,"delta":{"content":""},"finish_reason":"length"}]}"#;
    assert_eq!(output_of(&[ROLE, chat, &usage(1), "[DONE]"], None).ttft, Some(ms(2)), "not the opener's time");
    let role_again = r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":"length"}]}"#;
    assert_eq!(output_of(&[ROLE, role_again, &usage(1), "[DONE]"], None).ttft, Some(ms(2)), "a role in every chunk");
}

#[test]
fn the_same_bytes_give_the_same_response_however_they_are_split() {
    let stream = format!("data:{}\r\n\r\n: hi\n\ndata: {}\n\ndata: [DONE]", text("é"), text("ü"));
    for size in 1..stream.len() {
        let mut response = ReceivedResponse::default();
        for bytes in stream.as_bytes().chunks(size) {
            response.push(arrival(1, 1), bytes).unwrap();
        }
        let mut output = RequestFuncOutput::default();
        response.finish(Nanos(0), None, |_| None, &mut output);
        assert!(output.success, "{size}");
        assert_eq!((output.generated_text.as_deref(), output.output_tokens), (Some("éü"), 2));
    }
}

//! One request as the client saw it.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Object,
    json_writer::{ObjectWriter, WriteJson},
};
use crate::units::{Nanos, UnixNanos};

/// One request as the client saw it: written by `vb-fire`, read by all other tools.
///
/// The names come from vLLM's `RequestFuncOutput`. Durations are seconds of the monotonic clock, instants are Unix
/// seconds; `null` means that the event did not happen or the number is unknown.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RequestFuncOutput {
    /// Always `"output"`.
    #[serde(rename = "type")]
    pub kind: OutputType,
    /// The run of the request.
    pub run_id: String,
    /// The server of the request; absent if the run has a single server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// As in the request, and sent to the server as `x-request-id`.
    pub request_id: String,
    /// As in the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// As in the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub turn: Option<u32>,
    /// As in the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Object>,

    /// Whether the complete response arrived: at least one token, and `[DONE]` or a finish reason.
    pub success: bool,
    /// The error in one line, with the server's message if it sent one; empty on success.
    pub error: String,
    /// The kind of failure; `null` on success.
    pub error_kind: Option<ErrorKind>,
    /// The HTTP status; `null` if no response head arrived.
    pub status: Option<u16>,
    /// Why the server stopped generating, as the server reports it (`length`, `stop`, …).
    pub finish_reason: Option<String>,

    /// Prompt tokens: the server's usage, else `prompt_len` of the request, else 0.
    pub prompt_len: u32,
    /// `prompt_len` of the request, to be compared with the server's count. Absent: the request has none, or its prompt got
    /// responses or has media, which are not in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_prompt_len: Option<u32>,
    /// Output tokens, counted as `token_source` says.
    pub output_tokens: u32,
    /// As in the request; for each choice, if there are several.
    pub expected_output_len: Option<u32>,
    /// The number of choices (`n`) that the server generated. Absent: one at most.
    #[serde(skip_serializing_if = "is_one_at_most")]
    pub choices: u32,
    /// As in the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_cached_len: Option<u32>,
    /// Prompt tokens that were prefix cache hits, if the server reports it.
    pub cached_tokens: Option<u32>,
    /// Output tokens that were reasoning, if the server reports it.
    pub reasoning_tokens: Option<u32>,
    /// Where `output_tokens` comes from; `null` without tokens.
    pub token_source: Option<TokenSource>,
    /// Output tokens that no chunk showed, as reasoning that is not sent: not part of `tpot` and `chunk_tokens`. Absent: 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub hidden_tokens: u32,
    /// Tokens in each counted chunk: one more entry than `itl`. Absent: each chunk has one token.
    /// Empty: some chunks had more than one, and the server did not report which.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk_tokens: Option<Vec<u32>>,

    /// When the request was due: in an open loop by the schedule, in a closed loop when a slot became free.
    pub scheduled_time: UnixNanos,
    /// When the first byte of the request was handed to the socket.
    pub start_time: Option<UnixNanos>,
    /// `start_time` − `scheduled_time`: the wait for a slot, the connection, and the client's own delay.
    pub queue_time: Option<Nanos>,
    /// From `start_time` to the first token-bearing chunk.
    pub ttft: Option<Nanos>,
    /// From `start_time` to the last token-bearing chunk (E2EL).
    pub latency: Option<Nanos>,
    /// The gaps between token-bearing chunks.
    pub itl: Vec<Nanos>,
    /// (`latency` − `ttft`) / (`output_tokens` − `hidden_tokens` − 1); `null` for fewer than two tokens, or a single chunk.
    pub tpot: Option<Nanos>,
    /// From `start_time` to the first chunk that is not reasoning.
    pub ttft_answer: Option<Nanos>,
    /// Other times of the request.
    pub phases: Phases,
    /// Whether the request used an open connection.
    pub reused: bool,
    /// Whether it was sent again on a new connection, because the server closed the open one before it saw the request. All times
    /// count from the second sending. Absent: false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub resent: bool,
    /// Who stamped the chunks.
    pub stamp: Stamp,
    /// The longest delay between the kernel's receive stamp and the read; `null` for user-space stamps.
    pub read_lag_max: Option<Nanos>,
    /// With `--read-lags`: that delay for each token-bearing chunk, one more entry than `itl`; 0 if the chunk was stamped
    /// in user space. A chunk's stamp plus its lag is the time that a client without kernel stamps measures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_lag: Option<Vec<Nanos>>,
    /// Token-bearing chunks that one read returned together with a later chunk: they carry the later chunk's stamp, so they
    /// may have arrived earlier. Absent: 0.
    #[serde(skip_serializing_if = "is_zero")]
    pub coalesced: u32,
    /// The coalesced chunks that may have waited for the client: the number of the token-bearing chunk, from 0, and by how much it may
    /// have arrived before its stamp, if by 0.1 ms or more. Absent: none, or they were stamped in user space.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stamp_error: Option<Vec<(u32, Nanos)>>,
    /// Whether its chunks were held back on their way and arrived in bursts: its `ttft`, `itl` and `tpot` show a buffer. Absent:
    /// false.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub buffered: bool,
    /// The server's own times for the request, if it reports them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerTimes>,
    /// The text of the first choice without reasoning; absent with `--no-text`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generated_text: Option<String>,
}

impl WriteJson for RequestFuncOutput {
    fn write_json(&self, out: &mut Vec<u8>) {
        let mut object = ObjectWriter::new(out);
        object.field("type", "output");
        object.field("run_id", &self.run_id);
        object.optional_field("base_url", self.base_url.as_ref());
        object.field("request_id", &self.request_id);
        object.optional_field("session_id", self.session_id.as_ref());
        object.optional_field("turn", self.turn.as_ref());
        object.optional_field("tags", self.tags.as_ref());
        object.field("success", &self.success);
        object.field("error", &self.error);
        object.field("error_kind", &self.error_kind);
        object.field("status", &self.status);
        object.field("finish_reason", &self.finish_reason);
        object.field("prompt_len", &self.prompt_len);
        object.optional_field("expected_prompt_len", self.expected_prompt_len.as_ref());
        object.field("output_tokens", &self.output_tokens);
        object.field("expected_output_len", &self.expected_output_len);
        object.optional_field("choices", Some(&self.choices).filter(|n| !is_one_at_most(n)));
        object.optional_field("expected_cached_len", self.expected_cached_len.as_ref());
        object.field("cached_tokens", &self.cached_tokens);
        object.field("reasoning_tokens", &self.reasoning_tokens);
        object.field("token_source", &self.token_source);
        object.optional_field("hidden_tokens", Some(&self.hidden_tokens).filter(|n| !is_zero(n)));
        object.optional_field("chunk_tokens", self.chunk_tokens.as_ref());
        object.field("scheduled_time", &self.scheduled_time);
        object.field("start_time", &self.start_time);
        object.field("queue_time", &self.queue_time);
        object.field("ttft", &self.ttft);
        object.field("latency", &self.latency);
        object.field("itl", &self.itl);
        object.field("tpot", &self.tpot);
        object.field("ttft_answer", &self.ttft_answer);
        object.field("phases", &self.phases);
        object.field("reused", &self.reused);
        object.optional_field("resent", Some(&self.resent).filter(|resent| **resent));
        object.field("stamp", &self.stamp);
        object.field("read_lag_max", &self.read_lag_max);
        object.optional_field("read_lag", self.read_lag.as_ref());
        object.optional_field("coalesced", Some(&self.coalesced).filter(|n| !is_zero(n)));
        object.optional_field("stamp_error", self.stamp_error.as_ref());
        object.optional_field("buffered", Some(&self.buffered).filter(|buffered| **buffered));
        object.optional_field("server", self.server.as_ref());
        object.optional_field("generated_text", self.generated_text.as_ref());
        object.end();
    }
}

impl WriteJson for Phases {
    fn write_json(&self, out: &mut Vec<u8>) {
        let mut object = ObjectWriter::new(out);
        object.field("connect", &self.connect);
        object.field("tls", &self.tls);
        object.field("send", &self.send);
        object.field("first_byte", &self.first_byte);
        object.field("headers", &self.headers);
        object.field("done", &self.done);
        object.end();
    }
}

impl WriteJson for ServerTimes {
    fn write_json(&self, out: &mut Vec<u8>) {
        let mut object = ObjectWriter::new(out);
        object.field("queue_time", &self.queue_time);
        object.field("ttft", &self.ttft);
        object.end();
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde requires a reference")]
fn is_one_at_most(n: &u32) -> bool {
    *n <= 1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde requires a reference")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// The value of `type` in an output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OutputType {
    /// The only value.
    #[default]
    #[serde(rename = "output")]
    Output,
}

/// Times of a request other than its tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Phases {
    /// How long the TCP connection took; `null` for a reused connection.
    pub connect: Option<Nanos>,
    /// How long the TLS handshake took; `null` without a handshake.
    pub tls: Option<Nanos>,
    /// From `start_time` until the last byte of the request was handed to the socket.
    pub send: Option<Nanos>,
    /// From `start_time` to the first byte of the response.
    pub first_byte: Option<Nanos>,
    /// From `start_time` to the end of the response head.
    pub headers: Option<Nanos>,
    /// From `start_time` to the end of the response or the failure; from `scheduled_time` if the request was not sent.
    pub done: Option<Nanos>,
}

/// Times that the server reports for a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ServerTimes {
    /// Time in the server's queue.
    pub queue_time: Option<Nanos>,
    /// Time to the first token as the server measures it: vLLM 0.32 starts at the request's first step, after the queue.
    pub ttft: Option<Nanos>,
}

/// Who stamped the arrival of a chunk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stamp {
    /// The kernel, when the packet that completed the chunk arrived (`--stamps packets`).
    Packet,
    /// The kernel, when the bytes reached the socket.
    Kernel,
    /// This program, when the read returned and before parsing.
    #[default]
    User,
}

impl Stamp {
    /// The name in the records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Stamp::Packet => "packet",
            Stamp::Kernel => "kernel",
            Stamp::User => "user",
        }
    }
}

/// The source of a token count, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenSource {
    /// The server's `usage`.
    Usage,
    /// The token ids in the chunks.
    TokenIds,
    /// The output, tokenized by the client: approximate.
    Tokenizer,
    /// One token per chunk: a lower bound.
    Chunks,
}

impl TokenSource {
    /// All sources.
    pub const ALL: [TokenSource; 4] =
        [TokenSource::Usage, TokenSource::TokenIds, TokenSource::Tokenizer, TokenSource::Chunks];

    /// The name in the records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            TokenSource::Usage => "usage",
            TokenSource::TokenIds => "token_ids",
            TokenSource::Tokenizer => "tokenizer",
            TokenSource::Chunks => "chunks",
        }
    }
}

/// How a request failed. `docs/FORMAT.md` defines each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// No connection: refused or unreachable.
    Connect,
    /// The host name has no address.
    Dns,
    /// The TLS handshake failed.
    Tls,
    /// No connection within `--timeout-connect`.
    TimeoutConnect,
    /// No token within `--timeout-first-token`.
    TimeoutFirstToken,
    /// No byte for `--timeout-stall` after the first token.
    TimeoutStall,
    /// Not finished within `--timeout-total`.
    TimeoutTotal,
    /// An HTTP status other than 2xx.
    HttpStatus,
    /// An error object inside a stream that began with 200.
    StreamError,
    /// The stream was closed within a chunk, or before `[DONE]` or a finish reason.
    Truncated,
    /// The connection was reset, or closed before a response.
    Reset,
    /// Not an event stream, not JSON, or broken HTTP.
    Protocol,
    /// A complete response without tokens.
    Empty,
    /// Cancelled because the user stopped the run.
    Cancelled,
    /// Cancelled on purpose (`--cancel-rate`): neither a success nor a failure of the server.
    Abandoned,
    /// Due, but never sent: the run ended first, or an earlier turn of its session failed.
    NotSent,
}

impl ErrorKind {
    /// All kinds, in the order of the documentation.
    pub const ALL: [ErrorKind; 16] = [
        ErrorKind::Connect,
        ErrorKind::Dns,
        ErrorKind::Tls,
        ErrorKind::TimeoutConnect,
        ErrorKind::TimeoutFirstToken,
        ErrorKind::TimeoutStall,
        ErrorKind::TimeoutTotal,
        ErrorKind::HttpStatus,
        ErrorKind::StreamError,
        ErrorKind::Truncated,
        ErrorKind::Reset,
        ErrorKind::Protocol,
        ErrorKind::Empty,
        ErrorKind::Cancelled,
        ErrorKind::Abandoned,
        ErrorKind::NotSent,
    ];

    /// The name in the records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::Connect => "connect",
            ErrorKind::Dns => "dns",
            ErrorKind::Tls => "tls",
            ErrorKind::TimeoutConnect => "timeout_connect",
            ErrorKind::TimeoutFirstToken => "timeout_first_token",
            ErrorKind::TimeoutStall => "timeout_stall",
            ErrorKind::TimeoutTotal => "timeout_total",
            ErrorKind::HttpStatus => "http_status",
            ErrorKind::StreamError => "stream_error",
            ErrorKind::Truncated => "truncated",
            ErrorKind::Reset => "reset",
            ErrorKind::Protocol => "protocol",
            ErrorKind::Empty => "empty",
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::Abandoned => "abandoned",
            ErrorKind::NotSent => "not_sent",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// An output in which nothing is absent.
    fn full_output() -> RequestFuncOutput {
        let times = |n: u64| (0..n).map(|i| Nanos(i * i * 1_234_567)).collect::<Vec<_>>();
        RequestFuncOutput {
            kind: OutputType::Output,
            run_id: "run".into(),
            base_url: Some("http://h:1".into()),
            request_id: "r\"1\"".into(),
            session_id: Some("s".into()),
            turn: Some(2),
            tags: json!({"a": [1, {"b": "c\n"}], "x": 0.5, "n": null}).as_object().cloned(),
            success: true,
            error: "too\tlong".into(),
            error_kind: Some(ErrorKind::HttpStatus),
            status: Some(503),
            finish_reason: Some("length".into()),
            prompt_len: 7,
            expected_prompt_len: Some(8),
            output_tokens: 9,
            expected_output_len: Some(10),
            choices: 2,
            expected_cached_len: Some(11),
            cached_tokens: Some(12),
            reasoning_tokens: Some(13),
            token_source: Some(TokenSource::TokenIds),
            hidden_tokens: 14,
            chunk_tokens: Some(vec![1, 20, 300]),
            scheduled_time: UnixNanos(1_796_104_872_128_931_532),
            start_time: Some(UnixNanos(1_796_104_872_000_000_001)),
            queue_time: Some(Nanos(1)),
            ttft: Some(Nanos(1500)),
            latency: Some(Nanos(12_000_000_000)),
            itl: times(9),
            tpot: Some(Nanos(41_500_000)),
            ttft_answer: Some(Nanos(0)),
            phases: Phases {
                connect: Some(Nanos(1)),
                tls: Some(Nanos(2)),
                send: Some(Nanos(3)),
                first_byte: Some(Nanos(4)),
                headers: Some(Nanos(5)),
                done: Some(Nanos(6)),
            },
            reused: true,
            resent: true,
            stamp: Stamp::Kernel,
            read_lag_max: Some(Nanos(99_999)),
            read_lag: Some(times(10)),
            coalesced: 15,
            stamp_error: Some(vec![(0, Nanos(16)), (17, Nanos(1_000_000))]),
            buffered: true,
            server: Some(ServerTimes { queue_time: Some(Nanos(7)), ttft: None }),
            generated_text: Some("a\u{1}é\\".into()),
        }
    }

    #[test]
    fn an_output_is_written_as_serde_does() {
        let full = serde_json::to_value(full_output()).unwrap();
        let keys = full.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert!(keys.iter().all(|key| key == "server" || !full[key].is_null()), "{full}");
        // Without each field in turn, and without all.
        let without = |gone: &[String]| {
            let left = full.as_object().unwrap().iter().filter(|(key, _)| !gone.contains(key));
            Value::Object(left.map(|(key, value)| (key.clone(), value.clone())).collect())
        };
        let cases = keys.iter().map(|key| without(std::slice::from_ref(key))).chain([full.clone(), without(&keys)]);
        for case in cases {
            let output: RequestFuncOutput = serde_json::from_value(case).unwrap();
            let mut line = Vec::new();
            output.write_json(&mut line);
            assert_eq!(String::from_utf8(line).unwrap(), serde_json::to_string(&output).unwrap());
        }
    }

    #[test]
    fn names_are_the_values_in_the_records() {
        for kind in ErrorKind::ALL {
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{}\"", kind.name()));
        }
        for source in TokenSource::ALL {
            assert_eq!(serde_json::to_string(&source).unwrap(), format!("\"{}\"", source.name()));
        }
    }

    #[test]
    fn an_output_may_lack_unknown_values() {
        let output: RequestFuncOutput = serde_json::from_str(r#"{"success":true,"ttft":0.25,"latency":1}"#).unwrap();
        assert_eq!(output.ttft, Some(Nanos(250_000_000)));
        assert_eq!(output.itl, []);
    }
}

//! One request as the client saw it.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Object;
use crate::units::{Nanos, UnixNanos};

/// One request as the client saw it: written by `vb-fire`, read by everything else.
///
/// The names are those of vLLM's `RequestFuncOutput`. Durations are seconds of the monotonic clock, instants are Unix
/// seconds; `null` means that the moment never came or the number is not known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RequestFuncOutput {
    /// Always `"output"`.
    #[serde(rename = "type")]
    pub kind: OutputType,
    /// The run it belongs to.
    pub run_id: String,
    /// The server that it was sent to; absent where there was one only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// As in the request, and as the server saw it in `x-request-id`.
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

    /// Whether the whole answer arrived: at least one token, and `[DONE]` or a finish reason.
    pub success: bool,
    /// What went wrong, in one line, with the server's own words where it gave any; empty on success.
    pub error: String,
    /// The kind of failure; `null` on success.
    pub error_kind: Option<ErrorKind>,
    /// The HTTP status; `null` when no head of an answer arrived.
    pub status: Option<u16>,
    /// Why the server stopped generating, in its words (`length`, `stop`, …).
    pub finish_reason: Option<String>,

    /// Prompt tokens: the server's usage, else the request's own `prompt_len`, else 0.
    pub prompt_len: u32,
    /// Generated tokens, counted as `token_source` says.
    pub output_tokens: u32,
    /// As in the request.
    pub expected_output_len: Option<u32>,
    /// As in the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_cached_len: Option<u32>,
    /// Prompt tokens that the server took from its prefix cache, when it says.
    pub cached_tokens: Option<u32>,
    /// Generated tokens that were reasoning, when the server says.
    pub reasoning_tokens: Option<u32>,
    /// Where `output_tokens` comes from; `null` when there is no token.
    pub token_source: Option<TokenSource>,
    /// Tokens in each counted chunk: one more entry than `itl`. Absent: each chunk has one token.
    /// Empty: some chunks had more than one and the server did not say which.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk_tokens: Option<Vec<u32>>,

    /// When the request was due: by the schedule in an open loop, when its slot was free in a closed one.
    pub scheduled_time: UnixNanos,
    /// When its first byte was handed to the socket.
    pub start_time: Option<UnixNanos>,
    /// `start_time` − `scheduled_time`: waiting for a slot, connecting, and the client's own lateness.
    pub queue_time: Option<Nanos>,
    /// `start_time` → first token-bearing chunk.
    pub ttft: Option<Nanos>,
    /// `start_time` → last token-bearing chunk (E2EL).
    pub latency: Option<Nanos>,
    /// The gaps between token-bearing chunks.
    pub itl: Vec<Nanos>,
    /// (`latency` − `ttft`) / (`output_tokens` − 1); `null` for fewer than two tokens.
    pub tpot: Option<Nanos>,
    /// `start_time` → first chunk of the answer proper, which is not reasoning.
    pub ttft_answer: Option<Nanos>,
    /// The request's other moments.
    pub phases: Phases,
    /// Whether an open connection was used again.
    pub reused: bool,
    /// Which clock stamped the chunks.
    pub stamp: Stamp,
    /// The worst delay between the kernel's receive stamp and the read; `null` for user-space stamps, which cannot know.
    pub read_lag_max: Option<Nanos>,
    /// With `--read-lags`: that delay for each token-bearing chunk, one more entry than `itl`; 0 where the chunk was stamped
    /// in user space. A chunk's stamp plus its lag is what a client without kernel stamps would have seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_lag: Option<Vec<Nanos>>,
    /// Token-bearing chunks that came out of one read with a later one: they carry that one's stamp, so they may have
    /// arrived earlier. Absent: none.
    #[serde(skip_serializing_if = "is_zero")]
    pub coalesced: u32,
    /// The server's own view of the request, when it gives one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<ServerTimes>,
    /// The text of the first choice, reasoning left out; absent with `--no-text`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generated_text: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// The value of `type` in an output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OutputType {
    /// The only one.
    #[default]
    #[serde(rename = "output")]
    Output,
}

/// Moments of one request beside its tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Phases {
    /// How long the TCP connection took; `null` when one was used again.
    pub connect: Option<Nanos>,
    /// How long the TLS handshake took; `null` without one.
    pub tls: Option<Nanos>,
    /// `start_time` → last byte of the request handed to the socket.
    pub send: Option<Nanos>,
    /// `start_time` → first byte of the answer.
    pub first_byte: Option<Nanos>,
    /// `start_time` → head of the answer, complete.
    pub headers: Option<Nanos>,
    /// `start_time` → end of the answer, or the failure; from `scheduled_time` when nothing was ever sent.
    pub done: Option<Nanos>,
}

/// What the server says of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ServerTimes {
    /// Time in the server's queue.
    pub queue_time: Option<Nanos>,
    /// To the first token, counted as the server does: vLLM 0.32 from the request's first turn, after the queue.
    pub ttft: Option<Nanos>,
}

/// Who stamped the arrival of a chunk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Stamp {
    /// The kernel, when the bytes reached the socket.
    Kernel,
    /// This program, when the read returned and before anything was parsed.
    #[default]
    User,
}

/// Where a count of tokens comes from, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenSource {
    /// The server's `usage`.
    Usage,
    /// The token ids in the chunks.
    TokenIds,
    /// The generated text, tokenized again: approximate.
    Tokenizer,
    /// One for each chunk: a lower bound.
    Chunks,
}

impl TokenSource {
    /// All of them.
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

/// How a request failed. `docs/FORMAT.md` says when each applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// No connection: refused, unreachable, or no address answered.
    Connect,
    /// The host's name has no address.
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
    /// An HTTP status other than 200.
    HttpStatus,
    /// An error object inside a stream that began with 200.
    StreamError,
    /// The stream was closed before `[DONE]` or a finish reason.
    Truncated,
    /// The connection was reset, or closed before any answer.
    Reset,
    /// Not an event stream, not JSON, or broken HTTP.
    Protocol,
    /// A complete answer without a token.
    Empty,
    /// Stopped by the user while it ran.
    Cancelled,
    /// The client left on purpose (`--cancel-rate`): neither a success nor a failure of the server.
    Abandoned,
    /// Due, but never sent: the run ended first, or an earlier turn of its session failed.
    NotSent,
}

impl ErrorKind {
    /// Every kind, in the order of the documentation.
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
    use super::*;

    #[test]
    fn the_name_of_a_kind_is_the_one_in_the_records() {
        for kind in ErrorKind::ALL {
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{}\"", kind.name()));
        }
        for source in TokenSource::ALL {
            assert_eq!(serde_json::to_string(&source).unwrap(), format!("\"{}\"", source.name()));
        }
    }

    #[test]
    fn an_output_may_lack_what_its_writer_did_not_know() {
        let output: RequestFuncOutput = serde_json::from_str(r#"{"success":true,"ttft":0.25,"latency":1}"#).unwrap();
        assert_eq!(output.ttft, Some(Nanos(250_000_000)));
        assert_eq!(output.itl, []);
    }
}

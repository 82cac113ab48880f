//! The truth log of `vb-sim`: the true send time of each token, by request id. Any client can be checked against it.

use serde::{Deserialize, Serialize};

use crate::units::{Nanos, UnixNanos};

/// One request as the server saw it: a line of the truth log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truth {
    /// The client's `x-request-id`, or a generated id if the client sent none.
    pub request_id: String,
    /// When the last bytes of the request reached the server's socket, by the kernel's timestamp; `null`: no timestamp. A
    /// true TTFT begins here: from this point the request waits for the server and not for the client.
    pub arrived: Option<UnixNanos>,
    /// When the server had read the whole request.
    pub received: UnixNanos,
    /// The HTTP status; `null`: the server did not begin a response.
    pub status: Option<u16>,
    /// For each chunk with tokens, the time it was handed to the socket: read right before the write.
    pub sent: Vec<UnixNanos>,
    /// Tokens in each of these chunks.
    pub tokens: Vec<u32>,
    /// From the hand-over to the engine to the first step that ran the request, in virtual time; `null`: no step ran it.
    pub queue_time: Option<Nanos>,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Prompt tokens that were prefix cache hits.
    pub cached_tokens: u32,
    /// Tokens generated for the response; a fault may have kept some of them from the client.
    pub output_tokens: u32,
    /// `length` or `stop`; `null`: the response was not finished.
    pub finish_reason: Option<String>,
    /// The fault, as in `--fault`; `null`: none.
    pub fault: Option<String>,
}

//! A request and its response, independent of the transport.

use bytes::Bytes;
use hyper::{Request, StatusCode};
use serde_json::Value;

use super::{response::Head, socket::ReadStamp};
use crate::{clock::Clock, record::ErrorKind, units::Nanos};

/// Carries requests to one server; `--transport` chooses it.
pub trait Transport: Send + Sync + 'static {
    /// A request in flight.
    type Exchange: HttpExchange;

    /// Uses this clock for all later timestamps; called when the clock of the run starts.
    fn set_clock(&self, clock: Clock);

    /// Opens connections ahead of time for reader thread `at`. The future must run on that thread.
    fn open_connections(
        &self,
        at: usize,
        count: usize,
    ) -> impl Future<Output = Result<(), RequestFailure>> + Send + 'static;

    /// Closes the connections that carry no request.
    fn close_idle(&self);

    /// Whether connections are not reused any more, because the server closes them after a response without announcing it.
    fn has_ended_reuse(&self) -> bool;

    /// Sends as much of the request as possible without waiting. Returns the exchange and the reader thread that must continue it.
    fn start_request(&self, request: OutgoingRequest) -> (usize, Self::Exchange);
}

/// A request in flight and its response.
pub trait HttpExchange: Send + 'static {
    /// Sends the rest of the request and waits for the head of the response.
    fn receive_head(&mut self) -> impl Future<Output = Result<Head, RequestFailure>> + Send;

    /// The next bytes of the body; `None` at its end.
    fn next_bytes(&mut self) -> impl Future<Output = Result<Option<BodyBytes<'_>>, RequestFailure>> + Send;

    /// Ends the exchange. `complete`: the response was read to its end, so that the connection can be reused.
    fn finish(self, complete: bool) -> ExchangeTimes;
}

/// A request ready to send: nothing of it is built once the clock runs.
#[derive(Debug, Clone)]
pub struct OutgoingRequest {
    /// The request with its full URL.
    pub request: Request<Bytes>,
    /// Its head in HTTP/1.1.
    pub head: Bytes,
}

impl OutgoingRequest {
    /// Writes the head. `request` must have a `Host`.
    #[must_use]
    pub fn new(request: Request<Bytes>) -> Self {
        let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
        let mut head = format!("{} {path} HTTP/1.1\r\n", request.method()).into_bytes();
        for (name, value) in request.headers() {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(format!("content-length: {}\r\n\r\n", request.body().len()).as_bytes());
        OutgoingRequest { request, head: head.into() }
    }
}

/// Bytes of a response body.
#[derive(Debug, Clone, Copy)]
pub struct BodyBytes<'a> {
    /// When they arrived.
    pub stamp: ReadStamp,
    /// The bytes; the network may split the body anywhere.
    pub bytes: &'a [u8],
}

/// The timestamps of an exchange except for its body bytes, on the clock of the run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExchangeTimes {
    /// Whether the connection had carried a request before.
    pub reused: bool,
    /// Whether the server closed an idle connection before it saw the request, so that it was sent again on a new one. The
    /// times count from the second sending.
    pub resent: bool,
    /// How long the TCP connection took; `None` if it was reused, or if the transport does not measure it.
    pub connect: Option<Nanos>,
    /// How long the TLS handshake took.
    pub tls: Option<Nanos>,
    /// How long the request waited for a connection to be opened.
    pub waited: Nanos,
    /// When the first byte of the request was about to be handed to the kernel.
    pub first_write: Option<Nanos>,
    /// When the kernel accepted the last byte.
    pub last_write: Option<Nanos>,
    /// When the first byte of the response arrived.
    pub first_byte: Option<Nanos>,
    /// When the head of the response was complete.
    pub head: Option<Nanos>,
    /// TCP segments retransmitted during the exchange; `None` if the system does not report them.
    pub retransmits: Option<u32>,
    /// Steps of the wall clock seen during the exchange.
    pub clock_steps: u32,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestFailure {
    /// The kind of failure.
    pub kind: ErrorKind,
    /// One line of text for people.
    pub message: String,
}

impl RequestFailure {
    /// Creates a failure with a message for people.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        RequestFailure { kind, message: message.into() }
    }
}

/// How a response body is split into chunks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BodyFormat {
    /// Server-sent events.
    #[default]
    Events,
    /// One JSON object per line.
    JsonLines,
    /// One JSON document, not split.
    Json,
}

impl BodyFormat {
    /// The media type to ask for, and its name in messages.
    #[must_use]
    pub fn media_type(self) -> (&'static str, &'static str) {
        match self {
            BodyFormat::Events => ("text/event-stream", "an event stream"),
            BodyFormat::JsonLines => ("application/x-ndjson", "lines of JSON"),
            BodyFormat::Json => ("application/json", "JSON"),
        }
    }

    /// Whether a body of this media type certainly has another format. Some servers forget the type.
    fn rules_out(self, media: &str) -> bool {
        media == "text/html"
            || match self {
                BodyFormat::Events => matches!(media, "application/json" | "application/x-ndjson"),
                BodyFormat::JsonLines => media == "text/event-stream",
                BodyFormat::Json => matches!(media, "text/event-stream" | "application/x-ndjson"),
            }
    }
}

/// The start of the message about a compressed response: a compressed stream arrives in blocks and not token by token.
pub const COMPRESSED: &str = "the server compresses its responses";

impl Head {
    /// Whether the body may have this format.
    #[must_use]
    pub fn may_hold(&self, format: BodyFormat) -> bool {
        self.status == StatusCode::OK && !format.rules_out(&self.media_type) && self.encoding.is_none()
    }

    /// The failure for a response that does not have this format; `body` is its text, in one line.
    #[must_use]
    pub fn to_failure(&self, format: BodyFormat, body: &str) -> RequestFailure {
        if self.status == StatusCode::OK {
            if let Some(encoding) = &self.encoding {
                let message = format!("{COMPRESSED} ({encoding}), which hides when their tokens arrive");
                return RequestFailure::new(ErrorKind::Protocol, message);
            }
            let message = format!("the server answered {}, not {}: {body}", self.media_type, format.media_type().1);
            return RequestFailure::new(ErrorKind::Protocol, message);
        }
        let location = self.location.as_ref().map_or_else(String::new, |to| format!(", to {to}"));
        let text = match &self.encoding {
            Some(encoding) => format!(", with a compressed body ({encoding})"),
            None if body.is_empty() => String::new(),
            None => format!(": {body}"),
        };
        RequestFailure::new(ErrorKind::HttpStatus, format!("HTTP {}{location}{text}", status_line(self.status)))
    }
}

/// The status code with its reason, if it is a standard one.
#[must_use]
pub fn status_line(status: StatusCode) -> String {
    let reason = status.canonical_reason().map_or_else(String::new, |reason| format!(" {reason}"));
    format!("{}{reason}", status.as_str())
}

/// The message of an error body in one line: `{"error":{"message":…}}`, `{"error":"…"}`, `{"message":…}`, `{"detail":…}`, or
/// the text as it is.
#[must_use]
pub fn error_message(body: &[u8]) -> String {
    const MAX_CHARS: usize = 400;
    let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    // Some servers send `"error":null` next to their message.
    let error = value.get("error").filter(|error| !error.is_null()).unwrap_or(&value);
    let found = [error.get("message"), error.get("detail"), Some(error)];
    let text = match found.into_iter().flatten().find_map(Value::as_str) {
        Some(text) => text.to_owned(),
        None if value.is_null() => String::from_utf8_lossy(body).into_owned(),
        None => error.to_string(),
    };
    // Control characters could move the cursor of the terminal that shows it.
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let mut line: String = words.collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(MAX_CHARS) {
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(status: u16, media_type: &str, encoding: Option<&str>) -> Head {
        let (media_type, encoding) = (media_type.to_owned(), encoding.map(str::to_owned));
        Head { status: StatusCode::from_u16(status).unwrap(), media_type, location: None, encoding }
    }

    #[test]
    fn a_bad_response_is_recognized_by_its_head() {
        for (head, want) in [
            (head(529, "", None), "HTTP 529: busy"),
            (head(503, "", None), "HTTP 503 Service Unavailable: busy"),
            (head(503, "", Some("gzip")), "HTTP 503 Service Unavailable, with a compressed body (gzip)"),
            (
                head(200, "text/event-stream", Some("br")),
                "the server compresses its responses (br), which hides when their tokens arrive",
            ),
            (
                head(200, "application/x-ndjson", None),
                "the server answered application/x-ndjson, not an event stream: busy",
            ),
        ] {
            assert!(!head.may_hold(BodyFormat::Events), "{head:?}");
            assert_eq!(head.to_failure(BodyFormat::Events, "busy").message, want);
        }
        assert!(head(200, "text/plain", None).may_hold(BodyFormat::Events), "servers forget the type");
    }

    #[test]
    fn errors_in_the_words_of_the_server() {
        for (body, want) in [
            (r#"{"error":{"message":"too\n long","code":400}}"#, "too long"),
            (r#"{"error":"\u001b[2Jbusy\u0000"}"#, "[2Jbusy"),
            (r#"{"error":"busy"}"#, "busy"),
            (r#"{"object":"error","message":"no"}"#, "no"),
            (r#"{"error":null,"message":"the real reason"}"#, "the real reason"),
            (r#"{"error":null}"#, r#"{"error":null}"#),
            (r#"{"detail":"Not Found"}"#, "Not Found"),
            (r#"{"detail":[{"loc":1}]}"#, r#"{"detail":[{"loc":1}]}"#),
            ("<html>\n<b>Bad Gateway</b>", "<html> <b>Bad Gateway</b>"),
            ("", ""),
        ] {
            assert_eq!(error_message(body.as_bytes()), want);
        }
        assert_eq!(error_message("é".repeat(1000).as_bytes()).chars().count(), 401);
    }
}

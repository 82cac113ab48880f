//! A request and its response, independent of the transport.

use std::sync::Arc;

use bytes::Bytes;
use hyper::{
    Request, StatusCode, Uri,
    header::{CONTENT_LENGTH, HOST, HeaderMap},
};

use super::{packets::PacketFlow, response::Head, socket::ReadStamp, tls_records::RecordMap};
use crate::{clock::Clock, record::ErrorKind, secrets::without_keys, units::Nanos};

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

    /// Sends as much of the request as possible without waiting. Returns the exchange and the reader thread that must continue it:
    /// `near`, if it is given and nothing speaks for another.
    fn start_request(&self, request: OutgoingRequest, near: Option<usize>) -> (usize, Self::Exchange);
}

/// A request in flight and its response.
pub trait HttpExchange: Send + 'static {
    /// Sends the rest of the request and waits for the head of the response.
    fn receive_head(&mut self) -> impl Future<Output = Result<Head, RequestFailure>> + Send;

    /// The next bytes of the body; `None` at its end.
    fn next_bytes(&mut self) -> impl Future<Output = Result<Option<BodyBytes<'_>>, RequestFailure>> + Send;

    /// Ends the exchange. `complete`: the response was read to its end, so that the connection can be reused.
    fn finish(&mut self, complete: bool) -> ExchangeTimes;
}

/// An endpoint, and how all requests to it begin.
#[derive(Debug)]
pub struct RequestTarget {
    /// The URL.
    pub uri: Uri,
    /// The request line and the headers that all requests have.
    pub head: Bytes,
}

impl RequestTarget {
    /// Writes the head of `POST` requests in HTTP/1.1. `Host` follows from the URL unless `headers` have it.
    #[must_use]
    pub fn new(uri: Uri, headers: &HeaderMap) -> Self {
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        let mut head = format!("POST {path} HTTP/1.1\r\n").into_bytes();
        if let Some(host) = uri.authority().filter(|_| !headers.contains_key(HOST)) {
            write_header(&mut head, HOST.as_str(), host.as_str().as_bytes());
        }
        for (name, value) in headers {
            write_header(&mut head, name.as_str(), value.as_bytes());
        }
        RequestTarget { uri, head: head.into() }
    }
}

/// Writes a line of a head.
pub fn write_header(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        head.extend_from_slice(part);
    }
}

/// A request ready to send: nothing of it is built once the clock runs.
#[derive(Debug, Clone)]
pub struct OutgoingRequest {
    /// Where it goes, and how it begins.
    pub target: Arc<RequestTarget>,
    /// Its own headers with the blank line after them, and its body.
    pub bytes: Bytes,
}

impl OutgoingRequest {
    /// The same request for another HTTP client, without its length, which that client sets.
    ///
    /// # Errors
    /// What was written is not a request.
    pub fn to_http(&self) -> Result<Request<Bytes>, hyper::http::Error> {
        let end = memchr::memmem::find(&self.bytes, b"\r\n\r\n").unwrap_or_default();
        let head = [&self.target.head, &self.bytes[..end]].concat();
        let mut request = Request::post(&self.target.uri);
        for line in head.split(|byte| *byte == b'\n').skip(1) {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let Some(at) = memchr::memchr(b':', line) else { continue };
            let (name, value) = (&line[..at], line[at + 1..].trim_ascii_start());
            if name != CONTENT_LENGTH.as_str().as_bytes() {
                request = request.header(name, value);
            }
        }
        request.body(self.bytes.slice((end + 4).min(self.bytes.len())..))
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
#[derive(Debug, Clone, Default)]
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
    /// TCP segments retransmitted during the exchange, and during earlier ones that were not counted; `None` if the system does not
    /// report them.
    pub retransmits: Option<u32>,
    /// Steps of the wall clock seen during the exchange.
    pub clock_steps: u32,
    /// The packets of the response, if they were captured.
    pub captured: Option<CapturedResponse>,
}

/// A response whose packets were captured.
#[derive(Debug, Clone)]
pub struct CapturedResponse {
    /// The packets of its connection.
    pub packets: PacketFlow,
    /// Where it begins in what the connection has received.
    pub begin: u64,
    /// Where its head ends, if that has arrived.
    pub head_end: Option<u64>,
    /// Under TLS: which records its bytes came from.
    pub records: Option<RecordMap>,
    /// How far the connection's stream was read.
    pub read: u64,
}

impl CapturedResponse {
    /// Looks up arrivals: `look_up` gets what says when the bytes before a position of what the connection has received could be read. It must
    /// be asked for positions that grow.
    pub fn look_up<T>(self, look_up: impl FnOnce(&mut dyn FnMut(u64) -> Option<Nanos>) -> T) -> T {
        let CapturedResponse { packets, mut records, read, .. } = self;
        packets.look_up(read, |arrivals| {
            look_up(&mut |position| {
                let position = records.as_mut().map_or(Some(position), |records| records.find_record_end(position))?;
                arrivals.take_arrival(position)
            })
        })
    }
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

/// The start of the message about a compressed response: a compressed stream arrives in blocks and not token by token.
pub const COMPRESSED: &str = "the server compresses its responses";

impl Head {
    /// Whether the body may be a response. What it really is, its first bytes show: media types are often wrong.
    #[must_use]
    pub fn may_hold_response(&self) -> bool {
        self.status.is_success() && self.encoding.is_none()
    }

    /// The failure for any other response; `body` is the message in it, in one line.
    #[must_use]
    pub fn to_failure(&self, body: &str) -> RequestFailure {
        if self.status.is_success() {
            let encoding = self.encoding.as_deref().unwrap_or_default();
            let message = format!("{COMPRESSED} ({encoding}), which hides when their tokens arrive");
            return RequestFailure::new(ErrorKind::Protocol, message);
        }
        let location = self.location.as_ref().map_or_else(String::new, |to| format!(", to {}", without_keys(to)));
        let text = match (&self.encoding, without_status(body, self.status)) {
            (Some(encoding), _) => format!(", with a compressed body ({encoding})"),
            (None, "") => String::new(),
            (None, words) => format!(": {words}"),
        };
        RequestFailure::new(ErrorKind::HttpStatus, format!("HTTP {}{location}{text}", status_line(self.status)))
    }
}

/// The message of an error without the status, which proxies repeat in their pages.
fn without_status(body: &str, status: StatusCode) -> &str {
    let separators = [' ', ':', '|', '-'];
    let words = body.strip_prefix(status.as_str()).filter(|rest| rest.starts_with(separators));
    let words = words.map_or(body, |rest| rest.trim_start_matches(separators));
    if status.canonical_reason().is_some_and(|reason| words.eq_ignore_ascii_case(reason)) { "" } else { words }
}

/// The status code with its reason, if it is a standard one.
#[must_use]
pub fn status_line(status: StatusCode) -> String {
    let reason = status.canonical_reason().map_or_else(String::new, |reason| format!(" {reason}"));
    format!("{}{reason}", status.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(status: u16, encoding: Option<&str>) -> Head {
        let (status, encoding) = (StatusCode::from_u16(status).unwrap(), encoding.map(str::to_owned));
        Head { status, location: None, encoding, framed: true, server: None }
    }

    #[test]
    fn a_request_is_written_in_http_format_and_read_back_for_other_clients() {
        let mut headers = HeaderMap::new();
        headers.insert("a", "b: c".parse().unwrap());
        let target = RequestTarget::new("http://h:1/v1/x?y=z".parse().unwrap(), &headers);
        assert_eq!(target.head, "POST /v1/x?y=z HTTP/1.1\r\nhost: h:1\r\na: b: c\r\n");
        let mut bytes = Vec::new();
        write_header(&mut bytes, "x-request-id", b"");
        bytes.extend_from_slice(b"content-length: 12\r\n\r\n{\"a\":\r\n\r\n1}");
        let outgoing = OutgoingRequest { target: Arc::new(target), bytes: bytes.into() };
        let request = outgoing.to_http().unwrap();
        let sent: Vec<(&str, &[u8])> = request.headers().iter().map(|(n, v)| (n.as_str(), v.as_bytes())).collect();
        assert_eq!(sent, [("host", &b"h:1"[..]), ("a", b"b: c"), ("x-request-id", b"")]);
        assert_eq!((request.uri().path(), &request.body()[..]), ("/v1/x", &b"{\"a\":\r\n\r\n1}"[..]));
        headers.insert(HOST, "other".parse().unwrap());
        let target = RequestTarget::new("http://h:1".parse().unwrap(), &headers);
        assert_eq!(target.head, "POST / HTTP/1.1\r\na: b: c\r\nhost: other\r\n");
    }

    #[test]
    fn a_bad_response_is_recognized_by_its_head() {
        for (head, body, want) in [
            (head(529, None), "busy", "HTTP 529: busy"),
            (head(503, None), "busy", "HTTP 503 Service Unavailable: busy"),
            (head(502, None), "502 Bad Gateway", "HTTP 502 Bad Gateway"),
            (head(500, None), "Internal Server Error", "HTTP 500 Internal Server Error"),
            (head(413, None), "413 Request Entity Too Large", "HTTP 413 Payload Too Large: Request Entity Too Large"),
            (head(404, None), "4040 is not a model", "HTTP 404 Not Found: 4040 is not a model"),
            (head(503, Some("gzip")), "busy", "HTTP 503 Service Unavailable, with a compressed body (gzip)"),
            (
                head(200, Some("br")),
                "",
                "the server compresses its responses (br), which hides when their tokens arrive",
            ),
        ] {
            assert!(!head.may_hold_response(), "{head:?}");
            assert_eq!(head.to_failure(body).message, want);
        }
        assert!([200, 201, 202].iter().all(|status| head(*status, None).may_hold_response()));
    }
}

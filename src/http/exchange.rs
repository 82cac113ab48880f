//! One request and its answer, whichever way the bytes are carried.

use bytes::Bytes;
use hyper::{Request, StatusCode};

use super::{reply::Head, socket::Arrival};
use crate::{clock::Clock, record::ErrorKind, units::Nanos};

/// Carries requests to one server. The choice is `--transport`'s.
pub trait Transport: Send + Sync + 'static {
    /// A request on its way.
    type Exchange: Exchange;

    /// From now on the moments are of this clock, as when the run's starts.
    fn set_clock(&self, clock: Clock);

    /// Opens connections ahead for thread `at`, to be run on it.
    fn preconnect(&self, at: usize, count: usize) -> impl Future<Output = Result<(), Failure>> + Send + 'static;

    /// Hands over as much of the request as can be without waiting, and says which of the threads that read answers is to
    /// go on with it.
    fn begin(&self, request: Outgoing) -> (usize, Self::Exchange);
}

/// A request on its way, and its answer coming back.
pub trait Exchange: Send + 'static {
    /// Sends what is left of the request and waits for the head of the answer.
    fn head(&mut self) -> impl Future<Output = Result<Head, Failure>> + Send;

    /// The next bytes of the body; `None`: it is over.
    fn next(&mut self) -> impl Future<Output = Result<Option<Piece<'_>>, Failure>> + Send;

    /// It is over. `complete`: the answer has been read to its end, so that the connection may carry another.
    fn end(self, complete: bool) -> Moments;
}

/// A request made ready: nothing of it is built once the clock runs.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// All of it, with the full address.
    pub request: Request<Bytes>,
    /// Its head as HTTP/1.1 has it.
    pub head: Bytes,
}

impl Outgoing {
    /// Writes the head. `request` has a `Host`.
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
        Outgoing { request, head: head.into() }
    }
}

/// Bytes of the body.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    /// When they arrived.
    pub arrival: Arrival,
    /// They themselves, in any cut.
    pub bytes: &'a [u8],
}

/// The moments of an exchange beside its answer's pieces, on the clock of the run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moments {
    /// Whether the connection had carried a request before.
    pub reused: bool,
    /// How long the TCP connection took; `None` when it was used before, or when the transport does not tell.
    pub connect: Option<Nanos>,
    /// How long the TLS handshake took.
    pub tls: Option<Nanos>,
    /// How long the request waited for a connection to be opened.
    pub waited: Nanos,
    /// When the first byte of the request was about to be handed to the kernel.
    pub first_write: Option<Nanos>,
    /// When the kernel took the last.
    pub last_write: Option<Nanos>,
    /// When the first byte of the answer arrived.
    pub first_byte: Option<Nanos>,
    /// When its head was complete.
    pub head: Option<Nanos>,
    /// Segments sent again meanwhile; `None` where the system does not tell.
    pub retransmits: Option<u32>,
    /// Steps of the wall clock seen meanwhile.
    pub clock_steps: u32,
}

/// A failure of one request: its kind and a line of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What failed.
    pub kind: ErrorKind,
    /// In words.
    pub message: String,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Failure { kind, message: message.into() }
    }
}

/// What the head of an answer says about it.
impl Head {
    /// Whether a stream of events follows. Servers exist that forget its type; these two types are certainly none.
    #[must_use]
    pub fn begins_stream(&self) -> bool {
        self.status == StatusCode::OK && !matches!(self.media.as_str(), "text/html" | "application/json")
    }

    /// The failure that an answer which is no stream of events is; `said` is its body, in one line.
    #[must_use]
    pub fn failure(&self, said: &str) -> Failure {
        if self.status == StatusCode::OK {
            let message = format!("the server answered {}, not an event stream: {said}", self.media);
            return Failure::new(ErrorKind::Protocol, message);
        }
        let location = self.location.as_ref().map_or_else(String::new, |to| format!(", to {to}"));
        let said = if said.is_empty() { String::new() } else { format!(": {said}") };
        Failure::new(ErrorKind::HttpStatus, format!("HTTP {}{location}{said}", self.status))
    }
}

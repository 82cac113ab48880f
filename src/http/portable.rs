//! The transport for HTTP/2 and proxies, which the stamped one does not support, based on the reqwest crate.
//!
//! Its timestamps are taken in its own event loop: a request starts when it is handed to reqwest, and bytes arrive when
//! reqwest returns them.

use std::{
    error::Error as _,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use hyper::Request;
use reqwest::{
    Client, Response, Url, Version,
    header::{self, HeaderValue},
};

use super::{
    client,
    exchange::{BodyBytes, ExchangeTimes, HttpExchange, OutgoingRequest, RequestFailure, Transport},
    response::{self, Head},
    reuse::Reuse,
    socket::ReadStamp,
};
use crate::{
    clock::Clock,
    error::{Error, root_cause},
    record::ErrorKind,
    units::Nanos,
};

/// A transport with one reqwest client per reader thread.
#[derive(Debug)]
pub struct PortableTransport {
    clients: Vec<Arc<PortableClient>>,
    clock: Mutex<Clock>,
    next: AtomicUsize,
    reuse: Arc<Reuse>,
}

/// The clients of one reader thread.
#[derive(Debug)]
struct PortableClient {
    client: Client,
    /// Opens a connection for each request.
    without_reuse: Client,
    /// Connections that reqwest has kept, as far as responses show: it does not report them.
    idle: AtomicUsize,
    /// Responses that were read to their end, and requests that had to be sent again.
    complete: AtomicUsize,
    resent: AtomicUsize,
    reuse: Arc<Reuse>,
}

impl PortableTransport {
    /// Creates the clients of the server at `base` for `readers` threads.
    pub fn new(
        base: &Url,
        keep_alive: bool,
        insecure: bool,
        connect: Nanos,
        readers: usize,
        clock: Clock,
    ) -> Result<Self, Error> {
        let reuse = Arc::<Reuse>::default();
        let client = |_| {
            Ok(Arc::new(PortableClient {
                client: client::streaming_client(base, keep_alive, insecure, connect)?,
                without_reuse: client::streaming_client(base, false, insecure, connect)?,
                idle: 0.into(),
                complete: 0.into(),
                resent: 0.into(),
                reuse: Arc::clone(&reuse),
            }))
        };
        let clients = (0..readers.max(1)).map(client).collect::<Result<_, Error>>()?;
        Ok(PortableTransport { clients, clock: Mutex::new(clock), next: 0.into(), reuse })
    }
}

impl Transport for PortableTransport {
    type Exchange = PortableExchange;

    fn set_clock(&self, clock: Clock) {
        *self.clock.lock().unwrap_or_else(PoisonError::into_inner) = clock;
    }

    /// Does nothing: reqwest opens connections when it needs them.
    fn open_connections(
        &self,
        _: usize,
        _: usize,
    ) -> impl Future<Output = Result<(), RequestFailure>> + Send + 'static {
        std::future::ready(Ok(()))
    }

    /// Does nothing: reqwest closes them after some seconds.
    fn close_idle(&self) {}

    fn has_ended_reuse(&self) -> bool {
        self.reuse.has_ended()
    }

    fn start_request(&self, request: OutgoingRequest, near: Option<usize>) -> (usize, PortableExchange) {
        let at = near.unwrap_or_else(|| self.next.fetch_add(1, Relaxed)) % self.clients.len();
        let clock = *self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        let exchange = PortableExchange {
            client: Arc::clone(&self.clients[at]),
            clock,
            request: Some(request),
            response: None,
            bytes: Bytes::new(),
            reads: 0,
            moments: ExchangeTimes::default(),
        };
        (at, exchange)
    }
}

/// A request carried by reqwest.
#[derive(Debug)]
pub struct PortableExchange {
    client: Arc<PortableClient>,
    clock: Clock,
    request: Option<OutgoingRequest>,
    response: Option<Response>,
    bytes: Bytes,
    reads: u64,
    moments: ExchangeTimes,
}

impl PortableExchange {
    /// Sends the request; on a connection that reqwest has kept, if there is one. If the server closed that before it saw the
    /// request, sends it again on a new one.
    async fn send(&mut self, request: Request<Bytes>) -> Result<Response, RequestFailure> {
        let PortableClient { client, without_reuse, idle, complete, resent, reuse } = &*self.client;
        let convert = |request| {
            reqwest::Request::try_from(request)
                .map_err(|e| RequestFailure::new(ErrorKind::Protocol, client::failure_reason(&e)))
        };
        let begun = self.clock.now();
        self.moments.first_write = Some(begun);
        if reuse.has_ended() {
            return without_reuse.execute(convert(request)?).await.map_err(|e| failure_before_head(&e));
        }
        let kept = idle.fetch_update(Relaxed, Relaxed, |count| count.checked_sub(1)).is_ok();
        let failed = match client.execute(convert(request.clone())?).await {
            Ok(response) => return Ok(response),
            Err(e) => e,
        };
        let failure = failure_before_head(&failed);
        let is_closed = kept
            && failure.kind == ErrorKind::Reset
            && !error_causes(&failed).any(<dyn std::error::Error>::is::<h2::Error>);
        if !is_closed && !is_refused(&failed) {
            return Err(failure);
        }
        if is_closed && complete.load(Relaxed) < MANY_RESPONSES * (resent.fetch_add(1, Relaxed) + 1) {
            reuse.end();
        }
        let now = self.clock.now();
        self.moments.resent = true;
        self.moments.first_write = Some(now);
        self.moments.waited = now.since(begun);
        let client = if is_closed { without_reuse } else { client };
        client.execute(convert(request)?).await.map_err(|e| failure_before_head(&e))
    }
}

/// A server that closes a connection without announcing it, but only once in this many responses, still keeps most of them.
const MANY_RESPONSES: usize = 20;

impl HttpExchange for PortableExchange {
    async fn receive_head(&mut self) -> Result<Head, RequestFailure> {
        let Some(request) = self.request.take() else {
            return Err(RequestFailure::new(ErrorKind::Protocol, "the request was sent already"));
        };
        let mut request = request.to_http().map_err(|e| RequestFailure::new(ErrorKind::Protocol, e.to_string()))?;
        // HTTP/2 has `:authority` instead, and some servers refuse requests with both. Reqwest adds what the version needs.
        let authority = request.uri().authority().map(|authority| authority.as_str().as_bytes());
        if request.headers().get(header::HOST).map(HeaderValue::as_bytes) == authority {
            request.headers_mut().remove(header::HOST);
        }
        let response = self.send(request).await?;
        let now = self.clock.now();
        (self.moments.first_byte, self.moments.head) = (Some(now), Some(now));
        let headers = response.headers();
        let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
        let head = Head {
            status: response.status(),
            location: text(header::LOCATION).map(str::to_owned),
            server: text(header::VIA).or_else(|| text(header::SERVER)).map(str::to_owned),
            encoding: text(header::CONTENT_ENCODING).and_then(response::content_encoding),
            framed: response.version() >= Version::HTTP_2
                || [header::CONTENT_LENGTH, header::TRANSFER_ENCODING].iter().any(|name| headers.contains_key(name))
                || matches!(response.status().as_u16(), 204 | 304),
        };
        self.response = Some(response);
        Ok(head)
    }

    async fn next_bytes(&mut self) -> Result<Option<BodyBytes<'_>>, RequestFailure> {
        let Some(response) = &mut self.response else { return Ok(None) };
        let Some(bytes) = response.chunk().await.map_err(|e| failure_in_body(&e))? else { return Ok(None) };
        self.reads += 1;
        self.bytes = bytes;
        let stamp = ReadStamp { time: self.clock.now(), lag: None, read: self.reads, ..ReadStamp::default() };
        Ok(Some(BodyBytes { stamp, bytes: &self.bytes }))
    }

    /// Reqwest reuses connections on its own.
    fn finish(&mut self, complete: bool) -> ExchangeTimes {
        if complete {
            self.client.complete.fetch_add(1, Relaxed);
            self.client.idle.fetch_add(1, Relaxed);
        }
        std::mem::take(&mut self.moments)
    }
}

/// The causes of an error, outermost first.
fn error_causes(e: &reqwest::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    let mut next = e.source();
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}

/// Whether it is an error of rustls, which may be wrapped in several I/O errors.
fn is_tls_error(e: &(dyn std::error::Error + 'static)) -> bool {
    let inner = e.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    e.is::<rustls::Error>() || inner.is_some_and(|inner| is_tls_error(inner))
}

/// Whether a server with HTTP/2 says that it has not processed the request: it refused the stream, or is closing the connection.
fn is_refused(e: &reqwest::Error) -> bool {
    error_causes(e).filter_map(|e| e.downcast_ref::<h2::Error>()).any(|e| {
        e.is_remote()
            && (e.is_go_away() && e.reason() == Some(h2::Reason::NO_ERROR)
                || e.is_reset() && e.reason() == Some(h2::Reason::REFUSED_STREAM))
    })
}

/// The failure of a request that got no response head.
#[must_use]
pub fn failure_before_head(e: &reqwest::Error) -> RequestFailure {
    let why = client::failure_reason(e);
    if e.is_timeout() {
        return RequestFailure::new(ErrorKind::TimeoutConnect, format!("no connection: {why}"));
    }
    if e.is_connect() {
        let tls = error_causes(e).any(is_tls_error);
        return RequestFailure::new(
            if tls { ErrorKind::Tls } else { ErrorKind::Connect },
            format!("connecting: {why}"),
        );
    }
    let parsing = error_causes(e).any(|e| e.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse));
    if parsing {
        RequestFailure::new(ErrorKind::Protocol, format!("the response is not HTTP: {why}"))
    } else {
        RequestFailure::new(ErrorKind::Reset, format!("the server closed the connection before it responded: {why}"))
    }
}

fn failure_in_body(e: &reqwest::Error) -> RequestFailure {
    let io = error_causes(e).find_map(|e| e.downcast_ref::<io::Error>());
    let why = root_cause(e);
    match io.map(io::Error::kind) {
        Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => {
            RequestFailure::new(ErrorKind::Protocol, format!("the response's framing is broken: {why}"))
        }
        None | Some(io::ErrorKind::UnexpectedEof) => RequestFailure::new(
            ErrorKind::Truncated,
            format!("the connection was closed in the middle of the response: {why}"),
        ),
        Some(_) => {
            RequestFailure::new(ErrorKind::Reset, format!("the connection broke in the middle of the response: {why}"))
        }
    }
}

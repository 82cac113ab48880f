//! The transport for HTTP/2 and proxies, which the stamped one does not support, based on the reqwest crate.
//!
//! Its timestamps are taken in its own event loop: a request starts when it is handed to reqwest, and bytes arrive when
//! reqwest returns them.

use std::{
    error::Error as _,
    io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use reqwest::{Client, Response, header};

use super::{
    client,
    exchange::{BodyBytes, ExchangeTimes, HttpExchange, OutgoingRequest, RequestFailure, Transport},
    response::{self, Head},
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
    clients: Vec<Client>,
    clock: Mutex<Clock>,
    next: AtomicUsize,
}

impl PortableTransport {
    /// Creates the clients for `readers` threads.
    pub fn new(keep_alive: bool, insecure: bool, connect: Nanos, readers: usize, clock: Clock) -> Result<Self, Error> {
        let client = |_| client::streaming_client(keep_alive, insecure, connect);
        let clients = (0..readers.max(1)).map(client).collect::<Result<_, _>>()?;
        Ok(PortableTransport { clients, clock: Mutex::new(clock), next: 0.into() })
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

    fn start_request(&self, request: OutgoingRequest) -> (usize, PortableExchange) {
        let at = self.next.fetch_add(1, Relaxed) % self.clients.len();
        let clock = *self.clock.lock().unwrap_or_else(PoisonError::into_inner);
        let exchange = PortableExchange {
            client: self.clients[at].clone(),
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
    client: Client,
    clock: Clock,
    request: Option<OutgoingRequest>,
    response: Option<Response>,
    bytes: Bytes,
    reads: u64,
    moments: ExchangeTimes,
}

impl HttpExchange for PortableExchange {
    async fn receive_head(&mut self) -> Result<Head, RequestFailure> {
        let Some(OutgoingRequest { request, .. }) = self.request.take() else {
            return Err(RequestFailure::new(ErrorKind::Protocol, "the request was sent already"));
        };
        let request = reqwest::Request::try_from(request)
            .map_err(|e| RequestFailure::new(ErrorKind::Protocol, client::failure_reason(&e)))?;
        self.moments.first_write = Some(self.clock.now());
        let response = self.client.execute(request).await.map_err(|e| failure_before_head(&e))?;
        let now = self.clock.now();
        (self.moments.first_byte, self.moments.head) = (Some(now), Some(now));
        let text = |name| response.headers().get(name).and_then(|v| v.to_str().ok());
        let head = Head {
            status: response.status(),
            media_type: response::normalize_media_type(text(header::CONTENT_TYPE).unwrap_or_default()),
            location: text(header::LOCATION).map(str::to_owned),
            encoding: text(header::CONTENT_ENCODING).and_then(response::content_encoding),
        };
        self.response = Some(response);
        Ok(head)
    }

    async fn next_bytes(&mut self) -> Result<Option<BodyBytes<'_>>, RequestFailure> {
        let Some(response) = &mut self.response else { return Ok(None) };
        let Some(bytes) = response.chunk().await.map_err(|e| failure_in_body(&e))? else { return Ok(None) };
        self.reads += 1;
        self.bytes = bytes;
        let stamp = ReadStamp { time: self.clock.now(), lag: None, read: self.reads };
        Ok(Some(BodyBytes { stamp, bytes: &self.bytes }))
    }

    /// Reqwest reuses connections on its own.
    fn finish(self, _: bool) -> ExchangeTimes {
        self.moments
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

/// Whether it is an error of rustls, which wraps its errors in I/O errors.
fn is_tls_error(e: &io::Error) -> bool {
    e.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>)
}

/// The failure of a request that got no response head.
#[must_use]
pub fn failure_before_head(e: &reqwest::Error) -> RequestFailure {
    let why = client::failure_reason(e);
    if e.is_timeout() {
        return RequestFailure::new(ErrorKind::TimeoutConnect, format!("no connection: {why}"));
    }
    if e.is_connect() {
        let tls = error_causes(e).any(|e| e.downcast_ref::<io::Error>().is_some_and(is_tls_error));
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

//! The transport with exact timestamps: HTTP/1.1 over sockets that stamp reads and writes.

use std::{
    future::poll_fn,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker, ready},
};

use super::{
    connection::{Connection, ConnectionPool, HTTP_2_ONLY, ServerAddress},
    exchange::{BodyBytes, CapturedResponse, ExchangeTimes, HttpExchange, OutgoingRequest, RequestFailure, Transport},
    response::{self, Framing, Head, HeadReader},
    reuse::Reuse,
};
use crate::{clock::Clock, error::root_cause, record::ErrorKind, units::Nanos};

/// A transport with one pool of connections per reader thread: a connection stays with its thread.
#[derive(Debug)]
pub struct StampedTransport {
    pools: Vec<Arc<ConnectionPool>>,
    next: AtomicUsize,
    reuse: Arc<Reuse>,
}

impl StampedTransport {
    /// Creates the pools for `readers` threads.
    #[must_use]
    pub fn new(server: &ServerAddress, readers: usize, clock: Clock) -> Self {
        let reuse = Arc::<Reuse>::default();
        let pool = |_| Arc::new(ConnectionPool::new(server.clone(), clock, Arc::clone(&reuse)));
        StampedTransport { pools: (0..readers.max(1)).map(pool).collect(), next: 0.into(), reuse }
    }
}

impl Transport for StampedTransport {
    type Exchange = StampedExchange;

    fn set_clock(&self, clock: Clock) {
        for pool in &self.pools {
            pool.set_clock(clock);
        }
        if let Some(capture) = self.pools.first().and_then(|pool| pool.server.capture.as_ref()) {
            capture.set_clock(clock);
        }
    }

    fn open_connections(
        &self,
        at: usize,
        count: usize,
    ) -> impl Future<Output = Result<(), RequestFailure>> + Send + 'static {
        open_connections(Arc::clone(&self.pools[at]), count)
    }

    fn close_idle(&self) {
        self.pools.iter().for_each(|pool| pool.close_idle());
    }

    fn has_ended_reuse(&self) -> bool {
        self.reuse.has_ended()
    }

    /// The threads take turns, but a thread with an idle connection comes before one without.
    fn start_request(&self, request: OutgoingRequest, near: Option<usize>) -> (usize, StampedExchange) {
        let turn = near.unwrap_or_else(|| self.next.fetch_add(1, Relaxed));
        let mut order = (0..self.pools.len()).map(|i| (turn + i) % self.pools.len());
        let found = order.find_map(|at| Some((at, Some(self.pools[at].take_idle()?))));
        let (at, connection) = found.unwrap_or((turn % self.pools.len(), None));
        let mut exchange = StampedExchange::new(Arc::clone(&self.pools[at]), request);
        if let Some(connection) = connection {
            exchange.pooled = true;
            exchange.use_connection(connection);
            // The reader thread sends what does not fit now, and sees the same error again.
            let _ = exchange.poll_send(&mut Context::from_waker(Waker::noop()));
        }
        (at, exchange)
    }
}

/// A larger request is dropped when it is sent: sending it takes longer than the news of a closed connection takes to arrive.
const MAX_RESENT: usize = 1 << 20;

/// A request in flight on one connection.
#[derive(Debug)]
pub struct StampedExchange {
    pool: Arc<ConnectionPool>,
    /// `None` once it cannot be needed any more, so that thousands of streams do not hold their prompts.
    request: Option<OutgoingRequest>,
    connection: Option<Connection>,
    /// Whether the connection was idle in the pool: the server may be about to close it.
    pooled: bool,
    /// Bytes of head and body that were written; they may still be buffered by TLS.
    written: usize,
    /// Whether there is nothing more to write, because all is written or because that failed.
    sent: bool,
    send_error: Option<io::Error>,
    framing: Framing,
    keep_alive: bool,
    moments: ExchangeTimes,
    /// Where the response and its body begin in the connection's stream.
    begin: u64,
    head_end: Option<u64>,
    /// The socket's count of clock steps when the request began.
    clock_steps: u32,
}

impl StampedExchange {
    fn new(pool: Arc<ConnectionPool>, request: OutgoingRequest) -> Self {
        StampedExchange {
            pool,
            request: Some(request),
            connection: None,
            pooled: false,
            written: 0,
            sent: false,
            send_error: None,
            framing: Framing::Close,
            keep_alive: false,
            moments: ExchangeTimes::default(),
            begin: 0,
            head_end: None,
            clock_steps: 0,
        }
    }

    fn use_connection(&mut self, mut connection: Connection) {
        self.moments.reused = connection.requests > 0;
        if connection.requests == 0 {
            self.moments.connect = Some(connection.connect);
            self.moments.tls = connection.tls;
        }
        let socket = connection.socket_mut();
        socket.begin_request();
        self.clock_steps = socket.clock_steps();
        (self.begin, self.head_end) = (connection.received(), None);
        (self.written, self.sent, self.send_error) = (0, false, None);
        self.connection = Some(connection);
    }

    /// Opens a connection. `begun`: since when the request has waited for it.
    async fn connect(&mut self, begun: Nanos) -> Result<(), RequestFailure> {
        let clock = self.pool.clock();
        let connection = self.pool.server.connect(clock).await;
        self.moments.waited = clock.now().since(begun);
        self.use_connection(connection?);
        Ok(())
    }

    /// Writes as much of the request as the kernel accepts.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.sent {
            self.send_error = ready!(self.poll_write(cx)).err();
            self.sent = true;
            if !self.pooled || self.written > MAX_RESENT {
                self.request = None;
            }
        }
        Poll::Ready(())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (Some(connection), Some(request)) = (&mut self.connection, &self.request) else {
            return Poll::Ready(Ok(()));
        };
        let (head, body) = (&request.target.head[..], &request.bytes[..]);
        while self.written < head.len() + body.len() {
            let rest = (&head[self.written.min(head.len())..], &body[self.written.saturating_sub(head.len())..]);
            match ready!(connection.poll_write(cx, rest.0, rest.1))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                taken => self.written += taken,
            }
        }
        connection.poll_flush(cx)
    }

    /// Reads, and writes the rest of the request: a server may respond before it has taken the whole of it, and then take
    /// no more.
    async fn read_connection(&mut self) -> io::Result<usize> {
        poll_fn(|cx| {
            // It is polled again when the kernel accepts more.
            let _ = self.poll_send(cx);
            self.connection.as_mut().map_or(Poll::Ready(Ok(0)), |connection| connection.poll_read(cx))
        })
        .await
    }

    /// Reads the head of the response, which sets the framing of its body.
    async fn read_head(&mut self) -> Result<Head, RequestFailure> {
        let mut reader = HeadReader::default();
        loop {
            let read = self.read_connection().await;
            // A failed write says more about a closed connection than the read after it.
            let failed = self.send_error.as_ref().or(read.as_ref().err()).map(|e| root_cause(e));
            if !matches!(read, Ok(1..)) {
                let how = failed.as_deref().unwrap_or("connection closed before message completed");
                return Err(closed_before_response(self.moments.reused, how));
            }
            let Some(connection) = &mut self.connection else { return Err(no_connection()) };
            let arrived = connection.last_stamp().time;
            if self.moments.first_byte.is_none() {
                self.moments.first_byte = Some(arrived);
                // It cannot be sent again any more.
                self.request = self.request.take().filter(|_| !self.sent);
            }
            let (used, head) = reader.read_head(connection.unused_bytes()).map_err(|e| {
                let message = match response::is_http2(connection.unused_bytes()) {
                    true if connection.tls.is_some() => format!("{HTTP_2_ONLY}: use --transport portable"),
                    true => format!("{HTTP_2_ONLY} without TLS: use --transport portable and its https:// URL"),
                    false => format!("the response is not HTTP/1.1: {e}"),
                };
                RequestFailure::new(ErrorKind::Protocol, message)
            })?;
            connection.consume_bytes(used);
            if let Some(head) = head {
                self.moments.head = Some(arrived);
                self.head_end = connection.stamp_of_used().end;
                (self.framing, self.keep_alive) = (head.framing, head.keep_alive);
                return Ok(head.head);
            }
        }
    }

    /// Whether the server closed an idle connection before it saw the request. A request on a new connection was seen.
    fn may_resend(&self, failure: &RequestFailure) -> bool {
        let untouched = failure.kind == ErrorKind::Reset && self.moments.first_byte.is_none();
        untouched && self.pooled && self.request.is_some()
    }

    /// Sends the request again, on a new connection.
    async fn resend(&mut self) -> Result<Head, RequestFailure> {
        let clock = self.pool.clock();
        let closed = self.connection.take();
        let begun = closed.as_ref().and_then(|connection| connection.socket().first_write);
        if let Some(connection) = &closed {
            self.pool.note_close(connection, clock.now());
        }
        drop(closed);
        self.moments = ExchangeTimes { resent: true, ..ExchangeTimes::default() };
        self.pooled = false;
        self.connect(begun.unwrap_or_else(|| clock.now())).await?;
        self.read_head().await
    }
}

impl HttpExchange for StampedExchange {
    async fn receive_head(&mut self) -> Result<Head, RequestFailure> {
        if self.connection.is_none() {
            self.connect(self.pool.clock().now()).await?;
        }
        match self.read_head().await {
            Err(failure) if self.may_resend(&failure) => self.resend().await,
            result => result,
        }
    }

    async fn next_bytes(&mut self) -> Result<Option<BodyBytes<'_>>, RequestFailure> {
        let place = loop {
            if self.framing.is_complete() {
                return Ok(None);
            }
            let Some(connection) = &mut self.connection else { return Err(no_connection()) };
            let (used, data) = self.framing.take_data(connection.unused_bytes()).map_err(|e| {
                RequestFailure::new(ErrorKind::Protocol, format!("the response's framing is broken: {e}"))
            })?;
            let at = connection.consume_bytes(used);
            if !data.is_empty() {
                break at + data.start..at + data.end;
            }
            if used == 0 && self.read_connection().await.map_err(|e| failure_in_body(&e))? == 0 {
                self.keep_alive = false;
                return if self.framing.may_end() {
                    Ok(None)
                } else {
                    Err(failure_in_body(&io::ErrorKind::UnexpectedEof.into()))
                };
            }
        };
        let Some(connection) = &self.connection else { return Err(no_connection()) };
        Ok(Some(BodyBytes { stamp: connection.stamp_before(place.end), bytes: connection.bytes(place) }))
    }

    fn finish(&mut self, complete: bool) -> ExchangeTimes {
        let Some(mut connection) = self.connection.take() else { return std::mem::take(&mut self.moments) };
        let request_ended = self.sent && self.send_error.is_none();
        let response_ended = complete && self.framing.is_complete() && connection.unused_bytes().is_empty();
        let reusable = self.keep_alive && request_ended && response_ended;
        let retransmits = connection.count_retransmits(connection.last_stamp().time, !reusable);
        let records = connection.records.take_reads();
        let socket = connection.socket();
        let moments = ExchangeTimes {
            first_write: socket.first_write,
            last_write: socket.last_write,
            retransmits,
            clock_steps: socket.clock_steps().saturating_sub(self.clock_steps),
            captured: connection.packets.clone().map(|packets| CapturedResponse {
                packets,
                begin: self.begin,
                head_end: self.head_end,
                records: connection.tls.is_some().then_some(records),
                read: socket.received,
            }),
            ..std::mem::take(&mut self.moments)
        };
        if reusable {
            connection.requests += 1;
            self.pool.put_back(connection);
        }
        moments
    }
}

fn no_connection() -> RequestFailure {
    RequestFailure::new(ErrorKind::Connect, "no connection")
}

fn closed_before_response(reused: bool, how: &str) -> RequestFailure {
    let which = if reused { "an open connection" } else { "the connection" };
    RequestFailure::new(ErrorKind::Reset, format!("the server closed {which} before it responded: {how}"))
}

fn failure_in_body(e: &io::Error) -> RequestFailure {
    match e.kind() {
        // Also the error of TLS for a connection that was cut.
        io::ErrorKind::UnexpectedEof => {
            RequestFailure::new(ErrorKind::Truncated, "the connection was closed in the middle of the response")
        }
        io::ErrorKind::InvalidData => {
            RequestFailure::new(ErrorKind::Protocol, format!("the response's framing is broken: {}", root_cause(e)))
        }
        _ => RequestFailure::new(
            ErrorKind::Reset,
            format!("the connection broke in the middle of the response: {}", root_cause(e)),
        ),
    }
}

/// Opens connections ahead of time, on the threads that will read them.
///
/// # Errors
/// Returns the first failure; connections opened before it stay open.
async fn open_connections(pool: Arc<ConnectionPool>, count: usize) -> Result<(), RequestFailure> {
    // Limited, because a server's queue of new connections is short.
    const MAX_OPENING: usize = 64;
    let mut opening = tokio::task::JoinSet::new();
    let clock = pool.clock();
    for begun in 0..count {
        if begun >= MAX_OPENING
            && let Some(opened) = opening.join_next().await
        {
            keep_connection(&pool, opened)?;
        }
        let pool = Arc::clone(&pool);
        opening.spawn(async move { pool.server.connect(clock).await });
    }
    while let Some(opened) = opening.join_next().await {
        keep_connection(&pool, opened)?;
    }
    Ok(())
}

fn keep_connection(
    pool: &ConnectionPool,
    opened: Result<Result<Connection, RequestFailure>, tokio::task::JoinError>,
) -> Result<(), RequestFailure> {
    if let Ok(connection) = opened {
        pool.put_back(connection?);
    }
    Ok(())
}

//! The transport whose moments are true: HTTP/1.1 over sockets that stamp what passes them.

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
    connection::{Connection, Pool, Server},
    exchange::{Exchange, Failure, Moments, Outgoing, Piece, Transport},
    reply::{self, Framing, Head},
};
use crate::{clock::Clock, error::root_cause, record::ErrorKind};

/// A pool of connections for each thread that reads answers: a connection stays with its thread.
#[derive(Debug)]
pub struct Stamped {
    pools: Vec<Arc<Pool>>,
    next: AtomicUsize,
}

impl Stamped {
    /// For so many threads.
    #[must_use]
    pub fn new(server: &Server, readers: usize, clock: Clock) -> Self {
        let pool = |_| Arc::new(Pool::new(server.clone(), clock));
        Stamped { pools: (0..readers.max(1)).map(pool).collect(), next: 0.into() }
    }
}

impl Transport for Stamped {
    type Exchange = StampedExchange;

    fn set_clock(&self, clock: Clock) {
        for pool in &self.pools {
            pool.set_clock(clock);
        }
    }

    fn preconnect(&self, at: usize, count: usize) -> impl Future<Output = Result<(), Failure>> + Send + 'static {
        preconnect(Arc::clone(&self.pools[at]), count)
    }

    /// The threads take turns, but one that has an idle connection comes before one that has none.
    fn begin(&self, request: Outgoing) -> (usize, StampedExchange) {
        let turn = self.next.fetch_add(1, Relaxed);
        let mut order = (0..self.pools.len()).map(|i| (turn + i) % self.pools.len());
        let found = order.find_map(|at| Some((at, Some(self.pools[at].take()?))));
        let (at, connection) = found.unwrap_or((turn % self.pools.len(), None));
        let mut exchange = StampedExchange::new(Arc::clone(&self.pools[at]), request);
        if let Some(connection) = connection {
            exchange.adopt(connection);
            // What does not fit now is sent by the thread that reads; an error is seen there again.
            let _ = exchange.poll_send(&mut Context::from_waker(Waker::noop()));
        }
        (at, exchange)
    }
}

/// A request on its way over one connection.
#[derive(Debug)]
pub struct StampedExchange {
    pool: Arc<Pool>,
    /// `None` once it has been sent: thousands of streams need not hold their prompts.
    request: Option<Outgoing>,
    connection: Option<Connection>,
    /// Bytes of head and body that were taken; what TLS holds back is not among them.
    written: usize,
    framing: Framing,
    keep_alive: bool,
    moments: Moments,
    /// The socket's count when the request began.
    clock_steps: u32,
}

impl StampedExchange {
    fn new(pool: Arc<Pool>, request: Outgoing) -> Self {
        StampedExchange {
            pool,
            request: Some(request),
            connection: None,
            written: 0,
            framing: Framing::Close,
            keep_alive: false,
            moments: Moments::default(),
            clock_steps: 0,
        }
    }

    fn adopt(&mut self, mut connection: Connection) {
        self.moments.reused = connection.used;
        if !connection.used {
            self.moments.connect = Some(connection.connect);
            self.moments.tls = connection.tls;
        }
        connection.used = true;
        let socket = connection.socket_mut();
        socket.begin();
        self.clock_steps = socket.clock_steps();
        self.connection = Some(connection);
    }

    /// Hands the request to the kernel, as far as it takes it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let (Some(connection), Some(request)) = (&mut self.connection, &self.request) else {
            return Poll::Ready(Ok(()));
        };
        let (head, body) = (&request.head[..], &request.request.body()[..]);
        while self.written < head.len() + body.len() {
            let rest = (&head[self.written.min(head.len())..], &body[self.written.saturating_sub(head.len())..]);
            match ready!(connection.poll_write(cx, rest.0, rest.1))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                taken => self.written += taken,
            }
        }
        ready!(connection.poll_flush(cx))?;
        self.request = None;
        Poll::Ready(Ok(()))
    }

    /// The head of the answer, and the framing of its body.
    async fn read_head(&mut self) -> Result<Head, Failure> {
        let reused = self.moments.reused;
        let Some(connection) = &mut self.connection else { return Err(lost()) };
        loop {
            let read = connection.read().await.map_err(|e| closed(reused, &root_cause(&e)))?;
            if read == 0 {
                return Err(closed(reused, "connection closed before message completed"));
            }
            let arrived = connection.arrival().time;
            self.moments.first_byte.get_or_insert(arrived);
            let head = reply::head(connection.unused())
                .map_err(|e| Failure::new(ErrorKind::Protocol, format!("the answer is not HTTP/1.1: {e}")))?;
            if let Some(head) = head {
                self.moments.head = Some(arrived);
                connection.consume(head.len);
                (self.framing, self.keep_alive) = (head.framing, head.keep_alive);
                return Ok(head.head);
            }
        }
    }
}

impl Exchange for StampedExchange {
    async fn head(&mut self) -> Result<Head, Failure> {
        if self.connection.is_none() {
            let clock = self.pool.clock();
            let begun = clock.now();
            let connection = self.pool.server.connect(clock).await;
            self.moments.waited = clock.now().since(begun);
            self.adopt(connection?);
        }
        // A server may answer, and close, before it has taken all: its answer tells more than the failed write.
        let sent = poll_fn(|cx| self.poll_send(cx)).await;
        self.read_head().await.map_err(|failure| match sent {
            Err(e) if failure.kind == ErrorKind::Reset => closed(self.moments.reused, &root_cause(&e)),
            _ => failure,
        })
    }

    async fn next(&mut self) -> Result<Option<Piece<'_>>, Failure> {
        let Some(connection) = &mut self.connection else { return Err(lost()) };
        let place = loop {
            if self.framing.is_over() {
                return Ok(None);
            }
            let (used, data) = self
                .framing
                .take(connection.unused())
                .map_err(|e| Failure::new(ErrorKind::Protocol, format!("the answer's framing is broken: {e}")))?;
            let at = connection.consume(used);
            if !data.is_empty() {
                break at + data.start..at + data.end;
            }
            if used == 0 && connection.read().await.map_err(|e| broken(&e))? == 0 {
                self.keep_alive = false;
                return if self.framing.may_end() {
                    Ok(None)
                } else {
                    Err(broken(&io::ErrorKind::UnexpectedEof.into()))
                };
            }
        };
        Ok(Some(Piece { arrival: connection.arrival(), bytes: connection.bytes(place) }))
    }

    fn end(self, complete: bool) -> Moments {
        let Some(mut connection) = self.connection else { return self.moments };
        let (socket, before) = (connection.socket(), connection.retransmits);
        let retransmits = socket.retransmits();
        let moments = Moments {
            first_write: socket.first_write,
            last_write: socket.last_write,
            retransmits: retransmits.zip(before).map(|(now, then)| now.saturating_sub(then)),
            clock_steps: socket.clock_steps().saturating_sub(self.clock_steps),
            ..self.moments
        };
        if complete && self.keep_alive && self.framing.is_over() && connection.unused().is_empty() {
            connection.retransmits = retransmits;
            self.pool.put(connection);
        }
        moments
    }
}

fn lost() -> Failure {
    Failure::new(ErrorKind::Connect, "there is no connection")
}

fn closed(reused: bool, how: &str) -> Failure {
    let which = if reused { "an open connection" } else { "the connection" };
    Failure::new(ErrorKind::Reset, format!("the server closed {which} before it answered: {how}"))
}

fn broken(e: &io::Error) -> Failure {
    match e.kind() {
        // Also what TLS says of a connection that was cut.
        io::ErrorKind::UnexpectedEof => {
            Failure::new(ErrorKind::Truncated, "the connection was closed in the middle of the answer")
        }
        io::ErrorKind::InvalidData => {
            Failure::new(ErrorKind::Protocol, format!("the answer's framing is broken: {}", root_cause(e)))
        }
        _ => Failure::new(
            ErrorKind::Reset,
            format!("the connection broke in the middle of the answer: {}", root_cause(e)),
        ),
    }
}

/// Opens connections ahead, on the threads that will read them.
///
/// # Errors
/// The first failure; those opened by then stay.
async fn preconnect(pool: Arc<Pool>, count: usize) -> Result<(), Failure> {
    // Not all at once: a server's queue of new connections is short.
    const AT_ONCE: usize = 64;
    let mut opening = tokio::task::JoinSet::new();
    let clock = pool.clock();
    for begun in 0..count {
        if begun >= AT_ONCE
            && let Some(opened) = opening.join_next().await
        {
            keep(&pool, opened)?;
        }
        let pool = Arc::clone(&pool);
        opening.spawn(async move { pool.server.connect(clock).await });
    }
    while let Some(opened) = opening.join_next().await {
        keep(&pool, opened)?;
    }
    Ok(())
}

fn keep(pool: &Pool, opened: Result<Result<Connection, Failure>, tokio::task::JoinError>) -> Result<(), Failure> {
    if let Ok(connection) = opened {
        pool.put(connection?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hyper::Request;

    use super::*;

    #[test]
    fn a_request_is_written_as_http_has_it() {
        let request =
            Request::post("http://h:1/v1/x?y=z").header("host", "h:1").header("a", "b").body(Bytes::from("{}"));
        let outgoing = Outgoing::new(request.unwrap());
        let want = "POST /v1/x?y=z HTTP/1.1\r\nhost: h:1\r\na: b\r\ncontent-length: 2\r\n\r\n";
        assert_eq!(outgoing.head, want);
    }
}

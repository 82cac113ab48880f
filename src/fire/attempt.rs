//! One request's life on the network: connect, send, read, stamp, and say how it ended.

use std::{
    error::Error as _,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, StatusCode, body::Incoming, header};
use tokio::time::timeout;

use super::{answer::Answer, stop::Stop};
use crate::{
    clock::Clock,
    http::{
        connection::{Connection, Failure, Pool, Server},
        openai::error_message,
        stamp::Stamps,
    },
    record::{ErrorKind, RequestFuncOutput},
    units::Nanos,
};

/// How much of a failure's text is read, and for how long.
const LONGEST_FAILURE: usize = 1 << 16;
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a request may take. The names are those of the flags and of the kinds of failure.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Send → first token.
    pub first_token: Nanos,
    /// Between two arrivals of bytes once tokens flow.
    pub stall: Nanos,
    /// All of it.
    pub total: Nanos,
}

/// What every attempt of a run needs.
#[derive(Debug)]
pub struct Client {
    /// Connections to the server.
    pub pool: Pool,
    /// The clock of the run.
    pub clock: Clock,
    /// How long a request may take.
    pub limits: Limits,
    /// When the last outcome so far was known, in nanoseconds of the clock.
    pub ended: AtomicU64,
    /// Requests started, for the line of progress.
    pub started: AtomicU64,
    /// Tokens received by all requests, as far as chunks tell, for the line of progress.
    pub tokens: AtomicU64,
}

impl Client {
    /// With no request sent yet.
    #[must_use]
    pub fn new(server: Server, clock: Clock, limits: Limits) -> Self {
        let pool = Pool::new(server, clock);
        Client { pool, clock, limits, ended: 0.into(), started: 0.into(), tokens: 0.into() }
    }
}

/// What became of a request, with times counted from the start of the run.
#[derive(Debug, Default)]
pub struct Attempt {
    answer: Answer,
    stamps: Option<Arc<Stamps>>,
    start: Option<Nanos>,
    end: Nanos,
    headers: Option<Nanos>,
    broken: Option<Failure>,
    connect: Option<Nanos>,
    tls: Option<Nanos>,
    sent: Option<Nanos>,
    status: Option<u16>,
    reused: bool,
}

/// Sends one request and reads its answer to the end, whatever the end is.
pub async fn attempt(client: &Client, request: Request<Full<Bytes>>, stop: &mut Stop) -> Attempt {
    let mut attempt = Attempt::default();
    let pulse = Pulse::new(client.clock.now());
    let broken = tokio::select! {
        biased;
        result = exchange(client, request, &mut attempt, &pulse) => result.err(),
        failure = pulse.watch(client) => Some(failure),
        () = stop.cancelled() => Some(Failure::new(ErrorKind::Cancelled, "stopped by the user while it ran")),
    };
    attempt.end = client.clock.now();
    attempt.broken = broken;
    // Of an attempt that failed before the head of its answer.
    if let Some(stamps) = &attempt.stamps {
        attempt.start = attempt.start.or_else(|| stamps.first_write());
        attempt.sent = attempt.sent.or_else(|| stamps.last_write());
    }
    attempt
}

impl Attempt {
    /// Writes what became of the request into `output`; see [`Answer::finish`] for `count`.
    pub fn finish(
        self,
        clock: Clock,
        scheduled: Nanos,
        count: impl FnOnce(&str) -> Option<u32>,
        output: &mut RequestFuncOutput,
    ) {
        let start = self.start.unwrap_or(scheduled);
        output.status = self.status;
        output.scheduled_time = clock.unix(scheduled);
        output.start_time = self.start.map(|t| clock.unix(t));
        output.queue_time = self.start.map(|t| t.since(scheduled));
        output.phases.connect = self.connect;
        output.phases.tls = self.tls;
        output.phases.send = self.start.and(self.sent).map(|t| t.since(start));
        output.phases.headers = self.headers.map(|t| t.since(start));
        output.phases.done = Some(self.end.since(start));
        output.reused = self.reused;
        self.answer.finish(start, self.broken, count, output);
    }
}

async fn exchange(
    client: &Client,
    request: Request<Full<Bytes>>,
    attempt: &mut Attempt,
    pulse: &Pulse,
) -> Result<(), Failure> {
    let (mut connection, reused) = client.pool.take().await?;
    attempt.reused = reused;
    if !reused {
        attempt.connect = Some(connection.connect);
        attempt.tls = connection.tls;
    }
    let stamps = Arc::clone(&connection.stamps);
    attempt.stamps = Some(Arc::clone(&stamps));
    let response = connection.send(request).await.map_err(|e| broken_before_head(&e, reused))?;
    let head = stamps.last_read().unwrap_or_else(|| client.clock.now());
    // Now, and not at the end: the connection's next request will forget them.
    attempt.start = stamps.first_write();
    attempt.sent = stamps.last_write();
    attempt.headers = Some(head);
    attempt.status = Some(response.status().as_u16());
    pulse.beat(head, false);
    let body = check_head(response).await?;
    read(client, body, connection, attempt, pulse).await
}

async fn read(
    client: &Client,
    mut body: Incoming,
    connection: Connection,
    attempt: &mut Attempt,
    pulse: &Pulse,
) -> Result<(), Failure> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| broken_in_body(&e))?;
        let stamp = connection.stamps.last_read().unwrap_or_else(|| client.clock.now());
        if let Some(bytes) = frame.data_ref() {
            let before = attempt.answer.tokens_so_far();
            attempt.answer.push(stamp, bytes)?;
            client.tokens.fetch_add(attempt.answer.tokens_so_far() - before, Relaxed);
            pulse.beat(stamp, attempt.answer.has_token());
        }
    }
    client.pool.put(connection);
    Ok(())
}

/// The body of an event stream; anything else is a failure, told in the server's words.
async fn check_head(response: Response<Incoming>) -> Result<Incoming, Failure> {
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    // Servers exist that forget the type of a stream; these two types are certainly none.
    if status == StatusCode::OK && !matches!(kind.as_str(), "text/html" | "application/json") {
        return Ok(response.into_body());
    }
    let location = response.headers().get(header::LOCATION).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let message = said(response.into_body()).await;
    if status == StatusCode::OK {
        return Err(Failure::new(
            ErrorKind::Protocol,
            format!("the server answered {kind}, not an event stream: {message}"),
        ));
    }
    let location = location.map_or_else(String::new, |to| format!(", to {to}"));
    let message = if message.is_empty() { message } else { format!(": {message}") };
    Err(Failure::new(ErrorKind::HttpStatus, format!("HTTP {status}{location}{message}")))
}

/// What a server says about a failure, as far as it comes: the failure is one, however long its text and whatever cuts it.
async fn said(mut body: Incoming) -> String {
    let mut text = Vec::new();
    let read = async {
        while text.len() < LONGEST_FAILURE
            && let Some(Ok(frame)) = body.frame().await
        {
            text.extend_from_slice(frame.data_ref().map_or(&[], |bytes| bytes));
        }
    };
    // Late or not, what has come is told.
    let _ = timeout(PATIENCE, read).await;
    error_message(&text)
}

fn broken_before_head(e: &hyper::Error, reused: bool) -> Failure {
    if e.is_parse() {
        return Failure::new(ErrorKind::Protocol, format!("the answer is not HTTP/1.1: {}", cause(e)));
    }
    let which = if reused { "an open connection" } else { "the connection" };
    Failure::new(ErrorKind::Reset, format!("the server closed {which} before it answered: {}", cause(e)))
}

fn broken_in_body(e: &hyper::Error) -> Failure {
    let source = e.source().and_then(|s| s.downcast_ref::<io::Error>()).map(io::Error::kind);
    match source {
        Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => {
            Failure::new(ErrorKind::Protocol, format!("the answer's framing is broken: {}", cause(e)))
        }
        None | Some(io::ErrorKind::UnexpectedEof) => Failure::new(
            ErrorKind::Truncated,
            format!("the connection was closed in the middle of the answer: {}", cause(e)),
        ),
        Some(_) => {
            Failure::new(ErrorKind::Reset, format!("the connection broke in the middle of the answer: {}", cause(e)))
        }
    }
}

/// The innermost words of an error.
fn cause(e: &hyper::Error) -> String {
    e.source().map_or_else(|| e.to_string(), ToString::to_string)
}

/// When something was last heard: what the time limits go by. Looking costs nothing while bytes flow.
struct Pulse {
    begun: Nanos,
    last: AtomicU64,
    flows: AtomicU64,
}

impl Pulse {
    fn new(begun: Nanos) -> Self {
        Pulse { begun, last: begun.0.into(), flows: 0.into() }
    }

    fn beat(&self, now: Nanos, has_token: bool) {
        self.last.store(now.0, Relaxed);
        self.flows.store(u64::from(has_token), Relaxed);
    }

    /// The moment at which the request will have taken too long if nothing more is heard.
    fn deadline(&self, limits: &Limits) -> (Nanos, ErrorKind) {
        let total = (self.begun + limits.total, ErrorKind::TimeoutTotal);
        let silence = if self.flows.load(Relaxed) == 0 {
            (self.begun + limits.first_token, ErrorKind::TimeoutFirstToken)
        } else {
            (Nanos(self.last.load(Relaxed)) + limits.stall, ErrorKind::TimeoutStall)
        };
        if silence.0 < total.0 { silence } else { total }
    }

    /// Ends when the request has taken too long.
    async fn watch(&self, client: &Client) -> Failure {
        loop {
            let (at, kind) = self.deadline(&client.limits);
            let now = client.clock.now();
            if now >= at {
                let limits = &client.limits;
                let message = match kind {
                    ErrorKind::TimeoutFirstToken => {
                        format!("no token within {} (--timeout-first-token)", limits.first_token)
                    }
                    ErrorKind::TimeoutStall => format!("nothing more for {} (--timeout-stall)", limits.stall),
                    _ => format!("not finished within {} (--timeout-total)", limits.total),
                };
                return Failure::new(kind, message);
            }
            tokio::time::sleep(at.since(now).duration()).await;
        }
    }
}

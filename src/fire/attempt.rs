//! One request's life on the network: send, read, and say how it ended.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{AcqRel, Relaxed, Release},
        },
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use tokio::time::timeout;

use super::{answer::Answer, slots::Slot, stop::Stop};
use crate::{
    backend::Protocol,
    clock::Clock,
    http::exchange::{ExchangeTimes, HttpExchange, RequestFailure, error_message},
    record::{ErrorKind, RequestFuncOutput, Stamps},
    units::Nanos,
};

/// How much of a failure's text is read, and for how long.
const LONGEST_FAILURE: usize = 1 << 16;
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a body may go on behind its complete answer. Its end comes with the answer's or right behind it, and lets the
/// connection be used again; a server or a proxy that leaves it open would hold the slot until --timeout-stall.
const AFTERWARDS: Duration = Duration::from_secs(1);

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
    /// The clock of the run.
    pub clock: Clock,
    /// The API.
    pub protocol: Protocol,
    /// How long a request may take.
    pub limits: Limits,
    /// When the last outcome so far was known, in nanoseconds of the clock.
    pub ended: AtomicU64,
    /// Requests started, for the line of progress.
    pub started: AtomicU64,
    /// Tokens received by the requests that are over, as far as chunks tell, for the line of progress.
    pub tokens: AtomicU64,
}

impl Client {
    /// With no request sent yet.
    #[must_use]
    pub fn new(clock: Clock, protocol: Protocol, limits: Limits) -> Self {
        Client { clock, protocol, limits, ended: 0.into(), started: 0.into(), tokens: 0.into() }
    }
}

/// When a request was to be sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Due {
    /// By the schedule, in an open loop; in a closed one as `ready`.
    pub scheduled: Nanos,
    /// When it had been read; 0 when it was there before anybody asked.
    pub read: Nanos,
    /// When nothing but the client kept it back any more: it was due, had its slot, and had been read.
    pub ready: Nanos,
    /// It is a later turn of a conversation, due by what became of the one before and not by the schedule.
    pub follows: bool,
}

/// What became of a request, with times counted from the start of the run.
#[derive(Debug, Default)]
pub struct Attempt {
    answer: Answer,
    moments: ExchangeTimes,
    end: Nanos,
    /// When the last event of an answer came whose body did not end with it.
    open_since: Option<Nanos>,
    broken: Option<RequestFailure>,
    status: Option<u16>,
}

/// How true the times of a request are.
#[derive(Debug, Default)]
pub struct Traces {
    /// From the moment when nothing but the client kept the request back to its first byte, connecting left out; `None`: it
    /// was never sent.
    pub send_lag: Option<Nanos>,
    /// How its chunks were stamped.
    pub stamps: Stamps,
    /// Segments sent again; `None`: not known.
    pub retransmits: Option<u32>,
}

/// Sends one request and reads its answer to the end, whatever the end is.
///
/// `abandon`: the client leaves so long after the start. `slot` is told of the first token.
pub async fn attempt(
    client: &Client,
    mut exchange: impl HttpExchange,
    expected: Option<u32>,
    abandon: Option<Nanos>,
    slot: &mut Slot,
    stop: &mut Stop,
) -> Attempt {
    let mut attempt = Attempt { answer: Answer::expecting(client.protocol, expected), ..Attempt::default() };
    let pulse = Pulse::new(client.clock.now());
    let leave = async {
        match abandon {
            Some(after) => tokio::time::sleep(after.to_duration()).await,
            None => std::future::pending().await,
        }
    };
    let broken = {
        let ends = pin!(async {
            tokio::select! {
                failure = pulse.watch(client) => failure,
                () = stop.cancelled() => RequestFailure::new(ErrorKind::Cancelled, "stopped while it ran"),
                () = leave => {
                    let after = abandon.unwrap_or_default();
                    RequestFailure::new(ErrorKind::Abandoned, format!("left on purpose {after} after its start (--cancel-rate)"))
                }
            }
        });
        let mut ends = Seldom::new(ends);
        tokio::select! {
            biased;
            result = talk(&mut exchange, &mut attempt, &pulse, slot) => result.err(),
            failure = &mut ends => Some(failure),
        }
    };
    attempt.end = attempt.open_since.unwrap_or_else(|| client.clock.now());
    attempt.moments = exchange.finish(broken.is_none());
    attempt.broken = broken;
    client.tokens.fetch_add(attempt.answer.tokens_so_far(), Relaxed);
    attempt
}

impl Attempt {
    /// When its answer ended, or its failure.
    #[must_use]
    pub fn end(&self) -> Nanos {
        self.end
    }

    /// Bytes that it holds, more or less.
    #[must_use]
    pub fn size(&self) -> u64 {
        (size_of::<Self>() + self.answer.heap()) as u64
    }

    /// Whether the server, or the way there, failed it.
    pub fn failed(&self) -> bool {
        let ours = |kind| matches!(kind, ErrorKind::Abandoned | ErrorKind::Cancelled);
        self.broken.as_ref().is_some_and(|failure| !ours(failure.kind))
    }

    /// What the server said, and when its last token came, or when the client left it on purpose; `None`: the request failed.
    pub fn reply(&mut self) -> Option<(String, Nanos)> {
        if self.broken.as_ref().is_some_and(|failure| failure.kind == ErrorKind::Abandoned) {
            // Its user has heard so much, and goes on from there.
            return Some((self.answer.heard()?, self.end));
        }
        let (text, last) = self.answer.reply(self.broken.as_ref())?;
        Some((text, last.unwrap_or(self.end)))
    }

    /// Writes what became of the request into `output`; see [`Answer::finish`] for `count`.
    pub fn finish(
        self,
        clock: Clock,
        due: Due,
        count: impl FnOnce(&str) -> Option<u32>,
        output: &mut RequestFuncOutput,
    ) -> Traces {
        let moments = self.moments;
        let start = moments.first_write.unwrap_or(due.scheduled);
        let since = |time: Option<Nanos>| moments.first_write.and(time).map(|t| t.since(start));
        output.status = self.status;
        output.scheduled_time = clock.to_unix(due.scheduled);
        output.start_time = moments.first_write.map(|t| clock.to_unix(t));
        output.queue_time = moments.first_write.map(|t| t.since(due.scheduled));
        output.phases.connect = moments.connect;
        output.phases.tls = moments.tls;
        output.phases.send = since(moments.last_write);
        output.phases.first_byte = since(moments.first_byte);
        output.phases.headers = since(moments.head);
        output.phases.done = Some(self.end.since(start));
        output.reused = moments.reused;
        let stamps = Stamps { clock_steps: moments.clock_steps.into(), ..self.answer.stamps() };
        self.answer.finish(start, self.broken, count, output);
        let send_lag = moments.first_write.map(|t| t.since(due.ready).since(moments.waited));
        Traces { send_lag, stamps, retransmits: moments.retransmits }
    }
}

async fn talk(
    exchange: &mut impl HttpExchange,
    attempt: &mut Attempt,
    pulse: &Pulse,
    slot: &mut Slot,
) -> Result<(), RequestFailure> {
    let head = exchange.receive_head().await?;
    attempt.status = Some(head.status.as_u16());
    let cut = attempt.answer.cut();
    if !head.may_hold(cut) {
        return Err(head.to_failure(cut, &said(exchange).await));
    }
    while let Some(piece) = exchange.next_bytes().await? {
        attempt.answer.push(piece.stamp, piece.bytes)?;
        let has_token = attempt.answer.has_token();
        pulse.beat(piece.stamp.time, has_token);
        if has_token {
            slot.first_token(piece.stamp.time);
        }
        if attempt.answer.is_done() {
            attempt.open_since = Some(piece.stamp.time);
            if let Ok(ended) = timeout(AFTERWARDS, rest(exchange)).await {
                ended?;
                attempt.open_since = None;
            }
            return Ok(());
        }
    }
    Ok(())
}

/// Reads what is left of a body.
async fn rest(exchange: &mut impl HttpExchange) -> Result<(), RequestFailure> {
    while exchange.next_bytes().await?.is_some() {}
    Ok(())
}

/// What a server says about a failure, as far as it comes: the failure is one, however long its text and whatever cuts it.
async fn said(exchange: &mut impl HttpExchange) -> String {
    let mut text = Vec::new();
    let read = async {
        while text.len() < LONGEST_FAILURE
            && let Ok(Some(piece)) = exchange.next_bytes().await
        {
            text.extend_from_slice(piece.bytes);
        }
    };
    // Late or not, what has come is told.
    let _ = timeout(PATIENCE, read).await;
    error_message(&text)
}

/// A future that is looked at only when it rings itself, and not each time that its task wakes: the time limits and the
/// user's stop hardly ever ring, and looking at them for every chunk would touch what all streams share.
struct Seldom<F> {
    future: F,
    bell: Arc<Bell>,
}

struct Bell {
    rang: AtomicBool,
    task: OnceLock<Waker>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rang.store(true, Release);
        if let Some(task) = self.task.get() {
            task.wake_by_ref();
        }
    }
}

impl<F> Seldom<F> {
    fn new(future: F) -> Self {
        Seldom { future, bell: Arc::new(Bell { rang: true.into(), task: OnceLock::new() }) }
    }
}

impl<F: Future + Unpin> Future for Seldom<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // An attempt stays on one task, so the first waker is the right one for good.
        self.bell.task.get_or_init(|| cx.waker().clone());
        if !self.bell.rang.swap(false, AcqRel) {
            return Poll::Pending;
        }
        let bell = Waker::from(Arc::clone(&self.bell));
        Pin::new(&mut self.future).poll(&mut Context::from_waker(&bell))
    }
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
    async fn watch(&self, client: &Client) -> RequestFailure {
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
                return RequestFailure::new(kind, message);
            }
            // The first token may come meanwhile, and bring a nearer limit with it.
            tokio::time::sleep(at.since(now).to_duration().min(client.limits.stall.to_duration())).await;
        }
    }
}

//! One request on the network: send it, read the response, and note how it ended.

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

use tokio::{task::coop::unconstrained, time::timeout};

use super::{
    buffering::is_held_back,
    counts::{OutputCounts, ReaderCounts},
    response::ReceivedResponse,
    slots::Slot,
    stop::StopSignal,
    watch,
};
use crate::{
    backend::Protocol,
    clock::Clock,
    http::{
        error_text::error_message,
        exchange::{ExchangeTimes, HttpExchange, RequestFailure},
    },
    load::SendTimes,
    record::{ErrorKind, RequestFuncOutput, Stamps},
    units::Nanos,
};

/// How much of an error response is read, and for how long.
const MAX_ERROR_BODY: usize = 1 << 16;
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a body may stay open after its complete response. It usually ends with the response or right after it, and then the
/// connection can be reused; a server or a proxy that leaves it open would hold the slot until --timeout-stall.
const BODY_END_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a request may take. The fields are named after the flags and the kinds of error.
#[derive(Debug, Clone, Copy)]
pub struct TimeLimits {
    /// From sending to the first token.
    pub first_token: Nanos,
    /// Between two arrivals of bytes, after the first token.
    pub stall: Nanos,
    /// For the whole request.
    pub total: Nanos,
}

/// What all attempts of a run share.
#[derive(Debug)]
pub struct ClientState {
    /// The clock of the run.
    pub clock: Clock,
    /// The API, and whether responses are streamed.
    pub protocol: Protocol,
    /// How long a request may take.
    pub limits: TimeLimits,
    /// Whether a tokenizer may have to count the tokens of responses.
    pub keep_texts: bool,
    /// When the latest outcome was known, in nanoseconds of the clock.
    pub ended: AtomicU64,
    /// Requests sent.
    pub started: AtomicU64,
    /// How many requests have ended.
    pub finished: AtomicU64,
    /// What each reader thread has received.
    pub readers: Box<[ReaderCounts]>,
    /// What the judged outputs have.
    pub outputs: OutputCounts,
}

impl ClientState {
    /// No request sent yet. `threads` read the responses.
    #[must_use]
    pub fn new(clock: Clock, protocol: Protocol, limits: TimeLimits, threads: usize) -> Self {
        ClientState {
            clock,
            protocol,
            limits,
            keep_texts: false,
            ended: 0.into(),
            started: 0.into(),
            finished: 0.into(),
            readers: (0..threads).map(|_| ReaderCounts::default()).collect(),
            outputs: OutputCounts::default(),
        }
    }

    /// The number of requests in flight.
    #[must_use]
    pub fn count_in_flight(&self) -> u64 {
        self.started.load(Relaxed).saturating_sub(self.finished.load(Relaxed))
    }
}

/// How a request went, with times counted from the start of the run.
#[derive(Debug, Default)]
pub struct Attempt {
    response: ReceivedResponse,
    moments: ExchangeTimes,
    end: Nanos,
    /// When the last event of a complete response arrived whose body then stayed open.
    open_since: Option<Nanos>,
    /// Why reading ended early.
    failure: Option<RequestFailure>,
    status: Option<u16>,
    /// What the server calls itself.
    server: Option<String>,
}

/// How accurate the times of a request are.
#[derive(Debug, Default)]
pub struct TimingQuality {
    /// From the time when only the client held the request back to its first byte, without connecting; `None`: it was never
    /// sent.
    pub send_lag: Option<Nanos>,
    /// How its chunks were stamped.
    pub stamps: Stamps,
    /// Retransmitted TCP segments; `None`: not known.
    pub retransmits: Option<u32>,
    /// Whether its chunks were held back; `None`: they do not show it.
    pub held_back: Option<bool>,
    /// What the server calls itself.
    pub server: Option<String>,
}

/// Sends one request and reads its response until it ends, fails, times out or is cancelled.
///
/// `thread` is the reader thread. `cancel_after`: when to cancel it on purpose, counted from its start. `slot` is notified of the first
/// token.
pub async fn run_attempt(
    client: &ClientState,
    thread: usize,
    exchange: &mut impl HttpExchange,
    expected_tokens: Option<u32>,
    cancel_after: Option<Nanos>,
    slot: &mut Slot,
    stop: &mut StopSignal,
) -> Box<Attempt> {
    // On the heap from the start: it goes from here to the sink.
    let response = ReceivedResponse::with_capacity(client.protocol, expected_tokens, client.keep_texts);
    let mut attempt = Box::new(Attempt { response, ..Attempt::default() });
    let activity = Activity::new(client.clock.now());
    let cancel = async {
        match cancel_after {
            Some(after) => tokio::time::sleep(after.to_duration()).await,
            None => std::future::pending().await,
        }
    };
    let failure = {
        let ends = pin!(async {
            tokio::select! {
                failure = activity.wait_for_timeout(client) => failure,
                () = stop.wait_for_cancel() => RequestFailure::new(ErrorKind::Cancelled, "stopped while it ran"),
                () = cancel => {
                    let after = cancel_after.unwrap_or_default();
                    RequestFailure::new(ErrorKind::Abandoned, format!("cancelled on purpose {after} after its start (--cancel-rate)"))
                }
            }
        });
        // Without a budget: reading may spend the whole of it each time that this task is polled, and timers do not fire without.
        let mut ends = PolledOnWake::new(unconstrained(ends));
        tokio::select! {
            biased;
            result = receive_response(client, thread, exchange, &mut attempt, &activity, slot) => result.err(),
            failure = &mut ends => Some(failure),
        }
    };
    attempt.end = attempt.open_since.unwrap_or_else(|| client.clock.now());
    attempt.moments = exchange.finish(failure.is_none());
    attempt.failure = failure;
    attempt
}

impl Attempt {
    /// The tokens that were counted while they arrived.
    #[must_use]
    pub fn tokens_so_far(&self) -> u64 {
        self.response.tokens_so_far()
    }

    /// When its response ended or it failed.
    #[must_use]
    pub fn end_time(&self) -> Nanos {
        self.end
    }

    /// Approximate size in memory, in bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        (size_of::<Self>() + self.response.heap_bytes()) as u64
    }

    /// The mean time between its chunks; `None` without two of them.
    pub fn mean_gap(&self) -> Option<Nanos> {
        self.response.mean_gap()
    }

    /// Whether the server or the network failed it.
    pub fn has_failed(&self) -> bool {
        let by_client = |kind| matches!(kind, ErrorKind::Abandoned | ErrorKind::Cancelled);
        self.failure.as_ref().is_some_and(|failure| !by_client(failure.kind))
    }

    /// The text of the response for the next turn of a conversation, and when its last token arrived or the client cancelled
    /// it on purpose; `None`: the request failed.
    pub fn turn_response(&mut self) -> Option<(String, Nanos)> {
        if self.failure.as_ref().is_some_and(|failure| failure.kind == ErrorKind::Abandoned) {
            // Its user has read what arrived, and goes on from there.
            return Some((self.response.partial_text()?, self.end));
        }
        let (text, last) = self.response.complete_text(self.failure.as_ref())?;
        Some((text, last.unwrap_or(self.end)))
    }

    /// Replaces the times of the response by the arrivals of its packets, if they were captured.
    fn use_packet_times(&mut self) {
        let Some((captured, start)) = self.moments.captured.take().zip(self.moments.first_write) else { return };
        self.response.parse_remaining(self.failure.is_none());
        let (begin, head_end) = (captured.begin, captured.head_end);
        captured.look_up(|arrival_of| {
            let mut earlier = |time: &mut Option<Nanos>, end: u64| {
                *time = time.map(|time| arrival_of(end).map_or(time, |arrival| arrival.min(time).max(start)));
            };
            earlier(&mut self.moments.first_byte, begin + 1);
            if let Some(end) = head_end {
                earlier(&mut self.moments.head, end);
            }
            self.response.use_packet_times(start, arrival_of);
        });
    }

    /// Writes how the request went into `output`; see [`ReceivedResponse::finish`] for `count_tokens`.
    pub fn finish(
        mut self: Box<Self>,
        clock: Clock,
        times: SendTimes,
        count_tokens: impl Fn(&str) -> Option<u32>,
        output: &mut RequestFuncOutput,
    ) -> TimingQuality {
        self.use_packet_times();
        let moments = self.moments;
        let start = moments.first_write.unwrap_or(times.scheduled);
        let since = |time: Option<Nanos>| moments.first_write.and(time).map(|t| t.since(start));
        output.status = self.status;
        output.scheduled_time = clock.to_unix(times.scheduled);
        output.start_time = moments.first_write.map(|t| clock.to_unix(t));
        output.queue_time = moments.first_write.map(|t| t.since(times.scheduled));
        output.phases.connect = moments.connect;
        output.phases.tls = moments.tls;
        output.phases.send = since(moments.last_write);
        output.phases.first_byte = since(moments.first_byte);
        output.phases.headers = since(moments.head);
        output.phases.done = Some(self.end.since(start));
        output.reused = moments.reused;
        output.resent = moments.resent;
        let stamps = Stamps { clock_steps: moments.clock_steps.into(), ..self.response.stamps() };
        self.response.finish(start, self.failure, count_tokens, output);
        let send_lag = moments.first_write.map(|t| t.since(times.ready).since(moments.waited));
        let held_back = is_held_back(output.ttft, &output.itl, stamps).filter(|_| output.success);
        output.buffered = held_back == Some(true);
        TimingQuality { send_lag, stamps, retransmits: moments.retransmits, held_back, server: self.server }
    }
}

async fn receive_response(
    client: &ClientState,
    thread: usize,
    exchange: &mut impl HttpExchange,
    attempt: &mut Attempt,
    activity: &Activity,
    slot: &mut Slot,
) -> Result<(), RequestFailure> {
    let mut head = exchange.receive_head().await?;
    attempt.status = Some(head.status.as_u16());
    attempt.server = head.server.take();
    if !head.may_hold_response() {
        return Err(head.to_failure(&read_error_body(exchange).await));
    }
    attempt.response.set_framed(head.framed);
    let mut counted = 0;
    while let Some(received) = exchange.next_bytes().await? {
        attempt.response.push(received.stamp, received.bytes)?;
        if attempt.response.has_joined_chunks() {
            attempt.response.bound_error(client.clock.now().since(watch::longest_wait()));
        }
        let has_token = attempt.response.has_token();
        activity.record_bytes(received.stamp.time, has_token);
        if has_token {
            slot.first_token(received.stamp.time);
            if counted == 0 {
                client.readers[thread].add_first_token(received.stamp.time.since(activity.begun));
            }
        }
        let tokens = attempt.response.tokens_so_far();
        if tokens > counted {
            client.readers[thread].add_tokens(tokens - counted);
            counted = tokens;
        }
        if attempt.response.is_done() {
            attempt.open_since = Some(received.stamp.time);
            if let Ok(ended) = timeout(BODY_END_TIMEOUT, drain_body(exchange)).await {
                ended?;
                attempt.open_since = None;
            }
            return Ok(());
        }
    }
    Ok(())
}

/// Reads the rest of a body.
async fn drain_body(exchange: &mut impl HttpExchange) -> Result<(), RequestFailure> {
    while exchange.next_bytes().await?.is_some() {}
    Ok(())
}

/// Reads the text of an error response. A text that is too long, cut off or late is used as far as it arrived.
async fn read_error_body(exchange: &mut impl HttpExchange) -> String {
    let mut text = Vec::new();
    let read = async {
        while text.len() < MAX_ERROR_BODY
            && let Ok(Some(received)) = exchange.next_bytes().await
        {
            text.extend_from_slice(received.bytes);
        }
    };
    // After a timeout, the text so far is used.
    let _ = timeout(ERROR_BODY_TIMEOUT, read).await;
    error_message(&text)
}

/// A future that is polled only when its own waker was called, and not each time that its task wakes. The time limits and the
/// stop signal hardly ever fire, and polling them for every chunk would touch memory that all streams share.
struct PolledOnWake<F> {
    future: F,
    flag: Arc<WakeFlag>,
}

struct WakeFlag {
    woken: AtomicBool,
    task: OnceLock<Waker>,
}

impl Wake for WakeFlag {
    fn wake(self: Arc<Self>) {
        self.woken.store(true, Release);
        if let Some(task) = self.task.get() {
            task.wake_by_ref();
        }
    }
}

impl<F> PolledOnWake<F> {
    fn new(future: F) -> Self {
        PolledOnWake { future, flag: Arc::new(WakeFlag { woken: true.into(), task: OnceLock::new() }) }
    }
}

impl<F: Future + Unpin> Future for PolledOnWake<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // An attempt stays on one task, so the first waker remains valid.
        self.flag.task.get_or_init(|| cx.waker().clone());
        if !self.flag.woken.swap(false, AcqRel) {
            return Poll::Pending;
        }
        let waker = Waker::from(Arc::clone(&self.flag));
        Pin::new(&mut self.future).poll(&mut Context::from_waker(&waker))
    }
}

/// When bytes last arrived, for the time limits. Recording it is cheap, and nothing is checked while bytes flow.
struct Activity {
    begun: Nanos,
    last: AtomicU64,
    has_token: AtomicU64,
}

impl Activity {
    fn new(begun: Nanos) -> Self {
        Activity { begun, last: begun.0.into(), has_token: 0.into() }
    }

    fn record_bytes(&self, now: Nanos, has_token: bool) {
        self.last.store(now.0, Relaxed);
        self.has_token.store(u64::from(has_token), Relaxed);
    }

    /// When the request will have taken too long if no more bytes arrive, and the limit that it then exceeds.
    fn next_deadline(&self, limits: &TimeLimits) -> (Nanos, ErrorKind) {
        let total = (self.begun + limits.total, ErrorKind::TimeoutTotal);
        let silence = if self.has_token.load(Relaxed) == 0 {
            (self.begun + limits.first_token, ErrorKind::TimeoutFirstToken)
        } else {
            (Nanos(self.last.load(Relaxed)) + limits.stall, ErrorKind::TimeoutStall)
        };
        if silence.0 < total.0 { silence } else { total }
    }

    /// Returns when the request has taken too long.
    async fn wait_for_timeout(&self, client: &ClientState) -> RequestFailure {
        loop {
            let (at, kind) = self.next_deadline(&client.limits);
            let now = client.clock.now();
            if now >= at {
                let limits = &client.limits;
                let message = match kind {
                    ErrorKind::TimeoutFirstToken => {
                        format!("no token within {} (--timeout-first-token)", limits.first_token)
                    }
                    ErrorKind::TimeoutStall => format!("no more bytes for {} (--timeout-stall)", limits.stall),
                    _ => format!("not finished within {} (--timeout-total)", limits.total),
                };
                return RequestFailure::new(kind, message);
            }
            // The first token may arrive before that, and then a shorter limit applies.
            tokio::time::sleep(at.since(now).to_duration().min(client.limits.stall.to_duration())).await;
        }
    }
}

//! Sends each request when it is due and has a slot. [`Queue`] decides which one.
//!
//! The main thread waits for time and input. The end of a response often makes another request sendable at once, and then the thread
//! that read it sends that one too: its connection is warm, and no other thread has to wake.

use std::{
    future::poll_fn,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{sync::mpsc, time::timeout};

use super::{
    queue::{Action, Queue, Step, ThinkTimes, TurnEvent},
    read_ahead::ReadAheadReceiver,
    scheduled::Scheduled,
    slots::{RequestSlots, Slot},
    stop::{StopReason, StopSignal, Stopper},
};
use crate::{
    load::{ArrivalMonitor, Schedule, SendTimes, arrivals::ArrivalSummary},
    pacer::Sleeper,
    units::Nanos,
};

/// Longest stretch without yielding to the runtime, so that signals and `--max-seconds` are seen.
const YIELD_INTERVAL: Nanos = Nanos(1_000_000);

/// Requests to send before their reader threads are woken: half a millisecond of sending.
const REQUESTS_PER_WAKE: usize = 32;

/// How long to wait, after the end, for lines of a pipe that were due before it.
const LAST_LINES_TIMEOUT: Duration = Duration::from_millis(200);

/// A clock that can be waited for. Tests use one whose time costs nothing.
pub trait Timer {
    /// The time since the start of the run.
    fn now(&self) -> Nanos;
    /// Returns at `due`.
    fn wait_until(&self, due: Nanos) -> impl Future<Output = ()> + Send;
}

impl Timer for Sleeper {
    fn now(&self) -> Nanos {
        self.now()
    }

    async fn wait_until(&self, due: Nanos) {
        self.sleep_until(due).await;
    }
}

/// Carries out what the dispatcher decides.
pub trait Launch {
    /// A request made ready.
    type Request: Scheduled;
    /// A request that was sent and whose response has to be read.
    type Sent;
    /// Starts to build the body of a turn from the responses before it; a [`TurnEvent`] reports the result.
    fn fill(&self, request: Self::Request, responses: Vec<String>, times: SendTimes);
    /// Sends a request now; `None` if that was not possible. Its slot stays taken for `think_time` after its end. `near` is the
    /// reader thread that calls it.
    fn start(
        &self,
        request: Self::Request,
        times: SendTimes,
        think_time: Nanos,
        slot: Slot,
        near: Option<usize>,
    ) -> Option<Self::Sent>;
    /// Lets the reader threads read the responses to these requests.
    fn read_responses(&self, sent: Vec<Self::Sent>);
    /// Records a request that was due at `times.scheduled` but is never sent: it counts as offered.
    fn abandon(&self, request: Self::Request, times: SendTimes, reason: StopReason);
}

/// Where requests and events of turns come from, and what decides when they are sent.
pub struct Sources<R> {
    /// Requests, in the order of lines.
    pub requests: ReadAheadReceiver<R>,
    /// Events of turns. Each sender also wakes the dispatcher.
    pub events: mpsc::UnboundedReceiver<TurnEvent<R>>,
    /// When each request is due.
    pub schedule: Schedule,
    /// Think times that the requests do not give.
    pub think_times: ThinkTimes,
    /// The number of sessions that may be active at once; `None`: no limit.
    pub max_sessions: Option<u32>,
    /// How long the clock of the input had run at the start of the run.
    pub input_lead: Nanos,
    /// Nothing is sent from then on; `None`: no limit.
    pub end: Option<Nanos>,
    /// Watches when requests are sent.
    pub arrivals: ArrivalMonitor,
}

/// How dispatching ended.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct DispatchEnd {
    /// Requests that were read but not due when the run was stopped.
    pub not_due: u64,
    /// Parked turns filled their memory, so that the input could not be read in time.
    pub input_blocked: bool,
    /// Whether any request had its own timestamp.
    pub timed: bool,
    /// How the arrivals kept to the schedule.
    pub arrivals: Option<ArrivalSummary>,
}

/// Lets a reader thread send the request that the end of a response made sendable.
pub trait SendNext<S>: Send + Sync {
    /// Sends at most one request; the caller has to read its response. `reader` is the calling thread.
    fn send_next(&self, reader: usize) -> Option<S>;
}

/// Starts the requests in their order, each at its time, until all are sent or the run is stopped.
///
/// A slot is taken before the request is awaited, so that memory stays bounded and a request starts at the moment that it is
/// due. One turn of a conversation is in flight at a time; the next is due when its user has read the response and thought.
pub struct Dispatcher<L: Launch, T: Timer> {
    /// What is still to be sent; `None` when sending has ended. Locked for each choice, not while a request is sent.
    pending: Mutex<Option<Pending<L::Request>>>,
    slots: RequestSlots,
    /// Nothing is sent from then on.
    end: Option<Nanos>,
    stopper: Stopper,
    stop: StopSignal,
    clock: T,
    launch: L,
}

/// The requests that are not sent yet, and the slot for the next one.
struct Pending<R> {
    queue: Queue<R>,
    requests: ReadAheadReceiver<R>,
    events: mpsc::UnboundedReceiver<TurnEvent<R>>,
    slot: Option<(Slot, Nanos)>,
    arrivals: ArrivalMonitor,
    timed: bool,
}

/// What comes next.
enum Next<R> {
    /// Send this request.
    Start { request: R, times: SendTimes, think_time: Nanos, slot: Slot },
    /// Wait until a slot is free.
    WaitForSlot,
    /// Wait until this time; without a time, until input or an event arrives.
    WaitForNews(Option<Nanos>),
    /// All requests are sent.
    Finished,
}

impl<R: Scheduled> Pending<R> {
    fn new(sources: Sources<R>) -> Self {
        let Sources { requests, events, schedule, think_times, max_sessions, input_lead, arrivals, .. } = sources;
        let queue = Queue::new(schedule, think_times, max_sessions, input_lead);
        Pending { queue, requests, events, slot: None, arrivals, timed: false }
    }

    /// What to do at `now`.
    fn choose_next(&mut self, now: Nanos, slots: &RequestSlots) -> Next<R> {
        let Some((slot, slot_free)) = self.slot.take().or_else(|| slots.try_take()) else { return Next::WaitForSlot };
        self.take_arrived(now);
        match self.queue.next_step(now, slot_free) {
            Step::Start { request, times, think_time } => {
                self.timed |= request.timestamp().is_some();
                if !times.follows_turn && !request.needs_responses() {
                    self.arrivals.record_sent(times, now);
                }
                Next::Start { request, times, think_time, slot }
            }
            Step::Wait(time) => {
                self.slot = Some((slot, slot_free));
                Next::WaitForNews(time)
            }
            Step::Finished => Next::Finished,
        }
    }

    /// Takes what has arrived, without waiting.
    fn take_arrived(&mut self, now: Nanos) {
        while let Ok(event) = self.events.try_recv() {
            self.queue.handle_event(event);
        }
        self.queue.resume_sessions(now);
        while self.queue.wants_input() {
            match self.requests.try_recv() {
                Ok(request) => self.queue.admit_request(request, now),
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => self.queue.end_input(),
            }
        }
        self.queue.check_blocked();
    }

    /// Takes a request or the end of the input, once there is one.
    fn poll_input(&mut self, cx: &mut Context<'_>, now: Nanos) -> Poll<()> {
        if !self.queue.wants_input() {
            return Poll::Pending;
        }
        self.requests.poll_recv(cx).map(|request| match request {
            Some(request) => self.queue.admit_request(request, now),
            None => self.queue.end_input(),
        })
    }

    fn run_actions(&mut self, launch: &impl Launch<Request = R>) {
        while let Some(action) = self.queue.next_action() {
            match action {
                Action::Fill { request, responses, times } => launch.fill(request, responses, times),
                Action::Abandon { request, times, reason } => {
                    self.timed |= request.timestamp().is_some();
                    if !times.follows_turn && reason != StopReason::NoResponse {
                        self.arrivals.record_unsent(times.scheduled);
                    }
                    launch.abandon(request, times, reason);
                }
            }
        }
    }

    /// Abandons all that was due by `end`, since it was offered. Returns the number of requests that were not due yet.
    ///
    /// Lines that were due may still have to be read. That ends with the first one that was not due, and when the run is
    /// cancelled, since input may have no end.
    async fn abandon_all(
        &mut self,
        end: Nanos,
        reason: StopReason,
        mut stop: StopSignal,
        now: impl Fn() -> Nanos,
        launch: &impl Launch<Request = R>,
    ) -> u64 {
        self.queue.stop_sending(end, reason);
        loop {
            self.queue.abandon_due(end, reason);
            self.run_actions(launch);
            if self.queue.has_read_all_due() {
                break;
            }
            let line = tokio::select! {
                biased;
                () = stop.wait_for_cancel() => break,
                line = timeout(LAST_LINES_TIMEOUT, self.requests.recv()) => line,
            };
            match line {
                Ok(Some(request)) => self.queue.admit_request(request, now()),
                Ok(None) => self.queue.end_input(),
                Err(_) => break,
            }
        }
        let mut not_due = self.queue.unsent_count();
        self.requests.close();
        while self.requests.try_recv().is_ok() {
            not_due += 1;
        }
        not_due
    }

    fn end_with(self, not_due: u64) -> DispatchEnd {
        let input_blocked = self.queue.was_blocked();
        DispatchEnd { not_due, input_blocked, timed: self.timed, arrivals: self.arrivals.finish() }
    }
}

impl<L: Launch, T: Timer> Dispatcher<L, T> {
    /// A dispatcher that has sent nothing.
    #[must_use]
    pub fn new(sources: Sources<L::Request>, slots: RequestSlots, clock: T, stopper: Stopper, launch: L) -> Self {
        let (end, stop) = (sources.end, stopper.stop_signal());
        Dispatcher { pending: Mutex::new(Some(Pending::new(sources))), slots, end, stopper, stop, clock, launch }
    }

    /// Sends the requests, until all are sent or the run is stopped.
    pub async fn dispatch(&self) -> DispatchEnd {
        let mut stop = self.stop.clone();
        let (mut sent, mut last_pause) = (Vec::new(), self.clock.now());
        while !stop.is_draining() {
            let now = self.clock.now();
            if self.end.is_some_and(|end| now >= end) {
                self.stopper.start_drain(StopReason::MaxSeconds);
                break;
            }
            let next = match &mut *self.lock_pending() {
                Some(pending) => {
                    let next = pending.choose_next(now, &self.slots);
                    pending.run_actions(&self.launch);
                    next
                }
                None => Next::Finished,
            };
            let mut waits = None;
            match next {
                Next::Start { request, times, think_time, slot } => {
                    sent.extend(self.launch.start(request, times, think_time, slot, None));
                    // No future is needed for what can be sent at once.
                    if now.since(last_pause) <= YIELD_INTERVAL {
                        if sent.len() >= REQUESTS_PER_WAKE {
                            self.launch.read_responses(mem::take(&mut sent));
                        }
                        continue;
                    }
                }
                Next::WaitForSlot => waits = Some(None),
                Next::WaitForNews(time) => waits = Some(time),
                Next::Finished => break,
            }
            if waits.is_some() {
                self.launch.read_responses(mem::take(&mut sent));
            }
            let paused = async {
                match waits {
                    Some(time) => self.wait_for_news(time).await,
                    None => tokio::task::yield_now().await,
                }
            };
            tokio::select! {
                biased;
                () = stop.wait_for_drain() => break,
                () = paused => last_pause = self.clock.now(),
            }
        }
        self.launch.read_responses(sent);
        self.end_sending(stop).await
    }

    async fn end_sending(&self, stop: StopSignal) -> DispatchEnd {
        let Some(mut pending) = self.lock_pending().take() else { return DispatchEnd::default() };
        if !stop.is_draining() {
            return pending.end_with(0);
        }
        let now = self.clock.now();
        let reason = stop.stop_reason().unwrap_or(StopReason::Interrupted);
        let end = self.end.filter(|_| reason == StopReason::MaxSeconds).map_or(now, |end| end.min(now));
        let not_due = pending.abandon_all(end, reason, stop, || self.clock.now(), &self.launch).await;
        pending.end_with(not_due)
    }

    /// Waits until `time`, or for something that may be sent before it: a slot, an event or input.
    async fn wait_for_news(&self, time: Option<Nanos>) {
        let time_reached = async {
            match time {
                Some(time) => self.clock.wait_until(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.slots.news().notified() => {}
            () = poll_fn(|cx| self.poll_input(cx)) => {}
            () = time_reached => {}
        }
    }

    fn poll_input(&self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut *self.lock_pending() {
            // Without a slot, memory stays bounded only if nothing more is taken.
            Some(pending) if pending.slot.is_some() => pending.poll_input(cx, self.clock.now()),
            _ => Poll::Pending,
        }
    }

    fn lock_pending(&self) -> MutexGuard<'_, Option<Pending<L::Request>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the main thread see what has changed.
    fn wake_main(&self) {
        self.slots.news().notify_one();
    }
}

impl<L, T> SendNext<L::Sent> for Dispatcher<L, T>
where
    L: Launch<Request: Send> + Send + Sync,
    T: Timer + Send + Sync,
{
    /// Everything but sending one request is left to the main thread: waiting, building turns, and sending what is overdue.
    fn send_next(&self, reader: usize) -> Option<L::Sent> {
        // The thread that has the lock may wait for a core, and reading must not wait for that.
        let Ok(mut guard) = self.pending.try_lock() else {
            self.wake_main();
            return None;
        };
        let pending = guard.as_mut()?;
        let now = self.clock.now();
        if self.stop.is_draining() || self.end.is_some_and(|end| now >= end) {
            self.wake_main();
            return None;
        }
        let next = pending.choose_next(now, &self.slots);
        if matches!(next, Next::Start { .. }) {
            pending.slot = self.slots.try_take();
        }
        if pending.slot.is_some() || pending.queue.has_actions() || matches!(next, Next::Finished) {
            self.wake_main();
        }
        drop(guard);
        match next {
            Next::Start { request, times, think_time, slot } => {
                self.launch.start(request, times, think_time, slot, Some(reader))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;

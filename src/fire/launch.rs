//! Sends requests, each on the thread that the dispatcher runs on at the moment, and reads their responses on the reader threads.

use std::sync::{
    Arc, Mutex, OnceLock, PoisonError, Weak,
    atomic::{AtomicBool, Ordering::Relaxed},
    mpsc as std_mpsc,
};

use bytes::Bytes;
use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc},
};

use super::{
    attempt::{Attempt, ClientState, run_attempt},
    backlog::Backlog,
    balance::{Balancer, LoadGuard},
    dispatch::{Launch, SendNext},
    prepare::{PreparedRequest, RequestFuncInput, RequestTemplate},
    queue::TurnEvent,
    sink::{FinishedRequest, SinkEntry},
    slots::Slot,
    stop::{StopReason, StopSignal},
    watch,
};
use crate::{
    cli,
    clock::Clock,
    http::exchange::{HttpExchange, Transport},
    load::SendTimes,
    pacer::SLEEP_MARGIN,
    record::RequestFuncOutput,
    secrets::Secrets,
    units::Nanos,
};

/// Sends requests, and starts tasks that read their responses.
pub struct Launcher<T: Transport> {
    servers: Vec<TargetServer<T>>,
    balancer: Mutex<Balancer>,
    context: Arc<TaskContext<T::Exchange>>,
    /// Builds the bodies of turns that hold earlier responses.
    template: Arc<RequestTemplate>,
    /// Whether a warning about a turn that could not be built was printed.
    fill_warned: Arc<AtomicBool>,
}

/// A server, and the connections to it.
pub struct TargetServer<T> {
    /// Carries requests to the server.
    pub transport: Arc<T>,
    /// Its name in outputs; `None`: it is the only one.
    pub name: Option<String>,
}

/// A request that is being sent, on its way to the thread that reads its response.
pub struct SentRequest<E> {
    /// The reader thread of its connection.
    thread: usize,
    exchange: E,
    output: Box<RequestFuncOutput>,
    secrets: Option<Arc<Secrets>>,
    times: SendTimes,
    cancel_after: Option<Nanos>,
    /// How long its slot stays taken after its end.
    think_time: Nanos,
    slot: Slot,
    load: Option<LoadGuard>,
}

/// What the tasks of requests share.
pub struct TaskContext<E> {
    /// Shared by all attempts.
    pub client: Arc<ClientState>,
    /// To the sink.
    pub entries: std_mpsc::Sender<SinkEntry>,
    /// Bytes that wait for the sink.
    pub backlog: Arc<Backlog>,
    /// How the run is ended.
    pub stop: StopSignal,
    /// To the dispatcher.
    pub events: TurnEvents,
    /// The event loops of the reader threads.
    pub readers: Vec<Handle>,
    /// Sends the next request; empty until there is a dispatcher.
    pub next: OnceLock<Weak<dyn SendNext<Box<SentRequest<E>>>>>,
    /// Dropped with the last task, so that its end can be awaited.
    pub _alive: mpsc::Sender<()>,
}

/// Where the ends of turns are reported.
#[derive(Debug, Clone)]
pub struct TurnEvents {
    /// To the dispatcher.
    pub events: mpsc::UnboundedSender<TurnEvent<RequestFuncInput>>,
    /// Wakes it.
    pub news: Arc<Notify>,
}

impl TurnEvents {
    /// Reports an event without waking the dispatcher. It may have ended.
    fn add(&self, event: TurnEvent<RequestFuncInput>) {
        let _ = self.events.send(event);
    }

    /// Reports an event.
    fn send(&self, event: TurnEvent<RequestFuncInput>) {
        self.add(event);
        self.news.notify_one();
    }
}

impl<E: HttpExchange> TaskContext<E> {
    /// Reads the response of a request and reports its end. If that makes another request sendable, goes on with that one.
    async fn finish_requests(self: Arc<Self>, mut sent: Box<SentRequest<E>>) {
        let thread = sent.thread;
        loop {
            let turn = sent.output.session_id.clone().map(|session| TurnInFlight {
                session: Some(session),
                at: sent.times.scheduled,
                events: self.events.clone(),
            });
            let SentRequest { exchange, output, cancel_after, slot, .. } = &mut *sent;
            let (expected, mut stop) = (output.expected_output_len, self.stop.clone());
            let attempt = run_attempt(&self.client, thread, exchange, expected, *cancel_after, slot, &mut stop).await;
            match self.report_end(sent, attempt, turn) {
                Some(next) if next.thread == thread => sent = next,
                Some(next) => return self.read_response(next),
                None => return,
            }
        }
    }

    /// Starts a task on the thread of its connection.
    fn read_response(self: Arc<Self>, sent: Box<SentRequest<E>>) {
        self.readers[sent.thread].clone().spawn(self.finish_requests(sent));
    }

    /// Reports the end of a request: first to those that wait for it, and then to the sink. Returns the request that was sent because
    /// of it.
    #[allow(clippy::boxed_local, reason = "copying the whole of it from the heap would cost more than its parts")]
    fn report_end(
        &self,
        sent: Box<SentRequest<E>>,
        mut attempt: Box<Attempt>,
        turn: Option<TurnInFlight>,
    ) -> Option<Box<SentRequest<E>>> {
        let SentRequest { thread, output, secrets, times, think_time, mut slot, load, .. } = *sent;
        let now = self.client.clock.now();
        match load {
            Some(load) if attempt.has_failed() => load.release_later(),
            load => drop(load),
        }
        let mut wanted = turn.is_some();
        if let Some(turn) = turn {
            let response = attempt.turn_response();
            let at = response.as_ref().map_or(now, |(_, last)| *last);
            turn.report_end(at, now, response.map(|(text, _)| text));
        }
        if think_time == Nanos(0) {
            wanted |= slot.hand_back(now);
        } else {
            slot.first_token(now);
            let stop = self.stop.clone();
            tokio::spawn(hold_slot(slot, self.client.clock, now + think_time, stop));
        }
        let next = if wanted { self.send_next(thread, attempt.mean_gap()) } else { None };
        self.client.ended.fetch_max(attempt.end_time().0, Relaxed);
        self.client.finished.fetch_add(1, Relaxed);
        let size = attempt.memory_bytes();
        self.backlog.add_bytes(size);
        let finished = FinishedRequest { output, secrets, times, size, outcome: Ok(attempt) };
        // The sink runs until the last sender is dropped.
        let _ = self.entries.send(SinkEntry::Request(finished));
        next
    }
}

impl<E> TaskContext<E> {
    /// Sends the next request from this thread, unless that would make it late for what other streams receive.
    fn send_next(&self, thread: usize, mean_gap: Option<Nanos>) -> Option<Box<SentRequest<E>>> {
        // Other streams receive as often as the one that ended.
        if mean_gap.is_some_and(|gap| watch::time_at_work() >= Nanos(gap.0 / 2)) {
            self.events.news.notify_one();
            return None;
        }
        self.next.get().and_then(Weak::upgrade)?.send_next(thread)
    }
}

/// A turn of a conversation that is in flight. Its end is reported even if its task panics, since later turns wait for it.
struct TurnInFlight {
    session: Option<String>,
    at: Nanos,
    events: TurnEvents,
}

impl TurnInFlight {
    /// Reports its end to the dispatcher, which the caller then asks for the next request.
    fn report_end(mut self, at: Nanos, response_end: Nanos, response: Option<String>) {
        if let Some(session) = self.session.take() {
            self.events.add(TurnEvent::Ended { session, at, response_end, response });
        }
    }
}

impl Drop for TurnInFlight {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            self.events.send(TurnEvent::Ended { session, at: self.at, response_end: self.at, response: None });
        }
    }
}

/// Keeps a slot taken until its user has thought.
async fn hold_slot(slot: Slot, clock: Clock, until: Nanos, mut stop: StopSignal) {
    // The runtime's timer fires late. It is set early, and the next user of the slot waits for the exact time.
    let early = until.since(clock.now()).since(SLEEP_MARGIN);
    tokio::select! {
        () = stop.wait_for_drain() => {}
        () = tokio::time::sleep(early.to_duration()) => slot.free(until),
    }
}

impl<T: Transport> Launcher<T> {
    /// A launcher that has sent nothing.
    #[must_use]
    pub fn new(
        servers: Vec<TargetServer<T>>,
        balancer: Balancer,
        context: Arc<TaskContext<T::Exchange>>,
        template: Arc<RequestTemplate>,
    ) -> Self {
        Launcher { servers, balancer: Mutex::new(balancer), context, template, fill_warned: Arc::default() }
    }

    /// Ends a first turn that needs earlier responses, as when the lines before it were cut off: there will be none.
    fn end_incomplete(&self, request: RequestFuncInput, times: SendTimes, slot: Slot) {
        let now = self.context.client.clock.now();
        slot.free(now);
        if let Some(session) = request.output.session_id.clone() {
            self.context.events.send(TurnEvent::Ended { session, at: now, response_end: now, response: None });
        }
        self.abandon(request, times, StopReason::NoResponse);
    }
}

impl<T: Transport> Launch for Launcher<T> {
    type Request = RequestFuncInput;
    type Sent = Box<SentRequest<T::Exchange>>;

    fn fill(&self, request: RequestFuncInput, responses: Vec<String>, times: SendTimes) {
        let (template, events) = (Arc::clone(&self.template), self.context.events.clone());
        let fill_warned = Arc::clone(&self.fill_warned);
        // Not on the thread that sends: a long chat takes a while.
        tokio::task::spawn_blocking(move || {
            let filled = match &request.prepared {
                PreparedRequest::Incomplete(json) => template.fill(json, responses, &request.output.request_id),
                PreparedRequest::Ready(bytes) => Ok((PreparedRequest::Ready(bytes.clone()), request.secrets.clone())),
            };
            let event = match filled {
                Ok((prepared, secrets)) => {
                    TurnEvent::Filled { request: RequestFuncInput { prepared, secrets, ..request }, times }
                }
                Err(e) => {
                    if !fill_warned.swap(true, Relaxed) {
                        let what =
                            "cannot build a turn from the responses before it (later failures are only recorded)";
                        cli::print_warning("vb-fire", format_args!("{what}: {e}"));
                    }
                    let prepared = PreparedRequest::Ready(Bytes::new());
                    TurnEvent::FillFailed { request: RequestFuncInput { prepared, ..request }, times }
                }
            };
            events.send(event);
        });
    }

    fn start(
        &self,
        request: RequestFuncInput,
        times: SendTimes,
        think_time: Nanos,
        slot: Slot,
        near: Option<usize>,
    ) -> Option<Self::Sent> {
        let RequestFuncInput { prepared: PreparedRequest::Ready(bytes), cancel_after, mut output, secrets, .. } =
            request
        else {
            self.end_incomplete(request, times, slot);
            return None;
        };
        let mut balancer = self.balancer.lock().unwrap_or_else(PoisonError::into_inner);
        let (server_index, load) = balancer.pick_server(output.session_id.as_deref());
        drop(balancer);
        let server = &self.servers[server_index];
        output.base_url.clone_from(&server.name);
        let outgoing = self.template.address_request(server_index, bytes);
        let (thread, exchange) = server.transport.start_request(outgoing, near);
        self.context.client.started.fetch_add(1, Relaxed);
        Some(Box::new(SentRequest { thread, exchange, output, secrets, times, cancel_after, think_time, slot, load }))
    }

    /// Wakes each thread once: to do so for each request would cost more than sending it.
    fn read_responses(&self, sent: Vec<Self::Sent>) {
        let mut by_thread: Vec<Vec<Self::Sent>> = self.context.readers.iter().map(|_| vec![]).collect();
        for request in sent {
            by_thread[request.thread].push(request);
        }
        for (sent, reader) in by_thread.into_iter().zip(&self.context.readers).filter(|(sent, _)| !sent.is_empty()) {
            let context = Arc::clone(&self.context);
            reader.spawn(async move {
                for request in sent {
                    Arc::clone(&context).read_response(request);
                }
            });
        }
    }

    fn abandon(&self, request: RequestFuncInput, times: SendTimes, reason: StopReason) {
        let client = &self.context.client;
        client.ended.fetch_max(client.clock.now().0, Relaxed);
        let times = SendTimes { ready: times.scheduled, ..times };
        let RequestFuncInput { output, secrets, .. } = request;
        let size = size_of::<FinishedRequest>() as u64 + output.request_id.len() as u64;
        self.context.backlog.add_bytes(size);
        let finished = FinishedRequest { output, secrets, times, size, outcome: Err(reason) };
        let _ = self.context.entries.send(SinkEntry::Request(finished));
    }
}

//! Sends each request on the thread that keeps the schedule, and hands its response to a reader thread.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
    mpsc as std_mpsc,
};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{
    attempt::{Attempt, ClientState, run_attempt},
    backlog::Backlog,
    balance::{Balancer, LoadGuard},
    dispatch::Launch,
    prepare::{PreparedRequest, RequestFuncInput, RequestTemplate},
    queue::TurnEvent,
    reader::ReaderThreads,
    sink::{FinishedRequest, SinkEntry},
    slots::Slot,
    stop::{StopReason, StopSignal},
};
use crate::{
    cli,
    clock::Clock,
    http::exchange::{HttpExchange, Transport},
    load::{ArrivalMonitor, SendTimes, arrivals::ArrivalSummary},
    pacer::SLEEP_MARGIN,
    record::RequestFuncOutput,
    secrets::Secrets,
    units::Nanos,
};

/// Sends requests, and starts a task for each response.
pub struct Launcher<'a, T: Transport> {
    servers: Vec<TargetServer<T>>,
    balancer: Balancer,
    readers: &'a ReaderThreads,
    context: Arc<TaskContext>,
    /// Builds the bodies of turns that hold earlier responses.
    template: Arc<RequestTemplate>,
    /// Whether a warning about a turn that could not be built was printed.
    fill_warned: Arc<AtomicBool>,
    /// Whether any request had its own timestamp.
    pub timed: bool,
    arrivals: ArrivalMonitor,
    /// Requests that are sent and whose reader thread does not know yet, by thread. Waking a thread for each would cost more
    /// than sending it.
    sent: Vec<Vec<Box<SentRequest<T::Exchange>>>>,
}

/// A server, and the connections to it.
pub struct TargetServer<T> {
    /// Carries requests to the server.
    pub transport: Arc<T>,
    /// Its name in outputs; `None`: it is the only one.
    pub name: Option<String>,
}

/// A request that is being sent, on its way to the thread that reads its response.
struct SentRequest<E> {
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

/// Requests to send to the connections of one thread before waking it: half a millisecond of sending.
const REQUESTS_PER_WAKE: usize = 32;

/// What the tasks of requests share.
pub struct TaskContext {
    /// Shared by all attempts.
    pub client: Arc<ClientState>,
    /// To the sink.
    pub entries: std_mpsc::Sender<SinkEntry>,
    /// Bytes that wait for the sink.
    pub backlog: Arc<Backlog>,
    /// How the run is ended.
    pub stop: StopSignal,
    /// To the dispatcher.
    pub events: mpsc::UnboundedSender<TurnEvent<RequestFuncInput>>,
    /// Dropped with the last task, so that its end can be awaited.
    pub _alive: mpsc::Sender<()>,
}

impl TaskContext {
    /// Reads the response of a request, and reports its end to the dispatcher and the sink.
    async fn finish_request(self: Arc<Self>, mut sent: Box<SentRequest<impl HttpExchange>>) {
        let turn = sent.output.session_id.clone().map(|session| TurnInFlight {
            session: Some(session),
            at: sent.times.scheduled,
            events: self.events.clone(),
        });
        let SentRequest { exchange, output, cancel_after, slot, .. } = &mut *sent;
        let (expected, mut stop) = (output.expected_output_len, self.stop.clone());
        let attempt = run_attempt(&self.client, exchange, expected, *cancel_after, slot, &mut stop).await;
        self.report_end(sent, attempt, turn);
    }

    /// Reports the end of a request: first to those that wait for it, and then to the sink.
    #[allow(clippy::boxed_local, reason = "copying the whole of it from the heap would cost more than its parts")]
    fn report_end(
        &self,
        sent: Box<SentRequest<impl HttpExchange>>,
        mut attempt: Box<Attempt>,
        mut turn: Option<TurnInFlight>,
    ) {
        let SentRequest { output, secrets, times, think_time, mut slot, load, .. } = *sent;
        let now = self.client.clock.now();
        match load {
            Some(load) if attempt.has_failed() => load.release_later(),
            load => drop(load),
        }
        if let Some(turn) = &mut turn {
            let response = attempt.turn_response();
            let at = response.as_ref().map_or(now, |(_, last)| *last);
            turn.report_end(at, now, response.map(|(text, _)| text));
        }
        if think_time == Nanos(0) {
            slot.free(now);
        } else {
            slot.first_token(now);
            let stop = self.stop.clone();
            tokio::spawn(hold_slot(slot, self.client.clock, now + think_time, stop));
        }
        self.client.ended.fetch_max(attempt.end_time().0, Relaxed);
        self.client.finished.fetch_add(1, Relaxed);
        let size = attempt.memory_bytes();
        self.backlog.add_bytes(size);
        let finished = FinishedRequest { output, secrets, times, size, outcome: Ok(attempt) };
        // The sink runs until the last sender is dropped.
        let _ = self.entries.send(SinkEntry::Request(finished));
    }
}

/// A turn of a conversation that is in flight. Its end is reported even if its task panics, since later turns wait for it.
struct TurnInFlight {
    session: Option<String>,
    at: Nanos,
    events: mpsc::UnboundedSender<TurnEvent<RequestFuncInput>>,
}

impl TurnInFlight {
    fn report_end(&mut self, at: Nanos, response_end: Nanos, response: Option<String>) {
        if let Some(session) = self.session.take() {
            // The dispatcher may have ended.
            let _ = self.events.send(TurnEvent::Ended { session, at, response_end, response });
        }
    }
}

impl Drop for TurnInFlight {
    fn drop(&mut self) {
        self.report_end(self.at, self.at, None);
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

impl<'a, T: Transport> Launcher<'a, T> {
    /// A launcher that has sent nothing.
    #[must_use]
    pub fn new(
        servers: Vec<TargetServer<T>>,
        balancer: Balancer,
        readers: &'a ReaderThreads,
        context: TaskContext,
        template: Arc<RequestTemplate>,
        arrivals: ArrivalMonitor,
    ) -> Self {
        let sent = readers.handles().map(|_| vec![]).collect();
        let fill_warned = Arc::default();
        let context = Arc::new(context);
        Launcher { servers, balancer, readers, context, template, fill_warned, timed: false, arrivals, sent }
    }

    /// Ends a first turn that needs earlier responses, as when the lines before it were cut off: there will be none.
    fn end_incomplete(&mut self, request: RequestFuncInput, times: SendTimes, slot: Slot) {
        let now = self.context.client.clock.now();
        slot.free(now);
        if let Some(session) = request.output.session_id.clone() {
            let ended = TurnEvent::Ended { session, at: now, response_end: now, response: None };
            let _ = self.context.events.send(ended);
        }
        self.abandon(request, times, StopReason::NoResponse);
    }

    /// Drops the launcher's senders and returns how the arrivals kept to the schedule.
    pub fn end_sending(self) -> Option<ArrivalSummary> {
        self.arrivals.finish()
    }
}

impl<T: Transport> Launch for Launcher<'_, T> {
    type Request = RequestFuncInput;

    fn fill(&mut self, request: RequestFuncInput, responses: Vec<String>, times: SendTimes) {
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
            let _ = events.send(event);
        });
    }

    fn start(&mut self, request: RequestFuncInput, times: SendTimes, think_time: Nanos, slot: Slot) {
        let RequestFuncInput {
            prepared: PreparedRequest::Ready(bytes),
            timestamp,
            cancel_after,
            mut output,
            secrets,
            ..
        } = request
        else {
            return self.end_incomplete(request, times, slot);
        };
        let (server_index, load) = self.balancer.pick_server(output.session_id.as_deref());
        let server = &self.servers[server_index];
        output.base_url.clone_from(&server.name);
        let sent = self.context.client.clock.now();
        if !times.follows_turn {
            self.arrivals.record_sent(times, sent);
        }
        let outgoing = self.template.address_request(server_index, bytes);
        let (thread, exchange) = server.transport.start_request(outgoing);
        self.context.client.started.fetch_add(1, Relaxed);
        self.timed |= timestamp.is_some();
        let sent = SentRequest { exchange, output, secrets, times, cancel_after, think_time, slot, load };
        self.sent[thread].push(Box::new(sent));
        if self.sent[thread].len() == REQUESTS_PER_WAKE {
            self.flush();
        }
    }

    fn flush(&mut self) {
        for (thread, sent) in self.sent.iter_mut().enumerate().filter(|(_, sent)| !sent.is_empty()) {
            let (sent, context) = (std::mem::take(sent), Arc::clone(&self.context));
            self.readers.handle(thread).spawn(async move {
                for request in sent {
                    tokio::spawn(Arc::clone(&context).finish_request(request));
                }
            });
        }
    }

    fn abandon(&mut self, request: RequestFuncInput, times: SendTimes, reason: StopReason) {
        let scheduled = times.scheduled;
        if !times.follows_turn && reason != StopReason::NoResponse {
            self.arrivals.record_unsent(scheduled);
        }
        let client = &self.context.client;
        client.ended.fetch_max(client.clock.now().0, Relaxed);
        self.timed |= request.timestamp.is_some();
        let times = SendTimes { ready: scheduled, ..times };
        let RequestFuncInput { output, secrets, .. } = request;
        let size = size_of::<FinishedRequest>() as u64 + output.request_id.len() as u64;
        self.context.backlog.add_bytes(size);
        let finished = FinishedRequest { output, secrets, times, size, outcome: Err(reason) };
        let _ = self.context.entries.send(SinkEntry::Request(finished));
    }
}

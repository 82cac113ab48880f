//! Sending: each request is begun at its time on the thread that keeps the schedule, and its answer left to a reader.

use std::sync::{Arc, atomic::Ordering::Relaxed, mpsc as std_mpsc};

use tokio::sync::mpsc;

use super::{
    attempt::{Client, Due, attempt},
    backlog::Backlog,
    dispatch::{Launch, Slot},
    input::RequestFuncInput,
    reader::Readers,
    sink::{Entry, Finished, What},
    stop::{Stop, Why},
};
use crate::{
    http::exchange::{Exchange, Transport},
    load::{
        Arrivals,
        arrivals::{Moments, Told},
    },
    record::RequestFuncOutput,
    units::Nanos,
};

/// Starts each request at its time, and leaves its answer to a reader.
pub struct Launcher<'a, T: Transport> {
    transport: Arc<T>,
    readers: &'a Readers,
    attendant: Attendant,
    /// Whether a request had a time of its own.
    pub timed: bool,
    /// What was sent when.
    arrivals: Arrivals,
    /// Requests begun whose reader does not know yet, by thread: waking a thread for each costs more than sending it.
    begun: Vec<Vec<Begun<T::Exchange>>>,
}

/// A request whose reader does not know of it yet.
struct Begun<E> {
    exchange: E,
    output: RequestFuncOutput,
    due: Due,
    slot: Slot,
}

/// So many requests are begun, at the most, before their reader is woken: half a millisecond of sending.
const AT_ONCE: usize = 32;

/// What it takes to see a request through.
#[derive(Clone)]
pub struct Attendant {
    /// What every attempt needs.
    pub client: Arc<Client>,
    /// To the sink.
    pub entries: std_mpsc::Sender<Entry>,
    /// What waits there.
    pub backlog: Arc<Backlog>,
    /// How the run is ended.
    pub stop: Stop,
    /// Held by every task, so that the last one can be awaited.
    pub alive: mpsc::Sender<()>,
}

impl Attendant {
    async fn attend(mut self, begun: Begun<impl Exchange>) {
        let Begun { exchange, output, due, slot } = begun;
        let done = attempt(&self.client, exchange, output.expected_output_len, &mut self.stop).await;
        let now = self.client.clock.now();
        slot.free(now);
        self.client.ended.fetch_max(now.0, Relaxed);
        let size = done.size();
        self.backlog.more(size);
        // The sink is there until the last sender is gone.
        let finished = Finished { output, due, size, what: What::Attempt(Box::new(done)) };
        let _ = self.entries.send(Entry::Finished(finished));
        drop(self.alive);
    }
}

impl<'a, T: Transport> Launcher<'a, T> {
    /// With nothing sent yet.
    #[must_use]
    pub fn new(transport: Arc<T>, readers: &'a Readers, attendant: Attendant, arrivals: Arrivals) -> Self {
        let begun = readers.handles().map(|_| vec![]).collect();
        Launcher { transport, readers, attendant, timed: false, arrivals, begun }
    }
}

impl<T: Transport> Launcher<'_, T> {
    /// Nothing more is sent: what is to be told of it, and no more senders from here.
    pub fn end(self) -> Option<Told> {
        self.arrivals.end()
    }
}

impl<T: Transport> Launch for Launcher<'_, T> {
    type Request = RequestFuncInput;

    fn timestamp(&self, request: &RequestFuncInput) -> Option<Nanos> {
        request.timestamp
    }

    fn start(&mut self, request: RequestFuncInput, due: Due, slot: Slot) {
        let RequestFuncInput { request, output, timestamp } = request;
        let sent = self.attendant.client.clock.now();
        self.arrivals.sent(Moments { planned: due.scheduled, read: due.read, ready: due.ready, sent });
        let (at, exchange) = self.transport.begin(request);
        self.attendant.client.started.fetch_add(1, Relaxed);
        self.timed |= timestamp.is_some();
        self.begun[at].push(Begun { exchange, output, due, slot });
        if self.begun[at].len() == AT_ONCE {
            self.rest();
        }
    }

    fn rest(&mut self) {
        for (at, begun) in self.begun.iter_mut().enumerate().filter(|(_, begun)| !begun.is_empty()) {
            let (begun, attendant) = (std::mem::take(begun), self.attendant.clone());
            self.readers.handle(at).spawn(async move {
                for begun in begun {
                    tokio::spawn(attendant.clone().attend(begun));
                }
            });
        }
    }

    fn never(&mut self, request: RequestFuncInput, scheduled: Nanos, why: Why) {
        self.arrivals.never(scheduled);
        let client = &self.attendant.client;
        client.ended.fetch_max(client.clock.now().0, Relaxed);
        let due = Due { scheduled, read: Nanos(0), ready: scheduled };
        let finished = Finished { output: request.output, due, size: 0, what: What::NotSent(why) };
        let _ = self.attendant.entries.send(Entry::Finished(finished));
    }
}

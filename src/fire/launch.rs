//! Sending: each request is begun at its time on the thread that keeps the schedule, and its answer left to a reader.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
    mpsc as std_mpsc,
};

use rand::rngs::ChaCha8Rng;
use smallvec::SmallVec;
use tokio::sync::mpsc;

use super::{
    attempt::{Client, Due, attempt},
    backlog::Backlog,
    balance::{Balancer, Share},
    dispatch::{Launch, News},
    input::{Prepared, RequestFuncInput, Template},
    reader::Readers,
    secrets::Secrets,
    sink::{Entry, Finished, What},
    slots::Slot,
    stop::{Stop, Why},
};
use crate::{
    cli,
    clock::Clock,
    http::exchange::{HttpExchange, Transport},
    load::{
        ArrivalMonitor, ThinkTime,
        arrivals::{ArrivalSummary, SendTimes},
    },
    pacer::SLEEP_MARGIN,
    record::RequestFuncOutput,
    units::Nanos,
};

/// Starts each request at its time, and leaves its answer to a reader.
pub struct Launcher<'a, T: Transport> {
    servers: Vec<Server<T>>,
    balancer: Balancer,
    readers: &'a Readers,
    attendant: Attendant,
    thinking: (ThinkTime, ChaCha8Rng),
    /// Makes turns of conversations ready.
    template: Arc<Template>,
    /// Whether it was said that one could not be made.
    unfilled: Arc<AtomicBool>,
    /// Whether a request had a time of its own.
    pub timed: bool,
    /// How long the clock of the input had run when that of the run started.
    pub lead: Nanos,
    /// What was sent when.
    arrivals: ArrivalMonitor,
    /// Requests begun whose reader does not know yet, by thread: waking a thread for each costs more than sending it.
    begun: Vec<Vec<Begun<T::Exchange>>>,
}

/// A server, and the way there.
pub struct Server<T> {
    /// Carries requests to it.
    pub transport: Arc<T>,
    /// Its name in outputs; `None`: there is one only.
    pub name: Option<String>,
}

/// A request whose reader does not know of it yet.
struct Begun<E> {
    exchange: E,
    output: RequestFuncOutput,
    secrets: Secrets,
    due: Due,
    abandon: Option<Nanos>,
    /// How long its slot stays taken after its end.
    pause: Nanos,
    slot: Slot,
    share: Option<Share>,
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
    /// To the dispatcher.
    pub news: mpsc::UnboundedSender<News<RequestFuncInput>>,
    /// Held by every task, so that the last one can be awaited.
    pub alive: mpsc::Sender<()>,
}

impl Attendant {
    async fn attend(mut self, begun: Begun<impl HttpExchange>) {
        let Begun { exchange, output, secrets, due, abandon, pause, mut slot, share } = begun;
        let expected = output.expected_output_len;
        let mut turn = output.session_id.clone().map(|session| InFlight {
            session: Some(session),
            at: due.scheduled,
            news: self.news.clone(),
        });
        let mut done = attempt(&self.client, exchange, expected, abandon, &mut slot, &mut self.stop).await;
        let now = self.client.clock.now();
        match share {
            Some(share) if done.failed() => share.linger(),
            share => drop(share),
        }
        if let Some(turn) = &mut turn {
            let reply = done.reply();
            let at = reply.as_ref().map_or(now, |(_, last)| *last);
            turn.over(at, now, reply.map(|(text, _)| text));
        }
        if pause == Nanos(0) {
            slot.free(now);
        } else {
            slot.first_token(now);
            let stop = self.stop.clone();
            tokio::spawn(think(slot, self.client.clock, now + pause, stop));
        }
        self.client.ended.fetch_max(done.end().0, Relaxed);
        let size = done.size();
        self.backlog.more(size);
        // The sink is there until the last sender is gone.
        let finished = Finished { output, secrets, due, size, what: What::Attempt(Box::new(done)) };
        let _ = self.entries.send(Entry::Finished(finished));
        drop(self.alive);
    }
}

/// A turn of a conversation that is in flight. Its end is told whatever happens to its task, since others wait for it.
struct InFlight {
    session: Option<String>,
    at: Nanos,
    news: mpsc::UnboundedSender<News<RequestFuncInput>>,
}

impl InFlight {
    fn over(&mut self, at: Nanos, over: Nanos, reply: Option<String>) {
        if let Some(session) = self.session.take() {
            // The dispatcher may have ended meanwhile.
            let _ = self.news.send(News::Ended { session, at, over, reply });
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.over(self.at, self.at, None);
    }
}

/// Keeps a slot until its user has thought.
async fn think(slot: Slot, clock: Clock, until: Nanos, mut stop: Stop) {
    // The runtime's timer rings late. It is set early, and who takes the slot waits for the moment itself.
    let early = until.since(clock.now()).since(SLEEP_MARGIN);
    tokio::select! {
        () = stop.draining() => {}
        () = tokio::time::sleep(early.to_duration()) => slot.free(until),
    }
}

impl<'a, T: Transport> Launcher<'a, T> {
    /// With nothing sent yet.
    #[must_use]
    pub fn new(
        servers: Vec<Server<T>>,
        balancer: Balancer,
        readers: &'a Readers,
        attendant: Attendant,
        template: Arc<Template>,
        thinking: (ThinkTime, ChaCha8Rng),
        arrivals: ArrivalMonitor,
    ) -> Self {
        let begun = readers.handles().map(|_| vec![]).collect();
        Launcher {
            servers,
            balancer,
            readers,
            attendant,
            thinking,
            template,
            unfilled: Arc::default(),
            timed: false,
            lead: Nanos(0),
            arrivals,
            begun,
        }
    }

    /// How long a user thinks now.
    fn pause(&mut self) -> Nanos {
        let (time, rng) = &mut self.thinking;
        time.draw_time(rng)
    }

    /// A first turn that waits for replies, as when the lines before it were cut off: there will be none.
    fn unanswered(&mut self, request: RequestFuncInput, due: Due, slot: Slot) {
        let now = self.attendant.client.clock.now();
        slot.free(now);
        if let Some(session) = request.output.session_id.clone() {
            let _ = self.attendant.news.send(News::Ended { session, at: now, over: now, reply: None });
        }
        self.never(request, due, Why::NoReply);
    }

    /// Nothing more is sent: what is to be told of it, and no more senders from here.
    pub fn end(self) -> Option<ArrivalSummary> {
        self.arrivals.finish()
    }
}

impl<T: Transport> Launch for Launcher<'_, T> {
    type Request = RequestFuncInput;

    fn timestamp(&self, request: &RequestFuncInput) -> Option<Nanos> {
        request.timestamp
    }

    fn read(&self, request: &RequestFuncInput) -> Nanos {
        request.read.since(self.lead)
    }

    fn session<'r>(&self, request: &'r RequestFuncInput) -> Option<&'r str> {
        request.output.session_id.as_deref()
    }

    fn begins(&self, request: &RequestFuncInput) -> bool {
        request.output.turn == Some(0)
    }

    fn weight(&self, request: &RequestFuncInput) -> u64 {
        request.weight()
    }

    fn think_time(&mut self, request: &RequestFuncInput) -> Nanos {
        request.think_time.unwrap_or_else(|| self.pause())
    }

    fn fill(
        &mut self,
        request: RequestFuncInput,
        replies: impl FnOnce() -> Vec<String>,
        due: Due,
    ) -> Option<RequestFuncInput> {
        let RequestFuncInput { prepared: Prepared::Open(open), timestamp, think_time, read, abandon, output, secrets } =
            request
        else {
            return Some(request);
        };
        let (template, news, replies) = (Arc::clone(&self.template), self.attendant.news.clone(), replies());
        let said = Arc::clone(&self.unfilled);
        // Not on the thread that sends: a long chat takes its time.
        tokio::task::spawn_blocking(move || {
            let filled = template.fill(&open, replies, &output.request_id);
            let ready = |prepared| RequestFuncInput { prepared, timestamp, think_time, read, abandon, output, secrets };
            let news_of = match filled {
                Ok(prepared) => News::Filled { request: ready(prepared), due },
                Err(e) => {
                    if !said.swap(true, Relaxed) {
                        let what = "a turn cannot be made of the replies before it (others like it are in the records)";
                        cli::print_warning("vb-fire", format_args!("{what}: {e}"));
                    }
                    News::Unfilled { request: ready(Prepared::Ready(SmallVec::new())), due }
                }
            };
            let _ = news.send(news_of);
        });
        None
    }

    fn start(&mut self, request: RequestFuncInput, due: Due, slot: Slot) {
        let RequestFuncInput {
            prepared: Prepared::Ready(mut requests), timestamp, abandon, mut output, secrets, ..
        } = request
        else {
            return self.unanswered(request, due, slot);
        };
        let (place, share) = self.balancer.next(output.session_id.as_deref());
        let server = &self.servers[place];
        output.base_url.clone_from(&server.name);
        let sent = self.attendant.client.clock.now();
        if !due.follows {
            self.arrivals.record_sent(SendTimes { planned: due.scheduled, read: due.read, ready: due.ready, sent });
        }
        let (at, exchange) = server.transport.start_request(requests.swap_remove(place));
        self.attendant.client.started.fetch_add(1, Relaxed);
        self.timed |= timestamp.is_some();
        // A conversation's user thinks before its next turn, and others may come meanwhile.
        let pause = if output.session_id.is_some() { Nanos(0) } else { self.pause() };
        self.begun[at].push(Begun { exchange, output, secrets, due, abandon, pause, slot, share });
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

    fn never(&mut self, request: RequestFuncInput, due: Due, why: Why) {
        let scheduled = due.scheduled;
        if !due.follows && why != Why::NoReply {
            self.arrivals.record_unsent(scheduled);
        }
        let client = &self.attendant.client;
        client.ended.fetch_max(client.clock.now().0, Relaxed);
        self.timed |= request.timestamp.is_some();
        let due = Due { ready: scheduled, ..due };
        let RequestFuncInput { output, secrets, .. } = request;
        let size = size_of::<Finished>() as u64 + output.request_id.len() as u64;
        self.attendant.backlog.more(size);
        let finished = Finished { output, secrets, due, size, what: What::NotSent(why) };
        let _ = self.attendant.entries.send(Entry::Finished(finished));
    }
}

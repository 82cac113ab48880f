//! Starts each request when it is due and there is room: the closed loop, the open loop, both at once, and conversations.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::Duration,
};

use tokio::{sync::mpsc, time::timeout};

use super::{
    attempt::Due,
    session::{self, Gate, Sessions},
    slots::{Slot, Slots},
    stop::{Stop, Stopper, Why},
};
use crate::{load::Schedule, pacer::Sleeper, units::Nanos};

/// Requests that are read ahead of those that are not due yet, to find the turns of conversations that go on; while the later
/// turns found on the way take no more bytes than that.
const MOST_AHEAD: usize = 1024;
const MOST_AHEAD_WEIGHT: u64 = 64 << 20;

/// Later turns may take so many bytes, where what goes next stands behind them.
const MOST_WEIGHT: u64 = 1 << 30;

/// After so long without a wait the runtime is let at what has come: a signal, or the end of `--max-seconds`.
const BREATH: Nanos = Nanos(1_000_000);

/// How long to wait, after the end, for lines of a pipe that were due before it.
const LAST_LINES: Duration = Duration::from_millis(200);

/// Tells the time and waits for it. A test gives time that costs nothing.
pub trait Pace {
    /// Now, counted from the start of the run.
    fn now(&self) -> Nanos;
    /// Returns when `due` has come.
    fn until(&self, due: Nanos) -> impl Future<Output = ()> + Send;
}

impl Pace for Sleeper {
    fn now(&self) -> Nanos {
        self.now()
    }

    async fn until(&self, due: Nanos) {
        self.sleep_until(due).await;
    }
}

/// What is done with requests.
pub trait Launch {
    /// A request made ready.
    type Request;
    /// The request's own time, if it has one.
    fn timestamp(&self, request: &Self::Request) -> Option<Nanos>;
    /// The conversation that it is a turn of.
    fn session<'r>(&self, request: &'r Self::Request) -> Option<&'r str>;
    /// When it had arrived, counted from the start of the run; 0 when it was there before anybody asked.
    fn read(&self, request: &Self::Request) -> Nanos;
    /// Whether it says that it begins a conversation.
    fn begins(&self, request: &Self::Request) -> bool;
    /// What it takes of the memory, in bytes.
    fn weight(&self, request: &Self::Request) -> u64;
    /// How long its user thinks before it.
    fn think_time(&mut self, request: &Self::Request) -> Nanos;
    /// Puts the server's `replies` where the request has room for them; `None`: it comes back as [`News::Filled`].
    fn fill(
        &mut self,
        request: Self::Request,
        replies: impl FnOnce() -> Vec<String>,
        due: Due,
    ) -> Option<Self::Request>;
    /// Sends it, now.
    fn start(&mut self, request: Self::Request, due: Due, slot: Slot);
    /// Nothing more is to be sent this moment: whatever `start` has put off is done now.
    fn rest(&mut self);
    /// It was due at `due.scheduled` but never sent: it was offered all the same.
    fn never(&mut self, request: Self::Request, due: Due, why: Why);
}

/// What is heard of conversations.
#[derive(Debug)]
pub enum News<R> {
    /// A turn is over.
    Ended {
        /// Of which.
        session: String,
        /// Its last token, or its failure.
        at: Nanos,
        /// The end of the reply, which may come a while later.
        over: Nanos,
        /// The answer; `None`: it failed.
        reply: Option<String>,
    },
    /// A turn has its replies.
    Filled {
        /// It.
        request: R,
        /// When it is due.
        due: Due,
    },
    /// A turn could not be made of the replies.
    Unfilled {
        /// It, without them.
        request: R,
        /// When it was due.
        due: Due,
    },
}

/// The requests to come.
struct Queue<R> {
    requests: mpsc::Receiver<R>,
    news: mpsc::UnboundedReceiver<News<R>>,
    schedule: Schedule,
    /// Of the input, in its order, what may go without waiting for another: requests alone, and first turns.
    singles: VecDeque<Next<R>>,
    firsts: VecDeque<Next<R>>,
    /// The latest time that the input has given to a request.
    latest: Nanos,
    /// Turns whose time is known, the earliest first.
    turns: BinaryHeap<Reverse<Turn<R>>>,
    /// Requests and turns so far.
    count: u64,
    sessions: Sessions<R>,
    most_sessions: usize,
    /// When the last session was over, of those that `most_sessions` counts.
    left: Nanos,
    /// Turns whose session had given up its place among those, and must wait for another; with the end of the turn before.
    returning: VecDeque<(String, R, Nanos)>,
    /// Turns that are being filled.
    filling: u64,
    /// The input is over.
    over: bool,
    /// So many turns wait that the input could not be read in time.
    full: bool,
}

/// A request that waits for nothing but its time and a place.
struct Next<R> {
    request: R,
    /// By the schedule; `None`: as soon as there is room.
    due: Option<Nanos>,
    /// When it had been read; 0 when it was there before anybody asked.
    read: Nanos,
    /// Its place in the input.
    number: u64,
}

/// A later turn of a conversation. Of two that are due at once, the one that was known first goes first.
struct Turn<R> {
    due: Due,
    number: u64,
    request: R,
}

impl<R> PartialEq for Turn<R> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<R> Eq for Turn<R> {}

impl<R> PartialOrd for Turn<R> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<R> Ord for Turn<R> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due.scheduled, self.number).cmp(&(other.due.scheduled, other.number))
    }
}

/// What may go first.
enum Choice {
    /// The next request alone.
    Single,
    /// The next first turn.
    First,
    /// A turn of a conversation.
    Turn,
    /// Nothing before that time, or before something is heard.
    Wait(Option<Nanos>),
    /// There is nothing any more.
    Over,
}

impl<R> Queue<R> {
    /// Takes in what is there without waiting for it.
    fn look(&mut self, pace: &impl Pace, launch: &mut impl Launch<Request = R>) {
        while let Ok(news) = self.news.try_recv() {
            self.hear(news, launch);
        }
        while self.has_place()
            && let Some((id, request, ended)) = self.returning.pop_front()
        {
            self.sessions.resume(&id);
            // It had been read, but until now it had no place.
            self.follow(&id, request, ended, pace.now(), launch);
        }
        while self.wants_input() {
            match self.requests.try_recv() {
                Ok(request) => self.admit(request, pace.now(), launch),
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => self.end_of_input(),
            }
        }
        self.full |= self.has_place() && !self.over && self.ahead() == 0 && self.sessions.weight() >= MOST_WEIGHT;
    }

    /// Whether to read on: for something to send; and for the next turns of conversations, which may stand behind requests that
    /// are not due yet.
    fn wants_input(&self) -> bool {
        let most = if self.sessions.any() && self.sessions.weight() < MOST_AHEAD_WEIGHT { MOST_AHEAD } else { 1 };
        !self.over && self.ahead() < most && self.sessions.weight() < MOST_WEIGHT
    }

    /// Whether one more conversation may go on at the same time.
    fn has_place(&self) -> bool {
        self.sessions.live() < self.most_sessions
    }

    /// How many of the input wait for nothing but their time and a place.
    fn ahead(&self) -> usize {
        self.singles.len() + self.firsts.len()
    }

    fn end_of_input(&mut self) {
        self.over = true;
        self.sessions.moved_on(None);
    }

    fn admit(&mut self, request: R, now: Nanos, launch: &mut impl Launch<Request = R>) {
        let Some(id) = launch.session(&request).map(str::to_owned) else {
            self.sessions.moved_on(None);
            let next = self.next(request, now, launch);
            self.singles.push_back(next);
            return;
        };
        let turn = session::Turn { weight: launch.weight(&request), begins: launch.begins(&request), request };
        match self.sessions.arrive(&id, turn) {
            Gate::First(request) => {
                let next = self.next(request, now, launch);
                self.firsts.push_back(next);
            }
            Gate::Next(request, ended) => self.follow(&id, request, ended, now, launch),
            Gate::Returns(request, ended) => self.returning.push_back((id, request, ended)),
            Gate::Parked => {}
            Gate::Lost(request) => lose(vec![request], now, launch),
        }
    }

    fn next(&mut self, request: R, now: Nanos, launch: &impl Launch<Request = R>) -> Next<R> {
        let due = self.schedule.next_due(launch.timestamp(&request));
        // A line that stands behind a later one was hidden by it, and one behind too many turns by those: it was not there until
        // now.
        let hidden = self.full || due.is_some_and(|due| due < self.latest);
        let read = if hidden { now } else { launch.read(&request) };
        self.latest = self.latest.max(due.unwrap_or_default());
        self.count += 1;
        Next { request, due, read, number: self.count }
    }

    /// The turn before `request` was over at `ended`; `read`: since when it could go by itself.
    fn follow(&mut self, id: &str, request: R, ended: Nanos, read: Nanos, launch: &mut impl Launch<Request = R>) {
        let thought = ended + launch.think_time(&request);
        let own = launch.timestamp(&request).filter(|_| matches!(self.schedule, Schedule::Own));
        let scheduled = own.map_or(thought, |own| own.max(thought));
        let due = Due { scheduled, read, follows: true, ..Due::default() };
        match launch.fill(request, || self.sessions.replies(id), due) {
            Some(request) => self.push(request, due),
            None => self.filling += 1,
        }
    }

    fn push(&mut self, request: R, due: Due) {
        self.count += 1;
        self.turns.push(Reverse(Turn { due, number: self.count, request }));
    }

    fn hear(&mut self, news: News<R>, launch: &mut impl Launch<Request = R>) {
        match news {
            News::Ended { session, at, over, reply } => {
                let live = self.sessions.live();
                let (next, lost) = self.sessions.ended(&session, at, reply);
                if self.sessions.live() < live {
                    self.left = over;
                }
                if let Some(request) = next {
                    self.follow(&session, request, at, over, launch);
                }
                lose(lost, at, launch);
            }
            News::Filled { request, due } => {
                self.filling -= 1;
                self.push(request, due);
            }
            News::Unfilled { request, due } => {
                self.filling -= 1;
                let session = launch.session(&request).map(str::to_owned);
                launch.never(request, due, Why::NoReply);
                if let Some(session) = session {
                    self.hear(News::Ended { session, at: due.scheduled, over: due.scheduled, reply: None }, launch);
                }
            }
        }
    }

    /// What goes first, of what is known.
    fn choose(&self, now: Nanos) -> Choice {
        let turn = self.turns.peek().map(|Reverse(turn)| turn.due.scheduled);
        let first = self.firsts.front().filter(|_| self.has_place());
        let ranked = |next: Option<&Next<R>>| next.map(|next| (next.due.unwrap_or_default(), next.number));
        let (first, single) = (ranked(first), ranked(self.singles.front()));
        let head = match (first, single) {
            (Some(first), Some(single)) if first < single => Choice::First,
            (Some(_), None) => Choice::First,
            _ => Choice::Single,
        };
        let next = first.into_iter().chain(single).min().map(|(due, _)| due);
        match (turn, next) {
            // What was begun goes on before anything new begins.
            (Some(turn), next) if turn <= now && next.is_none_or(|next| turn <= next || next == Nanos(0)) => {
                Choice::Turn
            }
            (_, Some(next)) if next <= now => head,
            (Some(turn), _) if turn <= now => Choice::Turn,
            (turn, next) if turn.is_some() || next.is_some() => Choice::Wait(turn.into_iter().chain(next).min()),
            _ if self.over && self.ahead() == 0 && self.waiting() == 0 => Choice::Over,
            _ => Choice::Wait(None),
        }
    }

    /// Turns that are known and cannot go yet: their time is not.
    fn waiting(&self) -> u64 {
        self.filling + (self.sessions.parked() + self.returning.len()) as u64
    }

    /// Waits for the time, or for something that may go before it.
    async fn wait(&mut self, due: Option<Nanos>, pace: &impl Pace, launch: &mut impl Launch<Request = R>) {
        let wants_input = self.wants_input();
        let time = async {
            match due {
                Some(due) => pace.until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(news) = self.news.recv() => self.hear(news, launch),
            request = self.requests.recv(), if wants_input => match request {
                Some(request) => self.admit(request, pace.now(), launch),
                None => self.end_of_input(),
            },
            () = time => {}
        }
    }

    /// Takes out what goes first, and says since when its session may go and whether it follows another turn.
    fn take(&mut self, choice: &Choice, launch: &impl Launch<Request = R>) -> Option<(Next<R>, Nanos, bool)> {
        if let Choice::Turn = choice {
            let Reverse(Turn { due, number, request }) = self.turns.pop()?;
            let Due { scheduled, read, .. } = due;
            return Some((Next { request, due: Some(scheduled), read, number }, Nanos(0), true));
        }
        if let Choice::Single = choice {
            return Some((self.singles.pop_front()?, Nanos(0), false));
        }
        let next = self.firsts.pop_front()?;
        self.sessions.begin(launch.session(&next.request)?);
        let limited = self.most_sessions < usize::MAX;
        Some((next, if limited { self.left } else { Nanos(0) }, false))
    }

    /// Of the input, the next that the schedule had due by `since`.
    fn pop_due(&mut self, since: Nanos) -> Option<Next<R>> {
        let rank = |waiting: &VecDeque<Next<R>>| {
            let next = waiting.front().filter(|next| next.due.is_some_and(|due| due <= since))?;
            Some((next.due, next.number))
        };
        match (rank(&self.singles), rank(&self.firsts)) {
            (single, Some(first)) if single.is_none_or(|single| first < single) => self.firsts.pop_front(),
            (Some(_), _) => self.singles.pop_front(),
            _ => None,
        }
    }

    /// All that was due by `since` was offered, and is told; gives how many were not due yet.
    ///
    /// Lines that were due may still have to be read. That ends with the first that was not; and when the run is cancelled, since
    /// input may have no end.
    async fn close(
        mut self,
        since: Nanos,
        why: Why,
        pace: &impl Pace,
        mut stop: Stop,
        launch: &mut impl Launch<Request = R>,
    ) -> u64 {
        while let Some(Reverse(turn)) = self.turns.pop() {
            if turn.due.scheduled > since {
                self.turns.push(Reverse(turn));
                break;
            }
            launch.never(turn.request, turn.due, why);
        }
        self.sessions.close();
        loop {
            while let Some(Next { request, due, .. }) = self.pop_due(since) {
                let scheduled = due.unwrap_or_default();
                launch.never(request, Due { scheduled, ..Due::default() }, why);
            }
            if self.ahead() > 0 || self.over {
                break;
            }
            let line = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                line = timeout(LAST_LINES, self.requests.recv()) => line,
            };
            match line {
                Ok(Some(request)) => self.admit(request, pace.now(), launch),
                Ok(None) => self.end_of_input(),
                Err(_) => break,
            }
        }
        let mut not_due = self.ahead() as u64 + self.turns.len() as u64 + self.waiting();
        self.requests.close();
        while self.requests.try_recv().is_ok() {
            not_due += 1;
        }
        not_due
    }
}

/// Tells of turns whose conversation is over.
fn lose<R>(turns: Vec<R>, at: Nanos, launch: &mut impl Launch<Request = R>) {
    for request in turns {
        launch.never(request, Due { scheduled: at, follows: true, ..Due::default() }, Why::EarlierTurn);
    }
}

/// Where requests and news of them come from, and by what they go.
pub struct Sources<R> {
    /// Requests, in the order of lines.
    pub requests: mpsc::Receiver<R>,
    /// What becomes of turns.
    pub news: mpsc::UnboundedReceiver<News<R>>,
    /// When each is due.
    pub schedule: Schedule,
    /// The most sessions at once; `None`: no limit.
    pub most_sessions: Option<u32>,
    /// Nothing is begun from then on; `None`: no limit.
    pub end: Option<Nanos>,
}

/// What is left when nothing more is sent.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Requests that were read but not due when the run was stopped.
    pub not_due: u64,
    /// So many turns of conversations had to wait that the input could not be read in time.
    pub full: bool,
}

/// Takes requests in their order and starts each at its time, until there are no more or the run is stopped.
///
/// A slot is taken before the request is awaited, so that memory stays bounded and a request starts the moment that its
/// time has come. Of a conversation one turn is in flight, and the next is due when its user has read the answer and thought.
pub async fn dispatch<L: Launch>(
    sources: Sources<L::Request>,
    slots: &Slots,
    pace: &impl Pace,
    stopper: &Stopper,
    launch: &mut L,
) -> Left {
    let mut stop = stopper.watch();
    let mut breath = pace.now();
    let mut queue = Queue {
        requests: sources.requests,
        news: sources.news,
        schedule: sources.schedule,
        singles: VecDeque::new(),
        firsts: VecDeque::new(),
        latest: Nanos(0),
        turns: BinaryHeap::new(),
        count: 0,
        sessions: Sessions::default(),
        most_sessions: sources.most_sessions.map_or(usize::MAX, |most| most as usize),
        left: Nanos(0),
        returning: VecDeque::new(),
        filling: 0,
        over: false,
        full: false,
    };
    loop {
        let next = async {
            if pace.now().since(breath) > BREATH {
                tokio::task::yield_now().await;
                breath = pace.now();
            }
            let (slot, freed) = if let Some(taken) = slots.try_take() {
                taken
            } else {
                launch.rest();
                slots.take().await?
            };
            loop {
                let now = pace.now();
                if sources.end.is_some_and(|end| now >= end) {
                    stopper.drain(Why::MaxSeconds);
                    std::future::pending::<()>().await;
                }
                queue.look(pace, launch);
                match queue.choose(now) {
                    Choice::Over => return None,
                    Choice::Wait(due) => {
                        launch.rest();
                        queue.wait(due, pace, launch).await;
                    }
                    // The slot's last user still thinks, for a moment.
                    _ if freed > now => {
                        launch.rest();
                        queue.wait(Some(freed), pace, launch).await;
                    }
                    choice => {
                        let (next, left, follows) = queue.take(&choice, launch)?;
                        return Some((slot, freed.max(left), next, follows));
                    }
                }
            }
        };
        let next = tokio::select! {
            biased;
            () = stop.draining() => break,
            next = next => next,
        };
        let Some((slot, freed, Next { request, due, read, .. }, follows)) = next else {
            launch.rest();
            return Left { not_due: 0, full: queue.full };
        };
        let ready = freed.max(read).max(due.unwrap_or_default());
        launch.start(request, Due { scheduled: due.unwrap_or(ready), read, ready, follows }, slot);
    }
    launch.rest();
    let why = stop.why().unwrap_or(Why::Interrupted);
    let since = sources.end.filter(|_| why == Why::MaxSeconds).map_or(pace.now(), |end| end.min(pace.now()));
    let full = queue.full;
    Left { not_due: queue.close(since, why, pace, stop, launch).await, full }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        rc::Rc,
    };

    use tokio::time::{Instant, sleep, sleep_until};

    use super::{super::stop::Stopper, *};

    /// The runtime's own clock, paused: an hour costs nothing.
    struct Paused(Instant);

    impl Pace for Paused {
        fn now(&self) -> Nanos {
            Nanos(u64::try_from(self.0.elapsed().as_nanos()).unwrap())
        }
        async fn until(&self, due: Nanos) {
            sleep_until(self.0 + due.to_duration()).await;
        }
    }

    type Log = Rc<RefCell<Vec<String>>>;

    /// A request: its time in seconds, its session, and how long its user thinks.
    #[derive(Debug, Clone, Copy, Default)]
    struct Asked {
        name: &'static str,
        at: Option<u64>,
        session: Option<&'static str>,
        think: u64,
        /// It waits to be filled.
        open: bool,
        /// When its line comes, and what it takes of the memory.
        comes: u64,
        weight: u64,
    }

    const SECOND: u64 = 1_000_000_000;

    /// Requests that take `service` each.
    struct Fake {
        begun: Instant,
        service: Duration,
        prefill: Duration,
        log: Log,
        news: mpsc::UnboundedSender<News<Asked>>,
        fails: &'static str,
    }

    impl Launch for Fake {
        type Request = Asked;
        fn timestamp(&self, request: &Asked) -> Option<Nanos> {
            request.at.map(|s| Nanos(s * SECOND))
        }
        fn session<'r>(&self, request: &'r Asked) -> Option<&'r str> {
            request.session
        }
        fn read(&self, request: &Asked) -> Nanos {
            Nanos(request.comes * SECOND)
        }
        fn think_time(&mut self, request: &Asked) -> Nanos {
            Nanos(request.think * SECOND)
        }
        fn begins(&self, _: &Asked) -> bool {
            false
        }
        fn weight(&self, request: &Asked) -> u64 {
            request.weight
        }
        fn fill(&mut self, request: Asked, replies: impl FnOnce() -> Vec<String>, due: Due) -> Option<Asked> {
            if !request.open {
                return Some(request);
            }
            let replies = replies();
            assert!(replies.iter().all(|reply| reply == "said"), "{replies:?}");
            self.log.borrow_mut().push(format!("{} hears {}", request.name, replies.len()));
            self.news.send(News::Filled { request, due }).unwrap();
            None
        }
        fn start(&mut self, request: Asked, due: Due, mut slot: Slot) {
            let (begun, service, prefill) = (self.begun, self.service, self.prefill);
            let seconds = |t: Nanos| t.0 / SECOND;
            let late = Paused(begun).now().since(due.ready);
            assert!(late < Nanos(10_000_000), "nothing but the time kept it back");
            let line = format!("{}{}@{}", request.name, seconds(due.scheduled), begun.elapsed().as_secs());
            self.log.borrow_mut().push(line);
            let (news, fails) = (self.news.clone(), self.fails == request.name && !request.name.is_empty());
            tokio::spawn(async move {
                sleep(prefill).await;
                slot.first_token(Paused(begun).now());
                sleep(service.saturating_sub(prefill)).await;
                let at = Paused(begun).now();
                if let Some(session) = request.session {
                    let reply = (!fails).then(|| "said".into());
                    let _ = news.send(News::Ended { session: session.into(), at, over: at, reply });
                }
                slot.free(at);
            });
        }
        fn rest(&mut self) {}
        fn never(&mut self, request: Asked, due: Due, why: Why) {
            let why = if why == Why::EarlierTurn { "lost" } else { "never" };
            self.log.borrow_mut().push(format!("{}{} {why}", request.name, due.scheduled.0 / SECOND));
        }
    }

    /// How a test goes.
    struct Setting {
        slots: u32,
        prefill: Option<(u32, u64)>,
        service: u64,
        sessions: Option<u32>,
        end: Option<u64>,
        fails: &'static str,
    }

    const PLAIN: Setting = Setting { slots: 100, prefill: None, service: 10, sessions: None, end: None, fails: "" };

    async fn play(requests: &[Asked], setting: Setting) -> (Vec<String>, u64) {
        let begun = Instant::now();
        let (send, receive) = mpsc::channel(2);
        let feed = requests.to_vec();
        tokio::spawn(async move {
            for request in feed {
                sleep_until(begun + Duration::from_secs(request.comes)).await;
                let _ = send.send(request).await;
            }
        });
        let (news, heard) = mpsc::unbounded_channel();
        let (log, stopper) = (Log::default(), Stopper::default());
        let (service, prefill) = (Duration::from_secs(setting.service), setting.prefill.map_or(0, |(_, time)| time));
        let prefill = Duration::from_secs(prefill);
        let mut launch = Fake { begun, service, prefill, log: Rc::clone(&log), news, fails: setting.fails };
        let slots = Slots::new(Some(setting.slots), setting.prefill.map(|(count, _)| count));
        let pace = Paused(begun);
        let ending = async {
            if let Some(end) = setting.end {
                sleep(Duration::from_secs(end)).await;
                stopper.drain(Why::MaxSeconds);
            }
            std::future::pending::<()>().await;
        };
        let sources = Sources {
            requests: receive,
            news: heard,
            schedule: Schedule::Own,
            most_sessions: setting.sessions,
            end: setting.end.map(|seconds| Nanos(seconds * SECOND)),
        };
        let left = tokio::select! {
            left = dispatch(sources, &slots, &pace, &stopper, &mut launch) => left,
            () = ending => Left::default(),
        };
        let log = log.borrow().clone();
        assert_eq!(left.full, requests.iter().any(|asked| asked.weight >= MOST_WEIGHT));
        (log, left.not_due)
    }

    /// What was started when (`due@started`, in seconds), and how many were not due at the end.
    async fn run(requests: &[Option<u64>], slots: u32, service: u64, end: Option<u64>) -> (Vec<String>, u64) {
        let asked: Vec<Asked> = requests.iter().map(|at| Asked { at: *at, ..Asked::default() }).collect();
        play(&asked, Setting { slots, service, end, ..PLAIN }).await
    }

    /// A turn of session `a` or `b`, whose user thinks so long before it.
    fn turn(name: &'static str, think: u64) -> Asked {
        Asked { name, session: Some(&name[..1]), think, open: think > 0, ..Asked::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn turns_follow_each_other_after_their_users_have_thought() {
        let asked = [turn("a0 ", 0), turn("a1 ", 5), turn("a2 ", 1), turn("b0 ", 0), turn("b1 ", 2)];
        let (log, left) = play(&asked, PLAIN).await;
        let want =
            ["a0 0@0", "b0 0@0", "a1  hears 1", "b1  hears 1", "b1 12@12", "a1 15@15", "a2  hears 2", "a2 26@26"];
        assert_eq!((log, left), (want.map(String::from).to_vec(), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_user_keeps_a_place_among_the_sessions_while_thinking() {
        let asked = [turn("a0 ", 0), turn("a1 ", 5), turn("b0 ", 0), turn("c0 ", 0)];
        let (log, _) = play(&asked, Setting { sessions: Some(1), ..PLAIN }).await;
        let starts: Vec<&String> = log.iter().filter(|line| line.contains('@')).collect();
        // The next user comes when the last turn of the one before is over.
        assert_eq!(starts, ["a0 0@0", "a1 15@15", "b0 25@25", "c0 35@35"]);
    }

    /// Its line comes when its place has been given to another, and its time is over: the client is not what kept it.
    #[tokio::test(start_paused = true)]
    async fn a_user_who_comes_back_waits_for_a_place_again() {
        let late = |asked| Asked { comes: 15, ..asked };
        let asked = [turn("a0 ", 0), turn("b0 ", 0), late(turn("a1 ", 0)), late(turn("c0 ", 0))];
        let (log, _) = play(&asked, Setting { sessions: Some(1), ..PLAIN }).await;
        assert_eq!(log, ["a0 0@0", "b0 10@10", "a1 10@20", "c0 30@30"]);
        let (log, _) = play(&asked, PLAIN).await;
        assert_eq!(log, ["a0 0@0", "b0 0@0", "a1 10@15", "c0 15@15"]);
    }

    #[tokio::test(start_paused = true)]
    async fn turns_that_wait_are_read_up_to_a_limit_and_what_that_delays_is_told() {
        let asked = [
            Asked { at: Some(0), ..turn("a0 ", 0) },
            Asked { weight: MOST_WEIGHT, ..turn("a1 ", 0) },
            Asked { at: Some(1), ..turn("b0 ", 0) },
        ];
        let (log, _) = play(&asked, PLAIN).await;
        assert_eq!(log, ["a0 0@0", "b0 1@10", "a1 10@10"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_begun_goes_on_before_anything_new() {
        let asked = [turn("a0 ", 0), turn("a1 ", 0), turn("b0 ", 0), turn("c0 ", 0)];
        let (log, _) = play(&asked, Setting { slots: 1, ..PLAIN }).await;
        assert_eq!(log, ["a0 0@0", "a1 10@10", "b0 20@20", "c0 30@30"]);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failed_turn_the_session_is_over_and_its_turns_are_told() {
        let asked = [turn("a0 ", 0), turn("a1 ", 5), turn("a2 ", 5), turn("b0 ", 0), turn("b1 ", 5)];
        let (log, left) = play(&asked, Setting { fails: "a0 ", ..PLAIN }).await;
        let want = ["a0 0@0", "b0 0@0", "a1 10 lost", "a2 10 lost", "b1  hears 1", "b1 15@15"];
        assert_eq!((log, left), (want.map(String::from).to_vec(), 0));
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_end_turns_that_were_due_were_offered_and_others_not() {
        let asked = [turn("a0 ", 0), turn("a1 ", 1), turn("b0 ", 0), turn("b1 ", 60), turn("b2 ", 1)];
        let (log, left) = play(&asked, Setting { slots: 2, end: Some(30), service: 10, ..PLAIN }).await;
        assert!(log.contains(&"a1 11@11".to_owned()) && !log.iter().any(|line| line.contains("never")), "{log:?}");
        assert_eq!(left, 2, "b1 thinks, and b2 waits for it");
    }

    /// The next turn may stand behind others that are not due yet.
    #[tokio::test(start_paused = true)]
    async fn a_turn_does_not_wait_for_lines_in_front_of_it_that_are_not_due() {
        let at = |seconds| Some(seconds);
        let asked = [
            Asked { at: at(0), ..turn("a0 ", 0) },
            Asked { name: "late ", at: at(100), ..Asked::default() },
            Asked { at: at(200), ..turn("b0 ", 0) },
            turn("a1 ", 5),
        ];
        let (log, _) = play(&asked, PLAIN).await;
        assert_eq!(log, ["a0 0@0", "a1  hears 1", "a1 15@15", "late 100@100", "b0 200@200"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_alone_does_not_wait_for_a_place_among_the_sessions() {
        let asked = [turn("a0 ", 0), turn("a1 ", 5), turn("b0 ", 0), Asked { name: "alone ", ..Asked::default() }];
        let (log, _) = play(&asked, Setting { sessions: Some(1), ..PLAIN }).await;
        let starts: Vec<&String> = log.iter().filter(|line| line.contains('@')).collect();
        assert_eq!(starts, ["a0 0@0", "alone 0@0", "a1 15@15", "b0 25@25"]);
    }

    /// Endless input whose lines never become anything that could be sent: turns of a session in flight, or requests long due.
    #[tokio::test(start_paused = true)]
    async fn input_without_an_end_does_not_hold_up_the_end() {
        for asked in [Asked { weight: 1 << 16, ..turn("a", 0) }, Asked { at: Some(0), ..Asked::default() }] {
            let (send, receive) = mpsc::channel(2);
            tokio::spawn(async move { while send.send(asked).await.is_ok() {} });
            let (news, heard) = mpsc::unbounded_channel();
            let (begun, stopper) = (Instant::now(), Stopper::default());
            let (service, prefill) = (Duration::from_secs(1000), Duration::ZERO);
            let mut launch = Fake { begun, service, prefill, log: Log::default(), news, fails: "" };
            let schedule = Schedule::Own;
            let sources = Sources { requests: receive, news: heard, schedule, most_sessions: None, end: None };
            let (slots, pace) = (Slots::new(Some(2), None), Paused(begun));
            let ending = async {
                sleep(Duration::from_secs(5)).await;
                stopper.drain(Why::MaxSeconds);
                // The grace is over.
                tokio::task::yield_now().await;
                stopper.cancel(Why::MaxSeconds);
            };
            let ((), _) = tokio::join!(ending, dispatch(sources, &slots, &pace, &stopper, &mut launch));
            assert_eq!(begun.elapsed().as_secs(), 5);
        }
    }

    /// Time that passes by itself, so that nothing is ever waited for.
    struct Busy(Cell<u64>);

    impl Pace for Busy {
        fn now(&self) -> Nanos {
            Nanos(self.0.replace(self.0.get() + 100_000))
        }
        fn until(&self, _: Nanos) -> impl Future<Output = ()> + Send {
            std::future::ready(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_without_a_pause_between_them_do_not_hold_up_a_signal() {
        let (send, receive) = mpsc::channel(1000);
        for _ in 0..1000 {
            send.try_send(Asked { at: Some(0), ..Asked::default() }).unwrap();
        }
        let (news, heard) = mpsc::unbounded_channel();
        let (begun, stopper, log) = (Instant::now(), Stopper::default(), Log::default());
        let (service, prefill) = (Duration::ZERO, Duration::ZERO);
        let mut launch = Fake { begun, service, prefill, log: Rc::clone(&log), news, fails: "" };
        let schedule = Schedule::Own;
        let sources = Sources { requests: receive, news: heard, schedule, most_sessions: None, end: None };
        let signal = stopper.clone();
        tokio::spawn(async move { signal.drain(Why::Interrupted) });
        dispatch(sources, &Slots::new(None, None), &Busy(Cell::new(0)), &stopper, &mut launch).await;
        let begun = log.borrow().iter().filter(|line| line.contains('@')).count();
        assert!(begun < 20, "{begun} were sent after it");
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_wait_for_their_first_token() {
        let asked = [Asked::default(); 4];
        let (log, _) = play(&asked, Setting { prefill: Some((1, 2)), ..PLAIN }).await;
        assert_eq!(log, ["0@0", "2@2", "4@4", "6@6"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_answer_delays_nobody_in_an_open_loop() {
        let (log, left) = run(&[Some(1), Some(2), Some(3600)], 100, 1000, None).await;
        assert_eq!((log, left), (vec!["1@1".into(), "2@2".into(), "3600@3600".into()], 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_loop_starts_the_next_when_a_slot_is_free() {
        let (log, _) = run(&[None; 5], 2, 10, None).await;
        assert_eq!(log, ["0@0", "0@0", "10@10", "10@10", "20@20"]);
    }

    #[tokio::test(start_paused = true)]
    async fn with_a_limit_an_open_loop_keeps_its_schedule_and_shows_the_wait() {
        let (log, _) = run(&[Some(1), Some(2), Some(3)], 1, 10, None).await;
        assert_eq!(log, ["1@1", "2@11", "3@21"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_due_at_the_end_was_offered() {
        let (log, left) = run(&[Some(1), Some(2), Some(3), Some(4), Some(9), Some(10)], 1, 100, Some(5)).await;
        assert_eq!(log, ["1@1", "2 never", "3 never", "4 never"]);
        assert!(left >= 1, "the request of second 9 was in hand");
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_loop_owes_nothing_at_the_end() {
        let (log, left) = run(&[None; 9], 1, 100, Some(5)).await;
        assert_eq!(log, ["0@0"]);
        assert!(left >= 1);
    }
}

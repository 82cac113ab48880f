//! Sends each request when it is due and has a slot. [`Queue`] decides which one; this loop waits for it.

use std::time::Duration;

use tokio::{sync::mpsc, time::timeout};

use super::{
    queue::{Action, Queue, Step, ThinkTimes, TurnEvent},
    read_ahead::ReadAheadReceiver,
    scheduled::Scheduled,
    slots::{RequestSlots, Slot},
    stop::{StopReason, StopSignal, Stopper},
};
use crate::{
    load::{Schedule, SendTimes},
    pacer::Sleeper,
    units::Nanos,
};

/// Longest stretch without yielding to the runtime, so that signals and `--max-seconds` are seen.
const YIELD_INTERVAL: Nanos = Nanos(1_000_000);

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
    /// Starts to build the body of a turn from the responses before it; a [`TurnEvent`] reports the result.
    fn fill(&mut self, request: Self::Request, responses: Vec<String>, times: SendTimes);
    /// Sends a request now. Its slot stays taken for `think_time` after its end.
    fn start(&mut self, request: Self::Request, times: SendTimes, think_time: Nanos, slot: Slot);
    /// Does what `start` has put off, since nothing more is to be sent at the moment.
    fn flush(&mut self);
    /// Records a request that was due at `times.scheduled` but is never sent: it counts as offered.
    fn abandon(&mut self, request: Self::Request, times: SendTimes, reason: StopReason);
}

/// Where requests and events of turns come from, and what decides when they are sent.
pub struct Sources<R> {
    /// Requests, in the order of lines.
    pub requests: ReadAheadReceiver<R>,
    /// Events of turns.
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
}

/// How dispatching ended.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct DispatchEnd {
    /// Requests that were read but not due when the run was stopped.
    pub not_due: u64,
    /// Parked turns filled their memory, so that the input could not be read in time.
    pub input_blocked: bool,
}

/// Why the dispatcher gives way to the runtime.
enum Pause {
    /// For a moment.
    Yield,
    /// Every slot is taken.
    UntilSlot,
    /// Nothing can be sent until this time; without a time, until input or an event arrives.
    UntilNews(Option<Nanos>),
}

/// Starts the requests in their order, each at its time, until all are sent or the run is stopped.
///
/// A slot is taken before the request is awaited, so that memory stays bounded and a request starts at the moment that it is
/// due. One turn of a conversation is in flight at a time; the next is due when its user has read the response and thought.
pub async fn dispatch<L: Launch>(
    sources: Sources<L::Request>,
    slots: &RequestSlots,
    clock: &impl Timer,
    stopper: &Stopper,
    launch: &mut L,
) -> DispatchEnd {
    let Sources { requests, events, schedule, think_times, max_sessions, input_lead, end } = sources;
    let queue = Queue::new(schedule, think_times, max_sessions, input_lead);
    let mut dispatcher = Dispatcher { queue, requests, events, clock, launch };
    let mut stop = stopper.stop_signal();
    let (mut held, mut last_pause) = (None, clock.now());
    while !stop.is_draining() {
        let now = clock.now();
        if end.is_some_and(|end| now >= end) {
            stopper.start_drain(StopReason::MaxSeconds);
            break;
        }
        held = held.or_else(|| slots.try_take());
        let pause = match held.take() {
            None => Pause::UntilSlot,
            Some((slot, slot_free)) => {
                dispatcher.take_arrived(now);
                match dispatcher.queue.next_step(now, slot_free) {
                    Step::Start { request, times, think_time } => {
                        dispatcher.launch.start(request, times, think_time, slot);
                        // No future is needed for what can be sent at once.
                        if now.since(last_pause) <= YIELD_INTERVAL {
                            continue;
                        }
                        Pause::Yield
                    }
                    Step::Wait(time) => {
                        held = Some((slot, slot_free));
                        Pause::UntilNews(time)
                    }
                    Step::Finished => {
                        dispatcher.launch.flush();
                        return DispatchEnd { not_due: 0, input_blocked: dispatcher.queue.was_blocked() };
                    }
                }
            }
        };
        let paused = async {
            match pause {
                Pause::Yield => tokio::task::yield_now().await,
                Pause::UntilSlot => {
                    dispatcher.launch.flush();
                    held = slots.take().await;
                }
                Pause::UntilNews(time) => {
                    dispatcher.launch.flush();
                    dispatcher.wait_for_news(time).await;
                }
            }
        };
        tokio::select! {
            biased;
            () = stop.wait_for_drain() => break,
            () = paused => last_pause = clock.now(),
        }
    }
    dispatcher.launch.flush();
    let reason = stop.stop_reason().unwrap_or(StopReason::Interrupted);
    let end = end.filter(|_| reason == StopReason::MaxSeconds).map_or(clock.now(), |end| end.min(clock.now()));
    let input_blocked = dispatcher.queue.was_blocked();
    DispatchEnd { not_due: dispatcher.abandon_all(end, reason, stop).await, input_blocked }
}

/// Connects the queue to its sources and the launcher.
struct Dispatcher<'a, L: Launch, T: Timer> {
    queue: Queue<L::Request>,
    requests: ReadAheadReceiver<L::Request>,
    events: mpsc::UnboundedReceiver<TurnEvent<L::Request>>,
    clock: &'a T,
    launch: &'a mut L,
}

impl<L: Launch, T: Timer> Dispatcher<'_, L, T> {
    /// Takes what has arrived, without waiting.
    fn take_arrived(&mut self, now: Nanos) {
        while let Ok(event) = self.events.try_recv() {
            self.handle_event(event);
        }
        self.queue.resume_sessions(now);
        self.run_actions();
        while self.queue.wants_input() {
            match self.requests.try_recv() {
                Ok(request) => self.admit_request(request, now),
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => self.queue.end_input(),
            }
        }
        self.queue.check_blocked();
    }

    fn handle_event(&mut self, event: TurnEvent<L::Request>) {
        self.queue.handle_event(event);
        self.run_actions();
    }

    fn admit_request(&mut self, request: L::Request, now: Nanos) {
        self.queue.admit_request(request, now);
        self.run_actions();
    }

    fn run_actions(&mut self) {
        while let Some(action) = self.queue.next_action() {
            match action {
                Action::Fill { request, responses, times } => self.launch.fill(request, responses, times),
                Action::Abandon { request, times, reason } => self.launch.abandon(request, times, reason),
            }
        }
    }

    /// Waits until `time`, or for something that may be sent before it.
    async fn wait_for_news(&mut self, time: Option<Nanos>) {
        let wants_input = self.queue.wants_input();
        let time_reached = async {
            match time {
                Some(time) => self.clock.wait_until(time).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some(event) = self.events.recv() => self.handle_event(event),
            request = self.requests.recv(), if wants_input => match request {
                Some(request) => self.admit_request(request, self.clock.now()),
                None => self.queue.end_input(),
            },
            () = time_reached => {}
        }
    }

    /// Abandons all that was due by `end`, since it was offered. Returns the number of requests that were not due yet.
    ///
    /// Lines that were due may still have to be read. That ends with the first one that was not due, and when the run is
    /// cancelled, since input may have no end.
    async fn abandon_all(mut self, end: Nanos, reason: StopReason, mut stop: StopSignal) -> u64 {
        self.queue.stop_sending(end, reason);
        loop {
            self.queue.abandon_due(end, reason);
            self.run_actions();
            if self.queue.has_read_all_due() {
                break;
            }
            let line = tokio::select! {
                biased;
                () = stop.wait_for_cancel() => break,
                line = timeout(LAST_LINES_TIMEOUT, self.requests.recv()) => line,
            };
            match line {
                Ok(Some(request)) => self.admit_request(request, self.clock.now()),
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
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        rc::Rc,
    };

    use tokio::time::{Instant, sleep, sleep_until};

    use super::{
        super::{
            queue::MAX_PARKED_BYTES,
            read_ahead,
            scheduled::fake::{FakeRequest, SECOND},
        },
        *,
    };
    use crate::{load::ThinkTime, rng};

    /// The runtime's own clock, paused: an hour costs nothing.
    struct Paused(Instant);

    impl Timer for Paused {
        fn now(&self) -> Nanos {
            Nanos(u64::try_from(self.0.elapsed().as_nanos()).unwrap())
        }
        async fn wait_until(&self, due: Nanos) {
            sleep_until(self.0 + due.to_duration()).await;
        }
    }

    type Log = Rc<RefCell<Vec<String>>>;

    /// Requests that take `service` each.
    struct FakeLauncher {
        begun: Instant,
        service: Duration,
        prefill: Duration,
        log: Log,
        events: mpsc::UnboundedSender<TurnEvent<FakeRequest>>,
        fails: &'static str,
    }

    impl Launch for FakeLauncher {
        type Request = FakeRequest;
        fn fill(&mut self, request: FakeRequest, responses: Vec<String>, times: SendTimes) {
            assert!(responses.iter().all(|response| response == "said"), "{responses:?}");
            self.log.borrow_mut().push(format!("{} hears {}", request.name, responses.len()));
            self.events.send(TurnEvent::Filled { request, times }).unwrap();
        }
        fn start(&mut self, request: FakeRequest, times: SendTimes, _: Nanos, mut slot: Slot) {
            let (begun, service, prefill) = (self.begun, self.service, self.prefill);
            let seconds = |t: Nanos| t.0 / SECOND;
            let late = Paused(begun).now().since(times.ready);
            assert!(late < Nanos(10_000_000), "only its time held it back");
            let line = format!("{}{}@{}", request.name, seconds(times.scheduled), begun.elapsed().as_secs());
            self.log.borrow_mut().push(line);
            let (events, fails) = (self.events.clone(), self.fails == request.name && !request.name.is_empty());
            tokio::spawn(async move {
                sleep(prefill).await;
                slot.first_token(Paused(begun).now());
                sleep(service.saturating_sub(prefill)).await;
                let at = Paused(begun).now();
                if let Some(session) = request.session {
                    let response = (!fails).then(|| "said".into());
                    let _ = events.send(TurnEvent::Ended { session: session.into(), at, response_end: at, response });
                }
                slot.free(at);
            });
        }
        fn flush(&mut self) {}
        fn abandon(&mut self, request: FakeRequest, times: SendTimes, reason: StopReason) {
            let outcome = if reason == StopReason::EarlierTurn { "lost" } else { "never" };
            self.log.borrow_mut().push(format!("{}{} {outcome}", request.name, times.scheduled.0 / SECOND));
        }
    }

    fn no_thinking() -> ThinkTimes {
        ThinkTimes::new(ThinkTime::default(), rng::random_stream(0, "test", 0))
    }

    /// The conditions of a test.
    struct Setting {
        slots: u32,
        prefill: Option<(u32, u64)>,
        service: u64,
        sessions: Option<u32>,
        end: Option<u64>,
        fails: &'static str,
    }

    const PLAIN: Setting = Setting { slots: 100, prefill: None, service: 10, sessions: None, end: None, fails: "" };

    async fn play(requests: &[FakeRequest], setting: Setting) -> (Vec<String>, u64) {
        let begun = Instant::now();
        let (send, receive) = read_ahead::channel(None);
        let feed = requests.to_vec();
        tokio::spawn(async move {
            for request in feed {
                sleep_until(begun + Duration::from_secs(request.comes)).await;
                let _ = send.send(request).await;
            }
        });
        let (events, received) = mpsc::unbounded_channel();
        let (log, stopper) = (Log::default(), Stopper::default());
        let (service, prefill) = (Duration::from_secs(setting.service), setting.prefill.map_or(0, |(_, time)| time));
        let prefill = Duration::from_secs(prefill);
        let mut launch = FakeLauncher { begun, service, prefill, log: Rc::clone(&log), events, fails: setting.fails };
        let slots = RequestSlots::new(Some(setting.slots), setting.prefill.map(|(count, _)| count));
        let clock = Paused(begun);
        let ending = async {
            if let Some(end) = setting.end {
                sleep(Duration::from_secs(end)).await;
                stopper.start_drain(StopReason::MaxSeconds);
            }
            std::future::pending::<()>().await;
        };
        let sources = Sources {
            requests: receive,
            events: received,
            schedule: Schedule::Own,
            think_times: no_thinking(),
            max_sessions: setting.sessions,
            input_lead: Nanos(0),
            end: setting.end.map(|seconds| Nanos(seconds * SECOND)),
        };
        let end = tokio::select! {
            end = dispatch(sources, &slots, &clock, &stopper, &mut launch) => end,
            () = ending => DispatchEnd::default(),
        };
        let log = log.borrow().clone();
        assert_eq!(end.input_blocked, requests.iter().any(|asked| asked.weight >= MAX_PARKED_BYTES));
        (log, end.not_due)
    }

    /// What was started when (`due@started`, in seconds), and how many were not due at the end.
    async fn run(requests: &[Option<u64>], slots: u32, service: u64, end: Option<u64>) -> (Vec<String>, u64) {
        let asked: Vec<FakeRequest> =
            requests.iter().map(|at| FakeRequest { at: *at, ..FakeRequest::default() }).collect();
        play(&asked, Setting { slots, service, end, ..PLAIN }).await
    }

    /// A turn of the session that is named by the first letter.
    fn turn(name: &'static str, think: u64) -> FakeRequest {
        FakeRequest { name, session: Some(&name[..1]), think, open: think > 0, ..FakeRequest::default() }
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
        // The next session begins when the last turn of the one before has ended.
        assert_eq!(starts, ["a0 0@0", "a1 15@15", "b0 25@25", "c0 35@35"]);
    }

    /// Its line is read after its time, when its place has been given to another session: the client did not delay it.
    #[tokio::test(start_paused = true)]
    async fn a_user_who_comes_back_waits_for_a_place_again() {
        let late = |asked| FakeRequest { comes: 15, ..asked };
        let asked = [turn("a0 ", 0), turn("b0 ", 0), late(turn("a1 ", 0)), late(turn("c0 ", 0))];
        let (log, _) = play(&asked, Setting { sessions: Some(1), ..PLAIN }).await;
        assert_eq!(log, ["a0 0@0", "b0 10@10", "a1 10@20", "c0 30@30"]);
        let (log, _) = play(&asked, PLAIN).await;
        assert_eq!(log, ["a0 0@0", "b0 0@0", "a1 10@15", "c0 15@15"]);
    }

    #[tokio::test(start_paused = true)]
    async fn turns_that_wait_are_read_up_to_a_limit_and_the_delay_is_reported() {
        let asked = [
            FakeRequest { at: Some(0), ..turn("a0 ", 0) },
            FakeRequest { weight: MAX_PARKED_BYTES, ..turn("a1 ", 0) },
            FakeRequest { at: Some(1), ..turn("b0 ", 0) },
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
    async fn after_a_failed_turn_the_session_ends_and_its_turns_are_reported() {
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

    /// The line of the next turn may follow lines that are not due yet.
    #[tokio::test(start_paused = true)]
    async fn a_turn_does_not_wait_for_lines_in_front_of_it_that_are_not_due() {
        let at = |seconds| Some(seconds);
        let asked = [
            FakeRequest { at: at(0), ..turn("a0 ", 0) },
            FakeRequest { name: "late ", at: at(100), ..FakeRequest::default() },
            FakeRequest { at: at(200), ..turn("b0 ", 0) },
            turn("a1 ", 5),
        ];
        let (log, _) = play(&asked, PLAIN).await;
        assert_eq!(log, ["a0 0@0", "a1  hears 1", "a1 15@15", "late 100@100", "b0 200@200"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_alone_does_not_wait_for_a_place_among_the_sessions() {
        let asked =
            [turn("a0 ", 0), turn("a1 ", 5), turn("b0 ", 0), FakeRequest { name: "alone ", ..FakeRequest::default() }];
        let (log, _) = play(&asked, Setting { sessions: Some(1), ..PLAIN }).await;
        let starts: Vec<&String> = log.iter().filter(|line| line.contains('@')).collect();
        assert_eq!(starts, ["a0 0@0", "alone 0@0", "a1 15@15", "b0 25@25"]);
    }

    /// Endless input whose lines are never sent: turns of a session in flight, or requests that were due long ago.
    #[tokio::test(start_paused = true)]
    async fn input_without_an_end_does_not_hold_up_the_end() {
        for asked in
            [FakeRequest { weight: 1 << 16, ..turn("a", 0) }, FakeRequest { at: Some(0), ..FakeRequest::default() }]
        {
            let (send, receive) = read_ahead::channel(None);
            tokio::spawn(async move { while send.send(asked).await.is_ok() {} });
            let (events, received) = mpsc::unbounded_channel();
            let (begun, stopper) = (Instant::now(), Stopper::default());
            let (service, prefill) = (Duration::from_secs(1000), Duration::ZERO);
            let mut launch = FakeLauncher { begun, service, prefill, log: Log::default(), events, fails: "" };
            let schedule = Schedule::Own;
            let sources = Sources {
                requests: receive,
                events: received,
                schedule,
                think_times: no_thinking(),
                max_sessions: None,
                input_lead: Nanos(0),
                end: None,
            };
            let (slots, clock) = (RequestSlots::new(Some(2), None), Paused(begun));
            let ending = async {
                sleep(Duration::from_secs(5)).await;
                stopper.start_drain(StopReason::MaxSeconds);
                // The end of the grace period.
                tokio::task::yield_now().await;
                stopper.cancel_all(StopReason::MaxSeconds);
            };
            let ((), _) = tokio::join!(ending, dispatch(sources, &slots, &clock, &stopper, &mut launch));
            assert_eq!(begun.elapsed().as_secs(), 5);
        }
    }

    /// Time that advances with each call, so that nothing is ever waited for.
    struct Busy(Cell<u64>);

    impl Timer for Busy {
        fn now(&self) -> Nanos {
            Nanos(self.0.replace(self.0.get() + 100_000))
        }
        fn wait_until(&self, _: Nanos) -> impl Future<Output = ()> + Send {
            std::future::ready(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_without_a_pause_between_them_do_not_hold_up_a_signal() {
        let (send, receive) = read_ahead::channel(None);
        for _ in 0..200 {
            send.send(FakeRequest { at: Some(0), ..FakeRequest::default() }).await.unwrap();
        }
        let (events, received) = mpsc::unbounded_channel();
        let (begun, stopper, log) = (Instant::now(), Stopper::default(), Log::default());
        let (service, prefill) = (Duration::ZERO, Duration::ZERO);
        let mut launch = FakeLauncher { begun, service, prefill, log: Rc::clone(&log), events, fails: "" };
        let schedule = Schedule::Own;
        let sources = Sources {
            requests: receive,
            events: received,
            schedule,
            think_times: no_thinking(),
            max_sessions: None,
            input_lead: Nanos(0),
            end: None,
        };
        let signal = stopper.clone();
        tokio::spawn(async move { signal.start_drain(StopReason::Interrupted) });
        dispatch(sources, &RequestSlots::new(None, None), &Busy(Cell::new(0)), &stopper, &mut launch).await;
        let begun = log.borrow().iter().filter(|line| line.contains('@')).count();
        assert!(begun < 20, "{begun} were sent after it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_limited_number_waits_for_the_first_token() {
        let asked = [FakeRequest::default(); 4];
        let (log, _) = play(&asked, Setting { prefill: Some((1, 2)), ..PLAIN }).await;
        assert_eq!(log, ["0@0", "2@2", "4@4", "6@6"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_response_delays_no_other_request_in_an_open_loop() {
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

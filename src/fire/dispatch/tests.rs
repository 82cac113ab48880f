//! Plays requests against a dispatcher whose time is paused.

use std::sync::{
    Arc, OnceLock, Weak,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};

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

type Log = Arc<Mutex<Vec<String>>>;

/// The dispatcher, for those who end requests; empty: the end of a request wakes the main thread.
type Next = Arc<OnceLock<Weak<dyn SendNext<()>>>>;

/// Requests that take `service` each.
#[derive(Clone)]
struct FakeLauncher {
    begun: Instant,
    service: Duration,
    prefill: Duration,
    log: Log,
    events: mpsc::UnboundedSender<TurnEvent<FakeRequest>>,
    fails: &'static str,
    next: Next,
    /// Wakes the main thread.
    news: Arc<Notify>,
}

impl FakeLauncher {
    fn new(
        begun: Instant,
        service: u64,
        events: mpsc::UnboundedSender<TurnEvent<FakeRequest>>,
        slots: &RequestSlots,
    ) -> Self {
        FakeLauncher {
            begun,
            service: Duration::from_secs(service),
            prefill: Duration::ZERO,
            log: Log::default(),
            events,
            fails: "",
            next: Next::default(),
            news: Arc::clone(slots.news()),
        }
    }

    fn add_line(&self, line: String) {
        self.log.lock().unwrap().push(line);
    }

    fn lines(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }
}

impl Launch for FakeLauncher {
    type Request = FakeRequest;
    type Sent = ();
    fn fill(&self, request: FakeRequest, responses: Vec<String>, times: SendTimes) {
        assert!(responses.iter().all(|response| response == "said"), "{responses:?}");
        self.add_line(format!("{} hears {}", request.name, responses.len()));
        self.events.send(TurnEvent::Filled { request, times }).unwrap();
        self.news.notify_one();
    }
    fn start(&self, request: FakeRequest, times: SendTimes, _: Nanos, mut slot: Slot, _: Option<usize>) -> Option<()> {
        let (begun, service, prefill) = (self.begun, self.service, self.prefill);
        let seconds = |t: Nanos| t.0 / SECOND;
        let late = Paused(begun).now().since(times.ready);
        assert!(late < Nanos(10_000_000), "only its time held it back");
        self.add_line(format!("{}{}@{}", request.name, seconds(times.scheduled), begun.elapsed().as_secs()));
        let (events, fails) = (self.events.clone(), self.fails == request.name && !request.name.is_empty());
        let next = Arc::clone(&self.next);
        tokio::spawn(async move {
            sleep(prefill).await;
            slot.first_token(Paused(begun).now());
            sleep(service.saturating_sub(prefill)).await;
            let at = Paused(begun).now();
            if let Some(session) = request.session {
                let response = (!fails).then(|| "said".into());
                let _ = events.send(TurnEvent::Ended { session: session.into(), at, response_end: at, response });
            }
            let wanted = slot.hand_back(at);
            if (wanted || request.session.is_some())
                && let Some(next) = next.get().and_then(Weak::upgrade)
            {
                next.send_next(0);
            }
        });
        Some(())
    }
    fn read_responses(&self, _: Vec<()>) {}
    fn abandon(&self, request: FakeRequest, times: SendTimes, reason: StopReason) {
        let outcome = if reason == StopReason::EarlierTurn { "lost" } else { "never" };
        self.add_line(format!("{}{} {outcome}", request.name, times.scheduled.0 / SECOND));
    }
}

/// Dispatches these requests.
async fn dispatch<T: Timer + Send + Sync + 'static>(
    sources: Sources<FakeRequest>,
    slots: RequestSlots,
    clock: T,
    stopper: &Stopper,
    launch: &FakeLauncher,
) -> DispatchEnd {
    let dispatcher = Arc::new(Dispatcher::new(sources, slots, clock, stopper.clone(), launch.clone()));
    let next: Weak<dyn SendNext<()>> = Arc::downgrade(&dispatcher) as Weak<_>;
    launch.next.set(next).unwrap();
    dispatcher.dispatch().await
}

fn sources(
    requests: ReadAheadReceiver<FakeRequest>,
    events: mpsc::UnboundedReceiver<TurnEvent<FakeRequest>>,
) -> Sources<FakeRequest> {
    Sources {
        requests,
        events,
        schedule: Schedule::Own,
        think_times: no_thinking(),
        max_sessions: None,
        input_lead: Nanos(0),
        end: None,
        arrivals: ArrivalMonitor::new(None),
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
    let stopper = Stopper::default();
    let prefill = Duration::from_secs(setting.prefill.map_or(0, |(_, time)| time));
    let slots = RequestSlots::new(Some(setting.slots), setting.prefill.map(|(count, _)| count));
    let launch = FakeLauncher::new(begun, setting.service, events, &slots);
    let launch = FakeLauncher { prefill, fails: setting.fails, ..launch };
    let clock = Paused(begun);
    let ending = async {
        if let Some(end) = setting.end {
            sleep(Duration::from_secs(end)).await;
            stopper.start_drain(StopReason::MaxSeconds);
        }
        std::future::pending::<()>().await;
    };
    let sources = Sources {
        max_sessions: setting.sessions,
        end: setting.end.map(|seconds| Nanos(seconds * SECOND)),
        ..sources(receive, received)
    };
    let end = tokio::select! {
        end = dispatch(sources, slots, clock, &stopper, &launch) => end,
        () = ending => DispatchEnd::default(),
    };
    let log = launch.lines();
    assert_eq!(end.input_blocked, requests.iter().any(|asked| asked.weight >= MAX_PARKED_BYTES));
    (log, end.not_due)
}

/// What was started when (`due@started`, in seconds), and how many were not due at the end.
async fn run(requests: &[Option<u64>], slots: u32, service: u64, end: Option<u64>) -> (Vec<String>, u64) {
    let asked: Vec<FakeRequest> = requests.iter().map(|at| FakeRequest { at: *at, ..FakeRequest::default() }).collect();
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
    let want = ["a0 0@0", "b0 0@0", "a1  hears 1", "b1  hears 1", "b1 12@12", "a1 15@15", "a2  hears 2", "a2 26@26"];
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
        let (slots, clock) = (RequestSlots::new(Some(2), None), Paused(begun));
        let launch = FakeLauncher::new(begun, 1000, events, &slots);
        let ending = async {
            sleep(Duration::from_secs(5)).await;
            stopper.start_drain(StopReason::MaxSeconds);
            // The end of the grace period.
            tokio::task::yield_now().await;
            stopper.cancel_all(StopReason::MaxSeconds);
        };
        let ((), _) = tokio::join!(ending, dispatch(sources(receive, received), slots, clock, &stopper, &launch));
        assert_eq!(begun.elapsed().as_secs(), 5);
    }
}

/// Time that advances with each call, so that nothing is ever waited for.
struct Busy(AtomicU64);

impl Timer for Busy {
    fn now(&self) -> Nanos {
        Nanos(self.0.fetch_add(100_000, Relaxed))
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
    let stopper = Stopper::default();
    let slots = RequestSlots::new(None, None);
    let launch = FakeLauncher::new(Instant::now(), 0, events, &slots);
    let signal = stopper.clone();
    tokio::spawn(async move { signal.start_drain(StopReason::Interrupted) });
    dispatch(sources(receive, received), slots, Busy(0.into()), &stopper, &launch).await;
    let begun = launch.lines().iter().filter(|line| line.contains('@')).count();
    assert!(begun < 20, "{begun} were sent after it");
}

/// The main thread is not there: what is sent after the first second is sent where the responses end.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_response_sends_the_next_request() {
    let single = FakeRequest::default();
    for (asked, drain, want) in [
        ([single; 3], false, &["0@0", "10@10", "20@20"][..]),
        ([single; 3], true, &["0@0", "10@10"]),
        ([turn("a0 ", 0), single, turn("a1 ", 0)], false, &["a0 0@0", "a1 10@10", "20@20"]),
    ] {
        let (send, receive) = read_ahead::channel(None);
        for request in asked {
            send.send(request).await.unwrap();
        }
        let (events, received) = mpsc::unbounded_channel();
        let (begun, stopper, slots) = (Instant::now(), Stopper::default(), RequestSlots::new(Some(1), None));
        let launch = FakeLauncher::new(begun, 10, events, &slots);
        let sources = sources(receive, received);
        let dispatcher = Dispatcher::new(sources, slots, Paused(begun), stopper.clone(), launch.clone());
        let dispatcher = Arc::new(dispatcher);
        let next: Weak<dyn SendNext<()>> = Arc::downgrade(&dispatcher) as Weak<_>;
        launch.next.set(next).unwrap();
        assert!(timeout(Duration::from_secs(1), dispatcher.dispatch()).await.is_err());
        sleep(Duration::from_secs(14)).await;
        if drain {
            stopper.start_drain(StopReason::Interrupted);
        }
        sleep(Duration::from_secs(10)).await;
        assert_eq!(launch.lines(), want);
        // The thread that holds the lock is not waited for, and sends it instead.
        let locked = dispatcher.pending.lock().unwrap();
        assert!(dispatcher.send_next(0).is_none());
        drop(locked);
        dispatcher.slots.news().notified().await;
    }
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

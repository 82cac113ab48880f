//! Starts each request when it is due and there is room: the closed loop, the open loop, and both at once.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};

use super::{
    attempt::Due,
    stop::{Stop, Why},
};
use crate::{load::Schedule, pacer::Sleeper, units::Nanos};

/// Places for the requests in flight, and since when each free one has been free.
#[derive(Debug, Clone)]
pub struct Slots {
    places: Arc<Semaphore>,
    /// Empty without a limit: then there was always room.
    freed: Arc<Mutex<VecDeque<Nanos>>>,
    limited: bool,
}

/// A place among the requests in flight. It is free again when this is dropped.
#[derive(Debug)]
pub struct Slot {
    slots: Slots,
    _place: OwnedSemaphorePermit,
}

impl Slots {
    /// So many; `None`: no limit.
    #[must_use]
    pub fn new(count: Option<u32>) -> Self {
        let places = Arc::new(Semaphore::new(count.map_or(Semaphore::MAX_PERMITS, |n| n as usize)));
        Slots { places, freed: Arc::default(), limited: count.is_some() }
    }

    /// A place that is free now, and since when.
    fn try_take(&self) -> Option<(Slot, Nanos)> {
        Some(self.taken(Arc::clone(&self.places).try_acquire_owned().ok()?))
    }

    /// Waits for a free place; also gives the moment when it had become free.
    pub async fn take(&self) -> Option<(Slot, Nanos)> {
        Some(self.taken(Arc::clone(&self.places).acquire_owned().await.ok()?))
    }

    fn taken(&self, place: OwnedSemaphorePermit) -> (Slot, Nanos) {
        // At the start all are free, and none was ever freed.
        let freed = self.freed().pop_front().unwrap_or_default();
        (Slot { slots: self.clone(), _place: place }, freed)
    }

    fn freed(&self) -> MutexGuard<'_, VecDeque<Nanos>> {
        self.freed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    /// Frees the place, and notes that it happened `now`.
    pub fn free(self, now: Nanos) {
        if self.slots.limited {
            self.slots.freed().push_back(now);
        }
    }
}

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
        self.until(due).await;
    }
}

/// What is done with requests.
pub trait Launch {
    /// A request made ready.
    type Request;
    /// The request's own time, if it has one.
    fn timestamp(&self, request: &Self::Request) -> Option<Nanos>;
    /// Sends it, now.
    fn start(&mut self, request: Self::Request, due: Due, slot: Slot);
    /// Nothing more is to be sent this moment: whatever `start` has put off is done now.
    fn rest(&mut self);
    /// It was due at `scheduled` but never sent: it was offered all the same.
    fn never(&mut self, request: Self::Request, scheduled: Nanos, why: Why);
}

/// The requests to come.
struct Queue<R> {
    requests: mpsc::Receiver<R>,
    schedule: Schedule,
    next: Option<Next<R>>,
}

/// The request at the head.
struct Next<R> {
    request: R,
    /// By the schedule; `None`: as soon as there is room.
    due: Option<Nanos>,
    /// When it had been read; 0 when it was there before anybody asked.
    read: Nanos,
}

impl<R> Queue<R> {
    /// The next request, which stays where it is; `None`: there is none.
    async fn peek(&mut self, pace: &impl Pace, launch: &mut impl Launch<Request = R>) -> Option<&Next<R>> {
        if self.next.is_none() {
            let (request, read) = if let Ok(request) = self.requests.try_recv() {
                (request, Nanos(0))
            } else {
                launch.rest();
                (self.requests.recv().await?, pace.now())
            };
            let due = self.schedule.due(launch.timestamp(&request));
            self.next = Some(Next { request, due, read });
        }
        self.next.as_ref()
    }
}

/// Takes requests in their order and starts each at its time, until there are no more or the run is stopped.
///
/// A slot is taken before the request is awaited, so that memory stays bounded and a request starts the moment that its
/// time has come. Returns how many requests were read but not due when the run was stopped.
pub async fn dispatch<L: Launch>(
    requests: mpsc::Receiver<L::Request>,
    schedule: Schedule,
    slots: &Slots,
    pace: &impl Pace,
    mut stop: Stop,
    launch: &mut L,
) -> u64 {
    let mut queue = Queue { requests, schedule, next: None };
    loop {
        let next = async {
            let (slot, freed) = if let Some(taken) = slots.try_take() {
                taken
            } else {
                launch.rest();
                slots.take().await?
            };
            if let Some(due) = queue.peek(pace, launch).await?.due
                && due > pace.now()
            {
                launch.rest();
                pace.until(due).await;
            }
            Some((slot, freed))
        };
        let next = tokio::select! {
            biased;
            () = stop.draining() => break,
            next = next => next,
        };
        let (Some((slot, freed)), Some(Next { request, due, read })) = (next, queue.next.take()) else {
            launch.rest();
            return 0;
        };
        let ready = freed.max(read).max(due.unwrap_or_default());
        launch.start(request, Due { scheduled: due.unwrap_or(ready), read, ready }, slot);
    }
    launch.rest();
    let since = pace.now();
    let why = stop.why().unwrap_or(Why::Interrupted);
    while let Ok(Some(Next { due: Some(due), .. })) = timeout(LAST_LINES, queue.peek(pace, launch)).await
        && *due <= since
        && let Some(Next { request, due: Some(due), .. }) = queue.next.take()
    {
        launch.never(request, due, why);
    }
    let mut not_due = u64::from(queue.next.is_some());
    while queue.requests.try_recv().is_ok() {
        not_due += 1;
    }
    not_due
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use tokio::time::{Instant, sleep, sleep_until};

    use super::{super::stop::Stopper, *};

    /// The runtime's own clock, paused: an hour costs nothing.
    struct Paused(Instant);

    impl Pace for Paused {
        fn now(&self) -> Nanos {
            Nanos(u64::try_from(self.0.elapsed().as_nanos()).unwrap())
        }
        async fn until(&self, due: Nanos) {
            sleep_until(self.0 + due.duration()).await;
        }
    }

    type Log = Rc<RefCell<Vec<String>>>;

    /// Requests are their own timestamps in seconds; each takes `service`.
    struct Fake {
        begun: Instant,
        service: Duration,
        log: Log,
    }

    impl Launch for Fake {
        type Request = Option<u64>;
        fn timestamp(&self, request: &Self::Request) -> Option<Nanos> {
            request.map(|s| Nanos(s * 1_000_000_000))
        }
        fn start(&mut self, _: Self::Request, due: Due, slot: Slot) {
            let (begun, service) = (self.begun, self.service);
            let seconds = |t: Nanos| t.0 / 1_000_000_000;
            let late = Paused(begun).now().since(due.ready);
            assert!(late < Nanos(10_000_000), "nothing but the time kept it back");
            self.log.borrow_mut().push(format!("{}@{}", seconds(due.scheduled), begun.elapsed().as_secs()));
            tokio::spawn(async move {
                sleep(service).await;
                slot.free(Paused(begun).now());
            });
        }
        fn rest(&mut self) {}
        fn never(&mut self, _: Self::Request, scheduled: Nanos, _: Why) {
            self.log.borrow_mut().push(format!("{} never", scheduled.0 / 1_000_000_000));
        }
    }

    /// What was started when (`due@started`, in seconds), and how many were not due at the end.
    async fn run(requests: &[Option<u64>], slots: u32, service: u64, end: Option<u64>) -> (Vec<String>, u64) {
        let begun = Instant::now();
        let (send, receive) = mpsc::channel(2);
        let feed = requests.to_vec();
        tokio::spawn(async move {
            for request in feed {
                let _ = send.send(request).await;
            }
        });
        let (log, stopper) = (Log::default(), Stopper::default());
        let mut launch = Fake { begun, service: Duration::from_secs(service), log: Rc::clone(&log) };
        let (stop, slots, pace) = (stopper.watch(), Slots::new(Some(slots)), Paused(begun));
        let ending = async {
            if let Some(end) = end {
                sleep(Duration::from_secs(end)).await;
                stopper.drain(Why::MaxSeconds);
            }
            std::future::pending::<()>().await;
        };
        let left = tokio::select! {
            left = dispatch(receive, Schedule::Own, &slots, &pace, stop, &mut launch) => left,
            () = ending => 0,
        };
        let log = log.borrow().clone();
        (log, left)
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

//! The queue from the thread that reads requests to the dispatcher. It holds a limited number of bytes, not only of requests:
//! prompts may have 10 MB each.
//!
//! Work moves in batches, since a wake-up costs more than a request: the sender sleeps when the queue is full until half of it
//! is used, and a receiver that waits is woken for several requests, or for fewer when the sender itself must wait for input.

use std::{
    collections::VecDeque,
    future::poll_fn,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use tokio::sync::mpsc::error::TryRecvError;

use super::scheduled::Scheduled;

/// Requests to prepare ahead without a number of slots, or with few: enough to hide the time for reading,
const MIN_REQUESTS: usize = 256;
/// and for an open loop, whose requests may be due in large bursts;
const UNLIMITED_SLOTS: u32 = 1024;
/// and few enough to fit in memory.
pub const MAX_BYTES: u64 = 64 << 20;

/// Requests that the receiver takes at once, and for which it is woken,
const BATCH_REQUESTS: usize = 32;
/// or fewer if they are long: preparing them takes a while.
const BATCH_BYTES: u64 = 64 << 10;

/// A queue of at most [`MAX_BYTES`] of requests, and always room for one. When `slots` requests end at once, as many are ready
/// to follow them while the queue is filled again.
#[must_use]
pub fn channel<R: Scheduled>(slots: Option<u32>) -> (ReadAheadSender<R>, ReadAheadReceiver<R>) {
    let max_requests = (slots.unwrap_or(UNLIMITED_SLOTS) as usize).saturating_mul(2).max(MIN_REQUESTS);
    let shared = Arc::new(SharedQueue { max_requests, state: Mutex::new(QueueState::default()), room: Condvar::new() });
    let receiver =
        ReadAheadReceiver { shared: Arc::clone(&shared), batch: VecDeque::new(), charged: Charge::default() };
    (ReadAheadSender(shared), receiver)
}

#[derive(Debug)]
struct SharedQueue<R> {
    max_requests: usize,
    state: Mutex<QueueState<R>>,
    /// For the sender.
    room: Condvar,
}

#[derive(Debug)]
struct QueueState<R> {
    waiting: VecDeque<R>,
    /// What is in the queue, with the batch that the receiver works on.
    held: Charge,
    /// The receiver, while it waits.
    receiver: Option<Waker>,
    sender_waits: bool,
    /// Nothing more is sent.
    ended: bool,
    /// Nothing more is received.
    closed: bool,
}

/// A number of requests, and their bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Charge {
    requests: usize,
    bytes: u64,
}

impl<R> Default for QueueState<R> {
    fn default() -> Self {
        QueueState {
            waiting: VecDeque::new(),
            held: Charge::default(),
            receiver: None,
            sender_waits: false,
            ended: false,
            closed: false,
        }
    }
}

impl<R> SharedQueue<R> {
    fn lock(&self) -> MutexGuard<'_, QueueState<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the receiver if it waits.
    fn wake_receiver(mut state: MutexGuard<'_, QueueState<R>>) {
        let waker = state.receiver.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        Self::wake_receiver(state);
    }

    fn close(&self) {
        self.lock().closed = true;
        self.room.notify_one();
    }
}

impl<R> QueueState<R> {
    /// Whether a request of `bytes` fits.
    fn fits(&self, bytes: u64, max_requests: usize) -> bool {
        self.held.requests == 0
            || self.held.requests < max_requests && self.held.bytes.saturating_add(bytes) <= MAX_BYTES
    }

    /// Whether half of the queue is used, so that it is worth filling it again.
    fn has_drained(&self, max_requests: usize) -> bool {
        self.held.requests <= max_requests / 2 && self.held.bytes <= MAX_BYTES / 2
    }

    fn push(&mut self, request: R, bytes: u64) {
        self.waiting.push_back(request);
        self.held.requests += 1;
        self.held.bytes = self.held.bytes.saturating_add(bytes);
    }
}

/// The end of the thread that reads. Dropping it ends the queue.
#[derive(Debug)]
pub struct ReadAheadSender<R>(Arc<SharedQueue<R>>);

/// Wakes a receiver that waits although there are a few requests.
#[derive(Debug)]
pub struct ReadAheadWaker<R>(Arc<SharedQueue<R>>);

impl<R: Scheduled> ReadAheadSender<R> {
    /// Sends a request, and waits for room first; fails once the receiver is closed. Not for async code.
    pub fn blocking_send(&self, request: R) -> Result<(), R> {
        let (bytes, max_requests) = (request.weight(), self.0.max_requests);
        let mut state = self.0.lock();
        if !state.fits(bytes, max_requests) && !state.closed {
            let waker = state.receiver.take();
            state.sender_waits = true;
            waker.into_iter().for_each(Waker::wake);
            while !(state.closed || state.has_drained(max_requests) && state.fits(bytes, max_requests)) {
                state = self.0.room.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.sender_waits = false;
        }
        if state.closed {
            return Err(request);
        }
        state.push(request, bytes);
        if state.waiting.len() >= BATCH_REQUESTS || state.held.bytes >= BATCH_BYTES {
            SharedQueue::wake_receiver(state);
        }
        Ok(())
    }

    /// What wakes a receiver when the sender must wait for input.
    #[must_use]
    pub fn waker(&self) -> ReadAheadWaker<R> {
        ReadAheadWaker(Arc::clone(&self.0))
    }

    /// Sends a request, for tests of async code: it asks again and again for a place, and not for bytes.
    #[cfg(test)]
    pub async fn send(&self, mut request: R) -> Result<(), R> {
        loop {
            request = match self.try_send(request) {
                Ok(done) => return done,
                Err(request) => request,
            };
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }

    /// Sends a request, or returns it if there is no place.
    #[cfg(test)]
    fn try_send(&self, request: R) -> Result<Result<(), R>, R> {
        let mut state = self.0.lock();
        if state.closed {
            return Ok(Err(request));
        }
        if state.held.requests == self.0.max_requests {
            return Err(request);
        }
        let bytes = request.weight();
        state.push(request, bytes);
        SharedQueue::wake_receiver(state);
        Ok(Ok(()))
    }
}

impl<R> Drop for ReadAheadSender<R> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl<R> ReadAheadWaker<R> {
    /// Wakes the receiver if there is something for it.
    pub fn wake(&self) {
        let state = self.0.lock();
        if !state.waiting.is_empty() {
            SharedQueue::wake_receiver(state);
        }
    }
}

/// The end of the dispatcher.
#[derive(Debug)]
pub struct ReadAheadReceiver<R> {
    shared: Arc<SharedQueue<R>>,
    /// What was taken out of the queue and not yet received.
    batch: VecDeque<R>,
    /// What the batch had in it at first. It counts as held until the next batch is taken.
    charged: Charge,
}

impl<R: Scheduled> ReadAheadReceiver<R> {
    /// The next request; `None` at the end. Dropping the future loses nothing.
    pub async fn recv(&mut self) -> Option<R> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }

    /// The same, for tasks that do not keep the receiver while they wait.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<R>> {
        match self.receive(Some(cx.waker())) {
            Ok(request) => Poll::Ready(Some(request)),
            Err(TryRecvError::Disconnected) => Poll::Ready(None),
            Err(TryRecvError::Empty) => Poll::Pending,
        }
    }

    /// The next request, without waiting.
    pub fn try_recv(&mut self) -> Result<R, TryRecvError> {
        self.receive(None)
    }

    /// Takes the next request out of the batch, and takes the next batch if it is empty. `waits`: to be woken when there are
    /// requests.
    fn receive(&mut self, waits: Option<&Waker>) -> Result<R, TryRecvError> {
        if let Some(request) = self.batch.pop_front() {
            return Ok(request);
        }
        let mut state = self.shared.lock();
        let used = std::mem::take(&mut self.charged);
        state.held.requests -= used.requests;
        state.held.bytes = state.held.bytes.saturating_sub(used.bytes);
        let count = state.waiting.len().min(BATCH_REQUESTS);
        for request in state.waiting.drain(..count) {
            let weight = request.weight();
            self.charged.requests += 1;
            self.charged.bytes = self.charged.bytes.saturating_add(weight);
            self.batch.push_back(request);
        }
        if !self.batch.is_empty() {
            state.receiver = None;
        } else if waits.is_some() {
            state.receiver = waits.cloned();
        }
        let ended = state.ended;
        let wakes_sender = state.sender_waits && state.has_drained(self.shared.max_requests);
        drop(state);
        if wakes_sender {
            self.shared.room.notify_one();
        }
        self.batch.pop_front().ok_or(if ended { TryRecvError::Disconnected } else { TryRecvError::Empty })
    }

    /// The next request, for threads; `None` at the end.
    #[cfg(test)]
    pub fn blocking_recv(&mut self) -> Option<R> {
        tokio::runtime::Builder::new_current_thread().build().ok()?.block_on(self.recv())
    }

    /// Takes no more; what is there already can still be received.
    pub fn close(&mut self) {
        self.shared.close();
    }
}

impl<R> Drop for ReadAheadReceiver<R> {
    fn drop(&mut self) {
        self.shared.close();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
        task::Wake,
        thread,
        time::Duration,
    };

    use super::{super::scheduled::fake::FakeRequest, *};

    /// How many requests of this weight a sender had sent when the receiver had taken none for a while, and then all.
    fn count_ahead(slots: Option<u32>, weight: u64, total: usize) -> (usize, usize) {
        let (send, mut receive) = channel(slots);
        let done = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&done);
        let feeder = thread::spawn(move || {
            for _ in 0..total {
                send.blocking_send(FakeRequest { weight, ..FakeRequest::default() }).unwrap();
                count.fetch_add(1, SeqCst);
            }
        });
        let mut ahead = usize::MAX;
        while ahead != done.load(SeqCst) {
            ahead = done.load(SeqCst);
            thread::sleep(Duration::from_millis(50));
        }
        let taken = std::iter::from_fn(|| receive.blocking_recv()).count();
        feeder.join().unwrap();
        (ahead, taken)
    }

    #[test]
    fn long_prompts_are_read_ahead_by_their_bytes() {
        let (ahead, taken) = count_ahead(None, 10 << 20, 20);
        assert!(ahead <= 6 && taken == 20, "{ahead} of {taken}");
        let (ahead, taken) = count_ahead(Some(9), MAX_BYTES * 2, 3);
        assert!(ahead <= 1 && taken == 3, "one is always taken: {ahead} of {taken}");
        let (ahead, taken) = count_ahead(Some(1), 1, 1000);
        assert!((200..=MIN_REQUESTS).contains(&ahead) && taken == 1000, "{ahead} of {taken}");
        let (ahead, taken) = count_ahead(Some(512), 1, 2000);
        assert!((1000..=1024).contains(&ahead) && taken == 2000, "{ahead} of {taken}");
    }

    /// Counts how often it is woken.
    #[derive(Default)]
    struct WakeCount(AtomicUsize);

    impl Wake for WakeCount {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    #[test]
    fn a_receiver_that_waits_is_woken_for_many_requests_or_before_the_sender_waits() {
        let (send, mut receive) = channel(None);
        let woken = Arc::new(WakeCount::default());
        let waker = Waker::from(Arc::clone(&woken));
        let taken = |receive: &mut ReadAheadReceiver<FakeRequest>| {
            let mut taken = 0;
            while let Poll::Ready(Some(_)) = receive.poll_recv(&mut Context::from_waker(&waker)) {
                taken += 1;
            }
            (taken, woken.0.swap(0, SeqCst))
        };
        let push = |count: usize, weight| {
            for _ in 0..count {
                send.blocking_send(FakeRequest { weight, ..FakeRequest::default() }).unwrap();
            }
        };
        assert_eq!(taken(&mut receive), (0, 0));
        push(BATCH_REQUESTS - 1, 1);
        assert_eq!(woken.0.load(SeqCst), 0, "more may come");
        send.waker().wake();
        assert_eq!(taken(&mut receive), (BATCH_REQUESTS - 1, 1));
        send.waker().wake();
        assert_eq!(taken(&mut receive), (0, 0), "there is nothing to take");
        push(3 * BATCH_REQUESTS, 1);
        assert_eq!(taken(&mut receive), (3 * BATCH_REQUESTS, 1), "once for all");
        push(1, BATCH_BYTES);
        assert_eq!(taken(&mut receive), (1, 1), "a long prompt takes a while, and the next one may too");
        push(1, 1);
        drop(send);
        assert_eq!(taken(&mut receive), (1, 1), "at the end");
    }

    #[test]
    fn a_wave_finds_as_many_requests_ready_as_it_has_slots() {
        let (send, mut receive) = channel(Some(512));
        let feeder = thread::spawn(move || {
            (0..4096).for_each(|_| send.blocking_send(FakeRequest { weight: 1, ..FakeRequest::default() }).unwrap());
        });
        for _ in 0..4 {
            while receive.shared.lock().waiting.len() < 512 && !receive.shared.lock().ended {
                thread::sleep(Duration::from_millis(1));
            }
            assert!((0..512).all(|_| receive.try_recv().is_ok()));
        }
        while receive.blocking_recv().is_some() {}
        feeder.join().unwrap();
    }

    #[test]
    fn prompts_of_a_megabyte_among_short_ones_stay_within_the_limit_and_none_stalls() {
        let (send, mut receive) = channel(Some(64));
        let feeder = thread::spawn(move || {
            for number in 0..600 {
                let weight = if number % 3 == 0 { 1 << 20 } else { 1 };
                send.blocking_send(FakeRequest { weight, ..FakeRequest::default() }).unwrap();
            }
        });
        let mut taken = 0;
        while receive.blocking_recv().is_some() {
            taken += 1;
            assert!(receive.shared.lock().held.bytes <= MAX_BYTES);
        }
        feeder.join().unwrap();
        assert_eq!(taken, 600);
    }

    #[test]
    fn a_sender_that_waits_notices_the_end() {
        let (send, mut receive) = channel(None);
        let heavy = FakeRequest { weight: MAX_BYTES, ..FakeRequest::default() };
        let feeder = thread::spawn(move || (0..3).map(|_| send.blocking_send(heavy).is_ok()).collect::<Vec<_>>());
        receive.blocking_recv().unwrap();
        receive.close();
        drop(receive);
        assert_eq!(feeder.join().unwrap().last(), Some(&false));
    }
}

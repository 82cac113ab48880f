//! The channel from the thread that reads requests to the dispatcher. It holds a limited number of bytes, not only of requests:
//! prompts may have 10 MB each.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc::{self, error::TryRecvError};

use super::scheduled::Scheduled;

/// Requests to prepare ahead: enough to hide the time for reading,
const MAX_REQUESTS: usize = 256;
/// and few enough to fit in memory.
pub const MAX_BYTES: u64 = 64 << 20;

/// A channel of at most [`MAX_BYTES`] of requests, and always room for one.
#[must_use]
pub fn channel<R: Scheduled>() -> (ReadAheadSender<R>, ReadAheadReceiver<R>) {
    let (send, receive) = mpsc::channel(MAX_REQUESTS);
    let budget = Arc::new(Budget::default());
    (ReadAheadSender { send, budget: Arc::clone(&budget) }, ReadAheadReceiver { receive, budget })
}

/// The bytes in the channel.
#[derive(Debug, Default)]
struct Budget {
    waiting: Mutex<WaitingBytes>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct WaitingBytes {
    bytes: u64,
    closed: bool,
}

impl Budget {
    fn lock(&self) -> MutexGuard<'_, WaitingBytes> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `bytes` fit, or nothing else is there.
    fn add_bytes(&self, bytes: u64) {
        let full = |waiting: &mut WaitingBytes| {
            !waiting.closed && waiting.bytes > 0 && waiting.bytes.saturating_add(bytes) > MAX_BYTES
        };
        let mut waiting = self.changed.wait_while(self.lock(), full).unwrap_or_else(PoisonError::into_inner);
        waiting.bytes = waiting.bytes.saturating_add(bytes);
    }

    fn remove_bytes(&self, bytes: u64) {
        let mut waiting = self.lock();
        waiting.bytes = waiting.bytes.saturating_sub(bytes);
        self.changed.notify_one();
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }
}

/// The end of the thread that reads.
#[derive(Debug)]
pub struct ReadAheadSender<R> {
    send: mpsc::Sender<R>,
    budget: Arc<Budget>,
}

impl<R: Scheduled> ReadAheadSender<R> {
    /// Sends a request, and waits for room first; fails once the receiver is closed. Not for async code.
    pub fn blocking_send(&self, request: R) -> Result<(), R> {
        self.budget.add_bytes(request.weight());
        self.send.blocking_send(request).map_err(|e| e.0)
    }

    /// Sends a request, for tests of async code: it waits for a place, not for bytes.
    #[cfg(test)]
    pub async fn send(&self, request: R) -> Result<(), R> {
        self.budget.lock().bytes += request.weight();
        self.send.send(request).await.map_err(|e| e.0)
    }
}

/// The end of the dispatcher.
#[derive(Debug)]
pub struct ReadAheadReceiver<R> {
    receive: mpsc::Receiver<R>,
    budget: Arc<Budget>,
}

impl<R: Scheduled> ReadAheadReceiver<R> {
    /// The next request; `None` at the end. Dropping the future loses nothing.
    pub async fn recv(&mut self) -> Option<R> {
        let request = self.receive.recv().await?;
        self.budget.remove_bytes(request.weight());
        Some(request)
    }

    /// The next request, without waiting.
    pub fn try_recv(&mut self) -> Result<R, TryRecvError> {
        let request = self.receive.try_recv()?;
        self.budget.remove_bytes(request.weight());
        Ok(request)
    }

    /// The next request, for threads; `None` at the end.
    #[cfg(test)]
    pub fn blocking_recv(&mut self) -> Option<R> {
        let request = self.receive.blocking_recv()?;
        self.budget.remove_bytes(request.weight());
        Some(request)
    }

    /// Takes no more; what is there already can still be received.
    pub fn close(&mut self) {
        self.receive.close();
        self.budget.close();
    }
}

impl<R> Drop for ReadAheadReceiver<R> {
    fn drop(&mut self) {
        self.budget.close();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering::SeqCst},
        thread,
        time::Duration,
    };

    use super::{super::scheduled::fake::FakeRequest, *};

    /// How many requests of this weight a sender had sent when the receiver had taken none for a while, and then all.
    fn count_ahead(weight: u64, total: usize) -> (usize, usize) {
        let (send, mut receive) = channel();
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
        let (ahead, taken) = count_ahead(10 << 20, 20);
        assert!(ahead <= 6 && taken == 20, "{ahead} of {taken}");
        let (ahead, taken) = count_ahead(MAX_BYTES * 2, 3);
        assert!(ahead <= 1 && taken == 3, "one is always taken: {ahead} of {taken}");
        let (ahead, taken) = count_ahead(1, 1000);
        assert!(ahead <= MAX_REQUESTS && taken == 1000, "{ahead} of {taken}");
    }

    #[test]
    fn a_sender_that_waits_notices_the_end() {
        let (send, mut receive) = channel();
        let heavy = FakeRequest { weight: MAX_BYTES, ..FakeRequest::default() };
        let feeder = thread::spawn(move || (0..3).map(|_| send.blocking_send(heavy).is_ok()).collect::<Vec<_>>());
        receive.blocking_recv().unwrap();
        receive.close();
        drop(receive);
        assert_eq!(feeder.join().unwrap().last(), Some(&false));
    }
}

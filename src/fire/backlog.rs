//! Outcomes that wait to be written: they may grow to `--max-buffer` while the reader downstream is slow.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::stop::{StopReason, Stopper};

/// Counts the bytes that wait for the sink, and ends the run when there are too many.
#[derive(Debug)]
pub struct Backlog {
    limit: u64,
    waiting: AtomicU64,
    stopper: Stopper,
}

impl Backlog {
    /// An empty backlog.
    #[must_use]
    pub fn new(limit: u64, stopper: Stopper) -> Self {
        Backlog { limit, waiting: 0.into(), stopper }
    }

    /// Adds an outcome that waits.
    pub fn add_bytes(&self, bytes: u64) {
        if self.waiting.fetch_add(bytes, Relaxed) + bytes > self.limit {
            self.stopper.cancel_all(StopReason::OutputStalled);
        }
    }

    /// Removes an outcome that has been written or dropped.
    pub fn remove_bytes(&self, bytes: u64) {
        self.waiting.fetch_sub(bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn beyond_its_limit_it_ends_the_run() {
        let stopper = Stopper::default();
        let backlog = Backlog::new(100, stopper.clone());
        for _ in 0..10 {
            backlog.add_bytes(60);
            backlog.remove_bytes(60);
        }
        assert_eq!(stopper.stop_signal().stop_reason(), None);
        backlog.add_bytes(100);
        assert_eq!(stopper.stop_signal().stop_reason(), None, "up to it");
        backlog.add_bytes(1);
        assert_eq!(stopper.stop_signal().stop_reason(), Some(StopReason::OutputStalled));
    }
}

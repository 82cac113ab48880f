//! What waits to be written: it may grow while the reader downstream is slow, up to `--max-buffer`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::stop::{Stopper, Why};

/// Counts the bytes of outcomes that wait for the sink, and ends the run when they are too many.
#[derive(Debug)]
pub struct Backlog {
    limit: u64,
    waiting: AtomicU64,
    stopper: Stopper,
}

impl Backlog {
    /// Nothing waits yet.
    #[must_use]
    pub fn new(limit: u64, stopper: Stopper) -> Self {
        Backlog { limit, waiting: 0.into(), stopper }
    }

    /// An outcome of so many bytes waits now.
    pub fn more(&self, bytes: u64) {
        if self.waiting.fetch_add(bytes, Relaxed) + bytes > self.limit {
            self.stopper.cancel(Why::OutputStalled);
        }
    }

    /// It has been written, or given up.
    pub fn less(&self, bytes: u64) {
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
            backlog.more(60);
            backlog.less(60);
        }
        assert_eq!(stopper.watch().why(), None);
        backlog.more(100);
        assert_eq!(stopper.watch().why(), None, "up to it");
        backlog.more(1);
        assert_eq!(stopper.watch().why(), Some(Why::OutputStalled));
    }
}

//! The clock of a run: monotonic nanoseconds, with one anchor to the wall clock.
//!
//! Nothing else in the crate may ask the system for the time.
#![allow(clippy::disallowed_methods)]

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::units::{Nanos, UnixNanos};

/// Monotonic time counted from the moment the clock was made.
///
/// A step of the wall clock after that does not bend anything: [`Clock::unix`] adds monotonic time to the anchor.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
    anchor: UnixNanos,
}

impl Clock {
    /// Starts now.
    #[must_use]
    pub fn start() -> Self {
        // Read the wall clock between two readings of the monotonic one, and take the tightest of a few tries:
        // a thread that is put to sleep in between would shift every wall-clock instant of the run.
        let mut best = (u128::MAX, Instant::now(), unix_now());
        for _ in 0..5 {
            let (before, anchor, after) = (Instant::now(), unix_now(), Instant::now());
            let width = (after - before).as_nanos();
            if width < best.0 {
                best = (width, before + (after - before) / 2, anchor);
            }
        }
        Clock { start: best.1, anchor: best.2 }
    }

    /// Nanoseconds since the start.
    #[must_use]
    pub fn now(&self) -> Nanos {
        Nanos(u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// The wall-clock instant of `time`, which counts from the start.
    #[must_use]
    pub fn unix(&self, time: Nanos) -> UnixNanos {
        self.anchor + time
    }
}

/// The wall clock.
#[must_use]
pub fn unix_now() -> UnixNanos {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixNanos(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
}

//! How long bytes can have waited in a socket before the thread that reads them came.
//!
//! Chunks that wait together in a socket share the stamp of the last. Whether the server sent them together or the
//! reader came late cannot be seen in the bytes, but the reader's own thread shows it: bytes that arrive while it sleeps wake it,
//! so that they wait only while it works or waits for a core.

use std::{cell::RefCell, fs::File, os::unix::fs::FileExt};

use super::usage::{SCHEDSTAT, TIMER_INTERVAL, parse_run_queue, thread_cpu_time};
use crate::{clock::Clock, units::Nanos};

/// Interval between two readings of how long the thread was awake: each is a system call.
const READING_INTERVAL: Nanos = Nanos(1_000_000);

/// A thread that seems to have slept for longer since the park before the last was stopped: a timer ends each sleep sooner.
const MAX_SLEEP: Nanos = Nanos(2 * TIMER_INTERVAL.0 + 2_000_000);

/// The state of one thread.
#[derive(Debug, Default)]
struct Watch {
    /// The last two times at which the thread had read all that had arrived, and went to sleep.
    parks: [Nanos; 2],
    /// The last readings, taken at such times: the time, and how long the thread had been awake by then.
    readings: [Option<(Nanos, Nanos)>; 3],
}

impl Watch {
    /// Whether the next park should come with a reading.
    fn needs_reading(&self, now: Nanos) -> bool {
        self.readings[0].is_none_or(|(at, _)| now.since(at) >= READING_INTERVAL)
    }

    /// The thread goes to sleep unless more has arrived.
    fn note_park(&mut self, now: Nanos, awake: Option<Nanos>) {
        self.parks = [now, self.parks[0]];
        if let Some(awake) = awake {
            self.readings = [Some((now, awake)), self.readings[0], self.readings[1]];
        }
    }

    /// How long what is being read now can have waited. `awake` is how long the thread has been awake so far; `None`: not known.
    fn longest_wait(&self, now: Nanos, awake: Option<Nanos>) -> Nanos {
        // What had arrived before this park was read before the next.
        let since = now.since(self.parks[1]);
        let reading = self.readings.iter().flatten().find(|(at, _)| *at <= self.parks[1]);
        let Some(((_, then), awake)) = reading.zip(awake) else { return since };
        let awake = awake.since(*then);
        if since.since(awake) > MAX_SLEEP { since } else { awake.min(since) }
    }
}

thread_local! {
    static THREAD: RefCell<Option<ThreadWatch>> = const { RefCell::new(None) };
}

/// The watch of the calling thread with what it reads.
struct ThreadWatch {
    watch: Watch,
    clock: Clock,
    /// When it last woke.
    woken: Nanos,
    /// Linux's `schedstat` of this thread; `None`: the system has none.
    schedstat: Option<File>,
}

impl ThreadWatch {
    fn start() -> Self {
        let schedstat = File::open(SCHEDSTAT).ok();
        ThreadWatch { watch: Watch::default(), clock: Clock::start(), woken: Nanos(0), schedstat }
    }

    /// How long the thread has worked or waited for a core.
    fn awake_time(&self) -> Option<Nanos> {
        let mut text = [0; 64];
        let read = self.schedstat.as_ref()?.read_at(&mut text, 0).ok()?;
        Some(thread_cpu_time() + parse_run_queue(str::from_utf8(&text[..read]).ok()?)?)
    }
}

/// To be called each time that the thread has nothing left to do.
pub fn note_park() {
    THREAD.with_borrow_mut(|thread| {
        let thread = thread.get_or_insert_with(ThreadWatch::start);
        let now = thread.clock.now();
        let awake = if thread.watch.needs_reading(now) { thread.awake_time() } else { None };
        thread.watch.note_park(now, awake);
    });
}

/// To be called each time that the thread wakes.
pub fn note_unpark() {
    THREAD.with_borrow_mut(|thread| {
        let thread = thread.get_or_insert_with(ThreadWatch::start);
        thread.woken = thread.clock.now();
    });
}

/// How long the thread has been at work since it last had nothing left to do.
#[must_use]
pub fn time_at_work() -> Nanos {
    THREAD.with_borrow_mut(|thread| {
        let thread = thread.get_or_insert_with(ThreadWatch::start);
        thread.clock.now().since(thread.woken)
    })
}

/// How long what the thread has just read can have waited for it.
#[must_use]
pub fn longest_wait() -> Nanos {
    THREAD.with_borrow_mut(|thread| {
        let thread = thread.get_or_insert_with(ThreadWatch::start);
        thread.watch.longest_wait(thread.clock.now(), thread.awake_time())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn us(n: u64) -> Nanos {
        Nanos(n * 1_000)
    }

    /// Parks of a thread at `(time, awake)` in microseconds, and what it then reads at the last one.
    fn wait(parks: &[(u64, u64)], now: (u64, u64)) -> Nanos {
        let mut watch = Watch::default();
        for (at, awake) in parks {
            let awake = Some(us(*awake)).filter(|_| watch.needs_reading(us(*at)));
            watch.note_park(us(*at), awake);
        }
        watch.longest_wait(us(now.0), Some(us(now.1)))
    }

    #[test]
    fn what_wakes_a_sleeping_thread_has_not_waited() {
        // Every 10 ms it works for 0.1 ms.
        let idle = [(10_000, 100), (20_000, 200), (30_000, 300), (40_000, 400)];
        assert_eq!(wait(&idle, (50_050, 450)), us(150));
        // It had no core for 8 ms, or worked for as long.
        assert_eq!(wait(&idle, (50_050, 8_450)), us(8_150));
        // It was stopped: awake for as little, but no timer woke it.
        assert_eq!(wait(&idle, (550_050, 450)), us(520_050));
    }

    #[test]
    fn without_readings_the_last_look_counts() {
        let mut watch = Watch::default();
        watch.note_park(us(100), None);
        watch.note_park(us(200), None);
        assert_eq!(watch.longest_wait(us(900), None), us(800));
        assert_eq!(wait(&[(100, 1), (200, 2)], (900, 5)), us(4), "since the reading at the first park");
    }

    proptest! {
        /// A thread works, waits for a core and sleeps at random, and bytes arrive at any time: nothing that it reads has waited for
        /// longer than the bound.
        #[test]
        fn nothing_waits_longer_than_the_bound(
            turns in prop::collection::vec((0..3_000_u64, 1..5_000_u64, 0..10_000_u64), 3..40),
            early in any::<bool>(),
            part in 0..100_u64,
        ) {
            let (mut watch, mut now, mut awake, mut looked) = (Watch::default(), 0, 0, 0);
            for (core, work, sleep) in turns {
                // Bytes that arrive while it works let it not sleep; others wake it, and wait until it has a core.
                let waiting = early && sleep < 5_000;
                let arrival = if waiting { looked + (now - looked) * part / 100 } else { now + sleep };
                let woken = now.max(arrival);
                (looked, now) = (woken + core, woken + core + work);
                awake += core + work;
                let bound = watch.longest_wait(us(now), Some(us(awake)));
                prop_assert!(bound >= us(now - arrival), "{bound} of {}", now - arrival);
                let reading = Some(us(awake)).filter(|_| watch.needs_reading(us(now)));
                watch.note_park(us(now), reading);
            }
        }
    }
}

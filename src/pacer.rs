//! Waits until an instant, more exactly than the runtime's timer, which rounds up to the next millisecond.
//!
//! Use [`Pacer`] on a thread that does other work while it waits, and [`Sleeper`] on one that does not.

use std::{sync::mpsc, thread};

use tokio::sync::oneshot;

use crate::{clock::Clock, error::Error, units::Nanos};

/// Waits on a thread that has nothing else to do: first with the runtime's timer, then for the last milliseconds by putting
/// the thread to sleep.
#[derive(Debug, Clone, Copy)]
pub struct Sleeper(Clock);

/// How long before the instant the thread's own sleep takes over: longer than the runtime's timer may be late.
pub const SLEEP_MARGIN: Nanos = Nanos(3_000_000);

/// The longest sleep without yielding to the runtime, so that signals, timers and the ends of responses are handled.
const MAX_SLEEP_SLICE: Nanos = Nanos(200_000);

impl Sleeper {
    /// Creates a sleeper for the calling thread.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        sleep_exactly();
        Sleeper(clock)
    }

    /// The time of its clock.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.0.now()
    }

    /// Returns at `at`, or immediately if `at` has passed.
    pub async fn sleep_until(&self, at: Nanos) {
        let far = at.since(self.now()).since(SLEEP_MARGIN);
        if far > Nanos(0) {
            tokio::time::sleep(far.to_duration()).await;
        }
        loop {
            tokio::task::yield_now().await;
            let left = at.since(self.now());
            if left == Nanos(0) {
                return;
            }
            thread::sleep(left.min(MAX_SLEEP_SLICE).to_duration());
        }
    }
}

/// A plain thread that sleeps until an instant and then wakes the runtime. One task at a time may wait.
#[derive(Debug)]
pub struct Pacer {
    clock: Clock,
    alarms: mpsc::Sender<(Nanos, oneshot::Sender<()>)>,
}

impl Pacer {
    /// Starts the thread, which ends with the pacer.
    pub fn start(clock: Clock) -> Result<Self, Error> {
        let (alarms, set) = mpsc::channel::<(Nanos, oneshot::Sender<()>)>();
        thread::Builder::new()
            .name("pacer".into())
            .spawn(move || {
                sleep_exactly();
                for (at, bell) in set {
                    thread::sleep(at.since(clock.now()).to_duration());
                    // The waiting task may have been cancelled.
                    let _ = bell.send(());
                }
            })
            .map_err(|e| Error::Setup(format!("cannot start the timer thread: {e}")))?;
        Ok(Pacer { clock, alarms })
    }

    /// The time of its clock.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.clock.now()
    }

    /// Returns at `at`, or immediately if `at` has passed.
    pub async fn sleep_until(&self, at: Nanos) {
        if self.now() < at {
            let (bell, rang) = oneshot::channel();
            if self.alarms.send((at, bell)).is_ok() {
                let _ = rang.await;
            }
        }
    }
}

/// Asks Linux for exact sleeps on this thread. By default a sleep may end 50 µs late, so that threads can wake together.
#[cfg(target_os = "linux")]
fn sleep_exactly() {
    // If the system refuses, sleeps stay late by up to that much.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
}

#[cfg(not(target_os = "linux"))]
fn sleep_exactly() {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::SECOND;

    /// A thread that sleeps must let other tasks run.
    #[tokio::test]
    async fn others_run_while_it_waits() {
        let sleeper = Sleeper::new(Clock::start());
        let other = tokio::spawn(tokio::task::yield_now());
        sleeper.sleep_until(sleeper.now() + SLEEP_MARGIN).await;
        assert!(other.is_finished());
    }

    #[tokio::test]
    async fn it_is_never_early() {
        let clock = Clock::start();
        let (pacer, sleeper) = (Pacer::start(clock).unwrap(), Sleeper::new(clock));
        for at in [0, SECOND / 200, SECOND / 100].map(Nanos) {
            pacer.sleep_until(at).await;
            assert!(clock.now() >= at);
            let at = at + Nanos(SECOND / 400);
            sleeper.sleep_until(at).await;
            assert!(clock.now() >= at);
        }
    }
}

//! Waiting for an instant, more exactly than the runtime's timer, which rounds up to the next millisecond.
//!
//! [`Pacer`] is for a thread that goes on with other work meanwhile, [`Sleeper`] for one that does not.

use std::{sync::mpsc, thread};

use tokio::sync::oneshot;

use crate::{clock::Clock, error::Error, units::Nanos};

/// Waits on a thread that has nothing else to do: the runtime's timer for the most, and the thread's own sleep for the rest.
#[derive(Debug, Clone, Copy)]
pub struct Sleeper(Clock);

/// What is left to the thread's own sleep: more than the runtime's timer may be late.
pub const REST: Nanos = Nanos(3_000_000);

/// That sleep is cut into pieces of this, between which the runtime gets to what has come meanwhile: a signal, a timer, the end of
/// an answer.
const SLICE: Nanos = Nanos(200_000);

impl Sleeper {
    /// For the calling thread.
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

    /// Returns when `at` has come; at once if it has.
    pub async fn until(&self, at: Nanos) {
        let far = at.since(self.now()).since(REST);
        if far > Nanos(0) {
            tokio::time::sleep(far.duration()).await;
        }
        loop {
            tokio::task::yield_now().await;
            let left = at.since(self.now());
            if left == Nanos(0) {
                return;
            }
            thread::sleep(left.min(SLICE).duration());
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
                    thread::sleep(at.since(clock.now()).duration());
                    // Whoever waited may have been told to stop meanwhile.
                    let _ = bell.send(());
                }
            })
            .map_err(|e| Error::Setup(format!("cannot start the thread that keeps time: {e}")))?;
        Ok(Pacer { clock, alarms })
    }

    /// The time of its clock.
    #[must_use]
    pub fn now(&self) -> Nanos {
        self.clock.now()
    }

    /// Returns when `at` has come; at once if it has.
    pub async fn until(&self, at: Nanos) {
        if self.now() < at {
            let (bell, rang) = oneshot::channel();
            if self.alarms.send((at, bell)).is_ok() {
                let _ = rang.await;
            }
        }
    }
}

/// Linux lets a sleep end 50 µs late, so that it can wake several threads at once; this thread asks it not to.
#[cfg(target_os = "linux")]
fn sleep_exactly() {
    // Where it is refused the sleep is late by that much.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
}

#[cfg(not(target_os = "linux"))]
fn sleep_exactly() {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::SECOND;

    /// A thread that sleeps for what is left must let others run meanwhile.
    #[tokio::test]
    async fn others_run_while_it_waits() {
        let sleeper = Sleeper::new(Clock::start());
        let other = tokio::spawn(tokio::task::yield_now());
        sleeper.until(sleeper.now() + REST).await;
        assert!(other.is_finished());
    }

    #[tokio::test]
    async fn it_is_never_early() {
        let clock = Clock::start();
        let (pacer, sleeper) = (Pacer::start(clock).unwrap(), Sleeper::new(clock));
        for at in [0, SECOND / 200, SECOND / 100].map(Nanos) {
            pacer.until(at).await;
            assert!(clock.now() >= at);
            let at = at + Nanos(SECOND / 400);
            sleeper.until(at).await;
            assert!(clock.now() >= at);
        }
    }
}

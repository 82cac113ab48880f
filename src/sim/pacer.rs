//! An alarm clock that is punctual: tokio's own rounds up to the next millisecond, which is much of a step of five.

use std::{
    sync::{Arc, mpsc},
    thread,
};

use tokio::sync::Notify;

use crate::{clock::Clock, error::Error, units::Nanos};

/// A thread that sleeps on behalf of one task.
pub struct Pacer {
    clock: Clock,
    alarms: mpsc::Sender<Nanos>,
    rang: Arc<Notify>,
}

impl Pacer {
    /// Starts the thread, which ends with the pacer.
    pub fn start(clock: Clock) -> Result<Self, Error> {
        let (alarms, set) = mpsc::channel::<Nanos>();
        let rang = Arc::new(Notify::new());
        let bell = Arc::clone(&rang);
        let sleep = move || {
            for at in set {
                thread::sleep(at.since(clock.now()).duration());
                bell.notify_one();
            }
        };
        thread::Builder::new()
            .name("pacer".into())
            .spawn(sleep)
            .map_err(|e| Error::Setup(format!("cannot start the thread that keeps time: {e}")))?;
        Ok(Pacer { clock, alarms, rang })
    }

    /// Waits until `at`; in any case lets other tasks run. One task at a time, and it must wait to the end.
    pub async fn until(&self, at: Nanos) {
        if self.clock.now() >= at || self.alarms.send(at).is_err() {
            tokio::task::yield_now().await;
        } else {
            self.rang.notified().await;
        }
    }
}

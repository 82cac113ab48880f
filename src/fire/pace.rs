//! Waiting for an instant, more exactly than the runtime's timer, which counts milliseconds.

use std::{sync::mpsc, thread};

use tokio::sync::oneshot;

use crate::{clock::Clock, error::Error, units::Nanos};

/// Tells the time and waits for it. A test gives time that costs nothing.
pub trait Pace {
    /// Now, counted from the start of the run.
    fn now(&self) -> Nanos;
    /// Returns when `due` has come.
    fn until(&self, due: Nanos) -> impl Future<Output = ()> + Send;
}

/// A plain thread that sleeps until an instant and then wakes the runtime.
#[derive(Debug)]
pub struct Pacer {
    clock: Clock,
    asked: mpsc::Sender<(Nanos, oneshot::Sender<()>)>,
}

impl Pacer {
    /// Starts the thread, which ends with the pacer.
    pub fn start(clock: Clock) -> Result<Self, Error> {
        let (asked, questions) = mpsc::channel::<(Nanos, oneshot::Sender<()>)>();
        thread::Builder::new()
            .name("pacer".into())
            .spawn(move || {
                for (due, reply) in questions {
                    thread::sleep(due.since(clock.now()).duration());
                    // Whoever asked may have been told to stop meanwhile.
                    let _ = reply.send(());
                }
            })
            .map_err(|e| Error::Setup(format!("cannot start a thread: {e}")))?;
        Ok(Pacer { clock, asked })
    }
}

impl Pace for Pacer {
    fn now(&self) -> Nanos {
        self.clock.now()
    }

    async fn until(&self, due: Nanos) {
        if self.now() < due {
            let (reply, come) = oneshot::channel();
            if self.asked.send((due, reply)).is_ok() {
                let _ = come.await;
            }
        }
    }
}

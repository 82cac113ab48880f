//! The threads that read answers: each has its own event loop, and a connection never leaves its thread.

use std::thread;

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

use crate::error::Error;

/// The threads. They end when this is asked to [`stop`](Readers::stop), or dropped.
#[derive(Debug)]
pub struct Readers(Vec<Reader>);

#[derive(Debug)]
struct Reader {
    handle: Handle,
    stop: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Readers {
    /// Starts so many threads.
    pub fn start(count: usize) -> Result<Self, Error> {
        (0..count.max(1)).map(Reader::start).collect::<Result<_, _>>().map(Readers)
    }

    /// The event loop of thread `at`.
    #[must_use]
    pub fn handle(&self, at: usize) -> &Handle {
        &self.0[at].handle
    }

    /// Ends the threads.
    pub fn stop(self) {
        for Reader { stop, thread, .. } in self.0 {
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}

impl Reader {
    fn start(number: usize) -> Result<Self, Error> {
        let failed = |e| Error::Setup(format!("cannot start a thread that reads answers: {e}"));
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name(format!("reader-{number}"))
            .spawn(move || {
                // Also when the sender is gone.
                let _ = runtime.block_on(stopped);
            })
            .map_err(failed)?;
        Ok(Reader { handle, stop, thread })
    }
}

//! The threads that read responses: each has its own event loop, and a connection never leaves its thread.

use std::thread;

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

use super::watch;
use crate::error::Error;

/// The most connections with news that one look returns. If there were more, some would wait for the next look, and how long would
/// not be known.
const MAX_EVENTS: usize = 1 << 14;

/// The threads. They end at [`ReaderThreads::stop_all`] or when this is dropped.
#[derive(Debug)]
pub struct ReaderThreads(Vec<ReaderThread>);

#[derive(Debug)]
struct ReaderThread {
    handle: Handle,
    stop: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl ReaderThreads {
    /// Starts `count` threads.
    pub fn start(count: usize) -> Result<Self, Error> {
        (0..count.max(1)).map(ReaderThread::start).collect::<Result<_, _>>().map(ReaderThreads)
    }

    /// The event loop of thread `index`.
    #[must_use]
    pub fn handle(&self, index: usize) -> &Handle {
        &self.0[index].handle
    }

    /// The event loops of all threads.
    pub fn handles(&self) -> impl Iterator<Item = &Handle> {
        self.0.iter().map(|reader| &reader.handle)
    }

    /// Ends the threads.
    pub fn stop_all(self) {
        for ReaderThread { stop, thread, .. } in self.0 {
            let _ = stop.send(());
            let _ = thread.join();
        }
    }
}

impl ReaderThread {
    fn start(number: usize) -> Result<Self, Error> {
        let failed = |e| Error::Setup(format!("cannot start a thread that reads responses: {e}"));
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_io_events_per_tick(MAX_EVENTS)
            .on_thread_park(watch::note_park)
            .on_thread_unpark(watch::note_unpark)
            .build()
            .map_err(failed)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name(format!("reader-{number}"))
            .spawn(move || {
                // Also ends when the sender is dropped.
                let _ = runtime.block_on(stopped);
            })
            .map_err(failed)?;
        Ok(ReaderThread { handle, stop, thread })
    }
}

//! Work on more than one core. No result depends on the number of threads.

use std::{panic::resume_unwind, thread};

/// The most threads: more would wait for the one thing that they share.
const MAX_THREADS: usize = 4;

/// The threads that this process may keep busy, at most four.
#[must_use]
pub fn thread_count() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS)
}

/// Computes both, side by side if there is a core for each.
pub fn join<A: Send, B>(a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B) -> (A, B) {
    if thread_count() < 2 {
        return (a(), b());
    }
    thread::scope(|scope| {
        let a = scope.spawn(a);
        let b = b();
        (a.join().unwrap_or_else(|panic| resume_unwind(panic)), b)
    })
}

//! Whether the connections to a server are reused.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Connections are reused until the server closes one right after a response that did not announce it: then it never keeps them, and
/// each further try may cost a request.
#[derive(Debug, Default)]
pub struct Reuse {
    ended: AtomicBool,
}

impl Reuse {
    /// Reuses no connection any more.
    pub fn end(&self) {
        self.ended.store(true, Relaxed);
    }

    /// Whether the server has shown that it does not keep connections.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.load(Relaxed)
    }
}

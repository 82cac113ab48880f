//! What scheduling needs to know about a request. The request itself provides it: see `input.rs`.

use crate::units::Nanos;

/// A request that can be queued.
pub trait Scheduled {
    /// The request's own arrival time, if it has one.
    fn timestamp(&self) -> Option<Nanos>;
    /// The conversation that it is a turn of.
    fn session(&self) -> Option<&str>;
    /// Whether the request says that it begins a conversation, perhaps one whose name was used before.
    fn begins_conversation(&self) -> bool;
    /// Whether it has placeholders for the responses to earlier turns.
    fn needs_responses(&self) -> bool;
    /// When it was read, on the clock of the input; 0 if it was available before the client asked for it.
    fn read_at(&self) -> Nanos;
    /// How long its user thinks before it; `None`: the request does not say.
    fn think_time(&self) -> Option<Nanos>;
    /// Approximate size in memory, in bytes.
    fn weight(&self) -> u64;
}

#[cfg(test)]
pub mod fake {
    use super::*;

    pub const SECOND: u64 = 1_000_000_000;

    /// A request for tests, with times in seconds.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub struct FakeRequest {
        pub name: &'static str,
        /// Its timestamp.
        pub at: Option<u64>,
        pub session: Option<&'static str>,
        /// Its think time.
        pub think: u64,
        /// Whether it needs earlier responses.
        pub open: bool,
        /// When its line is read.
        pub comes: u64,
        pub weight: u64,
    }

    impl Scheduled for FakeRequest {
        fn timestamp(&self) -> Option<Nanos> {
            self.at.map(|s| Nanos(s * SECOND))
        }
        fn session(&self) -> Option<&str> {
            self.session
        }
        fn begins_conversation(&self) -> bool {
            false
        }
        fn needs_responses(&self) -> bool {
            self.open
        }
        fn read_at(&self) -> Nanos {
            Nanos(self.comes * SECOND)
        }
        fn think_time(&self) -> Option<Nanos> {
            Some(Nanos(self.think * SECOND))
        }
        fn weight(&self) -> u64 {
            self.weight
        }
    }
}

//! What scheduling needs to know about a request. The request answers; see `input.rs`.

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

//! Counts of a run that goes on, for those who watch it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::units::Nanos;

/// What one reader thread has received. The counts of two threads share no cache line, so that the threads do not wait for each other.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ReaderCounts {
    /// Tokens, as far as chunks show: a chunk without a count counts as one.
    pub tokens: AtomicU64,
    /// Responses with a token.
    pub first_tokens: AtomicU64,
    /// Sum of the times to them, in nanoseconds.
    pub ttft_sum: AtomicU64,
}

impl ReaderCounts {
    /// Counts tokens that have arrived.
    pub fn add_tokens(&self, tokens: u64) {
        self.tokens.fetch_add(tokens, Relaxed);
    }

    /// Counts the first token of a response.
    pub fn add_first_token(&self, ttft: Nanos) {
        self.first_tokens.fetch_add(1, Relaxed);
        self.ttft_sum.fetch_add(ttft.0, Relaxed);
    }
}

/// What the outputs that were judged so far have.
#[derive(Debug, Default)]
pub struct OutputCounts {
    /// Their number.
    pub done: AtomicU64,
    /// Failures among them.
    pub failed: AtomicU64,
    /// The mean latency of the successes, in nanoseconds; 0 without any.
    pub mean_latency: AtomicU64,
    /// Their tokens.
    pub tokens: AtomicU64,
    /// Their tokens as counted while they arrived.
    pub shown_tokens: AtomicU64,
}

//! How many requests the input has, as far as that is known.

use std::{
    fs::File,
    io::{self, Seek},
    os::fd::AsFd,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use crate::units::Nanos;

/// What is known of the input. The thread that reads it writes this.
#[derive(Debug, Default)]
pub struct InputExtent {
    /// Bytes of the file that standard input is; 0: it is a pipe.
    file_size: u64,
    /// Requests that the writer of the input announced.
    announced: AtomicU64,
    requests: AtomicU64,
    bytes: AtomicU64,
    /// When the latest of them is to be sent, from the start of the run; 0: they have no times.
    last_due: AtomicU64,
    ended: AtomicBool,
}

/// How much input a run has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputSize {
    /// This many requests: its end was read, or its writer announced them.
    Counted(u64),
    /// About this many, from the size of the file and what was read of it.
    Estimated(u64),
    /// This many were read, and more may come.
    AtLeast(u64),
}

impl InputExtent {
    /// Nothing of standard input is read yet.
    #[must_use]
    pub fn of_stdin() -> Self {
        // A pipe has no size, and what was read of a file before is not a part of the input.
        let file = io::stdin().as_fd().try_clone_to_owned().map(File::from);
        let size = file.and_then(|mut file| {
            let data = file.metadata()?;
            Ok(if data.is_file() { data.len().saturating_sub(file.stream_position()?) } else { 0 })
        });
        InputExtent { file_size: size.unwrap_or(0), ..InputExtent::default() }
    }

    #[cfg(test)]
    pub fn with_requests(requests: u64) -> Self {
        InputExtent { requests: requests.into(), ..InputExtent::default() }
    }

    /// The writer of the input announced this many requests. Several streams after one another each announce theirs.
    pub fn note_announced(&self, requests: u32) {
        self.announced.fetch_add(requests.into(), Relaxed);
    }

    /// Counts a request of `bytes`. `latest`: when the latest so far is to be sent.
    pub fn note_request(&self, bytes: usize, latest: Nanos) {
        self.requests.fetch_add(1, Relaxed);
        // With the end of its line.
        self.bytes.fetch_add(bytes as u64 + 1, Relaxed);
        self.last_due.store(latest.0, Relaxed);
    }

    /// The end was read.
    pub fn note_end(&self) {
        self.ended.store(true, Relaxed);
    }

    /// The number of requests; `None`: the end has not been read.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        self.ended.load(Relaxed).then(|| self.requests.load(Relaxed))
    }

    /// The number of requests, as far as it can be known.
    #[must_use]
    pub fn size(&self) -> InputSize {
        let (requests, bytes) = (self.requests.load(Relaxed), self.bytes.load(Relaxed));
        let announced = self.announced.load(Relaxed);
        match (self.ended.load(Relaxed), self.file_size) {
            (true, _) => InputSize::Counted(requests),
            _ if announced >= requests && announced > 0 => InputSize::Counted(announced),
            (_, size) if size > 0 && bytes > 0 => {
                InputSize::Estimated(requests.saturating_mul(size.max(bytes)) / bytes)
            }
            _ => InputSize::AtLeast(requests),
        }
    }

    /// Whether requests are sent at their own times.
    #[must_use]
    pub fn has_times(&self) -> bool {
        self.last_due.load(Relaxed) > 0
    }

    /// When the last request is to be sent; `None`: not known yet, or the requests have no times.
    #[must_use]
    pub fn last_due(&self) -> Option<Nanos> {
        let last = self.last_due.load(Relaxed);
        (last > 0 && self.ended.load(Relaxed)).then_some(Nanos(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_as_long_as_what_was_read_of_it_suggests() {
        let input = InputExtent { file_size: 1000, ..InputExtent::default() };
        assert_eq!(input.size(), InputSize::AtLeast(0));
        for _ in 0..5 {
            input.note_request(49, Nanos(7));
        }
        assert_eq!((input.size(), input.last_due()), (InputSize::Estimated(20), None));
        input.note_end();
        assert_eq!((input.size(), input.last_due()), (InputSize::Counted(5), Some(Nanos(7))));
        let pipe = InputExtent::default();
        pipe.note_request(49, Nanos(0));
        assert_eq!((pipe.size(), pipe.last_due()), (InputSize::AtLeast(1), None));
    }

    #[test]
    fn what_was_announced_holds_until_it_is_contradicted() {
        let input = InputExtent::default();
        input.note_announced(2);
        input.note_request(49, Nanos(0));
        assert_eq!(input.size(), InputSize::Counted(2));
        for _ in 0..2 {
            input.note_request(49, Nanos(0));
        }
        assert_eq!(input.size(), InputSize::AtLeast(3), "only one of two streams announced its requests");
        input.note_end();
        assert_eq!(input.size(), InputSize::Counted(3));
    }
}

//! What a run is watched by: the requests in blocks, and one series for each number that must not change.

use crate::{recording::RecordedRequest, statistics::numpy};

/// The fewest requests per block, and the most blocks.
const MIN_BLOCK_REQUESTS: usize = 5;
const MAX_BLOCKS: usize = 60;

/// A number that stays the same in a steady state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Start → first token, or schedule → first token.
    Ttft {
        /// Whether it counts from the schedule.
        from_schedule: bool,
    },
    /// Time per output token after the first.
    Tpot,
    /// Start → last token, for responses that are not streamed.
    E2el {
        /// Whether it counts from the schedule.
        from_schedule: bool,
    },
    /// The share of requests that succeed.
    Success,
    /// Requests sent per second.
    Rate,
}

impl Signal {
    /// Its name in a sentence.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Signal::Ttft { .. } => "TTFT",
            Signal::Tpot => "TPOT",
            Signal::E2el { .. } => "E2EL",
            Signal::Success => "the share of successes",
            Signal::Rate => "the rate of requests",
        }
    }

    /// Its name in a result.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Signal::Ttft { .. } => "ttft",
            Signal::Tpot => "tpot",
            Signal::E2el { .. } => "e2el",
            Signal::Success => "success",
            Signal::Rate => "rate",
        }
    }

    /// Whether its values are times.
    #[must_use]
    pub fn is_latency(self) -> bool {
        !matches!(self, Signal::Success | Signal::Rate)
    }

    /// A value in words.
    #[must_use]
    pub fn describe_value(self, value: f64) -> String {
        match self {
            Signal::Success => format!("{:.0} %", value * 100.0),
            Signal::Rate => format!("{value:.2}/s"),
            _ => format!("{:.0} ms", value * 1e3),
        }
    }

    fn value(self, request: &RecordedRequest) -> Option<f64> {
        let wait = |from_schedule: bool| if from_schedule { request.queue_time.unwrap_or_default() } else { 0.0 };
        match self {
            Signal::Ttft { from_schedule } => Some(request.ttft? + wait(from_schedule)).filter(|_| request.success),
            Signal::Tpot => request.tpot().filter(|_| request.success),
            Signal::E2el { from_schedule } => Some(request.latency? + wait(from_schedule)).filter(|_| request.success),
            Signal::Success => Some(f64::from(u8::from(request.success))),
            Signal::Rate => None,
        }
    }
}

/// The latencies that change when a server cannot keep up: the queue and the time per step, or the whole response.
#[must_use]
pub fn latency_signals(requests: &[&RecordedRequest], open_loop: Option<bool>) -> Vec<Signal> {
    let from_schedule = open_loop == Some(true);
    if requests.iter().any(|request| request.success && request.ttft.is_some()) {
        vec![Signal::Ttft { from_schedule }, Signal::Tpot]
    } else {
        vec![Signal::E2el { from_schedule }]
    }
}

/// Requests in the order in which they were sent, in blocks of equal size.
#[derive(Debug, Clone, Copy)]
pub struct Blocks<'a> {
    requests: &'a [&'a RecordedRequest],
    size: usize,
}

impl<'a> Blocks<'a> {
    /// As many blocks as make sense for a run of this length.
    #[must_use]
    pub fn cut(requests: &'a [&'a RecordedRequest]) -> Self {
        Blocks { requests, size: requests.len().div_ceil(MAX_BLOCKS).max(MIN_BLOCK_REQUESTS) }
    }

    /// The requests from this block on.
    #[must_use]
    pub fn requests_from(&self, block: usize) -> &'a [&'a RecordedRequest] {
        &self.requests[block.saturating_mul(self.size).min(self.requests.len())..]
    }

    /// When the first request of a block was sent; for the place after the last block, the last request.
    #[must_use]
    pub fn start(&self, block: usize) -> f64 {
        let request = self.requests_from(block).first().or(self.requests.last());
        request.and_then(|request| request.start).unwrap_or_default()
    }

    /// The remainder at the end joins the last block.
    fn requests_of(&self, block: usize) -> &'a [&'a RecordedRequest] {
        let from = self.requests_from(block);
        if block + 1 == self.count() { from } else { &from[..self.size] }
    }

    fn count(&self) -> usize {
        self.requests.len() / self.size
    }

    /// The mean of each block that has a value.
    #[must_use]
    pub fn series(&self, signal: Signal) -> Series {
        let mean = |block: usize| {
            let members = self.requests_of(block);
            if signal == Signal::Rate {
                let seconds = self.start(block + 1) - self.start(block);
                let steps = if block + 1 == self.count() { members.len() - 1 } else { members.len() };
                return (seconds > 0.0).then(|| steps as f64 / seconds);
            }
            let values: Vec<f64> = members.iter().filter_map(|r| signal.value(r)).collect();
            (!values.is_empty()).then(|| numpy::mean(&values))
        };
        let (blocks, values) = (0..self.count()).filter_map(|block| Some((block, mean(block)?))).unzip();
        Series { signal, blocks, values }
    }
}

/// The means of blocks.
#[derive(Debug, Clone)]
pub struct Series {
    /// Of what.
    pub signal: Signal,
    /// The blocks that have a value.
    pub blocks: Vec<usize>,
    /// Their means.
    pub values: Vec<f64>,
}

impl Series {
    /// Without the blocks before this one.
    #[must_use]
    pub fn without_blocks_before(&self, first: usize) -> Self {
        let skipped = self.blocks.partition_point(|block| *block < first);
        Series { signal: self.signal, blocks: self.blocks[skipped..].to_vec(), values: self.values[skipped..].to_vec() }
    }
}

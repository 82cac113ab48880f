//! Counts of a run in progress: outcomes, the most frequent error, numbers for the progress line and the end record.

use std::collections::{BTreeMap, HashMap};

use hdrhistogram::Histogram;

use super::{
    attempt::TimingQuality,
    histogram::{histogram_percentiles, new_histogram},
    stamp_error::UncertainTimes,
};
use crate::{
    error::Error,
    record::{Buffering, ErrorKind, Percentiles, PromptLengths, RequestFuncOutput, Stamp, Stamps, TokenSource},
    recording::population::Population,
    units::Nanos,
};

/// Begins the error of a request that was due and never sent; the reason follows.
pub const NOT_SENT: &str = "due, but never sent: ";

/// Different error messages to count separately. A server that puts an id into each would otherwise fill the memory.
const MAX_MESSAGES: usize = 1000;

/// The counts of a run.
#[derive(Debug)]
pub struct Tally {
    /// How many outputs there were, and how the requests ended.
    pub population: Population,
    /// The prompts of the successes, as asked and as counted.
    pub prompt_lengths: PromptLengths,
    /// Successes whose counted output is longer than requested, and the tokens requested and generated in them.
    pub long_outputs: LongOutputs,
    /// Outputs by outcome.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// Requests that were sent again on a new connection.
    pub resent: u64,
    /// How the chunks were stamped.
    pub stamps: Stamps,
    /// Responses that a proxy held back.
    pub buffering: Buffering,
    /// Times of the successful requests, with bounds where they are uncertain.
    pub times: UncertainTimes,
    /// Retransmitted TCP segments; `None`: not known for any request.
    pub retransmits: Option<u64>,
    errors: HashMap<(ErrorKind, Option<u16>, String), u64>,
    schedule_lag: Histogram<u64>,
    send_lag: Histogram<u64>,
    read_lag: Histogram<u64>,
    /// Sum over the successful requests.
    latencies: Nanos,
    /// Sum of the times for which the client left the slots empty, over the requests that were sent.
    empty_slots: Nanos,
}

/// Outputs that are longer than requested.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LongOutputs {
    /// Their number.
    pub number: u64,
    /// Tokens that they should have, in all of them.
    pub asked: u64,
    /// Tokens that they have.
    pub generated: u64,
}

/// The error that occurred most often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrequentError {
    /// The kind of error.
    pub kind: ErrorKind,
    /// The HTTP status, if there was a response.
    pub status: Option<u16>,
    /// The message.
    pub message: String,
    /// How often it occurred.
    pub count: u64,
}

impl Tally {
    /// An empty tally.
    pub fn new() -> Result<Self, Error> {
        Ok(Tally {
            population: Population::default(),
            prompt_lengths: PromptLengths::default(),
            long_outputs: LongOutputs::default(),
            outcomes: BTreeMap::new(),
            resent: 0,
            stamps: Stamps::default(),
            buffering: Buffering::default(),
            times: UncertainTimes::new()?,
            retransmits: None,
            errors: HashMap::new(),
            schedule_lag: new_histogram()?,
            send_lag: new_histogram()?,
            read_lag: new_histogram()?,
            latencies: Nanos(0),
            empty_slots: Nanos(0),
        })
    }

    /// Counts one output.
    pub fn count_output(&mut self, output: &RequestFuncOutput) {
        self.population.offered += 1;
        self.population.succeeded += u64::from(output.success);
        self.resent += u64::from(output.resent);
        if let Some(lag) = output.queue_time {
            // The histogram grows as needed; it rejects only values beyond 2⁶³ ns.
            let _ = self.schedule_lag.record(lag.0);
        }
        if let Some(latency) = output.latency.filter(|_| output.success) {
            self.latencies = self.latencies + latency;
        }
        if output.success {
            self.times.add_output(output);
            self.count_lengths(output);
        }
        let read_lags = output.read_lag.as_deref().unwrap_or_default();
        self.empty_slots = self.empty_slots + read_lags.last().copied().unwrap_or_default();
        if output.stamp != Stamp::User {
            for lag in read_lags {
                let _ = self.read_lag.record(lag.0);
            }
        }
        let name = output.error_kind.map_or("ok", ErrorKind::name);
        *self.outcomes.entry(name).or_default() += 1;
        if output.error_kind == Some(ErrorKind::Abandoned) {
            self.population.abandoned += 1;
        } else if let Some(kind) = output.error_kind {
            let key = (kind, output.status, output.error.clone());
            if self.errors.len() < MAX_MESSAGES || self.errors.contains_key(&key) {
                *self.errors.entry(key).or_default() += 1;
            }
        }
    }

    fn count_lengths(&mut self, output: &RequestFuncOutput) {
        if let Some(asked) = output.expected_prompt_len {
            self.prompt_lengths.add(asked, output.prompt_len);
        }
        let is_counted = output.token_source.is_some_and(|source| source != TokenSource::Chunks);
        let asked = output.expected_output_len.map(|asked| asked.saturating_mul(output.choices.max(1)));
        if let Some(asked) = asked.filter(|asked| is_counted && output.output_tokens > *asked) {
            self.long_outputs.number += 1;
            self.long_outputs.asked += u64::from(asked);
            self.long_outputs.generated += u64::from(output.output_tokens);
        }
    }

    /// The number of requests that were due and never sent.
    #[must_use]
    pub fn not_sent(&self) -> u64 {
        self.outcomes.get(ErrorKind::NotSent.name()).copied().unwrap_or(0)
    }

    /// The most frequent reason for not sending a request.
    #[must_use]
    pub fn why_not_sent(&self) -> Option<&str> {
        let not_sent = self.errors.iter().filter(|((kind, ..), _)| *kind == ErrorKind::NotSent);
        let ((.., message), _) = not_sent.max_by_key(|((.., message), count)| (**count, message.as_str()))?;
        Some(message.strip_prefix(NOT_SENT).unwrap_or(message))
    }

    /// The most frequent cause of failures. A request that was never sent is a consequence, and counts only without a cause.
    #[must_use]
    pub fn most_frequent(&self) -> Option<FrequentError> {
        let by = |((kind, _, message), count): &(&(ErrorKind, Option<u16>, String), &u64)| {
            (*kind != ErrorKind::NotSent, **count, std::cmp::Reverse((*kind, message.clone())))
        };
        let ((kind, status, message), count) = self.errors.iter().max_by_key(by)?;
        Some(FrequentError { kind: *kind, status: *status, message: message.clone(), count: *count })
    }

    /// Counts how accurate the times of a request are.
    pub fn count_timing(&mut self, timing: &TimingQuality) {
        // Every connection sees the same steps of the system clock.
        let clock_steps = self.stamps.clock_steps.max(timing.stamps.clock_steps);
        self.stamps = Stamps { clock_steps, ..self.stamps + timing.stamps };
        if let Some(held_back) = timing.held_back {
            self.buffering.count_response(held_back, timing.server.as_deref());
        }
        if let Some(count) = timing.retransmits {
            *self.retransmits.get_or_insert(0) += u64::from(count);
        }
        if let Some(lag) = timing.send_lag {
            let _ = self.send_lag.record(lag.0);
            self.empty_slots = self.empty_slots + lag;
        }
    }

    /// The mean time for which the client left a slot empty: last chunk → read, and the send lag. `None` without any request.
    #[must_use]
    pub fn mean_empty_slot(&self) -> Option<Nanos> {
        let sent = self.send_lag.len();
        (sent > 0).then(|| Nanos(self.empty_slots.0 / sent))
    }

    /// How late requests were sent, against their schedule.
    #[must_use]
    pub fn schedule_lag(&self) -> Option<Percentiles> {
        histogram_percentiles(&self.schedule_lag)
    }

    /// The part of that delay which the client caused.
    #[must_use]
    pub fn send_lag(&self) -> Option<Percentiles> {
        histogram_percentiles(&self.send_lag)
    }

    /// Kernel stamp → read, over the token-bearing chunks with kernel stamps.
    #[must_use]
    pub fn read_lag(&self) -> Option<Percentiles> {
        histogram_percentiles(&self.read_lag)
    }

    /// The number of successful requests.
    #[must_use]
    pub fn successes(&self) -> u64 {
        self.outcomes.get("ok").copied().unwrap_or(0)
    }

    /// The mean latency of the successful requests.
    #[must_use]
    pub fn mean_latency(&self) -> Option<Nanos> {
        self.latencies.0.checked_div(self.successes()).map(Nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(kind: ErrorKind, message: &str) -> RequestFuncOutput {
        RequestFuncOutput { error_kind: Some(kind), error: message.into(), ..RequestFuncOutput::default() }
    }

    #[test]
    fn each_choice_may_be_as_long_as_requested() {
        let mut tally = Tally::new().unwrap();
        let output = RequestFuncOutput {
            success: true,
            expected_output_len: Some(4),
            output_tokens: 8,
            token_source: Some(TokenSource::Usage),
            choices: 2,
            ..RequestFuncOutput::default()
        };
        tally.count_output(&output);
        tally.count_output(&RequestFuncOutput {
            token_source: Some(TokenSource::Chunks),
            choices: 1,
            ..output.clone()
        });
        assert_eq!(tally.long_outputs, LongOutputs::default());
        tally.count_output(&RequestFuncOutput { choices: 1, ..output });
        assert_eq!(tally.long_outputs, LongOutputs { number: 1, asked: 4, generated: 8 });
    }

    #[test]
    fn the_most_frequent_error_is_found() {
        let mut tally = Tally::new().unwrap();
        assert_eq!((tally.most_frequent(), tally.schedule_lag()), (None, None));
        for ms in 1..=100 {
            let queue_time = Some(Nanos(ms * 1_000_000));
            tally.count_output(&RequestFuncOutput { success: true, queue_time, ..RequestFuncOutput::default() });
        }
        let lag = tally.schedule_lag().unwrap();
        assert!(
            (lag.p50.0 as f64 / 50e6 - 1.0).abs() < 0.001 && (lag.max.0 as f64 / 100e6 - 1.0).abs() < 0.001,
            "{lag:?}"
        );
        for _ in 0..3 {
            tally.count_output(&failed(ErrorKind::Reset, "b"));
        }
        for i in 0..5000 {
            tally.count_output(&failed(ErrorKind::HttpStatus, &format!("request {i}")));
        }
        let most = tally.most_frequent().unwrap();
        assert_eq!((most.kind, most.message.as_str(), most.count), (ErrorKind::Reset, "b", 3));
        tally.count_output(&failed(ErrorKind::Abandoned, "cancelled on purpose"));
        assert_eq!(tally.population, Population { offered: 5104, abandoned: 1, succeeded: 100 });
        assert_eq!(
            (
                tally.population.failed(),
                tally.errors.contains_key(&(ErrorKind::Abandoned, None, "cancelled on purpose".into()))
            ),
            (5003, false)
        );
        tally.outcomes.remove("abandoned");
        assert_eq!(tally.outcomes.into_iter().collect::<Vec<_>>(), [("http_status", 5000), ("ok", 100), ("reset", 3)]);
        assert!(tally.errors.len() <= MAX_MESSAGES);
    }
}

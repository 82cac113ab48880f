//! What is kept of the requests of a run: a row for each, and the gaps of all in one long vector.

pub mod expected_cache;
pub mod input;
pub mod labels;
mod line;
pub mod metric;
pub mod pages;
mod vllm;

use std::{collections::HashMap, ops::Range};

use self::{expected_cache::ExpectedCache, labels::Labels, pages::MetricsPages};
use crate::{
    record::{EndRecord, ErrorKind, Object, RunRecord, TokenSource},
    units::{Nanos, UnixNanos},
};

/// Distinct error messages that are counted; messages beyond are left to the counts by kind, so that a server which
/// puts an id into each of them cannot fill the memory.
const MOST_MESSAGES: usize = 10_000;

/// What a request weighs, in gaps of 8 bytes.
const ROW: usize = 25;

/// One request. Times are seconds as doubles, as they stood in the input: vLLM's formulas are made of doubles, and its
/// own files have times that are no whole nanoseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RecordedRequest {
    /// Whether the whole answer arrived.
    pub success: bool,
    /// Whether the client left it on purpose, so that it is neither good nor bad.
    pub abandoned: bool,
    /// Prompt tokens.
    pub prompt_len: u32,
    /// Generated tokens.
    pub output_tokens: u32,
    /// The tokens asked for, if known.
    pub expected_output_len: Option<u32>,
    /// When it was sent, from [`Recording::base`]; `None`: never.
    pub start: Option<f64>,
    /// Start − schedule.
    pub queue_time: Option<f64>,
    /// Start → first token.
    pub ttft: Option<f64>,
    /// Start → first token of the answer proper.
    pub ttft_answer: Option<f64>,
    /// Start → last token.
    pub latency: Option<f64>,
    /// Start → end of the answer, or the failure.
    pub done: Option<f64>,
    /// Where its gaps are: in [`Recording::gaps`] of a success, else in [`Recording::failed_gaps`].
    pub gaps: Range<usize>,
    /// How many tokens its chunks have.
    pub chunks: ChunkTokens,
}

impl RecordedRequest {
    /// Schedule → first token.
    #[must_use]
    pub fn ttft_from_schedule(&self) -> Option<f64> {
        Some(self.ttft? + self.queue_time?)
    }

    /// Time per output token: (latency − ttft) / (tokens − 1); `None` for fewer than two tokens.
    #[must_use]
    pub fn tpot(&self) -> Option<f64> {
        let (latency, ttft) = (self.latency?, self.ttft?);
        (self.output_tokens > 1).then(|| (latency - ttft) / f64::from(self.output_tokens - 1))
    }
}

/// Requests in the order in which they were sent.
#[must_use]
pub fn sort_by_start<'a>(requests: impl Iterator<Item = &'a RecordedRequest>) -> Vec<&'a RecordedRequest> {
    let mut sort_by_start: Vec<&RecordedRequest> = requests.collect();
    sort_by_start.sort_by(|a, b| a.start.unwrap_or_default().total_cmp(&b.start.unwrap_or_default()));
    sort_by_start
}

/// How many tokens the chunks of a request have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ChunkTokens {
    /// One each.
    #[default]
    Single,
    /// These, in [`Recording::chunk_tokens`]; one more than gaps.
    Known(Range<usize>),
    /// Not known.
    Unknown,
}

/// Everything that was read.
#[derive(Debug, Default)]
pub struct Recording {
    /// The requests, in the order of the input.
    pub requests: Vec<RecordedRequest>,
    /// The gaps between chunks of the successes, request after request.
    pub gaps: Vec<f64>,
    /// The gaps of the failures; kept for `--save-detailed` only.
    pub failed_gaps: Vec<f64>,
    /// Tokens per chunk, where they are not all 1.
    pub chunk_tokens: Vec<u32>,
    /// The instant from which [`RecordedRequest::start`] counts: the first one read. `None` for vLLM's own files, whose clock
    /// has no known origin, and for streams without instants.
    pub base: Option<UnixNanos>,
    /// The earliest and the latest instant of any request.
    pub span: Option<(UnixNanos, UnixNanos)>,
    /// The `run` records.
    pub runs: Vec<RunRecord>,
    /// The `end` records.
    pub ends: Vec<EndRecord>,
    /// The ids of the runs, in the order of their appearance.
    pub run_ids: Vec<String>,
    /// Failures by kind (`None`: not told, or one this version does not know).
    pub failures: HashMap<Option<ErrorKind>, u64>,
    /// Failures by kind and message.
    pub messages: HashMap<(Option<ErrorKind>, String), u64>,
    /// Successes by the source of their token count, in the order of [`TokenSource::ALL`].
    pub token_sources: [u64; TokenSource::ALL.len()],
    /// Successes with tokens that nobody counted.
    pub uncounted: u64,
    /// The sum of cached prompt tokens over the successes that tell.
    pub cached_tokens: Option<u64>,
    /// The sum of reasoning tokens over the successes that tell.
    pub reasoning_tokens: Option<u64>,
    /// The worst read lag of each request that has one.
    pub read_lags: Vec<f64>,
    /// What the server said of each success that tells: its time in the queue, and its TTFT.
    pub server_times: (Vec<f64>, Vec<f64>),
    /// What the servers told of themselves.
    pub pages: MetricsPages,
    /// What the successes mean to be in the server's prefix cache.
    pub expected_cache: ExpectedCache,
    /// Lines of a type that is not for this tool.
    pub skipped: u64,
    /// Bad lines that `--lenient` passed over.
    pub bad_lines: u64,
    /// Whether the last line of an input was cut off.
    pub cut: bool,
    /// The header of vLLM's own result, when that was the input.
    pub vllm: Option<VllmHeader>,
    /// What is left of requests that were told already, because not all can be kept.
    pub earlier: RequestSample,
    /// The tags and turns that requests are grouped by.
    pub labels: Labels,
    /// For `--save-detailed`: the generated texts.
    pub texts: Vec<String>,
    /// For `--save-detailed`: the errors.
    pub errors: Vec<String>,
}

/// Requests that are kept no longer: one in so many of them, without gaps.
#[derive(Debug, Default)]
pub struct RequestSample {
    /// How many there were.
    pub requests: u64,
    /// Those that are kept.
    sample: Vec<RecordedRequest>,
    /// The logarithm to base 2 of how many stand behind each of them.
    halved: u32,
}

/// The most of them.
const MOST_EARLIER: usize = 1 << 16;

impl RequestSample {
    fn push(&mut self, requests: &[RecordedRequest]) {
        for request in requests {
            if self.requests.is_multiple_of(self.one_in()) {
                self.sample.push(RecordedRequest { gaps: 0..0, chunks: ChunkTokens::Single, ..request.clone() });
            }
            self.requests += 1;
            if self.sample.len() >= MOST_EARLIER {
                let mut even = false;
                self.sample.retain(|_| {
                    even = !even;
                    even
                });
                self.halved += 1;
            }
        }
    }

    /// How many requests stand behind each that is kept.
    #[must_use]
    pub fn one_in(&self) -> u64 {
        1 << self.halved
    }

    /// Those that are kept, and likewise of the requests that followed.
    #[must_use]
    pub fn sample_with(&self, later: &[RecordedRequest]) -> Vec<RecordedRequest> {
        let step = usize::try_from(self.one_in()).unwrap_or(usize::MAX);
        self.sample.iter().chain(later.iter().step_by(step)).cloned().collect()
    }
}

/// What a result of vLLM says beside its requests.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VllmHeader {
    /// Its duration in seconds.
    pub duration: Option<f64>,
    /// Its seconds of audio per second, which its lists do not tell.
    pub rtfx: f64,
    /// The keys before `duration`.
    pub before: Object,
    /// The keys behind it that are neither metrics nor per request.
    pub behind: Object,
}

impl Recording {
    /// `time` in seconds from the base, which is set by the first instant that is seen.
    pub fn offset_from_base(&mut self, time: UnixNanos) -> f64 {
        let base = *self.base.get_or_insert(time);
        if time >= base { time.since(base).as_secs_f64() } else { -base.since(time).as_secs_f64() }
    }

    /// The instant at `offset` from the base.
    #[must_use]
    pub fn instant_at(&self, offset: f64) -> UnixNanos {
        let base = self.base.unwrap_or_default();
        let distance = Nanos::from_secs_f64(offset.abs());
        if offset >= 0.0 { base + distance } else { UnixNanos(base.0.saturating_sub(distance.0)) }
    }

    /// Stretches the span to include `time`.
    pub fn extend_span(&mut self, time: UnixNanos) {
        let (first, last) = self.span.unwrap_or((time, time));
        self.span = Some((first.min(time), last.max(time)));
    }

    /// What it holds, counted in gaps: a request weighs as much as [`ROW`] of them.
    #[must_use]
    pub fn memory_weight(&self) -> usize {
        self.requests.len() * ROW + self.gaps.len() + self.failed_gaps.len() + self.chunk_tokens.len()
    }

    /// Gives its requests away, with all that belongs to them alone, and keeps what concerns the run.
    pub fn take_requests(&mut self) -> Recording {
        self.earlier.push(&self.requests);
        Recording {
            requests: std::mem::take(&mut self.requests),
            gaps: std::mem::take(&mut self.gaps),
            failed_gaps: std::mem::take(&mut self.failed_gaps),
            chunk_tokens: std::mem::take(&mut self.chunk_tokens),
            read_lags: std::mem::take(&mut self.read_lags),
            server_times: std::mem::take(&mut self.server_times),
            labels: self.labels.take_labels(),
            base: self.base,
            runs: self.runs.clone(),
            ..Recording::default()
        }
    }

    /// The requests that were offered, also those that are kept no longer.
    #[must_use]
    pub fn count_offered(&self) -> u64 {
        self.earlier.requests + self.requests.len() as u64
    }

    /// Counts a failure.
    pub fn count_failure(&mut self, kind: Option<ErrorKind>, message: &str) {
        *self.failures.entry(kind).or_default() += 1;
        let key = (kind, message.to_owned());
        if self.messages.len() < MOST_MESSAGES || self.messages.contains_key(&key) {
            *self.messages.entry(key).or_default() += 1;
        }
    }

    /// Notes the run that a record belongs to.
    pub fn add_run_id(&mut self, run_id: &str) {
        // Records of one run stand together, so the last id is nearly always the one.
        let known = self.run_ids.last().is_some_and(|last| last == run_id);
        if !known && !run_id.is_empty() && !self.run_ids.iter().any(|id| id == run_id) {
            self.run_ids.push(run_id.to_owned());
        }
    }

    /// The successes.
    pub fn successes(&self) -> impl Iterator<Item = &RecordedRequest> {
        self.requests.iter().filter(|r| r.success)
    }

    /// The gaps of one request.
    #[must_use]
    pub fn gaps_of(&self, request: &RecordedRequest) -> &[f64] {
        let all = if request.success { &self.gaps } else { &self.failed_gaps };
        all.get(request.gaps.clone()).unwrap_or_default()
    }

    /// The gaps of one request, each behind the moment of its end.
    pub fn gap_ends(&self, request: &RecordedRequest) -> impl Iterator<Item = (f64, f64)> {
        let mut end = request.start.unwrap_or_default() + request.ttft.unwrap_or_default();
        self.gaps_of(request).iter().map(move |gap| {
            end += gap;
            (end, *gap)
        })
    }

    /// Seconds from the start of the run to its last outcome.
    #[must_use]
    pub fn duration(&self) -> f64 {
        if let Some(header) = &self.vllm {
            return header.duration.unwrap_or_default();
        }
        let without_instants = || self.ends.iter().map(|end| end.duration).max().unwrap_or_default();
        self.run_bounds().map_or_else(without_instants, |(first, last)| last.since(first)).as_secs_f64()
    }

    /// The start of the run and its last outcome.
    ///
    /// From the `run` and `end` records; what they do not tell is taken from the requests. Several hosts: from the
    /// first start to the last end. `None` without any instant.
    #[must_use]
    pub fn run_bounds(&self) -> Option<(UnixNanos, UnixNanos)> {
        let starts = self.runs.iter().map(|run| run.clock.start).filter(|start| start.0 > 0);
        let first = starts.chain(self.span.map(|s| s.0)).min()?;
        let last = if self.is_complete() { self.last_end() } else { None };
        Some((first, last.or(self.span.map(|s| s.1)).unwrap_or(first)))
    }

    /// The start of the run, as the starts of requests count.
    #[must_use]
    pub fn run_origin(&self) -> f64 {
        match (self.run_bounds(), self.base) {
            (Some((first, _)), Some(base)) if first >= base => first.since(base).as_secs_f64(),
            (Some((first, _)), Some(base)) => -base.since(first).as_secs_f64(),
            // vLLM's own clock.
            _ => self.requests.iter().filter_map(|r| r.start).reduce(f64::min).unwrap_or_default(),
        }
    }

    /// Start and end of each run that has both. Hosts may share an id: their records are paired in their order.
    fn run_spans(&self) -> impl Iterator<Item = (UnixNanos, UnixNanos)> {
        self.runs.iter().map(|run| &run.run_id).flat_map(|id| {
            let runs = self.runs.iter().filter(move |run| run.run_id == *id);
            let ends = self.ends.iter().filter(move |end| end.run_id == *id);
            runs.zip(ends).map(|(run, end)| (run.clock.start, run.clock.start + end.duration))
        })
    }

    /// The end records, each with its client's host where that is told. Hosts may share an id: as in `spans`.
    pub fn hosted_ends(&self) -> impl Iterator<Item = (Option<&str>, &EndRecord)> {
        self.ends.iter().enumerate().map(|(i, end)| {
            let place = self.ends[..i].iter().filter(|other| other.run_id == end.run_id).count();
            let run = self.runs.iter().filter(|run| run.run_id == end.run_id).nth(place);
            (run.map(|run| run.host.as_str()).filter(|host| !host.is_empty()), end)
        })
    }

    /// The latest end of any run.
    fn last_end(&self) -> Option<UnixNanos> {
        self.run_spans().map(|(_, end)| end).max()
    }

    /// Whether one run had ended before another began, so that they are not the hosts of one.
    #[must_use]
    pub fn has_disjoint_runs(&self) -> bool {
        let last_start = self.run_spans().map(|(start, _)| start).max();
        last_start > self.run_spans().map(|(_, end)| end).min()
    }

    /// Whether each run has its end, nothing was cut off, and no output is missing.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        if self.vllm.is_some() {
            return true;
        }
        let ended = |id: &String| {
            let runs = self.runs.iter().filter(|run| run.run_id == *id).count();
            self.ends.iter().filter(|end| end.run_id == *id).count() >= runs.max(1)
        };
        let offered: u64 = self.ends.iter().map(|end| end.offered).sum();
        !self.cut
            && self.bad_lines == 0
            && !self.ends.is_empty()
            && self.run_ids.iter().all(ended)
            && offered == self.count_offered()
    }

    /// Requests that never reached the server: those that were due and those that were not yet.
    #[must_use]
    pub fn not_sent(&self) -> u64 {
        let due = self.failures.get(&Some(ErrorKind::NotSent)).copied().unwrap_or_default();
        self.ends.iter().map(|end| end.not_sent.count).sum::<u64>().max(due)
    }

    /// Whether requests were sent by a schedule, whatever the server did (an open loop); `None` when that is not told.
    ///
    /// The end record tells. A run that was cut has none, and then a limit on concurrency without a rate is taken for a
    /// closed loop, although its requests may have had timestamps of their own.
    #[must_use]
    pub fn open_loop(&self) -> Option<bool> {
        if let Some(header) = &self.vllm {
            let rate = header.before.get("request_rate").is_some_and(serde_json::Value::is_number);
            return Some(rate || header.before.get("max_concurrency").is_none_or(serde_json::Value::is_null));
        }
        let told: Vec<bool> = self.ends.iter().filter_map(|end| end.open_loop).collect();
        if !told.is_empty() {
            return Some(told.contains(&true));
        }
        let open = |run: &RunRecord| {
            let scheduled = run.request_rate.is_some() || run.rate_profile.is_some();
            scheduled || run.max_concurrency.is_none()
        };
        (!self.runs.is_empty()).then(|| self.runs.iter().any(open))
    }
}

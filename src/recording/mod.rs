//! The outputs of a run, read from streams: a row for each request, and the gaps of all requests in one long vector.
//!
//! `blocks` splits an input into lines, [`input`] gives them to several threads, `line` and `vllm` decode them, and the [`Recording`]
//! collects them in their order.

mod blocks;
pub mod expected_cache;
mod gaps;
pub mod input;
pub mod labels;
mod line;
pub mod metric;
pub mod pages;
pub mod population;
mod repeats;
pub mod rule;
mod vllm;

use std::{collections::HashMap, num::NonZeroU32, ops::Range};

use self::{expected_cache::ExpectedCache, labels::Labels, pages::MetricsPages, repeats::RepeatFinder};
use crate::{
    record::{EndRecord, ErrorKind, Object, PromptLengths, RunRecord, TokenSource},
    summaries::FoundSummaries,
    units::{Nanos, UnixNanos},
};

/// The most distinct error messages that are counted. Further ones only count by kind, so that a server with an id in each
/// message cannot fill the memory.
const MAX_DISTINCT_MESSAGES: usize = 10_000;

/// The memory of a request, in gaps of 8 bytes.
const REQUEST_WEIGHT: usize = 25;

/// One request. Times are seconds as doubles, as in the input: vLLM's formulas use doubles, and its own files have times that
/// are not integer nanoseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RecordedRequest {
    /// Whether the whole response arrived.
    pub success: bool,
    /// Whether the client cancelled it on purpose, so that it counts neither as good nor as bad.
    pub abandoned: bool,
    /// Prompt tokens.
    pub prompt_len: u32,
    /// Generated tokens.
    pub output_tokens: u32,
    /// The tokens among them that no chunk showed.
    pub hidden_tokens: u32,
    /// Its tokens were not counted: `output_tokens` is the number of its chunks, or 0.
    pub is_uncounted: bool,
    /// All its tokens came in one chunk, so that they have no pace.
    pub is_one_chunk: bool,
    /// Requested output tokens, if known.
    pub expected_output_len: Option<u32>,
    /// The number of choices, each of the requested length; 0: one.
    pub choices: u32,
    /// When it was sent, from [`Recording::base`]; `None` if never.
    pub start: Option<f64>,
    /// Start − schedule.
    pub queue_time: Option<f64>,
    /// Start → first token.
    pub ttft: Option<f64>,
    /// Start → first token that is not reasoning.
    pub ttft_answer: Option<f64>,
    /// Start → last token.
    pub latency: Option<f64>,
    /// Start → end of the response, or the failure.
    pub done: Option<f64>,
    /// Its gaps: a range of [`Recording::gaps`] for a success, else of [`Recording::failed_gaps`].
    pub gaps: Range<usize>,
    /// The tokens of its chunks.
    pub chunks: ChunkTokens,
    /// Its place in [`Recording::stamp_errors`], counted from 1; `None`: all its stamps are exact.
    pub stamp_errors: Option<NonZeroU32>,
}

impl RecordedRequest {
    /// Whether it succeeded or failed: the client did not cancel it on purpose.
    #[must_use]
    pub fn counts(&self) -> bool {
        !self.abandoned
    }

    /// Schedule → first token.
    #[must_use]
    pub fn ttft_from_schedule(&self) -> Option<f64> {
        Some(self.ttft? + self.queue_time?)
    }

    /// Time per output token that a chunk showed: (latency − ttft) / (tokens − 1); `None` for fewer than two tokens, and for a
    /// single chunk.
    #[must_use]
    pub fn tpot(&self) -> Option<f64> {
        let (latency, ttft, tokens) = (self.latency?, self.ttft?, self.shown_tokens());
        (tokens > 1 && !self.is_one_chunk).then(|| (latency - ttft) / f64::from(tokens - 1))
    }

    /// The generated tokens that its chunks showed.
    #[must_use]
    pub fn shown_tokens(&self) -> u32 {
        self.output_tokens.saturating_sub(self.hidden_tokens)
    }

    /// The generated tokens; `None` if nothing counts them.
    #[must_use]
    pub fn known_output_tokens(&self) -> Option<u32> {
        Some(self.output_tokens).filter(|tokens| *tokens > 0 || !self.is_uncounted)
    }
}

/// Returns the requests in the order in which they were sent.
#[must_use]
pub fn sort_by_start<'a>(requests: impl Iterator<Item = &'a RecordedRequest>) -> Vec<&'a RecordedRequest> {
    let mut sort_by_start: Vec<&RecordedRequest> = requests.collect();
    sort_by_start.sort_by(|a, b| a.start.unwrap_or_default().total_cmp(&b.start.unwrap_or_default()));
    sort_by_start
}

/// The number of tokens in each chunk of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ChunkTokens {
    /// One token each.
    #[default]
    Single,
    /// These numbers in [`Recording::chunk_tokens`]; one more than gaps.
    Known(Range<usize>),
    /// Unknown.
    Unknown,
}

/// All records that were read.
#[derive(Debug, Default)]
pub struct Recording {
    /// The requests, in the order of the input.
    pub requests: Vec<RecordedRequest>,
    /// The gaps between the chunks of the successes, one request after the other.
    pub gaps: Vec<f64>,
    /// The gaps of the failures; only for `--save-detailed`.
    pub failed_gaps: Vec<f64>,
    /// Tokens per chunk of the requests whose chunks do not all have one token.
    pub chunk_tokens: Vec<u32>,
    /// The chunks of successes whose arrival is known only to an interval, for each request that has one: the number of the chunk and
    /// by how many seconds it may have arrived before its stamp. Sorted by chunk.
    pub stamp_errors: Vec<Vec<(u32, f64)>>,
    /// The instant that [`RecordedRequest::start`] counts from: the first one read. `None` for vLLM's own files, whose clock
    /// has an unknown origin, and for streams without instants.
    pub base: Option<UnixNanos>,
    /// The earliest and the latest instant of any request.
    pub span: Option<(UnixNanos, UnixNanos)>,
    /// The `run` records.
    pub runs: Vec<RunRecord>,
    /// The `end` records.
    pub ends: Vec<EndRecord>,
    /// The ids of the runs, in the order of their first appearance.
    pub run_ids: Vec<String>,
    /// Results without their requests, if they were asked for.
    pub summaries: FoundSummaries,
    /// Finds runs that are in the input twice.
    pub repeats: RepeatFinder,
    /// Failures by kind; `None` is a missing kind, or one that this version does not know.
    pub failures: HashMap<Option<ErrorKind>, u64>,
    /// Failures by kind and message.
    pub messages: HashMap<(Option<ErrorKind>, String), u64>,
    /// Successes by the source of their token count, in the order of [`TokenSource::ALL`].
    pub token_sources: [u64; TokenSource::ALL.len()],
    /// Successes whose tokens were not counted.
    pub uncounted: u64,
    /// Cached prompt tokens, summed over the successes that report them.
    pub cached_tokens: Option<u64>,
    /// Reasoning tokens, summed over the successes that report them.
    pub reasoning_tokens: Option<u64>,
    /// The largest read lag of each request that has one.
    pub read_lags: Vec<f64>,
    /// The times in the queue, and the TTFTs, of the successes whose server reports them.
    pub server_times: (Vec<f64>, Vec<f64>),
    /// Scrapes of the servers' metrics.
    pub pages: MetricsPages,
    /// Output tokens that no chunk showed, summed over the successes.
    pub hidden_tokens: u64,
    /// The prompts of the successes, as asked and as counted.
    pub prompt_lengths: PromptLengths,
    /// Prefix cache hits that the successes expect.
    pub expected_cache: ExpectedCache,
    /// Lines of a type that this tool does not read.
    pub skipped: u64,
    /// Bad lines that `--lenient` skipped.
    pub bad_lines: u64,
    /// Whether the last line of an input was truncated.
    pub cut: bool,
    /// The header of vLLM's own result, if that was the input.
    pub vllm: Option<VllmHeader>,
    /// A sample of the requests whose statistics have been computed already, because not all can be kept.
    pub earlier: RequestSample,
    /// The tags and turns that requests are grouped by.
    pub labels: Labels,
    /// For `--save-detailed`: the generated texts.
    pub texts: Vec<String>,
    /// For `--save-detailed`: the errors.
    pub errors: Vec<String>,
}

/// A sample of requests that were dropped: one in 2ⁿ of them, without their gaps.
#[derive(Debug, Default)]
pub struct RequestSample {
    /// The number of requests that it was drawn from.
    pub requests: u64,
    sample: Vec<RecordedRequest>,
    /// The n of 2ⁿ: how often the sample was halved.
    halved: u32,
}

/// The sample is halved when it reaches this size.
const MAX_SAMPLED_REQUESTS: usize = 1 << 16;

impl RequestSample {
    fn push(&mut self, requests: &[RecordedRequest]) {
        for request in requests {
            if self.requests.is_multiple_of(self.one_in()) {
                self.sample.push(RecordedRequest {
                    gaps: 0..0,
                    chunks: ChunkTokens::Single,
                    stamp_errors: None,
                    ..request.clone()
                });
            }
            self.requests += 1;
            if self.sample.len() >= MAX_SAMPLED_REQUESTS {
                let mut even = false;
                self.sample.retain(|_| {
                    even = !even;
                    even
                });
                self.halved += 1;
            }
        }
    }

    /// The number of requests that each sampled one represents.
    #[must_use]
    pub fn one_in(&self) -> u64 {
        1 << self.halved
    }

    /// The sample, continued with the requests that followed.
    #[must_use]
    pub fn sample_with(&self, later: &[RecordedRequest]) -> Vec<RecordedRequest> {
        let step = usize::try_from(self.one_in()).unwrap_or(usize::MAX);
        self.sample.iter().chain(later.iter().step_by(step)).cloned().collect()
    }
}

/// The keys of a result of vLLM that are not per request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VllmHeader {
    /// Its duration in seconds.
    pub duration: Option<f64>,
    /// Its seconds of audio per second, which cannot be computed from its lists.
    pub rtfx: f64,
    /// The keys before `duration`.
    pub before: Object,
    /// The keys after it that are neither metrics nor per request.
    pub after: Object,
}

impl Recording {
    /// `time` in seconds from the base, which is the first instant passed here.
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

    /// Extends the span to include `time`.
    pub fn extend_span(&mut self, time: UnixNanos) {
        let (first, last) = self.span.unwrap_or((time, time));
        self.span = Some((first.min(time), last.max(time)));
    }

    /// The memory it uses, in gaps of 8 bytes: a request counts as `REQUEST_WEIGHT`.
    #[must_use]
    pub fn memory_weight(&self) -> usize {
        self.requests.len() * REQUEST_WEIGHT + self.gaps.len() + self.failed_gaps.len() + self.chunk_tokens.len()
    }

    /// Moves out the requests with everything that belongs to them, and keeps what concerns the run.
    #[must_use]
    pub fn take_requests(&mut self) -> Recording {
        self.earlier.push(&self.requests);
        Recording {
            requests: std::mem::take(&mut self.requests),
            gaps: std::mem::take(&mut self.gaps),
            failed_gaps: std::mem::take(&mut self.failed_gaps),
            chunk_tokens: std::mem::take(&mut self.chunk_tokens),
            stamp_errors: std::mem::take(&mut self.stamp_errors),
            read_lags: std::mem::take(&mut self.read_lags),
            server_times: std::mem::take(&mut self.server_times),
            labels: self.labels.take_labels(),
            base: self.base,
            runs: self.runs.clone(),
            ..Recording::default()
        }
    }

    /// The number of offered requests, including dropped ones.
    #[must_use]
    pub fn count_offered(&self) -> u64 {
        self.earlier.requests + self.requests.len() as u64
    }

    /// Why there is nothing to compute, for an input without outputs.
    #[must_use]
    pub fn describe_empty(&self) -> String {
        if let Some(unknown) = &self.summaries.unknown {
            return format!("no output of any request, and {unknown}");
        }
        let what = "no output of any request in the input";
        match self.skipped {
            0 => format!("{what}; is it a stream of vb-fire?"),
            1 => format!("{what}, but another record; vb-fire sends requests and writes their outputs"),
            n => format!("{what}, but {n} other records; vb-fire sends requests and writes their outputs"),
        }
    }

    /// Counts a failure.
    pub fn count_failure(&mut self, kind: Option<ErrorKind>, message: &str) {
        *self.failures.entry(kind).or_default() += 1;
        let key = (kind, message.to_owned());
        if self.messages.len() < MAX_DISTINCT_MESSAGES || self.messages.contains_key(&key) {
            *self.messages.entry(key).or_default() += 1;
        }
    }

    /// Adds the run of a record to [`run_ids`](Self::run_ids).
    pub fn add_run_id(&mut self, run_id: &str) {
        // Records of one run are adjacent, so the last id nearly always matches.
        let known = self.run_ids.last().is_some_and(|last| last == run_id);
        if !known && !run_id.is_empty() && !self.run_ids.iter().any(|id| id == run_id) {
            self.run_ids.push(run_id.to_owned());
        }
    }

    /// Whether both were read from the same run: all times are equal, or the ids and the first and last instants.
    #[must_use]
    pub fn is_same_run(&self, other: &Recording) -> bool {
        let same_id = self.run_ids.iter().any(|id| other.run_ids.contains(id));
        self.requests == other.requests || same_id && self.span.is_some() && self.span == other.span
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

    /// The chunks of a request whose arrival is known only to an interval, sorted.
    #[must_use]
    pub fn stamp_errors_of(&self, request: &RecordedRequest) -> &[(u32, f64)] {
        let at = request.stamp_errors.and_then(|at| usize::try_from(at.get() - 1).ok());
        at.and_then(|at| self.stamp_errors.get(at)).map(Vec::as_slice).unwrap_or_default()
    }

    /// Appends when the gaps of a request ended, counted as starts are.
    pub fn extend_gap_ends(&self, request: &RecordedRequest, ends: &mut Vec<f64>) {
        let mut end = request.start.unwrap_or_default() + request.ttft.unwrap_or_default();
        ends.extend(self.gaps_of(request).iter().map(|gap| {
            end += gap;
            end
        }));
    }

    /// Appends when the chunks of a request arrived, counted as starts are; nothing without a start or a chunk.
    pub fn extend_arrivals(&self, request: &RecordedRequest, times: &mut Vec<f64>) {
        if let (Some(start), Some(ttft)) = (request.start, request.ttft) {
            times.push(start + ttft);
            self.extend_gap_ends(request, times);
        }
    }

    /// The gaps of some successes, in slices that are as long as possible.
    #[must_use]
    pub fn gap_slices<'a>(&'a self, successes: impl Iterator<Item = &'a RecordedRequest>) -> Vec<&'a [f64]> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for request in successes {
            match ranges.last_mut() {
                Some(last) if last.end == request.gaps.start => last.end = request.gaps.end,
                _ => ranges.push(request.gaps.clone()),
            }
        }
        ranges.into_iter().map(|range| self.gaps.get(range).unwrap_or_default()).collect()
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
    /// They come from the `run` and `end` records, or from the requests if these are missing. With several hosts: from the
    /// first start to the last end. `None` without any instant.
    #[must_use]
    pub fn run_bounds(&self) -> Option<(UnixNanos, UnixNanos)> {
        let starts = self.runs.iter().map(|run| run.clock.start).filter(|start| start.0 > 0);
        let first = starts.chain(self.span.map(|s| s.0)).min()?;
        let last = if self.is_complete() { self.last_end() } else { None };
        Some((first, last.or(self.span.map(|s| s.1)).unwrap_or(first)))
    }

    /// The start of the run on the time axis of the starts of requests.
    #[must_use]
    pub fn run_origin(&self) -> f64 {
        match (self.run_bounds(), self.base) {
            (Some((first, _)), Some(base)) if first >= base => first.since(base).as_secs_f64(),
            (Some((first, _)), Some(base)) => -base.since(first).as_secs_f64(),
            // vLLM's own clock.
            _ => self.requests.iter().filter_map(|r| r.start).reduce(f64::min).unwrap_or_default(),
        }
    }

    /// Start and end of each run that has both. Hosts may share an id: their records are paired in order.
    fn run_spans(&self) -> impl Iterator<Item = (UnixNanos, UnixNanos)> {
        self.runs.iter().map(|run| &run.run_id).flat_map(|id| {
            let runs = self.runs.iter().filter(move |run| run.run_id == *id);
            let ends = self.ends.iter().filter(move |end| end.run_id == *id);
            runs.zip(ends).map(|(run, end)| (run.clock.start, run.clock.start + end.duration))
        })
    }

    /// The end records, each with the host of its client if known. Hosts may share an id, as in `run_spans`.
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

    /// Whether one run ended before another started, so that they are not hosts of one load.
    #[must_use]
    pub fn has_disjoint_runs(&self) -> bool {
        let last_start = self.run_spans().map(|(start, _)| start).max();
        last_start > self.run_spans().map(|(_, end)| end).min()
    }

    /// Whether each run has its end record, no line was truncated or bad, and no output is missing.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        if self.vllm.is_some() {
            return true;
        }
        !self.cut
            && self.bad_lines == 0
            && !self.ends.is_empty()
            && self.run_ids.iter().all(|id| self.has_ended(id))
            && self.offered_by_ends() == self.count_offered()
    }

    /// Whether the stream ends before its run does: the last line is truncated, or a run has no end record.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        self.cut || self.vllm.is_none() && self.runs.iter().any(|run| !self.has_ended(&run.run_id))
    }

    /// What the input lacks of its runs, each in one line.
    #[must_use]
    pub fn describe_missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if self.cut {
            missing.push("the last line is truncated".to_owned());
        }
        if self.vllm.is_none() {
            let open: Vec<&str> = self.run_ids.iter().filter(|id| !self.has_ended(id)).map(String::as_str).collect();
            if !open.is_empty() {
                missing.push(format!(
                    "no end record of {}: vb-fire was killed, or the stream was cut or filtered",
                    open.join(", ")
                ));
            } else if let Some(lost) = self.offered_by_ends().checked_sub(self.count_offered()).filter(|n| *n > 0) {
                missing.push(format!("{lost} of {} outputs are not in the input", self.offered_by_ends()));
            }
        }
        if self.bad_lines > 0 {
            missing.push(format!("{} bad lines were skipped", self.bad_lines));
        }
        missing
    }

    fn has_ended(&self, id: &str) -> bool {
        let runs = self.runs.iter().filter(|run| run.run_id == id).count();
        self.ends.iter().filter(|end| end.run_id == id).count() >= runs.max(1)
    }

    fn offered_by_ends(&self) -> u64 {
        self.ends.iter().map(|end| end.offered).fold(0, u64::saturating_add)
    }

    /// Requests that never reached the server, due or not yet due.
    #[must_use]
    pub fn not_sent(&self) -> u64 {
        let due = self.failures.get(&Some(ErrorKind::NotSent)).copied().unwrap_or_default();
        self.ends.iter().map(|end| end.not_sent.count).fold(0, u64::saturating_add).max(due)
    }

    /// Whether requests were sent by a schedule, however the server responded (open loop); `None` if unknown.
    ///
    /// The end record has it. A truncated run has no end record; then a limit on concurrency without a rate is taken for a
    /// closed loop, although its requests may have had timestamps.
    #[must_use]
    pub fn open_loop(&self) -> Option<bool> {
        if let Some(header) = &self.vllm {
            let rate = header.before.get("request_rate").is_some_and(serde_json::Value::is_number);
            return Some(rate || header.before.get("max_concurrency").is_none_or(serde_json::Value::is_null));
        }
        let known: Vec<bool> = self.ends.iter().filter_map(|end| end.open_loop).collect();
        if !known.is_empty() {
            return Some(known.contains(&true));
        }
        let open = |run: &RunRecord| {
            let scheduled = run.request_rate.is_some() || run.rate_profile.is_some();
            scheduled || run.max_concurrency.is_none()
        };
        (!self.runs.is_empty()).then(|| self.runs.iter().any(open))
    }
}

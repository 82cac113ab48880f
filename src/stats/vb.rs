//! The part of a result that vLLM does not have. `docs/METRICS.md` defines each number.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Options,
    arrivals::merge_arrivals,
    cache::Cache,
    client::{self, ClientFigures},
    goodput::Goodput,
    group::{self, Group, Slice},
    length::RunLength,
    part::{Numbers, RunPart, is_zero},
    peak,
    rate::{MeasuredRate, TimeSlices},
    server::{ClientView, ServerMetrics},
    share::share_interval,
    slowest::{Slowest, SlowestShare},
    stamp_bounds,
    steady::{self, Steady},
    throughput::{GpuThroughput, UserSpeed},
    tokens,
};
use crate::{
    parallel,
    record::{Arrivals, ErrorKind, FORMAT_VERSION, Object, PromptLengths, TokenSource, Verdict},
    recording::{
        RecordedRequest, Recording, expected_cache::ExpectedCache, metric::Metric, pages::MetricsPages,
        population::Population, sort_by_start,
    },
    statistics::{Dependence, SampleStats, Summary, SummaryOptions, Unit, numpy},
    steadiness::{Stability, SteadyInput},
    units::UnixNanos,
};

/// The most error messages in a result.
const MAX_MESSAGES: usize = 5;

/// The metrics of a run that vLLM does not have.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Vb")]
pub struct VbMetrics {
    /// The version of the record format.
    pub format: u32,
    /// The program that wrote this, and its version.
    pub tool: String,
    /// The ids of the runs.
    pub run_ids: Vec<String>,
    /// The clients' hosts.
    pub hosts: Vec<String>,
    /// The result of `vb-selftest` on the client's machine, from the first run that has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selftest: Option<Object>,
    /// Whether every run has its end record, no line was truncated or bad, and no output is missing.
    pub complete: bool,
    /// Whether a signal ended a run early.
    pub interrupted: bool,
    /// Whether requests were sent by a schedule (open loop) or each after a response (closed loop); `null` if unknown.
    pub open_loop: Option<bool>,
    /// Whether the numbers reflect the server: the worst verdict of the clients; `null` if unknown.
    pub verdict: Option<Verdict>,
    /// Why the verdict is not `clean`, each in one line, the most serious first.
    pub reasons: Vec<String>,
    /// What the clients report about themselves; `null` if nothing.
    pub client: Option<ClientFigures>,
    /// Whether requests were sent when they were planned; `null` without a plan, or if unknown.
    pub arrivals: Option<Arrivals>,
    /// Lines of a type that this tool does not read; absent: none.
    #[serde(skip_serializing_if = "is_zero")]
    pub skipped_lines: u64,
    /// Lines that `--lenient` skipped; absent: none.
    #[serde(skip_serializing_if = "is_zero")]
    pub bad_lines: u64,
    /// Requests that were due: the outputs.
    pub offered: u64,
    /// Requests that never reached the server; `offered` does not include those that were not due yet.
    pub not_sent: u64,
    /// The 95 % interval of the share of requests that succeeded, among all that count; `null` for too few requests.
    pub success_interval: Option<[f64; 2]>,
    /// The outcomes of the offered requests: `ok`, each kind of error that there was, and `other` for errors of unknown kind.
    pub outcomes: Object,
    /// The most frequent errors.
    pub errors: Vec<FailureCount>,
    /// The prompt length if all requests have the same, else the rounded mean; `null` if unknown.
    pub input_len: Option<u64>,
    /// The requested output length in the same way, or the actual length if none was requested; `null` if unknown.
    pub output_len: Option<u64>,
    /// The start of the run, which `from_s` and the like count from; `null` if unknown.
    pub start_time: Option<UnixNanos>,
    /// Its last outcome; `null` if unknown.
    pub end_time: Option<UnixNanos>,
    /// The largest relative error of percentiles: half a bucket of the histograms; absent if all values were kept, and they are exact.
    #[serde(skip_serializing_if = "is_exact")]
    pub percentile_error: f64,
    /// Successes per second over the whole run (`request_throughput`), with its interval.
    pub requests_per_s: MeasuredRate,
    /// Generated tokens per second over the whole run (`output_throughput`), with its interval.
    pub output_tokens_per_s: MeasuredRate,
    /// The steady part of the run; `null` if no request was sent.
    pub steady: Option<Steady>,
    /// How long the run is in correlation times; `null` without a latency.
    pub run_length: Option<RunLength>,
    /// Latencies from the start of each request.
    pub from_start: Latencies,
    /// Latencies from the scheduled time of each request.
    pub from_schedule: Latencies,
    /// Time per output token after the first, over requests.
    pub tpot_ms: Summary,
    /// Gaps between chunks.
    pub itl_per_chunk_ms: Summary,
    /// Gaps between tokens.
    pub itl_per_token_ms: Summary,
    /// The longest gap between two chunks of each request that has one.
    pub longest_stall_ms: Summary,
    /// Whether the tokens of some chunks are unknown and were spread evenly; absent: none are.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub itl_per_token_estimated: bool,
    /// Schedule → start, over successes.
    pub client_queue_time_ms: Summary,
    /// Start → first token that is not reasoning.
    pub ttft_answer_ms: Summary,
    /// Schedule → start, over all requests that were sent.
    pub schedule_lag_ms: Summary,
    /// The largest delay from the kernel stamp to the read, over requests that have one.
    pub read_lag_ms: Summary,
    /// Time in the server's queue, over successes whose response reports it.
    pub server_queue_ms: Summary,
    /// TTFT as the server measures it, over successes whose response reports it.
    pub server_ttft_ms: Summary,
    /// The pace of one user's stream, in tokens per second after the first; `null` without a TPOT above 0.
    pub tokens_per_s_per_user: Option<UserSpeed>,
    /// The throughput for each GPU; `null` without `--gpus`.
    pub per_gpu: Option<GpuThroughput>,
    /// Prompt tokens of successes that did not come from the server's prefix cache, per second of the run; `null` if the server does not
    /// report cached tokens, or without a duration.
    pub uncached_prompt_tokens_per_s: Option<f64>,
    /// The slowest 1 % of the successes; `null` with fewer than 100.
    pub slowest_1_percent: Option<Slowest>,
    /// The mean number of requests in flight over the run; `null` without a duration.
    pub mean_concurrency: Option<f64>,
    /// The most requests in flight at one instant.
    pub peak_concurrency: u64,
    /// The most tokens that arrived within one second, or the mean per second if that is more, as in a run shorter than a second.
    pub peak_tokens_per_s: u64,
    /// Prompt tokens, over successes.
    pub prompt_len: Summary,
    /// Generated tokens, over successes.
    pub output_tokens: Summary,
    /// Prompt tokens from the server's prefix cache, summed over successes; `null` if the server does not report them.
    pub cached_tokens: Option<u64>,
    /// Generated reasoning tokens, summed over successes; `null` if the server does not report them.
    pub reasoning_tokens: Option<u64>,
    /// Generated tokens that no chunk showed, as reasoning that is not sent, summed over successes. TPOT and ITL leave them out. Absent: none.
    #[serde(skip_serializing_if = "is_zero")]
    pub hidden_tokens: u64,
    /// Successes by the source of their token count, of each source that there was.
    pub token_sources: Object,
    /// Successes whose output length differs from the requested one.
    pub shortfall: Shortfall,
    /// The prompts of the successes as the requests ask for them and as the server counts them; `null` if no request has a length.
    pub prompt_lengths: Option<PromptLengths>,
    /// Requests that kept the limits; `null` without `--goodput`.
    pub goodput: Option<Goodput>,
    /// Expected and actual prefix cache hits; `null` if no request has an expectation.
    pub cache: Option<Cache>,
    /// The server's own metrics; `null` without `--scrape`.
    pub server: Option<ServerMetrics>,
    /// The groups of `--by`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
    /// The slices of `--slice`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub slices: Vec<Slice>,
    /// In JSON: the parts of `vb` that are left out because they are equal to another part, and the path of that part; absent: none.
    #[serde(skip_serializing_if = "Object::is_empty")]
    pub same: Object,
}

/// Latencies from one starting point.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Latencies {
    /// Time to first token.
    pub ttft_ms: Summary,
    /// End-to-end latency.
    pub e2el_ms: Summary,
}

/// An error and its number of occurrences.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Failure")]
pub struct FailureCount {
    /// Its kind; `null` if unknown.
    pub kind: Option<ErrorKind>,
    /// Its message.
    pub message: String,
    /// Its number of occurrences.
    pub count: u64,
}

/// Output lengths compared with the requested ones. A short output was ended by the server. A count that is absent is 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Shortfall {
    /// Successes with a requested length whose tokens were counted: by usage, token ids or a tokenizer.
    pub compared: u64,
    /// Successes with fewer tokens.
    #[serde(skip_serializing_if = "is_zero")]
    pub short: u64,
    /// Successes with more tokens.
    #[serde(skip_serializing_if = "is_zero")]
    pub long: u64,
    /// The missing tokens of the short ones.
    #[serde(skip_serializing_if = "is_zero")]
    pub missing_tokens: u64,
    /// The surplus tokens of the long ones.
    #[serde(skip_serializing_if = "is_zero")]
    pub extra_tokens: u64,
}

/// What looks at every gap, and takes nearly all of the time.
struct OverTime {
    itl: SampleStats,
    peak_tokens_per_s: u64,
    steady: Option<Steady>,
    requests_per_s: MeasuredRate,
    output_tokens_per_s: MeasuredRate,
}

impl OverTime {
    fn measure(recording: &Recording, whole: &RunPart<'_>, options: &Options, duration: f64) -> Self {
        let origin = recording.run_origin();
        let ((itl, peak_tokens_per_s), (steady, (requests_per_s, output_tokens_per_s))) = parallel::join(
            || (whole.sample_gaps(&options.wanted), peak::peak_token_rate(recording)),
            || (steady_state(recording, whole, options, origin), whole_rates(recording, origin, duration)),
        );
        OverTime { itl, peak_tokens_per_s, steady, requests_per_s, output_tokens_per_s }
    }
}

/// As asked for, or as generated.
fn common_output_len(recording: &Recording) -> Option<u64> {
    common_length(recording.requests.iter().filter_map(|r| r.expected_output_len))
        .or_else(|| common_length(recording.successes().filter_map(RecordedRequest::known_output_tokens)))
}

fn ttft_from_schedule(whole: &RunPart<'_>, wanted: &SummaryOptions) -> Summary {
    let stats = whole.sample_values(&RecordedRequest::ttft_from_schedule, Unit::Seconds, wanted);
    stamp_bounds::summarize_ttft_from_schedule(whole, &stats)
}

impl VbMetrics {
    /// Computes all metrics, and the statistics for vLLM's keys.
    #[must_use]
    pub(super) fn from_recording(
        recording: &Recording,
        options: &Options,
        duration: f64,
    ) -> (Self, Vec<(Metric, SampleStats)>) {
        let (wanted, whole) = (&options.wanted, RunPart::from_recording(recording));
        let (bounds, origin) = (recording.run_bounds(), recording.run_origin());
        let (verdict, reasons) = client::worst_verdict(recording);
        let OverTime { itl, peak_tokens_per_s, steady, requests_per_s, output_tokens_per_s } =
            OverTime::measure(recording, &whole, options, duration);
        let latency_stats = |metric: Metric| {
            let value = metric.request_value();
            value.map_or_else(SampleStats::default, |value| whole.sample_values(&value, Unit::Seconds, wanted))
        };
        let over_successes = |unit, value: fn(&RecordedRequest) -> Option<f64>| {
            let values: Vec<f64> = recording.successes().filter_map(value).collect();
            Summary::from_stats(&SampleStats::from_values(&values, unit, wanted))
        };
        let with_intervals = |value: &dyn Fn(&RecordedRequest) -> Option<f64>| {
            Summary::from_stats(&whole.sample_values(value, Unit::Seconds, wanted))
        };
        let [ttft, tpot, e2el, queue_time, e2el_queue] =
            [Metric::Ttft, Metric::Tpot, Metric::E2el, Metric::ClientQueueTime, Metric::E2elIncludingClientQueue]
                .map(latency_stats);
        let summarize = |metric, stats| stamp_bounds::summarize(&whole, metric, stats);
        let (per_chunk, tpot_ms) = (summarize(Metric::Itl, &itl), summarize(Metric::Tpot, &tpot));
        let speed = UserSpeed::measure(recording.successes(), &tpot_ms);
        let longest_gap = |r: &RecordedRequest| recording.gaps_of(r).iter().copied().reduce(f64::max);
        let vb = VbMetrics {
            format: FORMAT_VERSION,
            tool: concat!("vb-stats ", env!("CARGO_PKG_VERSION")).into(),
            hosts: collect_hosts(recording),
            selftest: recording.runs.iter().find_map(|run| run.selftest.clone()),
            complete: recording.is_complete(),
            interrupted: recording.ends.iter().any(|end| end.interrupted),
            open_loop: recording.open_loop(),
            verdict,
            reasons,
            client: ClientFigures::from_recording(recording),
            arrivals: recording.ends.iter().filter_map(|end| end.arrivals).reduce(merge_arrivals),
            skipped_lines: recording.skipped,
            bad_lines: recording.bad_lines,
            offered: recording.requests.len() as u64,
            not_sent: recording.not_sent(),
            success_interval: share_interval(whole.counted(), |r| r.success),
            outcomes: count_outcomes(recording),
            errors: most_frequent(recording.messages.iter()),
            input_len: common_length(recording.requests.iter().map(|r| r.prompt_len).filter(|n| *n > 0)),
            output_len: common_output_len(recording),
            start_time: bounds.map(|(start, _)| start),
            end_time: bounds.map(|(_, end)| end),
            percentile_error: 0.0,
            requests_per_s,
            output_tokens_per_s,
            steady,
            run_length: None,
            from_start: Latencies { ttft_ms: summarize(Metric::Ttft, &ttft), e2el_ms: summarize(Metric::E2el, &e2el) },
            from_schedule: Latencies {
                ttft_ms: ttft_from_schedule(&whole, wanted),
                e2el_ms: summarize(Metric::E2elIncludingClientQueue, &e2el_queue),
            },
            tpot_ms,
            itl_per_token_ms: summarize_gaps_per_token(recording, &itl, wanted).unwrap_or_else(|| per_chunk.clone()),
            itl_per_chunk_ms: per_chunk,
            longest_stall_ms: with_intervals(&longest_gap),
            itl_per_token_estimated: tokens::has_estimates(recording),
            client_queue_time_ms: Summary::from_stats(&queue_time),
            ttft_answer_ms: with_intervals(&|r| r.ttft_answer),
            schedule_lag_ms: summarize_in_order(&schedule_lags(recording), wanted),
            read_lag_ms: summarize_in_order(&recording.read_lags, wanted),
            server_queue_ms: summarize_in_order(&recording.server_times.0, wanted),
            server_ttft_ms: summarize_in_order(&recording.server_times.1, wanted),
            tokens_per_s_per_user: Some(speed).filter(|speed| speed.n > 0),
            per_gpu: None,
            uncached_prompt_tokens_per_s: None,
            slowest_1_percent: slowest_requests(recording),
            mean_concurrency: None,
            peak_concurrency: peak::peak_concurrency(recording),
            peak_tokens_per_s: peak_tokens_per_s.max(ceil_rate(output_tokens_per_s.per_s)),
            prompt_len: over_successes(Unit::Tokens, |r| Some(f64::from(r.prompt_len))),
            output_tokens: over_successes(Unit::Tokens, |r| r.known_output_tokens().map(f64::from)),
            cached_tokens: recording.cached_tokens,
            reasoning_tokens: recording.reasoning_tokens,
            hidden_tokens: recording.hidden_tokens,
            token_sources: count_token_sources(recording),
            shortfall: measure_shortfall(recording),
            prompt_lengths: Some(recording.prompt_lengths).filter(|lengths| lengths.compared > 0),
            goodput: Goodput::measure(recording, &whole, &options.slos, duration, wanted),
            cache: None,
            server: None,
            groups: group::group_requests(recording, options),
            slices: group::slice_requests(recording, options, origin),
            same: Object::new(),
            run_ids: recording.run_ids.clone(),
        };
        let distributions = [
            (Metric::Ttft, ttft),
            (Metric::Tpot, tpot),
            (Metric::Itl, itl),
            (Metric::E2el, e2el),
            (Metric::ClientQueueTime, queue_time),
            (Metric::E2elIncludingClientQueue, e2el_queue),
        ];
        let shown = distributions.into_iter().filter(|(metric, _)| options.metrics.contains(metric)).collect();
        (vb.with_run_length(), shown)
    }

    /// With its length, which follows from its distributions.
    #[must_use]
    pub(super) fn with_run_length(mut self) -> Self {
        let metrics = [
            ("ttft", &self.from_start.ttft_ms),
            ("tpot", &self.tpot_ms),
            ("itl", &self.itl_per_chunk_ms),
            ("e2el", &self.from_start.e2el_ms),
        ];
        self.run_length = RunLength::from_metrics(&metrics);
        self
    }

    /// The distribution of one of vLLM's latencies.
    #[must_use]
    pub fn latency_summary(&self, metric: Metric) -> &Summary {
        match metric {
            Metric::Ttft => &self.from_start.ttft_ms,
            Metric::Tpot => &self.tpot_ms,
            Metric::Itl => &self.itl_per_chunk_ms,
            Metric::E2el => &self.from_start.e2el_ms,
            Metric::ClientQueueTime => &self.client_queue_time_ms,
            Metric::E2elIncludingClientQueue => &self.from_schedule.e2el_ms,
        }
    }

    /// Adds the server's own metrics, and compares them with the client's.
    pub fn add_server_view(
        &mut self,
        pages: MetricsPages,
        expected: ExpectedCache,
        span: Option<(UnixNanos, UnixNanos)>,
    ) {
        let population = self.population();
        let stamps = self.client.as_ref().and_then(|client| client.stamps);
        let client = ClientView {
            sent: population.offered.saturating_sub(self.count_outcome(ErrorKind::NotSent.name())),
            completed: population.succeeded,
            ttft_ms: self.from_start.ttft_ms.mean,
            itl_per_chunk_ms: self.itl_per_chunk_ms.mean,
            itl_per_token_ms: self.itl_per_token_ms.mean,
            e2el_ms: self.from_start.e2el_ms.mean,
            true_stamps: stamps.is_some_and(|s| s.user.saturating_add(s.late_coalesced).saturating_mul(100) < s.chunks),
            span,
        };
        self.server = ServerMetrics::from_pages(pages, &client);
        let scraped = self.server.as_ref().and_then(|server| server.prefix_cache);
        self.cache = Cache::compare_usage(expected, population.succeeded, self.peak_concurrency, scraped);
    }

    /// How its requests ended.
    #[must_use]
    pub fn population(&self) -> Population {
        Population {
            offered: self.offered,
            abandoned: self.count_outcome(ErrorKind::Abandoned.name()),
            succeeded: self.count_outcome("ok"),
        }
    }

    /// Whether its requests waited for the one before them and for nothing else, so that the two time bases say the same: in a
    /// closed loop, less than 1 % of their latency. Results with histograms keep both, to be pooled.
    #[must_use]
    pub fn is_on_schedule(&self) -> bool {
        let means = self.client_queue_time_ms.mean.zip(self.from_start.e2el_ms.mean);
        let has_histograms = self.from_start.e2el_ms.histogram.is_some();
        self.open_loop == Some(false) && !has_histograms && means.is_some_and(|(wait, latency)| wait < 0.01 * latency)
    }

    fn count_outcome(&self, name: &str) -> u64 {
        self.outcomes.get(name).and_then(serde_json::Value::as_u64).unwrap_or_default()
    }

    /// Contradictions between the client and the server, each in one line.
    pub fn server_doubts(&self) -> impl Iterator<Item = &String> {
        let cache = self.cache.iter().filter_map(|cache| cache.note.as_ref());
        cache.chain(self.server.iter().flat_map(|server| &server.notes))
    }
}

/// The slowest requests; `None` if there are too few of any.
fn slowest_requests(recording: &Recording) -> Option<Slowest> {
    let share = |value: fn(&RecordedRequest) -> Option<f64>| {
        SlowestShare::measure(recording.successes().filter_map(value).collect())
    };
    Some(Slowest { ttft: share(|r| r.ttft), e2el: share(|r| r.latency) })
        .filter(|slowest| *slowest != Slowest::default())
}

/// How late each request was sent, in the order of sending.
fn schedule_lags(recording: &Recording) -> Vec<f64> {
    let sent = recording.requests.iter().filter(|r| r.start.is_some());
    sort_by_start(sent).into_iter().filter_map(|r| r.queue_time).collect()
}

/// Summarizes times that are in the order of the requests.
fn summarize_in_order(times: &[f64], wanted: &SummaryOptions) -> Summary {
    let dependence = Dependence::measure(times, &wanted.percentiles);
    Summary::from_stats(&SampleStats::with_intervals(&[times], Unit::Seconds, wanted, &dependence))
}

/// The gaps per token, if chunks have several; `itl` has those between chunks.
fn summarize_gaps_per_token(recording: &Recording, itl: &SampleStats, wanted: &SummaryOptions) -> Option<Summary> {
    let gaps = tokens::gaps_per_token(recording)?;
    // The tokens of a chunk say no more than the chunk.
    let evidence = itl.precision.as_ref().map(|precision| precision.evidence).unwrap_or_default();
    Some(Summary::from_stats(&SampleStats::with_evidence(&[&gaps], Unit::Seconds, wanted, evidence, &[])))
}

/// The rates of successes and of tokens over the whole run of `duration` seconds.
#[must_use]
pub fn whole_rates(recording: &Recording, origin: f64, duration: f64) -> (MeasuredRate, MeasuredRate) {
    steady::measure_rates(recording, |cycle| TimeSlices::new(origin, origin + duration, cycle).count_all())
}

/// The steady part of the run, with its metrics.
fn steady_state(recording: &Recording, whole: &RunPart, options: &Options, origin: f64) -> Option<Steady> {
    if recording.earlier.requests > 0 {
        return Some(sampled_steady_state(recording));
    }
    let sent = sort_by_start(whole.counted().filter(|r| r.start.is_some()));
    sent.first()?;
    let (steady, window) = Steady::detect(&SteadyInput::new(recording, &sent));
    let steady = steady.with_stalls(recording, origin);
    let Some(window) = window else { return Some(steady) };
    let mut steady = steady.with_measurements(window, recording);
    if steady.verdict == Stability::Steady {
        let part = steady::window_part(recording, window);
        steady.numbers = Some(Numbers::measure(&part, &options.wanted, &options.slos));
    }
    Some(steady)
}

/// The steady part of a run whose requests were not all kept, without the metrics that need all of them.
fn sampled_steady_state(recording: &Recording) -> Steady {
    let sample = recording.earlier.sample_with(&recording.requests);
    let sent = sort_by_start(sample.iter().filter(|r| r.counts() && r.start.is_some()));
    let (steady, _) = Steady::detect(&SteadyInput::new(recording, &sent));
    let one_in = recording.earlier.one_in();
    let why = if one_in > 1 { format!("{} (of one request in {one_in})", steady.why) } else { steady.why.clone() };
    // The gaps between every second start do not show lock-step.
    let lock_step = steady.lock_step.filter(|_| one_in == 1);
    Steady { why, lock_step, ..steady.scale_counts(one_in) }
}

fn collect_hosts(recording: &Recording) -> Vec<String> {
    let mut hosts: Vec<String> = Vec::new();
    for run in &recording.runs {
        if !run.host.is_empty() && !hosts.contains(&run.host) {
            hosts.push(run.host.clone());
        }
    }
    hosts
}

fn count_outcomes(recording: &Recording) -> Object {
    let count = |kind: Option<ErrorKind>| recording.failures.get(&kind).copied().unwrap_or_default();
    let mut outcomes = Object::new();
    outcomes.insert("ok".into(), recording.successes().count().into());
    let kinds = ErrorKind::ALL.into_iter().map(|kind| (kind.name(), count(Some(kind))));
    for (name, n) in kinds.chain([("other", count(None))]).filter(|(_, n)| *n > 0) {
        outcomes.insert(name.into(), n.into());
    }
    outcomes
}

/// The most frequent failures. A request that the client cancelled on purpose did not fail.
pub fn most_frequent<'a>(
    counts: impl Iterator<Item = (&'a (Option<ErrorKind>, String), &'a u64)>,
) -> Vec<FailureCount> {
    let failure = |((kind, message), count): (&(Option<ErrorKind>, String), &u64)| FailureCount {
        kind: *kind,
        message: message.clone(),
        count: *count,
    };
    let mut all: Vec<FailureCount> =
        counts.filter(|((kind, _), _)| *kind != Some(ErrorKind::Abandoned)).map(failure).collect();
    all.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| (a.kind, &a.message).cmp(&(b.kind, &b.message))));
    all.truncate(MAX_MESSAGES);
    all
}

/// A rate as a whole number that is not below it, except by rounding errors.
fn ceil_rate(per_s: f64) -> u64 {
    numpy::truncate_to_usize((per_s * (1.0 - 1e-9)).ceil()) as u64
}

/// The common value, or the rounded mean; `None` without values.
fn common_length(values: impl Iterator<Item = u32>) -> Option<u64> {
    let (n, sum) = values.fold((0, 0), |(n, sum), value| (n + 1, sum + u64::from(value)));
    (n > 0).then(|| (sum + n / 2) / n)
}

/// The key of `token_sources` for successes whose tokens were not counted.
pub const UNCOUNTED: &str = "none";

fn count_token_sources(recording: &Recording) -> Object {
    let named = |source: TokenSource| (source.name(), recording.token_sources[source as usize]);
    let counts = TokenSource::ALL.map(named).into_iter().chain([(UNCOUNTED, recording.uncounted)]);
    counts.filter(|(_, n)| *n > 0).map(|(name, n)| (name.to_owned(), n.into())).collect()
}

fn measure_shortfall(recording: &Recording) -> Shortfall {
    let mut shortfall = Shortfall::default();
    for request in recording.successes().filter(|request| !request.is_uncounted) {
        let Some(expected) = request.expected_output_len else { continue };
        let expected = expected.saturating_mul(request.choices.max(1));
        shortfall.compared += 1;
        shortfall.short += u64::from(request.output_tokens < expected);
        shortfall.long += u64::from(request.output_tokens > expected);
        shortfall.missing_tokens += u64::from(expected.saturating_sub(request.output_tokens));
        shortfall.extra_tokens += u64::from(request.output_tokens.saturating_sub(expected));
    }
    shortfall
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde passes a reference
fn is_exact(error: &f64) -> bool {
    *error <= 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_length_is_kept_and_different_ones_are_averaged() {
        assert_eq!(common_length([64, 64].into_iter()), Some(64));
        assert_eq!(common_length([64, 65].into_iter()), Some(65));
        assert_eq!(common_length([10, 10, 11].into_iter()), Some(10));
        assert_eq!(common_length(std::iter::empty()), None);
    }
}

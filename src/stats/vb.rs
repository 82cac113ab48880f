//! The part of a result that vLLM does not have. `docs/METRICS.md` defines each number.

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use super::{
    Options,
    cache::{Cache, Meant},
    client::{self, Client},
    goodput::Goodput,
    interval::{self, Dependences, Interval},
    metric::{Distribution, Metric, Precision},
    peak,
    recording::{Recording, Request},
    server::{ClientView, Pages, Server},
    tokens,
};
use crate::{
    record::{ErrorKind, FORMAT_VERSION, Object, TokenSource, Verdict},
    units::UnixNanos,
};

/// How many error messages are shown.
const MESSAGES: usize = 5;

/// What vLLM does not tell of a run.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Vb {
    /// The version of the record format.
    pub format: u32,
    /// The program that wrote this, and its version.
    pub tool: String,
    /// The runs that were read.
    pub run_ids: Vec<String>,
    /// The clients' hosts.
    pub hosts: Vec<String>,
    /// What `vb-selftest` found on the client's machine: that of the first run to which it was attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selftest: Option<Object>,
    /// Whether every run has its end record, no line was cut off or bad, and no output is missing.
    pub complete: bool,
    /// Whether a signal ended a run early.
    pub interrupted: bool,
    /// Whether requests were sent by a schedule (open loop) or each upon an answer (closed loop); `null`: not told.
    pub open_loop: Option<bool>,
    /// Whether the numbers are the server's, by the worst of the clients; `null`: not told.
    pub verdict: Option<Verdict>,
    /// Why the verdict is not `clean`, each in one line, the gravest first.
    pub reasons: Vec<String>,
    /// What the clients tell of themselves; `null`: nothing.
    pub client: Option<Client>,
    /// Lines of a type this tool does not read.
    pub skipped_lines: u64,
    /// Lines that `--lenient` passed over.
    pub bad_lines: u64,
    /// Requests that were due: the outputs.
    pub offered: u64,
    /// Requests that never reached the server; those that were not yet due are no part of `offered`.
    pub not_sent: u64,
    /// The outcomes of the offered requests: `ok`, each kind of error, and `other` for an error without a known kind.
    pub outcomes: Object,
    /// The most frequent errors.
    pub errors: Vec<Failure>,
    /// The prompt length of all requests where it is the same, else the rounded mean; `null`: not known.
    pub input_len: Option<u64>,
    /// The expected output length likewise; where none was asked for, that of the answers.
    pub output_len: Option<u64>,
    /// Latencies counted from the start of each request.
    pub from_start: Latencies,
    /// Latencies counted from when each request was due.
    pub from_schedule: Latencies,
    /// Time per output token after the first, over requests.
    pub tpot_ms: Summary,
    /// Gaps between chunks.
    pub itl_per_chunk_ms: Summary,
    /// Gaps between tokens.
    pub itl_per_token_ms: Summary,
    /// The longest gap between two chunks of each request that has any.
    pub longest_stall_ms: Summary,
    /// Whether the tokens of some chunks are not known and were spread evenly.
    pub itl_per_token_estimated: bool,
    /// Start → first token that is not reasoning.
    pub ttft_answer_ms: Summary,
    /// Schedule → start, over all requests that were sent.
    pub schedule_lag_ms: Summary,
    /// The worst delay between the kernel's receive stamp and the read, over requests that know it.
    pub read_lag_ms: Summary,
    /// In the server's queue, over successes whose answer tells.
    pub server_queue_ms: Summary,
    /// To the first token as the server counts it, over successes whose answer tells.
    pub server_ttft_ms: Summary,
    /// The most requests in flight at one instant.
    pub peak_concurrency: u64,
    /// The most tokens that arrived within any one second.
    pub peak_tokens_per_s: u64,
    /// Prompt tokens, over successes.
    pub prompt_len: Summary,
    /// Generated tokens, over successes.
    pub output_tokens: Summary,
    /// Prompt tokens from the server's prefix cache, summed over successes; `null`: the server does not tell.
    pub cached_tokens: Option<u64>,
    /// Generated tokens that were reasoning, summed over successes; `null`: the server does not tell.
    pub reasoning_tokens: Option<u64>,
    /// Successes by where their count of tokens comes from.
    pub token_sources: Object,
    /// Successes whose output is not as long as was asked for.
    pub shortfall: Shortfall,
    /// Requests within the limits; `null` without `--goodput`.
    pub goodput: Option<Goodput>,
    /// The prefix cache, as the requests mean it and as it was; `null`: they do not say.
    pub cache: Option<Cache>,
    /// What the server told of itself; `null` without `--scrape`.
    pub server: Option<Server>,
}

/// Latencies in one time base.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Latencies {
    /// Time to first token.
    pub ttft_ms: Summary,
    /// End-to-end latency.
    pub e2el_ms: Summary,
}

/// A distribution; everything but `n` is `null` for an empty one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
pub struct Summary {
    /// How many values.
    pub n: usize,
    /// The mean.
    pub mean: Option<f64>,
    /// The standard deviation of the population.
    pub std: Option<f64>,
    /// The smallest.
    pub min: Option<f64>,
    /// `p50` and so on, those of `--metric-percentiles`.
    #[serde(flatten)]
    pub percentiles: Object,
    /// The largest.
    pub max: Option<f64>,
    /// Independent values that would tell the mean as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n_effective: Option<f64>,
    /// 95 % intervals of the `mean` and of each percentile, `[low, high]`; an end is `null` where there are too few values.
    #[serde(skip_serializing_if = "Object::is_empty")]
    pub intervals: Object,
    /// The percentiles that are `null` for want of values: how many each `needs`, and how many it `has`.
    #[serde(skip_serializing_if = "Object::is_empty")]
    pub too_few: Object,
}

impl Summary {
    /// Of a distribution, with its unit multiplied by `scale`.
    fn of(told: &Distribution, scale: f64) -> Self {
        let some = |value: f64| (told.n > 0).then_some(value * scale);
        let percentiles = told.percentiles.iter().map(|(p, value)| (format!("p{p}"), some(*value).into()));
        let mut summary = Summary {
            n: told.n,
            mean: some(told.mean),
            std: some(told.std),
            min: some(told.min),
            percentiles: percentiles.collect(),
            max: some(told.max),
            ..Summary::default()
        };
        if let Some(precision) = &told.precision {
            summary.qualify(precision, &told.percentiles, scale);
        }
        summary
    }

    /// Says how sure the numbers are, and takes back those that are not.
    fn qualify(&mut self, precision: &Precision, percentiles: &[(f64, f64)], scale: f64) {
        let ends = |interval: &Interval| json!([interval.low, interval.high].map(|end| end.map(|end| end * scale)));
        self.n_effective = Some(precision.effective);
        self.intervals.insert("mean".into(), ends(&precision.mean));
        for ((p, _), interval) in percentiles.iter().zip(&precision.percentiles) {
            let name = format!("p{p}");
            self.intervals.insert(name.clone(), ends(interval));
            if let Some(needs) = interval::needed(*p).filter(|needs| (self.n as u64) < *needs) {
                self.percentiles.insert(name.clone(), serde_json::Value::Null);
                self.too_few.insert(name, json!({"needs": needs, "has": self.n}));
            }
        }
    }

    /// An end of the interval of `mean` or a percentile: 0 is the lower, 1 the upper.
    #[must_use]
    pub fn end(&self, name: &str, which: usize) -> Option<f64> {
        self.intervals.get(name)?.get(which)?.as_f64()
    }

    /// What can be said of a percentile for which there are too few values.
    #[must_use]
    pub fn bound(&self, name: &str) -> String {
        self.end(name, 0).map_or_else(|| "-".to_owned(), |low| format!(">= {low:.2}"))
    }
}

/// An error and how often it occurred.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Failure {
    /// Its kind; `null`: not told.
    pub kind: Option<ErrorKind>,
    /// Its text.
    pub message: String,
    /// How often.
    pub count: u64,
}

/// Outputs that are shorter than asked for: the server stopped by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Shortfall {
    /// Successes whose request had an expected length.
    pub compared: u64,
    /// Those that got fewer tokens.
    pub short: u64,
    /// Those that got more.
    pub long: u64,
    /// The tokens that the short ones lack.
    pub missing_tokens: u64,
}

impl Vb {
    /// Computes everything, and the distributions that vLLM's keys show. The recording is used up.
    #[must_use]
    pub fn of(recording: Recording, options: &Options, duration: f64) -> (Self, Vec<(Metric, Distribution)>) {
        let told = |values: Vec<f64>| Distribution::of(values, &options.percentiles);
        let in_time = in_time(&recording);
        // The values in the order of the input, as vLLM adds them, and what they depend on in the order of time.
        let sure = |of: &dyn Fn(&Request) -> Option<f64>| {
            let ordered: Vec<f64> = in_time.iter().filter_map(|request| of(request)).collect();
            let values = recording.successes().filter_map(of).collect();
            Distribution::sure(values, &options.percentiles, &Dependences::of(&ordered, &options.percentiles))
        };
        let of = |metric: Metric| metric.of_request().map_or_else(Distribution::default, |value| sure(&value));
        let ms = |told: &Distribution| Summary::of(told, 1e3);
        let (ttft, tpot, e2el) = (of(Metric::Ttft), of(Metric::Tpot), of(Metric::E2el));
        let (queue_time, e2el_queue) = (of(Metric::ClientQueueTime), of(Metric::E2elIncludingClientQueue));
        let over_successes = |of: fn(&Request) -> Option<f64>| told(recording.successes().filter_map(of).collect());
        let ttft_queue = sure(&|r: &Request| Some(r.ttft? + r.queue_time?));
        let sent = recording.requests.iter().filter(|r| r.start.is_some());
        let per_token = tokens::gaps(&recording).map(told);
        let (verdict, reasons) = client::verdict(&recording);
        let dependences = gaps_in_time(&recording, &options.percentiles);
        let vb = Vb {
            format: FORMAT_VERSION,
            tool: concat!("vb-stats ", env!("CARGO_PKG_VERSION")).into(),
            hosts: hosts(&recording),
            selftest: recording.runs.iter().find_map(|run| run.selftest.clone()),
            complete: recording.complete(),
            interrupted: recording.ends.iter().any(|end| end.interrupted),
            open_loop: recording.open_loop(),
            verdict,
            reasons,
            client: Client::of(&recording),
            skipped_lines: recording.skipped,
            bad_lines: recording.bad_lines,
            offered: recording.requests.len() as u64,
            not_sent: recording.not_sent(),
            outcomes: outcomes(&recording),
            errors: messages(&recording),
            input_len: common(recording.requests.iter().map(|r| r.prompt_len).filter(|n| *n > 0)),
            output_len: common(recording.requests.iter().filter_map(|r| r.expected_output_len))
                .or_else(|| common(recording.successes().map(|r| r.output_tokens))),
            from_start: Latencies { ttft_ms: ms(&ttft), e2el_ms: ms(&e2el) },
            from_schedule: Latencies { ttft_ms: ms(&ttft_queue), e2el_ms: ms(&e2el_queue) },
            tpot_ms: ms(&tpot),
            itl_per_chunk_ms: Summary::default(),
            itl_per_token_ms: per_token.as_ref().map(ms).unwrap_or_default(),
            longest_stall_ms: ms(&sure(&|r: &Request| recording.gaps_of(r).iter().copied().reduce(f64::max))),
            itl_per_token_estimated: tokens::estimated(&recording),
            ttft_answer_ms: ms(&over_successes(|r| r.ttft_answer)),
            schedule_lag_ms: ms(&told(sent.filter_map(|r| r.queue_time).collect())),
            read_lag_ms: ms(&told(recording.read_lags.clone())),
            server_queue_ms: ms(&told(recording.server_times.0.clone())),
            server_ttft_ms: ms(&told(recording.server_times.1.clone())),
            peak_concurrency: peak::concurrency(&recording),
            peak_tokens_per_s: peak::token_rate(&recording),
            prompt_len: Summary::of(&over_successes(|r| Some(f64::from(r.prompt_len))), 1.0),
            output_tokens: Summary::of(&over_successes(|r| Some(f64::from(r.output_tokens))), 1.0),
            cached_tokens: recording.cached_tokens,
            reasoning_tokens: recording.reasoning_tokens,
            token_sources: token_sources(&recording),
            shortfall: shortfall(&recording),
            goodput: Goodput::of(&recording, &options.slos, duration),
            cache: None,
            server: None,
            run_ids: recording.run_ids,
        };
        // Last, because it uses up the longest vector of all instead of copying it.
        let itl = Distribution::sure(recording.gaps, &options.percentiles, &dependences);
        let per_chunk = Summary::of(&itl, 1e3);
        let per_token = if per_token.is_none() { per_chunk.clone() } else { vb.itl_per_token_ms.clone() };
        let distributions = [
            (Metric::Ttft, ttft),
            (Metric::Tpot, tpot),
            (Metric::Itl, itl),
            (Metric::E2el, e2el),
            (Metric::ClientQueueTime, queue_time),
            (Metric::E2elIncludingClientQueue, e2el_queue),
        ];
        let shown = distributions.into_iter().filter(|(metric, _)| options.metrics.contains(metric)).collect();
        (Vb { itl_per_chunk_ms: per_chunk, itl_per_token_ms: per_token, ..vb }, shown)
    }

    /// Adds what the server told of itself, and holds the client's numbers against it.
    pub fn hold_against(&mut self, pages: Pages, meant: Meant, span: Option<(UnixNanos, UnixNanos)>) {
        let outcome = |name| self.outcomes.get(name).and_then(serde_json::Value::as_u64).unwrap_or_default();
        let stamps = self.client.as_ref().and_then(|client| client.stamps);
        let completed = outcome("ok");
        let client = ClientView {
            sent: self.offered - outcome(ErrorKind::NotSent.name()),
            completed,
            ttft_ms: self.from_start.ttft_ms.mean,
            itl_per_chunk_ms: self.itl_per_chunk_ms.mean,
            itl_per_token_ms: self.itl_per_token_ms.mean,
            e2el_ms: self.from_start.e2el_ms.mean,
            true_stamps: stamps.is_some_and(|s| (s.user + s.late_coalesced).saturating_mul(100) < s.chunks),
            span,
        };
        self.server = Server::of(pages, &client);
        let scraped = self.server.as_ref().and_then(|server| server.prefix_cache);
        self.cache = Cache::of(meant, completed, self.peak_concurrency, scraped);
    }

    /// What does not fit together between the client and the server, each in one line.
    pub fn doubts(&self) -> impl Iterator<Item = &String> {
        let cache = self.cache.iter().filter_map(|cache| cache.note.as_ref());
        cache.chain(self.server.iter().flat_map(|server| &server.notes))
    }
}

/// The successes in the order in which they were sent.
fn in_time(recording: &Recording) -> Vec<&Request> {
    let mut requests: Vec<&Request> = recording.successes().collect();
    requests.sort_by(|a, b| a.start.unwrap_or_default().total_cmp(&b.start.unwrap_or_default()));
    requests
}

/// How the gaps of all answers depend on each other.
fn gaps_in_time(recording: &Recording, percentiles: &[f64]) -> Dependences {
    let ends = |request: &Request| {
        let mut end = request.start.unwrap_or_default() + request.ttft.unwrap_or_default();
        recording.gaps_of(request).iter().map(move |gap| {
            end += gap;
            (end, *gap)
        })
    };
    let each = |take: &mut dyn FnMut(f64, f64)| {
        for (end, gap) in recording.successes().flat_map(ends) {
            take(end, gap);
        }
    };
    let (mut first, mut last) = (f64::INFINITY, f64::NEG_INFINITY);
    each(&mut |end, _| (first, last) = (first.min(end), last.max(end)));
    Dependences::over_time(&recording.gaps, (first, last), percentiles, each)
}

fn hosts(recording: &Recording) -> Vec<String> {
    let mut hosts: Vec<String> = Vec::new();
    for run in &recording.runs {
        if !run.host.is_empty() && !hosts.contains(&run.host) {
            hosts.push(run.host.clone());
        }
    }
    hosts
}

fn outcomes(recording: &Recording) -> Object {
    let count = |kind: Option<ErrorKind>| recording.failures.get(&kind).copied().unwrap_or_default();
    let mut outcomes = Object::new();
    outcomes.insert("ok".into(), recording.successes().count().into());
    for kind in ErrorKind::ALL {
        outcomes.insert(kind.name().into(), count(Some(kind)).into());
    }
    outcomes.insert("other".into(), count(None).into());
    outcomes
}

fn messages(recording: &Recording) -> Vec<Failure> {
    let mut all: Vec<Failure> = recording
        .messages
        .iter()
        .map(|((kind, message), count)| Failure { kind: *kind, message: message.clone(), count: *count })
        .collect();
    all.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| (a.kind, &a.message).cmp(&(b.kind, &b.message))));
    all.truncate(MESSAGES);
    all
}

/// The common value, else the rounded mean; `None` without any.
fn common(values: impl Iterator<Item = u32>) -> Option<u64> {
    let (n, sum) = values.fold((0, 0), |(n, sum), value| (n + 1, sum + u64::from(value)));
    (n > 0).then(|| (sum + n / 2) / n)
}

fn token_sources(recording: &Recording) -> Object {
    let named = |source: TokenSource| (source.name().to_owned(), recording.token_sources[source as usize].into());
    TokenSource::ALL.map(named).into_iter().collect()
}

fn shortfall(recording: &Recording) -> Shortfall {
    let mut shortfall = Shortfall::default();
    for request in recording.successes() {
        let Some(expected) = request.expected_output_len else { continue };
        shortfall.compared += 1;
        shortfall.short += u64::from(request.output_tokens < expected);
        shortfall.long += u64::from(request.output_tokens > expected);
        shortfall.missing_tokens += u64::from(expected.saturating_sub(request.output_tokens));
    }
    shortfall
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_length_is_kept_and_others_are_averaged() {
        assert_eq!(common([64, 64].into_iter()), Some(64));
        assert_eq!(common([64, 65].into_iter()), Some(65));
        assert_eq!(common([10, 10, 11].into_iter()), Some(10));
        assert_eq!(common(std::iter::empty()), None);
    }

    #[test]
    fn an_empty_distribution_has_no_mean() {
        let empty = Summary::of(&Distribution::of(vec![], &[50.0]), 1e3);
        let json = serde_json::to_string(&empty).unwrap();
        assert_eq!(json, r#"{"n":0,"mean":null,"std":null,"min":null,"p50":null,"max":null}"#);
    }
}

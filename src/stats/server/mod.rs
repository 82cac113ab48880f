//! The server's own metrics of a run, from `vb-fire --scrape`, and how they agree with the client's.

mod histogram;
mod reconcile;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use self::histogram::PrometheusBuckets;
pub use self::{
    histogram::BucketEstimate,
    reconcile::{ClientView, Parts, Reconciled},
};
use crate::{
    http::prometheus::label_value,
    record::Object,
    recording::pages::{Gauge, MetricGains, MetricsPages},
    statistics::numpy,
};

/// The server's own metrics: differences between the first page and the last; `null` if not reported.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Server")]
pub struct ServerMetrics {
    /// The URLs of the pages.
    pub urls: Vec<String>,
    /// Pages that were read.
    pub scrapes: u64,
    /// Scrapes that failed.
    pub failed_scrapes: u64,
    /// Seconds from the first page to the last.
    pub seconds: Option<f64>,
    /// How often a server reset its counters.
    pub resets: u64,
    /// Finished requests by the server's reason.
    pub finished: Option<Object>,
    /// Prompt tokens of the requests that started.
    pub prompt_tokens: Option<u64>,
    /// Generated tokens.
    pub generation_tokens: Option<u64>,
    /// The prefix cache.
    pub prefix_cache: Option<PrefixCache>,
    /// How often a running request lost its memory.
    pub preemptions: Option<u64>,
    /// The share of the KV cache in use, from 0 to 1.
    pub kv_cache_usage: Option<GaugeLoad>,
    /// Requests in the batch.
    pub running: Option<GaugeLoad>,
    /// Requests in the queue.
    pub waiting: Option<GaugeLoad>,
    /// Arrival → first token.
    pub ttft_ms: Option<Times>,
    /// Between the tokens of a request.
    pub itl_ms: Option<Times>,
    /// The mean of these per request.
    pub tpot_ms: Option<Times>,
    /// Arrival → last token.
    pub e2el_ms: Option<Times>,
    /// Time in the queue.
    pub queue_ms: Option<Times>,
    /// First scheduled → first token.
    pub prefill_ms: Option<Times>,
    /// First token → last token.
    pub decode_ms: Option<Times>,
    /// First scheduled → last token.
    pub inference_ms: Option<Times>,
    /// Speculative decoding; `null` if not used.
    pub spec_decode: Option<SpecDecode>,
    /// The client's means compared with the server's.
    pub reconciled: Reconciled,
    /// Contradictions, each in one line.
    pub notes: Vec<String>,
}

/// The prefix cache.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PrefixCache {
    /// Prompt tokens that were looked up.
    pub queries: u64,
    /// Looked-up tokens that were found, including those in a cache outside the server.
    pub hits: u64,
    /// `hits` / `queries`; `null` if nothing was looked up.
    pub hit_rate: Option<f64>,
    /// The tokens per block, which is cached as a whole or not at all; `null` if not reported.
    pub block_size: Option<u32>,
}

/// A gauge over the run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Load")]
pub struct GaugeLoad {
    /// Its time-weighted mean.
    pub mean: f64,
    /// The largest value on a page.
    pub max: f64,
}

/// A distribution with known sum and buckets, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Times {
    /// The number of values.
    pub n: u64,
    /// Their mean, which is exact.
    pub mean: f64,
    /// The estimated median; `null` if the buckets do not cover all values.
    pub p50: Option<BucketEstimate>,
    /// The estimated 90th percentile.
    pub p90: Option<BucketEstimate>,
    /// The estimated 99th percentile.
    pub p99: Option<BucketEstimate>,
}

/// Speculative decoding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SpecDecode {
    /// Drafts.
    pub drafts: u64,
    /// Tokens in drafts.
    pub draft_tokens: u64,
    /// Accepted draft tokens.
    pub accepted_tokens: u64,
    /// `accepted_tokens` / `draft_tokens`; `null` without drafts.
    pub acceptance_rate: Option<f64>,
    /// Tokens per step, including the one that needs no draft: 1 + `accepted_tokens` / `drafts`.
    pub mean_acceptance_length: Option<f64>,
    /// For each position in a draft, the share of drafts whose token there was accepted.
    pub acceptance_rate_of_position: Vec<f64>,
}

// vLLM has renamed some metrics: the newest name first.
const KV_CACHE: [&str; 2] = ["vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"];
const QUERIES: [&str; 2] = ["vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"];
const HITS: [&str; 2] = ["vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"];
const ITL: [&str; 2] = ["vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"];

/// The note of pages without any of the metrics.
const NOTHING_KNOWN: &str = "nothing is known about the server: its pages have none of the metrics that vb-stats reads, which are vLLM's (vllm:…)";

impl ServerMetrics {
    /// Computes the metrics from all pages of a run; `None` without scrapes.
    #[must_use]
    pub fn from_pages(pages: MetricsPages, client: &ClientView) -> Option<Self> {
        if pages.is_empty() {
            return None;
        }
        let mut server = ServerMetrics {
            urls: pages.urls().cloned().collect(),
            scrapes: pages.count(),
            failed_scrapes: pages.failed,
            ..ServerMetrics::default()
        };
        if let Some(error) = &pages.error {
            let (failed, all) = (pages.failed, pages.failed + server.scrapes);
            server.notes.push(format!("{failed} of {all} pages could not be read: {error}"));
        }
        match pages.compute_gains() {
            Some(gains) => server.add_gains(&gains, client),
            None => server.notes.push("fewer than two pages were read, so the server metrics are missing".into()),
        }
        Some(server)
    }

    fn add_gains(&mut self, gains: &MetricGains, client: &ClientView) {
        let count = |name: &str| gains.counter_gain(name).map(round_to_count);
        let load = |name: &str| GaugeLoad::from_gauges(gains.family_gauges(name), name.ends_with("_perc"));
        let times = |name: &str| Times::from_histogram(gains, name);
        self.seconds = gains.span.map(|(first, last)| last.since(first).as_secs_f64());
        self.resets = gains.resets;
        self.finished = finished_by_reason(gains);
        self.prompt_tokens = count("vllm:prompt_tokens_total");
        self.generation_tokens = count("vllm:generation_tokens_total");
        self.prefix_cache = PrefixCache::from_metrics(gains);
        self.preemptions = count("vllm:num_preemptions_total");
        self.kv_cache_usage = KV_CACHE.iter().find_map(|name| load(name));
        self.running = load("vllm:num_requests_running");
        self.waiting = load("vllm:num_requests_waiting");
        self.ttft_ms = times("vllm:time_to_first_token_seconds");
        self.itl_ms = ITL.iter().find_map(|name| times(name));
        self.tpot_ms = times("vllm:request_time_per_output_token_seconds");
        self.e2el_ms = times("vllm:e2e_request_latency_seconds");
        self.queue_ms = times("vllm:request_queue_time_seconds");
        self.prefill_ms = times("vllm:request_prefill_time_seconds");
        self.decode_ms = times("vllm:request_decode_time_seconds");
        self.inference_ms = times("vllm:request_inference_time_seconds");
        self.spec_decode = SpecDecode::from_metrics(gains);
        if !self.has_metrics() {
            self.notes.push(NOTHING_KNOWN.into());
        }
        self.reconciled = Reconciled::compare_means(self, client);
        let notes = reconcile::find_mismatches(self, gains.span, client);
        self.notes.extend(notes);
    }

    /// Whether any of the metrics is known.
    #[must_use]
    pub fn has_metrics(&self) -> bool {
        let counts = [self.prompt_tokens, self.generation_tokens, self.preemptions].iter().any(Option::is_some);
        let loads = [self.kv_cache_usage, self.running, self.waiting].iter().any(Option::is_some);
        let times = [self.ttft_ms, self.itl_ms, self.e2el_ms, self.queue_ms].iter().any(Option::is_some);
        counts || loads || times || self.finished.is_some() || self.prefix_cache.is_some()
    }

    /// All finished requests; `None` if not reported.
    #[must_use]
    pub fn count_finished(&self) -> Option<u64> {
        let counts = self.finished.as_ref()?.values().filter_map(serde_json::Value::as_u64);
        Some(counts.fold(0, u64::saturating_add))
    }
}

/// Converts a count that was read as a double.
fn round_to_count(count: f64) -> u64 {
    numpy::truncate_to_usize(count.round()) as u64
}

fn finished_by_reason(gains: &MetricGains) -> Option<Object> {
    let mut by_reason = Object::new();
    for (key, gain) in gains.counter_samples("vllm:request_success_total") {
        let reason = label_value(key, "finished_reason").unwrap_or_else(|| "unknown".into());
        let so_far = by_reason.get(&reason).and_then(serde_json::Value::as_u64).unwrap_or_default();
        by_reason.insert(reason, (so_far + round_to_count(gain)).into());
    }
    (!by_reason.is_empty()).then_some(by_reason)
}

impl PrefixCache {
    fn from_metrics(gains: &MetricGains) -> Option<Self> {
        let first_known = |names: &[&str]| names.iter().find_map(|name| gains.counter_gain(name));
        // Misses are looked up outside, so those are not additional queries.
        let outside = gains.counter_gain("vllm:external_prefix_cache_hits_total").unwrap_or_default();
        let (queries, hits) = (first_known(&QUERIES)?, first_known(&HITS)? + outside);
        let hit_rate = (queries > 0.0).then(|| hits / queries);
        Some(PrefixCache {
            queries: round_to_count(queries),
            hits: round_to_count(hits),
            hit_rate,
            block_size: gains.block_size,
        })
    }
}

impl GaugeLoad {
    /// Combines several servers: counts are added, shares are averaged. Their maxima need not be at the same time, so the sum
    /// of maxima is an upper bound.
    fn from_gauges(servers: &[Gauge], share: bool) -> Option<Self> {
        let mean: f64 = servers.iter().map(|gauge| gauge.mean).sum();
        let max = servers.iter().map(|gauge| gauge.max);
        (!servers.is_empty()).then(|| {
            if share {
                GaugeLoad { mean: mean / servers.len() as f64, max: max.fold(0.0, f64::max) }
            } else {
                GaugeLoad { mean, max: max.sum() }
            }
        })
    }
}

impl Times {
    /// From a histogram in seconds; `None` without values.
    fn from_histogram(gains: &MetricGains, name: &str) -> Option<Self> {
        let [n, sum] = ["count", "sum"].map(|part| gains.counter_gain(&format!("{name}_{part}")));
        let (n, sum) = n.zip(sum).filter(|(n, _)| *n > 0.0)?;
        let mut buckets = PrometheusBuckets::default();
        for (key, gain) in gains.counter_samples(&format!("{name}_bucket")) {
            if let Some(bound) = label_value(key, "le").and_then(|bound| bound.parse().ok()) {
                buckets.add(bound, gain);
            }
        }
        // After a truncation or a restart, the buckets lack some of the values, because only two pages have buckets.
        let known = (buckets.total_count() - n).abs() < 0.5;
        let estimate = |p| buckets.estimate_percentile(p).filter(|_| known).map(|estimate| estimate.scale_by(1e3));
        let [p50, p90, p99] = [50.0, 90.0, 99.0].map(estimate);
        Some(Times { n: round_to_count(n), mean: sum / n * 1e3, p50, p90, p99 })
    }
}

impl SpecDecode {
    fn from_metrics(gains: &MetricGains) -> Option<Self> {
        let total = |name: &str| gains.counter_gain(&format!("vllm:spec_decode_num_{name}_total"));
        let (drafts, draft_tokens, accepted) = (total("drafts")?, total("draft_tokens")?, total("accepted_tokens")?);
        let ratio = |count: f64, total: f64| (total > 0.0).then(|| count / total);
        let mut positions: Vec<(usize, f64)> = Vec::new();
        for (key, gain) in gains.counter_samples("vllm:spec_decode_num_accepted_tokens_per_pos_total") {
            let Some(position) = label_value(key, "position").and_then(|text| text.parse().ok()) else { continue };
            match positions.iter_mut().find(|(known, _)| *known == position) {
                Some((_, so_far)) => *so_far += gain,
                None => positions.push((position, gain)),
            }
        }
        positions.sort_by_key(|(position, _)| *position);
        Some(SpecDecode {
            drafts: round_to_count(drafts),
            draft_tokens: round_to_count(draft_tokens),
            accepted_tokens: round_to_count(accepted),
            acceptance_rate: ratio(accepted, draft_tokens),
            mean_acceptance_length: ratio(accepted, drafts).map(|more| 1.0 + more),
            acceptance_rate_of_position: positions.iter().filter_map(|(_, gain)| ratio(*gain, drafts)).collect(),
        })
    }
}

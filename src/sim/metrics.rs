//! `/metrics`, with vLLM's metric names.

use std::fmt::{self, Write};

use super::engine::SimEngine;
use crate::units::{Nanos, UnixNanos};

const LATENCY_BOUNDS: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
];
const TTFT_BOUNDS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
];
const ITL_BOUNDS: &[f64] =
    &[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0];
const REQUEST_TOKENS_BOUNDS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0, 20_000.0, 50_000.0,
    100_000.0,
];
const STEP_TOKENS_BOUNDS: &[f64] =
    &[1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16_384.0];
const LATENESS_BOUNDS: &[f64] = &[0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 1.0];

/// A Prometheus histogram: counts of values by upper bound.
#[derive(Debug)]
pub struct BucketHistogram {
    bounds: &'static [f64],
    counts: Vec<u64>,
    sum: f64,
}

impl BucketHistogram {
    fn new(bounds: &'static [f64]) -> Self {
        BucketHistogram { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    /// Counts a value.
    pub fn observe_value(&mut self, value: f64) {
        self.counts[self.bounds.partition_point(|bound| *bound < value)] += 1;
        self.sum += value;
    }

    /// Counts a duration, in seconds.
    pub fn observe_duration(&mut self, time: Nanos) {
        self.observe_value(time.as_secs_f64());
    }
}

/// Everything that is counted outside the engine.
#[derive(Debug)]
pub struct SimMetrics {
    /// Requests with the finish reason `stop`.
    pub stop: u64,
    /// Requests with the finish reason `length`.
    pub length: u64,
    /// Requests that the client canceled.
    pub abort: u64,
    /// Tokens of admitted prompts.
    pub prompt_tokens: u64,
    /// Prompt tokens that were prefix cache hits.
    pub cached_tokens: u64,
    /// Generated tokens.
    pub generation_tokens: u64,
    /// Prompt tokens of each finished request.
    pub request_prompt_tokens: BucketHistogram,
    /// Generated tokens of each finished request.
    pub request_generation_tokens: BucketHistogram,
    /// Tokens computed in each step.
    pub iteration_tokens: BucketHistogram,
    /// From arrival to the first token.
    pub time_to_first_token: BucketHistogram,
    /// Between consecutive tokens of a request.
    pub inter_token_latency: BucketHistogram,
    /// The mean inter-token latency of each finished request.
    pub time_per_output_token: BucketHistogram,
    /// From arrival to the last token.
    pub e2e_request_latency: BucketHistogram,
    /// From arrival to admission.
    pub request_queue_time: BucketHistogram,
    /// From admission to the last token.
    pub request_inference_time: BucketHistogram,
    /// From admission to the first token.
    pub request_prefill_time: BucketHistogram,
    /// From the first to the last token.
    pub request_decode_time: BucketHistogram,
    /// The simulator's own error: from the planned end of a step to its real end.
    pub step_lateness: BucketHistogram,
    /// From the planned end of a step to the moment its tokens are taken for writing. A client that reads slowly increases it.
    pub token_lateness: BucketHistogram,
}

impl Default for SimMetrics {
    fn default() -> Self {
        SimMetrics {
            stop: 0,
            length: 0,
            abort: 0,
            prompt_tokens: 0,
            cached_tokens: 0,
            generation_tokens: 0,
            request_prompt_tokens: BucketHistogram::new(REQUEST_TOKENS_BOUNDS),
            request_generation_tokens: BucketHistogram::new(REQUEST_TOKENS_BOUNDS),
            iteration_tokens: BucketHistogram::new(STEP_TOKENS_BOUNDS),
            time_to_first_token: BucketHistogram::new(TTFT_BOUNDS),
            inter_token_latency: BucketHistogram::new(ITL_BOUNDS),
            time_per_output_token: BucketHistogram::new(ITL_BOUNDS),
            e2e_request_latency: BucketHistogram::new(LATENCY_BOUNDS),
            request_queue_time: BucketHistogram::new(LATENCY_BOUNDS),
            request_inference_time: BucketHistogram::new(LATENCY_BOUNDS),
            request_prefill_time: BucketHistogram::new(LATENCY_BOUNDS),
            request_decode_time: BucketHistogram::new(LATENCY_BOUNDS),
            step_lateness: BucketHistogram::new(LATENESS_BOUNDS),
            token_lateness: BucketHistogram::new(LATENESS_BOUNDS),
        }
    }
}

impl SimMetrics {
    /// The response to a scrape, in Prometheus' text format.
    pub fn render_page(&self, engine: &SimEngine, model: &str, began: UnixNanos) -> Result<String, fmt::Error> {
        let model = model.replace('\\', "\\\\").replace('"', "\\\"");
        let mut page = MetricsWriter { text: String::new(), labels: format!("engine=\"0\",model_name=\"{model}\"") };
        let counters = engine.counters();
        let process = "process_start_time_seconds";
        page.write_header(process, GAUGE, "Start time of the process since unix epoch in seconds.")?;
        writeln!(page.text, "{process} {:?}", began.as_secs_f64())?;
        page.write_value("num_requests_running", GAUGE, "Requests in the batch.", engine.num_running() as f64)?;
        page.write_value("num_requests_waiting", GAUGE, "Requests in the queue.", engine.num_waiting() as f64)?;
        page.write_value(
            "kv_cache_usage_perc",
            GAUGE,
            "Share of KV blocks in use; 1 is all.",
            engine.kv_cache_usage(),
        )?;
        for (name, help, value) in [
            ("prefix_cache_queries_total", "Tokens looked up in the prefix cache.", counters.prefix_queries),
            ("prefix_cache_hits_total", "Tokens found in the prefix cache.", counters.prefix_hits),
            ("num_preemptions_total", "Times that a request lost its KV blocks.", counters.preemptions),
            ("prompt_tokens_total", "Tokens of admitted prompts.", self.prompt_tokens),
            ("prompt_tokens_cached_total", "Prompt tokens found in the prefix cache.", self.cached_tokens),
            ("generation_tokens_total", "Generated tokens.", self.generation_tokens),
        ] {
            page.write_value(name, COUNTER, help, value as f64)?;
        }
        page.write_finish_reasons([("stop", self.stop), ("length", self.length), ("abort", self.abort)])?;
        for (name, help, histogram) in [
            ("request_prompt_tokens", "Prompt tokens of finished requests.", &self.request_prompt_tokens),
            ("request_generation_tokens", "Generated tokens of finished requests.", &self.request_generation_tokens),
            ("iteration_tokens_total", "Tokens computed in each step.", &self.iteration_tokens),
            ("time_to_first_token_seconds", "Arrival to first token.", &self.time_to_first_token),
            ("inter_token_latency_seconds", "Between the tokens of a request.", &self.inter_token_latency),
            (
                "request_time_per_output_token_seconds",
                "Mean inter-token latency of each request.",
                &self.time_per_output_token,
            ),
            ("e2e_request_latency_seconds", "Arrival to last token.", &self.e2e_request_latency),
            ("request_queue_time_seconds", "Arrival to first turn.", &self.request_queue_time),
            ("request_inference_time_seconds", "First turn to last token.", &self.request_inference_time),
            ("request_prefill_time_seconds", "First turn to first token.", &self.request_prefill_time),
            ("request_decode_time_seconds", "First token to last token.", &self.request_decode_time),
        ] {
            page.write_histogram("vllm", name, help, histogram)?;
        }
        page.write_histogram(
            "vb_sim",
            "step_lateness_seconds",
            "Planned end of a step to its end.",
            &self.step_lateness,
        )?;
        page.write_histogram(
            "vb_sim",
            "token_lateness_seconds",
            "Planned end to just before the write.",
            &self.token_lateness,
        )?;
        Ok(page.text)
    }
}

const GAUGE: &str = "gauge";
const COUNTER: &str = "counter";

struct MetricsWriter {
    text: String,
    labels: String,
}

impl MetricsWriter {
    fn write_header(&mut self, name: &str, kind: &str, help: &str) -> fmt::Result {
        write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n")
    }

    fn write_value(&mut self, name: &str, kind: &str, help: &str, value: f64) -> fmt::Result {
        self.write_header(&format!("vllm:{name}"), kind, help)?;
        writeln!(self.text, "vllm:{name}{{{}}} {value:?}", self.labels)
    }

    fn write_finish_reasons(&mut self, reasons: [(&str, u64); 3]) -> fmt::Result {
        self.write_header("vllm:request_success_total", COUNTER, "Finished requests by reason.")?;
        let (engine, model) = self.labels.split_once(',').unwrap_or_default();
        for (reason, count) in reasons {
            let count = count as f64;
            let labels = format!("{engine},finished_reason=\"{reason}\",{model}");
            writeln!(self.text, "vllm:request_success_total{{{labels}}} {count:?}")?;
        }
        Ok(())
    }

    fn write_histogram(&mut self, prefix: &str, name: &str, help: &str, histogram: &BucketHistogram) -> fmt::Result {
        let name = format!("{prefix}:{name}");
        self.write_header(&name, "histogram", help)?;
        let (engine, model) = self.labels.split_once(',').unwrap_or_default();
        let mut total = 0;
        for (index, count) in histogram.counts.iter().enumerate() {
            total += count;
            let bound = histogram.bounds.get(index).map_or_else(|| "+Inf".into(), |bound| format!("{bound:?}"));
            let cumulative = total as f64;
            writeln!(self.text, "{name}_bucket{{{engine},le=\"{bound}\",{model}}} {cumulative:?}")?;
        }
        let (labels, total, sum) = (&self.labels, total as f64, histogram.sum);
        write!(self.text, "{name}_count{{{labels}}} {total:?}\n{name}_sum{{{labels}}} {sum:?}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::profile::EngineProfile;

    #[test]
    fn the_page_has_the_lines_of_vllm() {
        let engine = SimEngine::new(EngineProfile::default()).unwrap();
        let mut metrics = SimMetrics { length: 2, prompt_tokens: 7, ..SimMetrics::default() };
        for seconds in [0.001, 0.003, 5000.0] {
            metrics.time_to_first_token.observe_value(seconds);
        }
        let page = metrics.render_page(&engine, "a\"b", UnixNanos(1_795_485_284_160_000_000)).unwrap();
        for line in [
            "process_start_time_seconds 1795485284.16",
            "# TYPE vllm:prompt_tokens_total counter",
            r#"vllm:prompt_tokens_total{engine="0",model_name="a\"b"} 7.0"#,
            r#"vllm:num_requests_running{engine="0",model_name="a\"b"} 0.0"#,
            r#"vllm:request_success_total{engine="0",finished_reason="length",model_name="a\"b"} 2.0"#,
            r#"vllm:time_to_first_token_seconds_bucket{engine="0",le="0.001",model_name="a\"b"} 1.0"#,
            r#"vllm:time_to_first_token_seconds_bucket{engine="0",le="0.005",model_name="a\"b"} 2.0"#,
            r#"vllm:time_to_first_token_seconds_bucket{engine="0",le="2560.0",model_name="a\"b"} 2.0"#,
            r#"vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="a\"b"} 3.0"#,
            r#"vllm:time_to_first_token_seconds_count{engine="0",model_name="a\"b"} 3.0"#,
        ] {
            assert!(page.lines().any(|l| l == line), "{line}\n{page}");
        }
    }
}

//! The JSON of guidellm: `benchmarks.json`, with a benchmark for each load.

use super::format::{EMPTY, Format};

/// Versions 0.4 to 0.6 write layout 1, and 0.7 and later layout 2; before, there was no version. Requests last seconds, all other times
/// are milliseconds. Its `inter_token_latency_ms` is one average for each request, weighted by its tokens: the mean is ITL per token, and
/// we have no metric like the percentiles. Its `time_per_output_token_ms` includes the first token and is left out.
pub const FORMAT: Format = Format {
    tool: "guidellm",
    signature: &["benchmarks/metrics/time_to_first_token_ms"],
    version: Some("metadata/guidellm_version"),
    layout: Some(("metadata/version", &["1", "2"])),
    runs: Some("benchmarks"),
    statistics: &[
        ("mean", "mean"),
        ("median", "median"),
        ("std_dev", "std"),
        ("percentiles/p001", "p0.1"),
        ("percentiles/p01", "p1"),
        ("percentiles/p05", "p5"),
        ("percentiles/p10", "p10"),
        ("percentiles/p25", "p25"),
        ("percentiles/p75", "p75"),
        ("percentiles/p90", "p90"),
        ("percentiles/p95", "p95"),
        ("percentiles/p99", "p99"),
        ("percentiles/p999", "p99.9"),
    ],
    latencies: &[
        ("metrics/time_to_first_token_ms/successful/{}", "ttft", 1.0),
        ("metrics/request_latency/successful/{}", "e2el", 1e3),
    ],
    numbers: &[
        ("duration", "duration", 1.0),
        ("metrics/request_totals/successful", "completed", 1.0),
        ("metrics/request_totals/errored", "failed", 1.0),
        // Before 0.4 they are elsewhere.
        ("request_totals/successful", "completed", 1.0),
        ("request_totals/errored", "failed", 1.0),
        ("metrics/prompt_token_count/successful/total_sum", "total_input_tokens", 1.0),
        ("metrics/output_token_count/successful/total_sum", "total_output_tokens", 1.0),
        ("metrics/requests_per_second/successful/mean", "request_throughput", 1.0),
        ("metrics/output_tokens_per_second/successful/mean", "output_throughput", 1.0),
        ("metrics/request_concurrency/successful/mean", "mean_concurrency", 1.0),
        ("metrics/inter_token_latency_ms/successful/mean", "mean_itl_per_token_ms", 1.0),
    ],
    settings: &[
        ("config/backend/model", "model_id"),
        ("config/backend/request_format", "backend"),
        ("config/strategy/type_", "strategy"),
        ("config/strategy/rate", "request_rate"),
        ("config/strategy/max_concurrency", "max_concurrency"),
        ("args/strategy/type_", "strategy"),
        ("args/strategy/rate", "request_rate"),
        ("args/strategy/streams", "max_concurrency"),
    ],
    ..EMPTY
};

//! `summary_lifecycle_metrics.json` and `stage_N_lifecycle_metrics.json` of inference-perf.

use super::format::{EMPTY, Format};

/// Durations are seconds. The file has no version. Its `time_per_output_token` is (last token − first token) / (tokens − 1), which is
/// TPOT; `normalized_time_per_output_token` includes the first token and is left out. Its `inter_token_latency` is 0 between the tokens
/// of one chunk, and thus not ITL; its mean is that per token.
pub const FORMAT: Format = Format {
    tool: "inference-perf",
    signature: &["load_summary", "successes", "failures"],
    statistics: &[
        ("mean", "mean"),
        ("median", "median"),
        ("p0.1", "p0.1"),
        ("p1", "p1"),
        ("p5", "p5"),
        ("p10", "p10"),
        ("p25", "p25"),
        ("p75", "p75"),
        ("p80", "p80"),
        ("p90", "p90"),
        ("p95", "p95"),
        ("p99", "p99"),
        ("p99.9", "p99.9"),
        ("p99.99", "p99.99"),
    ],
    latencies: &[
        ("successes/latency/time_to_first_token/{}", "ttft", 1e3),
        ("successes/latency/time_per_output_token/{}", "tpot", 1e3),
        ("successes/latency/request_latency/{}", "e2el", 1e3),
    ],
    numbers: &[
        ("load_summary/count", "num_prompts", 1.0),
        ("benchmark_time_seconds", "duration", 1.0),
        ("successes/count", "completed", 1.0),
        ("failures/count", "failed", 1.0),
        ("successes/throughput/requests_per_sec", "request_throughput", 1.0),
        ("successes/throughput/input_tokens_per_sec", "input_throughput", 1.0),
        ("successes/throughput/output_tokens_per_sec", "output_throughput", 1.0),
        ("successes/throughput/total_tokens_per_sec", "total_token_throughput", 1.0),
        ("successes/latency/inter_token_latency/mean", "mean_itl_per_token_ms", 1e3),
    ],
    settings: &[("load_summary/requested_rate", "request_rate"), ("load_summary/concurrency", "max_concurrency")],
    ..EMPTY
};

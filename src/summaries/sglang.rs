//! The lines that `sglang.bench_serving` (now `sglang.benchmark.serving`) adds to its output file, one for each run.

use super::format::{EMPTY, Format};

/// A key that vLLM's results do not have, which have most others.
pub const SGLANG_KEY: &str = "mean_e2e_latency_ms";

/// It grew from vLLM's, and most of its keys are vLLM's. It does not write how many requests failed.
pub const FORMAT: Format = Format {
    tool: "sglang's bench_serving",
    signature: &[SGLANG_KEY, "completed"],
    statistics: &[
        ("mean", "mean"),
        ("median", "median"),
        ("std", "std"),
        ("p90", "p90"),
        ("p95", "p95"),
        ("p99", "p99"),
    ],
    latencies: &[
        ("{}_ttft_ms", "ttft", 1.0),
        ("{}_tpot_ms", "tpot", 1.0),
        ("{}_itl_ms", "itl", 1.0),
        ("{}_e2e_latency_ms", "e2el", 1.0),
    ],
    numbers: &[
        ("duration", "duration", 1.0),
        ("completed", "completed", 1.0),
        ("total_input_tokens", "total_input_tokens", 1.0),
        ("total_output_tokens", "total_output_tokens", 1.0),
        ("request_throughput", "request_throughput", 1.0),
        ("input_throughput", "input_throughput", 1.0),
        ("output_throughput", "output_throughput", 1.0),
        ("total_throughput", "total_token_throughput", 1.0),
        ("max_output_tokens_per_s", "max_output_tokens_per_s", 1.0),
        ("max_concurrent_requests", "max_concurrent_requests", 1.0),
        ("concurrency", "mean_concurrency", 1.0),
    ],
    settings: &[
        ("backend", "backend"),
        ("tag", "label"),
        ("request_rate", "request_rate"),
        ("max_concurrency", "max_concurrency"),
        ("dataset_name", "dataset_name"),
        ("random_input_len", "random_input_len"),
        ("random_output_len", "random_output_len"),
    ],
    ..EMPTY
};

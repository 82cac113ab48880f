//! `profile_export_aiperf.json` of aiperf.

use super::format::{EMPTY, Format};

/// Its `inter_token_latency` is (latency − TTFT) / (tokens − 1) of a request, which is TPOT; its `inter_chunk_latency` is every gap
/// between chunks, which is ITL.
pub const FORMAT: Format = Format {
    tool: "aiperf",
    signature: &["input_config", "was_cancelled"],
    version: Some("aiperf_version"),
    layout: Some(("schema_version", &["1"])),
    statistics: &[
        ("avg", "mean"),
        ("p50", "median"),
        ("std", "std"),
        ("p1", "p1"),
        ("p5", "p5"),
        ("p10", "p10"),
        ("p25", "p25"),
        ("p75", "p75"),
        ("p90", "p90"),
        ("p95", "p95"),
        ("p99", "p99"),
    ],
    latencies: &[
        ("time_to_first_token/{}", "ttft", 1.0),
        ("inter_token_latency/{}", "tpot", 1.0),
        ("inter_chunk_latency/{}", "itl", 1.0),
        ("request_latency/{}", "e2el", 1.0),
    ],
    numbers: &[
        ("benchmark_duration/avg", "duration", 1.0),
        ("request_count/avg", "completed", 1.0),
        ("error_request_count/avg", "failed", 1.0),
        ("total_isl/avg", "total_input_tokens", 1.0),
        ("total_osl/avg", "total_output_tokens", 1.0),
        ("request_throughput/avg", "request_throughput", 1.0),
        ("output_token_throughput/avg", "output_throughput", 1.0),
    ],
    zeros: &["completed", "failed"],
    settings: &[
        ("input_config/endpoint/type", "backend"),
        ("input_config/models/items/name", "model_id"),
        ("input_config/phases/concurrency", "max_concurrency"),
        ("input_config/phases/rate", "request_rate"),
        // Before 0.9 its settings have other keys.
        ("input_config/loadgen/concurrency", "max_concurrency"),
        ("input_config/loadgen/request_rate", "request_rate"),
        ("was_cancelled", "interrupted"),
        ("is_complete", "complete"),
    ],
    ..EMPTY
};

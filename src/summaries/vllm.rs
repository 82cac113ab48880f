//! Results of `vllm bench serve` and of `vb-stats`, whose keys a summary has.

use super::format::{EMPTY, Format};

/// The name of vLLM's client.
pub const VLLM_TOOL: &str = "vllm bench serve";

/// The program of ours that writes results.
pub const OUR_TOOL: &str = "vb-stats";

/// A result of `vllm bench serve`.
pub const VLLM_FORMAT: Format =
    Format { tool: VLLM_TOOL, signature: &["duration", "completed"], has_our_keys: true, ..EMPTY };

/// A result of `vb-stats`, with numbers that vLLM's does not have.
pub const OUR_FORMAT: Format = Format {
    tool: OUR_TOOL,
    signature: &["vb", "duration", "completed"],
    numbers: &[
        ("vb/itl_per_token_ms/mean", "mean_itl_per_token_ms", 1.0),
        // It is left out if it is equal to this one; if it is not known, it is null.
        ("vb/itl_per_chunk_ms/mean", "mean_itl_per_token_ms", 1.0),
    ],
    settings: &[("vb/complete", "complete"), ("vb/interrupted", "interrupted"), ("vb/verdict", "verdict")],
    ..VLLM_FORMAT
};

//! Engine profiles: the cost of a step and the limits of the scheduler.

use crate::{
    error::Error,
    units::{MAX_TOKENS, Nanos},
};

/// The constants of one model on one type of GPU.
///
/// A step takes `step_base + per_prefill_token · prefill tokens + per_context_token · context tokens`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineProfile {
    /// The value of `--profile`.
    pub name: &'static str,
    /// Constant time per step: reading the weights, launching kernels, scheduling.
    pub step_base: Nanos,
    /// Additional time per computed prompt token: arithmetic.
    pub per_prefill_token: Nanos,
    /// Additional time per token in the KV cache of a scheduled request: reading it.
    pub per_context_token: Nanos,
    /// The limit on requests in one step.
    pub max_num_seqs: u32,
    /// The limit on tokens computed in one step.
    pub max_num_batched_tokens: u32,
    /// The limit on prompt and output together, in tokens.
    pub max_model_len: u32,
    /// Tokens in a KV block.
    pub block_size: u32,
    /// The number of KV blocks.
    pub num_gpu_blocks: u32,
    /// Whether requests with a common prefix share blocks.
    pub prefix_caching: bool,
}

/// The built-in profiles. Only their order of magnitude is realistic; `docs/SIM.md` shows the arithmetic.
pub const PROFILES: [EngineProfile; 3] = [
    EngineProfile {
        name: "tiny",
        step_base: Nanos(5_000_000),
        per_prefill_token: Nanos(4_000),
        per_context_token: Nanos(5),
        max_num_seqs: 256,
        max_num_batched_tokens: 2048,
        max_model_len: 32_768,
        block_size: 16,
        num_gpu_blocks: 16_384,
        prefix_caching: true,
    },
    EngineProfile {
        name: "llama3.1-8b-h100",
        step_base: Nanos(7_000_000),
        per_prefill_token: Nanos(27_000),
        per_context_token: Nanos(57),
        max_num_seqs: 256,
        max_num_batched_tokens: 8192,
        max_model_len: 131_072,
        block_size: 16,
        num_gpu_blocks: 26_000,
        prefix_caching: true,
    },
    EngineProfile {
        name: "qwen2.5-72b-4xh100",
        step_base: Nanos(20_000_000),
        per_prefill_token: Nanos(75_000),
        per_context_token: Nanos(35),
        max_num_seqs: 256,
        max_num_batched_tokens: 8192,
        max_model_len: 32_768,
        block_size: 16,
        num_gpu_blocks: 26_000,
        prefix_caching: true,
    },
];

/// The limit on KV blocks. Each one takes memory here.
const MAX_KV_BLOCKS: u32 = 1 << 24;

impl Default for EngineProfile {
    fn default() -> Self {
        let [tiny, ..] = PROFILES;
        tiny
    }
}

impl EngineProfile {
    /// The built-in profile of this name.
    pub fn from_name(name: &str) -> Result<Self, Error> {
        PROFILES.into_iter().find(|profile| profile.name == name).ok_or_else(|| {
            let known = PROFILES.map(|profile| profile.name).join(", ");
            Error::Usage(format!("--profile: unknown profile `{name}`; use one of {known}"))
        })
    }

    /// The duration of a step.
    #[must_use]
    pub fn step_time(&self, prefill_tokens: u64, context_tokens: u64) -> Nanos {
        let prefill = self.per_prefill_token.0.saturating_mul(prefill_tokens);
        let context = self.per_context_token.0.saturating_mul(context_tokens);
        self.step_base + Nanos(prefill) + Nanos(context)
    }

    /// Checks that an engine with these constants can serve every request that it accepts, and that a step takes time.
    pub fn validate(&self) -> Result<(), Error> {
        let positive = [
            ("--max-num-seqs", u64::from(self.max_num_seqs)),
            ("--max-num-batched-tokens", u64::from(self.max_num_batched_tokens)),
            ("--block-size", u64::from(self.block_size)),
            ("--step-base", self.step_base.0),
        ];
        if let Some((flag, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(Error::Usage(format!("{flag} must be more than 0")));
        }
        if self.num_gpu_blocks > MAX_KV_BLOCKS || self.max_model_len > MAX_TOKENS {
            return Err(Error::Usage(format!(
                "--num-gpu-blocks {} or --max-model-len {} is more than any server has: the limits are {MAX_KV_BLOCKS} blocks and \
                 {MAX_TOKENS} tokens",
                self.num_gpu_blocks, self.max_model_len
            )));
        }
        if self.max_model_len < 2 {
            return Err(Error::Usage(
                "--max-model-len must be at least 2: one prompt token and one output token".into(),
            ));
        }
        let capacity = u64::from(self.num_gpu_blocks) * u64::from(self.block_size);
        if capacity < u64::from(self.max_model_len) {
            return Err(Error::Usage(format!(
                "--num-gpu-blocks {} with --block-size {} hold {capacity} tokens, less than one request of --max-model-len \
                 {}: raise --num-gpu-blocks or lower --max-model-len",
                self.num_gpu_blocks, self.block_size, self.max_model_len
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_profiles_are_valid() {
        for profile in PROFILES {
            profile.validate().unwrap();
            assert_eq!(EngineProfile::from_name(profile.name).unwrap(), profile);
        }
        assert_eq!(EngineProfile::default().name, "tiny");
        assert!(EngineProfile::from_name("gpt-9").unwrap_err().to_string().contains("llama3.1-8b-h100"));
    }

    #[test]
    fn a_cache_too_small_for_one_request_is_refused() {
        let profile = EngineProfile { num_gpu_blocks: 2, max_model_len: 33, ..EngineProfile::default() };
        assert!(profile.validate().unwrap_err().to_string().contains("hold 32 tokens"));
        assert!(EngineProfile { num_gpu_blocks: u32::MAX, ..EngineProfile::default() }.validate().is_err());
        assert!(
            EngineProfile { max_model_len: u32::MAX, num_gpu_blocks: 1 << 24, ..EngineProfile::default() }
                .validate()
                .is_err()
        );
        assert!(EngineProfile { step_base: Nanos(0), ..EngineProfile::default() }.validate().is_err());
    }
}

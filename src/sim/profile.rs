//! What the simulated engine is: the cost of a step and the limits of the scheduler.

use crate::{
    error::Error,
    units::{MAX_TOKENS, Nanos},
};

/// The constants of one model on one kind of GPU.
///
/// A step takes `step_base + per_prefill_token · prefill tokens + per_context_token · context tokens`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// What `--profile` calls it.
    pub name: &'static str,
    /// What every step costs: reading the weights, launching kernels, scheduling.
    pub step_base: Nanos,
    /// What each prompt token computed in the step adds: arithmetic.
    pub per_prefill_token: Nanos,
    /// What each token already in the KV cache of a scheduled request adds: reading it.
    pub per_context_token: Nanos,
    /// The most requests in one step.
    pub max_num_seqs: u32,
    /// The most tokens computed in one step.
    pub max_num_batched_tokens: u32,
    /// The longest prompt and answer together.
    pub max_model_len: u32,
    /// Tokens in a KV block.
    pub block_size: u32,
    /// KV blocks in all.
    pub num_gpu_blocks: u32,
    /// Whether blocks are shared between requests with the same beginning.
    pub prefix_caching: bool,
}

/// The named profiles. Only their order of magnitude is real; `docs/SIM.md` shows the arithmetic behind each.
pub const PROFILES: [Profile; 3] = [
    Profile {
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
    Profile {
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
    Profile {
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

/// The most KV blocks, each of which is kept track of.
const MOST_BLOCKS: u32 = 1 << 24;

impl Default for Profile {
    fn default() -> Self {
        let [tiny, ..] = PROFILES;
        tiny
    }
}

impl Profile {
    /// The profile of this name.
    pub fn named(name: &str) -> Result<Self, Error> {
        PROFILES.into_iter().find(|profile| profile.name == name).ok_or_else(|| {
            let known = PROFILES.map(|profile| profile.name).join(", ");
            Error::Usage(format!("--profile: no profile is called `{name}`; there are {known}"))
        })
    }

    /// How long a step takes.
    #[must_use]
    pub fn step_time(&self, prefill_tokens: u64, context_tokens: u64) -> Nanos {
        let prefill = self.per_prefill_token.0.saturating_mul(prefill_tokens);
        let context = self.per_context_token.0.saturating_mul(context_tokens);
        self.step_base + Nanos(prefill) + Nanos(context)
    }

    /// Checks that an engine with these constants can serve every request it accepts, and that its time goes on.
    pub fn check(&self) -> Result<(), Error> {
        let positive = [
            ("--max-num-seqs", u64::from(self.max_num_seqs)),
            ("--max-num-batched-tokens", u64::from(self.max_num_batched_tokens)),
            ("--block-size", u64::from(self.block_size)),
            ("--step-base", self.step_base.0),
        ];
        if let Some((flag, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(Error::Usage(format!("{flag} must be more than 0")));
        }
        if self.num_gpu_blocks > MOST_BLOCKS || self.max_model_len > MAX_TOKENS {
            return Err(Error::Usage(format!(
                "--num-gpu-blocks {} or --max-model-len {} is more than any server has: {MOST_BLOCKS} blocks and \
                 {MAX_TOKENS} tokens at the most",
                self.num_gpu_blocks, self.max_model_len
            )));
        }
        if self.max_model_len < 2 {
            return Err(Error::Usage("--max-model-len must be at least 2: a prompt token and an answer token".into()));
        }
        let room = u64::from(self.num_gpu_blocks) * u64::from(self.block_size);
        if room < u64::from(self.max_model_len) {
            return Err(Error::Usage(format!(
                "--num-gpu-blocks {} with --block-size {} hold {room} tokens, less than one request of --max-model-len \
                 {}: raise the first or lower the last",
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
    fn the_named_profiles_are_sound() {
        for profile in PROFILES {
            profile.check().unwrap();
            assert_eq!(Profile::named(profile.name).unwrap(), profile);
        }
        assert_eq!(Profile::default().name, "tiny");
        assert!(Profile::named("gpt-9").unwrap_err().to_string().contains("llama3.1-8b-h100"));
    }

    #[test]
    fn a_cache_too_small_for_one_request_is_refused() {
        let profile = Profile { num_gpu_blocks: 2, max_model_len: 33, ..Profile::default() };
        assert!(profile.check().unwrap_err().to_string().contains("hold 32 tokens"));
        assert!(Profile { num_gpu_blocks: u32::MAX, ..Profile::default() }.check().is_err());
        assert!(Profile { max_model_len: u32::MAX, num_gpu_blocks: 1 << 24, ..Profile::default() }.check().is_err());
        assert!(Profile { step_base: Nanos(0), ..Profile::default() }.check().is_err());
    }
}

//! Whether the server's prefix cache held what the workload means it to hold. The classic error is to send the same prompts
//! twice, and to measure a cache.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::server::PrefixCache;
use crate::recording::expected_cache::ExpectedCache;

/// Shares that differ by more are worth a word.
const TOLERANCE: f64 = 0.05;

/// Tokens of a block, where the server does not tell: vLLM's default on GPUs. Only whole blocks are cached.
const BLOCK: u32 = 16;

/// The prefix cache, as it was meant and as it was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cache {
    /// Successes whose request says what it means.
    pub requests: u64,
    /// The share of their prompt tokens that is meant to be in the cache, from 0 to 1.
    pub meant_share: f64,
    /// The share that was; `null`: the server does not tell.
    pub cached_share: Option<f64>,
    /// Where that comes from: `usage` (of each answer) or `scrape` (the server's hit rate); `null`: nowhere.
    pub source: Option<String>,
    /// What is wrong, in one line; `null`: nothing.
    pub note: Option<String>,
}

impl Cache {
    /// Of the requests that say what they mean; `None`: none does. `completed`: all successes. `at_once`: the most that were
    /// in flight. `scraped`: what the server told.
    #[must_use]
    pub fn compare_usage(
        meant: ExpectedCache,
        completed: u64,
        at_once: u64,
        scraped: Option<PrefixCache>,
    ) -> Option<Self> {
        if meant.prompt_tokens == 0 {
            return None;
        }
        let share = |tokens: f64| tokens / meant.prompt_tokens as f64;
        let usage = meant.cached.map(|cached| (share(cached as f64), "usage"));
        // The server's rate is over all requests.
        let scrape =
            scraped.and_then(|cache| Some((cache.hit_rate?, "scrape"))).filter(|_| meant.requests == completed);
        let (cached_share, source) = usage.or(scrape).map(|(share, source)| (share, source.to_owned())).unzip();
        let block = scraped.and_then(|cache| cache.block_size).unwrap_or(BLOCK);
        let meant_share = share(meant.tokens as f64);
        // A part of a block is not cached, and the first requests may all come before the prefix is.
        let rounded = meant.sharing as f64 * f64::from(block.saturating_sub(1));
        let cold = at_once.min(meant.sharing) as f64 * meant.tokens as f64 / (meant.sharing as f64).max(1.0);
        let least = share((meant.tokens as f64 - rounded - cold).max(0.0));
        let note = cached_share.and_then(|cached| cache_note(cached, (least, meant_share)));
        Some(Cache { requests: meant.requests, meant_share, cached_share, source, note })
    }
}

fn cache_note(cached: f64, (least, most): (f64, f64)) -> Option<String> {
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let (was, meant) = (percent(cached), percent(most));
    if cached > most + TOLERANCE {
        return Some(format!(
            "{was} of the prompt tokens came from the server's prefix cache, where {meant} are meant to: it has seen these \
             prompts before; give vb-gen another --seed, or empty the cache"
        ));
    }
    (cached < least - TOLERANCE).then(|| {
        format!(
            "{was} of the prompt tokens came from the server's prefix cache, where {meant} are meant to: is prefix caching on, \
             and the cache large enough?"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meant(requests: u32, tokens: u32, prompt_len: u32, cached: Option<u32>) -> ExpectedCache {
        let mut meant = ExpectedCache::default();
        (0..requests).for_each(|_| meant.add(tokens, prompt_len, cached));
        meant
    }

    fn scraped(hit_rate: f64, block_size: u32) -> PrefixCache {
        PrefixCache { queries: 1, hits: 0, hit_rate: Some(hit_rate), block_size: Some(block_size) }
    }

    fn note(meant: ExpectedCache, at_once: u64, scraped: Option<PrefixCache>) -> Option<String> {
        Cache::compare_usage(meant, meant.requests, at_once, scraped).unwrap().note
    }

    #[test]
    fn a_warm_cache_is_told_and_a_meant_one_is_not() {
        assert_eq!(note(meant(100, 0, 256, Some(0)), 8, None), None);
        assert_eq!(note(meant(100, 0, 256, Some(12)), 8, None), None, "within five points");
        let warm = note(meant(100, 0, 256, Some(240)), 8, None).unwrap();
        assert!(warm.starts_with("93.8 % of the prompt tokens") && warm.contains("--seed"), "{warm}");
        assert_eq!(note(meant(100, 200, 256, Some(192)), 8, None), None, "a block is not cached in part");
        let cold = note(meant(100, 200, 256, Some(0)), 8, None).unwrap();
        assert!(cold.contains("is prefix caching on"), "{cold}");
    }

    #[test]
    fn requests_that_all_come_first_may_miss() {
        assert_eq!(note(meant(20, 200, 256, Some(0)), 20, None), None);
        assert!(note(meant(2000, 200, 256, Some(0)), 20, None).is_some());
    }

    #[test]
    fn without_usage_the_servers_rate_counts_for_all_requests_only() {
        let silent = meant(100, 0, 256, None);
        let told = Cache::compare_usage(silent, 100, 8, Some(scraped(0.9, 16))).unwrap();
        assert_eq!((told.cached_share, told.source.as_deref()), (Some(0.9), Some("scrape")));
        assert!(told.note.is_some());
        assert_eq!(Cache::compare_usage(silent, 101, 8, Some(scraped(0.9, 16))).unwrap().cached_share, None);
        assert_eq!(Cache::compare_usage(silent, 100, 8, None).unwrap().note, None);
        assert_eq!(Cache::compare_usage(ExpectedCache::default(), 100, 8, None), None);
    }

    #[test]
    fn a_server_with_large_blocks_may_cache_less() {
        let shared = meant(1000, 250, 256, None);
        assert!(note(shared, 1, Some(scraped(0.5, 16))).is_some());
        assert_eq!(note(shared, 1, Some(scraped(0.5, 128))), None, "128 of 256");
    }
}

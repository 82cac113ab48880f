//! Whether the server's prefix cache had the hits that the workload expects. The classic error is to send the same prompts
//! twice, and to measure a cache.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::server::PrefixCache;
use crate::recording::expected_cache::ExpectedCache;

/// Shares that differ by more are reported.
const TOLERANCE: f64 = 0.05;

/// Tokens per block if the server does not report it: vLLM's default on GPUs. Only whole blocks are cached.
const DEFAULT_BLOCK_TOKENS: u32 = 16;

/// Expected and actual prefix cache hits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cache {
    /// Successes whose request has an expectation.
    pub requests: u64,
    /// The share of their prompt tokens that is expected to be in the cache, from 0 to 1.
    pub meant_share: f64,
    /// The share that was in the cache; `null` if the server does not report it.
    pub cached_share: Option<f64>,
    /// Where `cached_share` comes from: `usage` (of each response) or `scrape` (the server's hit rate); `null` if neither has
    /// it.
    pub source: Option<String>,
    /// What is wrong, in one line; `null` if nothing is.
    pub note: Option<String>,
}

impl Cache {
    /// Compares expected and actual hits; `None` if no request has an expectation. `completed` counts all successes, `at_once`
    /// is the peak of requests in flight, and `scraped` is from the scrapes.
    #[must_use]
    pub fn compare_usage(
        expected: ExpectedCache,
        completed: u64,
        at_once: u64,
        scraped: Option<PrefixCache>,
    ) -> Option<Self> {
        if expected.prompt_tokens == 0 {
            return None;
        }
        let share = |tokens: f64| tokens / expected.prompt_tokens as f64;
        let usage = expected.cached.map(|cached| (share(cached as f64), "usage"));
        // The server's rate covers all requests.
        let scrape =
            scraped.and_then(|cache| Some((cache.hit_rate?, "scrape"))).filter(|_| expected.requests == completed);
        let (cached_share, source) = usage.or(scrape).map(|(share, source)| (share, source.to_owned())).unzip();
        let block = scraped.and_then(|cache| cache.block_size).unwrap_or(DEFAULT_BLOCK_TOKENS);
        let meant_share = share(expected.tokens as f64);
        // Partial blocks are not cached, and the first requests may all be sent before the prefix is cached.
        let rounded = expected.sharing as f64 * f64::from(block.saturating_sub(1));
        let cold = at_once.min(expected.sharing) as f64 * expected.tokens as f64 / (expected.sharing as f64).max(1.0);
        let least = share((expected.tokens as f64 - rounded - cold).max(0.0));
        let note = cached_share.and_then(|cached| cache_note(cached, (least, meant_share)));
        Some(Cache { requests: expected.requests, meant_share, cached_share, source, note })
    }
}

fn cache_note(cached: f64, (least, most): (f64, f64)) -> Option<String> {
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let (was, expected) = (percent(cached), percent(most));
    if cached > most + TOLERANCE {
        return Some(format!(
            "{was} of the prompt tokens came from the server's prefix cache, but {expected} were expected: the server has seen \
             these prompts before; use another --seed for vb-gen, or empty the cache"
        ));
    }
    (cached < least - TOLERANCE).then(|| {
        format!(
            "{was} of the prompt tokens came from the server's prefix cache, but {expected} were expected: is prefix caching \
             on, and is the cache large enough?"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect(requests: u32, tokens: u32, prompt_len: u32, cached: Option<u32>) -> ExpectedCache {
        let mut expected = ExpectedCache::default();
        (0..requests).for_each(|_| expected.add(tokens, prompt_len, cached));
        expected
    }

    fn scraped(hit_rate: f64, block_size: u32) -> PrefixCache {
        PrefixCache { queries: 1, hits: 0, hit_rate: Some(hit_rate), block_size: Some(block_size) }
    }

    fn note(expected: ExpectedCache, at_once: u64, scraped: Option<PrefixCache>) -> Option<String> {
        Cache::compare_usage(expected, expected.requests, at_once, scraped).unwrap().note
    }

    #[test]
    fn a_warm_cache_is_noted_unless_expected() {
        assert_eq!(note(expect(100, 0, 256, Some(0)), 8, None), None);
        assert_eq!(note(expect(100, 0, 256, Some(12)), 8, None), None, "within five points");
        let warm = note(expect(100, 0, 256, Some(240)), 8, None).unwrap();
        assert!(warm.starts_with("93.8 % of the prompt tokens") && warm.contains("--seed"), "{warm}");
        assert_eq!(note(expect(100, 200, 256, Some(192)), 8, None), None, "a block is not cached in part");
        let cold = note(expect(100, 200, 256, Some(0)), 8, None).unwrap();
        assert!(cold.contains("is prefix caching on"), "{cold}");
    }

    #[test]
    fn requests_sent_before_the_prefix_is_cached_may_miss() {
        assert_eq!(note(expect(20, 200, 256, Some(0)), 20, None), None);
        assert!(note(expect(2000, 200, 256, Some(0)), 20, None).is_some());
    }

    #[test]
    fn without_usage_the_servers_rate_counts_for_all_requests_only() {
        let silent = expect(100, 0, 256, None);
        let cache = Cache::compare_usage(silent, 100, 8, Some(scraped(0.9, 16))).unwrap();
        assert_eq!((cache.cached_share, cache.source.as_deref()), (Some(0.9), Some("scrape")));
        assert!(cache.note.is_some());
        assert_eq!(Cache::compare_usage(silent, 101, 8, Some(scraped(0.9, 16))).unwrap().cached_share, None);
        assert_eq!(Cache::compare_usage(silent, 100, 8, None).unwrap().note, None);
        assert_eq!(Cache::compare_usage(ExpectedCache::default(), 100, 8, None), None);
    }

    #[test]
    fn a_server_with_large_blocks_may_cache_less() {
        let shared = expect(1000, 250, 256, None);
        assert!(note(shared, 1, Some(scraped(0.5, 16))).is_some());
        assert_eq!(note(shared, 1, Some(scraped(0.5, 128))), None, "128 of 256");
    }
}

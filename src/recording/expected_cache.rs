//! How many prompt tokens the requests expect to find in the server's prefix cache.

/// Expected and actual prefix cache hits, summed over the successes whose request has `expected_cached_len`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ExpectedCache {
    /// Successes with an expectation.
    pub requests: u64,
    /// Successes that expect at least one cached token.
    pub sharing: u64,
    /// Tokens expected to be cached.
    pub tokens: u64,
    /// Prompt tokens of these successes.
    pub prompt_tokens: u64,
    /// Tokens that were cached according to the server's usage; `None` if it never reports them.
    pub cached: Option<u64>,
}

impl ExpectedCache {
    /// Adds a request: the cached tokens it expects, its prompt tokens, and its cached tokens. A server that reports cached
    /// tokens may leave out a zero.
    pub fn add(&mut self, expected: u32, prompt_len: u32, cached: Option<u32>) {
        self.requests += 1;
        self.sharing += u64::from(expected > 0);
        self.tokens += u64::from(expected.min(prompt_len));
        self.prompt_tokens += u64::from(prompt_len);
        if let Some(cached) = cached {
            *self.cached.get_or_insert(0) += u64::from(cached);
        }
    }
}

//! Prompts that begin with one of several prefixes.

use std::collections::HashMap;

use crate::{
    error::Error,
    generate::{common::Common, exact::RandomPrompts, writer::PromptLen},
    record::{Object, SampleRequest},
};

/// The prefix of each request, in the order in which requests are written: 4 bytes are kept per request.
#[derive(Debug)]
pub struct PrefixSchedule {
    prefixes: Vec<u32>,
    /// The first request with each prefix.
    first: HashMap<u32, u64>,
}

impl PrefixSchedule {
    /// Uses prefixes in this order.
    pub fn new(prefixes: Vec<u32>) -> Self {
        let mut first = HashMap::new();
        for (item, prefix) in (0..).zip(&prefixes) {
            first.entry(*prefix).or_insert(item);
        }
        PrefixSchedule { prefixes, first }
    }

    /// Checks that the memory for all requests, `each` bytes per request, is not too large.
    ///
    /// # Errors
    /// There are too many requests or prefixes.
    pub fn check_memory(count: u64, each: u64, prefixes: u32) -> Result<(), Error> {
        const MAX_BYTES: u64 = 1 << 32;
        const MAX_PREFIXES: u32 = 1 << 24;
        let most = MAX_BYTES / each;
        if count > most || prefixes > MAX_PREFIXES {
            return Err(Error::Usage(format!(
                "{count} prompts with {prefixes} prefixes are too many: {each} bytes are kept per prompt, so at most {most} and \
                 {MAX_PREFIXES} are possible"
            )));
        }
        Ok(())
    }

    /// Uses each prefix equally often; the first ones one more time if the number of requests is not a multiple.
    pub fn spread_evenly(count: u64, prefixes: u32) -> Vec<u32> {
        (0..prefixes).cycle().take(usize::try_from(count).unwrap_or(usize::MAX)).collect()
    }

    /// The prefix of request `item`, and whether an earlier request has sent it.
    pub fn prefix_at(&self, item: u64) -> (u32, bool) {
        let prefix = usize::try_from(item).ok().and_then(|item| self.prefixes.get(item)).copied().unwrap_or_default();
        (prefix, self.first.get(&prefix).is_some_and(|first| *first < item))
    }

    /// Number of requests.
    pub fn count(&self) -> u64 {
        self.prefixes.len() as u64
    }
}

/// Requests with prefixes.
pub struct PrefixedPrompts<'a> {
    pub random: RandomPrompts<'a>,
    pub uses: PrefixSchedule,
    /// Name of the tag that holds the number of the prefix.
    pub tag: &'static str,
}

impl PrefixedPrompts<'_> {
    /// Makes request `item`: `own` tokens after a prefix of `prefix_len`.
    pub fn make_request(
        &self,
        common: &Common,
        item: u64,
        (prefix_len, own, output): (usize, usize, u32),
    ) -> Result<(SampleRequest, PromptLen), Error> {
        let (number, warm) = self.uses.prefix_at(item);
        let prefix = self.random.make_prefix(u64::from(number), prefix_len)?;
        let (prompt, fitted) = self.random.make_prompt_after(&prefix, item, own)?;
        // All requests begin with the tokens that the server adds, so only the very first request brings them into the
        // cache.
        let added = if item == 0 { 0 } else { self.random.tokens_in_front() };
        let cached = if warm { added + prefix.len } else { added };
        let request = SampleRequest {
            prompt: Some(prompt),
            expected_output_len: Some(output),
            expected_cached_len: u32::try_from(cached).ok(),
            body: common.ignore_eos(),
            tags: Some(Object::from_iter([(self.tag.to_owned(), number.into())])),
            ..SampleRequest::default()
        };
        Ok((request, fitted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remainder_is_kept_and_the_first_use_of_each_prefix_is_known() {
        assert_eq!(PrefixSchedule::spread_evenly(7, 3), [0, 1, 2, 0, 1, 2, 0]);
        let uses = PrefixSchedule::new(vec![2, 2, 0, 2, 0, 1]);
        let warm: Vec<(u32, bool)> = (0..6).map(|item| uses.prefix_at(item)).collect();
        assert_eq!(warm, [(2, false), (2, true), (0, false), (2, true), (0, true), (1, false)]);
        assert_eq!(uses.count(), 6);
    }
}

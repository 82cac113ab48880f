//! `--cache-hit-ratio` with random: prompts with a given share of prefix cache hits.
//!
//! A warm prompt begins with whole blocks of one of a few prefixes. The first prompt with each prefix brings it into
//! the cache and is a miss. How many blocks each prompt shares is computed from the lengths of all prompts, so that the
//! run as a whole has the requested ratio, and its end is as warm as its beginning.

use std::collections::HashMap;

use crate::{
    error::Error,
    generate::{
        common::Common,
        exact::{LengthFlags, PrefixSchedule, RandomPrompts},
        print_warning,
        writer::RequestWriter,
    },
    record::SampleRequest,
    rng,
    units::{parse_count_u32, parse_share, parse_tokens},
};

const HEADING: &str = "Cache hits (random)";

/// Flags of controlled cache hits.
#[derive(Debug, Clone, clap::Args)]
#[allow(clippy::struct_field_names)] // fields have the names of their flags
pub struct CacheHitFlags {
    /// Share of all prompt tokens that should be prefix cache hits, such as 0.6.
    #[arg(long, help_heading = HEADING, value_name = "SHARE", value_parser = parse_share)]
    cache_hit_ratio: Option<f64>,
    /// Share of requests that have any cache hits; the others are completely new.
    #[arg(
        long,
        help_heading = HEADING,
        value_name = "SHARE",
        alias = "random-cache-hit-fraction",
        default_value = "1",
        value_parser = parse_share
    )]
    cache_hit_fraction: f64,
    /// Number of shared prefixes [default: 8, fewer for short runs].
    #[arg(long, help_heading = HEADING, value_name = "N", value_parser = parse_count_u32)]
    cache_hit_prefixes: Option<u32>,
    /// Tokens per block of the server's cache, which only stores whole blocks.
    #[arg(long, help_heading = HEADING, value_name = "TOKENS", default_value = "16", value_parser = parse_tokens)]
    cache_block_size: u32,
}

/// The prefix of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct PrefixShare {
    prefix: u32,
    /// Tokens of it that the prompt begins with, including those that the server adds.
    len: u32,
    /// The part of them that earlier requests brought into the cache.
    cached: u32,
}

/// The requested cache hits of a run.
struct ShareTarget {
    ratio: f64,
    block: u32,
    prefixes: u32,
    /// Tokens that the server adds after each prompt.
    rear: u32,
}

impl ShareTarget {
    /// Plans the prefixes of prompts with these lengths and whether each may be warm; `None` if the ratio cannot be
    /// reached.
    fn plan_shares(&self, prompts: &[(u32, bool)]) -> Option<Vec<PrefixShare>> {
        let total: f64 = prompts.iter().map(|(len, _)| f64::from(*len)).sum();
        let warm = || prompts.iter().filter(|(_, warm)| *warm);
        // The first prompts, one per prefix, are misses.
        let hits: f64 = warm().skip(self.prefixes as usize).map(|(len, _)| f64::from(*len)).sum();
        let share = if self.ratio > 0.0 { self.ratio * total / hits } else { 0.0 };
        let mut longest: HashMap<u32, u32> = HashMap::new();
        let (mut owed, mut given, mut nth) = (0.0, 0.0, 0);
        let mut shares = Vec::with_capacity(prompts.len());
        for (len, warm) in prompts {
            if !warm || self.ratio <= 0.0 {
                shares.push(PrefixShare::default());
                continue;
            }
            let prefix = nth % self.prefixes;
            nth += 1;
            // A server computes at least one token.
            let most = len.saturating_sub(self.rear.max(1)) / self.block * self.block;
            let share = match longest.get(&prefix) {
                None => PrefixShare { prefix, len: most, cached: 0 },
                Some(known) => {
                    owed += share * f64::from(*len);
                    let len = nearest_multiple(owed, self.block).min(most);
                    PrefixShare { prefix, len, cached: len.min(*known) }
                }
            };
            owed -= f64::from(share.cached);
            given += f64::from(share.cached);
            let known = longest.entry(prefix).or_default();
            *known = share.len.max(*known);
            shares.push(share);
        }
        // Rounding leaves part of a block, and slightly more if the last prompts are too short for the rest.
        let left = (self.ratio * total - given).abs();
        // In a short run, the remaining part of a block may be all of it.
        let some = given > 0.0 || self.ratio <= 0.0;
        (some && left <= f64::from(self.block).max(total * 0.005)).then_some(shares)
    }
}

/// The multiple of `block` nearest to `tokens`.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // `as` saturates
fn nearest_multiple(tokens: f64, block: u32) -> u32 {
    ((tokens / f64::from(block)).round() as u32).saturating_mul(block)
}

/// Writes `--num-prompts` random requests with the requested cache hits.
pub fn run(common: &Common, args: &CacheHitFlags, writer: &mut RequestWriter) -> Result<(), Error> {
    let wrong = |what: &str| Err(Error::Usage(what.into()));
    let Some(ratio) = args.cache_hit_ratio else {
        return wrong("--cache-hit-fraction, --cache-hit-prefixes and --cache-block-size need --cache-hit-ratio");
    };
    if common.prefix_tokens() > 0 {
        return wrong("--cache-hit-ratio makes its own prefixes: leave out --prefix-len");
    }
    if common.chat {
        return wrong(
            "--cache-hit-ratio only works with --backend openai: how a chat template fills blocks is not known",
        );
    }
    if args.cache_block_size == 0 || args.cache_hit_prefixes == Some(0) {
        return wrong("--cache-block-size and --cache-hit-prefixes must be at least 1");
    }
    let random = RandomPrompts::from_common(common)?;
    let overhead = u32::try_from(random.added_tokens()).unwrap_or(u32::MAX);
    let lengths = super::length_ranges(common, &LengthFlags::default(), &random)?;
    let few = u32::try_from(common.num_prompts / 20).unwrap_or(u32::MAX).clamp(1, 8);
    let rear = u32::try_from(random.tokens_at_end()).unwrap_or(u32::MAX);
    let wish =
        ShareTarget { ratio, block: args.cache_block_size, prefixes: args.cache_hit_prefixes.unwrap_or(few), rear };
    // Bytes per prompt: a length and a planned prefix.
    PrefixSchedule::check_memory(common.num_prompts, 20, wish.prefixes)?;
    let prompts: Vec<(u32, bool)> = (0..common.num_prompts)
        .map(|item| {
            let own = u32::try_from(lengths.draw_lengths(common.seed, item).0).unwrap_or(u32::MAX);
            let warm = rng::sample_unit(&mut rng::random_stream(common.seed, "warm", item)) < args.cache_hit_fraction;
            (own.saturating_add(overhead), warm)
        })
        .collect();
    let Some(shares) = wish.plan_shares(&prompts) else {
        return Err(Error::Usage(format!(
            "--cache-hit-ratio {ratio} cannot be reached by {} prompts with {} prefixes, where the first use of each is a miss, in \
             whole blocks of {}: use more or longer prompts, fewer prefixes, or a lower ratio",
            common.num_prompts, wish.prefixes, wish.block
        )));
    };
    report_shares(&prompts, &shares, &wish);
    drop(prompts);
    writer.write_numbered(common.num_prompts, |item| {
        let (own, output) = lengths.draw_lengths(common.seed, item);
        let share = usize::try_from(item).ok().and_then(|item| shares.get(item)).copied().unwrap_or_default();
        // What the server adds before the prompt is part of the first block.
        let len = (share.len as usize).saturating_sub(random.tokens_in_front());
        let prefix = random.make_prefix(u64::from(share.prefix), len)?;
        let (prompt, fitted) = random.make_prompt_after(&prefix, item, own.saturating_sub(prefix.len))?;
        let request = SampleRequest {
            prompt: Some(prompt),
            expected_output_len: Some(output),
            expected_cached_len: Some(share.cached),
            body: common.ignore_eos(),
            ..SampleRequest::default()
        };
        Ok((request, fitted))
    })
}

fn report_shares(prompts: &[(u32, bool)], shares: &[PrefixShare], wish: &ShareTarget) {
    let total: u64 = prompts.iter().map(|(len, _)| u64::from(*len)).sum();
    let cached: u64 = shares.iter().map(|share| u64::from(share.cached)).sum();
    let hits = shares.iter().filter(|share| share.cached > 0).count();
    print_warning(format!(
        "{:.2} % of {total} prompt tokens should be prefix cache hits: {hits} of {} requests hit whole blocks of {} tokens \
         of {} prefixes (the first use of each is a miss)",
        100.0 * cached as f64 / total.max(1) as f64,
        prompts.len(),
        wish.block,
        wish.prefixes
    ));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equal_prompts_share_evenly_from_the_beginning() {
        let wish = ShareTarget { ratio: 0.5, block: 16, prefixes: 2, rear: 0 };
        let shares = wish.plan_shares(&[(256, true); 100]).unwrap();
        assert_eq!(shares[0], PrefixShare { prefix: 0, len: 240, cached: 0 });
        assert_eq!(shares[1], PrefixShare { prefix: 1, len: 240, cached: 0 });
        // 50 % of all is 51.02 % of the 98 that can hit: 130.6 tokens, in blocks of 16.
        assert!(shares[2..].iter().all(|s| (s.cached == 128 || s.cached == 144) && s.len == s.cached));
        let cached: u32 = shares.iter().map(|s| s.cached).sum();
        assert!(cached.abs_diff(12_800) <= 8, "{cached}");
    }

    #[test]
    fn a_ratio_that_cannot_be_reached_is_refused() {
        let wish = |ratio, prefixes| ShareTarget { ratio, block: 16, prefixes, rear: 0 };
        assert!(wish(0.9, 5).plan_shares(&[(256, true); 10]).is_none());
        assert!(wish(0.5, 1).plan_shares(&[(16, true); 100]).is_none(), "no whole block leaves a token");
        assert!(wish(0.5, 1).plan_shares(&[(256, false); 100]).is_none());
        assert!(wish(0.01, 1).plan_shares(&[(256, true); 2]).is_none(), "5 tokens are less than half a block");
        assert!(wish(0.0, 1).plan_shares(&[(256, true); 10]).unwrap().iter().all(|s| *s == PrefixShare::default()));
    }

    proptest! {
        /// A cache that stores blocks finds what each request expects.
        #[test]
        fn the_cache_finds_what_is_expected(
            lens in proptest::collection::vec(40..600_u32, 100..300), ratio in 0.05..0.7, prefixes in 1..6_u32, cold in 2..9_usize,
        ) {
            let prompts: Vec<(u32, bool)> = lens.iter().enumerate().map(|(i, len)| (*len, i % cold != 1)).collect();
            let wish = ShareTarget { ratio, block: 16, prefixes, rear: 0 };
            let Some(shares) = wish.plan_shares(&prompts) else { return Ok(()) };
            let mut known = std::collections::HashSet::new();
            let (mut total, mut hits) = (0, 0);
            for ((len, warm), share) in prompts.iter().zip(&shares) {
                prop_assert!(share.len < *len && share.len % 16 == 0 && (*warm || share.len == 0));
                let blocks = (0..share.len / 16).map(|block| (share.prefix, block));
                let found = blocks.clone().take_while(|block| known.contains(block)).count();
                prop_assert_eq!(u32::try_from(found).unwrap() * 16, share.cached);
                known.extend(blocks);
                total += len;
                hits += share.cached;
            }
            prop_assert!((f64::from(hits) / f64::from(total) - ratio).abs() < 0.01);
        }
    }
}

//! Lengths of prompts and responses.

use rand::Rng;
use serde::Deserialize;

use crate::{error::Error, generate::exact::LengthDistribution, rng};

/// How much lengths vary: a share of the length in both directions, from 0 to less than 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RangeRatio {
    /// For the prompt.
    #[serde(default)]
    pub input: f64,
    /// For the response.
    #[serde(default)]
    pub output: f64,
}

impl std::str::FromStr for RangeRatio {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let both = |r: f64| RangeRatio { input: r, output: r };
        let ratio = text.trim().parse().map(both).ok().or_else(|| serde_json::from_str(text).ok());
        ratio.filter(|r| [r.input, r.output].iter().all(|x| (0.0..1.0).contains(x))).ok_or_else(|| {
            format!("`{text}` is not a range ratio: write 0.1, or {{\"input\":0.1,\"output\":0.5}}, each less than 1")
        })
    }
}

/// Value of `--output-len`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputLen {
    /// The same for all requests, before the range ratio; 0 if nothing is generated.
    Tokens(u32),
    /// Each row's own, written as `-1`.
    PerRow,
}

impl std::str::FromStr for OutputLen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "-1" => Ok(OutputLen::PerRow),
            number => crate::units::parse_tokens(number).map(OutputLen::Tokens),
        }
    }
}

/// Differences from an integer that count as rounding errors: 100 · 1.1 is slightly more than 110 in floating point,
/// and the ratios that people write do not come this close to an integer.
const ROUNDING_TOLERANCE: f64 = 1e-7;

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // not negative, and `as` saturates
fn floor_tolerant(x: f64) -> u64 {
    (x + ROUNDING_TOLERANCE).floor() as u64
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // as above
fn ceil_tolerant(x: f64) -> u64 {
    (x - ROUNDING_TOLERANCE).ceil() as u64
}

/// A uniform distribution of integers, both limits included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LengthRange {
    low: u64,
    high: u64,
}

impl LengthRange {
    /// SGLang's rule: ⌊n·r⌋ to n, at least 1.
    pub fn up_to(n: u32, ratio: f64) -> Self {
        LengthRange { low: floor_tolerant(f64::from(n) * ratio).max(1), high: u64::from(n).max(1) }
    }

    /// ⌊n(1−r)⌋ to ⌈n(1+r)⌉, at least 0 and at most `most`; `None` if the whole range is above `most`.
    pub fn from_ratio_up_to(n: u32, ratio: f64, most: u32) -> Option<Self> {
        let low = floor_tolerant(f64::from(n) * (1.0 - ratio));
        let high = ceil_tolerant(f64::from(n) * (1.0 + ratio));
        (low <= u64::from(most)).then(|| LengthRange { low, high: high.min(u64::from(most)) })
    }

    /// vLLM's rule: ⌊n(1−r)⌋ to ⌈n(1+r)⌉, at least 1.
    pub fn from_ratio(n: u32, ratio: f64) -> Self {
        let low = floor_tolerant(f64::from(n) * (1.0 - ratio));
        let high = ceil_tolerant(f64::from(n) * (1.0 + ratio));
        LengthRange { low: low.max(1), high: high.max(1) }
    }

    /// The same range with `more` added to both limits, as a distribution.
    pub fn to_distribution(self, more: u32) -> Result<LengthDistribution, String> {
        let end = |end: u64| u32::try_from(end).unwrap_or(u32::MAX).saturating_add(more);
        LengthDistribution::new_uniform(end(self.low), end(self.high))
    }

    /// Draws a length.
    pub fn draw_length(self, rng: &mut impl Rng) -> u32 {
        u32::try_from(rng::sample_between(rng, self.low, self.high)).unwrap_or(u32::MAX)
    }
}

/// Ranges of the prompt and output lengths of a run.
#[derive(Debug, Clone, Copy)]
pub struct LengthRanges {
    pub input: LengthRange,
    pub output: LengthRange,
}

impl LengthRanges {
    /// Draws the prompt and output tokens of `item`.
    pub fn draw_lengths(&self, seed: u64, item: u64) -> (usize, u32) {
        let mut rng = rng::random_stream(seed, "lengths", item);
        let input = self.input.draw_length(&mut rng);
        (input as usize, self.output.draw_length(&mut rng))
    }
}

/// Tokens of `--input-len` that remain for the text without the `overhead` that the server adds.
pub fn input_len_without(total: u32, overhead: usize, what: &str) -> Result<u32, Error> {
    subtract_overhead("--input-len", total, overhead, what)
}

/// Tokens of `flag` that remain without the `overhead`.
pub fn subtract_overhead(flag: &str, total: u32, overhead: usize, what: &str) -> Result<u32, Error> {
    let remaining = u32::try_from(overhead).ok().and_then(|overhead| total.checked_sub(overhead)).filter(|n| *n > 0);
    remaining.ok_or_else(|| {
        Error::Usage(format!(
            "{flag} {total} is too small for {what}, {overhead} tokens: make it {} or more",
            overhead + 1
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ends_of_a_range_are_vllms() {
        assert_eq!(LengthRange::from_ratio(1024, 0.0), LengthRange { low: 1024, high: 1024 });
        assert_eq!(LengthRange::from_ratio(128, 0.3), LengthRange { low: 89, high: 167 });
        assert_eq!(LengthRange::from_ratio(1, 0.9), LengthRange { low: 1, high: 2 });
    }

    #[test]
    fn the_ends_of_a_range_are_exact_where_floating_point_is_not() {
        for n in 0..2000_u32 {
            for hundredths in 0..100_u32 {
                let ratio = f64::from(hundredths) / 100.0;
                let low = u64::from(n * (100 - hundredths) / 100);
                let high = u64::from((n * (100 + hundredths)).div_ceil(100));
                assert_eq!(
                    LengthRange::from_ratio(n, ratio),
                    LengthRange { low: low.max(1), high: high.max(1) },
                    "{n} ± {ratio}"
                );
                assert_eq!(
                    LengthRange::from_ratio_up_to(n, ratio, u32::MAX),
                    Some(LengthRange { low, high }),
                    "{n} ± {ratio}"
                );
                assert_eq!(LengthRange::up_to(n, ratio).low, u64::from(n * hundredths / 100).max(1), "{n} · {ratio}");
            }
        }
    }

    #[test]
    fn ratios_are_a_number_or_one_for_each_side() {
        assert_eq!("0.25".parse(), Ok(RangeRatio { input: 0.25, output: 0.25 }));
        assert_eq!(r#"{"input":0.5,"output":0}"#.parse(), Ok(RangeRatio { input: 0.5, output: 0.0 }));
        for text in ["1", "-0.1", "nan", "much", r#"{"inptu":0.5}"#, r#"{"input":1.0,"output":0}"#] {
            assert!(text.parse::<RangeRatio>().is_err(), "{text}");
        }
    }

    #[test]
    fn minus_one_is_each_rows_own() {
        assert_eq!("-1".parse(), Ok(OutputLen::PerRow));
        assert_eq!("2k".parse(), Ok(OutputLen::Tokens(2000)));
        assert!("-2".parse::<OutputLen>().is_err() && "17m".parse::<OutputLen>().is_err());
    }

    #[test]
    fn every_length_of_the_range_is_drawn() {
        let lengths = LengthRanges { input: LengthRange::from_ratio(10, 0.2), output: LengthRange::from_ratio(4, 0.5) };
        let drawn: std::collections::BTreeSet<_> = (0..500).map(|item| lengths.draw_lengths(7, item)).collect();
        assert_eq!(drawn.len(), 5 * 5);
    }
}

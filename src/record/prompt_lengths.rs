//! The lengths of prompts as they were asked for, and as the server counted them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Prompts whose request has a length, in tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PromptLengths {
    /// Prompts with an asked length that have been counted.
    pub compared: u64,
    /// Prompts that are shorter than asked.
    pub short: u64,
    /// Prompts that are longer than asked.
    pub long: u64,
    /// Tokens that were asked for, in all of them.
    pub asked_tokens: u64,
    /// Tokens that were counted, in all of them.
    pub counted_tokens: u64,
    /// The smallest difference, counted − asked.
    pub least_extra: i64,
    /// The largest difference, counted − asked.
    pub most_extra: i64,
}

/// Prompts are as long as asked if fewer than one in this many differ, and their sum by less than this share.
const FEW_PROMPTS: u64 = 10;
const SMALL_SHARE: f64 = 0.005;

impl PromptLengths {
    /// Adds a prompt.
    pub fn add(&mut self, asked: u32, counted: u32) {
        let extra = i64::from(counted) - i64::from(asked);
        *self = self.merge_with(PromptLengths {
            compared: 1,
            short: u64::from(extra < 0),
            long: u64::from(extra > 0),
            asked_tokens: asked.into(),
            counted_tokens: counted.into(),
            least_extra: extra,
            most_extra: extra,
        });
    }

    /// Both together.
    #[must_use]
    pub fn merge_with(self, other: PromptLengths) -> PromptLengths {
        match (self.compared, other.compared) {
            (0, _) => other,
            (_, 0) => self,
            _ => PromptLengths {
                compared: self.compared.saturating_add(other.compared),
                short: self.short.saturating_add(other.short),
                long: self.long.saturating_add(other.long),
                asked_tokens: self.asked_tokens.saturating_add(other.asked_tokens),
                counted_tokens: self.counted_tokens.saturating_add(other.counted_tokens),
                least_extra: self.least_extra.min(other.least_extra),
                most_extra: self.most_extra.max(other.most_extra),
            },
        }
    }

    /// How the lengths differ, if it is worth a word: `"116.0 tokens in each prompt, not 100.0 as asked for (+16.0 %)"`.
    #[must_use]
    pub fn describe_difference(&self) -> Option<String> {
        let PromptLengths { compared, short, long, asked_tokens, counted_tokens, .. } = *self;
        let (asked, counted, number) = (asked_tokens as f64, counted_tokens as f64, compared.max(1) as f64);
        let share = (counted - asked) / asked.max(1.0);
        let few = (short + long).saturating_mul(FEW_PROMPTS) < compared;
        if short + long == 0 || few && share.abs() < SMALL_SHARE {
            return None;
        }
        let change = if share.abs() < 0.0005 { String::new() } else { format!(" ({:+.1} %)", share * 100.0) };
        let (asked, counted) = (asked / number, counted / number);
        Some(format!("{counted:.1} tokens in each prompt, not {asked:.1} as asked for{change}"))
    }

    /// The number of tokens by which every prompt differs, if it is the same for all.
    #[must_use]
    pub fn constant_extra(&self) -> Option<i64> {
        (self.compared > 0 && self.least_extra == self.most_extra).then_some(self.least_extra)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_described_if_it_matters() {
        let lengths = |pairs: &[(u32, u32)]| {
            let mut all = PromptLengths::default();
            for (asked, counted) in pairs {
                all.add(*asked, *counted);
            }
            all
        };
        assert_eq!(lengths(&[]).describe_difference(), None);
        assert_eq!(lengths(&[(100, 100)]).describe_difference(), None);
        let longer = lengths(&[(100, 114), (100, 118)]);
        let want = "116.0 tokens in each prompt, not 100.0 as asked for (+16.0 %)";
        assert_eq!((longer.describe_difference().as_deref(), longer.constant_extra()), (Some(want), None));
        let bos = lengths(&[(4000, 4001), (5000, 5001)]);
        assert_eq!(bos.constant_extra(), Some(1));
        assert!(
            bos.describe_difference().unwrap().starts_with("4501.0 tokens in each prompt, not 4500.0 as asked for")
        );
        assert_eq!(lengths(&[(0, 3)]).constant_extra(), Some(3));
        let one_in_a_hundred: Vec<_> = (0..100).map(|i| (100, 100 + u32::from(i == 0))).collect();
        assert_eq!(lengths(&one_in_a_hundred).describe_difference(), None);
        let merged = longer.merge_with(bos);
        assert_eq!((merged.compared, merged.least_extra, merged.most_extra), (4, 1, 18));
    }
}

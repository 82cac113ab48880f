//! Texts of exactly as many tokens as asked for, and where their lengths come from.

mod distribution;
mod draws;
mod fit;
mod lengths;
mod prefixes;
mod random;
mod words;

pub use distribution::LengthDistribution;
pub use draws::{LengthFlags, LengthSource};
pub use fit::{PromptCounter, TextDraft};
pub use lengths::{LengthRange, LengthRanges, OutputLen, RangeRatio, input_len_without, subtract_overhead};
pub use prefixes::{PrefixSchedule, PrefixedPrompts};
pub use random::RandomPrompts;
pub use words::{WordList, wrap_index};

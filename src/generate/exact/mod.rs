//! Texts of exactly as many tokens as asked for, and where their lengths come from.

mod distribution;
mod draws;
mod fit;
mod lengths;
mod prefixes;
mod random;
mod words;

pub use distribution::Distribution;
pub use draws::{Draws, LengthArgs};
pub use fit::{Draft, Framed};
pub use lengths::{Lengths, OutputLen, Range, RangeRatio, rest, without};
pub use prefixes::{Prefixed, Uses};
pub use random::Random;
pub use words::{Words, place};

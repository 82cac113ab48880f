//! How long users think between an answer and what they ask next.

use std::str::FromStr;

use rand::rngs::ChaCha8Rng;

use crate::{
    rng,
    units::{Nanos, parse_duration},
};

/// `--think-time`: `2s`, or `exp:2s`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThinkTime {
    mean: Nanos,
    /// Exponentially distributed, and not always the same.
    exponential: bool,
}

impl FromStr for ThinkTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (time, exponential) = match text.trim().strip_prefix("exp:") {
            Some(mean) => (mean, true),
            None => (text, false),
        };
        Ok(ThinkTime { mean: parse_duration(time)?, exponential })
    }
}

/// Draws think times, by the seed.
#[derive(Debug)]
pub struct Thinking {
    time: ThinkTime,
    rng: ChaCha8Rng,
}

impl Thinking {
    /// Of this distribution.
    #[must_use]
    pub fn new(time: ThinkTime, seed: u64) -> Self {
        Thinking { time, rng: rng::stream(seed, "thinking", 0) }
    }

    /// The next.
    pub fn draw(&mut self) -> Nanos {
        let ThinkTime { mean, exponential } = self.time;
        if !exponential || mean == Nanos(0) {
            return mean;
        }
        Nanos::from_secs_f64(mean.as_secs_f64() * rng::exponential(&mut self.rng))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn think_times_are_fixed_or_exponential() {
        let mut fixed = Thinking::new("2s".parse().unwrap(), 1);
        assert_eq!((fixed.draw(), fixed.draw()), (Nanos(2_000_000_000), Nanos(2_000_000_000)));
        let mut drawn = Thinking::new("exp:200ms".parse().unwrap(), 1);
        let mean = (0..20_000).map(|_| drawn.draw().as_secs_f64()).sum::<f64>() / 20_000.0;
        assert!((mean / 0.2 - 1.0).abs() < 0.03, "{mean}");
        assert!("exp:soon".parse::<ThinkTime>().is_err());
    }
}

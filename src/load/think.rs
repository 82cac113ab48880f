//! Think times: how long users wait between a response and their next request.

use std::str::FromStr;

use rand::Rng;

use crate::{
    rng,
    units::{Nanos, parse_duration},
};

/// A think time as given on the command line: `2s`, or `exp:2s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThinkTime {
    /// Always the same.
    Constant(Nanos),
    /// Exponentially distributed with this mean.
    Exponential(Nanos),
}

/// No think time.
impl Default for ThinkTime {
    fn default() -> Self {
        ThinkTime::Constant(Nanos(0))
    }
}

impl FromStr for ThinkTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim().split_once(':') {
            None => parse_duration(text).map(ThinkTime::Constant),
            Some(("constant", time)) => parse_duration(time).map(ThinkTime::Constant),
            Some(("exp" | "exponential", mean)) => parse_duration(mean).map(ThinkTime::Exponential),
            Some((other, _)) => {
                Err(format!("unknown think-time distribution `{other}`: use 2s, or exp:2s (exponential, mean 2 s)"))
            }
        }
    }
}

impl ThinkTime {
    /// Draws the next think time.
    pub fn draw_time(self, rng: &mut impl Rng) -> Nanos {
        match self {
            ThinkTime::Constant(time) => time,
            ThinkTime::Exponential(mean) => Nanos::from_secs_f64(mean.as_secs_f64() * rng::sample_exponential(rng)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn think_times_are_fixed_or_exponential() {
        let time = |text: &str| text.parse::<ThinkTime>();
        let rng = &mut rng::random_stream(1, "test", 0);
        for fixed in ["2s", "constant:2s"] {
            assert_eq!(time(fixed).unwrap().draw_time(rng), Nanos(2_000_000_000));
        }
        let drawn = time("exp:200ms").unwrap();
        let mean = (0..20_000).map(|_| drawn.draw_time(rng).as_secs_f64()).sum::<f64>() / 20_000.0;
        assert!((mean / 0.2 - 1.0).abs() < 0.03, "{mean}");
        for wrong in ["", "exp:soon", "exp:-1s", "normal:2s"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}

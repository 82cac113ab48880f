//! Time and counts: integer nanoseconds inside, seconds as JSON numbers outside, units in flags.
//!
//! This is the one module that turns nanoseconds into text and back.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use serde_json::value::RawValue;

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

/// A duration, or an instant counted from the start of a run, in nanoseconds of the monotonic clock.
///
/// In JSON it is a number of seconds. Up to 10⁶ seconds (11 days) every nanosecond survives a round trip, since a double
/// keeps 15 significant digits; above that, the last digits may change.
///
/// ```
/// let t: vb::units::Nanos = serde_json::from_str("0.041500001")?;
/// assert_eq!(t.0, 41_500_001);
/// assert_eq!(serde_json::to_string(&t)?, "0.041500001");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// Converts seconds; values out of range become the nearest valid value.
    #[must_use]
    pub fn from_secs_f64(seconds: f64) -> Self {
        /// Doubles next to it have no decimals: adding it rounds, and its last bits are the sum.
        const WHOLE: f64 = 6_755_399_441_055_744.0; // 1.5 · 2^52
        let exact = seconds * 1e9;
        if (0.0..=2e15).contains(&exact) {
            let rounded = exact + WHOLE;
            // A half was rounded to an even number.
            let half = u64::from(exact - (rounded - WHOLE) >= 0.5);
            return Nanos(rounded.to_bits() - WHOLE.to_bits() + half);
        }
        // `as` saturates, and turns NaN into 0.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Nanos(exact.round() as u64)
    }

    /// Converts to seconds: the double nearest to the exact value.
    #[must_use]
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// The time from `earlier` to `self`; zero if `earlier` is later than `self`.
    #[must_use]
    pub fn since(self, earlier: Nanos) -> Nanos {
        Nanos(self.0.saturating_sub(earlier.0))
    }

    /// Appends it as a number of seconds: the text of `Serialize`, written digit by digit.
    pub fn push_seconds(self, out: &mut Vec<u8>) {
        match self.0 {
            0 => out.extend_from_slice(b"0.0"),
            // Numbers below 0.00001 have an exponent.
            1..10_000 => push_exponential(out, self.0),
            10_000..EXACT_NANOS => {
                push_decimal(out, self.0 / SECOND);
                let digits = point_and_nanos(self.0 % SECOND);
                let zeros = digits[2..].iter().rev().take_while(|digit| **digit == b'0').count();
                out.extend_from_slice(&digits[..digits.len() - zeros]);
            }
            _ => {
                // Writing to a buffer does not fail.
                let _ = serde_json::to_writer(out, &self.as_secs_f64());
            }
        }
    }

    /// Converts to the standard library's duration.
    #[must_use]
    pub fn to_duration(self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.0)
    }
}

/// Below this, a number of nanoseconds has at most 15 digits, and the shortest decimal of its double has the same digits.
const EXACT_NANOS: u64 = 1_000_000 * SECOND;

/// Appends this many nanoseconds as seconds, as `1.5e-6`.
fn push_exponential(out: &mut Vec<u8>, nanos: u64) {
    let (mut digits, mut exponent) = (nanos, 9);
    while digits.is_multiple_of(10) {
        (digits, exponent) = (digits / 10, exponent - 1);
    }
    let start = out.len();
    push_decimal(out, digits);
    let more = out.len() - start - 1;
    if more > 0 {
        out.insert(start + 1, b'.');
    }
    out.extend_from_slice(b"e-");
    push_decimal(out, exponent - more as u64);
}

/// The digits of all numbers below 100, two each.
const DIGIT_PAIRS: [[u8; 2]; 100] = {
    let (mut pairs, mut n) = ([[0; 2]; 100], 0_u8);
    while n < 100 {
        pairs[n as usize] = [b'0' + n / 10, b'0' + n % 10];
        n += 1;
    }
    pairs
};

/// A point, and the nine digits of a part of a second.
#[inline]
#[allow(clippy::cast_possible_truncation, clippy::many_single_char_names)] // less than a second, and a digit
fn point_and_nanos(nanos: u64) -> [u8; 10] {
    let nanos = nanos as u32;
    let (high, low) = (nanos / 10_000, nanos % 10_000);
    let pair = |n: u32| DIGIT_PAIRS[n as usize % 100];
    let [a, b] = pair(high / 100);
    let [c, d] = pair(high);
    let [e, f] = pair(low / 100);
    let [g, h] = pair(low);
    [b'.', b'0' + (high / 10_000) as u8, a, b, c, d, e, f, g, h]
}

/// Appends the digits of a whole number.
#[inline]
#[allow(clippy::cast_possible_truncation)] // a digit
pub fn push_decimal(out: &mut Vec<u8>, number: u64) {
    if number < 10 {
        return out.push(b'0' + number as u8);
    }
    let (mut digits, mut at, mut rest) = ([b'0'; 20], 20, number);
    loop {
        at -= 1;
        digits[at] += (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

impl std::ops::Add for Nanos {
    type Output = Nanos;
    fn add(self, other: Nanos) -> Nanos {
        Nanos(self.0.saturating_add(other.0))
    }
}

/// For people: `41.5 ms`, `1.20 s`.
impl fmt::Display for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ns = self.0;
        match ns {
            0..1_000 => write!(f, "{ns} ns"),
            1_000..1_000_000 => write!(f, "{:.1} µs", ns as f64 / 1e3),
            1_000_000..SECOND => write!(f, "{:.1} ms", ns as f64 / 1e6),
            _ => write!(f, "{:.2} s", ns as f64 / 1e9),
        }
    }
}

impl Serialize for Nanos {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_f64(self.as_secs_f64())
    }
}

impl<'de> Deserialize<'de> for Nanos {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let seconds = f64::deserialize(from)?;
        if seconds < 0.0 || !seconds.is_finite() {
            return Err(de::Error::custom(format!("{seconds} is not a time in seconds: use a number of 0 or more")));
        }
        Ok(Nanos::from_secs_f64(seconds))
    }
}

impl JsonSchema for Nanos {
    fn schema_name() -> Cow<'static, str> {
        "Seconds".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "number", "minimum": 0, "description": "Seconds, with nanosecond digits."})
    }
}

/// An instant of wall-clock time in nanoseconds since 1970, UTC.
///
/// In JSON it is a number of Unix seconds with nine decimals. Such a number has more digits than a
/// double, so it is written and read as decimal text, and no tool loses digits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixNanos(pub u64);

impl UnixNanos {
    /// The time from `earlier` to `self`; zero if `earlier` is later than `self`.
    #[must_use]
    pub fn since(self, earlier: UnixNanos) -> Nanos {
        Nanos(self.0.saturating_sub(earlier.0))
    }

    /// Appends it as a number of Unix seconds: the text of `Serialize`.
    pub fn push_seconds(self, out: &mut Vec<u8>) {
        push_decimal(out, self.0 / SECOND);
        out.extend_from_slice(&point_and_nanos(self.0 % SECOND));
    }

    /// Converts to Unix seconds, to the nearest double (about 0.2 µs today).
    #[must_use]
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }
}

impl std::ops::Add<Nanos> for UnixNanos {
    type Output = UnixNanos;
    fn add(self, time: Nanos) -> UnixNanos {
        UnixNanos(self.0.saturating_add(time.0))
    }
}

impl Serialize for UnixNanos {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let text = format!("{}.{:09}", self.0 / SECOND, self.0 % SECOND);
        RawValue::from_string(text).map_err(ser::Error::custom)?.serialize(out)
    }
}

impl<'de> Deserialize<'de> for UnixNanos {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> de::Visitor<'de> for TextVisitor {
            type Value = UnixNanos;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time in Unix seconds")
            }
            /// Called by parsers that have the text of the number.
            fn visit_str<E: de::Error>(self, text: &str) -> Result<UnixNanos, E> {
                let time = parse_decimal_nanos(text).map(UnixNanos);
                time.ok_or_else(|| E::custom(format!("{text} is not a time in Unix seconds")))
            }
            fn visit_newtype_struct<D: Deserializer<'de>>(self, from: D) -> Result<UnixNanos, D::Error> {
                self.visit_str(Box::<RawValue>::deserialize(from)?.get())
            }
        }
        from.deserialize_newtype_struct("UnixNanos", TextVisitor)
    }
}

impl JsonSchema for UnixNanos {
    fn schema_name() -> Cow<'static, str> {
        "UnixSeconds".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "number", "minimum": 0, "description": "Unix seconds (UTC), with nanosecond digits."})
    }
}

/// Parses `12.5` to 12 500 000 000, digit by digit; a number with an exponent (`1e3`) goes through a double.
fn parse_decimal_nanos(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) || whole.is_empty() {
        let seconds: f64 = text.parse().ok()?;
        return (seconds >= 0.0 && seconds.is_finite()).then(|| Nanos::from_secs_f64(seconds).0);
    }
    let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanos = digits.fold(0, |nanos, digit| nanos * 10 + u64::from(digit - b'0'));
    whole.parse::<u64>().ok()?.checked_mul(SECOND)?.checked_add(nanos)
}

/// Parses a duration from a flag: `200ms`, `5s`, `2m`, `1h`; a bare number is seconds.
///
/// ```
/// assert_eq!(vb::units::parse_duration("200ms").unwrap().0, 200_000_000);
/// assert!(vb::units::parse_duration("fast").is_err());
/// ```
pub fn parse_duration(text: &str) -> Result<Nanos, String> {
    parse_duration_in(text, "s")
}

/// Like [`parse_duration`], but a bare number is in `unit`.
pub fn parse_duration_in(text: &str, unit: &str) -> Result<Nanos, String> {
    let text = text.trim();
    let split = text.find(|c: char| c.is_ascii_alphabetic() || c == 'µ').unwrap_or(text.len());
    let (number, given) = text.split_at(split);
    let scale = match if given.is_empty() { unit } else { given } {
        "ns" => 1e-9,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        _ => return Err(format!("`{text}` is not a duration: use 200ms, 5s, 2m or 1h")),
    };
    match number.trim().parse::<f64>() {
        Ok(n) if n >= 0.0 && n.is_finite() => Ok(Nanos::from_secs_f64(n * scale)),
        _ => Err(format!("`{text}` is not a duration: use 200ms, 5s, 2m or 1h")),
    }
}

/// Parses a whole number from a flag: `1000`, `2k`, `1.5k`, `1m`.
///
/// ```
/// assert_eq!(vb::units::parse_count("1.5k").unwrap(), 1500);
/// ```
pub fn parse_count(text: &str) -> Result<u64, String> {
    let wrong = || {
        if text.contains(',') {
            return format!("`{text}` is not a whole number: use 1000 or 2k; `vb sweep` runs a list of values");
        }
        format!("`{text}` is not a whole number: use 1000 or 2k")
    };
    let lower = text.trim().to_ascii_lowercase();
    if let Ok(n) = lower.parse::<u64>() {
        return Ok(n);
    }
    let scaled = [('k', 1e3), ('m', 1e6), ('g', 1e9)];
    let (number, scale) =
        scaled.iter().find_map(|(unit, scale)| Some((lower.strip_suffix(*unit)?, scale))).ok_or_else(wrong)?;
    let n = number.parse::<f64>().map_err(|_| wrong())? * scale;
    if n < 0.0 || n.fract() != 0.0 || n > 1e15 {
        return Err(wrong());
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked just above
    Ok(n as u64)
}

/// Like [`parse_count`], for counts of tokens and requests, which fit in 32 bits.
pub fn parse_count_u32(text: &str) -> Result<u32, String> {
    u32::try_from(parse_count(text)?).map_err(|_| format!("`{text}` is too large"))
}

/// The most tokens that a flag may request for a prompt or an output: 16,777,216. That is longer than any model's context,
/// and a sum of a few such lengths does not overflow 32 bits.
pub const MAX_TOKENS: u32 = 1 << 24;

/// Like [`parse_count`], for lengths in tokens, up to [`MAX_TOKENS`].
pub fn parse_tokens(text: &str) -> Result<u32, String> {
    let tokens = u32::try_from(parse_count(text)?).ok().filter(|tokens| *tokens <= MAX_TOKENS);
    tokens.ok_or_else(|| format!("`{text}` is too large: the limit is {MAX_TOKENS} tokens"))
}

/// Parses a share from 0 to 1.
pub fn parse_share(text: &str) -> Result<f64, String> {
    let share = text.trim().parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("`{text}` is not a share: use a number from 0 to 1, as 0.6"))
}

/// Parses a number that JSON can represent: neither `nan` nor infinite.
pub fn parse_finite(text: &str) -> Result<f64, String> {
    let number = text.trim().parse().ok().filter(|number: &f64| number.is_finite());
    number.ok_or_else(|| format!("`{text}` is not a number"))
}

/// Parses the exponent of Zipf's law.
pub fn parse_alpha(text: &str) -> Result<f64, String> {
    let alpha = text.trim().parse().ok().filter(|alpha: &f64| *alpha >= 0.0 && alpha.is_finite());
    alpha.ok_or_else(|| format!("`{text}` is not a number: use 0 or more"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "as the number is rounded otherwise")]
        fn seconds_are_rounded_to_nanoseconds(seconds in prop_oneof![any::<f64>(), -2e-9..9e-9, 0.0..1e7, 0.0..4e10], ns in 0_u64..1 << 54) {
            for seconds in [seconds, ns as f64 / 1e9, (ns as f64 + 0.5) / 1e9] {
                prop_assert_eq!(Nanos::from_secs_f64(seconds).0, (seconds * 1e9).round() as u64);
            }
        }

        #[test]
        fn every_nanosecond_of_eleven_days_survives_json(ns in 0..1_000_000 * SECOND) {
            let text = serde_json::to_string(&Nanos(ns)).unwrap();
            prop_assert_eq!(serde_json::from_str::<Nanos>(&text).unwrap(), Nanos(ns));
            prop_assert!(text.split('.').nth(1).is_none_or(|f| f.len() <= 9), "{}", text);
        }

        #[test]
        fn seconds_are_written_as_serde_does(ns in prop_oneof![0..20_000_u64, 0..10 * SECOND, 0..2_000_000 * SECOND, any::<u64>()], zeros in 0..9_u32) {
            for ns in [ns, ns / 10_u64.pow(zeros) * 10_u64.pow(zeros)] {
                let mut out = Vec::new();
                Nanos(ns).push_seconds(&mut out);
                prop_assert_eq!(str::from_utf8(&out).unwrap(), serde_json::to_string(&Nanos(ns)).unwrap());
                out.clear();
                UnixNanos(ns).push_seconds(&mut out);
                prop_assert_eq!(str::from_utf8(&out).unwrap(), serde_json::to_string(&UnixNanos(ns)).unwrap());
            }
        }

        #[test]
        fn every_nanosecond_of_wall_clock_survives_json(ns in 0..9_000_000_000 * SECOND) {
            let text = serde_json::to_string(&UnixNanos(ns)).unwrap();
            prop_assert_eq!(serde_json::from_str::<UnixNanos>(&text).unwrap(), UnixNanos(ns));
        }
    }

    #[test]
    fn other_ways_to_write_an_instant_are_read() {
        for (text, ns) in
            [("5", 5 * SECOND), ("5.25", 5_250_000_000), ("1e3", 1000 * SECOND), ("0.1234567899", 123_456_789)]
        {
            assert_eq!(serde_json::from_str::<UnixNanos>(text).unwrap().0, ns, "{text}");
        }
        assert!(serde_json::from_str::<UnixNanos>("\"noon\"").is_err());
        assert!(serde_json::from_str::<Nanos>("-1").is_err());
    }

    #[test]
    fn units_in_flags() {
        for (text, ns) in [
            ("200ms", 200_000_000),
            ("5s", 5 * SECOND),
            ("2m", 120 * SECOND),
            ("1.5h", 5400 * SECOND),
            ("3", 3 * SECOND),
            ("7us", 7000),
        ] {
            assert_eq!(parse_duration(text).unwrap().0, ns, "{text}");
        }
        for text in ["", "ms", "-1s", "5 parsecs", "nan", "1e400"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert_eq!(parse_count("2k").unwrap(), 2000);
        assert!(parse_count("1,8,32").unwrap_err().contains("vb sweep"));
        for text in ["", "k", "1.5", "-3", "1.0001k"] {
            assert!(parse_count(text).is_err(), "{text}");
        }
        assert_eq!(parse_tokens("16777216"), Ok(MAX_TOKENS));
        assert!(parse_tokens("16777217").is_err() && parse_tokens("5g").is_err());
        assert!(parse_share("1.1").is_err() && parse_share("nan").is_err() && parse_alpha("nan").is_err());
        assert!(parse_finite("-1.5") == Ok(-1.5) && parse_finite("nan").is_err() && parse_finite("inf").is_err());
    }
}

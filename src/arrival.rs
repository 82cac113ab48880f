//! When requests arrived, as people write it: seconds from the start, Unix time in any unit, or a date. Only what is certain is
//! accepted, so that nothing waits for years.

use std::fmt;

use jiff::{
    Timestamp,
    civil::{Date, DateTime},
    tz::TimeZone,
};
use serde::{
    Deserialize, Deserializer,
    de::{self, Visitor},
};

use crate::units::{Nanos, SECOND};

/// Times from here on are Unix time: 1973. No run takes three years.
const FIRST_INSTANT: f64 = 1e8;

/// The longest that a request may wait for its time, counted from the start of the run: a year.
pub const MAX_WAIT: Nanos = Nanos(366 * 24 * 3600 * SECOND);

/// Whether a time counts from 1970, and not from the start of a run.
#[must_use]
pub fn is_instant(time: Nanos) -> bool {
    time.as_secs_f64() >= FIRST_INSTANT
}

/// A time in a file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TimeValue {
    /// A number, in a unit that has to be found out.
    Number(f64),
    /// A date and time, since 1970.
    Instant(Nanos),
}

impl TimeValue {
    /// Parses a number, or a date and time as in ISO 8601. A missing time zone means UTC: only differences are used.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Ok(number) = text.parse::<f64>() {
            return (number.is_finite() && number >= 0.0).then_some(TimeValue::Number(number));
        }
        let zoned = || text.parse::<Timestamp>().ok();
        let civil = || text.parse::<DateTime>().ok().or_else(|| text.parse::<Date>().ok().map(DateTime::from));
        let instant = zoned().or_else(|| TimeZone::UTC.to_timestamp(civil()?).ok())?;
        u64::try_from(instant.as_nanosecond()).ok().map(|nanos| TimeValue::Instant(Nanos(nanos)))
    }

    /// The time in seconds from the start, or since 1970. Numbers that are too large for either are Unix time in milliseconds,
    /// microseconds or nanoseconds.
    #[must_use]
    pub fn in_seconds(self) -> Nanos {
        match self {
            TimeValue::Number(number) => scale_number(number, unit_of_number(number, SECOND)),
            TimeValue::Instant(time) => time,
        }
    }
}

/// The unit of a number, in nanoseconds: `own` if the number counts from the start, else the unit of Unix time of this size.
fn unit_of_number(number: f64, own: u64) -> u64 {
    match number {
        // Unix seconds until the year 5138, and so on.
        ..FIRST_INSTANT => own,
        ..1e11 => SECOND,
        ..1e14 => 1_000_000,
        ..1e17 => 1_000,
        _ => 1,
    }
}

/// Multiplies a number and its unit, without rounding the whole part.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates
fn scale_number(number: f64, unit: u64) -> Nanos {
    let fraction = (number.fract() * unit as f64).round() as u64;
    Nanos((number.trunc() as u64).saturating_mul(unit).saturating_add(fraction))
}

/// The unit of the times in a file, which its first time decides.
#[derive(Debug, Clone, Copy)]
pub struct TimeScale {
    /// Nanoseconds of the unit if times count from the start.
    own: Nanos,
    /// What it turned out to be.
    found: Option<u64>,
}

impl TimeScale {
    /// Times count from the start in this unit, unless the first one is a date or Unix time.
    #[must_use]
    pub fn new(unit: Nanos) -> Self {
        TimeScale { own: unit, found: None }
    }

    /// The time, counted from the start of the file or from 1970.
    ///
    /// # Errors
    /// It is too late to count in nanoseconds: all such times would become equal.
    pub fn convert(&mut self, time: TimeValue) -> Result<Nanos, String> {
        let number = match time {
            TimeValue::Instant(time) => return Ok(time),
            TimeValue::Number(number) => number,
        };
        let unit = *self.found.get_or_insert_with(|| unit_of_number(number, self.own.0));
        // The end of what 64 bits hold is the year 2554.
        if !(0.0..=1.8e19).contains(&(number * unit as f64)) {
            return Err(format!("{number} is not a time, or not in the unit of the first one"));
        }
        Ok(scale_number(number, unit))
    }
}

/// Turns the times of a stream of requests into times from the start of the run.
#[derive(Debug, Clone, Copy, Default)]
pub struct ArrivalClock {
    origin: Option<Nanos>,
}

impl ArrivalClock {
    /// The time from the start of the run. If the first time is Unix time, it is the start, and all others are Unix time too.
    ///
    /// # Errors
    /// It would wait for years, or it cannot be compared with the first one. Names the key and the cure.
    pub fn resolve(&mut self, time: Nanos) -> Result<Nanos, String> {
        let origin = *self.origin.get_or_insert(if is_instant(time) { time } else { Nanos(0) });
        if is_instant(time) != (origin > Nanos(0)) {
            return Err("its `timestamp` is a date or Unix time, and others count from the start of the run: \
                        use one of the two for all, or drop them (jq -c 'del(.timestamp)')"
                .into());
        }
        if time < origin {
            return Err("its `timestamp` is earlier than the first one, which is the start of the run: \
                        sort the file first (jq -s -c 'sort_by(.timestamp)[]')"
                .into());
        }
        check_wait("timestamp", time.since(origin))
    }
}

/// Rejects a time to wait of more than a year; `key` is what it was read from.
///
/// # Errors
/// Names the key and the cure.
pub fn check_wait(key: &str, wait: Nanos) -> Result<Nanos, String> {
    if wait > MAX_WAIT {
        let days = wait.0 / (24 * 3600 * SECOND);
        return Err(format!(
            "its `{key}` is {days} days after the start: it counts seconds; change the unit, or drop it (jq -c 'del(.{key})')"
        ));
    }
    Ok(wait)
}

impl<'de> Deserialize<'de> for TimeValue {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct TimeVisitor;
        impl Visitor<'_> for TimeVisitor {
            type Value = TimeValue;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time: a number of 0 or more, or a date such as 2026-01-31T12:00:00Z")
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> Result<TimeValue, E> {
                if number.is_finite() && number >= 0.0 {
                    return Ok(TimeValue::Number(number));
                }
                Err(E::custom(format!("{number} is not a time: use a number of 0 or more")))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<TimeValue, E> {
                self.visit_f64(number as f64)
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<TimeValue, E> {
                self.visit_f64(number as f64)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<TimeValue, E> {
                TimeValue::parse(text).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        from.deserialize_any(TimeVisitor)
    }
}

/// Reads the `timestamp` of a request, for serde.
///
/// # Errors
/// It is not a time.
pub fn deserialize_timestamp<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Nanos>, D::Error> {
    Ok(Option::<TimeValue>::deserialize(from)?.map(TimeValue::in_seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Option<f64> {
        TimeValue::parse(text).map(|time| time.in_seconds().as_secs_f64())
    }

    #[test]
    fn unix_time_is_recognized_in_every_unit_and_as_a_date() {
        for same in [
            "1700000000",
            "1700000000.0",
            "1700000000000",
            "1700000000000000",
            "1700000000000000000",
            "2023-11-14T22:13:20Z",
            "2023-11-14 22:13:20",
            "2023-11-14T23:13:20+01:00",
        ] {
            assert_eq!(seconds(same), Some(1_700_000_000.0), "{same}");
        }
        assert_eq!(
            [seconds("0"), seconds("12.5"), seconds("2023-11-14")],
            [Some(0.0), Some(12.5), Some(1_699_920_000.0)]
        );
        assert_eq!([seconds("soon"), seconds("-1"), seconds("NaN"), seconds("")], [None; 4]);
    }

    #[test]
    fn dates_keep_all_their_digits() {
        let at = |text| TimeValue::parse(text).unwrap().in_seconds();
        let early = at("2023-11-16 18:15:46.6805900");
        assert_eq!(at("2023-11-16 18:15:50.9951690").since(early), Nanos(4_314_579_000));
        assert_eq!(at("2023-11-16T18:15:46.680590Z"), early);
        assert_eq!(at("2023-11-16 19:15:46.680590+01:00"), early);
        assert_eq!(at("2023-11-17 00:00:00").since(at("2023-11-16 23:59:59.5")), Nanos(500_000_000));
        assert_eq!(at("0.041500001"), Nanos(41_500_001));
        assert_eq!(at("1700000000123").0, 1_700_000_000_123_000_000);
    }

    #[test]
    fn the_first_time_of_a_file_decides_the_unit() {
        let read = |own: u64, times: &[f64]| {
            let mut scale = TimeScale::new(Nanos(own));
            let all = times.iter().map(|time| scale.convert(TimeValue::Number(*time)));
            all.map(|time| time.map(Nanos::as_secs_f64)).collect::<Result<Vec<_>, _>>()
        };
        assert_eq!(read(1_000_000, &[0.0, 27482.0, 2e9]), Ok(vec![0.0, 27.482, 2e6]));
        assert_eq!(
            read(1_000_000, &[1.7e9, 1.7e9 + 2.0]),
            Ok(vec![1.7e9, 1.7e9 + 2.0]),
            "Unix seconds, not milliseconds"
        );
        assert_eq!(read(SECOND, &[1.7e12, 1.7e12 + 500.0]), Ok(vec![1.7e9, 1.7e9 + 0.5]));
        assert!(read(SECOND, &[0.5, 1.7e12]).is_err(), "another unit than the first");
        assert!(read(SECOND, &[-1.0]).is_err());
    }

    #[test]
    fn no_request_waits_for_years() {
        let resolve = |times: &[f64]| {
            let mut clock = ArrivalClock::default();
            let all = times.iter().map(|time| clock.resolve(TimeValue::Number(*time).in_seconds()));
            all.map(|time| time.map(Nanos::as_secs_f64)).collect::<Result<Vec<_>, _>>()
        };
        assert_eq!(resolve(&[0.0, 5.0, 3.0]), Ok(vec![0.0, 5.0, 3.0]));
        assert_eq!(resolve(&[1.7e9, 1.7e9 + 5.0, 1.7e12 + 6e3]), Ok(vec![0.0, 5.0, 6.0]));
        for (times, what) in [
            (&[0.0, 1.7e9][..], "others count from the start"),
            (&[1.7e9, 3.0], "others count from the start"),
            (&[1.7e9, 1.6e9], "earlier than the first"),
            (&[4e7], "462 days after the start"),
            (&[1.5e9, 1.7e9], "2314 days after the start"),
        ] {
            let error = resolve(times).unwrap_err();
            assert!(error.contains("`timestamp`") && error.contains(what) && error.contains("jq"), "{error}");
        }
    }
}

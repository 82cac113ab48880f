//! Request rates that change with time: parsing them, and the number of requests due at any time.

use std::{fs, path::Path, str::FromStr};

use crate::{
    arrival::{MAX_WAIT, TimeScale, TimeValue, is_instant},
    units::{Nanos, SECOND, parse_duration},
};

/// Requests per second, as given to `--request-rate`.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestRate {
    /// The text that was parsed.
    text: String,
    shape: RateShape,
}

#[derive(Debug, Clone, PartialEq)]
enum RateShape {
    /// As fast as slots become free.
    Free,
    /// Constant, in requests per second.
    Constant(f64),
    /// Varying with time.
    Profile(RateProfile),
}

/// A rate over time: consecutive segments; the last one never ends.
#[derive(Debug, Clone, PartialEq)]
pub struct RateProfile {
    segments: Vec<RateSegment>,
    /// For each segment the seconds, and the requests due, before it. A table of a day may have a row for each second, so they
    /// are summed once.
    before: Vec<(f64, f64)>,
}

/// A segment of a rate profile.
#[derive(Debug, Clone, Copy, PartialEq)]
struct RateSegment {
    /// Requests per second at its start.
    from: f64,
    /// Requests per second at its end.
    to: f64,
    /// Seconds; infinite for the last segment.
    length: f64,
    /// Whether the rate changes exponentially instead of linearly.
    exponential: bool,
}

impl RequestRate {
    /// A constant rate in requests per second.
    #[must_use]
    pub fn from_constant(rate: f64) -> Self {
        RequestRate { text: rate.to_string(), shape: RateShape::Constant(rate) }
    }

    /// vLLM's ramp: from `start` to `end` requests a second within `time`, and `end` after that.
    ///
    /// # Errors
    /// Fails if the rates or the time do not make a ramp.
    pub fn from_ramp(start: f64, end: f64, time: Nanos, exponential: bool) -> Result<Self, String> {
        let between = if exponential { '~' } else { '-' };
        format!("{start}{between}{end}:{}s,{end}", time.as_secs_f64()).parse()
    }

    /// Requests per second, if the rate is constant and limited.
    #[must_use]
    pub fn as_constant(&self) -> Option<f64> {
        if let RateShape::Constant(rate) = self.shape { Some(rate) } else { None }
    }

    /// Whether requests have no schedule: each is due as soon as there is a free slot.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.shape == RateShape::Free
    }

    /// The text of the profile, if the rate changes with time.
    #[must_use]
    pub fn profile_text(&self) -> Option<&str> {
        matches!(self.shape, RateShape::Profile(_)).then_some(self.text.as_str())
    }

    /// The number of requests due at any time; `None` without a schedule.
    #[must_use]
    pub fn to_profile(&self) -> Option<RateProfile> {
        match &self.shape {
            RateShape::Free => None,
            RateShape::Constant(rate) => Some(RateProfile::with_totals(vec![RateSegment::endless_at(*rate)])),
            RateShape::Profile(profile) => Some(profile.clone()),
        }
    }
}

/// Parses `4`, `inf`, `5:30s,5-50:1m,50`, `5~50:1m`, or `@rates.csv`.
impl FromStr for RequestRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let shape = match (parse_rate(text), text.strip_prefix('@')) {
            (Some(rate), _) if rate.is_infinite() => RateShape::Free,
            (Some(rate), _) if rate > 0.0 => RateShape::Constant(rate),
            (None, Some(path)) => RateShape::Profile(RateProfile::from_csv(Path::new(path))?),
            (None, None) if text.contains(':') || text.contains(',') => RateShape::Profile(text.parse()?),
            _ => {
                return Err(format!(
                    "`{text}` is not a rate: write requests per second above 0, `inf`, or a profile as in 5:30s,5-50:1m,50"
                ));
            }
        };
        Ok(RequestRate { text: text.to_owned(), shape })
    }
}

fn parse_rate(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|rate: &f64| *rate >= 0.0)
}

impl FromStr for RateProfile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let segments = text.split(',').map(str::parse).collect::<Result<Vec<RateSegment>, String>>()?;
        let held = segments.iter().rev().skip(1).find(|segment| segment.length.is_infinite());
        if held.is_some() {
            return Err(format!("in `{text}` only the last segment may have no duration: it goes on for ever"));
        }
        RateProfile::from_segments(segments).map_err(|what| format!("`{text}`: {what}"))
    }
}

impl FromStr for RateSegment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not a valid rate segment: write RATE:TIME, FROM-TO:TIME or FROM~TO:TIME, as in 5-50:1m"
            )
        };
        let (rates, length) = match text.trim().split_once(':') {
            Some((rates, time)) => (rates, parse_duration(time)?.as_secs_f64()),
            None => (text, f64::INFINITY),
        };
        // The sign of an exponent, as in 1e-3, does not separate two rates.
        let minus = |(at, _): &(usize, &str)| !rates[..*at].ends_with(['e', 'E']);
        let at = rates.find('~').or_else(|| rates.match_indices('-').find(minus).map(|(at, _)| at));
        let (from, to) = at.map_or((rates, rates), |at| (&rates[..at], &rates[at + 1..]));
        let (from, to, exponential) = (parse_rate(from), parse_rate(to), rates.contains('~'));
        let (Some(from), Some(to)) = (from, to) else { return Err(wrong()) };
        let finite = from.is_finite() && to.is_finite();
        let endless_ramp = length.is_infinite() && from.to_bits() != to.to_bits();
        if !finite || endless_ramp || (exponential && (from <= 0.0 || to <= 0.0)) {
            return Err(wrong());
        }
        Ok(RateSegment { from, to, length, exponential })
    }
}

impl RateProfile {
    /// Adds an endless segment with the last rate.
    fn from_segments(mut segments: Vec<RateSegment>) -> Result<Self, String> {
        let last = segments.last().map_or(0.0, |segment| segment.to);
        if last <= 0.0 {
            return Err("the last rate goes on for ever, so it must be above 0 (--max-seconds ends a run)".into());
        }
        segments.retain(|segment| segment.length > 0.0);
        if segments.last().is_none_or(|segment| segment.length.is_finite()) {
            segments.push(RateSegment::endless_at(last));
        }
        Ok(RateProfile::with_totals(segments))
    }

    fn with_totals(segments: Vec<RateSegment>) -> Self {
        let mut sum = (0.0, 0.0);
        let before = |segment: &RateSegment| {
            let so_far = sum;
            sum = (sum.0 + segment.length, sum.1 + segment.requests_by(segment.length));
            so_far
        };
        RateProfile { before: segments.iter().map(before).collect(), segments }
    }

    /// Reads a table of times in seconds and rates: the rate changes linearly between rows, and the last one goes on. Times may
    /// also be Unix time or dates, as monitoring exports them; then they count from the first.
    fn from_csv(path: &Path) -> Result<Self, String> {
        let name = path.display();
        let text = fs::read_to_string(path).map_err(|e| format!("cannot read {name}: {e}"))?;
        // Spreadsheets write a byte order mark.
        let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
        let unquoted = |field: &str| field.trim().trim_matches('"').trim().to_owned();
        // The first line is a header if no field of it is a number.
        let header = |line: &str| line.split(',').all(|field| unquoted(field).parse::<f64>().is_err());
        let mut points: Vec<(f64, f64)> = Vec::new();
        let (mut scale, mut origin) = (TimeScale::new(Nanos(SECOND)), None);
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
        for (place, (at, line)) in lines.enumerate() {
            let mut fields = line.split(',').map(unquoted);
            let time = fields.next().and_then(|field| scale.convert(TimeValue::parse(&field)?).ok());
            let origin = time.map(|time| *origin.get_or_insert(if is_instant(time) { time } else { Nanos(0) }));
            let time = time.zip(origin).filter(|(time, origin)| time >= origin && time.since(*origin) <= MAX_WAIT);
            let time = time.map(|(time, origin)| time.since(origin).as_secs_f64());
            match (time, fields.next().and_then(|field| parse_rate(&field))) {
                _ if place == 0 && header(line) => {}
                (Some(time), Some(rate)) if points.last().is_none_or(|last| last.0 <= time) && rate.is_finite() => {
                    points.push((time, rate));
                }
                _ => {
                    return Err(format!(
                        "{name}:{}: `{line}` is not a time in seconds and a rate, or its time is earlier than in the line above or more than \
                         a year later",
                        at + 1
                    ));
                }
            }
        }
        if points.is_empty() {
            return Err(format!("{name}: it has no rows: write lines of a time in seconds and a rate, as in 0,10"));
        }
        let first = points.first().map(|(time, rate)| (0.0, if *time > 0.0 { *rate } else { 0.0 }));
        let starts = first.filter(|_| points.first().is_some_and(|(time, _)| *time > 0.0));
        let all: Vec<(f64, f64)> = starts.into_iter().chain(points).collect();
        let segment = |pair: &[(f64, f64)]| RateSegment {
            from: pair[0].1,
            to: pair[1].1,
            length: pair[1].0 - pair[0].0,
            exponential: false,
        };
        let mut segments: Vec<RateSegment> = all.windows(2).map(segment).collect();
        segments.extend(all.last().map(|(_, rate)| RateSegment::endless_at(*rate)));
        RateProfile::from_segments(segments).map_err(|what| format!("{name}: {what}"))
    }

    /// When `count` requests are due: the time t at which ∫₀ᵗ rate = `count`.
    #[must_use]
    pub fn time_due(&self, count: f64) -> Nanos {
        // The first segment that ends with `count` or more; one that ends with 0 is a pause at the beginning.
        let at = self.before.partition_point(|(_, due)| *due < count).saturating_sub(1);
        let mut segments = self.segments.iter().zip(&self.before).skip(at);
        let found = segments.find(|(segment, _)| segment.requests_by(segment.length) > 0.0);
        found.map_or(Nanos(0), |(segment, (time, due))| Nanos::from_secs_f64(time + segment.time_due(count - due)))
    }

    /// The number of requests due by `time`: ∫₀ᵗ rate.
    #[must_use]
    pub fn requests_by(&self, time: Nanos) -> f64 {
        let seconds = time.0 as f64 / SECOND as f64;
        let after = self.before.partition_point(|(start, _)| *start <= seconds);
        let place = after.checked_sub(1).and_then(|at| self.segments.get(at).zip(self.before.get(at)));
        place.map_or(0.0, |(segment, (start, due))| due + segment.requests_by((seconds - start).min(segment.length)))
    }
}

impl RateSegment {
    fn endless_at(rate: f64) -> Self {
        RateSegment { from: rate, to: rate, length: f64::INFINITY, exponential: false }
    }

    fn is_constant(&self) -> bool {
        self.from.to_bits() == self.to.to_bits()
    }

    /// Requests in its first `time` seconds.
    fn requests_by(&self, time: f64) -> f64 {
        if self.is_constant() {
            // An endless pause has no requests.
            return if self.from > 0.0 { self.from * time } else { 0.0 };
        }
        if self.exponential {
            let growth = libm::log(self.to / self.from) / self.length;
            return self.from * libm::expm1(growth * time) / growth;
        }
        let slope = (self.to - self.from) / self.length;
        time * (self.from + slope * time / 2.0)
    }

    /// The time from its start at which `count` requests are due.
    fn time_due(&self, count: f64) -> f64 {
        if self.is_constant() {
            return count / self.from;
        }
        if self.exponential {
            let growth = libm::log(self.to / self.from) / self.length;
            return libm::log1p(count * growth / self.from) / growth;
        }
        let slope = (self.to - self.from) / self.length;
        // The root of a quadratic in the form that loses no digits.
        let root = libm::sqrt((self.from * self.from + 2.0 * slope * count).max(0.0));
        2.0 * count / (self.from + root)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn profile(text: &str) -> RateProfile {
        text.parse::<RequestRate>().unwrap().to_profile().unwrap()
    }

    #[test]
    fn the_number_due_follows_the_profile() {
        let steps = profile("5:30s,0:10s,5-50:1m,50");
        let at = |seconds: u64| steps.requests_by(Nanos(seconds * SECOND));
        for (time, want) in [(0, 0.0), (10, 50.0), (30, 150.0), (40, 150.0), (100, 150.0 + 1650.0), (110, 2300.0)] {
            assert!((at(time) - want).abs() < 1e-9, "{time}: {} and {want}", at(time));
        }
        // The first time at which that many are due: before a pause, and after one at the beginning.
        assert_eq!((steps.time_due(150.0), profile("0:10s,5").time_due(0.0)), (Nanos(30 * SECOND), Nanos(10 * SECOND)));
        assert_eq!(profile("1e-1:10s,5e-1-1.5E0:10s,5").time_due(11.0), Nanos(20 * SECOND));
        let ramp = profile("1~100:10s");
        // From 1 to 100 by the same factor each second: ∫ = 99 · 10 / ln 100.
        assert!((ramp.requests_by(Nanos(10 * SECOND)) - 990.0 / 100.0_f64.ln()).abs() < 1e-9);
        assert!((ramp.requests_by(Nanos(11 * SECOND)) - ramp.requests_by(Nanos(10 * SECOND)) - 100.0).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn when_is_the_inverse_of_count(
            segments in prop::collection::vec((0.0..200.0_f64, 0.0..200.0_f64, 0.01..90.0_f64, any::<bool>()), 1..6),
            last in 0.1..500.0_f64,
            counts in prop::collection::vec(0.0..50_000.0_f64, 1..20),
        ) {
            let part = |(from, to, time, exponential): &(f64, f64, f64, bool)| {
                let exponential = *exponential && *from > 0.01 && *to > 0.01;
                format!("{from}{}{to}:{time}s", if exponential { '~' } else { '-' })
            };
            let text = segments.iter().map(part).chain([last.to_string()]).collect::<Vec<_>>().join(",");
            let profile = profile(&text);
            let mut sorted = counts;
            sorted.sort_by(f64::total_cmp);
            let times: Vec<Nanos> = sorted.iter().map(|count| profile.time_due(*count)).collect();
            prop_assert!(times.is_sorted());
            for (count, time) in sorted.iter().zip(times) {
                let back = profile.requests_by(time);
                prop_assert!((back - count).abs() < 1e-6 * (1.0 + count), "{text}: {count} at {time} is {back}");
            }
        }
    }

    #[test]
    fn a_table_is_straight_lines_between_its_points() {
        let path = std::env::temp_dir().join(format!("vb-rates-{}.csv", std::process::id()));
        fs::write(&path, "time,rate\n0,10\n10,20\n\n10,40\n20,40\n").unwrap();
        let profile = profile(&format!("@{}", path.display()));
        for (time, want) in [(10, 150.0), (20, 550.0), (30, 950.0)] {
            assert!((profile.requests_by(Nanos(time * SECOND)) - want).abs() < 1e-9, "{time}");
        }
        // As spreadsheets write it.
        fs::write(&path, "\u{feff}# rates\n\n\"time\",\"rate\"\n\"0\",\"10\"\n10,20\n").unwrap();
        let marked = self::profile(&format!("@{}", path.display()));
        assert!((marked.requests_by(Nanos(10 * SECOND)) - 150.0).abs() < 1e-9);
        // As monitoring exports it: Unix time in any unit, or dates.
        for text in [
            "1700000000,10\n1700000010,20\n",
            "t,r\n1700000000000,10\n1700000010000,20\n",
            "2023-11-14T22:13:20Z,10\n2023-11-14 22:13:30,20\n",
        ] {
            fs::write(&path, text).unwrap();
            let dated = self::profile(&format!("@{}", path.display()));
            assert!((dated.requests_by(Nanos(10 * SECOND)) - 150.0).abs() < 1e-9, "{text}");
        }
        for (text, place) in [
            ("0,10\n1700000000,20\n", ":2: `1700000000,20`"),
            ("5,10\n4,1\n", ":2: `4,1`"),
            ("0,-10\n1,20\n", ":1: `0,-10`"),
            ("0,nan\n1,20\n", ":1: `0,nan`"),
            ("0;10\n1;20\n", ":2: `1;20`"),
            ("", ": it has no rows"),
            ("# at night\ntime,rate\n", ": it has no rows"),
            ("0,10\ninf,20\n", ":2: `inf,20`"),
        ] {
            fs::write(&path, text).unwrap();
            let error = format!("@{}", path.display()).parse::<RequestRate>().unwrap_err();
            assert!(error.contains(place), "{error}");
        }
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_bad_rate_is_an_error_that_names_the_segment() {
        for (text, want) in [
            ("0", "is not a rate"),
            ("-1", "is not a rate"),
            ("nan", "is not a rate"),
            ("fast", "is not a rate"),
            ("", "is not a rate"),
            ("5,6:10s", "only the last segment"),
            ("5-6", "is not a rate"),
            ("1:1s,5-6", "`5-6` is not a valid rate segment"),
            ("0~6:10s", "`0~6:10s` is not a valid rate segment"),
            ("5:10s,0", "the last rate goes on"),
            ("5:soon", "soon"),
            ("@/no/such.csv", "cannot read /no/such.csv"),
        ] {
            let error = text.parse::<RequestRate>().unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
        assert!("inf".parse::<RequestRate>().unwrap().is_free());
        assert_eq!("2.5".parse::<RequestRate>().unwrap().as_constant(), Some(2.5));
        let ramp = RequestRate::from_ramp(1.0, 9.0, Nanos(60 * SECOND), false).unwrap();
        assert_eq!((ramp.as_constant(), ramp.profile_text()), (None, Some("1-9:60s,9")));
    }
}

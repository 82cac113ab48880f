//! How far stamps that are known only to an interval can move the percentiles of a run.

use hdrhistogram::Histogram;

use super::histogram::new_histogram;
use crate::{
    error::Error,
    record::{Bounds, PercentileBounds, RequestFuncOutput, TimeBounds, Verdict},
    statistics::interval::samples_needed,
    units::Nanos,
};

/// The share by which a percentile may be off. From 1 % on, a comparison of two servers may turn on it; 10 % is more than most
/// such comparisons are about.
const OFF: (f64, f64) = (0.01, 0.1);
/// A percentile that is off by less than this, or by less than ten times this, is neither suspect nor wrong.
const MIN_OFF: Nanos = Nanos(100_000);

/// The times of the successful requests of a run, with bounds where they are uncertain.
#[derive(Debug)]
pub struct UncertainTimes {
    chunks: u64,
    ttft: UncertainMetric,
    itl: UncertainMetric,
    e2el: UncertainMetric,
}

/// All values of a metric, and the bounds of the uncertain ones among them.
#[derive(Debug)]
struct UncertainMetric {
    values: Histogram<u64>,
    uncertain: Vec<(Nanos, Bounds)>,
}

impl UncertainTimes {
    /// No request yet.
    pub fn new() -> Result<Self, Error> {
        let metric = UncertainMetric::new;
        Ok(UncertainTimes { chunks: 0, ttft: metric()?, itl: metric()?, e2el: metric()? })
    }

    /// Adds a successful request.
    pub fn add_output(&mut self, output: &RequestFuncOutput) {
        let errors = output.stamp_error.as_deref().unwrap_or_default();
        self.chunks += errors.len() as u64;
        let last = output.itl.len();
        self.ttft.add_values(output.ttft.as_slice(), |_| Some((error_at(errors, 0)?, Nanos(0))));
        self.e2el.add_values(output.latency.as_slice(), |_| Some((error_at(errors, last)?, Nanos(0))));
        // A gap ends with one chunk and begins with the one before it. Of the chunks of one read, each is within it.
        self.itl.add_values(&output.itl, |gap| match (error_at(errors, gap + 1), error_at(errors, gap)) {
            (None, None) => None,
            (end, begin) => Some((end.unwrap_or_default(), begin.unwrap_or_default())),
        });
    }

    /// The bounds of the percentiles; `None`: all stamps are exact.
    #[must_use]
    pub fn percentile_bounds(&self) -> Option<TimeBounds> {
        (self.chunks > 0).then(|| TimeBounds {
            chunks: self.chunks,
            ttft: self.ttft.percentile_bounds(),
            itl: self.itl.percentile_bounds(),
            e2el: self.e2el.percentile_bounds(),
        })
    }
}

/// How much earlier a chunk may have arrived; `None`: its stamp is exact. `errors` are sorted by chunk.
fn error_at(errors: &[(u32, Nanos)], chunk: usize) -> Option<Nanos> {
    let chunk = u32::try_from(chunk).ok()?;
    errors.binary_search_by_key(&chunk, |(at, _)| *at).ok().map(|at| errors[at].1)
}

impl UncertainMetric {
    fn new() -> Result<Self, Error> {
        Ok(UncertainMetric { values: new_histogram()?, uncertain: vec![] })
    }

    /// Adds values; `error` says by how much one may be smaller and larger.
    fn add_values(&mut self, values: &[Nanos], error: impl Fn(usize) -> Option<(Nanos, Nanos)>) {
        for (at, value) in values.iter().enumerate() {
            // The histograms grow as needed; they reject only values beyond 2⁶³ ns.
            let _ = self.values.record(value.0);
            if let Some((less, more)) = error(at) {
                self.uncertain.push((*value, [value.since(less), *value + more]));
            }
        }
    }

    fn percentile_bounds(&self) -> Option<PercentileBounds> {
        let mut uncertain = Histogram::new_from(&self.values);
        self.uncertain.iter().try_for_each(|(value, _)| uncertain.record(value.0)).ok()?;
        let mut exact = self.values.clone();
        exact.subtract(&uncertain).ok()?;
        let ends = [0, 1].map(|end| {
            let mut moved = exact.clone();
            self.uncertain.iter().try_for_each(|(_, bounds)| moved.record(bounds[end].0)).ok()?;
            Some(moved)
        });
        let [Some(low), Some(high)] = ends else { return None };
        let bounds = |percentile: f64| {
            let enough = samples_needed(percentile)? <= self.values.len();
            enough.then(|| [&low, &high].map(|histogram| Nanos(histogram.value_at_quantile(percentile / 100.0))))
        };
        let bounds = PercentileBounds { p50: bounds(50.0), p90: bounds(90.0), p99: bounds(99.0) };
        (!self.values.is_empty()).then_some(bounds)
    }
}

/// The verdict on the percentiles that are known only to an interval, with their bounds. `may_capture`: whether `--stamps packets` is
/// possible, which would have known them.
#[must_use]
pub fn check_bounds(bounds: &TimeBounds, read_lag_p99: Nanos, may_capture: bool) -> Option<(Verdict, String)> {
    let mut found: Vec<(f64, String)> = Vec::new();
    for (metric, percentiles) in [("TTFT", &bounds.ttft), ("ITL", &bounds.itl), ("E2EL", &bounds.e2el)] {
        let Some(PercentileBounds { p50, p90, p99 }) = percentiles else { continue };
        for (name, bounds) in [("p50", p50), ("p90", p90), ("p99", p99)] {
            let Some([low, high]) = bounds else { continue };
            let off = high.since(*low);
            let share = off.as_secs_f64() / high.as_secs_f64().max(1e-9);
            if off > MIN_OFF && share > OFF.0 {
                let weight = if off.0 > MIN_OFF.0 * 10 { share } else { share.min(OFF.1) };
                found.push((weight, format!("{metric} {name} {low} to {high}")));
            }
        }
    }
    let worst = found.iter().map(|(share, _)| *share).fold(0.0, f64::max);
    let verdict = if worst > OFF.1 { Verdict::ClientBound } else { Verdict::Suspect };
    let numbers: Vec<String> = found.into_iter().map(|(_, text)| text).collect();
    let chunks = bounds.chunks;
    let cure = if may_capture { ", use more --threads, or use --stamps packets" } else { ", or use more --threads" };
    (!numbers.is_empty()).then(|| {
        let numbers = numbers.join(", ");
        (
            verdict,
            format!(
                "{chunks} chunks waited for the client and lost their own stamps (read lag p99 {read_lag_p99}), so these are known \
                 only to lie within: {numbers}: give the client a free core{cure}"
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn ms(n: u64) -> Nanos {
        Nanos(n * MS)
    }

    fn output(ttft: u64, gaps: &[u64], stamp_error: &[(u32, u64)]) -> RequestFuncOutput {
        let itl: Vec<Nanos> = gaps.iter().copied().map(ms).collect();
        let errors: Vec<(u32, Nanos)> = stamp_error.iter().map(|(chunk, error)| (*chunk, ms(*error))).collect();
        RequestFuncOutput {
            success: true,
            ttft: Some(ms(ttft)),
            latency: Some(itl.iter().fold(ms(ttft), |sum, gap| sum + *gap)),
            itl,
            stamp_error: Some(errors).filter(|errors| !errors.is_empty()),
            ..RequestFuncOutput::default()
        }
    }

    fn bounds_of(outputs: &[RequestFuncOutput]) -> Option<TimeBounds> {
        let mut times = UncertainTimes::new().unwrap();
        for output in outputs {
            times.add_output(output);
        }
        times.percentile_bounds()
    }

    fn is_near(bounds: Option<Bounds>, low: u64, high: u64) -> bool {
        let near = |a: Nanos, b: u64| a.0.abs_diff(b * MS) <= b * MS / 500 + 1;
        bounds.is_some_and(|bounds| near(bounds[0], low) && near(bounds[1], high))
    }

    #[test]
    fn exact_stamps_have_no_bounds() {
        assert_eq!(bounds_of(&[output(40, &[20, 20], &[])]), None);
    }

    #[test]
    fn a_chunk_with_an_uncertain_stamp_bounds_its_times_and_both_gaps() {
        // The first chunk has the stamp of the second: it came at 20 to 40 ms, the second at 40.
        let all = bounds_of(&vec![output(40, &[0, 20], &[(0, 20)]); 700]).unwrap();
        assert_eq!(all.chunks, 700);
        assert!(is_near(all.ttft.unwrap().p50, 20, 40), "{all:?}");
        assert!(is_near(all.itl.unwrap().p50, 0, 20), "{all:?}");
        assert!(is_near(all.e2el.unwrap().p99, 60, 60), "{all:?}");
        let few = bounds_of(&vec![output(40, &[0, 20], &[(0, 20)]); 600]).unwrap();
        assert!(few.ttft.unwrap().p99.is_none() && few.itl.unwrap().p99.is_some(), "p99 needs 662: {few:?}");
    }

    #[test]
    fn a_few_uncertain_values_do_not_move_a_median() {
        let mut all = vec![output(40, &[20; 9], &[]); 99];
        all.push(output(40, &[20; 9], &[(0, 20)]));
        let bounds = bounds_of(&all).unwrap();
        assert!(is_near(bounds.ttft.unwrap().p50, 40, 40));
        assert_eq!(check_bounds(&bounds, Nanos(0), false), None);
        let many = vec![output(40, &[20; 9], &[(0, 20)]); 99];
        let (verdict, reason) = check_bounds(&bounds_of(&many).unwrap(), ms(22), false).unwrap();
        assert_eq!(verdict, Verdict::ClientBound);
        assert!(reason.starts_with("99 chunks waited for the client and lost their own stamps (read lag p99 22.0 ms)"));
        assert!(
            reason.contains("TTFT p50 20.0 ms to 40.0 ms") && reason.contains("ITL p99 20.0 ms to 40.0 ms"),
            "{reason}"
        );
    }

    #[test]
    fn a_percentile_that_is_off_by_little_is_suspect_at_most() {
        let judge = |ttft, error| {
            let ms = Nanos::from_secs_f64;
            let one = RequestFuncOutput { stamp_error: Some(vec![(0, ms(error))]), ..output(ttft, &[], &[]) };
            check_bounds(&bounds_of(&vec![one; 99]).unwrap(), Nanos(0), false).map(|(verdict, _)| verdict)
        };
        assert_eq!(judge(2, 0.000_09), None, "less than a tenth of a millisecond");
        assert_eq!(judge(400, 0.003), None, "less than 1 %");
        assert_eq!(judge(2, 0.000_9), Some(Verdict::Suspect), "45 %, and yet less than a millisecond");
        assert_eq!(judge(100, 0.009), Some(Verdict::Suspect));
        assert_eq!(judge(100, 0.012), Some(Verdict::ClientBound));
    }
}

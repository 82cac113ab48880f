//! How far stamps that are known only to an interval can move the numbers of a metric.

use serde_json::json;

use super::part::RunPart;
use crate::{
    record::Object,
    recording::{RecordedRequest, metric::Metric},
    statistics::{SampleStats, Summary, percentiles_of_slices},
};

/// By how many seconds a value may be smaller, and by how many larger.
type Slack = [f64; 2];

/// An end of the bounds: all times as small as they can be, or as large.
#[derive(Debug, Clone, Copy)]
enum End {
    Least = 0,
    Most = 1,
}

/// Summarizes the values of a metric over the successes of a part, with the bounds that the client's stamps leave.
#[must_use]
pub fn summarize(part: &RunPart, metric: Metric, stats: &SampleStats) -> Summary {
    let values = |value: fn(&RecordedRequest) -> Option<f64>| {
        collect_values(part, value, |request, errors| request_slack(metric, request, errors))
    };
    summarize_with(part, stats, || metric.request_value().map_or_else(|| collect_gaps(part), values))
}

/// The same for the time from the schedule to the first token.
#[must_use]
pub fn summarize_ttft_from_schedule(part: &RunPart, stats: &SampleStats) -> Summary {
    summarize_with(part, stats, || {
        let slack = |request: &RecordedRequest, errors: &[_]| request_slack(Metric::Ttft, request, errors);
        collect_values(part, RecordedRequest::ttft_from_schedule, slack)
    })
}

/// The values of a sample: those that are exact, in slices, and each of the others with its slack.
#[derive(Debug, Default)]
struct UncertainSample<'a> {
    exact: Vec<&'a [f64]>,
    own: Vec<f64>,
    uncertain: Vec<(f64, Slack)>,
}

impl UncertainSample<'_> {
    /// The percentiles, and the sum of all changes, at an end of the bounds.
    fn at_end(&self, end: End, percentiles: &[f64]) -> (Vec<f64>, f64) {
        let moved = self.uncertain.iter().map(|(value, [less, more])| match end {
            End::Least => (value - less).max(0.0),
            End::Most => value + more,
        });
        let moved: Vec<f64> = moved.collect();
        let change = moved.iter().zip(&self.uncertain).map(|(moved, (value, _))| moved - value).sum();
        let slices: Vec<&[f64]> = self.exact.iter().copied().chain([self.own.as_slice(), &moved]).collect();
        (percentiles_of_slices(&slices, percentiles), change)
    }
}

fn summarize_with<'a>(part: &RunPart, stats: &SampleStats, collect: impl FnOnce() -> UncertainSample<'a>) -> Summary {
    let mut summary = Summary::from_stats(stats);
    // Hardly ever is there one.
    if stats.n > 0 && part.successes().any(|request| request.stamp_errors.is_some()) {
        summary.client_bounds = bound_numbers(&collect(), stats, &summary);
    }
    summary
}

/// The bounds of the mean and the percentiles that move.
fn bound_numbers(sample: &UncertainSample, stats: &SampleStats, summary: &Summary) -> Object {
    let percentiles: Vec<f64> = stats.percentiles.iter().map(|(p, _)| *p).collect();
    let [(least, less), (most, more)] = [End::Least, End::Most].map(|end| sample.at_end(end, &percentiles));
    let mean = |change: f64| stats.mean + change / stats.n as f64;
    let names = percentiles.iter().map(|p| format!("p{p}")).filter(|name| summary.percentiles.contains_key(name));
    let bounds = names.zip(least.into_iter().zip(most));
    let shown = bounds.filter(|(name, _)| !summary.too_few.contains_key(name));
    [("mean".to_owned(), (mean(less), mean(more)))]
        .into_iter()
        .chain(shown)
        .filter(|(_, (low, high))| low < high)
        .map(|(name, (low, high))| (name, json!([low, high].map(|end| end * stats.unit.in_results()))))
        .collect()
}

/// How much earlier a chunk may have arrived; 0: its stamp is exact. `errors` are sorted by chunk.
fn error_at(errors: &[(u32, f64)], chunk: usize) -> f64 {
    let at = u32::try_from(chunk).ok().and_then(|chunk| errors.binary_search_by_key(&chunk, |(at, _)| *at).ok());
    at.map(|at| errors[at].1).unwrap_or_default()
}

/// The slack of a metric that has one value for each request.
fn request_slack(metric: Metric, request: &RecordedRequest, errors: &[(u32, f64)]) -> Slack {
    let (first, last) = (error_at(errors, 0), error_at(errors, request.gaps.len()));
    match metric {
        Metric::Ttft => [first, 0.0],
        Metric::E2el | Metric::E2elIncludingClientQueue => [last, 0.0],
        // From the first token to the last.
        Metric::Tpot => {
            let gaps = f64::from(request.shown_tokens().saturating_sub(1).max(1));
            [last / gaps, first / gaps]
        }
        Metric::ClientQueueTime | Metric::Itl => [0.0; 2],
    }
}

fn collect_values<'a>(
    part: &RunPart<'a>,
    value: impl Fn(&RecordedRequest) -> Option<f64>,
    slack: impl Fn(&RecordedRequest, &[(u32, f64)]) -> Slack,
) -> UncertainSample<'a> {
    let mut sample = UncertainSample::default();
    for request in part.successes() {
        let Some(value) = value(request) else { continue };
        match part.recording().stamp_errors_of(request) {
            [] => sample.own.push(value),
            errors => sample.uncertain.push((value, slack(request, errors))),
        }
    }
    sample
}

/// A gap ends with one chunk and begins with the one before it.
fn collect_gaps<'a>(part: &RunPart<'a>) -> UncertainSample<'a> {
    let mut sample = UncertainSample::default();
    for request in part.successes() {
        let (gaps, errors) = (part.recording().gaps_of(request), part.recording().stamp_errors_of(request));
        let mut exact_from = 0;
        let ends = errors.iter().map(|(chunk, _)| *chunk as usize);
        let mut touched: Vec<usize> = ends.flat_map(|chunk| chunk.checked_sub(1).into_iter().chain([chunk])).collect();
        touched.sort_unstable();
        touched.dedup();
        for gap in touched.into_iter().filter(|gap| *gap < gaps.len()) {
            sample.exact.push(&gaps[exact_from..gap]);
            sample.uncertain.push((gaps[gap], [error_at(errors, gap + 1), error_at(errors, gap)]));
            exact_from = gap + 1;
        }
        sample.exact.push(&gaps[exact_from..]);
    }
    sample
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::{
        recording::Recording,
        statistics::{SummaryOptions, Unit},
    };

    /// Requests of four tokens with 100 ms before the first and gaps of 10, 20 and 30 ms, some with errors.
    fn recording(errors: &[&[(u32, f64)]]) -> Recording {
        let mut recording = Recording::default();
        for errors in errors {
            let first = recording.gaps.len();
            recording.gaps.extend([0.01, 0.02, 0.03]);
            if !errors.is_empty() {
                recording.stamp_errors.push(errors.to_vec());
            }
            let at =
                NonZeroU32::new(u32::try_from(recording.stamp_errors.len()).unwrap()).filter(|_| !errors.is_empty());
            recording.requests.push(RecordedRequest {
                success: true,
                output_tokens: 4,
                ttft: Some(0.1),
                latency: Some(0.16),
                queue_time: Some(0.001),
                gaps: first..first + 3,
                stamp_errors: at,
                ..RecordedRequest::default()
            });
        }
        recording
    }

    fn bounds(recording: &Recording, metric: Metric) -> serde_json::Value {
        let part = RunPart::from_recording(recording);
        let wanted = SummaryOptions { percentiles: vec![0.0, 50.0, 100.0], histograms: false };
        let values: Vec<f64> = match metric.request_value() {
            Some(value) => part.successes().filter_map(value).collect(),
            None => recording.gaps.clone(),
        };
        let stats = SampleStats::from_values(&values, Unit::Seconds, &wanted);
        let bounds = summarize(&part, metric, &stats).client_bounds;
        let ends = |ends: &serde_json::Value| [0, 1].map(|end| (ends[end].as_f64().unwrap() * 1e3).round() / 1e3);
        bounds.iter().map(|(name, interval)| (name.clone(), json!(ends(interval)))).collect::<Object>().into()
    }

    #[test]
    fn exact_stamps_have_no_bounds() {
        let exact = recording(&[&[], &[]]);
        for metric in [Metric::Ttft, Metric::Itl, Metric::E2el, Metric::Tpot] {
            assert_eq!(bounds(&exact, metric), json!({}));
        }
    }

    #[test]
    fn only_what_moves_has_bounds() {
        // The last chunk of the second request of three may have arrived 15 ms earlier, and the first one 4 ms.
        let late = recording(&[&[], &[(0, 0.004), (3, 0.015)], &[]]);
        assert_eq!(bounds(&late, Metric::Ttft), json!({"mean": [98.667, 100.0], "p0": [96.0, 100.0]}));
        assert_eq!(bounds(&late, Metric::E2el), json!({"mean": [155.0, 160.0], "p0": [145.0, 160.0]}));
        assert_eq!(
            bounds(&late, Metric::Tpot),
            json!({"mean": [18.333, 20.444], "p0": [15.0, 20.0], "p100": [20.0, 21.333]})
        );
        // 10 10 10 20 20 20 30 30 30: one 30 becomes 15, or one 10 becomes 14.
        assert_eq!(bounds(&late, Metric::Itl), json!({"mean": [18.333, 20.444]}));
        let all = recording(&[&[(1, 0.005), (2, 0.005)], &[(1, 0.01)], &[(1, 0.01)]]);
        assert_eq!(bounds(&all, Metric::Itl)["p0"], json!([0.0, 10.0]));
        assert_eq!(bounds(&all, Metric::E2el), json!({}));
        assert_eq!(bounds(&all, Metric::ClientQueueTime), json!({}));
    }
}

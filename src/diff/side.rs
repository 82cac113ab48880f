//! One side of a comparison: its runs, and their numbers.

use std::{path::PathBuf, rc::Rc};

use super::{
    estimate::{MIN_REPEATS, MeanSpread, SideEstimate, Spread},
    summary,
};
use crate::{
    error::Error,
    recording::{
        RecordedRequest, Recording, input::RecordingReader, metric::Metric, population::Population, sort_by_start,
    },
    statistics::{Dependence, SampleEvidence, numpy},
    summaries::RunSummary,
};

/// The most pieces that a run is cut into to measure how its throughput varies.
const MAX_PIECES: usize = 20;

/// Requests that each piece should have.
const REQUESTS_PER_PIECE: usize = 5;

/// The shortest piece, in mean request durations: a request in flight at a border counts in both pieces.
const LIVES_PER_PIECE: f64 = 2.0;

/// The runs of one side.
#[derive(Debug)]
pub struct Side {
    /// The runs, which are repeats of each other.
    pub runs: Vec<SideRun>,
}

/// A run, read from one file.
#[derive(Debug)]
pub struct SideRun {
    /// The path of the file.
    pub name: String,
    /// The recording read from it.
    pub recording: Recording,
    /// The run, if the file has only its numbers: then the recording is empty.
    pub summary: Option<RunSummary>,
}

impl Side {
    /// Reads a run from each file.
    pub fn read(paths: &[PathBuf], lenient: bool) -> Result<Self, Error> {
        let read = |path: &PathBuf| {
            let name = path.display().to_string();
            let mut recording =
                RecordingReader { lenient, summaries: true, tool: "vb-diff", ..RecordingReader::default() }
                    .read(std::slice::from_ref(path))?;
            let summaries = std::mem::take(&mut recording.summaries.runs);
            match (recording.requests.is_empty(), summaries.is_empty()) {
                (false, true) => Ok(vec![SideRun { name, recording, summary: None }]),
                (true, false) => repeats_of_file(&name, summaries),
                (true, true) => Err(Error::Input(format!("{name}: {}", recording.describe_empty()))),
                (false, false) => {
                    Err(Error::Input(format!("{name}: outputs and results in one file; give each run its own file")))
                }
            }
        };
        let runs: Vec<Vec<SideRun>> = paths.iter().map(read).collect::<Result<_, _>>()?;
        let runs: Vec<SideRun> = runs.into_iter().flatten().collect();
        for (i, run) in runs.iter().enumerate() {
            if let Some(other) = runs[..i].iter().find(|other| run.is_same_run(other)) {
                let same = "the same run, which is not a repeat of itself";
                return Err(Error::Usage(format!("{} and {} are {same}; pass it once", other.name, run.name)));
            }
        }
        Ok(Side { runs })
    }

    /// Its requests, and how they ended. Failures that a summary does not have are not counted: see [`Side::knows_failures`].
    #[must_use]
    pub fn population(&self) -> Population {
        self.runs.iter().map(SideRun::population).sum()
    }

    /// Whether all of its runs say how many requests failed.
    #[must_use]
    pub fn knows_failures(&self) -> bool {
        self.runs.iter().all(|run| run.summary.as_ref().is_none_or(|summary| summary::failures(summary).is_some()))
    }

    /// Whether a run is a summary, so that all of them are compared by one number for each run.
    #[must_use]
    pub fn has_summaries(&self) -> bool {
        self.runs.iter().any(|run| run.summary.is_some())
    }

    /// Whether its requests waited in the client, so that latencies from schedule and from start differ.
    #[must_use]
    pub fn requests_waited(&self) -> bool {
        self.runs.iter().any(|run| {
            let sum = |of: fn(&RecordedRequest) -> Option<f64>| run.recording.successes().filter_map(of).sum::<f64>();
            run.recording.open_loop() == Some(true) && sum(|r| r.queue_time) > 0.01 * sum(|r| r.latency)
        })
    }

    /// Estimates the mean of a latency and its percentiles, in this order.
    #[must_use]
    pub fn estimate_latency(&self, of: Latency, percentiles: &[f64]) -> Vec<SideEstimate> {
        let values: Vec<f64> = self.runs.iter().flat_map(|run| run.all_values(of)).collect();
        let dependences: Vec<Dependence> =
            self.runs.iter().map(|run| run.measure_dependence(of, percentiles)).collect();
        let evidence = SampleEvidence::from_runs(&dependences);
        let runs = self.runs.iter().map(|run| mean_and_percentiles(run.all_values(of), percentiles).0);
        let runs: Vec<Vec<f64>> = if self.runs.len() < MIN_REPEATS { Vec::new() } else { runs.collect() };
        let (n, std) = (values.len(), numpy::std(&values));
        if n == 0 {
            return Vec::new();
        }
        let (numbers, sorted) = mean_and_percentiles(values, percentiles);
        let batches: Rc<[f64]> = dependences.iter().flat_map(|run| run.batch_means().to_vec()).collect();
        let least = sorted.first().copied().unwrap_or_default();
        let spread = if numbers[0] > 0.0 { Spread::Mean(MeanSpread { std, least, batches }) } else { Spread::Unknown };
        let mut estimates = vec![SideEstimate::new(numbers[0], n, evidence, spread)];
        for (p, value) in percentiles.iter().zip(&numbers[1..]) {
            let spread = Spread::Ranks(Rc::clone(&sorted), *p);
            estimates.push(SideEstimate::new(*value, n, evidence, spread));
        }
        let with_runs = |(i, estimate): (usize, SideEstimate)| {
            let each: Vec<f64> = runs.iter().filter_map(|numbers| numbers.get(i).copied()).collect();
            estimate.with_runs(self.runs.len(), &each, false)
        };
        estimates.into_iter().enumerate().map(with_runs).collect()
    }

    /// What all runs completed per second of all runs, with this weight per request; `None` if their times are not known.
    #[must_use]
    pub fn estimate_throughput(&self, weight: fn(&RecordedRequest) -> f64) -> Option<SideEstimate> {
        let rates: Vec<RunThroughput> =
            self.runs.iter().map(|run| run.measure_throughput(weight)).collect::<Option<_>>()?;
        let sum = |of: fn(&RunThroughput) -> f64| rates.iter().map(of).sum::<f64>();
        let (total, seconds, freedom) = (sum(|r| r.total), sum(|r| r.seconds), sum(|r| r.freedom));
        let error = sum(|r| r.variance).sqrt() / total;
        let known = total > 0.0 && seconds > 0.0 && freedom >= 1.0 && error.is_finite();
        let spread = if known { Spread::Student(error, freedom) } else { Spread::Unknown };
        let n = rates.iter().map(|r| r.requests).sum();
        // The pieces are few, and Student's t with their number knows it.
        let evidence =
            SampleEvidence { effective: freedom + 1.0, requests: n as f64, counted: n as f64, long_memory: false };
        let estimate = SideEstimate::new(total / seconds, n, evidence, spread);
        let each: Vec<f64> = rates.iter().map(|rate| rate.total / rate.seconds).collect();
        (seconds > 0.0).then(|| estimate.with_runs(self.runs.len(), &each, true))
    }

    /// Estimates the share of requests that succeeded; `None` if no request counts.
    #[must_use]
    pub fn success_share(&self) -> Option<SideEstimate> {
        if self.has_summaries() {
            // As if the requests did not depend on each other.
            let population = self.population();
            let share = population.success_share().filter(|_| self.knows_failures())?;
            let n = population.counted() as f64;
            let evidence = SampleEvidence { effective: n, requests: n, counted: n, long_memory: false };
            return Some(SideEstimate::new(share, numpy::truncate_to_usize(n), evidence, Spread::Share));
        }
        let outcomes: Vec<f64> = self.runs.iter().flat_map(SideRun::success_flags).collect();
        let n = outcomes.len();
        let value = outcomes.iter().sum::<f64>() / n as f64;
        let runs: Vec<Dependence> =
            self.runs.iter().map(|run| Dependence::measure(&run.success_flags(), &[])).collect();
        (n > 0).then(|| SideEstimate::new(value, n, SampleEvidence::from_runs(&runs), Spread::Share))
    }
}

/// A latency to compare.
#[derive(Debug, Clone, Copy)]
pub enum Latency {
    /// One value for each request that has it.
    PerRequest(fn(&RecordedRequest) -> Option<f64>),
    /// All gaps between chunks.
    Gaps,
}

impl From<Metric> for Latency {
    fn from(metric: Metric) -> Self {
        metric.request_value().map_or(Latency::Gaps, Latency::PerRequest)
    }
}

/// The throughput of a run.
struct RunThroughput {
    requests: usize,
    total: f64,
    seconds: f64,
    /// The variance of the total from run to run.
    variance: f64,
    freedom: f64,
}

/// The runs of a file with several summaries, which are repeats of each other only if their settings are the same.
fn repeats_of_file(name: &str, summaries: Vec<RunSummary>) -> Result<Vec<SideRun>, Error> {
    let run = |name: String, summary| SideRun { name, recording: Recording::default(), summary: Some(summary) };
    let [first, others @ ..] = &summaries[..] else { return Ok(Vec::new()) };
    if let Some((key, one, other)) = others.iter().find_map(|other| summary::different_setting(first, other)) {
        return Err(Error::Input(format!(
            "{name}: {} runs, which are not repeats: {key} is {one} and {other}; pass one of them, or repeats, as `jq '.benchmarks |= [.[0]]'` \
             (guidellm) or `sed -n 1p` (lines of JSON) pick them",
            summaries.len()
        )));
    }
    let is_single = others.is_empty();
    let names = (1..).map(|i| if is_single { name.to_owned() } else { format!("{name} (run {i})") });
    Ok(names.zip(summaries).map(|(name, summary)| run(name, summary)).collect())
}

impl SideRun {
    /// Whether both are the same run.
    fn is_same_run(&self, other: &SideRun) -> bool {
        match (&self.summary, &other.summary) {
            (Some(one), Some(other)) => one == other,
            (None, None) => self.recording.is_same_run(&other.recording),
            _ => false,
        }
    }

    fn population(&self) -> Population {
        self.summary.as_ref().map_or_else(|| Population::from_requests(&self.recording.requests), summary::population)
    }

    /// The value of each successful request that has one, in order of time.
    fn latency_values(&self, of: fn(&RecordedRequest) -> Option<f64>) -> Vec<f64> {
        sort_by_start(self.recording.successes()).into_iter().filter_map(of).collect()
    }

    /// 1 for each success and 0 for each failure, in order of time.
    fn success_flags(&self) -> Vec<f64> {
        sort_by_start(self.recording.requests.iter().filter(|r| r.counts()))
            .into_iter()
            .map(|r| f64::from(u8::from(r.success)))
            .collect()
    }

    /// All values of a latency: in order of time, or the gaps in the order of the requests.
    pub(super) fn all_values(&self, of: Latency) -> Vec<f64> {
        match of {
            Latency::PerRequest(value) => self.latency_values(value),
            Latency::Gaps => self.recording.gaps.clone(),
        }
    }

    /// How much they depend on each other in time.
    fn measure_dependence(&self, of: Latency, percentiles: &[f64]) -> Dependence {
        match of {
            Latency::PerRequest(value) => Dependence::measure(&self.latency_values(value), percentiles),
            Latency::Gaps => self.recording.gap_dependence(|| self.recording.successes(), percentiles),
        }
    }

    /// The variance is estimated from pieces of the run, as if these were independent of each other (batch means). A request counts
    /// in each piece for the part of its duration in that piece: slots that fill and empty in step would otherwise look like a
    /// server that stops and goes.
    fn measure_throughput(&self, weight: fn(&RecordedRequest) -> f64) -> Option<RunThroughput> {
        let times = |r: &RecordedRequest| Some((r.start?, r.start? + r.done.or(r.latency)?, weight(r)));
        let lives: Vec<(f64, f64, f64)> = self.recording.successes().filter_map(times).collect();
        let seconds = self.recording.duration();
        let first = lives.iter().map(|(start, ..)| *start).fold(f64::INFINITY, f64::min);
        let last = lives.iter().map(|(_, end, _)| *end).fold(f64::NEG_INFINITY, f64::max);
        if lives.len() < self.recording.successes().count() || seconds <= 0.0 || last <= first {
            return None;
        }
        let length = lives.iter().map(|(start, end, _)| end - start).sum::<f64>() / lives.len() as f64;
        let most = numpy::truncate_to_usize((last - first) / (length * LIVES_PER_PIECE));
        let pieces = (lives.len() / REQUESTS_PER_PIECE).min(most).clamp(1, MAX_PIECES);
        let width = (last - first) / pieces as f64;
        let mut sums = vec![0.0; pieces];
        for (start, end, weight) in &lives {
            spread_weight(&mut sums, (start - first) / width, (end - first) / width, *weight);
        }
        // The share of a piece's variance that remains after independent requests are spread over pieces.
        let kept = 1.0 - (length / width / 3.0).min(0.5);
        let freedom = pieces as f64 - 1.0;
        Some(RunThroughput {
            requests: lives.len(),
            total: lives.iter().map(|(.., weight)| weight).sum(),
            seconds,
            variance: (numpy::std(&sums) * pieces as f64).powi(2) / freedom / kept,
            freedom,
        })
    }
}

/// Distributes a weight over the pieces between two places, in proportion.
fn spread_weight(sums: &mut [f64], from: f64, to: f64, weight: f64) {
    let last = sums.len() - 1;
    let (begin, end) = (numpy::truncate_to_usize(from).min(last), numpy::truncate_to_usize(to).min(last));
    if begin == end || to <= from {
        sums[begin] += weight;
        return;
    }
    for (piece, sum) in sums.iter_mut().enumerate().take(end + 1).skip(begin) {
        let inside = to.min(piece as f64 + 1.0) - from.max(piece as f64);
        *sum += weight * inside / (to - from);
    }
}

/// The mean and the percentiles, with the sorted values.
pub(super) fn mean_and_percentiles(mut values: Vec<f64>, percentiles: &[f64]) -> (Vec<f64>, Rc<[f64]>) {
    let mean = numpy::mean(&values);
    values.sort_unstable_by(f64::total_cmp);
    let percentiles = percentiles.iter().map(|p| numpy::percentile(&values, *p));
    (std::iter::once(mean).chain(percentiles).collect(), values.into())
}

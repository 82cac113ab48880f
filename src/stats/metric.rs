//! The latencies that have a mean, a median, a standard deviation and percentiles in vLLM's result.

use super::{
    interval::{self, Dependences, Interval},
    numpy,
    recording::Request,
};

/// One of vLLM's latencies. `docs/METRICS.md` defines each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Time to first token.
    Ttft,
    /// Time per output token after the first.
    Tpot,
    /// Inter-token latency: the gaps between chunks.
    Itl,
    /// End-to-end latency.
    E2el,
    /// Waiting in the client.
    ClientQueueTime,
    /// End-to-end latency and the waiting before it.
    E2elIncludingClientQueue,
}

impl Metric {
    /// All, in the order of the result.
    pub const ALL: [Metric; 6] = [
        Metric::Ttft,
        Metric::Tpot,
        Metric::Itl,
        Metric::E2el,
        Metric::ClientQueueTime,
        Metric::E2elIncludingClientQueue,
    ];

    /// The name in keys and in `--percentile-metrics`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Metric::Ttft => "ttft",
            Metric::Tpot => "tpot",
            Metric::Itl => "itl",
            Metric::E2el => "e2el",
            Metric::ClientQueueTime => "client_queue_time",
            Metric::E2elIncludingClientQueue => "e2el_including_client_queue",
        }
    }

    /// The name in tables.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Metric::Ttft => "TTFT",
            Metric::Tpot => "TPOT",
            Metric::Itl => "ITL",
            Metric::E2el => "E2EL",
            Metric::ClientQueueTime => "Client Queue Time",
            Metric::E2elIncludingClientQueue => "E2EL incl. Client Queue",
        }
    }

    /// The heading in tables.
    #[must_use]
    pub fn heading(self) -> &'static str {
        match self {
            Metric::Ttft => "Time to First Token",
            Metric::Tpot => "Time per Output Token (excl. 1st token)",
            Metric::Itl => "Inter-token Latency",
            Metric::E2el => "End-to-end Latency",
            Metric::ClientQueueTime => "Client-side Queueing",
            Metric::E2elIncludingClientQueue => "Queue-inclusive End-to-end Latency",
        }
    }

    /// The metric of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Metric> {
        Metric::ALL.into_iter().find(|m| m.name() == name)
    }

    /// Takes `p99.9_ttft_ms` apart: the statistic and the metric. `None` for a key of another kind.
    #[must_use]
    pub fn of_key(key: &str) -> Option<(&str, Metric)> {
        let (statistic, metric) = key.strip_suffix("_ms")?.split_once('_')?;
        let percentile = statistic.strip_prefix('p').is_some_and(|p| p.parse::<f64>().is_ok());
        (percentile || matches!(statistic, "mean" | "median" | "std")).then_some((statistic, Metric::named(metric)?))
    }

    /// Its value of a request, in seconds; `None` for the one that has many.
    #[must_use]
    pub fn of_request(self) -> Option<fn(&Request) -> Option<f64>> {
        Some(match self {
            Metric::Ttft => |r| r.ttft,
            Metric::Tpot => Request::tpot,
            Metric::Itl => return None,
            Metric::E2el => |r| r.latency,
            Metric::ClientQueueTime => |r| r.queue_time,
            Metric::E2elIncludingClientQueue => |r| Some(r.latency? + r.queue_time?),
        })
    }
}

/// What is told of a sample; all in the unit of its values, and 0 for an empty one, as in vLLM's result.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Distribution {
    /// How many values.
    pub n: usize,
    /// The mean.
    pub mean: f64,
    /// The standard deviation of the population.
    pub std: f64,
    /// The median.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// Percentiles: which, and the value.
    pub percentiles: Vec<(f64, f64)>,
    /// How sure they are; `None`: not asked for.
    pub precision: Option<Precision>,
}

/// How sure the numbers of a sample are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Precision {
    /// Independent values that would tell the mean as well.
    pub effective: f64,
    /// The interval of the mean.
    pub mean: Interval,
    /// The interval of each percentile.
    pub percentiles: Vec<Interval>,
}

impl Distribution {
    /// Of these values, whose order is lost.
    #[must_use]
    pub fn of(values: Vec<f64>, percentiles: &[f64]) -> Self {
        Self::settle(values, percentiles, &[]).0
    }

    /// The same, with intervals for values that depend on each other like this.
    #[must_use]
    pub fn sure(values: Vec<f64>, percentiles: &[f64], dependences: &Dependences) -> Self {
        let n = values.len();
        let places = percentiles.iter().zip(&dependences.percentiles);
        let places: Vec<Interval> = places.map(|(p, d)| interval::places(*p, n, d.effective(n))).collect();
        let ends: Vec<f64> = places.iter().flat_map(|place| [place.low, place.high]).flatten().collect();
        let (mut told, values) = Self::settle(values, percentiles, &ends);
        let at = |place: &Interval| Interval {
            low: place.low.map(|place| numpy::at(&values, place)),
            high: place.high.map(|place| numpy::at(&values, place)),
        };
        let of_mean = dependences.mean.effective(n);
        told.precision = (n > 0).then(|| Precision {
            effective: of_mean,
            mean: interval::of_mean(told.mean, told.std, of_mean),
            percentiles: places.iter().map(at).collect(),
        });
        told
    }

    fn settle(mut values: Vec<f64>, percentiles: &[f64], places: &[f64]) -> (Self, Vec<f64>) {
        let (mean, std) = (numpy::mean(&values), numpy::std(&values));
        numpy::settle(&mut values, percentiles, places);
        let told = Distribution {
            n: values.len(),
            mean,
            std,
            median: numpy::median(&values),
            min: values.first().copied().unwrap_or_default(),
            max: values.last().copied().unwrap_or_default(),
            percentiles: percentiles.iter().map(|p| (*p, numpy::percentile(&values, *p))).collect(),
            precision: None,
        };
        (told, values)
    }
}

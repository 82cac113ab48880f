//! The latencies that have a mean, a median, a standard deviation and percentiles in vLLM's result.

use super::RecordedRequest;

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
    /// Time that a request waits in the client.
    ClientQueueTime,
    /// End-to-end latency plus the wait in the client before it.
    E2elIncludingClientQueue,
}

impl Metric {
    /// All metrics, in the order of the result.
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
    pub fn table_label(self) -> &'static str {
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
    pub fn table_heading(self) -> &'static str {
        match self {
            Metric::Ttft => "Time to First Token",
            Metric::Tpot => "Time per Output Token (excl. 1st token)",
            Metric::Itl => "Inter-token Latency",
            Metric::E2el => "End-to-end Latency",
            Metric::ClientQueueTime => "Client-side Queueing",
            Metric::E2elIncludingClientQueue => "Queue-inclusive End-to-end Latency",
        }
    }

    /// The metric with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Metric> {
        Metric::ALL.into_iter().find(|m| m.name() == name)
    }

    /// Splits a key such as `p99.9_ttft_ms` into the statistic and the metric. `None` for other keys.
    #[must_use]
    pub fn parse_key(key: &str) -> Option<(&str, Metric)> {
        let (statistic, metric) = key.strip_suffix("_ms")?.split_once('_')?;
        let percentile = statistic.strip_prefix('p').is_some_and(|p| p.parse::<f64>().is_ok());
        (percentile || matches!(statistic, "mean" | "median" | "std"))
            .then_some((statistic, Metric::from_name(metric)?))
    }

    /// The function that gives the value of a request, in seconds; `None` for ITL, which has many values per request.
    #[must_use]
    pub fn request_value(self) -> Option<fn(&RecordedRequest) -> Option<f64>> {
        Some(match self {
            Metric::Ttft => |r| r.ttft,
            Metric::Tpot => RecordedRequest::tpot,
            Metric::Itl => return None,
            Metric::E2el => |r| r.latency,
            Metric::ClientQueueTime => |r| r.queue_time,
            Metric::E2elIncludingClientQueue => |r| Some(r.latency? + r.queue_time?),
        })
    }
}

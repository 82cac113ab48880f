//! How long a run is, compared with the time after which its requests forget each other.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::statistics::{Doubt, MIN_CORRELATION_TIMES, Summary};

/// The length of a run in correlation times, by the metric that forgets most slowly.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RunLength {
    /// How many correlation times the run lasts: its independent requests.
    pub correlation_times: f64,
    /// The metric: `ttft`, `tpot`, `itl` or `e2el`.
    pub metric: String,
    /// What to do if the run is too short, or its requests have waves as long as the run; `null` otherwise.
    pub advice: Option<String>,
}

impl RunLength {
    /// From the distributions of these metrics; `None` if none has a value.
    #[must_use]
    pub fn from_metrics(metrics: &[(&str, &Summary)]) -> Option<Self> {
        let known = metrics.iter().filter_map(|(name, summary)| Some((*name, *summary, summary.n_effective?)));
        let (name, summary, least) = known.min_by(|a, b| a.2.total_cmp(&b.2))?;
        let is_long = |(_, summary): &&(&str, &Summary)| summary.doubt == Some(Doubt::LongMemory);
        let waves = metrics.iter().find(is_long).map(|(name, _)| describe_waves(name));
        let too_short = (least < MIN_CORRELATION_TIMES).then(|| describe_short(name, summary.n, least));
        Some(RunLength { correlation_times: least, metric: name.to_owned(), advice: too_short.or(waves) })
    }
}

fn describe_short(name: &str, n: usize, times: f64) -> String {
    let longer = (MIN_CORRELATION_TIMES / times).ceil();
    if (n as f64) < MIN_CORRELATION_TIMES {
        return format!(
            "this run has {n} requests with {name}; intervals need {MIN_CORRELATION_TIMES} independent ones"
        );
    }
    format!("this run is about {times:.0} correlation times long (by {name}); run {longer} times as long or repeat it")
}

fn describe_waves(name: &str) -> String {
    format!(
        "{name} has waves as long as this run, so its intervals may be too narrow; run several times as long or repeat it"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(n: usize, effective: f64, doubt: Option<Doubt>) -> Summary {
        Summary { n, n_effective: Some(effective), doubt, ..Summary::default() }
    }

    #[test]
    fn the_slowest_metric_says_how_long_to_run() {
        let (ttft, itl) = (summary(1000, 6.2, Some(Doubt::TooShort)), summary(90_000, 4000.0, None));
        let length = RunLength::from_metrics(&[("itl", &itl), ("ttft", &ttft)]).unwrap();
        let advice = "this run is about 6 correlation times long (by ttft); run 5 times as long or repeat it";
        assert_eq!((length.metric.as_str(), length.advice.as_deref()), ("ttft", Some(advice)));
        let waves = summary(1000, 80.0, Some(Doubt::LongMemory));
        let length = RunLength::from_metrics(&[("itl", &itl), ("e2el", &waves)]).unwrap();
        assert!(length.advice.unwrap().starts_with("e2el has waves as long as this run"));
        assert_eq!(RunLength::from_metrics(&[("itl", &itl)]).unwrap().advice, None);
        let few = RunLength::from_metrics(&[("ttft", &summary(12, 12.0, Some(Doubt::TooShort)))]).unwrap();
        assert!(few.advice.unwrap().starts_with("this run has 12 requests"));
        assert_eq!(RunLength::from_metrics(&[("tpot", &Summary::default())]), None);
    }
}

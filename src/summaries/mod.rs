//! Summaries of runs without their requests, as load generators write them, in vLLM's keys.
//!
//! Each format is one table: which value of a file is which of our keys, and the factor between their units. A value is only taken
//! over if the key has the same definition. `docs/METRICS.md` has the tables, and what is left out.

mod aiperf;
pub mod document;
mod format;
mod guidellm;
mod inference_perf;
mod sglang;
mod vllm;

use serde_json::Value;

pub use self::{
    sglang::SGLANG_KEY,
    vllm::{OUR_TOOL, VLLM_TOOL},
};

use self::{document::WantedKeys, format::Format};
use crate::record::Object;

/// The formats. The first one whose keys a file has is its format.
const FORMATS: [&Format; 6] = [
    &aiperf::FORMAT,
    &guidellm::FORMAT,
    &inference_perf::FORMAT,
    &sglang::FORMAT,
    &vllm::OUR_FORMAT,
    &vllm::VLLM_FORMAT,
];

/// The most keys that a message lists of a file that it does not understand.
const MAX_LISTED_KEYS: usize = 5;

/// The numbers of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunSummary {
    /// The program that wrote it, with its version if the file has one.
    pub tool: String,
    /// Its values, under vLLM's keys and in their units.
    pub values: Object,
}

impl RunSummary {
    /// A number; `None` if the file has none, or one that is not finite.
    #[must_use]
    pub fn number(&self, key: &str) -> Option<f64> {
        self.values.get(key)?.as_f64().filter(|number| number.is_finite())
    }

    /// A whole number of 0 or more.
    #[must_use]
    pub fn count(&self, key: &str) -> Option<u64> {
        let value = self.values.get(key)?;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // checked in the line above it
        let whole = |number: f64| (number >= 0.0 && number.fract() == 0.0 && number < 1e15).then_some(number as u64);
        value.as_u64().or_else(|| whole(value.as_f64()?))
    }
}

/// Why a JSON object is not read as a summary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoSummary {
    /// No format has its keys.
    Unknown(String),
    /// Its format is known, and this version of it is not, or its runs are missing.
    Unreadable(String),
}

/// The summaries that were found in an input.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FoundSummaries {
    /// The runs, in their order.
    pub runs: Vec<RunSummary>,
    /// Why the first object that was not understood is not a summary.
    pub unknown: Option<String>,
}

impl FoundSummaries {
    /// Adds the runs of a JSON object. If it is not a summary, notes why.
    ///
    /// # Errors
    /// It is not JSON, or a summary that cannot be read.
    pub fn add(&mut self, json: &[u8]) -> serde_json::Result<()> {
        match read_summaries(json)? {
            Ok(runs) => self.runs.extend(runs),
            Err(NoSummary::Unknown(what)) => drop(self.unknown.get_or_insert(what)),
            Err(NoSummary::Unreadable(what)) => return Err(serde::de::Error::custom(what)),
        }
        Ok(())
    }
}

/// Reads the runs of a JSON object that may be a summary.
///
/// # Errors
/// It is not JSON. The inner error: it is JSON, and not a summary that is understood.
pub fn read_summaries(json: &[u8]) -> serde_json::Result<Result<Vec<RunSummary>, NoSummary>> {
    let wanted = wanted_keys();
    let document = crate::json::parse_with(json, |json| wanted.read(json))?;
    let found = FORMATS.into_iter().find(|format| format.matches(&document));
    Ok(match found {
        Some(format) => format.read_runs(&document).map_err(NoSummary::Unreadable),
        None => Err(NoSummary::Unknown(describe_unknown(&document))),
    })
}

/// The names of the programs whose summaries are understood.
#[must_use]
pub fn known_tools() -> String {
    let names: Vec<&str> = FORMATS.iter().map(|format| format.tool).collect();
    let (last, first) = names.split_last().unwrap_or((&"", &[]));
    format!("{} and {last}", first.join(", "))
}

fn describe_unknown(document: &Value) -> String {
    let keys: Vec<&str> = document.as_object().into_iter().flat_map(Object::keys).map(String::as_str).collect();
    let listed = keys.iter().take(MAX_LISTED_KEYS).map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ");
    let more = if keys.len() > MAX_LISTED_KEYS { ", …" } else { "" };
    let keys = if keys.is_empty() { "no single values".to_owned() } else { format!("the keys {listed}{more}") };
    format!("not a summary that is understood: it has {keys}; results of {} are", known_tools())
}

fn wanted_keys() -> WantedKeys {
    let mut wanted = WantedKeys::default();
    for path in FORMATS.iter().flat_map(|format| format.paths()) {
        wanted.add(&path);
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_one(json: &str) -> RunSummary {
        let mut runs = read_summaries(json.as_bytes()).unwrap().unwrap();
        assert_eq!(runs.len(), 1);
        runs.remove(0)
    }

    fn error_of(json: &str) -> NoSummary {
        read_summaries(json.as_bytes()).unwrap().unwrap_err()
    }

    /// Each metric of each format has a key of vLLM or of ours, and no key is given twice by tables of one layout.
    #[test]
    fn tables_give_keys_that_a_result_has() {
        for format in FORMATS {
            for (path, metric, factor) in format.latencies {
                let known = crate::summaries::format::LATENCIES.contains(metric);
                assert!(known && path.contains("{}") && [1.0, 1e3].contains(factor), "{}: {path}", format.tool);
            }
            for (_, statistic) in format.statistics {
                let percentile = statistic.strip_prefix('p').is_some_and(|p| p.parse::<f64>().is_ok());
                assert!(percentile || ["mean", "median", "std"].contains(statistic), "{}: {statistic}", format.tool);
            }
        }
        assert_eq!(
            known_tools(),
            "aiperf, guidellm, inference-perf, sglang's bench_serving, vb-stats and vllm bench serve"
        );
    }

    #[test]
    fn units_become_ours_and_missing_values_are_left_out() {
        let file = r#"{"benchmark_time_seconds":2.0,"load_summary":{"count":4},"failures":{"count":1},"successes":{"count":3,
            "latency":{"request_latency":{"mean":0.5,"median":NaN,"p99.9":0.75},"time_to_first_token":null},
            "throughput":{"requests_per_sec":1.5}}}"#;
        let run = read_one(file);
        assert_eq!(run.tool, "inference-perf");
        let want = serde_json::json!({"num_prompts": 4, "duration": 2.0, "completed": 3, "failed": 1, "request_throughput": 1.5,
            "mean_e2el_ms": 500.0, "p99.9_e2el_ms": 750.0});
        assert_eq!(Value::Object(run.values), want);
    }

    #[test]
    fn only_what_tables_name_is_kept_of_a_file() {
        let big = format!("[{}1]", "1,".repeat(10_000));
        let file = format!(
            r#"{{"duration":1,"completed":2,"ttfts":{big},"extra":{{"deep":{big}}},"vb":{{"verdict":"clean","x":{big}}}}}"#
        );
        let document = wanted_keys().read(file.as_bytes()).unwrap();
        assert_eq!(document, serde_json::json!({"duration": 1, "completed": 2, "vb": {"verdict": "clean"}}));
        assert_eq!(read_one(&file).tool, "vb-stats");
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let unknown = error_of(r#"{"tool":"x","b":[1],"c":1,"d":2,"e":3,"f":4,"g":5}"#);
        let NoSummary::Unknown(what) = unknown else { panic!("{unknown:?}") };
        assert!(
            what.starts_with("not a summary that is understood: it has the keys `tool`, `c`, `d`, `e`, `f`, …;"),
            "{what}"
        );
        let later = error_of(
            r#"{"metadata":{"version":9,"guidellm_version":"2.0.0"},"benchmarks":[{"metrics":{"time_to_first_token_ms":{}}}]}"#,
        );
        let want = "guidellm 2.0.0 wrote it with layout 9 (`metadata/version`); layouts 1 and 2 are understood";
        assert_eq!(later, NoSummary::Unreadable(want.to_owned()));
        assert!(read_summaries(b"{").is_err());
    }

    proptest::proptest! {
        #[test]
        fn bytes_of_any_kind_never_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = read_summaries(&bytes);
        }
    }
}

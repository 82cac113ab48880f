//! A format of summaries: the table from its values to our keys.

use std::collections::HashSet;

use serde_json::Value;

use super::{RunSummary, document::value_at};
use crate::{fields::whole_number, record::Object};

/// The latencies that a table may give. `itl_per_token` is all time between first and last tokens, per token.
#[cfg(test)]
pub const LATENCIES: [&str; 5] = ["ttft", "tpot", "itl", "e2el", "itl_per_token"];

/// A format of summaries. Paths have `/` between their keys. If two lines of a table give the same key, the first one that a file
/// has is used.
#[derive(Debug)]
pub struct Format {
    /// The program that writes it.
    pub tool: &'static str,
    /// The paths that each of its files has.
    pub signature: &'static [&'static str],
    /// The path of the program's version.
    pub version: Option<&'static str>,
    /// The path of the version of the layout, and the versions that are understood, up to the first dot. Files of old programs have none.
    pub layout: Option<(&'static str, &'static [&'static str])>,
    /// The path of the list of runs; without it a file is one run. All tables below are relative to a run.
    pub runs: Option<&'static str>,
    /// Whether single values at the top are taken over under their own keys, because these are vLLM's.
    pub has_our_keys: bool,
    /// The names of statistics in its paths, and ours.
    pub statistics: &'static [(&'static str, &'static str)],
    /// Latencies: the path with `{}` for the statistic, our name, and the factor to milliseconds.
    pub latencies: &'static [(&'static str, &'static str, f64)],
    /// Other numbers: the path, our key, and the factor.
    pub numbers: &'static [(&'static str, &'static str, f64)],
    /// The keys of counts that its files lack if they are 0.
    pub zeros: &'static [&'static str],
    /// Settings: the path, and our key.
    pub settings: &'static [(&'static str, &'static str)],
}

/// The keys of whole numbers.
const COUNTS: [&str; 5] = ["num_prompts", "completed", "failed", "total_input_tokens", "total_output_tokens"];

/// What formats without a part have.
pub const EMPTY: Format = Format {
    tool: "",
    signature: &[],
    version: None,
    layout: None,
    runs: None,
    has_our_keys: false,
    statistics: &[],
    latencies: &[],
    numbers: &[],
    zeros: &[],
    settings: &[],
};

impl Format {
    /// All paths that it reads, from the top of a file.
    pub fn paths(&self) -> Vec<String> {
        let statistics =
            |path: &str| self.statistics.iter().map(|(name, _)| path.replace("{}", name)).collect::<Vec<_>>();
        let latencies = self.latencies.iter().flat_map(|(path, ..)| statistics(path));
        let numbers = self.numbers.iter().map(|(path, ..)| (*path).to_owned());
        let settings = self.settings.iter().map(|(path, _)| (*path).to_owned());
        let of_runs = latencies.chain(numbers).chain(settings).map(|path| match self.runs {
            Some(runs) => format!("{runs}/{path}"),
            None => path,
        });
        let of_file = self.signature.iter().copied().chain(self.version).chain(self.layout.map(|(path, _)| path));
        of_runs.chain(of_file.map(str::to_owned)).collect()
    }

    /// Whether a file has its keys.
    pub fn matches(&self, document: &Value) -> bool {
        self.signature.iter().all(|path| value_at(document, path).is_some())
    }

    /// The runs of a file.
    ///
    /// # Errors
    /// This version of its layout is not understood, or it has no run.
    pub fn read_runs(&self, document: &Value) -> Result<Vec<RunSummary>, String> {
        let version = self.version.and_then(|path| value_at(document, path)).map(text_of_value);
        let tool = version.map_or_else(|| self.tool.to_owned(), |version| format!("{} {version}", self.tool));
        if let Some((path, known)) = self.layout
            && let Some(layout) = value_at(document, path).filter(|layout| !layout.is_null()).map(text_of_value)
            && !known.contains(&layout.split('.').next().unwrap_or_default())
        {
            let are = if known.len() == 1 {
                format!("layout {} is", known[0])
            } else {
                format!("layouts {} are", known.join(" and "))
            };
            return Err(format!("{tool} wrote it with layout {layout} (`{path}`); {are} understood"));
        }
        let runs: Vec<&Value> = match self.runs {
            Some(path) => value_at(document, path).and_then(Value::as_array).into_iter().flatten().collect(),
            None => vec![document],
        };
        if runs.is_empty() {
            return Err(format!("{tool} wrote it, and it has no run"));
        }
        Ok(runs.into_iter().map(|run| RunSummary { tool: tool.clone(), values: self.read_values(run) }).collect())
    }

    fn read_values(&self, run: &Value) -> Object {
        let mut values = Object::new();
        // What another line of the table gives, if only as null.
        let mut known: HashSet<String> = HashSet::new();
        for (path, key) in self.settings {
            let setting =
                value_at(run, path).filter(|value| value.is_string() || value.is_number() || value.is_boolean());
            if let Some(value) = setting {
                values.entry(*key).or_insert_with(|| value.clone());
            }
        }
        for (path, key, factor) in self.numbers {
            let Some(value) = value_at(run, path) else { continue };
            if known.insert((*key).to_owned()) {
                insert_number(&mut values, key, value, *factor);
            }
        }
        for key in self.zeros {
            values.entry(*key).or_insert_with(|| 0.into());
        }
        for (path, latency, factor) in self.latencies {
            for (name, statistic) in self.statistics {
                let Some(value) = value_at(run, &path.replace("{}", name)) else { continue };
                let key = format!("{statistic}_{latency}_ms");
                if known.insert(key.clone()) {
                    insert_number(&mut values, &key, value, *factor);
                }
            }
        }
        if self.has_our_keys {
            for (key, value) in run.as_object().into_iter().flatten() {
                if !value.is_object() && !value.is_array() && !value.is_null() {
                    values.entry(key).or_insert_with(|| value.clone());
                }
            }
        }
        values
    }
}

/// Inserts a number. What is not a number is left out; so are numbers that the factor makes infinite.
fn insert_number(values: &mut Object, key: &str, value: &Value, factor: f64) {
    // A count is a whole number, also where a program writes it with a decimal point.
    let whole = value.as_f64().and_then(whole_number).filter(|_| COUNTS.contains(&key));
    let scaled = match whole {
        Some(count) => count.into(),
        None if (factor - 1.0).abs() < f64::EPSILON => value.clone(),
        None => value.as_f64().map(|number| number * factor).into(),
    };
    if scaled.is_number() {
        values.insert(key.to_owned(), scaled);
    }
}

fn text_of_value(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

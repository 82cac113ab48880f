//! Parses the parts of a result JSON that go into a row.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

use super::columns;
use crate::{
    fields::WholeCount,
    record::{Object, Verdict},
    summaries::{self, RunSummary, document::PartSeed},
};

/// The column that names the program of a result that is neither ours nor vLLM's.
const TOOL: &str = "tool";

/// One run: the scalars of its result, and its input and output length.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ResultRow {
    /// The keys with scalar values, in their order.
    pub scalars: Object,
    /// Prompt tokens of each request; `None`: unknown, or not the same for all.
    pub input_len: Option<u64>,
    /// Output tokens of each request; `None`: unknown, or not the same for all.
    pub output_len: Option<u64>,
    /// Whether all of the run is in it, and whether the numbers can be trusted.
    pub trust: RunTrust,
    /// The file it came from; empty for standard input.
    pub filename: String,
    /// The lower end of the interval of its P99 of TTFT, in milliseconds; `None` if unknown.
    pub p99_ttft_low: Option<f64>,
    /// The columns from `vb`, until all keys have been read.
    pub(super) ours: Object,
    /// The lengths from the lists of a detailed result. They have the lowest priority, after the file's name.
    pub(super) lists: [Option<u64>; 2],
}

impl From<RunSummary> for ResultRow {
    /// The row of a run of another program, with the program in the column `tool`.
    fn from(RunSummary { tool, mut values }: RunSummary) -> Self {
        let flag = |value: Option<Value>| value.and_then(|value| value.as_bool());
        let trust = RunTrust {
            complete: flag(values.remove("complete")),
            interrupted: flag(values.remove("interrupted")),
            verdict: None,
        };
        let scalars = std::iter::once((TOOL.to_owned(), tool.into())).chain(values).collect();
        ResultRow { scalars, trust, ..ResultRow::default() }
    }
}

impl ResultRow {
    /// Whether this is the result of a run, and not other JSON.
    #[must_use]
    pub fn is_result(&self) -> bool {
        let has = |key: &str| self.scalars.contains_key(key);
        has("duration") && has("completed") && !has(summaries::SGLANG_KEY)
    }

    /// What this is, if it is a record of another tool, and where that belongs.
    #[must_use]
    pub fn describe_record(&self) -> Option<&'static str> {
        if self.is_result() {
            return None;
        }
        let has = |key: &str| self.scalars.contains_key(key);
        if has("type") || has("success") && has("ttft") {
            return Some("output of vb-fire, not a result: pass it to vb-stats, and the result to vb-agg");
        }
        let request = has("prompt") || has("prompt_len") || has("request_id");
        request
            .then_some("requests, not results: vb-fire sends them, vb-stats makes a result of its output, for vb-agg")
    }

    /// A number to sort by. A missing one is infinite, so it comes last.
    #[must_use]
    pub fn sort_number(&self, key: &str) -> f64 {
        self.scalars.get(key).and_then(Value::as_f64).unwrap_or(f64::INFINITY)
    }

    /// Sets the file name, and the lengths if the file name has them: `bench_io128x64_mc4_np20.json`.
    #[must_use]
    pub fn with_file(mut self, path: &str) -> Self {
        let named = lengths_in_name(file_name(path));
        let [input_lens, output_lens] = self.lists;
        self.input_len = self.input_len.or(named.map(|n| n.0)).or(input_lens);
        self.output_len = self.output_len.or(named.map(|n| n.1)).or(output_lens);
        path.clone_into(&mut self.filename);
        self
    }
}

/// The last part of a path.
#[must_use]
pub fn file_name(path: &str) -> &str {
    path.rsplit(std::path::MAIN_SEPARATOR).next().unwrap_or(path)
}

/// Parses `io128x64` in a file's name.
fn lengths_in_name(name: &str) -> Option<(u64, u64)> {
    name.match_indices("io").find_map(|(at, _)| {
        let (input, rest) = leading_number(&name[at + 2..])?;
        let (output, _) = leading_number(rest.strip_prefix('x')?)?;
        Some((input, output))
    })
}

/// Parses the number at the start of `text`. Also returns the text after it.
fn leading_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// One result, or a list of them as in the `summary.json` of `vllm bench sweep`.
pub struct ResultRows(pub Vec<ResultRow>);

impl<'de> Deserialize<'de> for ResultRows {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct ResultRowsVisitor;
        impl<'de> Visitor<'de> for ResultRowsVisitor {
            type Value = ResultRows;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a result, or a list of results")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ResultRows, A::Error> {
                Ok(ResultRows(vec![ResultRowVisitor.visit_map(map)?]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<ResultRows, A::Error> {
                let mut runs = Vec::new();
                while let Some(ResultRows(more)) = list.next_element()? {
                    runs.extend(more);
                }
                Ok(ResultRows(runs))
            }
        }
        from.deserialize_any(ResultRowsVisitor)
    }
}

struct ResultRowVisitor;

impl<'de> Visitor<'de> for ResultRowVisitor {
    type Value = ResultRow;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a result")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ResultRow, A::Error> {
        let mut run = ResultRow::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "vb" => {
                    let value: Value = map.next_value()?;
                    let vb = VbPart::deserialize(&value).map_err(de::Error::custom)?;
                    run.ours = columns::read_vb_columns(&value);
                    run.input_len = vb.input_len;
                    run.output_len = vb.output_len;
                    run.trust = RunTrust { complete: vb.complete, interrupted: vb.interrupted, verdict: vb.verdict };
                    run.p99_ttft_low = vb.from_start.ttft_ms.intervals.p99[0];
                }
                "input_lens" => run.lists[0] = map.next_value::<RequestLengths>()?.common_length(),
                "output_lens" => run.lists[1] = map.next_value::<RequestLengths>()?.common_length(),
                _ => {
                    if let Some(value) = map.next_value_seed(PartSeed::single())? {
                        run.scalars.insert(key, value);
                    }
                }
            }
        }
        for (key, value) in std::mem::take(&mut run.ours) {
            run.scalars.entry(key).or_insert(value);
        }
        run.input_len = run.input_len.or_else(|| metadata_length(&run.scalars, "input_len"));
        run.output_len = run.output_len.or_else(|| metadata_length(&run.scalars, "output_len"));
        Ok(run)
    }
}

/// The length in the metadata, as from `vllm bench serve --metadata input_len=128`.
fn metadata_length(scalars: &Object, key: &str) -> Option<u64> {
    let value = scalars.get(key)?;
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// What a row needs of `vb`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct VbPart {
    input_len: Option<u64>,
    output_len: Option<u64>,
    complete: Option<bool>,
    interrupted: Option<bool>,
    verdict: Option<Verdict>,
    from_start: FromStart,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct FromStart {
    ttft_ms: TtftPart,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TtftPart {
    intervals: P99Interval,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct P99Interval {
    p99: [Option<f64>; 2],
}

/// Whether all of a run is in its result, and whether its numbers can be trusted; `None` if unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RunTrust {
    /// Whether nothing is missing.
    pub complete: Option<bool>,
    /// Whether a signal ended the run early.
    pub interrupted: Option<bool>,
    /// Whether the numbers reflect the server.
    pub verdict: Option<Verdict>,
}

impl RunTrust {
    /// The worse of two runs in each respect.
    #[must_use]
    pub fn worse(self, other: RunTrust) -> RunTrust {
        let either = |a: Option<bool>, b: Option<bool>, worse: fn(bool, bool) -> bool| match (a, b) {
            (Some(a), Some(b)) => Some(worse(a, b)),
            (a, b) => a.or(b),
        };
        RunTrust {
            complete: either(self.complete, other.complete, |a, b| a && b),
            interrupted: either(self.interrupted, other.interrupted, |a, b| a || b),
            verdict: self.verdict.max(other.verdict),
        }
    }
}

/// The lengths of all requests.
#[derive(Deserialize)]
struct RequestLengths(Option<Vec<Option<WholeCount>>>);

impl RequestLengths {
    /// The length that all requests share. Failed requests have an output of 0 and are ignored.
    fn common_length(&self) -> Option<u64> {
        let mut lens = self.0.iter().flatten().flatten().map(|count| count.0).filter(|n| *n > 0);
        let first = lens.next()?;
        lens.all(|n| n == first).then_some(first.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(json: &str) -> ResultRow {
        serde_json::from_str::<ResultRows>(json).unwrap().0.remove(0)
    }

    #[test]
    fn lengths_come_from_vb_then_metadata_then_the_name_then_lists() {
        let lists = r#""input_lens":[8,8],"output_lens":[4,0,4]"#;
        let lengths_of = |json: &str, name: &str| {
            let run = run(json).with_file(name);
            (run.input_len, run.output_len)
        };
        let name = "bench_io128x64_mc4_np20.json";
        let vb = format!(r#"{{"input_len":"6",{lists},"vb":{{"input_len":2,"output_len":3}}}}"#);
        assert_eq!(lengths_of(&vb, name), (Some(2), Some(3)));
        assert_eq!(lengths_of(&format!(r#"{{"input_len":"6",{lists}}}"#), name), (Some(6), Some(64)));
        assert_eq!(lengths_of(&format!("{{{lists}}}"), ""), (Some(8), Some(4)));
        assert_eq!(lengths_of(r#"{"input_lens":[1,2]}"#, "x.json"), (None, None));
        assert_eq!(lengths_in_name("audio_x.json"), None);
    }

    #[test]
    fn lists_and_objects_are_left_out() {
        let run = run(r#"{"a":1,"b":[1,{"c":2}],"d":{"e":[]},"f":null,"g":"x","h":1.5,"i":true,"j":-1}"#);
        assert_eq!(run.scalars.keys().collect::<Vec<_>>(), ["a", "f", "g", "h", "i", "j"]);
        assert!(!run.is_result());
    }
}

//! One result JSON, as much of it as goes into a row.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

use crate::record::Object;

/// One run: the scalars of its result and the lengths it was made with.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Run {
    /// The keys with a single value, in their order.
    pub scalars: Object,
    /// Prompt tokens of each request; `None`: not known, or not one number.
    pub input_len: Option<u64>,
    /// Generated tokens of each request, likewise.
    pub output_len: Option<u64>,
    /// The file it came from; empty for standard input.
    pub filename: String,
    /// The lengths by the lists of a detailed result. They count least: the file's name is asked before them.
    pub(super) lists: [Option<u64>; 2],
}

impl Run {
    /// Whether it is the result of a run, and not some other JSON.
    #[must_use]
    pub fn is_result(&self) -> bool {
        self.scalars.contains_key("duration") && self.scalars.contains_key("completed")
    }

    /// Whether it is a record of `vb-fire`, which is no result yet.
    #[must_use]
    pub fn is_record(&self) -> bool {
        self.scalars.contains_key("type") && !self.is_result()
    }

    /// A number; `inf` is one too, and what is missing comes last.
    #[must_use]
    pub fn number(&self, key: &str) -> f64 {
        self.scalars.get(key).and_then(Value::as_f64).unwrap_or(f64::INFINITY)
    }

    /// Names its file by its path, of which the last part may tell the lengths: `bench_io128x64_mc4_np20.json`.
    #[must_use]
    pub fn of_file(mut self, path: &str) -> Self {
        let named = lengths(file_name(path));
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

/// The numbers of `io128x64` in a file's name.
fn lengths(name: &str) -> Option<(u64, u64)> {
    name.match_indices("io").find_map(|(at, _)| {
        let (input, rest) = digits(&name[at + 2..])?;
        let (output, _) = digits(rest.strip_prefix('x')?)?;
        Some((input, output))
    })
}

/// The number that `text` begins with, and what follows.
fn digits(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, &text[end..]))
}

/// One result, or a list of them as in the `summary.json` of `vllm bench sweep`.
pub struct Runs(pub Vec<Run>);

impl<'de> Deserialize<'de> for Runs {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct RunsVisitor;
        impl<'de> Visitor<'de> for RunsVisitor {
            type Value = Runs;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a result, or a list of results")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Runs, A::Error> {
                Ok(Runs(vec![RunVisitor.visit_map(map)?]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Runs, A::Error> {
                let mut runs = Vec::new();
                while let Some(Runs(more)) = list.next_element()? {
                    runs.extend(more);
                }
                Ok(Runs(runs))
            }
        }
        from.deserialize_any(RunsVisitor)
    }
}

struct RunVisitor;

impl<'de> Visitor<'de> for RunVisitor {
    type Value = Run;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a result")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Run, A::Error> {
        let mut run = Run::default();
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "vb" => {
                    let vb: Vb = map.next_value()?;
                    run.input_len = vb.input_len;
                    run.output_len = vb.output_len;
                }
                "input_lens" => run.lists[0] = map.next_value::<Lens>()?.common(),
                "output_lens" => run.lists[1] = map.next_value::<Lens>()?.common(),
                _ => {
                    if let Scalar(Some(value)) = map.next_value()? {
                        run.scalars.insert(key, value);
                    }
                }
            }
        }
        run.input_len = run.input_len.or_else(|| told_length(&run.scalars, "input_len"));
        run.output_len = run.output_len.or_else(|| told_length(&run.scalars, "output_len"));
        Ok(run)
    }
}

/// Metadata may have told the lengths: `vllm bench serve --metadata input_len=128`.
fn told_length(scalars: &Object, key: &str) -> Option<u64> {
    let value = scalars.get(key)?;
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Vb {
    input_len: Option<u64>,
    output_len: Option<u64>,
}

/// The lengths of all requests.
#[derive(Deserialize)]
struct Lens(Vec<u64>);

impl Lens {
    /// The length that all have; a failed request has an output of 0 and does not count.
    fn common(&self) -> Option<u64> {
        let mut lens = self.0.iter().filter(|n| **n > 0);
        let first = *lens.next()?;
        lens.all(|n| *n == first).then_some(first)
    }
}

/// A value; `None` for a list or an object, which are passed over.
struct Scalar(Option<Value>);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct ScalarVisitor;
        impl<'de> Visitor<'de> for ScalarVisitor {
            type Value = Scalar;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_unit<E>(self) -> Result<Scalar, E> {
                Ok(Scalar(Some(Value::Null)))
            }
            fn visit_bool<E>(self, value: bool) -> Result<Scalar, E> {
                Ok(Scalar(Some(value.into())))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
                Ok(Scalar(Some(value.into())))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
                Ok(Scalar(Some(value.into())))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Scalar, E> {
                Ok(Scalar(Some(value.into())))
            }
            fn visit_str<E>(self, value: &str) -> Result<Scalar, E> {
                Ok(Scalar(Some(value.into())))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Scalar, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Scalar(None))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Scalar(None))
            }
        }
        from.deserialize_any(ScalarVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(json: &str) -> Run {
        serde_json::from_str::<Runs>(json).unwrap().0.remove(0)
    }

    #[test]
    fn lengths_come_from_vb_then_metadata_then_the_name_then_lists() {
        let lists = r#""input_lens":[8,8],"output_lens":[4,0,4]"#;
        let lengths_of = |json: &str, name: &str| {
            let run = run(json).of_file(name);
            (run.input_len, run.output_len)
        };
        let name = "bench_io128x64_mc4_np20.json";
        let vb = format!(r#"{{"input_len":"6",{lists},"vb":{{"input_len":2,"output_len":3}}}}"#);
        assert_eq!(lengths_of(&vb, name), (Some(2), Some(3)));
        assert_eq!(lengths_of(&format!(r#"{{"input_len":"6",{lists}}}"#), name), (Some(6), Some(64)));
        assert_eq!(lengths_of(&format!("{{{lists}}}"), ""), (Some(8), Some(4)));
        assert_eq!(lengths_of(r#"{"input_lens":[1,2]}"#, "x.json"), (None, None));
        assert_eq!(lengths("audio_x.json"), None);
    }

    #[test]
    fn lists_and_objects_are_left_out() {
        let run = run(r#"{"a":1,"b":[1,{"c":2}],"d":{"e":[]},"f":null,"g":"x","h":1.5,"i":true,"j":-1}"#);
        assert_eq!(run.scalars.keys().collect::<Vec<_>>(), ["a", "f", "g", "h", "i", "j"]);
        assert!(!run.is_result());
    }
}

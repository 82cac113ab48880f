//! Groups of requests: by a tag, by their turn, by their length, by the time at which they were sent.

use std::{collections::HashMap, fmt};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Options,
    part::{Numbers, Part},
    recording::{Recording, Request},
};
use crate::{record::Object, units::Nanos};

/// Groups that are told apart, so that a tag which is another one for each request cannot fill the memory.
const MOST: usize = 1000;

/// The group of those that have no such tag or turn, and of those beyond [`MOST`].
const NONE: &str = "(none)";
const OTHERS: &str = "(others)";

/// What requests are grouped by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// The value of a tag.
    Tag(String),
    /// The turn of a conversation.
    Turn,
    /// The prompt length, in buckets from each power of two to the next.
    InputLen,
    /// The generated tokens likewise; of a failure what was asked for.
    OutputLen,
}

impl By {
    /// Reads `turn`, `input_len`, `output_len` or `tag:NAME`.
    pub fn parse(text: &str) -> Result<By, String> {
        match text.trim() {
            "turn" => Ok(By::Turn),
            "input_len" => Ok(By::InputLen),
            "output_len" => Ok(By::OutputLen),
            text => match text.split_once(':') {
                Some(("tag", name)) if !name.is_empty() => Ok(By::Tag(name.to_owned())),
                _ => Err(format!("`{text}` is nothing to group by: write tag:NAME, turn, input_len or output_len")),
            },
        }
    }

    /// Its text of a request whose line says this; `None`: it is not in the line, or not text.
    fn label(&self, tags: &Object, turn: Option<u32>) -> Option<String> {
        match self {
            By::Tag(name) => Some(tags.get(name).map_or_else(|| NONE.to_owned(), as_text)),
            By::Turn => Some(turn.map_or_else(|| NONE.to_owned(), |turn| turn.to_string())),
            By::InputLen | By::OutputLen => None,
        }
    }
}

impl fmt::Display for By {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            By::Tag(name) => write!(f, "tag:{name}"),
            By::Turn => f.write_str("turn"),
            By::InputLen => f.write_str("input_len"),
            By::OutputLen => f.write_str("output_len"),
        }
    }
}

fn as_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The labels of all requests, for what their rows do not have.
#[derive(Debug, Default)]
pub struct Labels {
    by: Vec<By>,
    names: Vec<String>,
    places: HashMap<String, u32>,
    /// For each request one of each `by` in turn: where its name is.
    of: Vec<u32>,
}

impl Labels {
    /// For these, as far as they need labels.
    #[must_use]
    pub fn new(by: &[By]) -> Self {
        let by = by.iter().filter(|by| matches!(by, By::Tag(_) | By::Turn)).cloned().collect();
        Labels { by, ..Labels::default() }
    }

    /// Whether there is anything to note.
    #[must_use]
    pub fn wanted(&self) -> bool {
        !self.by.is_empty()
    }

    /// Notes the labels of the next request.
    pub fn push(&mut self, tags: &Object, turn: Option<u32>) {
        for i in 0..self.by.len() {
            let label = self.by[i].label(tags, turn).unwrap_or_default();
            let label = if self.names.len() < MOST || self.places.contains_key(&label) { label } else { OTHERS.into() };
            let next = u32::try_from(self.names.len()).unwrap_or(u32::MAX);
            let place = *self.places.entry(label.clone()).or_insert(next);
            if place == next {
                self.names.push(label);
            }
            self.of.push(place);
        }
    }

    /// Gives all labels away, and is ready for the next request.
    pub fn give(&mut self) -> Self {
        let by = self.by.clone();
        std::mem::replace(self, Labels { by, ..Labels::default() })
    }

    /// The labels of the request at a place.
    fn of_request(&self, by: &By, request: usize) -> Option<&str> {
        let at = self.by.iter().position(|known| known == by)?;
        let place = self.of.get(request * self.by.len() + at)?;
        self.names.get(*place as usize).map(String::as_str)
    }
}

/// A group and its numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Group {
    /// What the requests were grouped by, as in `--by`.
    pub by: String,
    /// What they have in common.
    pub key: String,
    /// What is told of them.
    #[serde(flatten)]
    pub numbers: Numbers,
}

/// A slice of the time in which requests were sent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Slice {
    /// Its beginning, in seconds from the start of the run.
    pub from_s: f64,
    /// Its end.
    pub to_s: f64,
    /// What is told of the requests that were sent in it.
    #[serde(flatten)]
    pub numbers: Numbers,
}

/// The groups of all that was asked for, each in the order of its keys' appearance, lengths in their order.
#[must_use]
pub fn groups(recording: &Recording, options: &Options) -> Vec<Group> {
    let mut groups = Vec::new();
    for by in &options.by {
        let mut keys: Vec<(u32, String)> = Vec::new();
        let mut members: HashMap<String, Vec<&Request>> = HashMap::new();
        for (i, request) in recording.requests.iter().enumerate() {
            let (rank, key) = key(recording, by, i, request);
            if !members.contains_key(&key) {
                keys.push((rank, key.clone()));
            }
            members.entry(key).or_default().push(request);
        }
        keys.sort_by_key(|(rank, _)| *rank);
        groups.extend(keys.into_iter().map(|(_, key)| {
            let part = Part::of(recording, members.remove(&key).unwrap_or_default());
            Group { by: by.to_string(), key, numbers: Numbers::of(&part, &options.wanted, &options.slos) }
        }));
    }
    groups
}

/// The group of a request, and its rank among the groups where they have one.
fn key(recording: &Recording, by: &By, place: usize, request: &Request) -> (u32, String) {
    let bucket = |n: u32| match n.checked_ilog2() {
        None => (0, "0".to_owned()),
        Some(0) => (1, "1".to_owned()),
        Some(power) => (power + 1, format!("{}-{}", 1_u64 << power, (2_u64 << power) - 1)),
    };
    match by {
        By::InputLen => bucket(request.prompt_len),
        By::OutputLen if request.success => bucket(request.output_tokens),
        By::OutputLen => bucket(request.expected_output_len.unwrap_or(request.output_tokens)),
        By::Tag(_) => (0, recording.labels.of_request(by, place).unwrap_or(NONE).to_owned()),
        By::Turn => {
            let turn = recording.labels.of_request(by, place).unwrap_or(NONE);
            (turn.parse().unwrap_or(u32::MAX), turn.to_owned())
        }
    }
}

/// Slices of this length, from the start of the run (`origin`) on; empty ones are left out.
#[must_use]
pub fn slices(recording: &Recording, options: &Options, origin: f64) -> Vec<Slice> {
    let Some(length) = options.slice.map(Nanos::as_secs_f64).filter(|length| *length > 0.0) else { return vec![] };
    let mut members: std::collections::BTreeMap<u64, Vec<&Request>> = std::collections::BTreeMap::new();
    for request in &recording.requests {
        let Some(start) = request.start else { continue };
        let at = super::numpy::whole((start - origin) / length) as u64;
        members.entry(at).or_default().push(request);
    }
    let slice = |(at, offered): (u64, Vec<&Request>)| Slice {
        from_s: at as f64 * length,
        to_s: (at + 1) as f64 * length,
        numbers: Numbers::of(&Part::of(recording, offered), &options.wanted, &options.slos),
    };
    members.into_iter().map(slice).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_names() {
        for text in ["tag:tenant", "turn", "input_len", "output_len"] {
            assert_eq!(By::parse(text).unwrap().to_string(), text);
        }
        for text in ["tenant", "tag:", "tags:a", ""] {
            assert!(By::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lengths_are_in_buckets_of_powers_of_two() {
        let requests = [0, 1, 2, 3, 4, 1000, 1024].map(|prompt_len| Request { prompt_len, ..Request::default() });
        let recording = Recording { requests: requests.to_vec(), ..Recording::default() };
        let options = Options { by: vec![By::InputLen], ..Options::default() };
        let told: Vec<(String, u64)> =
            groups(&recording, &options).into_iter().map(|g| (g.key, g.numbers.offered)).collect();
        let want = [("0", 1), ("1", 1), ("2-3", 2), ("4-7", 1), ("512-1023", 1), ("1024-2047", 1)];
        assert_eq!(told, want.map(|(key, n)| (key.to_owned(), n)));
    }

    #[test]
    fn a_tag_of_its_own_for_each_request_does_not_fill_the_memory() {
        let mut labels = Labels::new(&[By::Tag("id".into()), By::InputLen]);
        for id in 0..2 * MOST {
            labels.push(&Object::from_iter([("id".to_owned(), id.into())]), None);
        }
        labels.push(&Object::new(), None);
        assert_eq!(labels.names.len(), MOST + 1);
        assert_eq!(labels.of_request(&By::Tag("id".into()), 7), Some("7"));
        assert_eq!(labels.of_request(&By::Tag("id".into()), 2 * MOST - 1), Some(OTHERS));
        assert_eq!(labels.of_request(&By::InputLen, 7), None);
    }
}

//! Groups of requests: by tag, by turn, by length, or by the time at which they were sent.

use std::collections::HashMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Options,
    part::{Numbers, RunPart},
    pooling::{Pooled, Pooling},
};
use crate::{
    recording::{
        RecordedRequest, Recording,
        labels::{GroupBy, NONE},
    },
    statistics::numpy,
    units::Nanos,
};

/// A group and its metrics.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Group {
    /// The property that the requests were grouped by, as in `--by`.
    pub by: String,
    /// Its value in this group.
    pub key: String,
    /// The metrics of these requests.
    #[serde(flatten)]
    pub numbers: Numbers,
}

/// A slice of the time in which requests were sent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Slice {
    /// Its start, in seconds from the start of the run.
    pub from_s: f64,
    /// Its end.
    pub to_s: f64,
    /// The metrics of the requests that were sent in it.
    #[serde(flatten)]
    pub numbers: Numbers,
}

/// The groups for each property: in the order of their first appearance, lengths in ascending order.
#[must_use]
pub fn group_requests(recording: &Recording, options: &Options) -> Vec<Group> {
    let mut groups = Vec::new();
    for by in &options.by {
        let mut keys: Vec<(u32, String)> = Vec::new();
        let mut members: HashMap<String, Vec<&RecordedRequest>> = HashMap::new();
        for (i, request) in recording.requests.iter().enumerate() {
            let (rank, key) = group_key(recording, by, i, request);
            if !members.contains_key(&key) {
                keys.push((rank, key.clone()));
            }
            members.entry(key).or_default().push(request);
        }
        keys.sort_by_key(|(rank, _)| *rank);
        groups.extend(keys.into_iter().map(|(_, key)| {
            let part = RunPart::from_requests(recording, members.remove(&key).unwrap_or_default());
            Group { by: by.to_string(), key, numbers: Numbers::measure(&part, &options.wanted, &options.slos) }
        }));
    }
    groups
}

/// The group of a request, and its rank if the groups have an order.
fn group_key(recording: &Recording, by: &GroupBy, place: usize, request: &RecordedRequest) -> (u32, String) {
    let bucket = |n: u32| match n.checked_ilog2() {
        None => (0, "0".to_owned()),
        Some(0) => (1, "1".to_owned()),
        Some(power) => (power + 1, format!("{}-{}", 1_u64 << power, (2_u64 << power) - 1)),
    };
    match by {
        GroupBy::InputLen => bucket(request.prompt_len),
        GroupBy::OutputLen if request.success => bucket(request.output_tokens),
        GroupBy::OutputLen => bucket(request.expected_output_len.unwrap_or(request.output_tokens)),
        GroupBy::Tag(_) => (0, recording.labels.request_label(by, place).unwrap_or(NONE).to_owned()),
        GroupBy::Turn => {
            let turn = recording.labels.request_label(by, place).unwrap_or(NONE);
            (turn.parse().unwrap_or(u32::MAX), turn.to_owned())
        }
    }
}

/// Slices of the requested length from the start of the run (`origin`); empty ones are omitted.
#[must_use]
pub fn slice_requests(recording: &Recording, options: &Options, origin: f64) -> Vec<Slice> {
    let Some(length) = options.slice.map(Nanos::as_secs_f64).filter(|length| *length > 0.0) else { return vec![] };
    let mut members: std::collections::BTreeMap<u64, Vec<&RecordedRequest>> = std::collections::BTreeMap::new();
    for request in &recording.requests {
        let Some(start) = request.start else { continue };
        let at = numpy::truncate_to_usize((start - origin) / length) as u64;
        members.entry(at).or_default().push(request);
    }
    let slice = |(at, offered): (u64, Vec<&RecordedRequest>)| Slice {
        from_s: at as f64 * length,
        to_s: (at + 1) as f64 * length,
        numbers: Numbers::measure(&RunPart::from_requests(recording, offered), &options.wanted, &options.slos),
    };
    members.into_iter().map(slice).collect()
}

/// Groups with the same key are pooled; they keep the order of their first appearance.
impl Pooled for Vec<Group> {
    fn pool(all: &Pooling<Self>) -> Option<Self> {
        let mut found: Vec<Vec<&Group>> = Vec::new();
        for group in all.all.iter().copied().flatten() {
            match found.iter_mut().find(|same| same[0].by == group.by && same[0].key == group.key) {
                Some(same) => same.push(group),
                None => found.push(vec![group]),
            }
        }
        let pool_group = |same: Vec<&Group>| {
            let (by, key) = (same[0].by.clone(), same[0].key.clone());
            let same = Pooling { all: same, options: all.options };
            Some(Group { by, key, numbers: same.pool_field(|group| &group.numbers)? })
        };
        found.into_iter().map(pool_group).collect()
    }
}

/// Slices with the same beginning are pooled. Parts and hosts of one run share their beginnings; runs one after the other have
/// no slice in common.
impl Pooled for Vec<Slice> {
    fn pool(all: &Pooling<Self>) -> Option<Self> {
        let mut found: Vec<Vec<&Slice>> = Vec::new();
        for slice in all.all.iter().copied().flatten() {
            match found.iter_mut().find(|same| same[0].from_s.total_cmp(&slice.from_s).is_eq()) {
                Some(same) => same.push(slice),
                None => found.push(vec![slice]),
            }
        }
        found.sort_by(|a, b| a[0].from_s.total_cmp(&b[0].from_s));
        let pool_slice = |same: Vec<&Slice>| {
            let (from_s, to_s) = (same[0].from_s, same[0].to_s);
            let same = Pooling { all: same, options: all.options };
            Some(Slice { from_s, to_s, numbers: same.pool_field(|slice| &slice.numbers)? })
        };
        found.into_iter().map(pool_slice).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_in_buckets_of_powers_of_two() {
        let requests =
            [0, 1, 2, 3, 4, 1000, 1024].map(|prompt_len| RecordedRequest { prompt_len, ..RecordedRequest::default() });
        let recording = Recording { requests: requests.to_vec(), ..Recording::default() };
        let options = Options { by: vec![GroupBy::InputLen], ..Options::default() };
        let counts: Vec<(String, u64)> =
            group_requests(&recording, &options).into_iter().map(|g| (g.key, g.numbers.offered)).collect();
        let want = [("0", 1), ("1", 1), ("2-3", 2), ("4-7", 1), ("512-1023", 1), ("1024-2047", 1)];
        assert_eq!(counts, want.map(|(key, n)| (key.to_owned(), n)));
    }
}

//! Stalls: times in which no stream received anything, although several were open.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{recording::Recording, statistics::numpy};

/// The shortest stall, in seconds and in median gaps.
const MIN_SECONDS: f64 = 0.5;
const MIN_GAPS: f64 = 20.0;

/// The fewest streams that are open during a stall, and the share of them that it holds up. (A stream may just have ended its pause.)
const MIN_STREAMS: usize = 3;
const MIN_SHARE: f64 = 0.9;

/// The most stalls in a result.
const MAX_LISTED: usize = 5;

/// The gaps that are compared without looking at the result.
const COMPARED_AT_ONCE: usize = 256;

/// The gaps from which the usual one is computed.
const MAX_SAMPLED_GAPS: usize = 10_000;

/// Times in which no stream received anything.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Stalls {
    /// Their number.
    pub count: u64,
    /// Their length together, in seconds.
    pub seconds: f64,
    /// The longest ones.
    pub longest: Vec<Stall>,
}

/// A time in which no stream received anything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Stall {
    /// When the last stream fell silent, in seconds from the start of the run.
    pub at_s: f64,
    /// How long it lasted, until the first stream went on.
    pub seconds: f64,
    /// The streams that waited.
    pub streams: u64,
}

/// A time in which one stream received nothing.
#[derive(Debug, Clone, Copy)]
struct Silence {
    from: f64,
    to: f64,
}

/// Finds the stalls of all successes of a run that starts at `origin`.
#[must_use]
pub fn find_stalls(recording: &Recording, origin: f64) -> Stalls {
    let shortest = (MIN_GAPS * usual_gap(&recording.gaps)).max(MIN_SECONDS);
    // Most runs have no such gap at all. Many gaps at once are compared by one instruction, if no comparison ends the search.
    let has_long_gap = |gaps: &[f64]| gaps.iter().map(|gap| usize::from(*gap >= shortest)).sum::<usize>() > 0;
    if !recording.gaps.chunks(COMPARED_AT_ONCE).any(has_long_gap) {
        return Stalls::default();
    }
    let mut silences = Vec::new();
    let (mut firsts, mut lasts) = (Vec::new(), Vec::new());
    for request in recording.successes() {
        let (Some(start), Some(ttft)) = (request.start, request.ttft) else { continue };
        let mut time = start + ttft;
        firsts.push(time);
        for gap in recording.gaps_of(request) {
            if *gap >= shortest {
                silences.push(Silence { from: time, to: time + gap });
            }
            time += gap;
        }
        lasts.push(time);
    }
    for times in [&mut firsts, &mut lasts] {
        times.sort_by(f64::total_cmp);
    }
    silences.sort_by(|a, b| a.from.total_cmp(&b.from));
    let open_at = |time: f64| {
        let before = |times: &[f64]| times.partition_point(|other| *other <= time);
        before(&firsts).saturating_sub(before(&lasts))
    };
    let mut stalls: Vec<Stall> = group_silences(&silences, shortest)
        .into_iter()
        .filter(|(common, streams)| {
            let open = open_at(f64::midpoint(common.from, common.to));
            open >= MIN_STREAMS && *streams as f64 >= MIN_SHARE * open as f64
        })
        .map(|(common, streams)| Stall {
            at_s: common.from - origin,
            seconds: common.to - common.from,
            streams: streams as u64,
        })
        .collect();
    stalls.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    let (count, seconds) = (stalls.len() as u64, stalls.iter().fold(0.0, |sum, stall| sum + stall.seconds));
    stalls.truncate(MAX_LISTED);
    Stalls { count, seconds, longest: stalls }
}

/// What the silences of several streams have in common, if it is long enough, and how many they are.
fn group_silences(sorted: &[Silence], shortest: f64) -> Vec<(Silence, usize)> {
    let mut groups: Vec<(Silence, usize)> = Vec::new();
    for silence in sorted {
        match groups.last_mut() {
            Some((common, streams)) if common.to.min(silence.to) - silence.from >= shortest => {
                *common = Silence { from: silence.from, to: common.to.min(silence.to) };
                *streams += 1;
            }
            _ => groups.push((*silence, 1)),
        }
    }
    groups
}

/// The median of a sample of the gaps.
fn usual_gap(gaps: &[f64]) -> f64 {
    let step = gaps.len().div_ceil(MAX_SAMPLED_GAPS).max(1);
    numpy::percentile_of_unsorted(gaps.iter().copied().step_by(step).collect(), 50.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::RecordedRequest;

    /// Streams of 100 chunks, one each 50 ms; `gap` gives the time from one chunk to the next.
    fn streams(gap: impl Fn(usize, f64) -> f64) -> Recording {
        let mut recording = Recording::default();
        for i in 0..200_usize {
            let start = 100.0 + i as f64 * 0.05;
            let from = recording.gaps.len();
            let mut time = start + 0.1;
            if gap(i, time) > 0.01 {
                time += gap(i, time);
            }
            let ttft = time - start;
            for _ in 0..99 {
                let next = gap(i, time);
                recording.gaps.push(next);
                time += next;
            }
            recording.requests.push(RecordedRequest {
                success: true,
                start: Some(start),
                ttft: Some(ttft),
                latency: Some(time - start),
                gaps: from..recording.gaps.len(),
                ..RecordedRequest::default()
            });
        }
        recording
    }

    #[test]
    fn a_stall_of_all_streams_is_found_and_a_slow_stream_is_not() {
        let held = |_: usize, time: f64| if (103.99..106.99).contains(&time) { 107.0 - time } else { 0.01 };
        let found = find_stalls(&streams(held), 100.0);
        assert_eq!(found.count, 1, "{found:?}");
        let stall = found.longest[0];
        assert!((stall.at_s - 4.0).abs() < 0.011 && (stall.seconds - 3.0).abs() < 0.011, "{stall:?}");
        assert!((18..=21).contains(&stall.streams), "20 requests per second, each a second long: {stall:?}");
        assert_eq!(find_stalls(&streams(|_, _| 0.01), 100.0), Stalls::default());
        let one = |i: usize, time: f64| if i == 80 && time < 104.2 { 2.0 } else { 0.01 };
        assert_eq!(find_stalls(&streams(one), 100.0).count, 0);
        assert_eq!(find_stalls(&Recording::default(), 0.0), Stalls::default());
    }
}

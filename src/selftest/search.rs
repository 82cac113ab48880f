//! Searches the rate of chunks at which the verdict changes: doubles the rate until it does, then bisects.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{error::Error, record::Verdict, units::Nanos};

/// How often the rate is doubled or halved to find a rate on each side.
const MAX_STRIDES: usize = 8;
/// How often the gap between both sides is halved.
const MAX_BISECTIONS: usize = 2;

/// The highest rate of chunks that the client handles on this machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Search")]
pub struct RateSearch {
    /// The highest rate of chunks per second with the verdict `clean`; `null`: no tried rate was clean.
    pub clean_up_to: Option<f64>,
    /// The lowest rate at which the verdict was not `clean` or the server did not keep its step; `null`: no tried rate.
    pub turns_at: Option<SearchRun>,
    /// What ended the search.
    pub limit: SearchLimit,
    /// All runs; the first is the main measurement.
    pub runs: Vec<SearchRun>,
}

/// One run of a search.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "Point")]
pub struct SearchRun {
    /// Streams that were open at once.
    pub streams: u32,
    /// The time between two tokens of a stream.
    pub step: Nanos,
    /// Chunks per second that arrived.
    pub chunks_per_s: f64,
    /// The verdict; `null`: not reported by `vb-fire`.
    pub verdict: Option<Verdict>,
    /// Whether the simulated server kept its step.
    pub server_kept: bool,
    /// Why the verdict is not `clean`.
    pub reasons: Vec<String>,
}

/// What ended a search.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Limit")]
pub enum SearchLimit {
    /// The verdict changed.
    Verdict,
    /// The simulated server, on the same machine, reached its limit.
    Server,
    /// The time ended before the rate was found.
    #[default]
    Time,
}

impl SearchRun {
    fn is_clean(&self) -> bool {
        self.verdict == Some(Verdict::Clean)
    }

    fn client_kept_up(&self) -> bool {
        self.is_clean() && self.server_kept
    }
}

/// Searches from `base`, which was planned at `rate` chunks per second. `probe` makes a run at another rate, or returns
/// `None` if the time is up.
pub fn search_turning_point(
    base: SearchRun,
    rate: f64,
    mut probe: impl FnMut(f64) -> Result<Option<SearchRun>, Error>,
) -> Result<RateSearch, Error> {
    let mut runs = vec![(rate, base)];
    let mut between = 0;
    for _ in 0..MAX_STRIDES + MAX_BISECTIONS {
        let next = match find_both_sides(&runs) {
            (Some((held, _)), None) => held * 2.0,
            (None, Some((turned, _))) => turned / 2.0,
            (Some((held, _)), Some((turned, point))) if !point.is_clean() && between < MAX_BISECTIONS => {
                between += 1;
                f64::midpoint(*held, *turned)
            }
            _ => break,
        };
        let Some(point) = probe(next)? else { break };
        runs.push((next, point));
    }
    let (held, turned) = find_both_sides(&runs);
    let limit = match turned {
        Some((_, point)) if !point.is_clean() => SearchLimit::Verdict,
        Some(_) => SearchLimit::Server,
        None => SearchLimit::Time,
    };
    Ok(RateSearch {
        clean_up_to: held.map(|(_, point)| point.chunks_per_s),
        turns_at: turned.map(|(_, point)| point.clone()),
        limit,
        runs: runs.into_iter().map(|(_, point)| point).collect(),
    })
}

type RatedRun = (f64, SearchRun);

/// The highest rate at which the client kept up, below the lowest rate at which it did not; and that lowest rate.
fn find_both_sides(runs: &[RatedRun]) -> (Option<&RatedRun>, Option<&RatedRun>) {
    let turned = runs.iter().filter(|(_, point)| !point.client_kept_up()).min_by(|a, b| a.0.total_cmp(&b.0));
    let below = |rate: f64| turned.is_none_or(|(turned, _)| rate < *turned);
    let held =
        runs.iter().filter(|(rate, point)| point.client_kept_up() && below(*rate)).max_by(|a, b| a.0.total_cmp(&b.0));
    (held, turned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine whose verdict changes at one rate and whose server reaches its limit at another.
    fn point(rate: f64, turns: f64, server: f64) -> SearchRun {
        let verdict = if rate < turns { Verdict::Clean } else { Verdict::ClientBound };
        SearchRun { chunks_per_s: rate, verdict: Some(verdict), server_kept: rate < server, ..SearchRun::default() }
    }

    fn found(turns: f64, server: f64, most_runs: usize) -> RateSearch {
        let mut left = most_runs;
        let probe = |rate: f64| {
            Ok(left.checked_sub(1).map(|fewer| {
                left = fewer;
                point(rate, turns, server)
            }))
        };
        search_turning_point(point(1000.0, turns, server), 1000.0, probe).unwrap()
    }

    fn rates(search: &RateSearch) -> Vec<u32> {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        search.runs.iter().map(|run| run.chunks_per_s as u32).collect()
    }

    #[test]
    fn the_rate_is_doubled_and_then_the_gap_halved() {
        let search = found(7000.0, f64::MAX, 100);
        assert_eq!(rates(&search), [1000, 2000, 4000, 8000, 6000, 7000]);
        assert_eq!((search.clean_up_to, search.limit), (Some(6000.0), SearchLimit::Verdict));
        assert_eq!(search.turns_at.map(|point| point.chunks_per_s), Some(7000.0));
    }

    #[test]
    fn a_client_that_is_bound_at_the_start_gets_lower_rates() {
        let search = found(300.0, f64::MAX, 100);
        assert_eq!(rates(&search), [1000, 500, 250, 375, 312]);
        assert_eq!(search.clean_up_to, Some(250.0));
        let never = found(0.0, f64::MAX, 100);
        assert_eq!((never.clean_up_to, never.limit), (None, SearchLimit::Verdict));
        assert_eq!(never.runs.len(), 1 + MAX_STRIDES + MAX_BISECTIONS);
    }

    #[test]
    fn the_search_ends_at_the_limit_of_the_server() {
        let search = found(f64::MAX, 3000.0, 100);
        assert_eq!(rates(&search), [1000, 2000, 4000]);
        assert_eq!((search.clean_up_to, search.limit), (Some(2000.0), SearchLimit::Server));
    }

    #[test]
    fn a_search_without_time_reports_it() {
        let search = found(f64::MAX, f64::MAX, 2);
        assert_eq!(rates(&search), [1000, 2000, 4000]);
        assert_eq!(
            (search.clean_up_to, search.turns_at.is_some(), search.limit),
            (Some(4000.0), false, SearchLimit::Time)
        );
    }

    #[test]
    fn a_bad_run_counts_in_spite_of_a_good_one_above_it() {
        let runs = [(1.0, point(1.0, 9.0, 9.0)), (2.0, point(9.0, 9.0, 9.0)), (4.0, point(4.0, 9.0, 9.0))];
        let (held, turned) = find_both_sides(&runs);
        assert_eq!((held.unwrap().0, turned.unwrap().0), (1.0, 2.0));
    }
}

//! The rate of chunks at which the verdict turns: doubled until it does, then halved in between.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{error::Error, record::Verdict, units::Nanos};

/// How often the rate is doubled or halved in search of the two sides, and the gap between them halved.
const STRIDES: usize = 8;
const BISECTIONS: usize = 2;

/// How far the client goes on this machine.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Search {
    /// The highest rate of chunks per second at which the verdict was `clean`; `null`: at none that was tried.
    pub clean_up_to: Option<f64>,
    /// The lowest rate at which it was not, or at which the server did not keep its step; `null`: at none that was tried.
    pub turns_at: Option<Point>,
    /// What ended the search.
    pub limit: Limit,
    /// All runs, the first being the main measurement.
    pub runs: Vec<Point>,
}

/// One run of a search.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Point {
    /// Streams that were open at once.
    pub streams: u32,
    /// The time between two tokens of a stream.
    pub step: Nanos,
    /// Chunks per second that arrived.
    pub chunks_per_s: f64,
    /// The verdict; `null`: `vb-fire` does not tell.
    pub verdict: Option<Verdict>,
    /// Whether the simulated server kept its step.
    pub server_kept: bool,
    /// Why the verdict is not `clean`.
    pub reasons: Vec<String>,
}

/// What ended a search.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// The verdict turned.
    Verdict,
    /// The simulated server, on the same machine, sends no more.
    Server,
    /// There was no time to find where it turns.
    #[default]
    Time,
}

impl Point {
    fn clean(&self) -> bool {
        self.verdict == Some(Verdict::Clean)
    }

    fn holds(&self) -> bool {
        self.clean() && self.server_kept
    }
}

/// Searches from `base`, whose rate of chunks was to be `rate`. `probe` makes a run at another; `None`: no time for it.
pub fn search(
    base: Point,
    rate: f64,
    mut probe: impl FnMut(f64) -> Result<Option<Point>, Error>,
) -> Result<Search, Error> {
    let mut runs = vec![(rate, base)];
    let mut between = 0;
    for _ in 0..STRIDES + BISECTIONS {
        let next = match sides(&runs) {
            (Some((held, _)), None) => held * 2.0,
            (None, Some((turned, _))) => turned / 2.0,
            (Some((held, _)), Some((turned, point))) if !point.clean() && between < BISECTIONS => {
                between += 1;
                f64::midpoint(*held, *turned)
            }
            _ => break,
        };
        let Some(point) = probe(next)? else { break };
        runs.push((next, point));
    }
    let (held, turned) = sides(&runs);
    let limit = match turned {
        Some((_, point)) if !point.clean() => Limit::Verdict,
        Some(_) => Limit::Server,
        None => Limit::Time,
    };
    Ok(Search {
        clean_up_to: held.map(|(_, point)| point.chunks_per_s),
        turns_at: turned.map(|(_, point)| point.clone()),
        limit,
        runs: runs.into_iter().map(|(_, point)| point).collect(),
    })
}

type Run = (f64, Point);

/// The lowest rate that did not hold, and the highest below it that did.
fn sides(runs: &[Run]) -> (Option<&Run>, Option<&Run>) {
    let turned = runs.iter().filter(|(_, point)| !point.holds()).min_by(|a, b| a.0.total_cmp(&b.0));
    let below = |rate: f64| turned.is_none_or(|(turned, _)| rate < *turned);
    let held = runs.iter().filter(|(rate, point)| point.holds() && below(*rate)).max_by(|a, b| a.0.total_cmp(&b.0));
    (held, turned)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine whose verdict turns at one rate and whose server gives up at another.
    fn point(rate: f64, turns: f64, server: f64) -> Point {
        let verdict = if rate < turns { Verdict::Clean } else { Verdict::ClientBound };
        Point { chunks_per_s: rate, verdict: Some(verdict), server_kept: rate < server, ..Point::default() }
    }

    fn found(turns: f64, server: f64, most_runs: usize) -> Search {
        let mut left = most_runs;
        let probe = |rate: f64| {
            Ok(left.checked_sub(1).map(|fewer| {
                left = fewer;
                point(rate, turns, server)
            }))
        };
        search(point(1000.0, turns, server), 1000.0, probe).unwrap()
    }

    fn rates(search: &Search) -> Vec<u32> {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        search.runs.iter().map(|run| run.chunks_per_s as u32).collect()
    }

    #[test]
    fn the_rate_is_doubled_and_then_the_gap_halved() {
        let search = found(7000.0, f64::MAX, 100);
        assert_eq!(rates(&search), [1000, 2000, 4000, 8000, 6000, 7000]);
        assert_eq!((search.clean_up_to, search.limit), (Some(6000.0), Limit::Verdict));
        assert_eq!(search.turns_at.map(|point| point.chunks_per_s), Some(7000.0));
    }

    #[test]
    fn a_client_that_is_bound_at_once_is_given_less() {
        let search = found(300.0, f64::MAX, 100);
        assert_eq!(rates(&search), [1000, 500, 250, 375, 312]);
        assert_eq!(search.clean_up_to, Some(250.0));
        let never = found(0.0, f64::MAX, 100);
        assert_eq!((never.clean_up_to, never.limit), (None, Limit::Verdict));
        assert_eq!(never.runs.len(), 1 + STRIDES + BISECTIONS);
    }

    #[test]
    fn where_the_server_gives_up_first_nothing_is_known_beyond() {
        let search = found(f64::MAX, 3000.0, 100);
        assert_eq!(rates(&search), [1000, 2000, 4000]);
        assert_eq!((search.clean_up_to, search.limit), (Some(2000.0), Limit::Server));
    }

    #[test]
    fn no_time_is_told_as_well() {
        let search = found(f64::MAX, f64::MAX, 2);
        assert_eq!(rates(&search), [1000, 2000, 4000]);
        assert_eq!((search.clean_up_to, search.turns_at.is_some(), search.limit), (Some(4000.0), false, Limit::Time));
    }

    #[test]
    fn one_bad_run_is_not_talked_away_by_a_good_one_above_it() {
        let runs = [(1.0, point(1.0, 9.0, 9.0)), (2.0, point(9.0, 9.0, 9.0)), (4.0, point(4.0, 9.0, 9.0))];
        let (held, turned) = sides(&runs);
        assert_eq!((held.unwrap().0, turned.unwrap().0), (1.0, 2.0));
    }
}

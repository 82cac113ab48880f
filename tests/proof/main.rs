//! What the manual promises about numbers and verdicts, counted in simulated runs.
//!
//! `cargo test` makes a few runs of each kind. `scripts/check-statistics.sh` makes as many as the tables of `docs/METRICS.md` have, in a
//! release build, and prints these tables.
#![allow(clippy::unwrap_used)] // These are tests, models included.

mod comparisons;
mod coverage;
mod engine;
mod equals;
mod models;
mod noise;
mod rates;
mod rules;
mod verdicts;

/// The number of runs of each kind: `VB_TRIALS`, or a few.
fn count_trials(few: u64) -> u64 {
    trials_asked().unwrap_or(few)
}

fn trials_asked() -> Option<u64> {
    std::env::var("VB_TRIALS").ok().map(|text| text.parse().unwrap())
}

/// The fewest of these trials that succeed if this share of all do, but for chance.
fn fewest_of(share: f64, trials: f64) -> f64 {
    share * trials - 3.0 * (trials * share * (1.0 - share)).sqrt()
}

/// A share in percent, for a table.
fn percent(part: f64, of: f64) -> String {
    if of > 0.0 { format!("{:.0}", 100.0 * part / of) } else { "-".to_owned() }
}

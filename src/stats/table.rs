//! The result as a table for people: short, in full, or as vLLM prints it.

mod full;
mod head;
mod line;
mod notes;
mod parts;
mod short;
mod vllm;

use std::io::{self, IsTerminal};

use super::result::RunResult;
use crate::{
    printout::{Look, Printout},
    record::Buffering,
    recording::metric::Metric,
    statistics::{Doubt, Summary},
};

/// The layout of the table: `--table`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TableLayout {
    /// `short` if standard error is a terminal, else `none`.
    Auto,
    /// About twenty lines: verdict, throughput, failures, latencies with intervals, notes.
    #[value(alias = "always")]
    Short,
    /// Everything that the result has for people.
    Full,
    /// One line, for logs.
    Line,
    /// The lines of `vllm bench serve`.
    Vllm,
    /// No table.
    #[value(alias = "never")]
    None,
}

impl TableLayout {
    /// The table in this layout; `None` if it is not wanted.
    #[must_use]
    pub fn print(self, result: &RunResult, look: Look) -> Option<Printout> {
        let mut out = Printout::new(look);
        match self {
            TableLayout::Auto if !io::stderr().is_terminal() => return None,
            TableLayout::None => return None,
            TableLayout::Auto | TableLayout::Short => short::print_short(&mut out, result),
            TableLayout::Full => full::print_full(&mut out, result),
            TableLayout::Line => line::print_line(&mut out, result),
            TableLayout::Vllm => vllm::print_like_vllm(&mut out, result),
        }
        Some(out)
    }
}

/// What a summary knows about one statistic.
enum Statistic {
    /// The value, with the ends of its interval that are known.
    Known { value: f64, ends: [Option<f64>; 2] },
    /// The value of a run that is too short for intervals.
    Rough(f64),
    /// A percentile of too few values: its lower bound, how many it needs, and how many it has.
    TooFew { at_least: Option<f64>, needs: u64, has: u64 },
}

impl Statistic {
    /// `mean` or a percentile of a summary; `None` without values.
    fn find(summary: &Summary, name: &str) -> Option<Self> {
        let ends = [0, 1].map(|which| summary.interval_end(name, which));
        if let Some(few) = summary.too_few.get(name) {
            let number = |key: &str| few[key].as_u64().unwrap_or_default();
            return Some(Statistic::TooFew { at_least: ends[0], needs: number("needs"), has: number("has") });
        }
        let value = if name == "mean" { summary.mean } else { summary.percentiles.get(name)?.as_f64() }?;
        if ends == [None, None] && summary.doubt == Some(Doubt::TooShort) {
            return Some(Statistic::Rough(value));
        }
        Some(Statistic::Known { value, ends })
    }
}

/// A number of a table for reading: four digits are enough, and never fewer than the whole ones.
fn format_number(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 1000.0 => 0,
        size if size >= 100.0 => 1,
        _ => 2,
    };
    format!("{value:.digits$}")
}

/// An interval of a table for reading; empty if neither end is known.
fn format_ends(ends: [Option<f64>; 2]) -> String {
    if ends == [None, None] {
        return String::new();
    }
    let [low, high] = ends.map(|end| end.map_or_else(|| "-".to_owned(), format_number));
    format!("[{low}, {high}]")
}

/// Whether a proxy decides over this metric: over everything before the end of a response.
fn is_hidden(result: &RunResult, metric: Metric) -> bool {
    let buffering = result.vb.client.as_ref().and_then(|client| client.buffering.as_ref());
    buffering.is_some_and(Buffering::hides_latencies) && matches!(metric, Metric::Ttft | Metric::Tpot | Metric::Itl)
}

//! `vb-agg`: results of many runs in, one CSV out.

mod columns;
mod input;
mod pool;
mod repeats;
mod run;
mod table;

use std::{
    cmp::Ordering,
    collections::HashSet,
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde_json::Value;

use self::{repeats::Shape, run::Run};
use crate::{cli, config::ConfigFlag, error::Error, ndjson};

const EXAMPLES: &str = "\
Examples:
  vb-agg results/Qwen3-8B_20261124_020748 > aggregate_results.csv
  vb-agg --header both --table always results/*/ > all.csv
  for c in 1 4 16; do vb-gen --num-prompts 100 | vb-fire --max-concurrency $c | vb-stats; done | vb-agg > sweep.csv
  for i in 1 2 3 4 5; do vb-gen --num-prompts 100 | vb-fire --max-concurrency 4 | vb-stats; done | vb-agg --repeats long
  vb-agg --pool host1.json host2.json | jq '{p99_ttft_ms, p99_itl_ms}'
  vb-agg vllm-bench-*.json | duckdb -c \"select max_concurrency, p99_ttft_ms from read_csv('/dev/stdin')\"";

/// Puts the results of many runs into one CSV: a row for each run, a column for each of vLLM's keys.
///
/// It reads what `vb-stats` and `vllm bench serve` (Python or Rust, any version) write. A file that cannot be read is
/// named and left out; the exit code is then 3.
#[derive(Debug, clap::Parser)]
#[command(name = "vb-agg", version, after_help = EXAMPLES)]
pub struct Args {
    /// Result files, and folders that hold them; none or `-`: a stream of results on standard input.
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// Put the runs of the same settings together: mean, 95 % interval and coefficient of variation of each number.
    #[arg(long, value_enum, value_name = "SHAPE")]
    repeats: Option<Shape>,

    /// Put all results together into one, with the percentiles of all their requests: hosts of one load, or repeats. They must
    /// have been made with `vb-stats --histograms`. The result is JSON, as that of `vb-stats`.
    #[arg(long, conflicts_with_all = ["repeats", "header"])]
    pool: bool,

    /// The names of the columns: English (vLLM's keys), Chinese, or both in two rows.
    #[arg(long, value_enum, default_value_t = Header::En)]
    header: Header,

    /// A table on standard error; auto: when that is a terminal.
    #[arg(long, value_enum, default_value_t = cli::When::Auto)]
    table: cli::When,

    #[command(flatten)]
    config: ConfigFlag,
}

/// The language of the names of columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Header {
    /// vLLM's keys.
    En,
    /// Chinese.
    Zh,
    /// A row of keys, then a row in Chinese.
    Both,
}

/// Runs the tool.
pub fn run(args: Args) -> Result<(), Error> {
    let Args { paths, repeats, pool, header, table, config: _ } = args;
    let paths = cli::input_paths("vb-agg", &paths);
    cli::ignore_first_interrupt()?;
    if pool {
        let mut out = cli::buffered_stdout();
        ndjson::write_record(&mut out, &pool::pool(&paths)?)?;
        return out.flush().map_err(Error::write_stdout);
    }
    let mut found = input::Found::default();
    found.read(&paths)?;
    let mut runs = found.runs;
    shorten(&mut runs);
    if paths.iter().any(|path| path != Path::new("-")) {
        runs.sort_by(order);
    }
    if runs.is_empty() {
        return Err(Error::Input("no result of any run in the input".into()));
    }
    let sheet = repeats.map_or_else(|| sheet(&runs), |shape| repeats::sheet(&runs, shape));
    write_csv(&sheet, header)?;
    if table.applies_to_stderr() {
        cli::print_to_stderr(&table::table(&runs));
    }
    match found.broken {
        0 => Ok(()),
        n => {
            Err(Error::Input(format!("left out what could not be read: {n} so named above; the rest is in the table")))
        }
    }
}

/// Keeps the last part of each path where that tells the files apart.
fn shorten(runs: &mut [Run]) {
    let paths: HashSet<&str> = runs.iter().map(|run| run.filename.as_str()).collect();
    let names: HashSet<&str> = paths.iter().map(|path| run::file_name(path)).collect();
    if names.len() == paths.len() {
        for run in runs {
            run.filename = run::file_name(&run.filename).to_owned();
        }
    }
}

/// A CSV: the names of its columns, each with the Chinese one, and the cells of its rows.
struct Sheet {
    names: Vec<(String, String)>,
    rows: Vec<Vec<String>>,
}

/// A row for each run.
fn sheet(runs: &[Run]) -> Sheet {
    let keys = columns::columns(runs);
    let names =
        keys.iter().map(String::as_str).chain(columns::LAST.map(|(name, _)| name)).map(columns::named).collect();
    Sheet { names, rows: runs.iter().map(|run| row(run, &keys).collect()).collect() }
}

fn write_csv(sheet: &Sheet, header: Header) -> Result<(), Error> {
    let failed = |e: csv::Error| match e.into_kind() {
        // As it is, so that a reader that left is seen as such.
        csv::ErrorKind::Io(e) => Error::write_stdout(e),
        other => Error::write_stdout(io::Error::other(format!("{other:?}"))),
    };
    let mut out = csv::Writer::from_writer(cli::buffered_stdout());
    if header != Header::Zh {
        out.write_record(sheet.names.iter().map(|(name, _)| name)).map_err(failed)?;
    }
    if header != Header::En {
        out.write_record(sheet.names.iter().map(|(_, chinese)| chinese)).map_err(failed)?;
    }
    for row in &sheet.rows {
        out.write_record(row).map_err(failed)?;
    }
    out.flush().map_err(Error::write_stdout)
}

fn row<'a>(run: &'a Run, keys: &'a [String]) -> impl Iterator<Item = String> + 'a {
    let [input_len, output_len] = lengths(run);
    let last = [input_len, output_len, run.filename.clone()];
    keys.iter().map(|key| cell(run.scalars.get(key))).chain(last)
}

/// The cells of input and output length; empty where they are not known.
fn lengths(run: &Run) -> [String; 2] {
    [run.input_len, run.output_len].map(|length| length.map_or_else(String::new, |n| n.to_string()))
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// By input length, output length, concurrency, rate and file, all as numbers; what is not known comes last.
fn order(a: &Run, b: &Run) -> Ordering {
    let length = |length: Option<u64>| length.unwrap_or(u64::MAX);
    let lengths = |run: &Run| (length(run.input_len), length(run.output_len));
    lengths(a)
        .cmp(&lengths(b))
        .then_with(|| a.number("max_concurrency").total_cmp(&b.number("max_concurrency")))
        .then_with(|| a.number("request_rate").total_cmp(&b.number("request_rate")))
        .then_with(|| natural(&a.filename, &b.filename))
}

/// `run2` before `run10`.
fn natural(a: &str, b: &str) -> Ordering {
    parts(a).cmp(parts(b)).then_with(|| a.cmp(b))
}

/// Text cut into numbers and single characters; a number comes before a character.
fn parts(text: &str) -> impl Iterator<Item = (u64, char)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number = rest[..digits].parse::<u64>();
        rest = &rest[if number.is_ok() { digits } else { first.len_utf8() }..];
        Some(number.map_or((u64::MAX, first), |number| (number, '\0')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_are_compared_as_numbers() {
        let mut names = ["run=10.json", "run=2.json", "run=02.json", "a", "run=99999999999999999999999.json"];
        names.sort_by(|a, b| natural(a, b));
        assert_eq!(names, ["a", "run=02.json", "run=2.json", "run=10.json", "run=99999999999999999999999.json"]);
    }
}

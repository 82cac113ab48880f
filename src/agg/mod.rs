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

use self::{
    repeats::RepeatsLayout,
    run::{ResultRow, RunTrust},
};
use crate::{
    cli::{self, look::LookFlags},
    config::ConfigFlag,
    error::Error,
    ndjson,
    printable::clean_line,
    printout::{Cell, Tone},
    record::{Object, Verdict},
};

const EXAMPLES: &str = "\
Examples:
  vb-agg results/Qwen3-8B_20261124_020748 > aggregate_results.csv
  vb-agg --header both --table always results/*/ > all.csv
  for c in 1 4 16; do
    vb-gen --num-prompts 100 | vb-fire --max-concurrency $c | vb-stats
  done | vb-agg > sweep.csv
  for i in 1 2 3 4 5; do
    vb-gen --num-prompts 100 | vb-fire --max-concurrency 4 | vb-stats
  done | vb-agg --repeats long
  vb-agg guidellm.json artifacts/*/profile_export_aiperf.json > peers.csv
  vb-agg --pool host1.json host2.json | jq '{p99_ttft_ms, p99_itl_ms}'
  vb-agg --format json results/*/ | jq '.[] | [.model_id, .p99_ttft_ms]'
  vb-agg vllm-bench-*.json \\
    | duckdb -c \"select p99_ttft_ms from read_csv('/dev/stdin')\"";

/// Combines the results of many runs into one CSV: a row for each run, a column for each of vLLM's keys.
///
/// Reads results of `vb-stats` and of `vllm bench serve` (Python or Rust, any version), and the summaries of aiperf, guidellm,
/// inference-perf and sglang's `bench_serving`, in vLLM's keys and units. A file that cannot be read is reported and skipped; the
/// exit code is then 3.
#[derive(Debug, clap::Parser)]
#[command(name = "vb-agg", version, after_help = EXAMPLES)]
pub struct Args {
    /// Result files, and folders of result files; none or `-`: a stream of results on standard input.
    #[arg(value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// Combine runs with the same settings: mean, 95 % interval and coefficient of variation of each number.
    #[arg(long, value_enum, value_name = "SHAPE")]
    repeats: Option<RepeatsLayout>,

    /// Pool all results into one, with percentiles over all requests: several hosts of one load, or repeats. The results must
    /// come from `vb-stats --histograms`. Prints JSON in the format of `vb-stats`.
    #[arg(long, conflicts_with_all = ["repeats", "header"])]
    pool: bool,

    /// What to write; json: a list with an object for each run, which `vllm bench sweep plot` and `plot_pareto` read if the file is
    /// named summary.json.
    #[arg(long, value_enum, default_value_t = RunsFormat::Csv)]
    format: RunsFormat,

    /// Language of the column names: English (vLLM's keys), Chinese, or both in two rows.
    #[arg(long, value_enum, default_value_t = HeaderLanguage::En)]
    header: HeaderLanguage,

    /// Print a table on standard error; auto: if it is a terminal.
    #[arg(long, value_enum, default_value_t = cli::When::Auto)]
    table: cli::When,

    #[command(flatten)]
    look: LookFlags,

    #[command(flatten)]
    config: ConfigFlag,
}

/// The format of the runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum RunsFormat {
    /// A row for each run.
    Csv,
    /// An object for each run, with the same columns as keys; null: unknown.
    Json,
}

/// The language of the column names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum HeaderLanguage {
    /// vLLM's keys.
    En,
    /// Chinese.
    Zh,
    /// A row of keys, then a row in Chinese.
    Both,
}

/// Runs the tool.
pub fn run(args: Args) -> Result<(), Error> {
    let Args { paths, repeats, pool, format, header, table, look, config: _ } = args;
    let as_json = format == RunsFormat::Json;
    if as_json && (pool || repeats.is_some() || header != HeaderLanguage::En) {
        return Err(Error::Usage(
            "--format json writes the runs as they are: leave out --pool, --repeats and --header".into(),
        ));
    }
    let paths = cli::input_paths("vb-agg", &paths);
    cli::outlive_writers(&paths)?;
    if pool {
        let mut out = cli::buffered_stdout();
        let pooled = pool::pool_results(&paths)?;
        ndjson::write_record(&mut out, &pooled)?;
        out.flush().map_err(Error::write_stdout)?;
        // As vb-stats does for one run.
        return if pooled.completed > 0 {
            Ok(())
        } else {
            Err(Error::Check("no request of any result succeeded".into()))
        };
    }
    let mut found = input::FoundResults::default();
    found.read(&paths)?;
    let mut runs = found.runs;
    shorten_filenames(&mut runs);
    if paths.iter().any(|path| path != Path::new("-")) {
        runs.sort_by(compare_runs);
    }
    if runs.is_empty() {
        return Err(Error::Input("no results in the input".into()));
    }
    if repeats.is_some() {
        repeats::check_distinct(&runs)?;
    }
    let keys = columns::column_keys(&runs).map_err(Error::Input)?;
    let shows_table = table.applies_to_stderr();
    // The table has the runs, and not their repeats.
    let on_terminal = shows_table && repeats.is_none() && cli::terminal_has_both_outputs();
    match repeats {
        _ if on_terminal => {}
        None if as_json => write_json(&runs, &keys)?,
        None => write_csv(sheet_of_runs(&runs, &keys), header)?,
        Some(layout) => write_csv(repeats::sheet_of_repeats(&runs, &keys, layout), header)?,
    }
    if shows_table {
        let mut out = table::format_table(&runs, look.on_stderr());
        if on_terminal {
            out.add_wrapped(&[Cell::left("the CSV: > results.csv, or --table never").toned(Tone::Faint)], 2);
        }
        cli::show_on_stderr(&out);
    }
    match found.broken {
        0 => Ok(()),
        n => {
            Err(Error::Input(format!("skipped {n} unreadable inputs, named above; all other results are in the table")))
        }
    }
}

/// Shortens each path to its file name, if the file names are distinct.
fn shorten_filenames(runs: &mut [ResultRow]) {
    let paths: HashSet<&str> = runs.iter().map(|run| run.filename.as_str()).collect();
    let names: HashSet<&str> = paths.iter().map(|path| run::file_name(path)).collect();
    if names.len() == paths.len() {
        for run in runs {
            run.filename = run::file_name(&run.filename).to_owned();
        }
    }
}

/// A CSV: the names of its columns in English and Chinese, and the cells of its rows.
struct Sheet<R> {
    names: Vec<(String, String)>,
    /// Made when they are written, since most cells may be empty.
    rows: R,
}

/// One row per run.
fn sheet_of_runs<'a>(runs: &'a [ResultRow], keys: &'a [String]) -> Sheet<impl Iterator<Item = Vec<String>> + 'a> {
    let names = keys.iter().map(String::as_str).chain(columns::LAST_COLUMNS).map(columns::column_name).collect();
    Sheet { names, rows: runs.iter().map(|run| row_values(run, keys).map(cell_text).collect()) }
}

fn write_csv(sheet: Sheet<impl IntoIterator<Item = Vec<String>>>, header: HeaderLanguage) -> Result<(), Error> {
    let failed = |e: csv::Error| match e.into_kind() {
        // Unchanged, so that a closed pipe is recognized.
        csv::ErrorKind::Io(e) => Error::write_stdout(e),
        other => Error::write_stdout(io::Error::other(format!("{other:?}"))),
    };
    // A CSV is often shown by a terminal, so its cells are clean.
    let clean = |cell: &String| clean_line(cell).into_owned();
    let mut out = csv::Writer::from_writer(cli::buffered_stdout());
    if header != HeaderLanguage::Zh {
        out.write_record(sheet.names.iter().map(|(name, _)| clean(name))).map_err(failed)?;
    }
    if header != HeaderLanguage::En {
        out.write_record(sheet.names.iter().map(|(_, chinese)| clean(chinese))).map_err(failed)?;
    }
    for row in sheet.rows {
        out.write_record(row.iter().map(clean)).map_err(failed)?;
    }
    out.flush().map_err(Error::write_stdout)
}

/// A list of the runs, one on each line. A key that a run does not have is null, so that all have the same.
fn write_json(runs: &[ResultRow], keys: &[String]) -> Result<(), Error> {
    let mut out = cli::buffered_stdout();
    let mut before = "[\n";
    for run in runs {
        out.write_all(before.as_bytes()).map_err(Error::write_stdout)?;
        serde_json::to_writer(&mut out, &json_row(run, keys)).map_err(|e| Error::write_stdout(e.into()))?;
        before = ",\n";
    }
    out.write_all(b"\n]\n").and_then(|()| out.flush()).map_err(Error::write_stdout)
}

fn json_row(run: &ResultRow, keys: &[String]) -> Object {
    let names = keys.iter().cloned().chain(columns::LAST_COLUMNS.map(str::to_owned));
    names.zip(row_values(run, keys)).collect()
}

/// The values of a run's columns; null if unknown.
fn row_values<'a>(run: &'a ResultRow, keys: &'a [String]) -> impl Iterator<Item = Value> + 'a {
    let scalars = keys.iter().map(|key| run.scalars.get(key).cloned().unwrap_or_default());
    scalars.chain(length_values(run)).chain(trust_values(run.trust)).chain([run.filename.as_str().into()])
}

/// Input and output length.
fn length_values(run: &ResultRow) -> [Value; 2] {
    [run.input_len, run.output_len].map(Value::from)
}

/// `complete`, `interrupted` and `verdict`.
fn trust_values(trust: RunTrust) -> [Value; 3] {
    [trust.complete.into(), trust.interrupted.into(), trust.verdict.map(Verdict::name).into()]
}

/// A cell of the CSV; empty if unknown.
fn cell_text(value: Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text,
        other => other.to_string(),
    }
}

/// Compares by input length, output length, concurrency, rate and file name, as numbers; unknown values come last.
fn compare_runs(a: &ResultRow, b: &ResultRow) -> Ordering {
    let length = |length: Option<u64>| length.unwrap_or(u64::MAX);
    let lengths = |run: &ResultRow| (length(run.input_len), length(run.output_len));
    lengths(a)
        .cmp(&lengths(b))
        .then_with(|| a.sort_number("max_concurrency").total_cmp(&b.sort_number("max_concurrency")))
        .then_with(|| a.sort_number("request_rate").total_cmp(&b.sort_number("request_rate")))
        .then_with(|| compare_natural(&a.filename, &b.filename))
}

/// Compares names so that `run2` comes before `run10`.
fn compare_natural(a: &str, b: &str) -> Ordering {
    split_numbers(a).cmp(split_numbers(b)).then_with(|| a.cmp(b))
}

/// Splits text into numbers and single characters; a number sorts before a character.
fn split_numbers(text: &str) -> impl Iterator<Item = (u64, char)> {
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
        names.sort_by(|a, b| compare_natural(a, b));
        assert_eq!(names, ["a", "run=02.json", "run=2.json", "run=10.json", "run=99999999999999999999999.json"]);
    }
}

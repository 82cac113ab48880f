//! `vb-diff`: reads the outputs of two sides, writes a verdict for each metric.

mod candidate;
mod change;
mod check;
mod estimate;
mod headline;
mod report;
mod row;
mod side;
mod summary;
mod table;
mod warnings;

use std::{io::Write, path::PathBuf};

use clap::ArgAction;

use self::check::parse_margin;
pub use self::{
    change::ALPHA,
    check::{CheckOutcome, CheckResult, parse_rule},
    report::{CompareOptions, Report},
    row::{ChangeRow, ChangeVerdict},
    side::{Side, SideRun},
};
use crate::{
    cli::{self, look::LookFlags},
    config::ConfigFlag,
    error::Error,
    ndjson,
    recording::rule::{Rule, add_requested_percentiles},
    statistics,
};

const EXAMPLES: &str = "\
Examples:
  vb-diff old.outputs.ndjson new.outputs.ndjson
  vb-diff a1.ndjson a2.ndjson a3.ndjson --vs b1.ndjson b2.ndjson b3.ndjson
  vb-diff fp16.ndjson fp8.ndjson --label fp16 fp8 --format markdown
  vb-diff old.ndjson new.ndjson --fail-if 'ttft.p99 > +5%' \\
    --fail-if 'throughput < -2%'
  vb-diff vllm-detailed-1.json vllm-detailed-2.json --format json \\
    | jq '.changes[] | select(.verdict == \"worse\")'
  vb-diff guidellm-a1.json guidellm-a2.json --vs guidellm-b?.json
  vb-gen --num-prompts 500 | vb-fire --max-concurrency 16 | vb-diff old.ndjson -

`vb ab` (scripts/ab.sh) makes the runs, in turns. docs/METRICS.md#vb-diff\ndefines every number.";

/// Compares two sides, A and B: what became better or worse, what is the same, and what these runs cannot decide.
///
/// For each latency and throughput it prints the change from A to B with a 95 % interval, a p-value corrected for the number of
/// comparisons, and a verdict.
///
/// Results without their requests are compared too, from `vb-stats`, `vllm bench serve`, aiperf, guidellm, inference-perf and sglang's
/// `bench_serving`. Each is one value, so two or more repeats of both sides are needed, and nothing can be checked.
#[derive(Debug, clap::Parser)]
#[command(name = "vb-diff", version, after_help = EXAMPLES)]
pub struct Args {
    /// A and B: streams of `vb-fire`, results of `vllm bench serve --save-detailed`, or summaries. With `--vs`, all of these are runs of
    /// A. `-` is standard input.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,

    /// The files of B, if a side has several runs.
    #[arg(long, value_name = "FILE", action = ArgAction::Append, num_args(1..))]
    vs: Vec<PathBuf>,

    /// The percentiles to compare.
    #[arg(long, value_name = "LIST", default_value = "50,90,99")]
    metric_percentiles: String,

    /// Changes up to this size do not matter.
    #[arg(long, value_name = "PERCENT", default_value = "5%", value_parser = parse_margin)]
    margin: f64,

    /// Exit with 1 if the change from A to B is certainly beyond this limit (95 %): `ttft.p99 > +5%`, `throughput < -2%`. Exit with 6 if the
    /// runs cannot decide it.
    #[arg(long, value_name = "RULE", action = ArgAction::Append, num_args(1..), value_parser = parse_rule)]
    fail_if: Vec<Rule>,

    /// Count an undecided rule of `--fail-if` as passed (exit code 0) or as failed (1), instead of exiting with 6.
    #[arg(long, value_enum, value_name = "OUTCOME")]
    undecided: Option<UndecidedOutcome>,

    /// The names of A and B in everything that is printed: `--label fp16 fp8`.
    #[arg(long, value_names = ["A", "B"], num_args(2), default_values = ["A", "B"])]
    label: Vec<String>,

    /// The output format.
    #[arg(long, value_enum, default_value_t = DiffFormat::Table)]
    format: DiffFormat,

    /// Skip bad lines instead of stopping.
    #[arg(long)]
    lenient: bool,

    /// Print the JSON Schema of the comparison and exit.
    #[arg(long)]
    schema: bool,

    #[command(flatten)]
    look: LookFlags,

    #[command(flatten)]
    config: ConfigFlag,
}

/// What an undecided rule counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum UndecidedOutcome {
    /// The change was not shown to be beyond the limit.
    Pass,
    /// The change was not shown to be within the limit.
    Fail,
}

/// The output format of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum DiffFormat {
    /// For a terminal.
    Table,
    /// One line of JSON, for programs.
    Json,
    /// For a comment on a pull request.
    Markdown,
}

/// Runs `vb-diff`.
pub fn run(args: Args) -> Result<(), Error> {
    if args.schema {
        return cli::print_schema::<Report>();
    }
    let mut percentiles = statistics::parse_percentiles(&args.metric_percentiles).map_err(Error::Usage)?;
    add_requested_percentiles(&mut percentiles, &args.fail_if);
    percentiles.sort_by(f64::total_cmp);
    let labels = check_labels(args.label)?;
    let look = args.look.on_stdout();
    let (a, b) = split_sides(args.files, args.vs)?;
    cli::outlive_writers(&[&a[..], &b[..]].concat())?;
    let (a, b) = (Side::read(&a, args.lenient)?, Side::read(&b, args.lenient)?);
    let options = CompareOptions { percentiles, margin: args.margin, rules: args.fail_if, labels };
    let report = Report::compare_sides(&a, &b, &options);
    match args.format {
        DiffFormat::Json => {
            let mut out = cli::buffered_stdout();
            ndjson::write_record(&mut out, &report)?;
            out.flush().map_err(Error::write_stdout)?;
        }
        DiffFormat::Table => cli::show_on_stdout(&table::text_table(&report, look))?,
        DiffFormat::Markdown => cli::print_to_stdout(&table::markdown_table(&report, look.language))?,
    }
    for (name, side) in [(&report.a.label, &a), (&report.b.label, &b)] {
        if side.population().succeeded == 0 {
            return Err(Error::Check(format!("no request of {name} succeeded: there is nothing to compare")));
        }
    }
    if report.changes.is_empty() {
        return Err(Error::Check("the sides have no number in common".to_owned()));
    }
    report_checks(&report, args.undecided)
}

/// The names of the sides, which must differ.
fn check_labels(given: Vec<String>) -> Result<[String; 2], Error> {
    match <[String; 2]>::try_from(given) {
        Ok(labels) if labels[0] != labels[1] && labels.iter().all(|label| !label.trim().is_empty()) => Ok(labels),
        _ => Err(Error::Usage("--label needs two different names: --label fp16 fp8".into())),
    }
}

/// Splits the files into A and B.
fn split_sides(mut files: Vec<PathBuf>, vs: Vec<PathBuf>) -> Result<(Vec<PathBuf>, Vec<PathBuf>), Error> {
    let wrong = |what: &str| Error::Usage(format!("{what}; write vb-diff A B, or vb-diff A1 A2 --vs B1 B2"));
    let (a, b) = match (files.len(), vs.is_empty()) {
        (2, true) => {
            let b = files.split_off(1);
            (files, b)
        }
        (0, _) => return Err(wrong("no files to compare")),
        (1, true) => return Err(wrong("only one file")),
        (_, true) => return Err(wrong("it is not clear which files are A and which are B")),
        (_, false) => (files, vs),
    };
    if a.iter().chain(&b).filter(|path| path.as_os_str() == "-").count() > 1 {
        return Err(wrong("only one file can be standard input (-)"));
    }
    Ok((a, b))
}

/// Warns of undecided rules, and fails if a rule failed or none could decide.
fn report_checks(report: &Report, undecided: Option<UndecidedOutcome>) -> Result<(), Error> {
    let texts = |result: CheckResult| -> Vec<String> {
        let checks = report.checks.iter().filter(|check| check.result == result);
        checks.map(|check| format!("{}: {}", check.rule, check.why)).collect()
    };
    let (mut failed, open) = (texts(CheckResult::Failed), texts(CheckResult::Undecided));
    if undecided == Some(UndecidedOutcome::Fail) {
        failed.extend(open.iter().map(|text| format!("undecided: {text}")));
    } else if !failed.is_empty() || undecided == Some(UndecidedOutcome::Pass) {
        for text in open {
            cli::print_warning("vb-diff", format!("undecided: {text}"));
        }
    } else if !open.is_empty() {
        return Err(Error::Undecided(format!("undecided: {}", open.join("; "))));
    }
    if failed.is_empty() { Ok(()) } else { Err(Error::Check(failed.join("; "))) }
}

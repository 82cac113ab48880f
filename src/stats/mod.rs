//! `vb-stats`: outputs in, one result out.

mod client;
mod goodput;
pub(crate) mod input;
pub(crate) mod interval;
mod line;
mod metric;
pub(crate) mod numpy;
mod peak;
pub(crate) mod recording;
mod result;
mod table;
mod tokens;
mod vb;
mod vllm;

use std::{io::Write, path::PathBuf};

use clap::ArgAction;

pub use interval::of_mean as interval_of_mean;
pub use metric::{Distribution, Metric};

use self::{
    goodput::{Slo, Slos, parse_slos},
    result::RunResult,
};
use crate::{cli, config::ConfigFlag, error::Error, ndjson};

const EXAMPLES: &str = "\
Examples:
  vb-gen --num-prompts 100 | vb-fire --base-url http://127.0.0.1:8000 --max-concurrency 16 | vb-stats
  cat host1.ndjson host2.ndjson | vb-stats | jq .vb.outcomes
  vb-stats --goodput ttft:200ms tpot:50ms --table always run.outputs.ndjson > result.json
  vb-stats vllm-save-detailed.json | jq '.vb | {peak_concurrency, peak_tokens_per_s}'

docs/METRICS.md defines every number.";

/// Turns the outputs of a run into one result: vLLM's keys with vLLM's formulas, and what vLLM does not tell under `vb`.
///
/// The result is one line of JSON on standard output. Failed requests are never in the latencies and never hidden.
#[derive(Debug, clap::Parser)]
#[command(name = "vb-stats", version, after_help = EXAMPLES)]
pub struct Args {
    /// Streams of `vb-fire`, parts or hosts of one run, or one result of `vllm bench serve --save-detailed`; none or
    /// `-`: standard input.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Limits that make a request a good one: `ttft:200ms tpot:50ms e2el:2s`, where a bare number is milliseconds, or MLPerf's
    /// for a model: `mlperf:llama3.1-8b-interactive`. Files come before this or behind another flag.
    #[arg(long, visible_alias = "slo", value_name = "METRIC:TIME", action = ArgAction::Append, num_args(1..), value_parser = parse_slos)]
    goodput: Vec<Slos>,

    /// The latencies to tell in vLLM's keys; `client_queue_time` and `e2el_including_client_queue` may be added.
    #[arg(long, value_name = "LIST", default_value = "ttft,tpot,itl,e2el")]
    percentile_metrics: String,

    /// The percentiles to tell.
    #[arg(long, value_name = "LIST", default_value = "50,90,99")]
    metric_percentiles: String,

    /// Add the lists of every request: lengths, times, texts and errors.
    #[arg(long)]
    save_detailed: bool,

    /// Keys to add to the result, as vLLM does.
    #[arg(long, value_name = "KEY=VALUE", action = ArgAction::Append, num_args(1..), value_parser = parse_metadata)]
    metadata: Vec<(String, String)>,

    /// The `label` of the result.
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,

    /// The name of the tokenizer, for a run that does not tell.
    #[arg(long, value_name = "NAME")]
    tokenizer: Option<String>,

    /// A table on standard error; auto: when that is a terminal.
    #[arg(long, value_enum, default_value_t = cli::When::Auto)]
    table: cli::When,

    /// Leave out bad lines and count them, instead of stopping.
    #[arg(long)]
    lenient: bool,

    /// Print the JSON Schema of the result and leave.
    #[arg(long)]
    schema: bool,

    #[command(flatten)]
    config: ConfigFlag,
}

/// What to compute, checked.
#[derive(Debug, Clone, Default)]
struct Options {
    /// The latencies in vLLM's keys.
    pub metrics: Vec<Metric>,
    /// The percentiles, 0 to 100, in the order they were given.
    pub percentiles: Vec<f64>,
    /// The limits of a good request.
    pub slos: Vec<Slo>,
    /// Whether to add the lists of every request.
    pub save_detailed: bool,
    /// Keys to add.
    pub metadata: Vec<(String, String)>,
    /// The label.
    pub label: Option<String>,
    /// The tokenizer's name, for a run that does not tell.
    pub tokenizer: Option<String>,
}

/// Runs the tool.
pub fn run(args: Args) -> Result<(), Error> {
    if args.schema {
        return cli::print_schema::<RunResult>();
    }
    let table = args.table;
    let (files, lenient) = (cli::inputs("vb-stats", &args.files), args.lenient);
    let options = Options::checked(args)?;
    cli::outlive_first_interrupt()?;
    let reader = input::Reader { detailed: options.save_detailed, lenient };
    let recording = reader.read(&files)?;
    if recording.requests.is_empty() {
        return Err(Error::Input("no output of any request in the input; is it a stream of vb-fire?".into()));
    }
    if recording.apart() {
        cli::warn(
            "vb-stats",
            "runs that were not at the same time are in one result, and its rates count the pause between: give each alone",
        );
    }
    let result = RunResult::of(recording, &options);
    let mut out = cli::stdout();
    ndjson::write(&mut out, &result)?;
    out.flush().map_err(Error::stdout)?;
    if table.applies() {
        cli::show(&table::table(&result));
    }
    Ok(())
}

impl Options {
    fn checked(args: Args) -> Result<Self, Error> {
        check_metadata(&args.metadata)?;
        Ok(Options {
            metrics: parse_metrics(&args.percentile_metrics).map_err(Error::Usage)?,
            percentiles: parse_percentiles(&args.metric_percentiles).map_err(Error::Usage)?,
            slos: goodput::combine(args.goodput),
            save_detailed: args.save_detailed,
            metadata: args.metadata,
            label: args.label,
            tokenizer: args.tokenizer,
        })
    }
}

/// Metadata must not take the place of a number of the result, whose own keys its schema knows.
fn check_metadata(metadata: &[(String, String)]) -> Result<(), Error> {
    if metadata.is_empty() {
        return Ok(());
    }
    let schema = schemars::schema_for!(RunResult);
    let own = |key: &str| schema.get("properties").is_some_and(|keys| keys.get(key).is_some());
    match metadata.iter().find(|(key, _)| own(key)) {
        Some((key, _)) => {
            Err(Error::Usage(format!("--metadata {key}=…: the result has a key of that name; choose another")))
        }
        None => Ok(()),
    }
}

fn parse_metrics(list: &str) -> Result<Vec<Metric>, String> {
    let known = || Metric::ALL.map(Metric::name).join(", ");
    let names = list.split(',').map(str::trim).filter(|name| !name.is_empty());
    names
        .map(|name| Metric::named(name).ok_or_else(|| format!("--percentile-metrics: `{name}` is none of {}", known())))
        .collect()
}

/// The list of `--metric-percentiles`.
pub(crate) fn parse_percentiles(list: &str) -> Result<Vec<f64>, String> {
    let wrong = |text: &str| format!("--metric-percentiles: `{text}` is not a percentile: write them as 50,90,99.9");
    let mut percentiles = Vec::new();
    for text in list.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        match text.parse::<f64>() {
            Ok(p) if (0.0..=100.0).contains(&p) && !percentiles.contains(&p) => percentiles.push(p),
            Ok(p) if percentiles.contains(&p) => {}
            _ => return Err(wrong(text)),
        }
    }
    Ok(percentiles)
}

/// As vLLM does, without white space on either side.
fn parse_metadata(text: &str) -> Result<(String, String), String> {
    cli::parse_pair(text).map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_numbers_up_to_100() {
        assert_eq!(parse_percentiles("50, 99.9,50").unwrap(), [50.0, 99.9]);
        for list in ["p99", "101", "-1", "nan"] {
            assert!(parse_percentiles(list).is_err(), "{list}");
        }
    }

    #[test]
    fn metrics_are_known_by_name() {
        assert_eq!(parse_metrics("e2el,ttft").unwrap(), [Metric::E2el, Metric::Ttft]);
        assert!(parse_metrics("ttft,latency").unwrap_err().contains("e2el_including_client_queue"));
    }
}

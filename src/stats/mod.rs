//! `vb-stats`: outputs in, one result out.

mod arrivals;
mod cache;
mod client;
mod fluidity;
mod goodput;
mod group;
mod part;
mod peak;
mod pool;
mod pooling;
mod rate;
mod result;
mod server;
mod steady;
mod table;
mod tokens;
mod vb;

use std::{io::Write, path::PathBuf};

use clap::ArgAction;

pub use pool::pool_runs;
pub use result::RunResult;

use self::goodput::{Slo, Slos, parse_slos};
use crate::{
    cli,
    config::ConfigFlag,
    error::Error,
    ndjson,
    recording::{input::RecordingReader, labels::GroupBy, metric::Metric},
    statistics::{SummaryOptions, parse_percentiles},
    units::{Nanos, parse_count, parse_duration},
};

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

    /// Tell the numbers of groups of requests too: `tag:NAME` (a tag of theirs), `turn`, `input_len`, `output_len`. Files come before
    /// this or behind another flag.
    #[arg(long, value_name = "WHAT", action = ArgAction::Append, num_args(1..), value_parser = GroupBy::parse)]
    by: Vec<GroupBy>,

    /// Tell the numbers of each slice of the run too, by the time at which requests were sent: `10s`.
    #[arg(long, value_name = "TIME", value_parser = parse_slice)]
    slice: Option<Nanos>,

    /// Add a histogram to each distribution, so that `vb-agg --pool` can put results together.
    #[arg(long)]
    histograms: bool,

    /// Values to keep exactly, where a request counts as 25 and each gap as one. Of a longer run percentiles come from
    /// histograms, within 0.05 %, and memory stays at some 8 bytes for each of these.
    #[arg(long, value_name = "VALUES", default_value = "20m", value_parser = parse_exact)]
    exact: usize,

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
    /// The percentiles, and whether histograms.
    pub wanted: SummaryOptions,
    /// What to group by.
    pub by: Vec<GroupBy>,
    /// The length of slices.
    pub slice: Option<Nanos>,
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
    let (table, exact, lenient) = (args.table, args.exact, args.lenient);
    let files = cli::input_paths("vb-stats", &args.files);
    let options = Options::from_args(args)?;
    cli::ignore_first_interrupt()?;
    let reader = RecordingReader { detailed: options.save_detailed, lenient, by: &options.by, tool: "vb-stats" };
    let result = read(reader, &files, exact, &options)?;
    let mut out = cli::buffered_stdout();
    ndjson::write_record(&mut out, &result)?;
    out.flush().map_err(Error::write_stdout)?;
    if table.applies_to_stderr() {
        cli::print_to_stderr(&table::render_table(&result));
    } else {
        result.vb.server_doubts().for_each(|doubt| cli::print_warning("vb-stats", doubt));
    }
    Ok(())
}

/// Reads the requests and computes everything; a run that is too long to be kept in parts.
fn read(reader: RecordingReader, files: &[PathBuf], exact: usize, options: &Options) -> Result<RunResult, Error> {
    // The lists of every request are of every request: then all are kept.
    let most = if options.save_detailed { usize::MAX } else { exact };
    let in_part = Options { wanted: SummaryOptions { histograms: true, ..options.wanted.clone() }, ..options.clone() };
    let mut earlier: Option<RunResult> = None;
    let mut recording = reader.read_in_parts(files, most, |part| {
        let part = RunResult::from_recording(part, &in_part);
        earlier = Some(match earlier.take() {
            None => part,
            Some(earlier) => pool::pool_parts(earlier, part, true).map_err(Error::Input)?,
        });
        Ok(())
    })?;
    if recording.count_offered() == 0 {
        return Err(Error::Input("no output of any request in the input; is it a stream of vb-fire?".into()));
    }
    if recording.has_disjoint_runs() {
        cli::print_warning(
            "vb-stats",
            "runs that were not at the same time are in one result, and its rates count the pause between: give each alone",
        );
    }
    let (pages, meant, span) = (std::mem::take(&mut recording.pages), recording.expected_cache, recording.span);
    let mut result = match earlier {
        None => RunResult::from_recording(recording, options),
        Some(earlier) => {
            let last = RunResult::from_recording(recording, &in_part);
            pool::pool_parts(earlier, last, options.wanted.histograms).map_err(Error::Input)?
        }
    };
    result.vb.add_server_view(pages, meant, span);
    Ok(result)
}

impl Options {
    fn from_args(args: Args) -> Result<Self, Error> {
        check_metadata(&args.metadata)?;
        Ok(Options {
            metrics: parse_metrics(&args.percentile_metrics).map_err(Error::Usage)?,
            wanted: SummaryOptions {
                percentiles: parse_percentiles(&args.metric_percentiles).map_err(Error::Usage)?,
                histograms: args.histograms,
            },
            by: args.by,
            slice: args.slice,
            slos: goodput::combine_limits(args.goodput),
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
        .map(|name| {
            Metric::from_name(name).ok_or_else(|| format!("--percentile-metrics: `{name}` is none of {}", known()))
        })
        .collect()
}

fn parse_exact(text: &str) -> Result<usize, String> {
    let values = parse_count(text)?;
    usize::try_from(values).ok().filter(|values| *values > 0).ok_or_else(|| "at least one value is kept".into())
}

fn parse_slice(text: &str) -> Result<Nanos, String> {
    match parse_duration(text)? {
        Nanos(0) => Err("a slice has a length: write it as 10s".into()),
        length => Ok(length),
    }
}

/// As vLLM does, without white space on either side.
fn parse_metadata(text: &str) -> Result<(String, String), String> {
    cli::parse_key_value(text).map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_known_by_name() {
        assert_eq!(parse_metrics("e2el,ttft").unwrap(), [Metric::E2el, Metric::Ttft]);
        assert!(parse_metrics("ttft,latency").unwrap_err().contains("e2el_including_client_queue"));
    }
}

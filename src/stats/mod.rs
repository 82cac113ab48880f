//! `vb-stats`: computes one result from the outputs of a run.

mod arrivals;
mod cache;
mod check;
mod client;
pub mod compact;
mod fluidity;
mod goodput;
mod group;
mod length;
mod part;
mod peak;
mod pool;
mod pooling;
mod rate;
mod result;
mod server;
mod share;
mod sliding;
mod slowest;
mod stamp_bounds;
mod steady;
mod table;
mod throughput;
mod tokens;
mod vb;
mod vb_pool;

use std::{io::Write, num::NonZeroU32, path::PathBuf};

use clap::ArgAction;

pub use pool::pool_runs;
pub use rate::MeasuredRate;
pub use result::RunResult;
pub use vb::whole_rates;

use self::{
    goodput::{Slo, Slos, parse_slos},
    table::TableLayout,
};
use crate::{
    cli::{self, look::LookFlags},
    config::ConfigFlag,
    error::Error,
    ndjson,
    printout::{Cell, Tone},
    recording::{
        input::RecordingReader,
        labels::GroupBy,
        metric::Metric,
        rule::{Rule, add_requested_percentiles},
    },
    statistics::{SummaryOptions, parse_percentiles},
    units::{Nanos, parse_count, parse_duration},
};

const EXAMPLES: &str = "\
Examples:
  vb-gen --num-prompts 100 \\
    | vb-fire --base-url http://127.0.0.1:8000 --max-concurrency 16 | vb-stats
  cat host1.ndjson host2.ndjson | vb-stats | jq .vb.outcomes
  vb-stats --goodput ttft:200ms tpot:50ms --table full \\
    outputs.ndjson > result.json
  vb-stats --fail-if 'ttft.p99 > 500ms' --fail-if 'success < 99%' \\
    outputs.ndjson > result.json
  vb-stats vllm-save-detailed.json | jq '.vb | {peak_concurrency}'

Exit codes: 0 success; 1 a limit of --fail-if is exceeded, or no request
succeeded; 2 wrong usage; 3 invalid input; 4 reading or writing failed.

docs/METRICS.md defines every number.";

/// Computes the result of a run from its outputs: vLLM's keys with vLLM's formulas, and further metrics under `vb`.
///
/// The result is one line of JSON on standard output. Failed requests are always counted, and never part of the latencies.
#[derive(Debug, clap::Parser)]
#[command(name = "vb-stats", version, after_help = EXAMPLES)]
pub struct Args {
    /// Streams of `vb-fire` (parts or hosts of one run), or one result of `vllm bench serve --save-detailed`; none or `-`:
    /// standard input.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Limits that good requests keep: `ttft:200ms tpot:50ms e2el:2s longest_stall:500ms p99_itl:100ms`, where a bare number is
    /// milliseconds, or MLPerf's limits for a model: `mlperf:llama3.1-8b-interactive`. `longest_stall` and `p99_itl` are of a
    /// request's own gaps. Put files before this flag or after another one. `--slo` is another name of it.
    #[arg(long, alias = "slo", value_name = "METRIC:TIME", action = ArgAction::Append, num_args(1..), value_parser = parse_slos)]
    goodput: Vec<Slos>,

    /// Exit with 1 if a number of the result is beyond this limit, or has too few values: `ttft.p99 > 500ms`, `success < 99%`,
    /// `throughput < 1000`.
    #[arg(long, value_name = "RULE", action = ArgAction::Append, num_args(1..), value_parser = check::parse_rule)]
    fail_if: Vec<Rule>,

    /// The latencies to report in vLLM's keys; `client_queue_time` and `e2el_including_client_queue` can be added.
    #[arg(long, value_name = "LIST", default_value = "ttft,tpot,itl,e2el")]
    percentile_metrics: String,

    /// The percentiles to report.
    #[arg(long, value_name = "LIST", default_value = "50,90,99")]
    metric_percentiles: String,

    /// Also report metrics of groups of requests: `tag:NAME` (a tag of the requests), `turn`, `input_len`, `output_len`. Put
    /// files before this flag or after another one.
    #[arg(long, value_name = "WHAT", action = ArgAction::Append, num_args(1..), value_parser = GroupBy::parse)]
    by: Vec<GroupBy>,

    /// The number of GPUs that serve the model: also report the throughput per GPU.
    #[arg(long, value_name = "N")]
    gpus: Option<NonZeroU32>,

    /// Also report metrics of each slice of the run, by the time at which requests were sent: `10s`.
    #[arg(long, value_name = "TIME", value_parser = parse_slice)]
    slice: Option<Nanos>,

    /// Add a histogram to each distribution, so that `vb-agg --pool` can pool results.
    #[arg(long)]
    histograms: bool,

    /// How many values to keep exactly; a request counts as 25 and each gap as one. Percentiles of longer runs come from
    /// histograms, within 0.05 %, and memory is limited to about 8 bytes per value.
    #[arg(long, value_name = "VALUES", default_value = "20m", value_parser = parse_exact)]
    exact: usize,

    /// Add lists with an entry for each request: lengths, times, texts and errors.
    #[arg(long)]
    save_detailed: bool,

    /// Keys to add to the result, as in vLLM.
    #[arg(long, value_name = "KEY=VALUE", action = ArgAction::Append, num_args(1..), value_parser = parse_metadata)]
    metadata: Vec<(String, String)>,

    /// The `label` of the result.
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,

    /// The name of the tokenizer, for a run without one.
    #[arg(long, value_name = "NAME")]
    tokenizer: Option<String>,

    /// The table on standard error; auto: a short one if that is a terminal.
    #[arg(long, value_enum, value_name = "LAYOUT", default_value_t = TableLayout::Auto)]
    table: TableLayout,

    /// Write the JSON to standard output even if that is the terminal that shows the table.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    look: LookFlags,

    /// Skip and count bad lines, instead of stopping.
    #[arg(long)]
    lenient: bool,

    /// Print the JSON Schema of the result and exit.
    #[arg(long)]
    schema: bool,

    #[command(flatten)]
    config: ConfigFlag,
}

/// The options of a computation, checked.
#[derive(Debug, Clone, Default)]
struct Options {
    /// The latencies in vLLM's keys.
    pub metrics: Vec<Metric>,
    /// Percentiles and histograms.
    pub wanted: SummaryOptions,
    /// The properties to group by.
    pub by: Vec<GroupBy>,
    /// The length of slices.
    pub slice: Option<Nanos>,
    /// The GPUs that serve the model.
    pub gpus: Option<NonZeroU32>,
    /// The limits of a good request.
    pub slos: Vec<Slo>,
    /// Whether to add the lists with an entry for each request.
    pub save_detailed: bool,
    /// Keys to add to the result.
    pub metadata: Vec<(String, String)>,
    /// The label of the result.
    pub label: Option<String>,
    /// The name of the tokenizer, for a run without one.
    pub tokenizer: Option<String>,
}

/// Runs the tool.
pub fn run(args: Args) -> Result<(), Error> {
    if args.schema {
        return cli::print_schema::<RunResult>();
    }
    let (layout, exact, lenient, rules) = (args.table, args.exact, args.lenient, args.fail_if.clone());
    let (json, look) = (args.json, args.look.on_stderr());
    let files = cli::input_paths("vb-stats", &args.files);
    let options = Options::from_args(args)?;
    cli::outlive_writers(&files)?;
    let reader = RecordingReader {
        detailed: options.save_detailed,
        lenient,
        by: &options.by,
        summaries: false,
        tool: "vb-stats",
    };
    let Computed { result, missing, truncated } = read(reader, &files, exact, &options)?;
    let mut table = layout.print(&result, look);
    if let Some(table) = table.as_mut().filter(|_| cli::terminal_has_both_outputs() && !json) {
        table.add_wrapped(&[Cell::left("all numbers: --table full, --json, or > result.json").toned(Tone::Faint)], 2);
    } else {
        let mut out = cli::buffered_stdout();
        ndjson::write_record(&mut out, &result)?;
        out.flush().map_err(Error::write_stdout)?;
    }
    if let Some(table) = &table {
        cli::show_on_stderr(table);
    } else {
        for what in &missing {
            cli::print_warning("vb-stats", format_args!("incomplete: {what}"));
        }
        result.vb.server_doubts().for_each(|doubt| cli::print_warning("vb-stats", doubt));
    }
    let partial = match (truncated, result.vb.interrupted) {
        (true, _) => missing.first().map(String::as_str),
        (false, true) => Some("it was interrupted"),
        (false, false) => None,
    };
    match check::find_failure(&result, &rules, partial) {
        Some(why) => Err(Error::Check(why)),
        None => Ok(()),
    }
}

/// A result, and what its input lacked.
struct Computed {
    result: RunResult,
    /// Each in one line.
    missing: Vec<String>,
    /// Whether the input ended before its run.
    truncated: bool,
}

/// Reads the requests and computes the result. A run that is too long to keep is computed in parts, which are pooled.
fn read(reader: RecordingReader, files: &[PathBuf], exact: usize, options: &Options) -> Result<Computed, Error> {
    // The lists need all requests.
    let max_weight = if options.save_detailed { usize::MAX } else { exact };
    let in_part = Options { wanted: SummaryOptions { histograms: true, ..options.wanted.clone() }, ..options.clone() };
    let mut earlier: Option<RunResult> = None;
    let mut recording = reader.read_in_parts(files, max_weight, |part| {
        let part = RunResult::from_recording(part, &in_part);
        earlier = Some(match earlier.take() {
            None => part,
            Some(earlier) => pool::pool_parts(earlier, part, true).map_err(Error::Input)?,
        });
        Ok(())
    })?;
    if recording.count_offered() == 0 {
        return Err(Error::Input(recording.describe_empty()));
    }
    if recording.has_disjoint_runs() {
        cli::print_warning(
            "vb-stats",
            "runs that were not at the same time are in one result, whose rates include the pause between them; pass each run \
             alone",
        );
    }
    let (missing, truncated) = (recording.describe_missing(), recording.is_truncated());
    let (pages, expected_cache, span) =
        (std::mem::take(&mut recording.pages), recording.expected_cache, recording.span);
    let mut result = match earlier {
        None => RunResult::from_recording(recording, options),
        Some(earlier) => {
            let last = RunResult::from_recording(recording, &in_part);
            pool::pool_parts(earlier, last, options.wanted.histograms).map_err(Error::Input)?
        }
    };
    result.vb.add_server_view(pages, expected_cache, span);
    Ok(Computed { result, missing, truncated })
}

impl Options {
    fn from_args(args: Args) -> Result<Self, Error> {
        check_metadata(&args.metadata)?;
        if let Some(rule) = args.fail_if.iter().find(|rule| check::needs_goodput(rule) && args.goodput.is_empty()) {
            return Err(Error::Usage(format!("--fail-if '{}' needs the limits of --goodput", rule.text)));
        }
        if let Some(rule) = args.fail_if.iter().find(|rule| check::needs_gpus(rule) && args.gpus.is_none()) {
            return Err(Error::Usage(format!("--fail-if '{}' needs the number of --gpus", rule.text)));
        }
        let mut percentiles = parse_percentiles(&args.metric_percentiles).map_err(Error::Usage)?;
        add_requested_percentiles(&mut percentiles, &args.fail_if);
        Ok(Options {
            metrics: parse_metrics(&args.percentile_metrics).map_err(Error::Usage)?,
            wanted: SummaryOptions { percentiles, histograms: args.histograms },
            by: args.by,
            slice: args.slice,
            gpus: args.gpus,
            slos: goodput::combine_limits(args.goodput),
            save_detailed: args.save_detailed,
            metadata: args.metadata,
            label: args.label,
            tokenizer: args.tokenizer,
        })
    }
}

/// Rejects metadata that would replace a key of the result, by its schema.
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
            Metric::from_name(name).ok_or_else(|| format!("--percentile-metrics: `{name}` is not one of {}", known()))
        })
        .collect()
}

fn parse_exact(text: &str) -> Result<usize, String> {
    let values = parse_count(text)?;
    usize::try_from(values).ok().filter(|values| *values > 0).ok_or_else(|| "must be at least 1".into())
}

fn parse_slice(text: &str) -> Result<Nanos, String> {
    match parse_duration(text)? {
        Nanos(0) => Err("a slice must be longer than 0: write 10s".into()),
        length => Ok(length),
    }
}

/// Trims white space on both sides, as vLLM does.
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

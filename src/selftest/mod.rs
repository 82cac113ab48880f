//! `vb-selftest`: the accuracy of the client on this machine, at the user's load.
//!
//! ```text
//! plan ─▶ trial ─▶ errors ─▶ record ─▶ table
//!           │ ▲
//!           ▼ │
//!         vb-fire ⇄ vb-sim      the client's records, the server's truth log
//! ```
//!
//! The real programs run as child processes; this module only computes on their output. `docs/SELFTEST.md` is the manual.

mod child;
mod errors;
mod plan;
mod record;
mod search;
mod table;
mod trial;

use std::io::Write;

pub use record::SelftestRecord;

use self::{
    plan::LoadPlan,
    record::SelftestSettings,
    search::{RateSearch, search_turning_point},
    trial::{Trial, TrialRunner},
};
use crate::{
    cli::{self, look::LookFlags},
    clock::{Clock, unix_now},
    config::ConfigFlag,
    error::Error,
    load::RequestRate,
    ndjson,
    printout::{Cell, Tone},
    record::FORMAT_VERSION,
    units::{Nanos, SECOND, UnixNanos, parse_count_u32, parse_duration},
};

/// Requests in flight if neither a limit nor a rate is given.
const DEFAULT_CONCURRENCY: u32 = 64;

/// When a search ends, counted from the start of the tool.
const SEARCH_END: Nanos = Nanos(28 * SECOND);
/// The minimum time for a search, after a long measurement.
const MIN_SEARCH_TIME: Nanos = Nanos(12 * SECOND);

const EXAMPLES: &str = "\
Examples:
  vb-selftest --max-concurrency 64
  vb-selftest --request-rate 20 --threads 2 --table always > selftest.json
  vb-selftest --max-concurrency 64 > selftest.json
  vb-gen --num-prompts 100 \\
    | vb-fire --max-concurrency 64 --attach-selftest selftest.json | vb-stats

docs/SELFTEST.md explains every number.";

/// Measures the accuracy of the client on this machine, at your load.
///
/// Starts vb-sim and vb-fire, compares the client's records with the server's log, and then searches for the rate of
/// chunks up to which the verdict stays clean. Takes less than 30 seconds. Prints one JSON object on standard output.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "vb-selftest", version, after_help = EXAMPLES)]
pub struct Args {
    /// Limit of requests in flight [default: 64, or no limit with --request-rate].
    #[arg(long, value_name = "N", value_parser = parse_count_u32)]
    max_concurrency: Option<u32>,
    /// Requests per second.
    #[arg(long, value_name = "RATE")]
    request_rate: Option<RequestRate>,
    /// Threads that read responses, passed to vb-fire.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: Option<u32>,
    /// How vb-fire transfers and stamps bytes, passed to vb-fire.
    #[arg(long, value_name = "NAME", value_parser = ["auto", "stamped", "portable"])]
    transport: Option<String>,
    /// Time between two tokens of a stream, as 20ms.
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = parse_duration)]
    step: Nanos,
    /// Tokens in each response; fewer if they do not fit into --seconds.
    #[arg(long, value_name = "N", default_value = "64", value_parser = parse_count_u32)]
    output_len: u32,
    /// How long the main measurement starts new requests, as 8s.
    #[arg(long, value_name = "TIME", default_value = "8s", value_parser = parse_duration)]
    seconds: Nanos,
    /// Skip the search for the rate of chunks at which the verdict changes.
    #[arg(long)]
    no_search: bool,
    /// Print a table on standard error; auto: if it is a terminal.
    #[arg(long, value_enum, default_value_t = cli::When::Auto)]
    table: cli::When,
    /// Write the JSON to standard output even if that is the terminal that shows the table.
    #[arg(long)]
    json: bool,
    /// Print the JSON Schema of the result and exit.
    #[arg(long)]
    schema: bool,

    #[command(flatten)]
    look: LookFlags,

    #[command(flatten)]
    config: ConfigFlag,
}

/// Runs the tool.
pub fn run(args: &Args) -> Result<(), Error> {
    if args.schema {
        return cli::print_schema::<SelftestRecord>();
    }
    let (clock, date) = (Clock::start(), unix_now());
    let plan = args.load_plan()?;
    let runner = TrialRunner::new(args.client_flags())?;
    let trial = runner.run_plan(&plan)?;
    let mut record = args.build_record(&plan, &trial, date);
    if !args.no_search && record.verdict.is_some() {
        let until = SEARCH_END.max(clock.now() + MIN_SEARCH_TIME);
        record.search = Some(find_turning_point(&runner, &plan, &trial, clock, until)?);
    }
    let mut table = args.table.applies_to_stderr().then(|| table::format_table(&record, args.look.on_stderr()));
    if let Some(table) = table.as_mut().filter(|_| cli::terminal_has_both_outputs() && !args.json) {
        table.add_wrapped(&[Cell::left("all numbers: --json, or > selftest.json").toned(Tone::Faint)], 2);
    } else {
        let mut out = cli::buffered_stdout();
        ndjson::write_record(&mut out, &record)?;
        out.flush().map_err(Error::write_stdout)?;
    }
    table.iter().for_each(cli::show_on_stderr);
    Ok(())
}

/// Searches around the main measurement while there is time for another run.
fn find_turning_point(
    runner: &TrialRunner,
    plan: &LoadPlan,
    trial: &Trial,
    clock: Clock,
    until: Nanos,
) -> Result<RateSearch, Error> {
    search_turning_point(trial.search_run(plan), plan.chunks_per_s(), |rate| {
        let other = plan.at_rate(rate);
        if clock.now() + other.max_duration() > until {
            return Ok(None);
        }
        Ok(Some(runner.run_plan(&other)?.search_run(&other)))
    })
}

impl Args {
    fn load_plan(&self) -> Result<LoadPlan, Error> {
        if self.max_concurrency == Some(0) || self.output_len == 0 || self.step.0 == 0 || self.seconds.0 == 0 {
            return Err(Error::Usage(
                "--max-concurrency, --output-len, --step and --seconds must be more than 0".into(),
            ));
        }
        if self.request_rate.as_ref().is_some_and(|rate| rate.profile_text().is_some()) {
            return Err(Error::Usage(
                "vb-selftest needs a single --request-rate: use the highest of your profile".into(),
            ));
        }
        // An infinite rate means no rate.
        let request_rate = self.request_rate.as_ref().and_then(RequestRate::as_constant);
        let fitting = u32::try_from(self.seconds.0 / self.step.0).unwrap_or(u32::MAX).saturating_sub(1);
        Ok(LoadPlan {
            max_concurrency: self.max_concurrency.or(request_rate.is_none().then_some(DEFAULT_CONCURRENCY)),
            request_rate,
            step: self.step,
            output_len: self.output_len.min(fitting.max(2)),
            seconds: self.seconds,
        })
    }

    fn client_flags(&self) -> Vec<String> {
        let threads = self.threads.map(|n| n.to_string());
        let given = [("--threads", threads), ("--transport", self.transport.clone())];
        let given = given.into_iter().filter_map(|(flag, value)| Some([flag.to_owned(), value?]));
        given.flatten().collect()
    }

    fn build_record(&self, plan: &LoadPlan, trial: &Trial, date: UnixNanos) -> SelftestRecord {
        let pairs = errors::join_by_id(&trial.outputs, &trial.truths);
        let end = &trial.end;
        SelftestRecord {
            format: FORMAT_VERSION,
            tool: concat!("vb-selftest ", env!("CARGO_PKG_VERSION")).into(),
            host: cli::host_name(),
            date,
            settings: SelftestSettings {
                max_concurrency: plan.max_concurrency,
                request_rate: plan.request_rate,
                threads: self.threads,
                transport: self.transport.clone(),
                step: plan.step,
                output_len: plan.output_len,
                seconds: plan.seconds,
            },
            transport: trial.run.transport.clone(),
            threads: trial.run.threads,
            requests: trial.outputs.len() as u64,
            failed: trial.outputs.iter().filter(|output| !output.success).count() as u64,
            joined: pairs.len() as u64,
            chunks: pairs.iter().map(errors::RequestPair::chunk_count).sum(),
            chunks_per_s: trial.chunks_per_s(),
            errors: errors::errors_of_pairs(&pairs),
            send_to_read: errors::send_to_read(&pairs),
            coalesced: trial.outputs.iter().map(|output| u64::from(output.coalesced)).sum(),
            rate: errors::request_rates(&trial.outputs, plan.request_rate),
            schedule_lag: end.schedule_lag,
            send_lag: end.send_lag,
            read_lag: end.read_lag,
            stamps: end.stamps,
            client: end.client,
            server: trial.server_pace(plan),
            verdict: end.verdict,
            reasons: end.reasons.clone(),
            search: None,
            ..SelftestRecord::default()
        }
    }
}

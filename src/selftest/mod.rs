//! `vb-selftest`: how right the client is on this machine, at the user's own load.
//!
//! ```text
//! plan ─▶ trial ─▶ errors ─▶ record ─▶ table
//!           │ ▲
//!           ▼ │
//!         vb-fire ⇄ vb-sim      the client's records, the server's truth log
//! ```
//!
//! The real programs run, as child processes; here is only arithmetic on what they wrote. `docs/SELFTEST.md` is its
//! manual.

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
    plan::Plan,
    record::Settings,
    search::{Search, search},
    trial::{Bench, Trial},
};
use crate::{
    cli,
    clock::{Clock, unix_now},
    config::ConfigFlag,
    error::Error,
    load::RequestRate,
    ndjson,
    record::FORMAT_VERSION,
    units::{Nanos, SECOND, UnixNanos, parse_count_u32, parse_duration},
};

/// Requests in flight where neither a limit nor a rate is given.
const CONCURRENCY: u32 = 64;

/// When a search ends, counted from the start of the tool; and how long it takes at least after a long measurement.
const SEARCH_UNTIL: Nanos = Nanos(28 * SECOND);
const SEARCH_LEAST: Nanos = Nanos(12 * SECOND);

const EXAMPLES: &str = "\
Examples:
  vb-selftest --max-concurrency 64
  vb-selftest --request-rate 20 --threads 2 --table always > selftest.json
  vb-selftest --max-concurrency 64 > selftest.json
  vb-gen --num-prompts 100 | vb-fire --max-concurrency 64 --attach-selftest selftest.json | vb-stats

docs/SELFTEST.md explains every number.";

/// Measures the client itself: how far its times are from the truth, at your load, on this machine.
///
/// Starts vb-sim and vb-fire, compares what the client recorded with what the server logged, and then looks for the
/// rate of chunks at which the client is no longer clean. Takes less than 30 seconds. One JSON object on standard output.
#[derive(Debug, Clone, clap::Parser)]
#[command(name = "vb-selftest", version, after_help = EXAMPLES)]
pub struct Args {
    /// The most requests in flight [default: 64, or no limit with --request-rate].
    #[arg(long, value_name = "N", value_parser = parse_count_u32)]
    max_concurrency: Option<u32>,
    /// Requests per second.
    #[arg(long, value_name = "RATE")]
    request_rate: Option<RequestRate>,
    /// Passed on to vb-fire: threads that read answers.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: Option<u32>,
    /// Passed on to vb-fire: how bytes are carried and stamped.
    #[arg(long, value_name = "NAME", value_parser = ["auto", "stamped", "portable"])]
    transport: Option<String>,
    /// The time between two tokens of a stream, as 20ms.
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = parse_duration)]
    step: Nanos,
    /// Tokens in each answer; fewer where they would not fit into --seconds.
    #[arg(long, value_name = "N", default_value = "64", value_parser = parse_count_u32)]
    output_len: u32,
    /// How long to start requests in the main measurement, as 8s.
    #[arg(long, value_name = "TIME", default_value = "8s", value_parser = parse_duration)]
    seconds: Nanos,
    /// Leave out the search for the rate of chunks at which the verdict turns.
    #[arg(long)]
    no_search: bool,
    /// A table on standard error; auto: when that is a terminal.
    #[arg(long, value_enum, default_value_t = cli::When::Auto)]
    table: cli::When,
    /// Print the JSON Schema of the result and leave.
    #[arg(long)]
    schema: bool,

    #[command(flatten)]
    config: ConfigFlag,
}

/// Runs the tool.
pub fn run(args: &Args) -> Result<(), Error> {
    if args.schema {
        return cli::print_schema::<SelftestRecord>();
    }
    let (clock, date) = (Clock::start(), unix_now());
    let plan = args.plan()?;
    let bench = Bench::new(args.client_flags())?;
    let trial = bench.run(&plan)?;
    let mut record = args.record(&plan, &trial, date);
    if !args.no_search && record.verdict.is_some() {
        let until = SEARCH_UNTIL.max(clock.now() + SEARCH_LEAST);
        record.search = Some(turning_point(&bench, &plan, &trial, clock, until)?);
    }
    let mut out = cli::buffered_stdout();
    ndjson::write_record(&mut out, &record)?;
    out.flush().map_err(Error::write_stdout)?;
    if args.table.applies_to_stderr() {
        cli::print_to_stderr(&table::table(&record));
    }
    Ok(())
}

/// Searches around the main measurement for as long as there is time for another run.
fn turning_point(bench: &Bench, plan: &Plan, trial: &Trial, clock: Clock, until: Nanos) -> Result<Search, Error> {
    search(trial.point(plan), plan.chunks_per_s(), |rate| {
        let other = plan.at_rate(rate);
        if clock.now() + other.longest() > until {
            return Ok(None);
        }
        Ok(Some(bench.run(&other)?.point(&other)))
    })
}

impl Args {
    fn plan(&self) -> Result<Plan, Error> {
        if self.max_concurrency == Some(0) || self.output_len == 0 || self.step.0 == 0 || self.seconds.0 == 0 {
            return Err(Error::Usage(
                "--max-concurrency, --output-len, --step and --seconds must be more than 0".into(),
            ));
        }
        if self.request_rate.as_ref().is_some_and(|rate| rate.profile_text().is_some()) {
            return Err(Error::Usage("vb-selftest needs one --request-rate: the highest of your profile".into()));
        }
        // An infinite rate is none.
        let request_rate = self.request_rate.as_ref().and_then(RequestRate::as_constant);
        let fitting = u32::try_from(self.seconds.0 / self.step.0).unwrap_or(u32::MAX).saturating_sub(1);
        Ok(Plan {
            max_concurrency: self.max_concurrency.or(request_rate.is_none().then_some(CONCURRENCY)),
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

    fn record(&self, plan: &Plan, trial: &Trial, date: UnixNanos) -> SelftestRecord {
        let pairs = errors::join(&trial.outputs, &trial.truths);
        let end = &trial.end;
        SelftestRecord {
            format: FORMAT_VERSION,
            tool: concat!("vb-selftest ", env!("CARGO_PKG_VERSION")).into(),
            host: cli::host_name(),
            date,
            settings: Settings {
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
            chunks: pairs.iter().map(errors::Pair::chunks).sum(),
            chunks_per_s: trial.chunks_per_s(),
            errors: errors::errors(&pairs),
            send_to_read: errors::send_to_read(&pairs),
            coalesced: trial.outputs.iter().map(|output| u64::from(output.coalesced)).sum(),
            rate: errors::rate(&trial.outputs, plan.request_rate),
            schedule_lag: end.schedule_lag,
            send_lag: end.send_lag,
            read_lag: end.read_lag,
            stamps: end.stamps,
            client: end.client,
            server: trial.pace(plan),
            verdict: end.verdict,
            reasons: end.reasons.clone(),
            search: None,
            ..SelftestRecord::default()
        }
    }
}

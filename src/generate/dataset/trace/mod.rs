//! Traces: when real requests arrived, how long they were, and which parts of their prompts they shared.
//!
//! ```text
//! mooncake | qwen | azure | burstgpt ─▶ TraceRow ─▶ laps (window, speed) ─▶ prompts, made by several threads ─▶ writer
//! ```
//!
//! A trace has lengths but no texts. Rows are read one by one, so traces of any size work.

pub mod azure;
pub mod burstgpt;
mod laps;
pub mod mooncake;
pub mod qwen;

use std::path::Path;

use clap::Args as _;

use self::laps::{ScheduledRow, TraceLaps};
use super::{Apis, Dataset, FlagGroup, OutputTokens, OwnFlags, Reads};
use crate::{
    error::Error,
    generate::{
        common::Common,
        exact::RandomPrompts,
        ordered::{Demand, NextItem, make_in_order_from},
        print_warning,
        writer::{PromptLen, RequestWriter},
    },
    record::{Object, SampleRequest},
    units::{Nanos, parse_count, parse_duration},
};

const TRACE: &str = "Traces (mooncake, qwen, azure, burstgpt)";

/// Flags of traces.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TraceFlags {
    /// Speed factor: 2 sends the trace twice as fast [default: 1].
    #[arg(long, help_heading = TRACE, value_name = "FACTOR", value_parser = parse_speed)]
    speed: Option<f64>,
    /// Start at this time of the trace.
    #[arg(long, help_heading = TRACE, value_name = "TIME", value_parser = parse_duration)]
    from: Option<Nanos>,
    /// Stop at this time of the trace.
    #[arg(long, help_heading = TRACE, value_name = "TIME", value_parser = parse_duration)]
    to: Option<Nanos>,
    /// Send the trace LAPS times in a row, with new prompts each time; without a number, until --num-prompts is
    /// reached.
    #[arg(
        long = "loop",
        help_heading = TRACE,
        value_name = "LAPS",
        num_args = 0..=1,
        default_missing_value = "0",
        value_parser = parse_count
    )]
    laps: Option<u64>,
}

fn parse_speed(text: &str) -> Result<f64, String> {
    let speed = text.trim().parse().ok().filter(|speed: &f64| speed.is_finite() && *speed > 0.0);
    speed.ok_or_else(|| format!("`{text}` is not a speed: write 2 for twice as fast, 0.5 for half"))
}

/// File format of a trace.
pub struct TraceFormat<'a> {
    /// Tokens per block; 0 if the trace has no blocks.
    pub block_size: u32,
    /// Opens a file.
    pub open: &'a OpenTrace<'a>,
}

/// Opens a file of a trace.
pub type OpenTrace<'a> = dyn Fn(&Path) -> Result<Box<dyn TraceRows>, Error> + Sync + 'a;

/// Groups of flags that every trace takes.
const FLAGS: &[FlagGroup] = &[TraceFlags::augment_args];

/// A trace: its rows have times and lengths, but no texts.
const fn trace_dataset(
    name: &'static str,
    about: &'static str,
    run: fn(&Common, &OwnFlags, &mut RequestWriter) -> Result<(), Error>,
) -> Dataset {
    Dataset {
        name,
        aliases: &[],
        about,
        reads: Reads::File,
        lengths: "its prompts have the lengths of the trace",
        output: OutputTokens::Recorded,
        apis: Apis::Text,
        takes: &["prompt_token_ids"],
        flags: FLAGS,
        check: None,
        run,
    }
}

/// A request of a trace.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TraceRow {
    /// Arrival time. Only differences are used.
    time: Nanos,
    /// Prompt tokens.
    input: u32,
    /// Output tokens.
    output: u32,
    /// Names of the blocks of its prompt; empty if the trace has none.
    blocks: Vec<u64>,
    /// Other columns.
    tags: Option<Object>,
    /// Its place in the file, for messages.
    place: String,
}

/// Rows of a trace, in order.
pub trait TraceRows: Send {
    /// The next row; `None` at the end.
    fn next_row(&mut self) -> Result<Option<TraceRow>, Error>;

    /// Describes the rows that were skipped so far, if any.
    fn left_out(&self) -> Option<String> {
        None
    }
}

impl TraceFlags {
    /// Whether the trace is repeated without end.
    fn is_endless(&self) -> bool {
        self.laps == Some(0)
    }
}

/// Writes the rows of the trace in the requested window.
pub fn run(format: &TraceFormat, common: &Common, flags: &OwnFlags, writer: &mut RequestWriter) -> Result<(), Error> {
    let flags: TraceFlags = flags.read_group()?;
    if flags.is_endless() && common.num_prompts == 0 {
        return Err(Error::Usage("--loop without a number never ends: add --num-prompts, or a number of laps".into()));
    }
    let path = common.require_file()?;
    let random = RandomPrompts::from_common(common)?;
    let mut replay = TraceLaps::new(format, path, &flags, (random.tokens_in_front(), random.tokens_at_end()))?;
    let most = if common.num_prompts == 0 { u64::MAX } else { common.num_prompts };
    let rows = (0..most).map_while(|item| replay.next_scheduled().transpose().map(|due| (item, due)));
    let make = |(item, due): (u64, Result<ScheduledRow, Error>)| {
        due.and_then(|due| row_request(format, common, &random, item, due))
    };
    let mut silent = 0_u64;
    make_in_order_from(rows, make, |turn| {
        match turn {
            NextItem::Wait => writer.flush()?,
            NextItem::Item(done) => {
                let (request, fitted, is_silent) = done?;
                silent += u64::from(is_silent);
                writer.write_measured(request, fitted)?;
            }
        }
        Ok(Demand::Yes)
    })?;
    if silent > 0 {
        print_warning(format!(
            "{silent} rows have no response in the trace: each request asks for 1 token, the minimum"
        ));
    }
    let left_out = replay.left_out();
    left_out.iter().for_each(print_warning);
    let written = writer.requests_written();
    if written == 0 {
        let none = match (replay.has_rows(), &left_out) {
            (true, _) => "no rows in the requested window",
            (false, Some(_)) => "no rows except skipped ones",
            (false, None) => "no rows",
        };
        return Err(Error::Input(format!("{} has {none}", path.display())));
    }
    if common.num_prompts > written {
        print_warning(format!("the trace has only {written} rows in the window: wrote only those; --loop repeats it"));
    }
    Ok(())
}

/// Makes the request of a row, and returns whether the trace has no response for it.
fn row_request(
    format: &TraceFormat,
    common: &Common,
    random: &RandomPrompts,
    item: u64,
    due: ScheduledRow,
) -> Result<(SampleRequest, PromptLen, bool), Error> {
    let want = due.row.input as usize;
    let (prompt, fitted) = random.make_from_blocks(item, &due.blocks, format.block_size as usize, want)?;
    let request = SampleRequest {
        prompt: Some(prompt),
        expected_output_len: Some(due.row.output.max(1)),
        expected_cached_len: due.cached,
        timestamp: Some(due.at),
        body: common.ignore_eos(),
        tags: due.row.tags,
        ..SampleRequest::default()
    };
    Ok((request, fitted, due.row.output == 0))
}

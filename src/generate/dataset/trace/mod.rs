//! Traces: when real requests came, how long they were, and which parts of their prompts they shared.
//!
//! ```text
//! mooncake | qwen | azure | burstgpt ─▶ TraceRow ─▶ replay (window, speed, laps) ─▶ prompts (side by side) ─▶ writer
//! ```
//!
//! A trace has lengths and no texts. Its rows are read one by one, so that its size is no matter.

pub mod azure;
pub mod burstgpt;
mod laps;
pub mod mooncake;
pub mod qwen;

use std::io::BufRead;

use self::laps::{ScheduledRow, TraceLaps};
use super::OwnFlags;
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

/// The flags of traces.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct TraceFlags {
    /// Send the trace so many times as fast [default: 1].
    #[arg(long, help_heading = TRACE, value_name = "FACTOR", value_parser = parse_speed)]
    speed: Option<f64>,
    /// Begin so far into the trace, in its own time.
    #[arg(long, help_heading = TRACE, value_name = "TIME", value_parser = parse_duration)]
    from: Option<Nanos>,
    /// End so far into the trace, in its own time.
    #[arg(long, help_heading = TRACE, value_name = "TIME", value_parser = parse_duration)]
    to: Option<Nanos>,
    /// Send the trace so many times, one lap behind the other with new prompts; without a number until --num-prompts.
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
    speed.ok_or_else(|| format!("`{text}` is no speed: write 2 for twice as fast, 0.5 for half"))
}

/// How the files of a trace are written.
pub struct TraceFormat<'a> {
    /// Tokens of a block; 0 where the trace has no blocks.
    pub block_size: u32,
    /// Reads a file, whose name is for messages.
    pub open: &'a (dyn Fn(TraceInput, String) -> Result<Box<dyn TraceRows>, Error> + Sync),
}

/// A file of a trace.
pub type TraceInput = Box<dyn BufRead + Send>;

/// What `lengths` of a trace says.
pub const LENGTHS: &str = "its prompts have the lengths of the trace";

/// The common flags that traces take.
pub const TAKES: &[&str] = &["prompt_token_ids"];

/// One request of a trace.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TraceRow {
    /// When it came. Any instant may be 0: only differences count.
    time: Nanos,
    /// Tokens of its prompt.
    input: u32,
    /// Tokens of its answer.
    output: u32,
    /// The names of the blocks that its prompt is made of; none where the trace does not say.
    blocks: Vec<u64>,
    /// What else the trace says of it.
    tags: Option<Object>,
    /// Where it stands, for messages.
    line: u64,
}

/// An instant of a trace as its files write it.
///
/// # Errors
/// It is before 0 or later than what is counted in nanoseconds: such times would all become one.
fn time_from_secs(seconds: f64) -> Result<Nanos, String> {
    const MOST: f64 = 1e10;
    if (0.0..=MOST).contains(&seconds) {
        return Ok(Nanos::from_secs_f64(seconds));
    }
    Err(format!("the time {seconds} s is not from 0 to {MOST} s"))
}

/// The rows of a trace, in their order.
pub trait TraceRows: Send {
    /// The next; `None`: there are no more.
    fn next_row(&mut self) -> Result<Option<TraceRow>, Error>;

    /// What was passed over so far, in words; `None`: nothing.
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

/// Writes the rows of the trace in the common's window.
pub fn run(format: &TraceFormat, common: &Common, flags: &OwnFlags, writer: &mut RequestWriter) -> Result<(), Error> {
    let flags: TraceFlags = flags.read_group()?;
    if flags.is_endless() && common.num_prompts == 0 {
        return Err(Error::Usage("--loop without a number has no end: add --num-prompts, or a number of laps".into()));
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
        print_warning(format!("{silent} rows have no answer in the trace: each asks for 1 token, the least there is"));
    }
    let left_out = replay.left_out();
    left_out.iter().for_each(print_warning);
    let written = writer.requests_written();
    if written == 0 {
        let none = match (replay.has_rows(), &left_out) {
            (true, _) => "no row in the window that was asked for",
            (false, Some(_)) => "no rows but those that were left out",
            (false, None) => "no rows",
        };
        return Err(Error::Input(format!("{} has {none}", path.display())));
    }
    if common.num_prompts > written {
        print_warning(format!("the trace had {written} rows in the window: wrote those; --loop goes round again"));
    }
    Ok(())
}

/// The request of a row, and whether the trace gives it no answer.
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

//! Traces: when real requests came, how long they were, and which parts of their prompts they shared.
//!
//! ```text
//! mooncake | qwen | azure | burstgpt ─▶ TraceRow ─▶ replay (window, speed, laps) ─▶ prompts (side by side) ─▶ writer
//! ```
//!
//! A trace has lengths and no texts. Its rows are read one by one, so that its size is no matter.

mod azure;
mod burstgpt;
mod mooncake;
mod qwen;
mod replay;

use clap::Args;

use self::replay::{Due, Replay};
use super::{
    Plan,
    ordered::{More, Turn, ordered_from},
    random::Random,
    warn,
    writer::{Fitted, Writer},
};
use crate::{
    error::Error,
    record::{Object, SampleRequest},
    units::{Nanos, parse_count, parse_duration},
};

const TRACE: &str = "Traces (mooncake, qwen, azure, burstgpt)";

/// The flags of traces.
#[derive(Debug, Clone, Default, Args)]
pub struct Flags {
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
    /// The model whose rows are taken (burstgpt); `all` takes each [default: GPT-4].
    #[arg(long, help_heading = TRACE, value_name = "NAME")]
    burstgpt_model: Option<String>,
}

fn parse_speed(text: &str) -> Result<f64, String> {
    let speed = text.trim().parse().ok().filter(|speed: &f64| speed.is_finite() && *speed > 0.0);
    speed.ok_or_else(|| format!("`{text}` is no speed: write 2 for twice as fast, 0.5 for half"))
}

/// The traces whose forms are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Mooncake,
    Qwen,
    Azure,
    Burstgpt,
}

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
fn instant(seconds: f64) -> Result<Nanos, String> {
    const MOST: f64 = 1e10;
    if (0.0..=MOST).contains(&seconds) {
        return Ok(Nanos::from_secs_f64(seconds));
    }
    Err(format!("the time {seconds} s is not from 0 to {MOST} s"))
}

/// The rows of a trace, in their order.
trait Rows: Send {
    /// The next; `None`: there are no more.
    fn next_row(&mut self) -> Result<Option<TraceRow>, Error>;

    /// What was passed over so far, in words; `None`: nothing.
    fn left_out(&self) -> Option<String> {
        None
    }
}

impl Flags {
    /// The first flag that was given.
    pub fn given(&self) -> Option<&'static str> {
        let flags = [
            ("--speed", self.speed.is_some()),
            ("--from", self.from.is_some()),
            ("--to", self.to.is_some()),
            ("--loop", self.laps.is_some()),
            ("--burstgpt-model", self.burstgpt_model.is_some()),
        ];
        flags.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
    }

    /// Whether the trace has no end.
    fn endless(&self) -> bool {
        self.laps == Some(0)
    }
}

impl Form {
    /// Tokens in a block.
    fn block_size(self) -> u32 {
        match self {
            Form::Mooncake => 512,
            Form::Qwen => 16,
            Form::Azure | Form::Burstgpt => 0,
        }
    }
}

/// Writes the rows of the trace in the plan's window.
pub fn run(form: Form, plan: &Plan, flags: &Flags, writer: &mut Writer) -> Result<(), Error> {
    if flags.burstgpt_model.is_some() && form != Form::Burstgpt {
        return Err(Error::Usage("--burstgpt-model works with --dataset-name burstgpt only".into()));
    }
    if flags.endless() && plan.num_prompts == 0 {
        return Err(Error::Usage("--loop without a number has no end: add --num-prompts, or a number of laps".into()));
    }
    let path = plan.file()?;
    let random = Random::of(plan)?;
    let mut replay = Replay::new(form, path, flags, (random.front(), random.rear()))?;
    let most = if plan.num_prompts == 0 { u64::MAX } else { plan.num_prompts };
    let rows = (0..most).map_while(|item| replay.next_due().transpose().map(|due| (item, due)));
    let make = |(item, due): (u64, Result<Due, Error>)| due.and_then(|due| request(form, plan, &random, item, due));
    let mut silent = 0_u64;
    ordered_from(rows, make, |turn| {
        match turn {
            Turn::Wait => writer.flush()?,
            Turn::Item(done) => {
                let (request, fitted, is_silent) = done?;
                silent += u64::from(is_silent);
                writer.write_fitted(request, fitted)?;
            }
        }
        Ok(More::Yes)
    })?;
    if silent > 0 {
        warn(format!("{silent} rows have no answer in the trace: each asks for 1 token, the least there is"));
    }
    let left_out = replay.left_out();
    left_out.iter().for_each(warn);
    let written = writer.written();
    if written == 0 {
        let none = match (replay.has_rows(), &left_out) {
            (true, _) => "no row in the window that was asked for",
            (false, Some(_)) => "no rows but those that were left out",
            (false, None) => "no rows",
        };
        return Err(Error::Input(format!("{} has {none}", path.display())));
    }
    if plan.num_prompts > written {
        warn(format!("the trace had {written} rows in the window: wrote those; --loop goes round again"));
    }
    Ok(())
}

/// The request of a row, and whether the trace gives it no answer.
fn request(
    form: Form,
    plan: &Plan,
    random: &Random,
    item: u64,
    due: Due,
) -> Result<(SampleRequest, Fitted, bool), Error> {
    let want = due.row.input as usize;
    let (prompt, fitted) = random.of_blocks(item, &due.blocks, form.block_size() as usize, want)?;
    let request = SampleRequest {
        prompt: Some(prompt),
        expected_output_len: Some(due.row.output.max(1)),
        expected_cached_len: due.cached,
        timestamp: Some(due.at),
        body: plan.ignore_eos(),
        tags: due.row.tags,
        ..SampleRequest::default()
    };
    Ok((request, fitted, due.row.output == 0))
}

//! `BurstGPT`'s traces, CSV files with one row per request:
//!
//! ```text
//! Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
//! 5,ChatGPT,472,18,490,Conversation log
//! ```
//!
//! Times are in seconds; newer files also have `Session ID` and `Elapsed time`. As in vLLM, the rows of one model are
//! used, and failures, which have no response, are skipped. Unlike in vLLM, the rows keep their times.

use std::io::Read;

use clap::Args as _;

use super::{
    super::{Dataset, OwnFlags},
    TRACE, TraceFlags, TraceFormat, TraceRow, TraceRows, run as run_trace, trace_dataset,
};
use crate::{
    arrival::TimeScale,
    error::Error,
    generate::{common::Common, csv_table::CsvTable, writer::RequestWriter},
    record::Object,
    units::{Nanos, SECOND},
};

/// The flag that only burstgpt has.
#[derive(Debug, clap::Args)]
struct BurstGptFlags {
    /// Model whose rows are used, or `all` (burstgpt) [default: GPT-4].
    #[arg(long, help_heading = TRACE, value_name = "NAME")]
    burstgpt_model: Option<String>,
}

pub const DATASET: Dataset = Dataset {
    flags: &[TraceFlags::augment_args, BurstGptFlags::augment_args],
    ..trace_dataset("burstgpt", "A BurstGPT trace: times and lengths", run)
};

/// Writes the rows of the trace.
fn run(common: &Common, flags: &OwnFlags, writer: &mut RequestWriter) -> Result<(), Error> {
    let own: BurstGptFlags = flags.read_group()?;
    let model = own.burstgpt_model.as_deref().unwrap_or("GPT-4");
    let format =
        TraceFormat { block_size: 0, open: &|path| Ok(Box::new(BurstGptTrace::new(CsvTable::open(path)?, model)?)) };
    run_trace(&format, common, flags, writer)
}

/// A file of the trace.
struct BurstGptTrace<R> {
    table: CsvTable<R>,
    time: usize,
    scale: TimeScale,
    model: usize,
    input: usize,
    output: usize,
    kind: Option<usize>,
    /// The model whose rows are used; `None`: all.
    wanted: Option<String>,
    others: u64,
    failures: u64,
}

impl<R: Read> BurstGptTrace<R> {
    /// Finds the columns. `model` is the value of the flag.
    fn new(table: CsvTable<R>, model: &str) -> Result<Self, Error> {
        let [time, name, input, output] =
            ["Timestamp", "Model", "Request tokens", "Response tokens"].map(|name| table.find_column(name));
        let wanted = (model != "all").then(|| model.to_owned());
        let kind = table.find_optional("Log Type");
        let (others, failures) = (0, 0);
        Ok(BurstGptTrace {
            time: time?,
            scale: TimeScale::new(Nanos(SECOND)),
            model: name?,
            input: input?,
            output: output?,
            kind,
            table,
            wanted,
            others,
            failures,
        })
    }

    fn row_tags(&self) -> Object {
        let named = [("model", Some(self.model)), ("log_type", self.kind)];
        named.into_iter().filter_map(|(name, at)| Some((name.to_owned(), self.table.field_text(at?).into()))).collect()
    }
}

impl<R: Read + Send> TraceRows for BurstGptTrace<R> {
    fn next_row(&mut self) -> Result<Option<TraceRow>, Error> {
        while self.table.read_row()? {
            if self.wanted.as_ref().is_some_and(|wanted| wanted != self.table.field_text(self.model)) {
                self.others += 1;
                continue;
            }
            let output = self.table.parse_count(self.output)?;
            if output == 0 {
                self.failures += 1;
                continue;
            }
            return Ok(Some(TraceRow {
                time: self.table.parse_time(self.time, &mut self.scale)?,
                input: self.table.parse_count(self.input)?,
                output,
                tags: Some(self.row_tags()),
                place: self.table.row_place(),
                ..TraceRow::default()
            }));
        }
        Ok(None)
    }

    fn left_out(&self) -> Option<String> {
        let wanted = self.wanted.as_deref().unwrap_or_default();
        let parts = [
            (
                self.others,
                format!("{} rows of models other than {wanted} (--burstgpt-model all uses them)", self.others),
            ),
            (self.failures, format!("{} failures, which have no response", self.failures)),
        ];
        let counted: Vec<String> = parts.into_iter().filter(|(count, _)| *count > 0).map(|(_, text)| text).collect();
        (!counted.is_empty()).then(|| format!("skipped rows of the trace: {}", counted.join("; ")))
    }
}

//! Azure's LLM inference traces of 2023 and 2024, CSV files with one row per request:
//!
//! ```text
//! TIMESTAMP,ContextTokens,GeneratedTokens
//! 2023-11-16 18:15:46.6805900,374,44
//! 2024-05-10 00:00:00.009930+00:00,1200,33
//! ```

use std::io::Read;

use super::{
    super::{Dataset, OwnFlags},
    TraceFormat, TraceRow, TraceRows, run as run_trace, trace_dataset,
};
use crate::{
    arrival::TimeScale,
    error::Error,
    generate::{common::Common, csv_table::CsvTable, writer::RequestWriter},
    units::{Nanos, SECOND},
};

pub const DATASET: Dataset = trace_dataset("azure", "An Azure trace of 2023 or 2024: times and lengths", run);

/// Writes the rows of the trace.
fn run(common: &Common, flags: &OwnFlags, writer: &mut RequestWriter) -> Result<(), Error> {
    let format = TraceFormat { block_size: 0, open: &|path| Ok(Box::new(AzureTrace::new(CsvTable::open(path)?)?)) };
    run_trace(&format, common, flags, writer)
}

/// A file of the trace.
struct AzureTrace<R> {
    table: CsvTable<R>,
    time: usize,
    scale: TimeScale,
    input: usize,
    output: usize,
}

impl<R: Read> AzureTrace<R> {
    /// Finds the columns.
    fn new(table: CsvTable<R>) -> Result<Self, Error> {
        let [time, input, output] =
            ["TIMESTAMP", "ContextTokens", "GeneratedTokens"].map(|name| table.find_column(name));
        Ok(AzureTrace { time: time?, scale: TimeScale::new(Nanos(SECOND)), input: input?, output: output?, table })
    }
}

impl<R: Read + Send> TraceRows for AzureTrace<R> {
    fn next_row(&mut self) -> Result<Option<TraceRow>, Error> {
        if !self.table.read_row()? {
            return Ok(None);
        }
        Ok(Some(TraceRow {
            time: self.table.parse_time(self.time, &mut self.scale)?,
            input: self.table.parse_count(self.input)?,
            output: self.table.parse_count(self.output)?,
            place: self.table.row_place(),
            ..TraceRow::default()
        }))
    }
}

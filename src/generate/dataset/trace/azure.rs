//! Azure's LLM inference traces of 2023 and 2024, CSV files with one row per request:
//!
//! ```text
//! TIMESTAMP,ContextTokens,GeneratedTokens
//! 2023-11-16 18:15:46.6805900,374,44
//! 2024-05-10 00:00:00.009930+00:00,1200,33
//! ```

use std::io::Read;

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

use super::{
    super::{Dataset, OwnFlags},
    TraceFormat, TraceRow, TraceRows, run as run_trace, trace_dataset,
};
use crate::{
    error::Error,
    generate::{common::Common, csv_table::CsvTable, writer::RequestWriter},
    units::Nanos,
};

pub const DATASET: Dataset = trace_dataset("azure", "An Azure trace of 2023 or 2024: times and lengths", run);

/// Writes the rows of the trace.
fn run(common: &Common, flags: &OwnFlags, writer: &mut RequestWriter) -> Result<(), Error> {
    let format =
        TraceFormat { block_size: 0, open: &|input, name| Ok(Box::new(AzureTrace::new(CsvTable::new(input, name)?)?)) };
    run_trace(&format, common, flags, writer)
}

/// A file of the trace.
struct AzureTrace<R> {
    table: CsvTable<R>,
    time: usize,
    input: usize,
    output: usize,
}

impl<R: Read> AzureTrace<R> {
    /// Finds the columns.
    fn new(table: CsvTable<R>) -> Result<Self, Error> {
        let [time, input, output] =
            ["TIMESTAMP", "ContextTokens", "GeneratedTokens"].map(|name| table.find_column(name));
        Ok(AzureTrace { time: time?, input: input?, output: output?, table })
    }
}

impl<R: Read + Send> TraceRows for AzureTrace<R> {
    fn next_row(&mut self) -> Result<Option<TraceRow>, Error> {
        if !self.table.read_row()? {
            return Ok(None);
        }
        Ok(Some(TraceRow {
            time: self.table.parse_field(self.time, parse_time)?,
            input: self.table.parse_field(self.input, |text| text.parse().ok())?,
            output: self.table.parse_field(self.output, |text| text.parse().ok())?,
            line: self.table.line_number(),
            ..TraceRow::default()
        }))
    }
}

/// Parses a date and time. A time zone may be missing, because only differences are used.
fn parse_time(text: &str) -> Option<Nanos> {
    let zoned = || text.parse::<Timestamp>().ok();
    let civil = || TimeZone::UTC.to_timestamp(text.parse::<DateTime>().ok()?).ok();
    u64::try_from(zoned().or_else(civil)?.as_nanosecond()).ok().map(Nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_keep_all_their_digits() {
        let at = |text| parse_time(text).unwrap();
        let early = at("2023-11-16 18:15:46.6805900");
        assert_eq!(at("2023-11-16 18:15:50.9951690").since(early), Nanos(4_314_579_000));
        assert_eq!(at("2023-11-16T18:15:46.680590Z"), early);
        assert_eq!(at("2023-11-16 19:15:46.680590+01:00"), early);
        assert_eq!(at("2023-11-17 00:00:00").since(at("2023-11-16 23:59:59.5")), Nanos(500_000_000));
        assert_eq!(parse_time("soon"), None);
    }
}

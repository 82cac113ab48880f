//! Mooncake's traces (FAST '25), one JSON object per line:
//!
//! ```json
//! {"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 48, 49, 50, 51]}
//! ```
//!
//! Times are in milliseconds. A hash id names a block of 512 tokens and everything before it.

use std::io::BufRead;

use serde::Deserialize;

use super::{
    super::{Dataset, OwnFlags},
    TraceFormat, TraceRow, TraceRows, run as run_trace, time_from_secs, trace_dataset,
};
use crate::{
    error::Error,
    generate::{common::Common, writer::RequestWriter},
    ndjson::NdjsonReader,
};

pub const DATASET: Dataset = trace_dataset("mooncake", "A Mooncake trace: times, lengths and shared blocks", run);

/// Writes the rows of the trace.
fn run(common: &Common, flags: &OwnFlags, writer: &mut RequestWriter) -> Result<(), Error> {
    let format = TraceFormat {
        block_size: 512,
        open: &|input, name| Ok(Box::new(MooncakeTrace(NdjsonReader::new(input, name)))),
    };
    run_trace(&format, common, flags, writer)
}

/// A file of the trace.
struct MooncakeTrace<R>(NdjsonReader<R>);

#[derive(Deserialize)]
struct MooncakeRow {
    timestamp: f64,
    input_length: u32,
    output_length: u32,
    #[serde(default)]
    hash_ids: Vec<u64>,
}

impl<R: BufRead + Send> TraceRows for MooncakeTrace<R> {
    fn next_row(&mut self) -> Result<Option<TraceRow>, Error> {
        let Some(record) = self.0.next_record::<MooncakeRow>()? else { return Ok(None) };
        Ok(Some(TraceRow {
            time: time_from_secs(record.timestamp / 1e3).map_err(|what| self.0.error_at(0, &what))?,
            input: record.input_length,
            output: record.output_length,
            blocks: record.hash_ids,
            tags: None,
            line: self.0.line_number(),
        }))
    }
}

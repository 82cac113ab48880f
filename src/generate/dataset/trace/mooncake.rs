//! Mooncake's traces (FAST '25), one JSON object per line:
//!
//! ```json
//! {"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 48, 49, 50, 51]}
//! ```
//!
//! Times are in milliseconds. A hash id names a block of 512 tokens and everything before it.

use serde::Deserialize;

use super::{
    super::{Dataset, OwnFlags},
    TraceFormat, TraceRow, TraceRows, run as run_trace, trace_dataset,
};
use crate::{
    arrival::{TimeScale, TimeValue},
    error::Error,
    fields::WholeCount,
    generate::{common::Common, row_stream::RowStream, writer::RequestWriter},
    units::Nanos,
};

pub const DATASET: Dataset = trace_dataset("mooncake", "A Mooncake trace: times, lengths and shared blocks", run);

/// Writes the rows of the trace.
fn run(common: &Common, flags: &OwnFlags, writer: &mut RequestWriter) -> Result<(), Error> {
    let format = TraceFormat {
        block_size: 512,
        open: &|path| {
            Ok(Box::new(MooncakeTrace { rows: RowStream::open(path, false)?, scale: TimeScale::new(Nanos(1_000_000)) }))
        },
    };
    run_trace(&format, common, flags, writer)
}

/// A file of the trace.
struct MooncakeTrace {
    rows: RowStream,
    scale: TimeScale,
}

#[derive(Deserialize)]
struct MooncakeRow {
    timestamp: TimeValue,
    input_length: WholeCount,
    output_length: WholeCount,
    #[serde(default)]
    hash_ids: Vec<u64>,
}

impl TraceRows for MooncakeTrace {
    fn next_row(&mut self) -> Result<Option<TraceRow>, Error> {
        let Some(row) = self.rows.next_row()? else { return Ok(None) };
        let record: MooncakeRow = row.parse()?;
        Ok(Some(TraceRow {
            time: self.scale.convert(record.timestamp).map_err(|what| row.wrong(&what))?,
            input: record.input_length.0,
            output: record.output_length.0,
            blocks: record.hash_ids,
            tags: None,
            place: row.place,
        }))
    }
}

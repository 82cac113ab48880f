//! Mooncake's traces (FAST '25), a JSON object a line:
//!
//! ```json
//! {"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47, 48, 49, 50, 51]}
//! ```
//!
//! Times are milliseconds. A hash id names a block of 512 tokens and all that stands before it.

use std::io::BufRead;

use serde::Deserialize;

use super::{Rows, TraceRow, instant};
use crate::{error::Error, ndjson::LineReader};

/// A file of them.
pub struct Mooncake<R>(pub LineReader<R>);

#[derive(Deserialize)]
struct Record {
    timestamp: f64,
    input_length: u32,
    output_length: u32,
    #[serde(default)]
    hash_ids: Vec<u64>,
}

impl<R: BufRead + Send> Rows for Mooncake<R> {
    fn next_row(&mut self) -> Result<Option<TraceRow>, Error> {
        let Some(record) = self.0.next_record::<Record>()? else { return Ok(None) };
        Ok(Some(TraceRow {
            time: instant(record.timestamp / 1e3).map_err(|what| self.0.error_at(0, &what))?,
            input: record.input_length,
            output: record.output_length,
            blocks: record.hash_ids,
            tags: None,
            line: self.0.line_number(),
        }))
    }
}

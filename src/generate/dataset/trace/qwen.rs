//! The traces of Qwen's service at Alibaba Cloud (Bailian), one JSON object per line:
//!
//! ```json
//! {"chat_id": 159, "parent_chat_id": 55, "timestamp": 61.114, "input_length": 521, "output_length": 132, "type": "text", "turn": 2, "hash_ids": [1089, 1090]}
//! ```
//!
//! Times are in seconds. A hash id names a block of 16 tokens and everything before it. A later turn of a chat was sent
//! by its user at its time, and its prompt contains the responses of that day: so turns are requests with a timestamp
//! here, not sessions.

use serde::Deserialize;
use serde_json::Value;

use super::{
    super::{Dataset, OwnFlags},
    TraceFormat, TraceRow, TraceRows, run as run_trace, trace_dataset,
};
use crate::{
    arrival::{TimeScale, TimeValue},
    error::Error,
    fields::WholeCount,
    generate::{common::Common, row_stream::RowStream, writer::RequestWriter},
    record::Object,
    units::{Nanos, SECOND},
};

pub const DATASET: Dataset = Dataset {
    aliases: &["bailian"],
    ..trace_dataset("qwen", "A trace of Qwen's service (Bailian): times, lengths and shared blocks", run)
};

/// Writes the rows of the trace.
fn run(common: &Common, flags: &OwnFlags, writer: &mut RequestWriter) -> Result<(), Error> {
    let format = TraceFormat {
        block_size: 16,
        open: &|path| {
            Ok(Box::new(QwenTrace { rows: RowStream::open(path, false)?, scale: TimeScale::new(Nanos(SECOND)) }))
        },
    };
    run_trace(&format, common, flags, writer)
}

/// A file of the trace.
struct QwenTrace {
    rows: RowStream,
    scale: TimeScale,
}

#[derive(Deserialize)]
struct QwenRow {
    timestamp: TimeValue,
    input_length: WholeCount,
    output_length: WholeCount,
    #[serde(default)]
    hash_ids: Vec<u64>,
    /// The other keys.
    #[serde(flatten)]
    rest: Object,
}

/// Keys that become tags.
const TAGS: [&str; 4] = ["chat_id", "parent_chat_id", "turn", "type"];

impl TraceRows for QwenTrace {
    fn next_row(&mut self) -> Result<Option<TraceRow>, Error> {
        let Some(row) = self.rows.next_row()? else { return Ok(None) };
        let mut record: QwenRow = row.parse()?;
        let tags = TAGS.iter().filter_map(|name| Some(((*name).to_owned(), record.rest.remove(*name)?)));
        let tags: Object = tags.filter(|(_, value)| !matches!(value, Value::Object(_) | Value::Array(_))).collect();
        Ok(Some(TraceRow {
            time: self.scale.convert(record.timestamp).map_err(|what| row.wrong(&what))?,
            input: record.input_length.0,
            output: record.output_length.0,
            blocks: record.hash_ids,
            tags: (!tags.is_empty()).then_some(tags),
            place: row.place,
        }))
    }
}

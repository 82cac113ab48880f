//! `BurstGPT`'s traces, tables with a row for each request:
//!
//! ```text
//! Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
//! 5,ChatGPT,472,18,490,Conversation log
//! ```
//!
//! Times are seconds; newer files also have `Session ID` and `Elapsed time`. As in vLLM the rows of one model are taken and
//! failures, which have no response, are left out; unlike there they keep their times.

use std::io::Read;

use super::{super::table::Table, Rows, TraceRow, instant};
use crate::{error::Error, record::Object};

/// A file of them.
pub struct BurstGpt<R> {
    table: Table<R>,
    time: usize,
    model: usize,
    input: usize,
    output: usize,
    kind: Option<usize>,
    /// The model whose rows are taken; `None`: any.
    wanted: Option<String>,
    others: u64,
    failures: u64,
}

impl<R: Read> BurstGpt<R> {
    /// Finds the columns. `model` is the flag's value.
    pub fn new(table: Table<R>, model: &str) -> Result<Self, Error> {
        let [time, name, input, output] =
            ["Timestamp", "Model", "Request tokens", "Response tokens"].map(|name| table.column(name));
        let wanted = (model != "all").then(|| model.to_owned());
        let kind = table.optional("Log Type");
        let (others, failures) = (0, 0);
        Ok(BurstGpt {
            time: time?,
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

    /// A token count, which some files write with a decimal point.
    fn tokens(&self, column: usize) -> Result<u32, Error> {
        self.table.field(column, |text| text.strip_suffix(".0").unwrap_or(text).parse().ok())
    }

    fn tags(&self) -> Object {
        let named = [("model", Some(self.model)), ("log_type", self.kind)];
        named.into_iter().filter_map(|(name, at)| Some((name.to_owned(), self.table.text(at?).into()))).collect()
    }
}

impl<R: Read + Send> Rows for BurstGpt<R> {
    fn next_row(&mut self) -> Result<Option<TraceRow>, Error> {
        while self.table.advance()? {
            if self.wanted.as_ref().is_some_and(|wanted| wanted != self.table.text(self.model)) {
                self.others += 1;
                continue;
            }
            let output = self.tokens(self.output)?;
            if output == 0 {
                self.failures += 1;
                continue;
            }
            let time = |text: &str| instant(text.parse().ok()?).ok();
            return Ok(Some(TraceRow {
                time: self.table.field(self.time, time)?,
                input: self.tokens(self.input)?,
                output,
                tags: Some(self.tags()),
                line: self.table.line(),
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
                format!("{} rows of models other than {wanted} (--burstgpt-model all takes them)", self.others),
            ),
            (self.failures, format!("{} failures, which have no response", self.failures)),
        ];
        let told: Vec<String> = parts.into_iter().filter(|(count, _)| *count > 0).map(|(_, text)| text).collect();
        (!told.is_empty()).then(|| format!("left out of the trace: {}", told.join("; ")))
    }
}

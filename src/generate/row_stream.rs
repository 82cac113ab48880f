//! The rows of a file in its order: a file in any form of JSON, or a pipe with one JSON object per line.

use std::{io::BufRead, path::Path};

use crate::{
    cli,
    data::{Row, Rows},
    error::Error,
    generate::print_warning,
    ndjson::NdjsonReader,
};

/// Rows in order.
pub struct RowStream {
    source: RowSource,
    name: String,
}

enum RowSource {
    /// A regular file, and the next row.
    File(Rows, usize),
    Pipe(NdjsonReader<Box<dyn BufRead + Send>>),
}

impl RowStream {
    /// Opens a file, or standard input for `-`. With `lenient`, the complete part of a truncated file is used.
    pub fn open(path: &Path, lenient: bool) -> Result<Self, Error> {
        if path.is_file() {
            let (rows, cut) = Rows::from_json(path, lenient)?;
            cut.into_iter().for_each(print_warning);
            return Ok(RowStream { source: RowSource::File(rows, 0), name: path.display().to_string() });
        }
        let (input, name) = cli::open_input(path)?;
        Ok(RowStream { source: RowSource::Pipe(NdjsonReader::new(input, name.clone())), name })
    }

    /// What messages call the input.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next row that is not null; `None` at the end.
    pub fn next_row(&mut self) -> Result<Option<Row>, Error> {
        loop {
            let row = match &mut self.source {
                RowSource::File(rows, next) => {
                    *next += 1;
                    rows.read(*next - 1)?
                }
                RowSource::Pipe(lines) => {
                    let Some(json) = lines.next_line()?.map(<[u8]>::to_vec) else { return Ok(None) };
                    let place = format!("{}:{}", self.name, lines.line_number());
                    Some(Row::new(json, place))
                }
            };
            if row.as_ref().is_none_or(|row| !row.is_null()) {
                return Ok(row);
            }
        }
    }
}

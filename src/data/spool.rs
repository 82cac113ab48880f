//! A temporary file of rows, unpacked from a file that cannot be read in random order.

use std::{
    fs::{self, File},
    io::{BufWriter, Read, Write},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::{Map, Value};

use super::{Rows, span::Span};
use crate::error::Error;

/// A temporary file without a name: it disappears when it is closed, however the program ends. It is created in `TMPDIR`.
pub struct RowSpool {
    file: BufWriter<File>,
    spans: Vec<Span>,
    offset: u64,
}

/// Creates a temporary file without a name.
fn create_unnamed() -> Result<File, Error> {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("vb-rows-{}-{number}", std::process::id()));
    let failed = |e| Error::Write { to: path.display().to_string(), source: e };
    // `create_new` fails if the file exists, so no other process has it open.
    let file = File::options().read(true).write(true).create_new(true).open(&path).map_err(failed)?;
    fs::remove_file(&path).map_err(failed)?;
    Ok(file)
}

/// Copies a text into a temporary file without a name.
pub fn copy_unnamed(input: &mut impl Read) -> Result<File, Error> {
    let mut file = create_unnamed()?;
    std::io::copy(input, &mut file).map_err(write_error)?;
    Ok(file)
}

impl RowSpool {
    pub fn new() -> Result<Self, Error> {
        let file = BufWriter::with_capacity(1 << 18, create_unnamed()?);
        Ok(RowSpool { file, spans: Vec::new(), offset: 0 })
    }

    /// Adds a row with its `number` in the file that it came from.
    pub fn push(&mut self, row: &Map<String, Value>, number: u64) -> Result<(), Error> {
        let json = serde_json::to_vec(row).map_err(|e| write_error(e.into()))?;
        self.file.write_all(&json).map_err(write_error)?;
        self.spans.push(Span { offset: self.offset, len: json.len() as u64, line: number });
        self.offset += json.len() as u64;
        Ok(())
    }

    /// The rows. Messages give the place of a row as `name`, `before_number` and its number: `:` before the line of a text.
    pub fn into_rows(self, name: String, before_number: &'static str) -> Result<Rows, Error> {
        let file = self.file.into_inner().map_err(|e| write_error(e.into_error()))?;
        Ok(Rows::from_spans(file, name, self.spans, before_number))
    }
}

fn write_error(source: std::io::Error) -> Error {
    Error::Write { to: "the temporary file of rows (in TMPDIR)".into(), source }
}

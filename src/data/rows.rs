//! The rows of a dataset file in any order, without holding them: finds where each begins, and reads it when it is needed.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::Path,
    sync::{Mutex, PoisonError},
};

use super::{json_list, span::Span};
use crate::{
    error::{Error, strip_location},
    ndjson::BOM,
};

/// Chooses the columns to read from the names of all columns.
pub type PickColumns<'a> = &'a mut dyn FnMut(&[String]) -> Result<Vec<String>, Error>;

/// A dataset file whose rows were found but not read: it keeps 24 bytes per row.
#[derive(Debug)]
pub struct Rows {
    file: Mutex<File>,
    name: String,
    spans: Vec<Span>,
    /// The text between the name and the number of a row in messages: `:` before lines.
    before_number: &'static str,
}

/// A row and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The row as JSON.
    pub json: Vec<u8>,
    /// Its place in messages: `file:LINE`, or `file: byte N`.
    pub place: String,
}

impl Rows {
    /// Opens a JSON list of objects, like ShareGPT's.
    ///
    /// A list that breaks off is an error. If `lenient`, its complete objects are used, and the second value reports how many.
    pub fn from_list(path: &Path, lenient: bool) -> Result<(Self, Option<String>), Error> {
        let (file, name) = open_regular(path)?;
        let listing = json_list::scan_list(buffer_reads(&file)).map_err(|e| Error::read(path, e))?;
        let count = listing.spans.len();
        let cut = listing.broken.map(|b| format!("{name}: byte {}: {}", b.byte, b.what));
        let note = match cut {
            Some(cut) if !lenient || count == 0 => {
                return Err(Error::Input(format!(
                    "{cut} (after {count} complete objects): get the complete file, or pass --lenient to use those"
                )));
            }
            Some(cut) => Some(format!("{cut}; using the {count} complete objects before it")),
            None => None,
        };
        Ok((Self::from_spans(file, name, listing.spans, ":"), note))
    }

    /// Opens a file with one JSON object per line. Blank lines are skipped.
    pub fn from_lines(path: &Path) -> Result<Self, Error> {
        let (file, name) = open_regular(path)?;
        let spans = find_lines(buffer_reads(&file)).map_err(|e| Error::read(path, e))?;
        Ok(Self::from_spans(file, name, spans, ":"))
    }

    /// A file whose rows were found already; messages call it `name`.
    pub(super) fn from_spans(file: File, name: String, spans: Vec<Span>, before_number: &'static str) -> Self {
        Rows { file: Mutex::new(file), name, spans, before_number }
    }

    /// The number of rows.
    #[must_use]
    pub fn count(&self) -> usize {
        self.spans.len()
    }

    /// Reads the row at `index`.
    pub fn read(&self, index: usize) -> Result<Option<Row>, Error> {
        let Some(span) = self.spans.get(index) else { return Ok(None) };
        let mut json = Vec::new();
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(span.offset))
            .and_then(|_| file.by_ref().take(span.len).read_to_end(&mut json))
            .map_err(|source| Error::Read { from: self.name.clone(), source })?;
        let place = match span.line {
            0 => format!("{}: byte {}", self.name, span.offset),
            number => format!("{}{}{number}", self.name, self.before_number),
        };
        Ok(Some(Row { json, place }))
    }
}

impl Row {
    /// The error for a row that serde rejected. Rows of one line get the column.
    #[must_use]
    pub fn bad_json(&self, e: &serde_json::Error) -> Error {
        let what = strip_location(e);
        match (e.line(), e.column()) {
            (1, column) if column > 0 => Error::Input(format!("{}:{column}: {what}", self.place)),
            _ => self.wrong(&what),
        }
    }

    /// The error for a row with the wrong content.
    #[must_use]
    pub fn wrong(&self, what: &str) -> Error {
        Error::Input(format!("{}: {what}", self.place))
    }
}

fn open_regular(path: &Path) -> Result<(File, String), Error> {
    let name = path.display().to_string();
    let regular = path.metadata().map_err(|e| Error::read(path, e))?.is_file();
    if !regular {
        return Err(Error::Usage(format!(
            "{name} is not a regular file: its rows are read in random order, so save it to one first"
        )));
    }
    Ok((File::open(path).map_err(|e| Error::read(path, e))?, name))
}

fn buffer_reads(file: &File) -> BufReader<&File> {
    BufReader::with_capacity(1 << 18, file)
}

fn find_lines(mut input: impl BufRead) -> io::Result<Vec<Span>> {
    let mut spans = Vec::new();
    let (mut offset, mut line, mut buffer) = (0, 0, Vec::new());
    loop {
        buffer.clear();
        let len = input.read_until(b'\n', &mut buffer)? as u64;
        if len == 0 {
            return Ok(spans);
        }
        line += 1;
        let skip = if line == 1 && buffer.starts_with(BOM) { BOM.len() as u64 } else { 0 };
        if !buffer.trim_ascii().is_empty() {
            spans.push(Span { offset: offset + skip, len: len - skip, line });
        }
        offset += len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_with_their_numbers() {
        let spans = find_lines(&b"{}\n\n  \n{\"a\":1}"[..]).unwrap();
        assert_eq!(spans, [Span { offset: 0, len: 3, line: 1 }, Span { offset: 7, len: 7, line: 4 }]);
        let marked = find_lines(&b"\xEF\xBB\xBF{}\n{}"[..]).unwrap();
        assert_eq!(marked, [Span { offset: 3, len: 3, line: 1 }, Span { offset: 6, len: 2, line: 2 }]);
    }

    #[test]
    fn a_json_error_has_its_column_only_in_rows_of_one_line() {
        let row = |json: &str, place: &str| Row { json: json.into(), place: place.into() };
        let error = |row: &Row| row.bad_json(&serde_json::from_slice::<serde_json::Value>(&row.json).unwrap_err());
        assert_eq!(error(&row("{\"a\":}", "f:3")).to_string(), "f:3:6: expected value");
        assert_eq!(error(&row("{\n\"a\":}", "f: byte 7")).to_string(), "f: byte 7: expected value");
    }
}

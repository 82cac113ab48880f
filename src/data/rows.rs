//! The rows of a dataset file in any order, without holding them: finds where each begins, and reads it when it is needed.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom},
    path::Path,
    sync::{Mutex, PoisonError},
};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{json_list, span::Span, spool};
use crate::{
    error::{Error, strip_location},
    json,
    ndjson::BOM,
    text::{BAD_UTF8, TextReader, find_bad_utf8},
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
    /// How many bytes at the start of `json` are not in the file.
    added: usize,
}

impl Rows {
    /// Opens a JSON file in any form: one row per line, a list, one object, an object with a list under a key such as `data`, or
    /// values over several lines; in UTF-8 or UTF-16.
    ///
    /// A file that breaks off is an error. If `lenient`, its complete rows are used, and the second value reports how many.
    pub fn from_json(path: &Path, lenient: bool) -> Result<(Self, Option<String>), Error> {
        let (file, name) = open_regular(path)?;
        let file = decode_file(file, path)?;
        let failed = |e| Error::read(path, e);
        let lines = rewind(&file).and_then(|()| has_rows_as_lines(buffer_reads(&file))).map_err(failed)?;
        if lines {
            let spans = rewind(&file).and_then(|()| find_lines(buffer_reads(&file))).map_err(failed)?;
            return Ok((Self::from_spans(file, name, spans, ":"), None));
        }
        let listing = rewind(&file).and_then(|()| json_list::scan_list(buffer_reads(&file))).map_err(failed)?;
        let count = listing.spans.len();
        let rows = Self::from_spans(file, name, listing.spans, ":");
        let Some(broken) = listing.broken else { return Ok((rows, None)) };
        let cut = format!("{}: byte {}: {}", rows.name, broken.byte, broken.what);
        if let Some(place) = rows.find_bad_utf8() {
            return Err(Error::Input(format!("{}: byte {place}: {BAD_UTF8}", rows.name)));
        }
        match (count, lenient) {
            (0, _) => Err(Error::Input(format!("{cut} (no complete row before it): is this a JSON file of rows?"))),
            (_, false) => Err(Error::Input(format!(
                "{cut} (after {count} complete rows): get the complete file, or pass --lenient to use those"
            ))),
            (_, true) => Ok((rows, Some(format!("{cut}; using the {count} complete rows before it")))),
        }
    }

    /// The place of the first byte in the first megabyte that is not UTF-8.
    fn find_bad_utf8(&self) -> Option<usize> {
        let mut head = Vec::new();
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.rewind().and_then(|()| file.by_ref().take(1 << 20).read_to_end(&mut head)).ok()?;
        // The megabyte may end within a character.
        let end = head.len().saturating_sub(if head.len() < 1 << 20 { 0 } else { 4 });
        find_bad_utf8(&head).filter(|place| *place <= end)
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
        Ok(Some(Row::new(json, place)))
    }
}

impl Row {
    /// A row of a file. A list is taken for the messages of a conversation, and a text for a prompt.
    #[must_use]
    pub fn new(json: Vec<u8>, place: String) -> Self {
        let key = match json.trim_ascii_start().first() {
            Some(b'[') => "{\"conversations\":",
            Some(b'"') => "{\"prompt\":",
            _ => return Row { json, place, added: 0 },
        };
        Row { json: [key.as_bytes(), &json, b"}"].concat(), place, added: key.len() }
    }

    /// Whether there is nothing in its place, as pandas writes it.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self.json.trim_ascii(), b"null" | b"NaN")
    }

    /// Parses the row.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        if let Some(place) = find_bad_utf8(&self.json) {
            return Err(self.wrong_at(place, BAD_UTF8));
        }
        json::parse_lenient(&self.json).map_err(|e| self.bad_json(&e))
    }

    /// Parses the row as columns, and says what it is if it has none.
    pub fn parse_columns(&self) -> Result<Map<String, Value>, Error> {
        let what = match self.parse()? {
            Value::Object(columns) => return Ok(columns),
            Value::Null => "null",
            Value::Bool(_) => "true or false",
            Value::Number(_) => "a number",
            Value::String(_) => "a text",
            Value::Array(_) => "a list",
        };
        Err(self.wrong(&format!("the row should be an object `{{ … }}`, and is {what}")))
    }

    /// The error for a row that serde rejected. Rows of one line get the column.
    #[must_use]
    pub fn bad_json(&self, e: &serde_json::Error) -> Error {
        self.wrong_at(if e.line() == 1 { e.column() } else { 0 }, &strip_location(e))
    }

    /// The error for a row with the wrong content at this column; 0: unknown.
    #[must_use]
    pub fn wrong_at(&self, column: usize, what: &str) -> Error {
        match column.saturating_sub(self.added) {
            0 => self.wrong(what),
            column => Error::Input(format!("{}:{column}: {what}", self.place)),
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

/// The file as UTF-8: itself, or a temporary copy.
fn decode_file(file: File, path: &Path) -> Result<File, Error> {
    let refused = |e: io::Error| match e.kind() {
        io::ErrorKind::InvalidData => Error::Input(format!("{}: {e}", path.display())),
        _ => Error::read(path, e),
    };
    let mut reader = TextReader::new(BufReader::with_capacity(1 << 18, &file));
    if reader.is_utf8().map_err(refused)? {
        return Ok(file);
    }
    spool::copy_unnamed(&mut reader)
}

fn rewind(mut file: &File) -> io::Result<()> {
    file.rewind()
}

/// Whether each row is a line: not if the file is a list, or its first value is longer than its first line.
fn has_rows_as_lines(mut input: impl BufRead) -> io::Result<bool> {
    let mut line = Vec::new();
    while input.read_until(b'\n', &mut line)? > 0 {
        let text = line.strip_prefix(BOM).unwrap_or(&line).trim_ascii();
        if !text.is_empty() {
            let goes_on = matches!(text.last(), Some(b'{' | b'[' | b',' | b':'));
            let next = next_byte(input)?;
            // A file of one line may be an object with a list of rows in it.
            return Ok(!goes_on && next.is_some() && (text[0] != b'[' || next == Some(b'[')));
        }
        line.clear();
    }
    Ok(true)
}

/// The next byte that is not white space.
fn next_byte(mut input: impl BufRead) -> io::Result<Option<u8>> {
    loop {
        let bytes = input.fill_buf()?;
        match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
            Some(byte) => return Ok(Some(*byte)),
            None if bytes.is_empty() => return Ok(None),
            None => {
                let n = bytes.len();
                input.consume(n);
            }
        }
    }
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

    /// The rows of a file with these bytes, as (place, JSON).
    fn rows_of(name: &str, bytes: &[u8], lenient: bool) -> Result<Vec<(String, String)>, String> {
        let path = std::env::temp_dir().join(format!("vb-rows-{name}-{}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        let read = Rows::from_json(&path, lenient);
        std::fs::remove_file(&path).unwrap();
        let shown = |text: &str| text.replace(path.to_str().unwrap(), "f");
        let (rows, note) = read.map_err(|e| shown(&e.to_string()))?;
        assert_eq!(note.is_some(), lenient && name.starts_with("cut"), "{note:?}");
        let row = |i| rows.read(i).unwrap().unwrap();
        Ok((0..rows.count()).map(row).map(|row| (shown(&row.place), String::from_utf8(row.json).unwrap())).collect())
    }

    #[test]
    fn rows_are_read_from_every_form_of_file() {
        let json = |name: &str, text: &str| {
            let rows = rows_of(name, text.as_bytes(), false).unwrap();
            rows.into_iter().map(|(_, json)| json.split_whitespace().collect::<String>()).collect::<Vec<_>>()
        };
        let (a, b) = (r#"{"a":1}"#, r#"{"b":2}"#);
        for (text, rows) in [
            (format!("{a}\n{b}\n"), &[a, b][..]),
            (format!("[{a},\n{b}]"), &[a, b]),
            (format!("{{\"data\":[{a},{b}]}}"), &[a, b]),
            (format!("{{\"data\":\n[{a},{b}]}}"), &[a, b]),
            (a.to_owned(), &[a]),
            ("{\n\"a\":1\n}\n{\n\"b\":2\n}\n".to_owned(), &[a, b]),
            (format!("[[{a}],[{b}]]"), &[r#"{"conversations":[{"a":1}]}"#, r#"{"conversations":[{"b":2}]}"#]),
            (format!("[{a}]\n[{b}]\n"), &[r#"{"conversations":[{"a":1}]}"#, r#"{"conversations":[{"b":2}]}"#]),
            ("[\"x\",null]".to_owned(), &[r#"{"prompt":"x"}"#, "null"]),
            ("\"x\"\n\"y\"\n".to_owned(), &[r#"{"prompt":"x"}"#, r#"{"prompt":"y"}"#]),
            // A bad line is a row like others, and spoils none of them.
            (format!("{a}\n{{\"b\":\n{b}\n"), &[a, r#"{"b":"#, b]),
        ] {
            assert_eq!(json("forms", &text), rows, "{text}");
        }
    }

    #[test]
    fn the_encoding_is_found_or_refused() {
        let text = "[{\"a\":\"你好\"}]";
        let utf16: Vec<u8> = format!("\u{feff}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert_eq!(rows_of("utf16", &utf16, false).unwrap()[0].1, "{\"a\":\"你好\"}");
        let error = rows_of("gzip", b"\x1f\x8b\x08\0\0\0\0\0", true).unwrap_err();
        assert_eq!(error, "f: it is compressed with gzip: unpack it first (gunzip)");
        // GBK, whose last byte is taken for a backslash.
        let error = rows_of("gbk", b"[{\"a\":\"\xc4\xe3\x81\x5c\"}]", false).unwrap_err();
        assert!(error.starts_with("f: byte 8: this is not UTF-8") && error.contains("iconv"), "{error}");
        let row = Row::new(b"{\"a\":\"\xc4\xe3\"}".to_vec(), "f:1".into());
        let error = row.parse::<serde_json::Value>().unwrap_err().to_string();
        assert!(error.starts_with("f:1:7: this is not UTF-8") && error.contains("iconv"), "{error}");
        let error = Row::new(b"7".to_vec(), "f:1".into()).parse_columns().unwrap_err().to_string();
        assert_eq!(error, "f:1: the row should be an object `{ … }`, and is a number");
    }

    #[test]
    fn lenient_is_advised_only_where_it_helps() {
        let cut = b"[{\"a\":1},{\"b\":";
        assert!(rows_of("cut", cut, false).unwrap_err().contains("--lenient"));
        assert_eq!(rows_of("cut-lenient", cut, true).unwrap().len(), 1);
        for (text, lenient) in [(&b"[{\"a\":"[..], false), (b"[{\"a\":", true), (b"", false)] {
            let read = rows_of("none", text, lenient);
            assert!(read.as_ref().is_err_and(|e| !e.contains("--lenient")) || read.unwrap().is_empty());
        }
    }

    #[test]
    fn a_json_error_has_its_column_only_in_rows_of_one_line() {
        let row = |json: &str, place: &str| Row::new(json.into(), place.into());
        let error = |row: &Row| row.bad_json(&serde_json::from_slice::<serde_json::Value>(&row.json).unwrap_err());
        assert_eq!(error(&row("{\"a\":}", "f:3")).to_string(), "f:3:6: expected value");
        assert_eq!(error(&row("{\n\"a\":}", "f: byte 7")).to_string(), "f: byte 7: expected value");
        assert_eq!(error(&row("[1,}", "f:3")).to_string(), "f:3:4: expected value", "columns count in the file");
    }
}

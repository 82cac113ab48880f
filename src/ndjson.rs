//! Newline-delimited JSON: reads records with line numbers, and writes them.

use std::io::{self, BufRead, Write};

use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::{Error, strip_location, truncate_quote},
    json,
    record::SampleRequest,
};

/// The longest accepted line: a guard against files that are not NDJSON.
pub const MAX_LINE_BYTES: usize = 1 << 30;

/// The byte order mark that some editors write at the start of a UTF-8 file.
pub const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Reads the lines of a stream that are not blank, with their numbers.
///
/// A last line without a newline counts: a killed writer leaves one.
pub struct NdjsonReader<R> {
    input: R,
    name: String,
    number: u64,
    buffer: Vec<u8>,
}

impl<R: BufRead> NdjsonReader<R> {
    /// Reads `input`. Messages use `name` for it: a path, or `stdin`.
    pub fn new(input: R, name: impl Into<String>) -> Self {
        NdjsonReader { input, name: name.into(), number: 0, buffer: Vec::new() }
    }

    /// The next line, without surrounding white space; `None` at the end.
    pub fn next_line(&mut self) -> Result<Option<&[u8]>, Error> {
        loop {
            self.buffer.clear();
            match read_line(&mut self.input, &mut self.buffer) {
                Ok(0) => return Ok(None),
                Ok(n) if n >= MAX_LINE_BYTES => {
                    self.number += 1;
                    return Err(self.place().too_long());
                }
                Ok(_) => self.number += 1,
                Err(source) => return Err(Error::Read { from: self.name.clone(), source }),
            }
            if self.number == 1 && self.buffer.starts_with(BOM) {
                self.buffer.drain(..BOM.len());
            }
            if !self.buffer.trim_ascii().is_empty() {
                return Ok(Some(self.buffer.trim_ascii()));
            }
        }
    }

    /// The next record; `None` at the end.
    pub fn next_record<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        let Some(line) = self.next_object()? else { return Ok(None) };
        match json::parse_lenient(line) {
            Ok(record) => Ok(Some(record)),
            Err(e) => Err(self.bad_json(&e)),
        }
    }

    /// The next line, which must be an object.
    pub fn next_object(&mut self) -> Result<Option<&[u8]>, Error> {
        if self.next_line()?.is_none() {
            return Ok(None);
        }
        let line = self.buffer.trim_ascii();
        if !line.starts_with(b"{") {
            return Err(self.not_an_object());
        }
        Ok(Some(self.buffer.trim_ascii()))
    }

    /// The next request; `None` at the end.
    pub fn next_request(&mut self) -> Result<Option<SampleRequest>, Error> {
        let Some(line) = self.next_object()? else { return Ok(None) };
        SampleRequest::parse(line).map(Some).map_err(|(column, what)| self.error_at(column, &what))
    }

    /// The line just read, without surrounding white space.
    #[must_use]
    pub fn line(&self) -> &[u8] {
        self.buffer.trim_ascii()
    }

    /// The error for the line just read, if it does not begin an object. It quotes the line, which may be the output of
    /// another program.
    #[must_use]
    pub fn not_an_object(&self) -> Error {
        self.place().not_an_object(self.buffer.trim_ascii())
    }

    /// The error for the line just read, if serde failed to parse it: `stdin:4:17: what`.
    #[must_use]
    pub fn bad_json(&self, e: &serde_json::Error) -> Error {
        self.place().bad_json(e)
    }

    /// The error for the line just read: `stdin:LINE: what`. A column counts from 1; 0 leaves it out.
    #[must_use]
    pub fn error_at(&self, column: usize, what: &str) -> Error {
        self.place().error_at(column, what)
    }

    fn place(&self) -> LinePlace<'_> {
        LinePlace { name: &self.name, number: self.number }
    }

    /// Whether the line just read is a record with a `type`, as all records but requests are.
    #[must_use]
    pub fn has_type(&self) -> bool {
        self.buffer.trim_ascii().starts_with(b"{\"type\":")
    }

    /// The number of the line just read, counted from 1.
    #[must_use]
    pub fn line_number(&self) -> u64 {
        self.number
    }
}

/// Appends a line with its newline to `line`, but no more than [`MAX_LINE_BYTES`]; returns how many bytes it has. The search for the
/// newline takes most of the time: `memchr` uses vectors, and `BufRead::read_until` does not.
fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<usize> {
    let begun = line.len();
    loop {
        let available = match input.fill_buf() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            available => available?,
        };
        let available = &available[..available.len().min(MAX_LINE_BYTES - (line.len() - begun))];
        let end = memchr::memchr(b'\n', available);
        let used = end.map_or(available.len(), |at| at + 1);
        line.extend_from_slice(&available[..used]);
        input.consume(used);
        if end.is_some() || used == 0 {
            return Ok(line.len() - begun);
        }
    }
}

/// A line of an input, for messages.
#[derive(Debug, Clone, Copy)]
pub struct LinePlace<'a> {
    /// The path of the input, or `stdin`.
    pub name: &'a str,
    /// The number of the line, counted from 1.
    pub number: u64,
}

impl LinePlace<'_> {
    /// The error for this line if it does not begin an object. It quotes the line, which may be the output of another program.
    #[must_use]
    pub fn not_an_object(self, line: &[u8]) -> Error {
        let line = String::from_utf8_lossy(&line[..line.len().min(400)]);
        self.error_at(0, &format!("not a JSON object, which each line must be: {}", truncate_quote(&line)))
    }

    /// The error for this line if serde failed to parse it: `stdin:4:17: what`.
    #[must_use]
    pub fn bad_json(self, e: &serde_json::Error) -> Error {
        self.error_at(e.column(), &strip_location(e))
    }

    /// The error for this line if it is too long.
    #[must_use]
    pub fn too_long(self) -> Error {
        self.error_at(0, "the line is longer than 1 GiB: is this a file of JSON lines?")
    }

    /// An error for this line: `stdin:LINE: what`. A column counts from 1; 0 leaves it out.
    #[must_use]
    pub fn error_at(self, column: usize, what: &str) -> Error {
        let place = if column > 0 { format!(":{column}") } else { String::new() };
        Error::Input(format!("{}:{}{place}: {what}", self.name, self.number))
    }
}

/// Writes one record and a newline.
pub fn write_record<T: Serialize>(out: &mut impl Write, record: &T) -> Result<(), Error> {
    serde_json::to_writer(&mut *out, record).map_err(|e| Error::write_stdout(e.into()))?;
    out.write_all(b"\n").map_err(Error::write_stdout)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn blank_lines_are_skipped_and_the_last_newline_may_be_missing() {
        let mut lines = NdjsonReader::new(&b"{\"a\":1}\n\n  \r\n{\"a\":2}"[..], "stdin");
        assert_eq!(lines.next_record::<Value>().unwrap().unwrap()["a"], 1);
        assert_eq!(lines.next_record::<Value>().unwrap().unwrap()["a"], 2);
        assert_eq!(lines.line_number(), 4);
        assert!(lines.next_record::<Value>().unwrap().is_none());
    }

    #[test]
    fn a_byte_order_mark_is_skipped() {
        let mut lines = NdjsonReader::new(&b"\xEF\xBB\xBF{\"a\":1}\r\n{\"a\":2}\r\n"[..], "stdin");
        assert_eq!(lines.next_record::<Value>().unwrap().unwrap()["a"], 1);
        assert_eq!(lines.next_record::<Value>().unwrap().unwrap()["a"], 2);
    }

    #[test]
    fn an_invalid_line_is_reported_with_its_column() {
        let mut lines = NdjsonReader::new(&b"{}\n{\"a\":}\n"[..], "stdin");
        lines.next_record::<Value>().unwrap();
        let error = lines.next_record::<Value>().unwrap_err();
        assert_eq!(error.to_string(), "stdin:2:6: expected value");
        assert_eq!(error.exit_code(), 3);
        let error = NdjsonReader::new(&b"hello\n"[..], "stdin").next_record::<Value>().unwrap_err();
        assert_eq!(error.to_string(), "stdin:1: not a JSON object, which each line must be: hello");
    }
}

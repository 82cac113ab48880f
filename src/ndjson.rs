//! One JSON record a line: reading with line numbers, writing without losing any.

use std::io::{BufRead, Read, Write};

use serde::{Serialize, de::DeserializeOwned};

use crate::error::{Error, without_place};

/// The longest line that is read: a guard against a file that is not NDJSON at all.
const LONGEST_LINE: usize = 1 << 30;

/// What some editors put at the head of a file: it says UTF-8 and nothing more.
pub const BOM: &[u8] = b"\xEF\xBB\xBF";

/// The lines of a stream that are not blank, with their numbers.
///
/// A last line without a newline still counts: a killed writer leaves one.
pub struct Lines<R> {
    input: R,
    name: String,
    number: u64,
    buffer: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    /// Reads `input`, which messages call `name`: a path, or `stdin`.
    pub fn new(input: R, name: impl Into<String>) -> Self {
        Lines { input, name: name.into(), number: 0, buffer: Vec::new() }
    }

    /// The next line, without surrounding white space; `None` at the end.
    pub fn next_line(&mut self) -> Result<Option<&[u8]>, Error> {
        loop {
            self.buffer.clear();
            let limited = &mut Read::take(&mut self.input, LONGEST_LINE as u64);
            match limited.read_until(b'\n', &mut self.buffer) {
                Ok(0) => return Ok(None),
                Ok(n) if n >= LONGEST_LINE => {
                    self.number += 1;
                    return Err(self.wrong(0, "the line is longer than 1 GiB: is this a file of JSON lines?"));
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
        let Some(line) = self.next_line()? else { return Ok(None) };
        match serde_json::from_slice(line) {
            Ok(record) => Ok(Some(record)),
            Err(e) => Err(self.bad_json(&e)),
        }
    }

    /// The error for the line just read, which serde could not take: `stdin:4:17: what`.
    #[must_use]
    pub fn bad_json(&self, e: &serde_json::Error) -> Error {
        self.wrong(e.column(), &without_place(e))
    }

    /// The error for the line just read: `stdin:LINE: what`, or with a column counted from 1.
    #[must_use]
    pub fn wrong(&self, column: usize, what: &str) -> Error {
        let place = if column > 0 { format!(":{column}") } else { String::new() };
        Error::Input(format!("{}:{}{place}: {what}", self.name, self.number))
    }

    /// The number of the line just read, counted from 1.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }
}

/// Writes one record and its newline.
pub fn write<T: Serialize>(out: &mut impl Write, record: &T) -> Result<(), Error> {
    serde_json::to_writer(&mut *out, record).map_err(|e| Error::stdout(e.into()))?;
    out.write_all(b"\n").map_err(Error::stdout)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn blank_lines_are_skipped_and_the_last_newline_may_be_missing() {
        let mut lines = Lines::new(&b"{\"a\":1}\n\n  \r\n{\"a\":2}"[..], "stdin");
        assert_eq!(lines.next_record::<Value>().unwrap().unwrap()["a"], 1);
        assert_eq!(lines.next_record::<Value>().unwrap().unwrap()["a"], 2);
        assert_eq!(lines.number(), 4);
        assert!(lines.next_record::<Value>().unwrap().is_none());
    }

    #[test]
    fn a_byte_order_mark_is_passed_over() {
        let mut lines = Lines::new(&b"\xEF\xBB\xBF{\"a\":1}\r\n{\"a\":2}\r\n"[..], "stdin");
        assert_eq!(lines.next_record::<Value>().unwrap().unwrap()["a"], 1);
        assert_eq!(lines.next_record::<Value>().unwrap().unwrap()["a"], 2);
    }

    #[test]
    fn a_bad_line_is_named_with_its_column() {
        let mut lines = Lines::new(&b"{}\n{\"a\":}\n"[..], "stdin");
        lines.next_record::<Value>().unwrap();
        let error = lines.next_record::<Value>().unwrap_err();
        assert_eq!(error.to_string(), "stdin:2:6: expected value");
        assert_eq!(error.exit_code(), 3);
    }
}

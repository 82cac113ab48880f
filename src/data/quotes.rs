//! Quotes of a table that are opened and never closed: to a reader of CSV the rest of the file is then one field.

use std::io::{self, Read};

use crate::ndjson::BOM;

/// A table on its way to the reader that takes it apart, with an eye on its quotes.
#[derive(Debug)]
pub struct Quotes<R> {
    table: R,
    delimiter: u8,
    state: State,
    /// Bytes and line ends so far.
    bytes: u64,
    line: u64,
    /// The line where the last quote was opened.
    opened: u64,
    ended: bool,
}

/// Where the bytes stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a field.
    Before,
    /// In a field without quotes round it, in which they are bytes like any other.
    Bare,
    Quoted,
    /// Behind a quote in quotes: the end, or the first of two that stand for one.
    Behind,
}

impl<R> Quotes<R> {
    pub fn of(table: R, delimiter: u8) -> Self {
        Quotes { table, delimiter, state: State::Before, bytes: 0, line: 1, opened: 0, ended: false }
    }

    /// The line of the quote that is open where the table ends, once it was read to its end.
    pub fn unclosed(&self) -> Option<u64> {
        (self.ended && self.state == State::Quoted).then_some(self.opened)
    }

    fn see(&mut self, byte: u8) {
        let mark = usize::try_from(self.bytes).ok().and_then(|place| BOM.get(place)) == Some(&byte);
        let over = byte == self.delimiter || matches!(byte, b'\n' | b'\r');
        self.state = match (self.state, byte) {
            (State::Before, _) if mark => State::Before,
            (State::Before, b'"') => {
                self.opened = self.line;
                State::Quoted
            }
            (State::Quoted, b'"') => State::Behind,
            (State::Quoted, _) | (State::Behind, b'"') => State::Quoted,
            _ if over => State::Before,
            _ => State::Bare,
        };
        self.bytes += 1;
        self.line += u64::from(byte == b'\n');
    }
}

impl<R: Read> Read for Quotes<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.table.read(buffer)?;
        self.ended = n == 0 && !buffer.is_empty();
        buffer[..n].iter().for_each(|byte| self.see(*byte));
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unclosed(text: &str) -> Option<u64> {
        let mut quotes = Quotes::of(text.as_bytes(), b',');
        io::copy(&mut quotes, &mut io::sink()).unwrap();
        quotes.unclosed()
    }

    #[test]
    fn a_quote_that_is_never_closed_is_told_with_its_line() {
        for whole in
            ["", "a,b\n", "\"a\",\"b\"", "\"a \"\"b\"\"\n\",c", "it's 5\" wide\n", "\"a\"b\",c", "\u{feff}\"a\"\n"]
        {
            assert_eq!(unclosed(whole), None, "{whole}");
        }
        for (cut, line) in
            [("\"a", 1), ("\u{feff}\"a\n", 1), ("a,b\nc,\"d\ne,f\n", 2), ("\"a\n\"\n\"b \"\"", 3), ("\"a\"\"", 1)]
        {
            assert_eq!(unclosed(cut), Some(line), "{cut}");
        }
    }

    proptest::proptest! {
        /// The reader of CSV agrees on what a quote is: of a table that is closed a row behind it is a row of its own.
        #[test]
        fn the_reader_of_tables_sees_the_same(text in "[a\",\n]{0,24}") {
            let more = format!("{text}\nlast");
            let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(more.as_bytes());
            let last = reader.records().last().unwrap().unwrap();
            proptest::prop_assert_eq!(unclosed(&more).is_none(), last.len() == 1 && &last[0] == "last");
        }
    }
}

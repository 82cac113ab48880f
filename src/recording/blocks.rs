//! Splits an input into blocks of whole lines, so that several threads can parse it.

use std::{
    io::{BufRead, ErrorKind},
    ops::Range,
};

use crate::{
    error::Error,
    ndjson::{BOM, LinePlace, MAX_LINE_BYTES},
};

/// What a block has at least, unless the input has no more at the moment.
const BLOCK_BYTES: usize = 1 << 18;

/// An input that gives less at once has no more at the moment.
const FULL_READ: usize = 1 << 16;

/// Reads blocks of lines. The lines are the same as from [`NdjsonReader`](crate::ndjson::NdjsonReader), except for one that is only `{`:
/// the rest of the input is one line with it.
pub struct BlockReader<R> {
    input: R,
    name: String,
    /// The lines before the next block.
    lines: u64,
    /// The beginning of a line whose end has not been read.
    begun: Vec<u8>,
    has_ended: bool,
    /// Comes after the lines that were read before it.
    failure: Option<Error>,
    block_bytes: usize,
}

/// Some lines of an input.
#[derive(Debug, Default)]
pub struct Block {
    text: Vec<u8>,
    lines: Vec<BlockLine>,
    is_short: bool,
}

#[derive(Debug)]
struct BlockLine {
    number: u64,
    text: Range<usize>,
}

impl Block {
    /// The lines that are not blank, without surrounding white space, each with its number.
    pub fn lines(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.lines.iter().map(|line| (line.number, &self.text[line.text.clone()]))
    }

    /// Whether it is so short that the writer of the input is probably slower than its reader.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.is_short
    }
}

impl<R: BufRead> BlockReader<R> {
    /// Reads `input`. Messages use `name` for it: a path, or `stdin`.
    pub fn new(input: R, name: impl Into<String>) -> Self {
        BlockReader {
            input,
            name: name.into(),
            lines: 0,
            begun: Vec::new(),
            has_ended: false,
            failure: None,
            block_bytes: BLOCK_BYTES,
        }
    }

    /// The same with blocks of about this size.
    #[cfg(test)]
    pub fn with_block_bytes(self, block_bytes: usize) -> Self {
        BlockReader { block_bytes, ..self }
    }

    /// What messages call the input.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads the next block; false at the end of the input.
    pub fn read_block(&mut self, block: &mut Block) -> Result<bool, Error> {
        block.lines.clear();
        block.text.clear();
        if let Some(failure) = self.failure.take() {
            self.has_ended = true;
            return Err(failure);
        }
        if self.has_ended {
            return Ok(false);
        }
        self.append_lines(&mut block.text, self.block_bytes);
        block.is_short = block.text.len() < self.block_bytes.min(FULL_READ);
        self.split_lines(block);
        if self.begun.len() >= MAX_LINE_BYTES {
            self.failure = Some(LinePlace { name: &self.name, number: self.lines + 1 }.too_long());
        }
        Ok(true)
    }

    /// Appends whole lines to `text` until it has about `bytes`, or the input has no more at the moment.
    fn append_lines(&mut self, text: &mut Vec<u8>, bytes: usize) {
        let mut end = text.len();
        text.append(&mut self.begun);
        loop {
            let read = match self.input.fill_buf() {
                Ok(read) => read,
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(source) => {
                    self.failure = Some(Error::Read { from: self.name.clone(), source });
                    text.truncate(end);
                    return;
                }
            };
            let n = read.len();
            if n == 0 {
                self.has_ended = true;
                return;
            }
            let newline = memchr::memrchr(b'\n', read);
            end = newline.map_or(end, |at| text.len() + at + 1);
            text.extend_from_slice(read);
            self.input.consume(n);
            let is_enough = end > 0 && (text.len() >= bytes || n < FULL_READ.min(bytes));
            if is_enough || text.len() - end >= MAX_LINE_BYTES {
                self.begun.extend_from_slice(&text[end..]);
                text.truncate(end);
                return;
            }
        }
    }

    fn split_lines(&mut self, block: &mut Block) {
        let mut from = 0;
        while from < block.text.len() {
            let end = memchr::memchr(b'\n', &block.text[from..]).map_or(block.text.len(), |at| from + at + 1);
            let line = trim_line(&block.text, from..end, self.lines + 1);
            if &block.text[line.clone()] == b"{" {
                self.join_remaining_lines(block, from);
                return;
            }
            self.lines += 1;
            if !line.is_empty() {
                block.lines.push(BlockLine { number: self.lines, text: line });
            }
            from = end;
        }
    }

    /// Joins the line that begins at `from` and all further lines of the input. It has the number of the last one.
    fn join_remaining_lines(&mut self, block: &mut Block, from: usize) {
        let mut rest = block.text.split_off(from);
        while !self.has_ended && self.failure.is_none() && self.begun.len() < MAX_LINE_BYTES {
            self.append_lines(&mut rest, usize::MAX);
        }
        let mut begin = 0;
        for line in rest.split_inclusive(|byte| *byte == b'\n') {
            self.lines += 1;
            let trimmed = trim_line(&rest, begin..begin + line.len(), self.lines);
            begin += line.len();
            if !trimmed.is_empty() && block.text.len() > from {
                block.text.push(b'\n');
            }
            block.text.extend_from_slice(&rest[trimmed]);
        }
        block.lines.push(BlockLine { number: self.lines, text: from..block.text.len() });
    }
}

/// The place of a line without its byte order mark and the white space on both sides.
fn trim_line(text: &[u8], line: Range<usize>, number: u64) -> Range<usize> {
    let whole = &text[line.clone()];
    let whole = if number == 1 { whole.strip_prefix(BOM).unwrap_or(whole) } else { whole };
    let end = line.end - (whole.len() - whole.trim_ascii_end().len());
    let trimmed = whole.trim_ascii();
    end - trimmed.len()..end
}

#[cfg(test)]
mod tests {
    use std::io::{self, BufReader, Read};

    use proptest::prelude::*;

    use super::*;
    use crate::ndjson::NdjsonReader;

    type Lines = (Vec<(u64, Vec<u8>)>, Option<String>);

    fn lines_in_blocks(input: impl Read, block_bytes: usize) -> Lines {
        let input = BufReader::with_capacity(block_bytes, input);
        let mut reader = BlockReader::new(input, "stdin").with_block_bytes(block_bytes);
        let (mut block, mut lines) = (Block::default(), Vec::new());
        loop {
            match reader.read_block(&mut block) {
                Ok(true) => lines.extend(block.lines().map(|(number, line)| (number, line.to_vec()))),
                Ok(false) => return (lines, None),
                Err(e) => return (lines, Some(e.to_string())),
            }
        }
    }

    fn lines_one_by_one(input: impl Read) -> Lines {
        let mut reader = NdjsonReader::new(BufReader::new(input), "stdin");
        let mut lines = Vec::new();
        loop {
            match reader.next_line().map(|line| line.map(<[u8]>::to_vec)) {
                Ok(Some(line)) => lines.push((reader.line_number(), line)),
                Ok(None) => return (lines, None),
                Err(e) => return (lines, Some(e.to_string())),
            }
        }
    }

    /// Fails after some bytes.
    struct BrokenInput<'a>(&'a [u8]);

    impl Read for BrokenInput<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() { Err(io::Error::other("broken")) } else { self.0.read(buffer) }
        }
    }

    #[test]
    fn an_object_on_many_lines_is_one_line() {
        let text = "{\"a\":1}\n {\n\n  \"b\": 2\r\n}\n\n";
        let want = vec![(1, b"{\"a\":1}".to_vec()), (6, b"{\n\"b\": 2\n}".to_vec())];
        for size in 1..40 {
            assert_eq!(lines_in_blocks(text.as_bytes(), size), (want.clone(), None), "{size}");
        }
        assert_eq!(lines_in_blocks(&b"\xEF\xBB\xBF{\n}"[..], 8).0, [(2, b"{\n}".to_vec())]);
    }

    proptest! {
        #[test]
        fn blocks_have_the_lines_of_the_input(text in "\u{feff}?(a|bc|\n|\r\n| |\u{feff}){0,60}", size in 1..30_usize) {
            prop_assert_eq!(lines_in_blocks(text.as_bytes(), size), lines_one_by_one(text.as_bytes()));
            let broken = || BrokenInput(text.as_bytes());
            prop_assert_eq!(lines_in_blocks(broken(), size), lines_one_by_one(broken()));
        }
    }
}

//! Splits a stream of bytes into lines.

use memchr::memchr;

use super::sse::TooLarge;

/// The longest line that is read; beyond this the response is broken rather than long.
const MAX_LINE: usize = 64 << 20;

/// Splits a stream of bytes into lines.
#[derive(Debug, Default)]
pub struct LineReader {
    /// The part of a line that has arrived.
    line: Vec<u8>,
}

impl LineReader {
    /// Reads `bytes` and passes each completed line to `take`, without its line end, with the number of bytes after it.
    pub fn push(&mut self, mut bytes: &[u8], mut take: impl FnMut(&[u8], usize)) -> Result<(), TooLarge> {
        while let Some(end) = memchr(b'\n', bytes) {
            let left = bytes.len() - end - 1;
            if self.line.is_empty() {
                take(&bytes[..end], left);
            } else {
                self.line.extend_from_slice(&bytes[..end]);
                take(&self.line, left);
                self.line.clear();
            }
            bytes = &bytes[end + 1..];
        }
        self.line.extend_from_slice(bytes);
        if self.line.len() > MAX_LINE { Err(TooLarge) } else { Ok(()) }
    }

    /// Ends the stream: the last line may have no line end.
    pub fn finish(&mut self, mut take: impl FnMut(&[u8])) {
        take(&std::mem::take(&mut self.line));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lines_are_the_same_in_any_cut(text in "[ab\n]{0,60}", cuts in prop::collection::vec(1..9_usize, 1..9)) {
            let (mut lines, mut got, mut rest, mut cut) = (LineReader::default(), Vec::new(), text.as_bytes(), cuts.iter().cycle());
            while !rest.is_empty() {
                let (now, later) = rest.split_at((*cut.next().unwrap()).min(rest.len()));
                lines.push(now, |line, _| got.push(line.to_vec())).unwrap();
                rest = later;
            }
            lines.finish(|line| got.push(line.to_vec()));
            prop_assert_eq!(got, text.as_bytes().split(|b| *b == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>());
        }
    }
}

//! The encodings of text files: UTF-16, as PowerShell and Excel write it, becomes UTF-8, and binary files are refused by name.

use std::io::{self, BufRead, Read};

/// How a file is encoded, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    /// UTF-8, or ASCII.
    Utf8,
    Utf16Le,
    Utf16Be,
}

/// First bytes of binary files, and what to do about them.
const BINARY: [(&[u8], &str); 7] = [
    (b"\x1f\x8b", "it is compressed with gzip: unpack it first (gunzip)"),
    (b"\x28\xb5\x2f\xfd", "it is compressed with zstd: unpack it first (unzstd)"),
    (b"BZh", "it is compressed with bzip2: unpack it first (bunzip2)"),
    (b"\xfd7zXZ", "it is compressed with xz: unpack it first (unxz)"),
    (b"PK\x03\x04", "it is a ZIP archive or an Excel file: unpack it, or save the table as CSV"),
    (b"PAR1", "it is a parquet file: use --dataset-name hf, with a name that ends in .parquet"),
    (b"\xff\xfe\0\0", "it is UTF-32: convert it first (iconv -f UTF-32 -t UTF-8)"),
];

/// The most first bytes that are examined.
const HEAD: usize = 8;

fn detect_encoding(head: &[u8]) -> io::Result<Encoding> {
    if let Some((_, what)) = BINARY.iter().find(|(magic, _)| head.starts_with(magic)) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, *what));
    }
    Ok(match head {
        // With a mark or without: text begins with ASCII characters.
        [0xFF, 0xFE, ..] | [1..=0x7F, 0, 1..=0x7F, 0, ..] => Encoding::Utf16Le,
        [0xFE, 0xFF, ..] | [0, 1..=0x7F, 0, 1..=0x7F, ..] => Encoding::Utf16Be,
        _ => Encoding::Utf8,
    })
}

/// A text as UTF-8. What is UTF-8 already is passed on without a copy and without a check.
#[derive(Debug)]
pub struct TextReader<R> {
    input: R,
    /// `None` until the first bytes are examined.
    encoding: Option<Encoding>,
    /// Decoded text that has not been read yet, from `start` on.
    decoded: Vec<u8>,
    start: usize,
}

impl<R: BufRead> TextReader<R> {
    /// Reads from `input`; nothing is read before the first call.
    pub fn new(input: R) -> Self {
        TextReader { input, encoding: None, decoded: Vec::new(), start: 0 }
    }

    /// Whether the text is UTF-8 already.
    ///
    /// # Errors
    /// Reading failed, or the file is binary.
    pub fn is_utf8(&mut self) -> io::Result<bool> {
        Ok(self.examine_head()? == Encoding::Utf8)
    }

    fn examine_head(&mut self) -> io::Result<Encoding> {
        if let Some(encoding) = self.encoding {
            return Ok(encoding);
        }
        let buffered = self.input.fill_buf()?;
        // A pipe may have given a single byte. More is not waited for, except after one that UTF-16 may begin with.
        let encoding = if buffered.len() >= HEAD || !matches!(buffered.first(), Some(0 | 0xFE | 0xFF)) {
            detect_encoding(&buffered[..buffered.len().min(HEAD)])?
        } else {
            let mut head = Vec::new();
            self.input.by_ref().take(HEAD as u64).read_to_end(&mut head)?;
            let encoding = detect_encoding(&head)?;
            self.decoded = if encoding == Encoding::Utf8 { head } else { self.decode_from(head, encoding)? };
            encoding
        };
        self.encoding = Some(encoding);
        Ok(encoding)
    }

    /// Decodes a part of UTF-16, which may end with the first half of a pair: then the other half is read too.
    fn decode_from(&mut self, mut bytes: Vec<u8>, encoding: Encoding) -> io::Result<Vec<u8>> {
        if let Some(last) = bytes.rchunks_exact(2).next()
            && matches!(code_unit(last, encoding), 0xD800..=0xDBFF)
        {
            self.input.by_ref().take(2).read_to_end(&mut bytes)?;
        }
        Ok(decode_units(&bytes, encoding))
    }
}

fn code_unit(pair: &[u8], encoding: Encoding) -> u16 {
    let pair = [pair[0], pair[1]];
    if encoding == Encoding::Utf16Be { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) }
}

/// Decodes UTF-16; halves of pairs become U+FFFD. Byte order marks are kept: those who read text skip them.
fn decode_units(bytes: &[u8], encoding: Encoding) -> Vec<u8> {
    let units = bytes.chunks_exact(2).map(|pair| code_unit(pair, encoding));
    let text: String = char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    text.into_bytes()
}

impl<R: BufRead> Read for TextReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

impl<R: BufRead> BufRead for TextReader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let encoding = self.examine_head()?;
        if self.start < self.decoded.len() {
            return Ok(&self.decoded[self.start..]);
        }
        if encoding == Encoding::Utf8 {
            return self.input.fill_buf();
        }
        let mut bytes = Vec::new();
        self.input.by_ref().take(1 << 16).read_to_end(&mut bytes)?;
        self.decoded = self.decode_from(bytes, encoding)?;
        self.start = 0;
        Ok(&self.decoded)
    }

    fn consume(&mut self, amount: usize) {
        if self.start < self.decoded.len() {
            self.start += amount;
        } else {
            self.input.consume(amount);
        }
    }
}

/// Why bytes that are not UTF-8 are not read, and the cure.
pub const BAD_UTF8: &str = "this is not UTF-8: the file has another encoding, or is damaged; convert it first, \
                            as with iconv -f GB18030 -t UTF-8 FILE";

/// The place of the first byte that is not UTF-8, counted from 1; `None`: all are.
#[must_use]
pub fn find_bad_utf8(bytes: &[u8]) -> Option<usize> {
    std::str::from_utf8(bytes).err().map(|e| e.valid_up_to() + 1)
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    fn read(bytes: &[u8], buffer: usize) -> String {
        let mut text = String::new();
        TextReader::new(BufReader::with_capacity(buffer, bytes)).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn utf_16_becomes_utf_8_with_and_without_a_mark() {
        let text = format!("{{\"a\":\"你好 🙂\"}}\n{}", "🙂".repeat(50_000));
        for marked in [true, false] {
            let whole = if marked { format!("\u{feff}{text}") } else { text.clone() };
            let le: Vec<u8> = whole.encode_utf16().flat_map(u16::to_le_bytes).collect();
            let be: Vec<u8> = whole.encode_utf16().flat_map(u16::to_be_bytes).collect();
            // Without a mark, a pipe that gives single bytes is not waited for.
            for buffer in if marked { &[1, 3, 8192][..] } else { &[8192] } {
                assert!(read(&le, *buffer) == whole && read(&be, *buffer) == whole, "{marked} {buffer}");
            }
        }
        assert_eq!(read(b"\xff\xfe\x00\xd8a\0", 64), "\u{feff}\u{fffd}a", "half a pair");
    }

    #[test]
    fn utf_8_is_not_touched() {
        for text in [&b""[..], b"a", b"\xef\xbb\xbf{}", b"\xff", b"\0", b"\xc4\xe3\xba\xc3"] {
            for buffer in [1, 64] {
                let mut out = Vec::new();
                TextReader::new(BufReader::with_capacity(buffer, text)).read_to_end(&mut out).unwrap();
                assert_eq!(out, text);
            }
        }
    }

    #[test]
    fn binary_files_are_refused_by_name() {
        for (bytes, what) in [
            (&b"\x1f\x8b\x08\0\0\0\0\0\0"[..], "gunzip"),
            (b"PAR1\x15\x04\x15\x04", "parquet"),
            (b"PK\x03\x04....", "CSV"),
        ] {
            let error = TextReader::new(bytes).fill_buf().unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
        assert_eq!(find_bad_utf8("你好".as_bytes()), None);
        assert_eq!(find_bad_utf8(b"a\xc4\xe3\xba\xc3"), Some(2));
    }
}

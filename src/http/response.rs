//! Responses in HTTP/1.1 (RFC 9112): the head by the `httparse` crate, the framing of the body here. No socket, no clock.

use std::{mem::MaybeUninit, ops::Range};

use hyper::{StatusCode, header};

/// The largest head that is read, in bytes.
pub const MAX_HEAD: usize = 64 << 10;

/// The most headers that are read.
const MAX_HEADERS: usize = 128;

/// The parts of a response head that vb uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The status code.
    pub status: StatusCode,
    /// The target of a redirect.
    pub location: Option<String>,
    /// The compression of the body; `None` if it is not compressed.
    pub encoding: Option<String>,
    /// Whether HTTP marks the end of the body. Otherwise it ends with the connection, and may have been cut anywhere.
    pub framed: bool,
    /// What the last server or proxy calls itself: `Via`, else `Server`.
    pub server: Option<String>,
}

/// How the body of a response is framed, and how far it has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// In chunks, each preceded by its length.
    Chunked(Chunked),
    /// By its length: this many bytes are still to come.
    Length(u64),
    /// By the end of the connection.
    Close,
}

/// What comes next in a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunked {
    /// The digits of a chunk's length: the value so far, and the number of digits.
    Size(u64, u8),
    /// The rest of the line with a chunk's length.
    Extension(u64),
    /// This many more bytes of data.
    Data(u64),
    /// The line end after the data.
    DataEnd,
    /// The lines after the last chunk; whether the current one has any bytes.
    Trailer(bool),
    /// Nothing: the body is complete.
    End,
}

/// What is wrong with a response, for people.
pub type FramingError = String;

/// A parsed head.
#[derive(Debug, PartialEq, Eq)]
pub struct ParsedHead {
    /// Its content.
    pub head: Head,
    /// The framing of the body.
    pub framing: Framing,
    /// Whether the connection can carry another request.
    pub keep_alive: bool,
}

/// Reads the head of one response. Interim responses (1xx) before it are skipped, and each is parsed once.
#[derive(Debug, Default)]
pub struct HeadReader {
    /// Bytes of interim responses so far.
    interim: usize,
}

impl HeadReader {
    /// Parses what is at the start of `bytes`. Returns how many of them are used, and the head once it is complete; until then, call
    /// it again with the unused bytes and more.
    ///
    /// # Errors
    /// Fails if it is not HTTP/1, or does not end.
    pub fn read_head(&mut self, bytes: &[u8]) -> Result<(usize, Option<ParsedHead>), FramingError> {
        let mut used = 0;
        loop {
            let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
            let mut response = httparse::Response::new(&mut []);
            let parser = httparse::ParserConfig::default();
            let status = parser.parse_response_with_uninit_headers(&mut response, &bytes[used..], &mut headers);
            let status = status.map_err(|e| format!("{e}"))?;
            let httparse::Status::Complete(len) = status else {
                let too_long = bytes.len() - used > MAX_HEAD;
                return if too_long { Err("its head is longer than 64 KiB".into()) } else { Ok((used, None)) };
            };
            used += len;
            let code = response.code.unwrap_or_default();
            if !(100..200).contains(&code) || code == 101 {
                return interpret_head(&response, code).map(|head| (used, Some(head)));
            }
            self.interim += len;
            if self.interim > MAX_HEAD {
                return Err(format!("it begins with more than 64 KiB of interim responses (HTTP {code})"));
            }
        }
    }
}

/// Whether bytes that are not HTTP/1 begin like HTTP/2: with a frame of settings for the whole connection.
#[must_use]
pub fn is_http2(bytes: &[u8]) -> bool {
    const SETTINGS: u8 = 4;
    bytes.first() == Some(&0) && bytes.get(3) == Some(&SETTINGS) && bytes.get(5..9) == Some(&[0; 4])
}

fn interpret_head(response: &httparse::Response<'_, '_>, code: u16) -> Result<ParsedHead, FramingError> {
    let status = StatusCode::from_u16(code).map_err(|e| e.to_string())?;
    let (mut encoding, mut via, mut server, mut location, mut length) = (None, None, None, None, Ok(None));
    let (mut chunked, mut close, mut kept) = (false, false, false);
    for header in &*response.headers {
        let is = |name: header::HeaderName| header.name.eq_ignore_ascii_case(name.as_str());
        let has = |word: &str| lists_word(header.value, word);
        if is(header::CONTENT_LENGTH) {
            length = length.and_then(|before| same_length(before, header.value).map(Some));
        } else if is(header::TRANSFER_ENCODING) {
            chunked |= has("chunked");
        } else if is(header::CONNECTION) {
            (close, kept) = (close | has("close"), kept | has("keep-alive"));
        } else if is(header::SERVER) {
            server = server.or(Some(header.value));
        } else if is(header::VIA) {
            via = via.or(Some(header.value));
        } else if is(header::LOCATION) {
            location = location.or(Some(header.value));
        } else if is(header::CONTENT_ENCODING) {
            encoding = encoding.or(Some(header.value));
        }
    }
    let framing = if matches!(code, 204 | 304) {
        Framing::Length(0)
    } else if chunked {
        Framing::Chunked(Chunked::Size(0, 0))
    } else {
        length?.map_or(Framing::Close, Framing::Length)
    };
    let framed = framing != Framing::Close;
    let text = |value: &[u8]| String::from_utf8_lossy(value.trim_ascii()).into_owned();
    let head = Head {
        status,
        location: location.map(text),
        encoding: encoding.and_then(|value| content_encoding(&text(value))),
        framed,
        server: via.or(server).map(text),
    };
    let old = response.version == Some(0) && !kept;
    Ok(ParsedHead { head, framing, keep_alive: !close && !old && framed })
}

/// Whether a list separated by commas has this word.
fn lists_word(list: &[u8], word: &str) -> bool {
    list.split(|byte| *byte == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
}

/// The compression in a `Content-Encoding`, as in [`Head::encoding`].
#[must_use]
pub fn content_encoding(value: &str) -> Option<String> {
    let encoding = value.trim().to_ascii_lowercase();
    (!matches!(encoding.as_str(), "" | "identity")).then_some(encoding)
}

/// The number in a `Content-Length`, which must be the one in those before it.
fn same_length(before: Option<u64>, value: &[u8]) -> Result<u64, FramingError> {
    let value = value.trim_ascii();
    let digits = str::from_utf8(value).ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
    match digits.and_then(|digits| digits.parse().ok()) {
        Some(length) if before.is_none_or(|before| before == length) => Ok(length),
        _ => Err(format!("its Content-Length is not a number: {}", String::from_utf8_lossy(value))),
    }
}

impl Framing {
    /// Consumes bytes of the connection. Returns how many are used, and the range of them that is data.
    ///
    /// Call it again with the remaining bytes until none are used, which means that more must be read.
    ///
    /// # Errors
    /// Fails if the framing is broken.
    pub fn take_data(&mut self, bytes: &[u8]) -> Result<(usize, Range<usize>), FramingError> {
        match self {
            Framing::Close => Ok((bytes.len(), 0..bytes.len())),
            Framing::Length(left) => {
                let taken = available_len(bytes, *left);
                *left -= taken as u64;
                Ok((taken, 0..taken))
            }
            Framing::Chunked(state) => state.take_data(bytes),
        }
    }

    /// Whether the body is complete.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        matches!(self, Framing::Length(0) | Framing::Chunked(Chunked::End))
    }

    /// Whether the body may end here if the connection is closed.
    #[must_use]
    pub fn may_end(&self) -> bool {
        self.is_complete() || *self == Framing::Close
    }
}

/// How many of `bytes` belong to the `left` bytes that are expected.
fn available_len(bytes: &[u8], left: u64) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len())
}

/// The length of a chunk, and of the line that says so, if the line has arrived and holds nothing else, as nearly all do.
fn read_size_line(bytes: &[u8]) -> Option<(u64, usize)> {
    // A length with more digits is left to the general way, as the last chunk is, whose length is 0.
    const MAX_DIGITS: usize = 8;
    let mut size = 0;
    for (at, byte) in bytes.iter().take(MAX_DIGITS + 1).enumerate() {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b'\r' => return (size > 0 && bytes.get(at + 1) == Some(&b'\n')).then_some((size, at + 2)),
            _ => return None,
        };
        size = size << 4 | u64::from(digit);
    }
    None
}

impl Chunked {
    /// See [`Framing::take_data`].
    fn take_data(&mut self, bytes: &[u8]) -> Result<(usize, Range<usize>), FramingError> {
        let mut used = 0;
        if *self == Chunked::Size(0, 0)
            && let Some((size, len)) = read_size_line(bytes)
        {
            (*self, used) = (Chunked::Data(size), len);
        }
        while let Some(byte) = bytes.get(used).copied() {
            if let Chunked::Data(left) = *self {
                let taken = available_len(&bytes[used..], left);
                let (end, left) = (used + taken, left - taken as u64);
                // Nearly always, the line end arrives with the data.
                if left == 0 && bytes[end..].starts_with(b"\r\n") {
                    *self = Chunked::Size(0, 0);
                    return Ok((end + 2, used..end));
                }
                *self = if left == 0 { Chunked::DataEnd } else { Chunked::Data(left) };
                return Ok((end, used..end));
            }
            if *self == Chunked::End {
                break;
            }
            *self = self.next_state(byte)?;
            used += 1;
        }
        Ok((used, 0..0))
    }

    /// The state after `byte`, which is not data.
    fn next_state(self, byte: u8) -> Result<Self, FramingError> {
        let broken = |what: &str| Err(format!("{what}, but got byte {byte:#04x}"));
        Ok(match (self, byte) {
            (Chunked::Size(_, 16), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                return broken("a chunk's length has too many digits");
            }
            (Chunked::Size(size, digits), b'0'..=b'9') => Chunked::Size(size << 4 | u64::from(byte - b'0'), digits + 1),
            (Chunked::Size(size, digits), b'a'..=b'f' | b'A'..=b'F') => {
                Chunked::Size(size << 4 | u64::from((byte | 0x20) - b'a' + 10), digits + 1)
            }
            (Chunked::Size(_, 0), _) => return broken("expected the length of a chunk"),
            (Chunked::Size(size, _) | Chunked::Extension(size), b'\n') => match size {
                0 => Chunked::Trailer(false),
                size => Chunked::Data(size),
            },
            (Chunked::Size(size, _), b'\r' | b';' | b' ' | b'\t') | (Chunked::Extension(size), _) => {
                Chunked::Extension(size)
            }
            (Chunked::Size(..), _) => return broken("expected the end of a chunk's length"),
            (Chunked::DataEnd, b'\r') => Chunked::DataEnd,
            (Chunked::DataEnd, b'\n') => Chunked::Size(0, 0),
            (Chunked::DataEnd, _) => return broken("expected the end of a chunk"),
            (Chunked::Trailer(false), b'\n') => Chunked::End,
            (Chunked::Trailer(any), b'\r') => Chunked::Trailer(any),
            (Chunked::Trailer(_), b'\n') => Chunked::Trailer(false),
            (Chunked::Trailer(_), _) => Chunked::Trailer(true),
            (state @ (Chunked::Data(_) | Chunked::End), _) => state,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The body of `bytes`, passed on in parts of these sizes, and the number of bytes after it.
    fn read_body(mut framing: Framing, bytes: &[u8], cuts: &[usize]) -> Result<(Vec<u8>, usize), FramingError> {
        let (mut data, mut at, mut cut) = (Vec::new(), 0, cuts.iter().cycle());
        while at < bytes.len() && !framing.is_complete() {
            let mut end = (at + cut.next().copied().unwrap_or(bytes.len()).max(1)).min(bytes.len());
            while at < end {
                let (used, range) = framing.take_data(&bytes[at..end])?;
                data.extend_from_slice(&bytes[at..end][range]);
                at += used;
                if used == 0 {
                    end = at;
                }
            }
        }
        if framing.may_end() { Ok((data, bytes.len() - at)) } else { Err("cut".into()) }
    }

    const CHUNKED: Framing = Framing::Chunked(Chunked::Size(0, 0));

    fn read_head(bytes: &[u8]) -> Result<Option<ParsedHead>, FramingError> {
        HeadReader::default().read_head(bytes).map(|(_, head)| head)
    }

    proptest! {
        #[test]
        fn chunks_come_out_as_they_went_in(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..20),
            cuts in prop::collection::vec(1..400_usize, 1..20),
            behind in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let mut bytes = Vec::new();
            for piece in &pieces {
                bytes.extend_from_slice(format!("{:X};a=b\r\n", piece.len()).as_bytes());
                bytes.extend_from_slice(piece);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\nExpires: never\r\n\r\n");
            let end = bytes.len();
            bytes.extend_from_slice(&behind);
            let (data, left) = read_body(CHUNKED, &bytes, &cuts).unwrap();
            prop_assert_eq!(&data, &pieces.concat());
            prop_assert_eq!(left, behind.len());
            prop_assert!(read_body(CHUNKED, &bytes[..end - 1], &cuts).is_err(), "cut short");
        }

        #[test]
        fn nonsense_is_refused_and_nothing_worse(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_body(CHUNKED, &bytes, &[3]);
            let _ = read_head(&bytes);
        }
    }

    #[test]
    fn broken_chunks_say_what_was_due() {
        for (bytes, due) in [
            (&b"xyz"[..], "expected the length of a chunk, but got byte 0x78"),
            (b"3\r\nabcX", "expected the end of a chunk, but got byte 0x58"),
            (b"3!", "expected the end of a chunk's length, but got byte 0x21"),
            (b"11111111111111111", "a chunk's length has too many digits, but got byte 0x31"),
        ] {
            assert_eq!(read_body(CHUNKED, bytes, &[1]), Err(due.into()));
        }
    }

    #[test]
    fn a_head_in_any_cut() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\
                    Transfer-Encoding: gzip, Chunked\r\n\r\nrest";
        let end = text.len() - "rest".len();
        let mut whole = None;
        for cut in 0..text.len() {
            let mut reader = HeadReader::default();
            let (before, none) = reader.read_head(&text.as_bytes()[..cut.min(end - 1)]).unwrap();
            assert_eq!(none, None, "{cut}");
            let (after, head) = reader.read_head(&text.as_bytes()[before..]).unwrap();
            assert_eq!(before + after, end, "{cut}");
            whole = head;
        }
        let read = whole.unwrap();
        assert_eq!((read.head.status, read.head.framed), (StatusCode::OK, true));
        assert_eq!((read.framing, read.keep_alive, read.head.encoding), (CHUNKED, true, None));
    }

    #[test]
    fn interim_responses_without_end_are_refused_and_each_is_parsed_once() {
        let (interim, mut reader, mut passed) = (b"HTTP/1.1 100 Continue\r\n\r\n", HeadReader::default(), 0);
        let refused = loop {
            match reader.read_head(interim) {
                Ok((used, head)) => {
                    assert_eq!((used, head), (interim.len(), None), "the next call does not see it again");
                }
                Err(e) => break e,
            }
            passed += interim.len();
        };
        assert!(passed <= MAX_HEAD && refused.contains("interim responses (HTTP 100)"), "{passed} {refused}");
    }

    #[test]
    fn http_2_is_recognized_by_its_first_frame() {
        // Settings, as servers send them at once: three of six bytes each.
        let settings = [0, 0, 18, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 128];
        assert!(is_http2(&settings));
        for other in [&b"HTTP/1.1 200 OK\r\n"[..], b"", &settings[..8], &[22, 3, 3, 0, 1, 2, 0, 0, 1, 0]] {
            assert!(!is_http2(other), "{other:?}");
        }
    }

    #[test]
    fn a_body_is_compressed_or_is_itself() {
        for (line, want) in
            [("", None), ("Content-Encoding: Identity\r\n", None), ("content-encoding: GZip\r\n", Some("gzip"))]
        {
            let read = read_head(format!("HTTP/1.1 200 OK\r\n{line}\r\n").as_bytes()).unwrap().unwrap();
            assert_eq!(read.head.encoding.as_deref(), want);
        }
    }

    #[test]
    fn how_a_body_is_framed_and_whether_the_connection_stays() {
        for (lines, framing, keep_alive) in [
            ("HTTP/1.1 200 OK\r\ncontent-length: 12\r\n", Framing::Length(12), true),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 12\r\ncontent-length: 12\r\nconnection: Close\r\n",
                Framing::Length(12),
                false,
            ),
            ("HTTP/1.1 200 OK\r\n", Framing::Close, false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 1\r\n", Framing::Length(1), false),
            ("HTTP/1.0 200 OK\r\ncontent-length: 1\r\nconnection: keep-alive\r\n", Framing::Length(1), true),
            ("HTTP/1.1 204 No Content\r\n", Framing::Length(0), true),
            ("HTTP/1.1 200 OK\r\nContent-Length: ?\r\ntransfer-encoding: chunked\r\n", CHUNKED, true),
        ] {
            let read = read_head(format!("{lines}\r\n").as_bytes()).unwrap().unwrap();
            assert_eq!((read.framing, read.keep_alive), (framing, keep_alive), "{lines}");
        }
        for wrong in [
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            "SSH-2.0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        ] {
            assert!(read_head(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(read_head(&[b"HTTP/1.1 200 OK\r\na: ".as_slice(), &vec![b'a'; MAX_HEAD]].concat()).is_err());
        let moved = read_head(b"HTTP/1.1 301 Moved\r\nlocation: /there\r\n\r\n").unwrap().unwrap();
        assert_eq!(moved.head.location.as_deref(), Some("/there"));
    }
}

//! Server-sent events: bytes in, in any split, and events out.
//!
//! The whole grammar of the WHATWG HTML standard, section 9.2.6: lines end in LF, CR or CRLF, a BOM may come first,
//! one space after the colon is dropped, lines that begin with a colon are comments, `data` lines are joined by LF, and a blank
//! line ends the event.

use memchr::{memchr, memchr2};

use crate::json;

/// The largest event that is read; beyond this the stream is broken rather than long.
const MAX_EVENT: usize = 64 << 20;

/// An event is larger than any server sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooLarge;

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SseEvent<'a> {
    /// The value of the `event` field; empty without one.
    pub name: &'a [u8],
    /// The lines of `data`, joined by LF.
    pub data: &'a [u8],
}

/// Splits a stream of bytes into events. Nothing is allocated once its buffers have grown to the size of an event.
#[derive(Debug, Default)]
pub struct EventReader {
    /// The part of a line that has arrived.
    line: Vec<u8>,
    /// The name of the event being read.
    name: Vec<u8>,
    /// Its data, each line followed by LF.
    data: Vec<u8>,
    /// Whether the last byte was a CR, so that an LF now belongs to it.
    after_cr: bool,
    /// Whether the first line has ended. A BOM may come before it.
    begun: bool,
}

impl EventReader {
    /// Reads `bytes` and passes each completed event to `take`, with the number of bytes after it.
    pub fn push(&mut self, mut bytes: &[u8], mut take: impl FnMut(SseEvent<'_>, usize)) -> Result<(), TooLarge> {
        while let Some(first) = bytes.first() {
            if std::mem::take(&mut self.after_cr) && *first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            if let Some((data, used)) = self.complete_event(bytes) {
                self.begun = true;
                take(SseEvent { name: b"", data }, bytes.len() - used);
                bytes = &bytes[used..];
                continue;
            }
            let Some(end) = memchr2(b'\n', b'\r', bytes) else {
                self.line.extend_from_slice(bytes);
                break;
            };
            self.after_cr = bytes[end] == b'\r';
            let mut take = |event: SseEvent<'_>| take(event, bytes.len() - end - 1);
            if self.line.is_empty() {
                self.end_line(&bytes[..end], &mut take);
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(&bytes[..end]);
                self.end_line(&line, &mut take);
                line.clear();
                self.line = line;
            }
            bytes = &bytes[end + 1..];
        }
        if self.line.len() + self.data.len() > MAX_EVENT { Err(TooLarge) } else { Ok(()) }
    }

    /// The data and length of an event that has arrived completely and has one line of data and LF line ends, as nearly all have: the
    /// data is not copied.
    fn complete_event<'a>(&self, bytes: &'a [u8]) -> Option<(&'a [u8], usize)> {
        let within = !self.line.is_empty() || !self.data.is_empty() || !self.name.is_empty();
        let rest = bytes.strip_prefix(b"data:").filter(|_| !within)?;
        let rest = rest.strip_prefix(b" ").unwrap_or(rest);
        let (data, behind) = rest.split_at_checked(memchr2(b'\n', b'\r', rest)?)?;
        behind.starts_with(b"\n\n").then(|| (data, bytes.len() - behind.len() + 2))
    }

    /// Ends the stream; returns whether it ended within an event. The standard drops an event without its blank line, but some
    /// servers end with `data: [DONE]` and one newline or none, so a whole line of data is still taken.
    pub fn finish(&mut self, mut take: impl FnMut(SseEvent<'_>)) -> bool {
        let line = std::mem::take(&mut self.line);
        let is_whole = match split_field(self.without_bom(&line)) {
            Some((b"data", value)) => value == b"[DONE]" || json::is_whole(value),
            _ => false,
        };
        if is_whole {
            self.end_line(&line, &mut take);
        }
        let within = !line.is_empty() && !is_whole || self.data.is_empty() && !self.name.is_empty();
        self.end_line(b"", &mut take);
        within
    }

    fn without_bom<'a>(&self, line: &'a [u8]) -> &'a [u8] {
        if self.begun { line } else { line.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(line) }
    }

    fn end_line(&mut self, line: &[u8], take: &mut impl FnMut(SseEvent<'_>)) {
        let line = self.without_bom(line);
        self.begun = true;
        if line.is_empty() {
            if let Some(data) = self.data.strip_suffix(b"\n") {
                take(SseEvent { name: &self.name, data });
            }
            self.data.clear();
            self.name.clear();
            return;
        }
        match split_field(line) {
            Some((b"data", value)) => {
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
            }
            Some((b"event", value)) => {
                self.name.clear();
                self.name.extend_from_slice(value);
            }
            // `id`, `retry` and other fields say nothing about tokens.
            _ => {}
        }
    }
}

/// Whether a body that begins like this may be an event stream: it is empty, or begins with a comment or a field.
#[must_use]
pub fn may_start_stream(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes).trim_ascii_start();
    let field = memchr(b':', bytes).map(|colon| &bytes[..colon]);
    bytes.is_empty() || matches!(field, Some(b"" | b"data" | b"event" | b"id" | b"retry"))
}

/// Splits a line into the field's name and value; `None` for a comment.
fn split_field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    match memchr(b':', line) {
        Some(0) => None,
        Some(colon) => {
            let value = &line[colon + 1..];
            Some((&line[..colon], value.strip_prefix(b" ").unwrap_or(value)))
        }
        None => Some((line, b"")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_events<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
        let (mut reader, mut got) = (EventReader::default(), Vec::new());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut take = |event: SseEvent, _: usize| {
            let name = if event.name.is_empty() { String::new() } else { text(event.name) + "=" };
            got.push(name + &text(event.data));
        };
        for piece in pieces {
            reader.push(piece, &mut take).unwrap();
        }
        reader.finish(|event| take(event, 0));
        got
    }

    #[test]
    fn the_grammar() {
        for (text, want) in [
            ("data: a\n\ndata: b\n\n", vec!["a", "b"]),
            ("data:a\r\n\r\ndata:  b\r\n\r\n", vec!["a", " b"]),
            ("data: a\r\rdata: b\r\r", vec!["a", "b"]),
            ("\u{feff}data: a\n\n", vec!["a"]),
            ("data: a\ndata: b\n\n", vec!["a\nb"]),
            ("data\n\n", vec![""]),
            (": comment\n\nevent: x\nid: 7\nretry: 1\ndata: a\nunknown: y\n\n", vec!["x=a"]),
            ("event: x\n\ndata: a\n\n", vec!["a"]),
            ("event: x\nevent\ndata: a\n\n", vec!["a"]),
            ("event: only\n\n\n\n", vec![]),
            ("data: {\"a\":\n\ndata: cut", vec!["{\"a\":"]),
            ("data: 1\n\ndata: {\"a\":2}", vec!["1", "{\"a\":2}"]),
            ("data: 1\n\ndata: {\"a\":2", vec!["1"]),
            ("data: [DONE]", vec!["[DONE]"]),
            ("data: [DONE]\n", vec!["[DONE]"]),
            ("data: 1\n\ndata: [DON", vec!["1"]),
            ("", vec![]),
        ] {
            assert_eq!(read_events([text.as_bytes()]), want, "{text:?}");
        }
    }

    #[test]
    fn a_stream_that_ends_within_an_event_was_cut() {
        for (text, cut) in [
            ("", false),
            ("data: {}\n\n", false),
            ("data: {}\n", false),
            ("data: {}", false),
            ("data: [DONE]", false),
            ("data: {\"a\"", true),
            ("data: {}\n\ndat", true),
            ("data: {}\n\nevent: x\n", true),
            ("data: {}\n\n: still he", true),
        ] {
            let mut reader = EventReader::default();
            reader.push(text.as_bytes(), |_, _| ()).unwrap();
            assert_eq!(reader.finish(|_| ()), cut, "{text:?}");
        }
    }

    #[test]
    fn an_endless_event_is_refused() {
        let mut reader = EventReader::default();
        let piece = vec![b'x'; MAX_EVENT / 2];
        assert_eq!(reader.push(&piece, |_, _| ()), Ok(()));
        assert_eq!(reader.push(&piece, |_, _| ()), Ok(()));
        assert_eq!(reader.push(b"x", |_, _| ()), Err(TooLarge));
    }

    /// The standard's algorithm, written slowly and literally.
    fn by_the_book(text: &str) -> Vec<String> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n").replace('\r', "\n");
        let (mut got, mut data, mut event) = (Vec::new(), Vec::new(), String::new());
        let mut lines: Vec<&str> = text.split('\n').collect();
        let last = lines.pop().unwrap();
        if last.strip_prefix("data:").is_some_and(|v| v.strip_prefix(' ').unwrap_or(v) == "[DONE]") {
            lines.push(last);
        }
        lines.push("");
        for line in lines {
            if line.is_empty() {
                if !data.is_empty() {
                    let name = if event.is_empty() { String::new() } else { format!("{event}=") };
                    got.push(name + &data.join("\n"));
                }
                data.clear();
                event.clear();
            } else if !line.starts_with(':') {
                let (name, value) = line.split_once(':').unwrap_or((line, ""));
                let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
                match name {
                    "data" => data.push(value),
                    "event" => event = value,
                    _ => {}
                }
            }
        }
        got
    }

    proptest! {
        #[test]
        fn where_the_network_cuts_does_not_matter(
            text in "\u{feff}?(data: ?[abü:]{0,3}|data: \\[DONE\\]|data|: c|event: e|\r\n|\n|\r){0,40}",
            cuts in prop::collection::vec(1_usize..7, 1..60),
        ) {
            let (mut rest, mut pieces) = (text.as_bytes(), Vec::new());
            for n in cuts {
                let (head, tail) = rest.split_at(n.min(rest.len()));
                pieces.push(head);
                rest = tail;
            }
            pieces.push(rest);
            let whole = read_events([text.as_bytes()]);
            prop_assert_eq!(&read_events(pieces), &whole);
            prop_assert_eq!(whole, by_the_book(&text));
        }
    }
}

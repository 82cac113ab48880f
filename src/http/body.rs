//! Splits the body of a response into chunks: server-sent events, lines of JSON, or one document.
//!
//! The body decides what it is, by how it begins: servers and gateways send event streams as `text/html`, and errors as
//! `text/event-stream`.

use super::{
    lines::LineReader,
    socket::ReadStamp,
    sse::{self, EventReader, SseEvent},
};
use crate::json;

/// How much is kept of a body in which no event has arrived yet, to quote it.
const MAX_OPENING: usize = 64 << 10;

/// The longest document that is read.
const MAX_DOCUMENT: usize = 256 << 20;

/// How a response body is split into chunks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BodyFormat {
    /// Server-sent events.
    #[default]
    Events,
    /// One JSON object per line.
    JsonLines,
    /// One JSON document, not split.
    Json,
}

impl BodyFormat {
    /// The media type to ask for, and its name in messages.
    #[must_use]
    pub fn media_type(self) -> (&'static str, &'static str) {
        match self {
            BodyFormat::Events => ("text/event-stream", "an event stream"),
            BodyFormat::JsonLines => ("application/x-ndjson", "lines of JSON"),
            BodyFormat::Json => ("application/json", "JSON"),
        }
    }

    /// What a body is that begins with these bytes; `None`: neither of these.
    #[must_use]
    pub fn detect(body: &[u8]) -> Option<Self> {
        let body = without_bom(body);
        if body.starts_with(b"{") || body.starts_with(b"[") {
            let first = body.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let lines = first.len() < body.trim_ascii_end().len() && json::is_whole(first);
            return Some(if lines { BodyFormat::JsonLines } else { BodyFormat::Json });
        }
        (!body.is_empty() && sse::may_start_stream(body)).then_some(BodyFormat::Events)
    }
}

/// What the end of a body left.
#[derive(Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// Nothing: all chunks were complete.
    Complete,
    /// A chunk that has not arrived completely.
    Cut,
    /// One document, the whole body.
    Document(Vec<u8>),
    /// The beginning of a body that is neither events nor JSON.
    Other(Vec<u8>),
}

/// Splits a body into chunks.
#[derive(Debug, Default)]
pub struct BodySplitter {
    expected: BodyFormat,
    splitter: Splitter,
    /// The beginning of a body in which no event has arrived yet.
    opening: Vec<u8>,
    has_event: bool,
}

#[derive(Debug)]
enum Splitter {
    /// Only white space has arrived.
    Blank(Vec<u8>),
    Events(EventReader),
    /// A line or a document: the first line has not ended.
    FirstLine(Vec<u8>),
    Lines(LineReader, Option<HeldLine>),
    Document(Vec<u8>),
}

/// The first line of JSON in place of an event stream, and its arrival: without a second one, it is a document.
type HeldLine = (ReadStamp, Vec<u8>);

impl Default for Splitter {
    fn default() -> Self {
        Splitter::Blank(Vec::new())
    }
}

impl BodySplitter {
    /// Splits a body that should have this format.
    #[must_use]
    pub fn new(expected: BodyFormat) -> Self {
        BodySplitter { expected, ..BodySplitter::default() }
    }

    /// Whether a chunk has arrived.
    #[must_use]
    pub fn has_event(&self) -> bool {
        self.has_event
    }

    /// Approximate size on the heap, in bytes.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let held = match &self.splitter {
            Splitter::FirstLine(bytes) | Splitter::Document(bytes) | Splitter::Blank(bytes) => bytes.capacity(),
            Splitter::Events(_) | Splitter::Lines(..) => 0,
        };
        held + self.opening.capacity()
    }

    /// Reads `bytes` and passes each completed chunk to `take`, with its arrival.
    ///
    /// # Errors
    /// A chunk is larger than any server sends.
    pub fn push(
        &mut self,
        arrival: ReadStamp,
        bytes: &[u8],
        mut take: impl FnMut(ReadStamp, SseEvent<'_>),
    ) -> Result<(), &'static str> {
        match &mut self.splitter {
            Splitter::Blank(held) => {
                held.extend_from_slice(bytes);
                if self.expected == BodyFormat::Json {
                    self.splitter = Splitter::Document(std::mem::take(held));
                    return Ok(());
                }
                if is_blank(held) {
                    return Ok(());
                }
                let begun = without_bom(held).to_vec();
                self.splitter = if begins_line(&begun, self.expected) {
                    Splitter::FirstLine(Vec::new())
                } else {
                    Splitter::Events(EventReader::default())
                };
                self.push(arrival, &begun, take)
            }
            Splitter::Events(events) => {
                let mut any = false;
                let read = events.push(bytes, |event, left| {
                    any = true;
                    take(arrival.before_last(left), event);
                });
                self.has_event |= any;
                if !self.has_event {
                    let room = MAX_OPENING - self.opening.len();
                    self.opening.extend_from_slice(&bytes[..bytes.len().min(room)]);
                }
                read.map_err(|_| "an event is larger than 64 MiB: is this an event stream?")
            }
            Splitter::FirstLine(line) => {
                let Some(end) = memchr::memchr(b'\n', bytes) else {
                    line.extend_from_slice(bytes);
                    return check_document(line);
                };
                line.extend_from_slice(&bytes[..end]);
                let line_arrival = arrival.before_last(bytes.len() - end - 1);
                let mut line = std::mem::take(line);
                if json::is_cut(&line) {
                    line.push(b'\n');
                    self.splitter = Splitter::Document(line);
                    return self.push(arrival, &bytes[end + 1..], take);
                }
                let held = if self.expected == BodyFormat::JsonLines {
                    self.has_event = true;
                    take(line_arrival, SseEvent { name: b"", data: without_bom(&line) });
                    None
                } else {
                    Some((line_arrival, line))
                };
                self.splitter = Splitter::Lines(LineReader::default(), held);
                self.push(arrival, &bytes[end + 1..], take)
            }
            Splitter::Lines(lines, held) => {
                let has_event = &mut self.has_event;
                let read = lines.push(bytes, |data, left| {
                    if !data.trim_ascii().is_empty() {
                        *has_event = true;
                        release_line(held, &mut take);
                        take(arrival.before_last(left), SseEvent { name: b"", data });
                    }
                });
                read.map_err(|_| "a line is longer than 64 MiB: are these lines of JSON?")
            }
            Splitter::Document(body) => {
                body.extend_from_slice(bytes);
                check_document(body)
            }
        }
    }

    /// Ends the body. `complete`: it was read to its end. The last chunk may lack its line end; if it was cut, it is not passed on.
    pub fn finish(
        &mut self,
        arrival: ReadStamp,
        complete: bool,
        mut take: impl FnMut(ReadStamp, SseEvent<'_>),
    ) -> BodyEnd {
        let mut held = None;
        if let Splitter::Lines(_, line) = &mut self.splitter {
            held = line.take();
        }
        let mut cut = false;
        let mut take_last = |event: SseEvent<'_>| {
            if !may_end_with(event.data, complete) {
                cut = true;
                return;
            }
            release_line(&mut held, &mut take);
            take(arrival, event);
        };
        match std::mem::take(&mut self.splitter) {
            Splitter::Events(mut events) => {
                let within = events.finish(&mut take_last);
                cut |= within;
                if !self.has_event && !sse::may_start_stream(&self.opening) {
                    return BodyEnd::Other(std::mem::take(&mut self.opening));
                }
            }
            Splitter::FirstLine(line) if self.expected == BodyFormat::JsonLines => {
                take_last(SseEvent { name: b"", data: without_bom(&line) });
            }
            Splitter::Lines(mut lines, _) => {
                lines.finish(|line| {
                    if !line.trim_ascii().is_empty() {
                        take_last(SseEvent { name: b"", data: line });
                    }
                });
                if let Some((_, line)) = held.filter(|_| !cut) {
                    return BodyEnd::Document(line);
                }
            }
            Splitter::FirstLine(body) | Splitter::Document(body) => return BodyEnd::Document(body),
            Splitter::Blank(_) => {}
        }
        if cut { BodyEnd::Cut } else { BodyEnd::Complete }
    }
}

/// Whether a body that begins like this is JSON. Where lines are expected, everything is that is not a field of an event or a page.
fn begins_line(bytes: &[u8], expected: BodyFormat) -> bool {
    match bytes.first() {
        Some(b'{' | b'[') => true,
        Some(b':' | b'<' | b'd' | b'e' | b'i' | b'r') => false,
        _ => expected == BodyFormat::JsonLines,
    }
}

/// Whether a body may end with this chunk. Of a body that broke off, only what is certainly whole is taken.
fn may_end_with(data: &[u8], complete: bool) -> bool {
    const END: &[u8] = b"[DONE]";
    let data = data.trim_ascii();
    let cut = json::is_cut(data) || END.starts_with(data) && data != END;
    data == END || json::is_whole(data) || complete && !cut
}

fn release_line(held: &mut Option<HeldLine>, take: &mut impl FnMut(ReadStamp, SseEvent<'_>)) {
    if let Some((arrival, line)) = held.take() {
        take(arrival, SseEvent { name: b"", data: &line });
    }
}

fn check_document(body: &[u8]) -> Result<(), &'static str> {
    if body.len() > MAX_DOCUMENT { Err("the response is larger than 256 MiB") } else { Ok(()) }
}

const BOM: &[u8] = b"\xEF\xBB\xBF";

fn without_bom(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(BOM).unwrap_or(bytes).trim_ascii_start()
}

fn is_blank(bytes: &[u8]) -> bool {
    without_bom(bytes).is_empty() || BOM.starts_with(bytes)
}

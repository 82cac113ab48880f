//! One response as it arrives: stamped bytes in, tokens and an outcome out. Uses no socket and no clock.

mod document;
mod outcome;
mod packet_stamps;

use std::{borrow::Cow, ops::Range};

use super::{token_count::TokenCounter, transcript::Transcript};
use crate::{
    backend::{ChoiceDelta, Delta, OutputKind, Protocol, ReadError, ServerTimings, TextMode, pattern::ChunkPattern},
    http::{
        body::{BodyEnd, BodyFormat, BodySplitter},
        error_text::{error_message, find_enclosed_error, find_error_words},
        exchange::RequestFailure,
        socket::ReadStamp,
        sse::SseEvent,
    },
    json,
    record::{ErrorKind, Stamps},
    units::Nanos,
};

/// A chunk that is read later than this after its arrival counts as late.
const LATE_READ: Nanos = Nanos(1_000_000);

/// What has arrived of a response.
#[derive(Debug, Default)]
pub struct ReceivedResponse {
    protocol: Protocol,
    /// `None` while it is at work: each chunk moves it out of here and back.
    splitter: Option<Box<BodySplitter>>,
    /// HTTP does not mark the end of the body: it ends with the connection.
    unframed: bool,
    /// The common form of its chunks.
    pattern: ChunkPattern,
    /// When the last bytes arrived.
    arrival: ReadStamp,
    /// The read in which the last token arrived.
    token_read: Option<u64>,
    /// Kernel stamp → read for each token-bearing chunk; 0 if it was stamped in user space.
    read_lag: Vec<Nanos>,
    /// Where each token-bearing chunk ends in the connection's stream, if its packets are captured.
    chunk_ends: Vec<u64>,
    /// How the token-bearing chunks were stamped.
    stamps: Stamps,
    /// The arrival of the bytes before the last read.
    earlier: Nanos,
    /// Token-bearing chunks of the last read, by their numbers, that carry the stamp of a later one, and whose error is not known yet.
    /// What ends a response does not count: servers send it together with the last token.
    joined: Range<u32>,
    /// See [`crate::record::RequestFuncOutput::stamp_error`].
    stamp_error: Vec<(u32, Nanos)>,
    /// When the first token, the first token that is not reasoning, and the last token arrived.
    first: Option<Nanos>,
    first_answer: Option<Nanos>,
    last: Option<Nanos>,
    /// Token-bearing chunks before the first that is not reasoning.
    chunks_before_answer: usize,
    itl: Vec<Nanos>,
    /// When the first and the last chunk without any text arrived, not counting the opening chunk of a chat.
    empty_chunks: Option<(Nanos, Nanos)>,
    tokens: TokenCounter,
    metrics: Option<ServerTimings>,
    finish_reason: Option<String>,
    /// A bit for each of the `n` choices: whether it has begun, and whether it has sent its finish reason.
    begun: u64,
    finished: u64,
    /// A bit for each choice: whether its tokens came in parts, not as a whole message.
    in_parts: u64,
    transcript: Transcript,
    /// Chunks with text of the first choice's answer.
    answer_chunks: u32,
    /// Tokens arrived in a non-streaming response, which has no first token.
    untimed_tokens: bool,
    /// Why the first chunk that the API does not have could not be read: the failure, unless tokens arrive in others.
    odd_chunk: Option<RequestFailure>,
    /// Its last bytes are parsed.
    parsed: bool,
    /// It ended within a chunk.
    cut: bool,
    done: bool,
    failure: Option<RequestFailure>,
}

/// A smaller error of a stamp is not noted: it moves no number by a tenth of a millisecond.
const MIN_STAMP_ERROR: Nanos = Nanos(100_000);

/// How much is quoted of what could not be read, in characters.
const MAX_QUOTE: usize = 200;

/// The most that is kept of the chunks of a response: a million tokens, with room. One without an end would fill the memory.
const MAX_KEPT: usize = 64 << 20;

/// How many reads may pass until that is checked: the sizes of what is kept are in many places.
const READS_PER_CHECK: u64 = 64;

impl ReceivedResponse {
    /// Reserves room for this number of tokens, so that a chunk does not allocate. `keep_texts`: a tokenizer may have to count
    /// them.
    #[must_use]
    pub fn with_capacity(protocol: Protocol, tokens: Option<u32>, keep_texts: bool) -> Self {
        // A response may be far shorter than its limit, and a non-streaming one has no gaps.
        let capacity =
            if protocol.body_format() == BodyFormat::Json { 0 } else { tokens.unwrap_or(0).min(1024) as usize };
        ReceivedResponse {
            protocol,
            splitter: Some(Box::new(BodySplitter::new(protocol.body_format()))),
            itl: Vec::with_capacity(capacity),
            tokens: TokenCounter::with_capacity(capacity, keep_texts),
            read_lag: Vec::with_capacity(capacity),
            transcript: Transcript::with_capacity(capacity * 4),
            ..ReceivedResponse::default()
        }
    }

    /// How its bytes are split into chunks.
    #[must_use]
    pub fn body_format(&self) -> BodyFormat {
        self.protocol.body_format()
    }

    /// Takes bytes of the body.
    ///
    /// # Errors
    /// The response reports a failure or does not belong to this API, so reading on is useless.
    pub fn push(&mut self, arrival: ReadStamp, bytes: &[u8]) -> Result<(), RequestFailure> {
        if arrival.read != self.arrival.read {
            self.earlier = self.arrival.time;
        }
        self.arrival = arrival;
        let mut splitter = self.splitter.take().unwrap_or_default();
        if let Err(why) = splitter.push(arrival, bytes, |arrival, event| self.take_event(arrival, event)) {
            self.set_failure(ErrorKind::Protocol, why);
        }
        self.splitter = Some(splitter);
        if arrival.read.is_multiple_of(READS_PER_CHECK) && self.kept_bytes() > MAX_KEPT {
            self.set_failure(ErrorKind::Protocol, "the response has no end: its text and times fill 64 MiB");
        }
        self.failure.clone().map_or(Ok(()), Err)
    }

    /// Notes whether HTTP marks the end of its body.
    pub fn set_framed(&mut self, framed: bool) {
        self.unframed = !framed;
    }

    /// Whether a token has arrived.
    #[must_use]
    pub fn has_token(&self) -> bool {
        self.first.is_some()
    }

    /// Whether it is marked as complete. A finish reason is not enough: usage may follow it.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// The tokens that have arrived; a chunk without a count counts as one.
    #[must_use]
    pub fn tokens_so_far(&self) -> u64 {
        self.tokens.tokens_so_far()
    }

    /// The mean time between token-bearing chunks; `None` without two of them.
    #[must_use]
    pub fn mean_gap(&self) -> Option<Nanos> {
        let gaps = u64::try_from(self.itl.len()).ok()?;
        Some(Nanos(self.last?.since(self.first?).0.checked_div(gaps)?))
    }

    /// Approximate size on the heap, in bytes.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.kept_bytes() + self.splitter.as_ref().map_or(0, |splitter| splitter.heap_bytes())
    }

    /// What is kept of its chunks.
    fn kept_bytes(&self) -> usize {
        let times = self.itl.capacity() + self.read_lag.capacity() + self.chunk_ends.capacity();
        let errors = self.stamp_error.capacity() * size_of::<(u32, Nanos)>();
        times * size_of::<Nanos>() + errors + self.tokens.heap_bytes() + self.transcript.heap_bytes()
    }

    fn push_text(&mut self, text: &str) {
        self.answer_chunks = self.answer_chunks.saturating_add(u32::from(!text.is_empty()));
        self.transcript.push(text);
    }

    fn set_failure(&mut self, kind: ErrorKind, message: impl Into<String>) {
        self.failure.get_or_insert_with(|| RequestFailure::new(kind, message));
    }

    /// Takes an event or a line.
    fn take_event(&mut self, arrival: ReadStamp, SseEvent { name, data }: SseEvent<'_>) {
        if self.done || self.failure.is_some() {
            return;
        }
        let event = SseEvent { name, data };
        if let Some((kind, text)) = self.pattern.read_text(event) {
            self.stamp_token(arrival, kind == OutputKind::Answer);
            self.tokens.add_chunk(1, 0, None);
            self.tokens.add_plain_text(kind, text);
            if kind == OutputKind::Answer {
                self.push_text(text);
            }
            return;
        }
        if name == b"error" {
            return self.set_failure(ErrorKind::StreamError, error_message(data));
        }
        match data.trim_ascii() {
            // Keep-alives, as some gateways send; one writes the comments of others as data.
            b"" | [b':', ..] => return,
            _ if matches!(name, b"ping" | b"keepalive") => return,
            b"[DONE]" => {
                self.done = true;
                return;
            }
            _ => {}
        }
        let (mut repaired, api) = (Vec::new(), self.protocol.api);
        let (data, read) = read_repaired(data, &mut repaired, |data| api.read_event(SseEvent { name, data }));
        match read {
            Ok(delta) => {
                self.pattern.learn_chunk(SseEvent { name, data }, &delta);
                self.take_chunk(arrival, data, delta);
            }
            Err(why) => self.take_odd_chunk(data, &why),
        }
    }

    /// Takes an event that the API has, unless it holds an error in place of content.
    fn take_chunk(&mut self, arrival: ReadStamp, data: &[u8], delta: Delta<'_>) {
        match delta.is_idle().then(|| find_enclosed_error(data)).flatten() {
            Some(error) => self.set_failure(ErrorKind::StreamError, error),
            None => self.take_delta(arrival, delta),
        }
    }

    /// Takes an event that the API does not have. It bears no token, so it fails the response only if it is an error, or if no
    /// other event bears any; without being JSON, it may have been one that does.
    fn take_odd_chunk(&mut self, data: &[u8], why: &ReadError) {
        if let Some(error) = find_enclosed_error(data) {
            return self.set_failure(ErrorKind::StreamError, error);
        }
        let failure = if let (ReadError::Shape(_), Some(words)) = (why, find_error_words(data)) {
            RequestFailure::new(ErrorKind::StreamError, words)
        } else {
            let message = format!("an event of the stream is not a chunk ({why}): {}", quote(data));
            RequestFailure::new(ErrorKind::Protocol, message)
        };
        if matches!(why, ReadError::Syntax(_)) {
            self.failure.get_or_insert(failure);
        } else {
            self.odd_chunk.get_or_insert(failure);
        }
    }

    /// Takes the content of an event.
    fn take_delta(&mut self, arrival: ReadStamp, mut delta: Delta<'_>) {
        if let Some(error) = delta.error {
            return self.set_failure(ErrorKind::StreamError, error);
        }
        let count = delta.usage.completion_tokens;
        let ends = delta.done;
        delta.choices.iter_mut().for_each(|choice| self.drop_repeated(choice, ends));
        if delta.text_mode != TextMode::Incremental {
            delta.choices.iter_mut().for_each(|choice| self.keep_new_text(choice, delta.text_mode));
        }
        self.tokens.add_usage(delta.usage);
        self.metrics = delta.metrics.or(self.metrics);
        let with_tokens = delta.choices.iter().filter(|choice| choice.has_token()).count();
        let is_content = delta.choices.iter().any(|choice| !choice.opens);
        // A chunk with an incomplete character may have no text.
        let held_back = delta.text_mode != TextMode::Incremental && is_content && self.tokens.has_counted_more(count);
        if with_tokens > 0 || held_back {
            self.stamp_token(arrival, delta.choices.iter().any(ChoiceDelta::has_answer));
            self.tokens.add_chunk(with_tokens, delta.choices.iter().map(|choice| choice.ids).sum(), count);
        } else {
            self.tokens.add_other(count, is_content);
            if is_content {
                let stamp = arrival.time;
                self.empty_chunks = Some((self.empty_chunks.map_or(stamp, |(first, _)| first), stamp));
            }
        }
        self.take_choices(&delta);
        self.done |= delta.done;
    }

    /// Drops a text that repeats the whole output: a message after its deltas, and a last chunk with all text so far.
    fn drop_repeated(&mut self, choice: &mut ChoiceDelta<'_>, ends: bool) {
        let bit = choice_bit(choice.index);
        if !choice.whole {
            let is_last = ends || choice.finish.is_some();
            if is_last && choice.index == 0 && self.answer_chunks > 1 && choice.text == self.transcript.text() {
                choice.text = Cow::default();
            }
            self.in_parts |= if choice.has_token() { bit } else { 0 };
        } else if self.in_parts & bit != 0 {
            *choice = ChoiceDelta { index: choice.index, finish: choice.finish.take(), ..ChoiceDelta::default() };
        } else if choice.index == 0 {
            self.keep_new_text(choice, TextMode::Either);
        }
    }

    /// Reduces a text that may repeat everything before it to what is new.
    fn keep_new_text(&mut self, choice: &mut ChoiceDelta<'_>, mode: TextMode) {
        let text = std::mem::take(&mut choice.text);
        choice.text = match choice.kind {
            OutputKind::Reasoning => self.transcript.new_reasoning(text),
            OutputKind::Answer | OutputKind::ToolCall => self.transcript.new_text(mode, text),
        };
    }

    /// Takes the texts and the finish reasons.
    fn take_choices(&mut self, delta: &Delta<'_>) {
        for choice in &delta.choices {
            let bit = choice_bit(choice.index);
            self.begun |= bit;
            if let Some(reason) = &choice.finish {
                self.finished |= bit;
                // As with the text, only of the first choice.
                if choice.index == 0 {
                    self.finish_reason = Some(reason.clone().into_owned());
                }
            }
            self.tokens.add_texts(choice);
            if choice.index == 0 && choice.kind != OutputKind::Reasoning {
                self.push_text(&choice.text);
            }
        }
    }

    /// Notes when a token-bearing chunk arrived. `is_answer`: it is not all reasoning.
    fn stamp_token(&mut self, arrival: ReadStamp, is_answer: bool) {
        let stamp = arrival.time;
        self.count_stamp(arrival);
        if let Some(last) = self.last.replace(stamp) {
            self.itl.push(stamp.since(last));
        }
        self.first.get_or_insert(stamp);
        if is_answer && self.first_answer.is_none() {
            self.first_answer = Some(stamp);
            self.chunks_before_answer = self.itl.len();
        }
    }

    /// Counts how a token-bearing chunk was stamped.
    fn count_stamp(&mut self, arrival: ReadStamp) {
        let late = u64::from(arrival.lag.is_some_and(|lag| lag > LATE_READ));
        // The chunk before it in the same read has a stamp that is too late.
        let coalesced = u64::from(self.token_read.replace(arrival.read) == Some(arrival.read));
        if coalesced == 1 && arrival.lag.is_some() {
            let next = u32::try_from(self.stamps.chunks).unwrap_or(u32::MAX);
            let begin = if self.joined.is_empty() { next.saturating_sub(1) } else { self.joined.start };
            self.joined = begin..next;
        }
        self.stamps.chunks += 1;
        self.stamps.user += u64::from(arrival.lag.is_none());
        self.stamps.late += late;
        self.stamps.coalesced += coalesced;
        self.stamps.late_coalesced += late & coalesced;
        self.read_lag.push(arrival.lag.unwrap_or_default());
        if let Some(end) = arrival.end {
            self.chunk_ends.push(end);
        }
    }

    /// Whether chunks carry the stamp of a later chunk, and [`ReceivedResponse::bound_error`] has to be called.
    #[must_use]
    pub fn has_joined_chunks(&self) -> bool {
        !self.joined.is_empty()
    }

    /// Notes how far the stamps of joined chunks may be off: none of the bytes of the last read had arrived at `earliest`.
    pub fn bound_error(&mut self, earliest: Nanos) {
        let error = self.arrival.time.since(earliest.max(self.earlier));
        let joined = std::mem::take(&mut self.joined);
        if error >= MIN_STAMP_ERROR {
            self.stamp_error.extend(joined.map(|chunk| (chunk, error)));
        }
    }

    /// How the token-bearing chunks were stamped.
    #[must_use]
    pub fn stamps(&self) -> Stamps {
        self.stamps
    }

    /// Parses what the last bytes left open. `complete`: the response was read to its end.
    pub fn parse_remaining(&mut self, complete: bool) {
        if std::mem::replace(&mut self.parsed, true) {
            return;
        }
        let arrival = self.arrival;
        let mut splitter = self.splitter.take().unwrap_or_default();
        let end = splitter.finish(arrival, complete, |arrival, event| self.take_event(arrival, event));
        self.splitter = Some(splitter);
        match end {
            BodyEnd::Cut => self.cut = true,
            BodyEnd::Document(body) if complete => self.take_document(&body),
            BodyEnd::Other(body) if complete => {
                let message = format!("the response is not {}: {}", self.body_format().media_type().1, quote(&body));
                self.set_failure(ErrorKind::Protocol, message);
            }
            BodyEnd::Complete | BodyEnd::Document(_) | BodyEnd::Other(_) => {}
        }
        if self.has_joined_chunks() {
            self.bound_error(self.earlier);
        }
        self.use_empty_chunks();
    }
}

/// The bit of a choice. More than 64 are not expected; they would share the last bit.
fn choice_bit(index: u32) -> u64 {
    1 << index.min(63)
}

/// Reads `data`, or what it was meant to be, which is then in `repaired`. Returns what was read, and its content.
fn read_repaired<'d>(
    data: &'d [u8],
    repaired: &'d mut Vec<u8>,
    read: impl Fn(&'d [u8]) -> Result<Delta<'d>, ReadError>,
) -> (&'d [u8], Result<Delta<'d>, ReadError>) {
    match read(data) {
        Err(ReadError::Syntax(why)) => match json::repair_json(data) {
            Some(text) => {
                *repaired = text;
                (repaired, read(repaired))
            }
            None => (data, Err(ReadError::Syntax(why))),
        },
        result => (data, result),
    }
}

/// What could not be read, in one line: the words of an error, or the beginning of the text.
fn quote(data: &[u8]) -> String {
    let text = error_message(data);
    match text.char_indices().nth(MAX_QUOTE) {
        Some((end, _)) if find_error_words(data).is_none() => format!("{}…", &text[..end]),
        _ => text,
    }
}

//! One response as it arrives: stamped bytes in, tokens and an outcome out. Uses no socket and no clock.

use std::borrow::Cow;

use super::{
    token_count::{ResponseFacts, TokenCounter},
    transcript::Transcript,
};
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
    record::{ErrorKind, RequestFuncOutput, ServerTimes, Stamp, Stamps},
    units::Nanos,
};

/// A chunk that is read later than this after its arrival counts as late.
const LATE_READ: Nanos = Nanos(1_000_000);

/// What has arrived of a response.
#[derive(Debug, Default)]
pub struct ReceivedResponse {
    protocol: Protocol,
    splitter: BodySplitter,
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
    /// How the token-bearing chunks were stamped.
    stamps: Stamps,
    /// When the first token, the first token that is not reasoning, and the last token arrived.
    first: Option<Nanos>,
    first_answer: Option<Nanos>,
    last: Option<Nanos>,
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

/// How much is quoted of what could not be read, in characters.
const MAX_QUOTE: usize = 200;

/// The most that is kept of the chunks of a response: a million tokens, with room. One without an end would fill the memory.
const MAX_KEPT: usize = 64 << 20;

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
            splitter: BodySplitter::new(protocol.body_format()),
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
        self.arrival = arrival;
        let mut splitter = std::mem::take(&mut self.splitter);
        if let Err(why) = splitter.push(arrival, bytes, |arrival, event| self.take_event(arrival, event)) {
            self.set_failure(ErrorKind::Protocol, why);
        }
        self.splitter = splitter;
        if self.kept_bytes() > MAX_KEPT {
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

    /// Approximate size on the heap, in bytes.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.kept_bytes() + self.splitter.heap_bytes()
    }

    /// What is kept of its chunks.
    fn kept_bytes(&self) -> usize {
        let times = self.itl.capacity() + self.read_lag.capacity();
        times * size_of::<Nanos>() + self.tokens.heap_bytes() + self.transcript.heap_bytes()
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
        match self.protocol.api.read_event(event) {
            Ok(delta) => {
                self.pattern.learn_chunk(event, &delta);
                self.take_chunk(arrival, data, delta);
            }
            Err(ReadError::Syntax(why)) => match json::repair_json(data) {
                Some(data) => match self.protocol.api.read_event(SseEvent { name, data: &data }) {
                    Ok(delta) => self.take_chunk(arrival, &data, delta),
                    Err(why) => self.take_odd_chunk(&data, &why),
                },
                None => self.take_odd_chunk(data, &ReadError::Syntax(why)),
            },
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

    /// Takes the document that was the whole body.
    fn take_document(&mut self, body: &[u8]) {
        let expected = self.body_format();
        if expected != BodyFormat::Json {
            self.cut = json::is_cut(body);
            if !self.cut {
                self.fail_other_format(BodyFormat::Json.media_type().1, body);
            }
            return;
        }
        let repaired;
        let (body, read) = match self.protocol.api.read_response(body) {
            Err(ReadError::Syntax(why)) => match json::repair_json(body) {
                Some(text) => {
                    repaired = text;
                    (&repaired[..], self.protocol.api.read_response(&repaired))
                }
                None => (body, Err(ReadError::Syntax(why))),
            },
            read => (body, read),
        };
        match read {
            Ok(delta) => self.take_full_delta(body, &delta),
            Err(ReadError::Syntax(why)) => match BodyFormat::detect(body).filter(|found| *found != expected) {
                Some(found) => self.fail_other_format(found.media_type().1, body),
                None if self.unframed && json::is_cut(body) => self.cut = true,
                None => self.fail_full_body(&why, body),
            },
            Err(ReadError::Shape(why)) => match find_enclosed_error(body).or_else(|| find_error_words(body)) {
                Some(error) => self.set_failure(ErrorKind::StreamError, error),
                None => self.fail_full_body(&why, body),
            },
        }
    }

    /// Takes a non-streaming response: the time of its end is known, the times of its tokens are not.
    fn take_full_delta(&mut self, body: &[u8], delta: &Delta<'_>) {
        let has_token = delta.choices.iter().any(ChoiceDelta::has_token);
        let generates = self.protocol.api.generates_tokens();
        let error = delta.error.clone().or_else(|| find_enclosed_error(body).filter(|_| generates && !has_token));
        if let Some(error) = error {
            return self.set_failure(ErrorKind::StreamError, error);
        }
        let arrival = self.arrival;
        self.last = Some(arrival.time);
        self.count_stamp(arrival);
        self.tokens.add_usage(delta.usage);
        self.metrics = delta.metrics;
        self.done = delta.done;
        self.take_choices(delta);
        self.untimed_tokens = has_token || self.tokens.has_usage();
        if self.untimed_tokens {
            self.tokens.add_untimed_tokens(delta.choices.iter().filter(|choice| choice.has_token()).count());
        }
    }

    fn fail_full_body(&mut self, why: &str, body: &[u8]) {
        let message = format!("the response does not belong to this API ({why}): {}", quote(body));
        self.set_failure(ErrorKind::Protocol, message);
    }

    /// The whole body has another format than was asked for.
    fn fail_other_format(&mut self, found: &str, body: &[u8]) {
        let expected = self.body_format().media_type().1;
        self.set_failure(ErrorKind::Protocol, format!("the server answered {found}, not {expected}: {}", quote(body)));
    }

    /// Notes when a token-bearing chunk arrived. `is_answer`: it is not all reasoning.
    fn stamp_token(&mut self, arrival: ReadStamp, is_answer: bool) {
        let stamp = arrival.time;
        self.count_stamp(arrival);
        if let Some(last) = self.last.replace(stamp) {
            self.itl.push(stamp.since(last));
        }
        self.first.get_or_insert(stamp);
        if is_answer {
            self.first_answer.get_or_insert(stamp);
        }
    }

    /// Counts how a token-bearing chunk was stamped.
    fn count_stamp(&mut self, arrival: ReadStamp) {
        let late = u64::from(arrival.lag.is_some_and(|lag| lag > LATE_READ));
        // The chunk before it in the same read has a stamp that is too late.
        let coalesced = u64::from(self.token_read.replace(arrival.read) == Some(arrival.read));
        self.stamps.chunks += 1;
        self.stamps.user += u64::from(arrival.lag.is_none());
        self.stamps.late += late;
        self.stamps.coalesced += coalesced;
        self.stamps.late_coalesced += late & coalesced;
        self.read_lag.push(arrival.lag.unwrap_or_default());
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
        let mut splitter = std::mem::take(&mut self.splitter);
        let end = splitter.finish(arrival, complete, |arrival, event| self.take_event(arrival, event));
        self.splitter = splitter;
        match end {
            BodyEnd::Cut => self.cut = true,
            BodyEnd::Document(body) if complete => self.take_document(&body),
            BodyEnd::Other(body) if complete => {
                let message = format!("the response is not {}: {}", self.body_format().media_type().1, quote(&body));
                self.set_failure(ErrorKind::Protocol, message);
            }
            BodyEnd::Complete | BodyEnd::Document(_) | BodyEnd::Other(_) => {}
        }
        self.use_empty_chunks();
    }

    /// The text so far; `None`: it has failed.
    pub fn partial_text(&self) -> Option<String> {
        self.failure.is_none().then(|| self.transcript.text().to_owned())
    }

    /// The text of a complete response, and when its last token arrived; `None`: it has failed. `broken` is as for
    /// [`Self::finish`].
    pub fn complete_text(&mut self, broken: Option<&RequestFailure>) -> Option<(String, Option<Nanos>)> {
        self.parse_remaining(broken.is_none());
        let succeeded = self.find_failure(broken.cloned()).is_none();
        succeeded.then(|| (self.transcript.text().to_owned(), self.last))
    }

    /// Writes the response into `output`, with times counted from `start`.
    ///
    /// `broken` is why reading ended early. `count_tokens` counts the tokens of a text if the server does not.
    pub fn finish(
        mut self,
        start: Nanos,
        broken: Option<RequestFailure>,
        count_tokens: impl Fn(&str) -> Option<u32>,
        output: &mut RequestFuncOutput,
    ) {
        self.parse_remaining(broken.is_none());
        match self.find_failure(broken) {
            None => output.success = true,
            Some(failure) => {
                output.error = failure.message;
                output.error_kind = Some(failure.kind);
            }
        }
        self.write_token_counts(start, count_tokens, output);
        let since = |time: Option<Nanos>| time.map(|t| t.since(start));
        output.ttft = since(self.first);
        output.ttft_answer = since(self.first_answer);
        output.latency = since(self.last);
        // Of what chunks showed: a response that came in one chunk has no pace.
        output.tpot = match (output.ttft, output.latency, output.output_tokens - output.hidden_tokens) {
            (Some(ttft), Some(latency), tokens @ 2..) if !self.itl.is_empty() => {
                Some(Nanos::from_secs_f64(latency.since(ttft).as_secs_f64() / f64::from(tokens - 1)))
            }
            _ => None,
        };
        output.itl = self.itl;
        let by_kernel = self.stamps.chunks > self.stamps.user;
        output.stamp = if by_kernel { Stamp::Kernel } else { Stamp::User };
        output.read_lag_max = self.read_lag.iter().max().copied().filter(|_| by_kernel);
        output.coalesced = u32::try_from(self.stamps.coalesced).unwrap_or(u32::MAX);
        output.read_lag = Some(self.read_lag);
        output.finish_reason = self.finish_reason;
        output.server = self.metrics.map(|m| {
            let time = |ms: Option<f64>| ms.map(|ms| Nanos::from_secs_f64(ms / 1e3));
            ServerTimes { queue_time: time(m.queue_time_ms), ttft: time(m.time_to_first_token_ms) }
        });
        output.generated_text = Some(self.transcript.into_text());
    }

    /// Takes the empty chunks as tokens if no other chunk bears one. A response may end within a character, and a server that holds
    /// incomplete characters back then sends no text at all. If it still counts tokens, the empty chunks must have borne them.
    fn use_empty_chunks(&mut self) {
        let counted = self.tokens.has_usage();
        if let Some((first, last)) = self.empty_chunks.filter(|_| counted && !self.has_token()) {
            self.first = Some(first);
            self.first_answer = Some(first);
            self.last = Some(last);
            self.read_lag = vec![Nanos(0)];
            if last > first {
                self.itl = vec![last.since(first)];
                self.read_lag.push(Nanos(0));
            }
            self.tokens.set_unknown_chunks(self.read_lag.len());
        }
    }

    /// The failure, if there is one. An error in the stream itself comes first, then how the connection ended.
    fn find_failure(&self, broken: Option<RequestFailure>) -> Option<RequestFailure> {
        if let Some(failure) = &self.failure {
            return Some(failure.clone());
        }
        // After `[DONE]` nothing is missing, however the connection ended.
        if let Some(failure) = broken.filter(|_| !self.done) {
            return Some(failure);
        }
        let truncated = |message: &str| Some(RequestFailure::new(ErrorKind::Truncated, message));
        let count = self.tokens.chunk_count();
        if self.cut && !self.done {
            return truncated(&format!("the stream ended after {count} chunks, within another"));
        }
        let has_token = self.has_token() || self.untimed_tokens;
        let odd_chunk = self.odd_chunk.as_ref().filter(|_| !has_token);
        let ended_by_http =
            !self.protocol.api.marks_end() && (self.tokens.chunk_count() > 0 || self.empty_chunks.is_some());
        if !self.done && !ended_by_http && (self.finished == 0 || self.begun != self.finished) {
            return odd_chunk.cloned().or_else(|| {
                truncated(&format!("the stream ended after {count} chunks, before [DONE] or a finish reason"))
            });
        }
        if !self.done && ended_by_http && self.finished == 0 && self.unframed {
            return truncated("the connection was closed without the end of the response: nothing marks it");
        }
        let empty = self.protocol.api.generates_tokens() && !has_token;
        empty.then(|| {
            odd_chunk
                .cloned()
                .unwrap_or_else(|| RequestFailure::new(ErrorKind::Empty, "a complete response without a token"))
        })
    }

    fn write_token_counts(
        &self,
        start: Nanos,
        count_tokens: impl Fn(&str) -> Option<u32>,
        output: &mut RequestFuncOutput,
    ) {
        let facts = ResponseFacts {
            answer: self.transcript.text(),
            asked: output.expected_output_len,
            seconds: self.arrival.time.since(start).as_secs_f64(),
            streamed: !self.untimed_tokens,
        };
        let count = self.tokens.count(facts, count_tokens);
        output.choices = self.begun.count_ones();
        output.prompt_len = count.prompt.unwrap_or(output.prompt_len);
        output.cached_tokens = count.cached;
        output.reasoning_tokens = count.reasoning;
        output.output_tokens = count.tokens;
        output.hidden_tokens = count.hidden;
        output.token_source = count.source;
        output.chunk_tokens = count.per_chunk;
    }
}

/// The bit of a choice. More than 64 are not expected; they would share the last bit.
fn choice_bit(index: u32) -> u64 {
    1 << index.min(63)
}

/// What could not be read, in one line: the words of an error, or the beginning of the text.
fn quote(data: &[u8]) -> String {
    let text = error_message(data);
    match text.char_indices().nth(MAX_QUOTE) {
        Some((end, _)) if find_error_words(data).is_none() => format!("{}…", &text[..end]),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::TokenSource;

    /// Feeds events one millisecond apart, the first at 11 ms, into a request that began at 10 ms.
    fn output_of(events: &[&str], broken: Option<RequestFailure>) -> RequestFuncOutput {
        let mut response = ReceivedResponse::default();
        for (i, event) in events.iter().enumerate() {
            if response
                .push(arrival(i as u64, (11 + i as u64) * 1_000_000), format!("data: {event}\n\n").as_bytes())
                .is_err()
            {
                break;
            }
        }
        let mut output = RequestFuncOutput::default();
        response.finish(Nanos(10_000_000), broken, |text| u32::try_from(text.len()).ok(), &mut output);
        output
    }

    /// A read stamped in user space.
    fn arrival(read: u64, time: u64) -> ReadStamp {
        ReadStamp { time: Nanos(time), lag: None, read }
    }

    fn ms(n: u64) -> Nanos {
        Nanos(n * 1_000_000)
    }

    const ROLE: &str = r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#;
    const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":4}}}"#;

    fn text(text: &str) -> String {
        format!(r#"{{"choices":[{{"index":0,"text":"{text}","finish_reason":null}}]}}"#)
    }

    #[test]
    fn tokens_and_nothing_else_make_the_times() {
        let last = r#"{"choices":[{"index":0,"delta":{"content":"c"},"finish_reason":null}]}"#;
        let end = r#"{"choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}]}"#;
        let reasoning = r#"{"choices":[{"index":0,"delta":{"reasoning":"hm"}}]}"#;
        let output = output_of(&[ROLE, reasoning, last, last, end, USAGE, "[DONE]"], None);
        assert!(output.success, "{output:?}");
        assert_eq!((output.ttft, output.ttft_answer, output.latency), (Some(ms(2)), Some(ms(3)), Some(ms(4))));
        assert_eq!(output.itl, [ms(1), ms(1)]);
        assert_eq!((output.output_tokens, output.token_source), (3, Some(TokenSource::Usage)));
        assert_eq!((output.prompt_len, output.cached_tokens, output.tpot), (5, Some(4), Some(ms(1))));
        assert_eq!((output.generated_text.as_deref(), output.finish_reason.as_deref()), (Some("cc"), Some("stop")));
        assert_eq!(output.chunk_tokens, None);
    }

    #[test]
    fn an_error_inside_the_stream_is_a_failure() {
        let output = output_of(&[&text("a"), r#"{"error":{"message":"out of memory","code":500}}"#, "[DONE]"], None);
        assert!(!output.success);
        assert_eq!((output.error_kind, output.error.as_str()), (Some(ErrorKind::StreamError), "out of memory"));
        assert_eq!(output.ttft, Some(ms(1)), "what arrived is kept");
        let old = output_of(&[r#"{"object":"error","message":"boom"}"#], None);
        assert_eq!((old.error_kind, old.error.as_str()), (Some(ErrorKind::StreamError), "boom"));
    }

    #[test]
    fn the_end_decides() {
        let finished = r#"{"choices":[{"index":0,"text":"b","finish_reason":"length"}]}"#;
        let reset = || Some(RequestFailure::new(ErrorKind::Reset, "reset"));
        let a = text("a");
        let unfinished = r#"{"choices":[{"index":0,"text":"b","finish_reason":""}]}"#;
        for (events, broken, kind) in [
            (vec![unfinished], None, Some(ErrorKind::Truncated)),
            (vec![unfinished, "[DONE]"], None, None),
            (vec![a.as_str()], None, Some(ErrorKind::Truncated)),
            (vec![&a, "[DONE]"], None, None),
            (vec![&a, finished], None, None),
            (vec![&a, "[DONE]"], reset(), None),
            (vec![&a, finished], reset(), Some(ErrorKind::Reset)),
            (vec![&a], reset(), Some(ErrorKind::Reset)),
            (vec![ROLE, USAGE, "[DONE]"], None, Some(ErrorKind::Empty)),
            (vec!["[DONE]"], None, Some(ErrorKind::Empty)),
            (vec!["", &a, " ", "[DONE] "], None, None),
            (vec![], None, Some(ErrorKind::Truncated)),
            (vec![&a, "{oops"], None, Some(ErrorKind::Protocol)),
            (vec![&a, r#"{"choices":"none"}"#], None, Some(ErrorKind::Truncated)),
            (vec![&a, r#"{"choices":"none"}"#, "[DONE]"], None, None),
            (vec![r#"{"choices":"none"}"#, "[DONE]"], None, Some(ErrorKind::Protocol)),
        ] {
            let output = output_of(&events, broken);
            assert_eq!((output.error_kind, output.success), (kind, kind.is_none()), "{events:?}");
        }
    }

    #[test]
    fn a_body_without_an_event_is_quoted() {
        for (body, want) in [
            (&[r#"{"error":{"message":"boom"}}"#][..], "the server answered JSON, not an event stream: boom"),
            (&["{\"error\":", "{\"message\":\"boom\"}}\n"], "the server answered JSON, not an event stream: boom"),
            (&["{\n  \"error\":\n", "\"boom\"}\n"], "the server answered JSON, not an event stream: boom"),
            (&["{\"error\":", "{\"mess"], "the stream ended after 0 chunks, within another"),
            (&["<html><title>busy</title>"], "the response is not an event stream: busy"),
            (&["data lost: ", "no upstream\n\n"], "the response is not an event stream: data lost: no upstream"),
            (&[": ping\n\n", ": ping\n\n"], "the stream ended after 0 chunks, before [DONE] or a finish reason"),
            (&["\u{feff}\r\ndata: {\"choi"], "the stream ended after 0 chunks, within another"),
            (&["\n"], "the stream ended after 0 chunks, before [DONE] or a finish reason"),
            (&[], "the stream ended after 0 chunks, before [DONE] or a finish reason"),
        ] {
            let mut response = ReceivedResponse::default();
            for bytes in body {
                response.push(arrival(1, 1), bytes.as_bytes()).unwrap();
            }
            let mut output = RequestFuncOutput::default();
            response.finish(Nanos(0), None, |_| None, &mut output);
            assert_eq!(output.error, want);
            let kind = if want.contains(", not an") || want.contains("is not an") {
                ErrorKind::Protocol
            } else {
                ErrorKind::Truncated
            };
            assert_eq!(output.error_kind, Some(kind), "{want}");
        }
    }

    #[test]
    fn chunks_are_not_tokens() {
        let ids = |n: usize| format!(r#"{{"choices":[{{"index":0,"text":"ab","token_ids":{:?}}}]}}"#, vec![7; n]);
        let output = output_of(&[&ids(1), &ids(3), "[DONE]"], None);
        assert_eq!((output.output_tokens, output.token_source), (4, Some(TokenSource::TokenIds)));
        assert_eq!(output.chunk_tokens, Some(vec![1, 3]));

        let so_far =
            |n: u32| format!(r#"{{"choices":[{{"index":0,"text":"ab"}}],"usage":{{"completion_tokens":{n}}}}}"#);
        let output = output_of(&[&so_far(2), &so_far(5), "[DONE]"], None);
        assert_eq!((output.output_tokens, output.chunk_tokens), (5, Some(vec![2, 3])));

        let output = output_of(&[&text("a"), USAGE, "[DONE]"], None);
        assert_eq!((output.output_tokens, output.chunk_tokens), (3, Some(vec![])), "three tokens in one chunk, unsaid");

        let output = output_of(&[&text("a"), &text("bc"), "[DONE]"], None);
        assert_eq!((output.output_tokens, output.token_source), (3, Some(TokenSource::Tokenizer)));
    }

    #[test]
    fn absurd_counts_are_not_believed() {
        let most = r#"{"choices":[{"text":"a"}],"usage":{"completion_tokens":4294967295}}"#;
        let none = r#"{"choices":[{"text":"a","token_ids":[7]}],"usage":{"completion_tokens":0}}"#;
        let unsaid = r#"{"choices":[{"text":"a","token_ids":[7]}],"usage":{}}"#;
        let output = output_of(&[most, none, most, unsaid, "[DONE]"], None);
        assert_eq!((output.success, output.output_tokens), (true, 4));
    }

    #[test]
    fn chunks_of_one_read_share_a_stamp_and_are_counted() {
        let mut response = ReceivedResponse::default();
        let one = format!("data: {}\n\n", text("a"));
        let reads = [(1, 5_000_000), (2, 100), (2, 100), (2, 100), (3, 2_000_000), (3, 2_000_000)];
        for (n, lag) in reads {
            let arrival = ReadStamp { time: Nanos(n * 100), lag: Some(Nanos(lag)), read: n };
            response.push(arrival, one.as_bytes()).unwrap();
        }
        response.push(arrival(4, 400), one.as_bytes()).unwrap();
        // A token cut in two belongs to the read that completes it.
        response.push(arrival(5, 500), &one.as_bytes()[..9]).unwrap();
        response.push(ReadStamp { lag: Some(Nanos(1)), ..arrival(6, 600) }, &one.as_bytes()[9..]).unwrap();
        let stamps = response.stamps();
        let want = Stamps { chunks: 8, coalesced: 3, user: 1, late: 3, late_coalesced: 1, clock_steps: 0 };
        assert_eq!(stamps, want);
        let mut output = RequestFuncOutput::default();
        response.finish(Nanos(0), None, |_| None, &mut output);
        assert_eq!((output.stamp, output.coalesced, output.read_lag_max), (Stamp::Kernel, 3, Some(ms(5))));
        assert_eq!(output.read_lag.unwrap().len(), output.itl.len() + 1);
        assert_eq!(output.latency, Some(Nanos(600)));
    }

    #[test]
    fn a_non_streaming_response_has_as_many_tokens_as_are_counted() {
        let protocol = Protocol { stream: false, ..Protocol::default() };
        let tokens = |usage: &str, count: Option<u32>| {
            let mut response = ReceivedResponse::with_capacity(protocol, None, true);
            let body = format!(r#"{{"choices":[{{"index":0,"text":"a b","finish_reason":"stop"}}]{usage}}}"#);
            response.push(arrival(1, 1), body.as_bytes()).unwrap();
            let mut output = RequestFuncOutput::default();
            response.finish(Nanos(0), None, |_| count, &mut output);
            assert!(output.success, "{output:?}");
            (output.output_tokens, output.token_source, output.chunk_tokens)
        };
        assert_eq!(tokens(r#","usage":{"completion_tokens":2}"#, None), (2, Some(TokenSource::Usage), Some(vec![])));
        assert_eq!(tokens("", Some(3)), (3, Some(TokenSource::Tokenizer), Some(vec![])));
        assert_eq!(tokens("", None), (0, None, Some(vec![])), "without chunks");
    }

    #[test]
    fn a_body_that_waits_to_be_read_counts_as_memory() {
        let protocol = Protocol { stream: false, ..Protocol::default() };
        let mut response = ReceivedResponse::with_capacity(protocol, None, true);
        response.push(arrival(1, 1), &vec![b' '; 1 << 20]).unwrap();
        assert!(response.heap_bytes() >= 1 << 20);
    }

    #[test]
    fn an_event_called_error_is_one() {
        let mut response = ReceivedResponse::default();
        let failure =
            response.push(arrival(1, 1), b"event: error\ndata: {\"message\":\"overloaded\"}\n\n").unwrap_err();
        assert_eq!((failure.kind, failure.message.as_str()), (ErrorKind::StreamError, "overloaded"));
    }

    #[test]
    fn a_keep_alive_is_not_a_chunk() {
        let mut response = ReceivedResponse::default();
        for name in ["ping", "keepalive"] {
            response.push(arrival(1, 1), format!("event: {name}\ndata: still here\n\n").as_bytes()).unwrap();
        }
        assert!(!response.has_token());
    }

    #[test]
    fn every_choice_must_be_finished() {
        let choice = |index: u32, reason: &str| {
            format!(r#"{{"choices":[{{"index":{index},"text":"a","finish_reason":{reason}}}]}}"#)
        };
        let (a, b) = (choice(0, "\"length\""), choice(1, "null"));
        assert_eq!(output_of(&[&b, &a], None).error_kind, Some(ErrorKind::Truncated));
        assert!(output_of(&[&b, &a, &choice(1, "\"length\"")], None).success);
        assert!(output_of(&[&b, &a, "[DONE]"], None).success);
        let reason = |events: &[&str]| output_of(events, None).finish_reason;
        assert_eq!(reason(&[&a, &choice(1, "\"stop\"")]).as_deref(), Some("length"), "the first one's");
    }

    #[test]
    fn a_token_whose_text_is_held_back_is_still_a_token() {
        let held = r#"{"choices":[{"index":0,"text":"","finish_reason":"length"}]}"#;
        let usage = |n: u32| format!(r#"{{"choices":[],"usage":{{"prompt_tokens":5,"completion_tokens":{n}}}}}"#);
        let output = output_of(&[held, &usage(1), "[DONE]"], None);
        assert!(output.success, "{output:?}");
        assert_eq!((output.ttft, output.latency, output.output_tokens), (Some(ms(1)), Some(ms(1)), 1));
        assert_eq!((output.itl.len(), output.chunk_tokens), (0, None));
        assert_eq!(output_of(&[held, &usage(0), "[DONE]"], None).error_kind, Some(ErrorKind::Empty));
        let chat = r#"{"choices":[{"index":0,"delta":{"content":""},"finish_reason":"length"}]}"#;
        assert_eq!(output_of(&[ROLE, chat, &usage(1), "[DONE]"], None).ttft, Some(ms(2)), "not the opener's time");
        let role_again =
            r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":"length"}]}"#;
        assert_eq!(
            output_of(&[ROLE, role_again, &usage(1), "[DONE]"], None).ttft,
            Some(ms(2)),
            "a role in every chunk"
        );
    }

    #[test]
    fn the_same_bytes_give_the_same_response_however_they_are_split() {
        let stream = format!("data:{}\r\n\r\n: hi\n\ndata: {}\n\ndata: [DONE]", text("é"), text("ü"));
        for size in 1..stream.len() {
            let mut response = ReceivedResponse::default();
            for bytes in stream.as_bytes().chunks(size) {
                response.push(arrival(1, 1), bytes).unwrap();
            }
            let mut output = RequestFuncOutput::default();
            response.finish(Nanos(0), None, |_| None, &mut output);
            assert!(output.success, "{size}");
            assert_eq!((output.generated_text.as_deref(), output.output_tokens), (Some("éü"), 2));
        }
    }
}

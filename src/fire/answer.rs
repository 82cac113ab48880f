//! One answer as it arrives: stamped bytes in, tokens and an outcome out. It knows no socket and no clock.

use super::transcript::Transcript;
use crate::{
    backend::{Choice, Delta, Extent, Metrics, Part, Protocol, Usage, pattern::Pattern},
    http::{
        exchange::{BodyFormat, RequestFailure, error_message},
        lines::LineReader,
        socket::ReadStamp,
        sse::{self, EventReader, SseEvent},
    },
    record::{ErrorKind, RequestFuncOutput, ServerTimes, Stamp, Stamps, TokenSource},
    units::Nanos,
};

/// A chunk that is read later than this after its arrival counts as late.
const LATE: Nanos = Nanos(1_000_000);

/// What has arrived of an answer.
#[derive(Debug, Default)]
pub struct Answer {
    protocol: Protocol,
    /// What cuts its bytes: which one is in use, [`Protocol::cut`] says.
    events: EventReader,
    lines: LineReader,
    body: Vec<u8>,
    /// What its chunks have in common.
    pattern: Pattern,
    /// When the last bytes arrived.
    arrival: ReadStamp,
    /// The read that the last token came from.
    token_read: Option<u64>,
    /// For each token-bearing chunk, kernel stamp → read; 0 where it was stamped in user space.
    read_lag: Vec<Nanos>,
    /// How the token-bearing chunks were stamped.
    stamps: Stamps,
    /// When each of the first token, the first token that is not reasoning, and the last token arrived.
    first: Option<Nanos>,
    proper: Option<Nanos>,
    last: Option<Nanos>,
    itl: Vec<Nanos>,
    /// When the first and the last chunk without any text arrived, the opener of a chat left out.
    silent: Option<(Nanos, Nanos)>,
    /// Tokens in each token-bearing chunk; 0 where the server did not say.
    chunk_tokens: Vec<u32>,
    /// The server's running count at the last chunk.
    counted: u32,
    so_far: u64,
    usage: Usage,
    metrics: Option<Metrics>,
    finish_reason: Option<String>,
    /// A bit for each of the `n` answers to the prompt that has begun, and that has given its finish reason.
    begun: u64,
    finished: u64,
    transcript: Transcript,
    /// Tokens came in a reply of one piece, which has no first one.
    unseen: bool,
    /// The beginning of a body in which no event has come yet.
    opening: Vec<u8>,
    heard: bool,
    /// Its last bytes are read.
    settled: bool,
    done: bool,
    failure: Option<RequestFailure>,
}

/// How much is kept of a body that may be no event stream, to tell what it says.
const OPENING: usize = 4 << 10;

/// The longest reply in one piece that is read.
const LARGEST_BODY: usize = 256 << 20;

impl Answer {
    /// With room for so many tokens, so that a chunk allocates nothing.
    #[must_use]
    pub fn expecting(protocol: Protocol, tokens: Option<u32>) -> Self {
        // An answer may be shorter by far than its limit, and one in one piece has no gaps.
        let room =
            if protocol.response_framing() == BodyFormat::Json { 0 } else { tokens.unwrap_or(0).min(1024) as usize };
        Answer {
            protocol,
            itl: Vec::with_capacity(room),
            chunk_tokens: Vec::with_capacity(room),
            read_lag: Vec::with_capacity(room),
            transcript: Transcript::with_room(room * 4),
            ..Answer::default()
        }
    }

    /// How it is cut into pieces.
    #[must_use]
    pub fn cut(&self) -> BodyFormat {
        self.protocol.response_framing()
    }

    /// Takes bytes of the reply.
    ///
    /// # Errors
    /// The reply says that the request failed, or is none of its API: reading on is of no use.
    pub fn push(&mut self, arrival: ReadStamp, bytes: &[u8]) -> Result<(), RequestFailure> {
        self.arrival = arrival;
        match self.cut() {
            BodyFormat::Events => {
                let mut events = std::mem::take(&mut self.events);
                if events.push(bytes, |event| self.event(arrival, event)).is_err() {
                    self.fail(ErrorKind::Protocol, "an event is larger than 64 MiB: is this an event stream?");
                }
                self.events = events;
                if !self.heard {
                    let room = OPENING - self.opening.len();
                    self.opening.extend_from_slice(&bytes[..bytes.len().min(room)]);
                }
            }
            BodyFormat::JsonLines => {
                let mut lines = std::mem::take(&mut self.lines);
                if lines.push(bytes, |data| self.event(arrival, SseEvent { name: b"", data })).is_err() {
                    self.fail(ErrorKind::Protocol, "a line is longer than 64 MiB: are these lines of JSON?");
                }
                self.lines = lines;
            }
            BodyFormat::Json if self.body.len() + bytes.len() > LARGEST_BODY => {
                self.fail(ErrorKind::Protocol, "the reply is larger than 256 MiB");
            }
            BodyFormat::Json => self.body.extend_from_slice(bytes),
        }
        self.failure.clone().map_or(Ok(()), Err)
    }

    /// Whether a token has arrived.
    #[must_use]
    pub fn has_token(&self) -> bool {
        self.first.is_some()
    }

    /// Whether it has said itself that it is complete. A finish reason is not enough: usage may come behind it.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// The tokens that have arrived, one for a chunk that does not say more.
    #[must_use]
    pub fn tokens_so_far(&self) -> u64 {
        self.so_far
    }

    /// Bytes on the heap, more or less.
    #[must_use]
    pub fn heap(&self) -> usize {
        let times = self.itl.capacity() + self.read_lag.capacity();
        let bytes = self.transcript.heap() + self.body.capacity();
        times * size_of::<Nanos>() + self.chunk_tokens.capacity() * size_of::<u32>() + bytes
    }

    /// The number of token-bearing chunks.
    fn chunks(&self) -> usize {
        self.chunk_tokens.len()
    }

    fn fail(&mut self, kind: ErrorKind, message: impl Into<String>) {
        self.failure.get_or_insert_with(|| RequestFailure::new(kind, message));
    }

    /// Takes an event, or a line.
    fn event(&mut self, arrival: ReadStamp, SseEvent { name, data }: SseEvent<'_>) {
        self.heard = true;
        if self.done || self.failure.is_some() {
            return;
        }
        let event = SseEvent { name, data };
        if let Some((part, text)) = self.pattern.read(event) {
            self.token(arrival, part == Part::Answer, 0, None);
            if part == Part::Answer {
                self.transcript.push(text);
            }
            return;
        }
        if name == b"error" {
            return self.fail(ErrorKind::StreamError, error_message(data));
        }
        match data.trim_ascii() {
            // Signs of life, as some gateways send.
            b"" => return,
            _ if matches!(name, b"ping" | b"keepalive") => return,
            b"[DONE]" => {
                self.done = true;
                return;
            }
            _ => {}
        }
        match self.protocol.api.read_event(event) {
            Ok(delta) => {
                self.pattern.learn(event, &delta);
                self.delta(arrival, delta);
            }
            Err(e) => {
                let shown = error_message(&data[..data.len().min(80)]);
                self.fail(ErrorKind::Protocol, format!("an event of the stream is not a chunk ({e}): {shown}"));
            }
        }
    }

    /// Takes what an event brings.
    fn delta(&mut self, arrival: ReadStamp, mut delta: Delta<'_>) {
        if let Some(error) = delta.error {
            return self.fail(ErrorKind::StreamError, error);
        }
        let told = delta.usage.completion_tokens;
        if delta.extent != Extent::New {
            delta.choices.iter_mut().for_each(|choice| self.cut_old(choice, delta.extent, told));
        }
        self.usage = delta.usage.or(self.usage);
        self.metrics = delta.metrics.or(self.metrics);
        if delta.choices.iter().any(Choice::bears_token) {
            let answers = delta.choices.iter().any(Choice::answers);
            let ids = delta.choices.iter().map(|choice| choice.ids).sum();
            self.token(arrival, answers, ids, told);
        } else if delta.choices.iter().any(|choice| !choice.opens) {
            let stamp = arrival.time;
            self.silent = Some((self.silent.map_or(stamp, |(first, _)| first), stamp));
        }
        self.choices(&delta);
        self.done |= delta.done;
    }

    /// Of a text that may repeat all before it, what is new. A character that is not whole yet may come without any text: then
    /// the server's count tells, where it has counted from the first chunk on.
    fn cut_old(&mut self, choice: &mut Choice<'_>, extent: Extent, told: Option<u32>) {
        let text = std::mem::take(&mut choice.text);
        choice.text = match choice.part {
            Part::Reasoning => self.transcript.news_of_thoughts(text),
            Part::Answer | Part::Call => self.transcript.news(extent, text),
        };
        let counts = self.chunk_tokens.last().is_none_or(|tokens| *tokens > 0);
        if choice.text.is_empty() && counts && !choice.opens {
            choice.ids = told.map_or(0, |told| told.saturating_sub(self.counted)) as usize;
        }
    }

    /// Takes the texts and the reasons to stop.
    fn choices(&mut self, delta: &Delta<'_>) {
        for choice in &delta.choices {
            // Beyond 64 answers to one prompt nobody goes; they would count as the last of these.
            let bit = 1 << choice.index.min(63);
            self.begun |= bit;
            if let Some(reason) = &choice.finish {
                self.finished |= bit;
                // As with the text, the first answer's.
                if choice.index == 0 {
                    self.finish_reason = Some(reason.clone().into_owned());
                }
            }
            if choice.index == 0 && choice.part != Part::Reasoning {
                self.transcript.push(&choice.text);
            }
        }
    }

    /// Takes a reply in one piece: its end is known, and when its tokens came is not.
    fn whole(&mut self) {
        let body = std::mem::take(&mut self.body);
        let arrival = self.arrival;
        match self.protocol.api.read_response(&body) {
            Ok(Delta { error: Some(error), .. }) => self.fail(ErrorKind::StreamError, error),
            Ok(delta) => {
                self.last = Some(arrival.time);
                self.stamped(arrival);
                self.usage = delta.usage;
                self.metrics = delta.metrics;
                self.done = delta.done;
                self.choices(&delta);
                self.unseen = delta.choices.iter().any(Choice::bears_token) || delta.usage.completion_tokens > Some(0);
                if self.unseen {
                    self.chunk_tokens.push(0);
                    self.so_far += u64::from(delta.usage.completion_tokens.unwrap_or(0));
                }
            }
            Err(e) => {
                let shown = error_message(&body[..body.len().min(80)]);
                self.fail(ErrorKind::Protocol, format!("the reply is none of this API ({e}): {shown}"));
            }
        }
    }

    /// Takes a token-bearing chunk: whether it bears any of the answer proper, how many ids came with it, and the server's
    /// count so far.
    fn token(&mut self, arrival: ReadStamp, answers: bool, ids: usize, total: Option<u32>) {
        let stamp = arrival.time;
        self.stamped(arrival);
        if let Some(last) = self.last.replace(stamp) {
            self.itl.push(stamp.since(last));
        }
        self.first.get_or_insert(stamp);
        if answers {
            self.proper.get_or_insert(stamp);
        }
        let tokens = match (ids, total) {
            (0, Some(total)) => total.saturating_sub(self.counted),
            (ids, _) => u32::try_from(ids).unwrap_or(u32::MAX),
        };
        self.counted = total.unwrap_or(self.counted.saturating_add(tokens));
        self.chunk_tokens.push(tokens);
        self.so_far += u64::from(tokens.max(1));
    }

    /// Counts how a token-bearing chunk was stamped.
    fn stamped(&mut self, arrival: ReadStamp) {
        let late = u64::from(arrival.lag.is_some_and(|lag| lag > LATE));
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

    /// The answer is over: reads what its last bytes left open. `whole`: it was read to its end.
    pub fn settle(&mut self, whole: bool) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        let arrival = self.arrival;
        match self.cut() {
            BodyFormat::Events => std::mem::take(&mut self.events).finish(|event| self.event(arrival, event)),
            BodyFormat::JsonLines => {
                std::mem::take(&mut self.lines).finish(|data| self.event(arrival, SseEvent { name: b"", data }));
            }
            BodyFormat::Json if whole => self.whole(),
            BodyFormat::Json => {}
        }
        self.hear_the_silent();
    }

    /// What it says so far; `None`: it has failed.
    pub fn heard(&self) -> Option<String> {
        self.failure.is_none().then(|| self.transcript.text().to_owned())
    }

    /// What it says, and when its last token came, if it is whole; `None`: it has failed.
    pub fn reply(&mut self, broken: Option<&RequestFailure>) -> Option<(String, Option<Nanos>)> {
        self.settle(broken.is_none());
        let good = self.judge(broken.cloned()).is_none();
        good.then(|| (self.transcript.text().to_owned(), self.last))
    }

    /// The answer is over: writes what it was into `output`, whose request began at `start`.
    ///
    /// `broken` is why reading ended, when it did not end well. `count` counts the tokens of a text, for a server that
    /// does not.
    pub fn finish(
        mut self,
        start: Nanos,
        broken: Option<RequestFailure>,
        count: impl FnOnce(&str) -> Option<u32>,
        output: &mut RequestFuncOutput,
    ) {
        self.settle(broken.is_none());
        match self.judge(broken) {
            None => output.success = true,
            Some(failure) => {
                output.error = failure.message;
                output.error_kind = Some(failure.kind);
            }
        }
        self.tokens(count, output);
        let since = |time: Option<Nanos>| time.map(|t| t.since(start));
        output.ttft = since(self.first);
        output.ttft_answer = since(self.proper);
        output.latency = since(self.last);
        output.tpot = match (output.ttft, output.latency, output.output_tokens) {
            (Some(ttft), Some(latency), tokens @ 2..) => {
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

    /// An answer may end within a character, and then a server that holds incomplete characters back sends no text at
    /// all. When it counts tokens all the same, the chunks without text must have been theirs.
    fn hear_the_silent(&mut self) {
        let counted = self.usage.completion_tokens.unwrap_or(0);
        if let Some((first, last)) = self.silent.filter(|_| counted > 0 && !self.has_token()) {
            self.first = Some(first);
            self.proper = Some(first);
            self.last = Some(last);
            self.chunk_tokens = vec![0];
            self.read_lag = vec![Nanos(0)];
            if last > first {
                self.itl = vec![last.since(first)];
                self.chunk_tokens.push(0);
                self.read_lag.push(Nanos(0));
            }
        }
    }

    /// The outcome; `None`: all is well. What the stream itself said comes first, then how the connection ended.
    fn judge(&self, broken: Option<RequestFailure>) -> Option<RequestFailure> {
        if let Some(failure) = &self.failure {
            return Some(failure.clone());
        }
        // Behind `[DONE]` nothing is missing, however the connection ended.
        if let Some(failure) = broken.filter(|_| !self.done) {
            return Some(failure);
        }
        let silent_end = !self.protocol.api.marks_end() && (self.chunks() > 0 || self.silent.is_some());
        if !self.done && !silent_end && (self.finished == 0 || self.begun != self.finished) {
            if !self.heard && !sse::may_start_stream(&self.opening) {
                let message =
                    format!("the reply is not {}: {}", self.cut().media_type().1, error_message(&self.opening));
                return Some(RequestFailure::new(ErrorKind::Protocol, message));
            }
            let message = format!("the stream ended after {} chunks, before [DONE] or a finish reason", self.chunks());
            return Some(RequestFailure::new(ErrorKind::Truncated, message));
        }
        let empty = self.protocol.api.generates_tokens() && !self.has_token() && !self.unseen;
        empty.then(|| RequestFailure::new(ErrorKind::Empty, "a complete answer without a token"))
    }

    fn tokens(&self, count: impl FnOnce(&str) -> Option<u32>, output: &mut RequestFuncOutput) {
        let usage = self.usage;
        output.prompt_len = usage.prompt_tokens.unwrap_or(output.prompt_len);
        output.cached_tokens = usage.cached_tokens;
        output.reasoning_tokens = usage.reasoning_tokens;
        let chunks = u32::try_from(self.chunks()).unwrap_or(u32::MAX);
        let all_known = chunks > 0 && self.chunk_tokens.iter().all(|n| *n > 0);
        let (tokens, source) = if let Some(tokens) = usage.completion_tokens {
            (tokens, TokenSource::Usage)
        } else if all_known {
            (self.chunk_tokens.iter().copied().fold(0, u32::saturating_add), TokenSource::TokenIds)
        } else if let Some(tokens) = (chunks > 0).then(|| count(self.transcript.text())).flatten() {
            (tokens, TokenSource::Tokenizer)
        } else if self.unseen {
            // There were no chunks to count.
            (0, TokenSource::Chunks)
        } else {
            (chunks, TokenSource::Chunks)
        };
        output.output_tokens = tokens;
        output.token_source = (tokens > 0).then_some(source);
        output.chunk_tokens = if all_known {
            self.chunk_tokens.iter().any(|n| *n > 1).then(|| self.chunk_tokens.clone())
        } else {
            (tokens != chunks).then(Vec::new)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds events one millisecond apart, the first at 11 ms, into a request that began at 10 ms.
    fn answer(events: &[&str], broken: Option<RequestFailure>) -> RequestFuncOutput {
        let mut answer = Answer::default();
        for (i, event) in events.iter().enumerate() {
            if answer
                .push(read(i as u64, (11 + i as u64) * 1_000_000), format!("data: {event}\n\n").as_bytes())
                .is_err()
            {
                break;
            }
        }
        let mut output = RequestFuncOutput::default();
        answer.finish(Nanos(10_000_000), broken, |text| u32::try_from(text.len()).ok(), &mut output);
        output
    }

    /// A read stamped in user space.
    fn read(read: u64, time: u64) -> ReadStamp {
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
        let output = answer(&[ROLE, reasoning, last, last, end, USAGE, "[DONE]"], None);
        assert!(output.success, "{output:?}");
        assert_eq!((output.ttft, output.ttft_answer, output.latency), (Some(ms(2)), Some(ms(3)), Some(ms(4))));
        assert_eq!(output.itl, [ms(1), ms(1)]);
        assert_eq!((output.output_tokens, output.token_source), (3, Some(TokenSource::Usage)));
        assert_eq!((output.prompt_len, output.cached_tokens, output.tpot), (5, Some(4), Some(ms(1))));
        assert_eq!((output.generated_text.as_deref(), output.finish_reason.as_deref()), (Some("cc"), Some("stop")));
        assert_eq!(output.chunk_tokens, None);
    }

    #[test]
    fn an_error_inside_the_stream_is_no_success() {
        let output = answer(&[&text("a"), r#"{"error":{"message":"out of memory","code":500}}"#, "[DONE]"], None);
        assert!(!output.success);
        assert_eq!((output.error_kind, output.error.as_str()), (Some(ErrorKind::StreamError), "out of memory"));
        assert_eq!(output.ttft, Some(ms(1)), "what arrived is kept");
        let old = answer(&[r#"{"object":"error","message":"boom"}"#], None);
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
            (vec![&a, r#"{"choices":"none"}"#], None, Some(ErrorKind::Protocol)),
        ] {
            let output = answer(&events, broken);
            assert_eq!((output.error_kind, output.success), (kind, kind.is_none()), "{events:?}");
        }
    }

    #[test]
    fn a_body_without_an_event_is_told_in_its_own_words() {
        for (body, want) in [
            (&[r#"{"error":{"message":"boom"}}"#][..], "the reply is not an event stream: boom"),
            (&["{\"error\":", "{\"message\":\"boom\"}}\n"], "the reply is not an event stream: boom"),
            (&["data lost: ", "no upstream\n\n"], "the reply is not an event stream: data lost: no upstream"),
            (&[": ping\n\n", ": ping\n\n"], "the stream ended after 0 chunks, before [DONE] or a finish reason"),
            (&["\u{feff}\r\ndata: {\"choi"], "the stream ended after 0 chunks, before [DONE] or a finish reason"),
            (&["\n"], "the stream ended after 0 chunks, before [DONE] or a finish reason"),
            (&[], "the stream ended after 0 chunks, before [DONE] or a finish reason"),
        ] {
            let mut answer = Answer::default();
            for piece in body {
                answer.push(read(1, 1), piece.as_bytes()).unwrap();
            }
            let mut output = RequestFuncOutput::default();
            answer.finish(Nanos(0), None, |_| None, &mut output);
            assert_eq!(output.error, want);
            let kind = if want.contains("not an") { ErrorKind::Protocol } else { ErrorKind::Truncated };
            assert_eq!(output.error_kind, Some(kind), "{want}");
        }
    }

    #[test]
    fn chunks_are_not_tokens() {
        let ids = |n: usize| format!(r#"{{"choices":[{{"index":0,"text":"ab","token_ids":{:?}}}]}}"#, vec![7; n]);
        let output = answer(&[&ids(1), &ids(3), "[DONE]"], None);
        assert_eq!((output.output_tokens, output.token_source), (4, Some(TokenSource::TokenIds)));
        assert_eq!(output.chunk_tokens, Some(vec![1, 3]));

        let so_far =
            |n: u32| format!(r#"{{"choices":[{{"index":0,"text":"ab"}}],"usage":{{"completion_tokens":{n}}}}}"#);
        let output = answer(&[&so_far(2), &so_far(5), "[DONE]"], None);
        assert_eq!((output.output_tokens, output.chunk_tokens), (5, Some(vec![2, 3])));

        let output = answer(&[&text("a"), USAGE, "[DONE]"], None);
        assert_eq!((output.output_tokens, output.chunk_tokens), (3, Some(vec![])), "three tokens in one chunk, unsaid");

        let output = answer(&[&text("a"), &text("bc"), "[DONE]"], None);
        assert_eq!((output.output_tokens, output.token_source), (3, Some(TokenSource::Tokenizer)));
    }

    #[test]
    fn absurd_counts_break_nothing() {
        let most = r#"{"choices":[{"text":"a"}],"usage":{"completion_tokens":4294967295}}"#;
        let none = r#"{"choices":[{"text":"a","token_ids":[7]}],"usage":{"completion_tokens":0}}"#;
        let unsaid = r#"{"choices":[{"text":"a","token_ids":[7]}],"usage":{}}"#;
        let output = answer(&[most, none, most, unsaid, "[DONE]"], None);
        assert_eq!((output.success, output.output_tokens), (true, u32::MAX));
    }

    #[test]
    fn chunks_of_one_read_share_a_stamp_and_are_counted() {
        let mut answer = Answer::default();
        let one = format!("data: {}\n\n", text("a"));
        let reads = [(1, 5_000_000), (2, 100), (2, 100), (2, 100), (3, 2_000_000), (3, 2_000_000)];
        for (n, lag) in reads {
            let arrival = ReadStamp { time: Nanos(n * 100), lag: Some(Nanos(lag)), read: n };
            answer.push(arrival, one.as_bytes()).unwrap();
        }
        answer.push(read(4, 400), one.as_bytes()).unwrap();
        // A token cut in two belongs to the read that completes it.
        answer.push(read(5, 500), &one.as_bytes()[..9]).unwrap();
        answer.push(ReadStamp { lag: Some(Nanos(1)), ..read(6, 600) }, &one.as_bytes()[9..]).unwrap();
        let stamps = answer.stamps();
        let want = Stamps { chunks: 8, coalesced: 3, user: 1, late: 3, late_coalesced: 1, clock_steps: 0 };
        assert_eq!(stamps, want);
        let mut output = RequestFuncOutput::default();
        answer.finish(Nanos(0), None, |_| None, &mut output);
        assert_eq!((output.stamp, output.coalesced, output.read_lag_max), (Stamp::Kernel, 3, Some(ms(5))));
        assert_eq!(output.read_lag.unwrap().len(), output.itl.len() + 1);
        assert_eq!(output.latency, Some(Nanos(600)));
    }

    #[test]
    fn a_reply_in_one_piece_has_as_many_tokens_as_somebody_counts() {
        let protocol = Protocol { stream: false, ..Protocol::default() };
        let tokens = |usage: &str, count: Option<u32>| {
            let mut answer = Answer::expecting(protocol, None);
            let body = format!(r#"{{"choices":[{{"index":0,"text":"a b","finish_reason":"stop"}}]{usage}}}"#);
            answer.push(read(1, 1), body.as_bytes()).unwrap();
            let mut output = RequestFuncOutput::default();
            answer.finish(Nanos(0), None, |_| count, &mut output);
            assert!(output.success, "{output:?}");
            (output.output_tokens, output.token_source, output.chunk_tokens)
        };
        assert_eq!(tokens(r#","usage":{"completion_tokens":2}"#, None), (2, Some(TokenSource::Usage), Some(vec![])));
        assert_eq!(tokens("", Some(3)), (3, Some(TokenSource::Tokenizer), Some(vec![])));
        assert_eq!(tokens("", None), (0, None, Some(vec![])), "there was no chunk");
    }

    #[test]
    fn a_body_that_waits_to_be_read_counts_as_memory() {
        let protocol = Protocol { stream: false, ..Protocol::default() };
        let mut answer = Answer::expecting(protocol, None);
        answer.push(read(1, 1), &vec![b' '; 1 << 20]).unwrap();
        assert!(answer.heap() >= 1 << 20);
    }

    #[test]
    fn an_event_called_error_is_one() {
        let mut answer = Answer::default();
        let failure = answer.push(read(1, 1), b"event: error\ndata: {\"message\":\"overloaded\"}\n\n").unwrap_err();
        assert_eq!((failure.kind, failure.message.as_str()), (ErrorKind::StreamError, "overloaded"));
    }

    #[test]
    fn a_sign_of_life_is_no_chunk() {
        let mut answer = Answer::default();
        for name in ["ping", "keepalive"] {
            answer.push(read(1, 1), format!("event: {name}\ndata: still here\n\n").as_bytes()).unwrap();
        }
        assert!(!answer.has_token());
    }

    #[test]
    fn every_answer_of_several_must_be_finished() {
        let choice = |index: u32, reason: &str| {
            format!(r#"{{"choices":[{{"index":{index},"text":"a","finish_reason":{reason}}}]}}"#)
        };
        let (a, b) = (choice(0, "\"length\""), choice(1, "null"));
        assert_eq!(answer(&[&b, &a], None).error_kind, Some(ErrorKind::Truncated));
        assert!(answer(&[&b, &a, &choice(1, "\"length\"")], None).success);
        assert!(answer(&[&b, &a, "[DONE]"], None).success);
        let reason = |events: &[&str]| answer(events, None).finish_reason;
        assert_eq!(reason(&[&a, &choice(1, "\"stop\"")]).as_deref(), Some("length"), "the first one's");
    }

    #[test]
    fn a_token_whose_text_is_held_back_is_still_a_token() {
        let held = r#"{"choices":[{"index":0,"text":"","finish_reason":"length"}]}"#;
        let usage = |n: u32| format!(r#"{{"choices":[],"usage":{{"prompt_tokens":5,"completion_tokens":{n}}}}}"#);
        let output = answer(&[held, &usage(1), "[DONE]"], None);
        assert!(output.success, "{output:?}");
        assert_eq!((output.ttft, output.latency, output.output_tokens), (Some(ms(1)), Some(ms(1)), 1));
        assert_eq!((output.itl.len(), output.chunk_tokens), (0, None));
        assert_eq!(answer(&[held, &usage(0), "[DONE]"], None).error_kind, Some(ErrorKind::Empty));
        let chat = r#"{"choices":[{"index":0,"delta":{"content":""},"finish_reason":"length"}]}"#;
        assert_eq!(answer(&[ROLE, chat, &usage(1), "[DONE]"], None).ttft, Some(ms(2)), "not the opener's time");
    }

    #[test]
    fn the_same_bytes_give_the_same_answer_in_any_cut() {
        let stream = format!("data:{}\r\n\r\n: hi\n\ndata: {}\n\ndata: [DONE]", text("é"), text("ü"));
        for size in 1..stream.len() {
            let mut answer = Answer::default();
            for piece in stream.as_bytes().chunks(size) {
                answer.push(read(1, 1), piece).unwrap();
            }
            let mut output = RequestFuncOutput::default();
            answer.finish(Nanos(0), None, |_| None, &mut output);
            assert!(output.success, "{size}");
            assert_eq!((output.generated_text.as_deref(), output.output_tokens), (Some("éü"), 2));
        }
    }
}

//! What a stream sends in which pieces: the answer's events, bent as its fault wants it.
//!
//! There is no socket in here: a script turns "so many more tokens" into [`Piece`]s.

use std::{collections::VecDeque, rc::Rc};

use bytes::Bytes;

use super::{
    api::{Dialect, Ending},
    events::{Chunk, Part},
    fault::{Fault, FaultKind},
    vocabulary::Vocabulary,
};

/// What to do next with the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// The next data bears so many tokens in one event.
    Tokens(u32),
    /// Send these bytes.
    Data(Bytes),
    /// What follows goes into a write of its own.
    Pause,
    /// Send nothing more, and keep the connection open.
    Hang,
    /// Break the chunk framing of the next data.
    Corrupt,
    /// Reset the connection when it breaks.
    Reset,
    /// Close the connection here.
    Break,
    /// The body ends here.
    End,
}

/// What an answer is made of.
pub struct Answer {
    /// How its events look.
    pub dialect: Box<dyn Dialect>,
    /// The texts of its tokens.
    pub vocabulary: Rc<Vocabulary>,
    /// Its tokens.
    pub output: Rc<[u32]>,
    /// Why it ends, in vLLM's words.
    pub finish: &'static str,
    /// Tokens in each event after the first.
    pub tokens_per_chunk: usize,
    /// Whether the usage was asked for.
    pub include_usage: bool,
    /// What goes wrong.
    pub fault: Option<Fault>,
}

/// A stream in the making.
pub struct Script {
    answer: Answer,
    /// Tokens in events so far.
    sent: usize,
    /// Tokens that wait for more, to share an event.
    waiting: usize,
    opened: bool,
    tripped: bool,
    ended: bool,
    /// Events that wait for more, to share a write.
    held: (String, u32),
    pieces: VecDeque<Piece>,
}

impl Script {
    /// The script of an answer that has no token yet.
    #[must_use]
    pub fn new(answer: Answer) -> Self {
        let mut script = Script {
            answer,
            sent: 0,
            waiting: 0,
            opened: false,
            tripped: false,
            ended: false,
            held: (String::new(), 0),
            pieces: VecDeque::new(),
        };
        match script.fault() {
            Some(FaultKind::RoleEarly) => script.open(),
            Some(FaultKind::Empty) => script.end_empty(),
            _ => (),
        }
        script
    }

    /// The next thing to do; `None`: wait for tokens.
    pub fn next_piece(&mut self) -> Option<Piece> {
        self.pieces.pop_front()
    }

    /// Tokens that were put into events.
    #[must_use]
    pub fn sent(&self) -> usize {
        self.sent
    }

    /// Whether no token is needed any more.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.ended
    }

    /// The prefix cache gave so many tokens of the prompt.
    pub fn set_cached_tokens(&mut self, tokens: u32) {
        self.answer.dialect.set_cached_tokens(tokens);
    }

    /// So many more tokens were generated; `finished`: and no more will be.
    pub fn advance(&mut self, tokens: usize, finished: bool) {
        let group = match self.answer.fault {
            Some(Fault { kind: FaultKind::MultiToken, n }) => n as usize,
            _ => self.answer.tokens_per_chunk,
        };
        for i in 1..=tokens {
            self.waiting += 1;
            let last = finished && i == tokens;
            if (last || self.sent == 0 || self.waiting >= group) && !self.ended {
                self.trip();
                if self.ended {
                    return;
                }
                self.push_tokens(last);
            }
        }
    }

    fn fault(&self) -> Option<FaultKind> {
        self.answer.fault.map(|fault| fault.kind)
    }

    /// Lets a fault in the middle of the stream happen when its time has come.
    fn trip(&mut self) {
        let Some(Fault { kind, n }) = self.answer.fault else { return };
        if self.tripped || self.sent < n as usize {
            return;
        }
        self.tripped = true;
        let pieces = match kind {
            FaultKind::Stall => vec![Piece::Hang],
            FaultKind::Reset => vec![Piece::Pause, Piece::Reset, Piece::Break],
            FaultKind::Cut => vec![Piece::Pause, Piece::Break],
            FaultKind::EndEarly => vec![Piece::End],
            FaultKind::ErrorInStream => self.answer.dialect.error().into_iter().map(data).chain([Piece::End]).collect(),
            FaultKind::BadChunking => {
                let event = self.answer.dialect.chunk(Chunk { text: " lost", ..Chunk::default() });
                vec![Piece::Pause, Piece::Corrupt, data(event), Piece::Pause, Piece::Break]
            }
            FaultKind::BadJson => {
                self.pieces.push_back(data(self.answer.dialect.broken()));
                return;
            }
            _ => return,
        };
        self.pieces.extend(pieces);
        self.ended = true;
    }

    fn open(&mut self) {
        if !std::mem::replace(&mut self.opened, true) {
            for event in self.answer.dialect.opening() {
                self.push_event(event, 0);
            }
        }
    }

    fn push_tokens(&mut self, last: bool) {
        self.open();
        if self.fault() == Some(FaultKind::EmptyChunks) {
            let generated = self.generated();
            let event = self.answer.dialect.chunk(Chunk { generated, ..Chunk::default() });
            self.push_event(event, 0);
        }
        let output = Rc::clone(&self.answer.output);
        let ids = &output[self.sent..self.sent + self.waiting];
        let event = self.token_event(ids, last);
        self.sent += self.waiting;
        self.push_event(event, u32::try_from(ids.len()).unwrap_or(u32::MAX));
        self.waiting = 0;
        if last {
            self.end();
        }
    }

    fn token_event(&mut self, ids: &[u32], last: bool) -> String {
        let (answer, fault) = (&self.answer, self.fault());
        let apart = matches!(fault, Some(FaultKind::FinishEmpty | FaultKind::DoneOnly));
        let mut text = answer.vocabulary.texts(ids);
        if fault == Some(FaultKind::Split) {
            text.push_str("é🙂");
        }
        let usage = (last && answer.include_usage && fault == Some(FaultKind::UsageInChoices)).then(|| self.usage());
        let chunk = Chunk {
            text: &text,
            ids,
            part: self.part(),
            finish: (last && !apart).then(|| self.finish()),
            generated: self.generated() + u32::try_from(ids.len()).unwrap_or(u32::MAX),
            first: self.sent == 0,
            usage: usage.as_deref(),
            fingerprint: last && !answer.include_usage,
        };
        self.answer.dialect.chunk(chunk)
    }

    fn end(&mut self) {
        if self.fault() == Some(FaultKind::FinishEmpty) {
            let chunk = Chunk { finish: Some(self.finish()), generated: self.generated(), ..Chunk::default() };
            let event = self.answer.dialect.chunk(chunk);
            self.push_event(event, 0);
        }
        let usages = match self.fault() {
            _ if !self.answer.include_usage => 0,
            Some(FaultKind::NoUsage | FaultKind::UsageInChoices) => 0,
            Some(FaultKind::DoubleUsage) => 2,
            _ => 1,
        };
        let usage = self.usage();
        let generated = if self.fault() == Some(FaultKind::Empty) { 0 } else { self.generated() };
        let done = self.fault() != Some(FaultKind::NoDone);
        let ending = Ending { finish: self.finish(), generated, usages, usage: &usage, done };
        for event in self.answer.dialect.ending(ending) {
            self.push_event(event, 0);
        }
        self.write_held();
        self.pieces.push_back(Piece::End);
        self.ended = true;
    }

    fn end_empty(&mut self) {
        self.open();
        let chunk = Chunk { finish: Some("stop"), first: true, ..Chunk::default() };
        let event = self.answer.dialect.chunk(chunk);
        self.push_event(event, 0);
        self.end();
    }

    fn generated(&self) -> u32 {
        u32::try_from(self.sent).unwrap_or(u32::MAX)
    }

    fn usage(&self) -> String {
        let total = u32::try_from(self.answer.output.len()).unwrap_or(u32::MAX);
        let reasoning =
            (self.fault() == Some(FaultKind::Reasoning) && self.answer.dialect.is_chat()).then_some(total / 2);
        let generated = if self.fault() == Some(FaultKind::Empty) { 0 } else { total };
        self.answer.dialect.usage(generated, reasoning)
    }

    fn finish(&self) -> &'static str {
        let calls = self.fault() == Some(FaultKind::ToolCalls) && self.answer.dialect.is_chat();
        if calls { "tool_calls" } else { self.answer.finish }
    }

    fn part(&self) -> Part {
        let first_half = self.sent < self.answer.output.len() / 2;
        match self.fault() {
            Some(FaultKind::Reasoning) if first_half => Part::Reasoning("reasoning"),
            Some(FaultKind::ReasoningContent) if first_half => Part::Reasoning("reasoning_content"),
            Some(FaultKind::ToolCalls) => Part::ToolCall,
            _ => Part::Content,
        }
    }

    fn push_event(&mut self, event: String, tokens: u32) {
        if event.is_empty() {
            return;
        }
        let note = (tokens > 0).then_some(Piece::Tokens(tokens));
        match self.answer.fault {
            Some(Fault { kind: FaultKind::Split, n }) => {
                let mut parts = cut(&event, n as usize);
                let last = parts.pop();
                self.pieces.extend(parts.into_iter().flat_map(|part| [Piece::Data(part), Piece::Pause]));
                // The event is there when its last part is.
                self.pieces.extend(note.into_iter().chain(last.map(Piece::Data)).chain([Piece::Pause]));
            }
            Some(Fault { kind: FaultKind::Coalesce, n }) => {
                self.pieces.extend(note);
                self.held.0.push_str(&event);
                self.held.1 += 1;
                if self.held.1 >= n {
                    self.write_held();
                }
            }
            Some(Fault { kind: FaultKind::Crlf, .. }) if event.starts_with("data: ") => {
                self.pieces.extend(note.into_iter().chain([data(odd(&event))]));
            }
            _ => self.pieces.extend(note.into_iter().chain([data(event)])),
        }
    }

    fn write_held(&mut self) {
        let (events, _) = std::mem::take(&mut self.held);
        if !events.is_empty() {
            self.pieces.push_back(data(events));
        }
    }
}

fn data(event: String) -> Piece {
    Piece::Data(event.into())
}

/// Pieces of at most `most` bytes, with a cut within every character of several bytes.
fn cut(event: &str, most: usize) -> Vec<Bytes> {
    let whole = Bytes::copy_from_slice(event.as_bytes());
    let (mut parts, mut start) = (Vec::new(), 0);
    for end in 1..=event.len() {
        let within = !event.is_char_boundary(end) && event.is_char_boundary(end - 1);
        if within || end - start >= most.max(1) || end == event.len() {
            parts.push(whole.slice(start..end));
            start = end;
        }
    }
    parts
}

/// The same event as the standard of server-sent events also allows it: other line ends and fields, a comment, no space,
/// the data over two lines (a line end between them is white space to JSON).
fn odd(event: &str) -> String {
    let json = event.trim_start_matches("data: ").trim_end();
    let data = match json.split_once(',') {
        Some((head, tail)) => format!("data:{head},\r\ndata:{tail}"),
        None => format!("data:{json}"),
    };
    format!(": a comment\r\nevent: message\r\nid: 7\r\nretry: 1000\r\n{data}\r\n\r\n")
}

#[cfg(test)]
mod tests {
    use super::{super::events::Format, *};

    fn script(chat: bool, output: usize, fault: Option<&str>) -> Script {
        let output: Vec<u32> = (300..).take(output).collect();
        Script::new(Answer {
            dialect: Box::new(Format::new(chat, "x", 1, "tiny", 3)),
            vocabulary: Rc::new(Vocabulary::builtin().unwrap()),
            output: output.into(),
            finish: "length",
            tokens_per_chunk: 1,
            include_usage: true,
            fault: fault.map(|text| text.parse().unwrap()),
        })
    }

    /// All pieces of an answer whose tokens come one at a time.
    fn play(mut script: Script) -> Vec<Piece> {
        let tokens = script.answer.output.len();
        for i in 1..=tokens {
            script.advance(1, i == tokens);
        }
        std::iter::from_fn(|| script.next_piece()).collect()
    }

    fn text(pieces: &[Piece]) -> String {
        let bytes = pieces.iter().filter_map(|piece| match piece {
            Piece::Data(bytes) => Some(bytes.to_vec()),
            _ => None,
        });
        String::from_utf8(bytes.flatten().collect()).unwrap()
    }

    fn tokens(pieces: &[Piece]) -> Vec<u32> {
        pieces.iter().filter_map(|p| if let Piece::Tokens(n) = p { Some(*n) } else { None }).collect()
    }

    #[test]
    fn an_answer_is_a_role_tokens_a_usage_and_done() {
        let pieces = play(script(true, 3, None));
        let text = text(&pieces);
        let events: Vec<_> = text.split_terminator("\n\n").collect();
        assert_eq!(events.len(), 6, "{text}");
        assert!(events[0].contains("\"role\"") && events[3].contains("\"length\""));
        assert!(events[4].contains("\"choices\":[],\"usage\"") && events[5] == "data: [DONE]");
        assert_eq!(tokens(&pieces), [1, 1, 1]);
        assert_eq!(pieces.last(), Some(&Piece::End));
    }

    #[test]
    fn the_first_token_comes_alone_and_the_others_in_groups() {
        assert_eq!(tokens(&play(script(false, 8, Some("multi_token@3")))), [1, 3, 3, 1]);
        let mut late = script(false, 8, None);
        late.advance(8, true);
        let pieces: Vec<_> = std::iter::from_fn(|| late.next_piece()).collect();
        assert_eq!(tokens(&pieces), [1; 8], "tokens that come together still get an event each");
    }

    #[test]
    fn a_split_stream_is_the_same_stream() {
        let split = play(script(false, 2, Some("split@5")));
        assert!(split.len() > 100 && split.iter().all(|p| !matches!(p, Piece::Data(b) if b.len() > 5)));
        assert!(split.iter().any(|p| matches!(p, Piece::Data(b) if std::str::from_utf8(b).is_err())));
        assert_eq!(text(&split).replace("é🙂", ""), text(&play(script(false, 2, None))));
    }

    #[test]
    fn odd_framing_has_the_same_data() {
        let event = "data: {\"a\":1,\"b\":[2,3]}\n\n";
        let odd = odd(event);
        let lines: Vec<_> = odd.split("\r\n").filter_map(|l| l.strip_prefix("data:")).collect();
        assert_eq!(lines, ["{\"a\":1,", "\"b\":[2,3]}"]);
        assert!(odd.ends_with("\r\n\r\n") && !odd.replace("\r\n", "").contains('\n'));
    }

    #[test]
    fn coalesced_events_share_a_write_and_none_is_lost() {
        let together = play(script(false, 5, Some("coalesce@4")));
        let writes = together.iter().filter(|p| matches!(p, Piece::Data(_))).count();
        assert_eq!(writes, 2, "5 tokens, the usage and [DONE]");
        assert_eq!(text(&together), text(&play(script(false, 5, None))));
    }

    #[test]
    fn an_early_role_waits_for_no_token() {
        assert!(matches!(script(true, 3, Some("role_early")).next_piece(), Some(Piece::Data(_))));
        assert_eq!(script(true, 3, None).next_piece(), None);
        let pieces = play(script(true, 3, Some("role_early")));
        assert_eq!(text(&pieces), text(&play(script(true, 3, None))), "and it comes once");
    }

    #[test]
    fn a_fault_in_the_stream_comes_after_its_tokens_and_ends_it() {
        for name in ["stall", "reset", "cut", "end_early", "error_in_stream", "bad_chunking"] {
            for n in [0, 2] {
                let pieces = play(script(true, 5, Some(&format!("{name}@{n}"))));
                assert_eq!(tokens(&pieces).len(), n, "{name}");
                let last = pieces.last().unwrap();
                assert!(matches!(last, Piece::Hang | Piece::Break | Piece::End), "{name}: {last:?}");
            }
        }
        assert_eq!(
            tokens(&play(script(true, 5, Some("stall@9")))).len(),
            5,
            "an answer may be too short for its fault"
        );
    }
}

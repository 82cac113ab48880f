//! What a stream sends in which pieces: the answer's events, bent as its fault wants it.
//!
//! There is no socket in here: a script turns "so many more tokens" into [`Piece`]s.

use std::{collections::VecDeque, rc::Rc};

use bytes::Bytes;

use super::{
    api::{Dialect, Ending},
    events::{Chunk, Part},
    fault::{Fault, FaultKind},
    logprobs,
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
    /// The tokens of the answer, or of each of several.
    pub outputs: Vec<Rc<[u32]>>,
    /// Why each of them ends, in vLLM's words.
    pub finish: &'static str,
    /// The tool whose arguments they are.
    pub tool: Option<String>,
    /// How many likely tokens are told for each token, if any of that.
    pub logprobs: Option<usize>,
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
    /// How far each output is.
    places: Vec<Place>,
    opened: bool,
    tripped: bool,
    ended: bool,
    /// Events that wait for more, to share a write.
    held: (String, u32),
    pieces: VecDeque<Piece>,
}

/// How far an output is.
#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// Tokens in events so far.
    sent: usize,
    /// Their characters.
    chars: usize,
    /// Tokens that wait for more, to share an event.
    waiting: usize,
    finished: bool,
}

impl Script {
    /// The script of an answer that has no token yet.
    #[must_use]
    pub fn new(answer: Answer) -> Self {
        let mut script = Script {
            places: vec![Place::default(); answer.outputs.len()],
            answer,
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
    fn sent(&self) -> usize {
        self.places.iter().map(|place| place.sent).sum()
    }

    /// Whether an output needs no token any more.
    #[must_use]
    pub fn finished(&self, which: usize) -> bool {
        self.places.get(which).is_none_or(|place| place.finished)
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

    /// So many more tokens of an output were generated; `finished`: and no more will be.
    pub fn advance(&mut self, which: usize, tokens: usize, finished: bool) {
        let group = match self.answer.fault {
            Some(Fault { kind: FaultKind::MultiToken, n }) => n as usize,
            _ => self.answer.tokens_per_chunk,
        };
        for i in 1..=tokens {
            let place = &mut self.places[which];
            place.waiting += 1;
            let last = finished && i == tokens;
            if (last || place.sent == 0 || place.waiting >= group) && !self.ended {
                self.trip();
                if self.ended {
                    return;
                }
                self.push_tokens(which, last);
            }
        }
    }

    fn fault(&self) -> Option<FaultKind> {
        self.answer.fault.map(|fault| fault.kind)
    }

    /// Lets a fault in the middle of the stream happen when its time has come.
    fn trip(&mut self) {
        let Some(Fault { kind, n }) = self.answer.fault else { return };
        if self.tripped || self.sent() < n as usize {
            return;
        }
        self.tripped = true;
        let pieces = match kind {
            FaultKind::Stall => vec![Piece::Hang],
            FaultKind::Reset => vec![Piece::Pause, Piece::Reset, Piece::Break],
            FaultKind::Cut => vec![Piece::Pause, Piece::Break],
            FaultKind::EndEarly => vec![Piece::End],
            FaultKind::ErrorInStream => self.answer.dialect.error().into_iter().map(data).chain([Piece::End]).collect(),
            FaultKind::Abort if self.answer.dialect.tells_abort() => return self.abort(),
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

    /// Ends every answer that is not over yet, as an engine does with what it gives up.
    fn abort(&mut self) {
        self.open();
        for (answer, place) in self.places.clone().into_iter().enumerate().filter(|(_, place)| !place.finished) {
            let chunk = Chunk { answer, finish: Some("abort"), generated: count(place.sent), ..Chunk::default() };
            let event = self.answer.dialect.chunk(chunk);
            self.push_event(event, 0);
        }
        self.end();
    }

    fn open(&mut self) {
        if !std::mem::replace(&mut self.opened, true) {
            for event in self.answer.dialect.opening() {
                self.push_event(event, 0);
            }
        }
    }

    fn push_tokens(&mut self, which: usize, last: bool) {
        self.open();
        let Place { sent, waiting, .. } = self.places[which];
        if self.fault() == Some(FaultKind::EmptyChunks) {
            let chunk = Chunk { answer: which, generated: count(sent), ..Chunk::default() };
            let event = self.answer.dialect.chunk(chunk);
            self.push_event(event, 0);
        }
        let output = Rc::clone(&self.answer.outputs[which]);
        let ids = &output[sent..sent + waiting];
        let event = self.token_event(which, ids, last);
        let place = &mut self.places[which];
        (place.sent, place.waiting, place.finished) = (sent + waiting, 0, last);
        self.push_event(event, count(ids.len()));
        if last && self.fault() == Some(FaultKind::FinishEmpty) {
            let generated = count(output.len());
            let chunk = Chunk { answer: which, finish: Some(self.finish()), generated, ..Chunk::default() };
            let event = self.answer.dialect.chunk(chunk);
            self.push_event(event, 0);
        }
        if self.places.iter().all(|place| place.finished) {
            self.end();
        }
    }

    fn token_event(&mut self, which: usize, ids: &[u32], last: bool) -> String {
        let Place { sent, chars, .. } = self.places[which];
        let (answer, fault) = (&self.answer, self.fault());
        let apart = matches!(fault, Some(FaultKind::FinishEmpty | FaultKind::DoneOnly));
        let mut text = answer.vocabulary.texts(ids);
        self.places[which].chars += text.chars().count();
        if fault == Some(FaultKind::Split) {
            text.push_str("é🙂");
        }
        let logprobs = answer.logprobs.map(|top| {
            let vocabulary = &answer.vocabulary;
            let told = if answer.dialect.is_chat() {
                logprobs::of_chat(vocabulary, ids, top)
            } else {
                logprobs::of_completion(vocabulary, ids, top, chars)
            };
            told.to_string()
        });
        let all = self.places.iter().enumerate().all(|(other, place)| place.finished || other == which);
        let usage =
            (last && all && answer.include_usage && fault == Some(FaultKind::UsageInChoices)).then(|| self.usage());
        let tool = self.answer.tool.as_deref();
        let chunk = Chunk {
            answer: which,
            text: &text,
            ids,
            part: self.part(which, tool),
            logprobs: logprobs.as_deref(),
            finish: (last && !apart).then(|| self.finish()),
            generated: count(sent + ids.len()),
            first: sent == 0,
            usage: usage.as_deref(),
            fingerprint: last && !answer.include_usage,
        };
        self.answer.dialect.chunk(chunk)
    }

    fn end(&mut self) {
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
        for answer in 0..self.places.len() {
            let chunk = Chunk { answer, finish: Some("stop"), first: true, ..Chunk::default() };
            let event = self.answer.dialect.chunk(chunk);
            self.push_event(event, 0);
        }
        self.end();
    }

    fn generated(&self) -> u32 {
        count(self.sent())
    }

    fn usage(&self) -> String {
        let total = match self.fault() {
            Some(FaultKind::Abort) if self.tripped => self.generated(),
            _ => count(self.answer.outputs.iter().map(|output| output.len()).sum()),
        };
        let reasoning =
            (self.fault() == Some(FaultKind::Reasoning) && self.answer.dialect.is_chat()).then_some(total / 2);
        let generated = if self.fault() == Some(FaultKind::Empty) { 0 } else { total };
        self.answer.dialect.usage(generated, reasoning)
    }

    fn finish(&self) -> &'static str {
        let calls = self.fault() == Some(FaultKind::ToolCalls) && self.answer.dialect.is_chat();
        if calls { "tool_calls" } else { self.answer.finish }
    }

    fn part<'a>(&self, which: usize, tool: Option<&'a str>) -> Part<'a> {
        let first_half = self.places[which].sent < self.answer.outputs[which].len() / 2;
        match self.fault() {
            Some(FaultKind::Reasoning) if first_half => Part::Reasoning("reasoning"),
            Some(FaultKind::ReasoningContent) if first_half => Part::Reasoning("reasoning_content"),
            Some(FaultKind::ToolCalls) => Part::ToolCall("recite"),
            _ => tool.map_or(Part::Content, Part::ToolCall),
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

fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
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
            outputs: vec![output.into()],
            finish: "length",
            tool: None,
            logprobs: None,
            tokens_per_chunk: 1,
            include_usage: true,
            fault: fault.map(|text| text.parse().unwrap()),
        })
    }

    /// All pieces of an answer whose tokens come one at a time.
    fn play(mut script: Script) -> Vec<Piece> {
        let tokens = script.answer.outputs[0].len();
        for i in 1..=tokens {
            script.advance(0, 1, i == tokens);
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
        late.advance(0, 8, true);
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
        for name in ["stall", "reset", "cut", "end_early", "error_in_stream", "abort", "bad_chunking"] {
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

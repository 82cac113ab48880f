//! Decides what a stream sends and in which writes: the events of a response, changed as its fault requires.
//!
//! A script does no I/O: it turns new tokens into [`StreamAction`]s.

use std::{collections::VecDeque, rc::Rc};

use bytes::Bytes;

use super::{
    dialect::{ChunkContent, Dialect, StreamEnd, TextKind},
    fault::{Fault, FaultKind},
    logprobs,
    vocabulary::Vocabulary,
};

/// What to do next with the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamAction {
    /// Record that the next data contains an event with this many tokens.
    Tokens(u32),
    /// Send these bytes.
    Data(Bytes),
    /// Start a new write.
    Pause,
    /// Send nothing more and keep the connection open.
    Hang,
    /// Break the chunk framing of the next data.
    Corrupt,
    /// Make the close of the connection a reset.
    Reset,
    /// Close the connection.
    Break,
    /// End the body.
    End,
}

/// Everything that a stream is made from.
pub struct StreamPlan {
    /// Writes the events.
    pub dialect: Box<dyn Dialect>,
    /// Turns tokens into text.
    pub vocabulary: Rc<Vocabulary>,
    /// The tokens of each choice.
    pub outputs: Vec<Rc<[u32]>>,
    /// Why each choice ends, in vLLM's words.
    pub finish_reason: &'static str,
    /// The tool whose arguments the outputs are.
    pub tool: Option<String>,
    /// How many likely tokens to list for each token; `None`: no log probabilities at all.
    pub logprobs: Option<usize>,
    /// Tokens in each chunk after the first.
    pub tokens_per_chunk: usize,
    /// Whether to send the usage.
    pub include_usage: bool,
    /// The fault of the response.
    pub fault: Option<Fault>,
}

/// The state of a stream.
pub struct Script {
    plan: StreamPlan,
    choices: Vec<ChoiceProgress>,
    opened: bool,
    /// Whether a fault in the middle of the stream has been triggered.
    fault_triggered: bool,
    ended: bool,
    /// Events that wait to share a write with later ones, and their number.
    held_events: (String, u32),
    actions: VecDeque<StreamAction>,
}

/// The progress of one choice.
#[derive(Debug, Clone, Copy, Default)]
struct ChoiceProgress {
    /// Tokens in chunks so far.
    sent: usize,
    /// Characters of these tokens.
    chars: usize,
    /// Tokens that wait to share a chunk with later ones.
    waiting: usize,
    finished: bool,
}

impl Script {
    /// The script of a response without tokens so far.
    #[must_use]
    pub fn new(plan: StreamPlan) -> Self {
        let mut script = Script {
            choices: vec![ChoiceProgress::default(); plan.outputs.len()],
            plan,
            opened: false,
            fault_triggered: false,
            ended: false,
            held_events: (String::new(), 0),
            actions: VecDeque::new(),
        };
        match script.fault_kind() {
            Some(FaultKind::RoleEarly) => script.queue_opening(),
            Some(FaultKind::Empty) => script.queue_empty(),
            _ => (),
        }
        script
    }

    /// The next action; `None`: wait for tokens.
    pub fn next_action(&mut self) -> Option<StreamAction> {
        self.actions.pop_front()
    }

    /// Tokens in chunks so far, of all choices.
    fn sent_tokens(&self) -> usize {
        self.choices.iter().map(|progress| progress.sent).sum()
    }

    /// Whether a choice needs no more tokens.
    #[must_use]
    pub fn is_choice_finished(&self, choice: usize) -> bool {
        self.choices.get(choice).is_none_or(|progress| progress.finished)
    }

    /// Whether the stream needs no more tokens.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Sets how many prompt tokens were prefix cache hits.
    pub fn set_cached_tokens(&mut self, tokens: u32) {
        self.plan.dialect.set_cached_tokens(tokens);
    }

    /// Adds generated tokens of a choice; `finished`: they are the last ones.
    pub fn add_tokens(&mut self, choice: usize, tokens: usize, finished: bool) {
        let group = match self.plan.fault {
            Some(Fault { kind: FaultKind::MultiToken, n }) => n as usize,
            _ => self.plan.tokens_per_chunk,
        };
        for i in 1..=tokens {
            let progress = &mut self.choices[choice];
            progress.waiting += 1;
            let last = finished && i == tokens;
            if (last || progress.sent == 0 || progress.waiting >= group) && !self.ended {
                self.trigger_fault();
                if self.ended {
                    return;
                }
                self.queue_tokens(choice, last);
            }
        }
    }

    fn fault_kind(&self) -> Option<FaultKind> {
        self.plan.fault.map(|fault| fault.kind)
    }

    /// Triggers a fault in the middle of the stream once enough tokens were sent.
    fn trigger_fault(&mut self) {
        let Some(Fault { kind, n }) = self.plan.fault else { return };
        if self.fault_triggered || self.sent_tokens() < n as usize {
            return;
        }
        self.fault_triggered = true;
        let actions = match kind {
            FaultKind::Stall => vec![StreamAction::Hang],
            FaultKind::Reset => vec![StreamAction::Pause, StreamAction::Reset, StreamAction::Break],
            FaultKind::Cut => vec![StreamAction::Pause, StreamAction::Break],
            FaultKind::EndEarly => vec![StreamAction::End],
            FaultKind::ErrorInStream => {
                self.plan.dialect.error_events().into_iter().map(data_action).chain([StreamAction::End]).collect()
            }
            FaultKind::Abort if self.plan.dialect.reports_abort() => return self.queue_abort(),
            FaultKind::BadChunking => {
                let event = self.plan.dialect.encode_chunk(ChunkContent { text: " lost", ..ChunkContent::default() });
                vec![
                    StreamAction::Pause,
                    StreamAction::Corrupt,
                    data_action(event),
                    StreamAction::Pause,
                    StreamAction::Break,
                ]
            }
            FaultKind::BadJson => {
                self.actions.push_back(data_action(self.plan.dialect.truncated_event()));
                return;
            }
            _ => return,
        };
        self.actions.extend(actions);
        self.ended = true;
    }

    /// Ends every unfinished choice with the finish reason `abort`, as an engine does with requests that it aborts.
    fn queue_abort(&mut self) {
        self.queue_opening();
        for (choice, progress) in
            self.choices.clone().into_iter().enumerate().filter(|(_, progress)| !progress.finished)
        {
            let chunk = ChunkContent {
                choice,
                finish_reason: Some("abort"),
                generated_tokens: to_u32(progress.sent),
                ..ChunkContent::default()
            };
            let event = self.plan.dialect.encode_chunk(chunk);
            self.queue_event(event, 0);
        }
        self.queue_ending();
    }

    fn queue_opening(&mut self) {
        if !std::mem::replace(&mut self.opened, true) {
            for event in self.plan.dialect.opening_events() {
                self.queue_event(event, 0);
            }
        }
    }

    fn queue_tokens(&mut self, choice: usize, last: bool) {
        self.queue_opening();
        let ChoiceProgress { sent, waiting, .. } = self.choices[choice];
        if self.fault_kind() == Some(FaultKind::EmptyChunks) {
            let chunk = ChunkContent { choice, generated_tokens: to_u32(sent), ..ChunkContent::default() };
            let event = self.plan.dialect.encode_chunk(chunk);
            self.queue_event(event, 0);
        }
        let output = Rc::clone(&self.plan.outputs[choice]);
        let ids = &output[sent..sent + waiting];
        let event = self.token_event(choice, ids, last);
        let progress = &mut self.choices[choice];
        (progress.sent, progress.waiting, progress.finished) = (sent + waiting, 0, last);
        self.queue_event(event, to_u32(ids.len()));
        if last && self.fault_kind() == Some(FaultKind::FinishEmpty) {
            let generated_tokens = to_u32(output.len());
            let finish_reason = Some(self.finish_reason());
            let chunk = ChunkContent { choice, finish_reason, generated_tokens, ..ChunkContent::default() };
            let event = self.plan.dialect.encode_chunk(chunk);
            self.queue_event(event, 0);
        }
        if self.choices.iter().all(|progress| progress.finished) {
            self.queue_ending();
        }
    }

    fn token_event(&mut self, choice: usize, ids: &[u32], last: bool) -> String {
        let ChoiceProgress { sent, chars, .. } = self.choices[choice];
        let (plan, fault) = (&self.plan, self.fault_kind());
        let separate_finish = matches!(fault, Some(FaultKind::FinishEmpty | FaultKind::DoneOnly));
        let mut text = plan.vocabulary.join_texts(ids);
        self.choices[choice].chars += text.chars().count();
        if fault == Some(FaultKind::Split) {
            text.push_str("é🙂");
        }
        let logprobs = plan.logprobs.map(|top| {
            let vocabulary = &plan.vocabulary;
            let logprobs = if plan.dialect.is_chat() {
                logprobs::chat_logprobs(vocabulary, ids, top)
            } else {
                logprobs::completion_logprobs(vocabulary, ids, top, chars)
            };
            logprobs.to_string()
        });
        let is_last_choice =
            self.choices.iter().enumerate().all(|(other, progress)| progress.finished || other == choice);
        let usage = (last && is_last_choice && plan.include_usage && fault == Some(FaultKind::UsageInChoices))
            .then(|| self.usage_json());
        let tool = self.plan.tool.as_deref();
        let chunk = ChunkContent {
            choice,
            text: &text,
            ids,
            kind: self.text_kind(choice, tool),
            logprobs: logprobs.as_deref(),
            finish_reason: (last && !separate_finish).then(|| self.finish_reason()),
            generated_tokens: to_u32(sent + ids.len()),
            first: sent == 0,
            usage: usage.as_deref(),
            fingerprint: last && !plan.include_usage,
        };
        self.plan.dialect.encode_chunk(chunk)
    }

    fn queue_ending(&mut self) {
        let usage_events = match self.fault_kind() {
            _ if !self.plan.include_usage => 0,
            Some(FaultKind::NoUsage | FaultKind::UsageInChoices) => 0,
            Some(FaultKind::DoubleUsage) => 2,
            _ => 1,
        };
        let usage = self.usage_json();
        let generated_tokens = if self.fault_kind() == Some(FaultKind::Empty) { 0 } else { to_u32(self.sent_tokens()) };
        let done = self.fault_kind() != Some(FaultKind::NoDone);
        let finish_reason = self.finish_reason();
        let end = StreamEnd { finish_reason, generated_tokens, usage_events, usage: &usage, done };
        for event in self.plan.dialect.ending_events(end) {
            self.queue_event(event, 0);
        }
        self.flush_held_events();
        self.actions.push_back(StreamAction::End);
        self.ended = true;
    }

    fn queue_empty(&mut self) {
        self.queue_opening();
        for choice in 0..self.choices.len() {
            let chunk = ChunkContent { choice, finish_reason: Some("stop"), first: true, ..ChunkContent::default() };
            let event = self.plan.dialect.encode_chunk(chunk);
            self.queue_event(event, 0);
        }
        self.queue_ending();
    }

    fn usage_json(&self) -> String {
        let total = match self.fault_kind() {
            Some(FaultKind::Abort) if self.fault_triggered => to_u32(self.sent_tokens()),
            _ => to_u32(self.plan.outputs.iter().map(|output| output.len()).sum()),
        };
        let reasoning =
            (self.fault_kind() == Some(FaultKind::Reasoning) && self.plan.dialect.is_chat()).then_some(total / 2);
        let generated = if self.fault_kind() == Some(FaultKind::Empty) { 0 } else { total };
        self.plan.dialect.usage_json(generated, reasoning)
    }

    fn finish_reason(&self) -> &'static str {
        let calls = self.fault_kind() == Some(FaultKind::ToolCalls) && self.plan.dialect.is_chat();
        if calls { "tool_calls" } else { self.plan.finish_reason }
    }

    fn text_kind<'a>(&self, choice: usize, tool: Option<&'a str>) -> TextKind<'a> {
        let first_half = self.choices[choice].sent < self.plan.outputs[choice].len() / 2;
        match self.fault_kind() {
            Some(FaultKind::Reasoning) if first_half => TextKind::Reasoning("reasoning"),
            Some(FaultKind::ReasoningContent) if first_half => TextKind::Reasoning("reasoning_content"),
            Some(FaultKind::ToolCalls) => TextKind::ToolCall("recite"),
            _ => tool.map_or(TextKind::Content, TextKind::ToolCall),
        }
    }

    fn queue_event(&mut self, event: String, tokens: u32) {
        if event.is_empty() {
            return;
        }
        let note = (tokens > 0).then_some(StreamAction::Tokens(tokens));
        match self.plan.fault {
            Some(Fault { kind: FaultKind::Split, n }) => {
                let mut parts = split_event(&event, n as usize);
                let last = parts.pop();
                self.actions.extend(parts.into_iter().flat_map(|part| [StreamAction::Data(part), StreamAction::Pause]));
                // The tokens arrive with the last part of the event.
                self.actions.extend(note.into_iter().chain(last.map(StreamAction::Data)).chain([StreamAction::Pause]));
            }
            Some(Fault { kind: FaultKind::Coalesce, n }) => {
                self.actions.extend(note);
                self.held_events.0.push_str(&event);
                self.held_events.1 += 1;
                if self.held_events.1 >= n {
                    self.flush_held_events();
                }
            }
            Some(Fault { kind: FaultKind::Crlf, .. }) if event.starts_with("data: ") => {
                self.actions.extend(note.into_iter().chain([data_action(unusual_framing(&event))]));
            }
            _ => self.actions.extend(note.into_iter().chain([data_action(event)])),
        }
    }

    fn flush_held_events(&mut self) {
        let (events, _) = std::mem::take(&mut self.held_events);
        if !events.is_empty() {
            self.actions.push_back(data_action(events));
        }
    }
}

fn to_u32(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

fn data_action(event: String) -> StreamAction {
    StreamAction::Data(event.into())
}

/// Splits an event into parts of at most `max_bytes` bytes, and also inside every character of several bytes.
fn split_event(event: &str, max_bytes: usize) -> Vec<Bytes> {
    let bytes = Bytes::copy_from_slice(event.as_bytes());
    let (mut parts, mut start) = (Vec::new(), 0);
    for end in 1..=event.len() {
        let inside_char = !event.is_char_boundary(end) && event.is_char_boundary(end - 1);
        if inside_char || end - start >= max_bytes.max(1) || end == event.len() {
            parts.push(bytes.slice(start..end));
            start = end;
        }
    }
    parts
}

/// Rewrites an event in another form that the standard of server-sent events allows: CRLF line ends, more fields, a comment, no
/// space after the colon, and data over two lines. The line end between them is white space in JSON.
fn unusual_framing(event: &str) -> String {
    let json = event.trim_start_matches("data: ").trim_end();
    let data = match json.split_once(',') {
        Some((head, tail)) => format!("data:{head},\r\ndata:{tail}"),
        None => format!("data:{json}"),
    };
    format!(": a comment\r\nevent: message\r\nid: 7\r\nretry: 1000\r\n{data}\r\n\r\n")
}

#[cfg(test)]
mod tests {
    use super::{
        super::{api::OpenAiDialect, dialect::ResponseMeta},
        *,
    };

    fn script(chat: bool, output: usize, fault: Option<&str>) -> Script {
        let output: Vec<u32> = (300..).take(output).collect();
        let meta = ResponseMeta {
            request_id: "x".into(),
            prompt_tokens: 3,
            n: 1,
            total_choices: 1,
            ..ResponseMeta::default()
        };
        Script::new(StreamPlan {
            dialect: Box::new(OpenAiDialect::new(chat, meta)),
            vocabulary: Rc::new(Vocabulary::builtin().unwrap()),
            outputs: vec![output.into()],
            finish_reason: "length",
            tool: None,
            logprobs: None,
            tokens_per_chunk: 1,
            include_usage: true,
            fault: fault.map(|text| text.parse().unwrap()),
        })
    }

    /// All actions of a response whose tokens are generated one at a time.
    fn play(mut script: Script) -> Vec<StreamAction> {
        let tokens = script.plan.outputs[0].len();
        for i in 1..=tokens {
            script.add_tokens(0, 1, i == tokens);
        }
        std::iter::from_fn(|| script.next_action()).collect()
    }

    fn text(actions: &[StreamAction]) -> String {
        let bytes = actions.iter().filter_map(|action| match action {
            StreamAction::Data(bytes) => Some(bytes.to_vec()),
            _ => None,
        });
        String::from_utf8(bytes.flatten().collect()).unwrap()
    }

    fn tokens(actions: &[StreamAction]) -> Vec<u32> {
        actions.iter().filter_map(|p| if let StreamAction::Tokens(n) = p { Some(*n) } else { None }).collect()
    }

    #[test]
    fn a_chat_stream_is_a_role_tokens_a_usage_and_done() {
        let actions = play(script(true, 3, None));
        let text = text(&actions);
        let events: Vec<_> = text.split_terminator("\n\n").collect();
        assert_eq!(events.len(), 6, "{text}");
        assert!(events[0].contains("\"role\"") && events[3].contains("\"length\""));
        assert!(events[4].contains("\"choices\":[],\"usage\"") && events[5] == "data: [DONE]");
        assert_eq!(tokens(&actions), [1, 1, 1]);
        assert_eq!(actions.last(), Some(&StreamAction::End));
    }

    #[test]
    fn the_first_token_comes_alone_and_the_others_in_groups() {
        assert_eq!(tokens(&play(script(false, 8, Some("multi_token@3")))), [1, 3, 3, 1]);
        let mut late = script(false, 8, None);
        late.add_tokens(0, 8, true);
        let actions: Vec<_> = std::iter::from_fn(|| late.next_action()).collect();
        assert_eq!(tokens(&actions), [1; 8], "tokens that are added together still get a chunk each");
    }

    #[test]
    fn a_split_stream_is_the_same_stream() {
        let split = play(script(false, 2, Some("split@5")));
        assert!(split.len() > 100 && split.iter().all(|p| !matches!(p, StreamAction::Data(b) if b.len() > 5)));
        assert!(split.iter().any(|p| matches!(p, StreamAction::Data(b) if std::str::from_utf8(b).is_err())));
        assert_eq!(text(&split).replace("é🙂", ""), text(&play(script(false, 2, None))));
    }

    #[test]
    fn unusual_framing_has_the_same_data() {
        let event = "data: {\"a\":1,\"b\":[2,3]}\n\n";
        let unusual = unusual_framing(event);
        let lines: Vec<_> = unusual.split("\r\n").filter_map(|l| l.strip_prefix("data:")).collect();
        assert_eq!(lines, ["{\"a\":1,", "\"b\":[2,3]}"]);
        assert!(unusual.ends_with("\r\n\r\n") && !unusual.replace("\r\n", "").contains('\n'));
    }

    #[test]
    fn coalesced_events_share_a_write_and_none_is_lost() {
        let together = play(script(false, 5, Some("coalesce@4")));
        let writes = together.iter().filter(|p| matches!(p, StreamAction::Data(_))).count();
        assert_eq!(writes, 2, "5 tokens, the usage and [DONE]");
        assert_eq!(text(&together), text(&play(script(false, 5, None))));
    }

    #[test]
    fn an_early_role_is_sent_before_any_token() {
        assert!(matches!(script(true, 3, Some("role_early")).next_action(), Some(StreamAction::Data(_))));
        assert_eq!(script(true, 3, None).next_action(), None);
        let actions = play(script(true, 3, Some("role_early")));
        assert_eq!(text(&actions), text(&play(script(true, 3, None))), "and it is sent once");
    }

    #[test]
    fn a_fault_in_the_stream_comes_after_its_tokens_and_ends_it() {
        for name in ["stall", "reset", "cut", "end_early", "error_in_stream", "abort", "bad_chunking"] {
            for n in [0, 2] {
                let actions = play(script(true, 5, Some(&format!("{name}@{n}"))));
                assert_eq!(tokens(&actions).len(), n, "{name}");
                let last = actions.last().unwrap();
                assert!(
                    matches!(last, StreamAction::Hang | StreamAction::Break | StreamAction::End),
                    "{name}: {last:?}"
                );
            }
        }
        assert_eq!(
            tokens(&play(script(true, 5, Some("stall@9")))).len(),
            5,
            "an output may be too short for its fault"
        );
    }
}

//! The content of a chunk, the same for all APIs.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::usage::known_or;

/// The content of an event, a line, or a non-streaming response. Borrows from its bytes where possible.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Delta<'a> {
    /// The outputs' new content; empty in a chunk that only reports usage.
    pub choices: SmallVec<[ChoiceDelta<'a>; 1]>,
    /// Token counts so far, reported by the server.
    pub usage: Usage,
    /// Times reported by the server.
    pub metrics: Option<ServerTimings>,
    /// The response is complete.
    pub done: bool,
    /// The error message, if the request failed.
    pub error: Option<String>,
    /// Whether its texts are incremental or cumulative.
    pub text_mode: TextMode,
}

impl Delta<'_> {
    /// Whether it holds nothing of an output: no token, no end, no count.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        let holds = |choice: &ChoiceDelta| choice.has_token() || choice.finish.is_some() || choice.opens;
        let counts = self.usage.completion_tokens > Some(0);
        !self.done && self.error.is_none() && !counts && !self.choices.iter().any(holds)
    }
}

/// How the text of a chunk relates to earlier chunks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TextMode {
    /// Only the new text.
    #[default]
    Incremental,
    /// All text generated so far.
    Cumulative,
    /// Depends on the server's configuration: cumulative, unless the text does not begin with the earlier text.
    Either,
}

/// The new content of one output.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChoiceDelta<'a> {
    /// Which of the `n` outputs.
    pub index: u32,
    /// The text.
    pub text: Cow<'a, str>,
    /// The kind of text.
    pub kind: OutputKind,
    /// What was generated besides `text`: names and arguments of tool calls, and reasoning next to an answer.
    pub more: Cow<'a, str>,
    /// The number of token ids in the chunk; 0 if the server sends none.
    pub ids: usize,
    /// Why the output ended, as the server reports it.
    pub finish: Option<Cow<'a, str>>,
    /// It opens an output and holds nothing of it.
    pub opens: bool,
    /// It is all of the output, and not what is new: in a stream, it repeats the earlier chunks.
    pub whole: bool,
}

/// A kind of output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OutputKind {
    /// The answer.
    #[default]
    Answer,
    /// Reasoning before the answer.
    Reasoning,
    /// A tool call: its tokens count, but it has no text.
    ToolCall,
}

impl ChoiceDelta<'_> {
    /// Whether it has reasoning text.
    #[must_use]
    pub fn has_reasoning(&self) -> bool {
        self.kind == OutputKind::Reasoning && !self.text.is_empty()
    }

    /// Whether it has a token of the answer: text or a tool call. The chunks that open or end an output have none.
    #[must_use]
    pub fn has_answer(&self) -> bool {
        self.kind == OutputKind::ToolCall || (self.kind == OutputKind::Answer && !self.text.is_empty())
    }

    /// Whether it has any token.
    #[must_use]
    pub fn has_token(&self) -> bool {
        self.has_answer() || self.has_reasoning() || self.ids > 0
    }
}

/// The error for a finish reason that means a failure: engines end an aborted output like a complete one, with a special
/// reason.
#[must_use]
pub fn abort_error(finish: &str) -> Option<String> {
    matches!(finish, "abort" | "error").then(|| format!("the server ended the response: {finish}"))
}

/// The token counts that a server reports; `None`: not reported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Prompt tokens.
    pub prompt_tokens: Option<u32>,
    /// Tokens generated so far, over all outputs.
    pub completion_tokens: Option<u32>,
    /// Both, and with some servers reasoning that `completion_tokens` leaves out.
    pub total_tokens: Option<u32>,
    /// Prompt tokens that were prefix cache hits.
    pub cached_tokens: Option<u32>,
    /// Generated tokens that are reasoning.
    pub reasoning_tokens: Option<u32>,
}

impl Usage {
    /// Fills missing counts from `earlier`. A zero does not replace a count: servers that do not count send zeros.
    #[must_use]
    pub fn or_earlier(self, earlier: Usage) -> Usage {
        Usage {
            prompt_tokens: known_or(self.prompt_tokens, earlier.prompt_tokens),
            completion_tokens: known_or(self.completion_tokens, earlier.completion_tokens),
            total_tokens: known_or(self.total_tokens, earlier.total_tokens),
            cached_tokens: known_or(self.cached_tokens, earlier.cached_tokens),
            reasoning_tokens: known_or(self.reasoning_tokens, earlier.reasoning_tokens),
        }
    }
}

/// Times of a request that vLLM reports, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ServerTimings {
    /// Time in the queue.
    pub queue_time_ms: Option<f64>,
    /// From the first scheduling to the first token, as in vLLM 0.32.
    pub time_to_first_token_ms: Option<f64>,
}

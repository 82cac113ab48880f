//! What a piece of a reply brings, whichever API it came by.

use std::borrow::Cow;

use serde::Deserialize;
use smallvec::SmallVec;

/// What an event, a line, or a whole reply brings, borrowed from its bytes as far as can be.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Delta<'a> {
    /// Pieces of the answers; none in one that only counts.
    pub choices: SmallVec<[ChoiceDelta<'a>; 1]>,
    /// Tokens so far, as the server counts them.
    pub usage: Usage,
    /// The server's own times.
    pub metrics: Option<ServerTimings>,
    /// The reply is complete with this.
    pub done: bool,
    /// The request failed, in the server's words.
    pub error: Option<String>,
    /// What its texts are.
    pub text_mode: TextMode,
}

/// How much of an answer the text of a piece is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TextMode {
    /// What is new.
    #[default]
    Incremental,
    /// All that was generated so far.
    Cumulative,
    /// One of both, as the server is set up: all, unless it does not begin with what came before.
    Either,
}

/// A piece of one of the answers.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChoiceDelta<'a> {
    /// Which of `n` answers.
    pub index: u32,
    /// Its text.
    pub text: Cow<'a, str>,
    /// What kind of text it is.
    pub part: OutputKind,
    /// How many token ids came with it; 0 where the server sends none.
    pub ids: usize,
    /// Why the answer ends here, in the server's words.
    pub finish: Option<Cow<'a, str>>,
    /// It opens an answer and bears nothing of it.
    pub opens: bool,
}

/// The kinds of text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OutputKind {
    /// The answer proper.
    #[default]
    Answer,
    /// Thoughts before it.
    Reasoning,
    /// A call of a tool, which has no text of the answer but bears tokens of it.
    ToolCall,
}

impl ChoiceDelta<'_> {
    /// Whether it brings reasoning.
    #[must_use]
    pub fn has_reasoning(&self) -> bool {
        self.part == OutputKind::Reasoning && !self.text.is_empty()
    }

    /// Whether it bears a token of the answer proper: text or a call. Never what opens an answer, nor the empty end.
    #[must_use]
    pub fn has_answer(&self) -> bool {
        self.part == OutputKind::ToolCall || (self.part == OutputKind::Answer && !self.text.is_empty())
    }

    /// Whether it bears a token at all.
    #[must_use]
    pub fn has_token(&self) -> bool {
        self.has_answer() || self.has_reasoning() || self.ids > 0
    }
}

/// What went wrong, by a finish reason: engines end an answer that they give up as they end one that is whole, with a reason
/// of its own.
#[must_use]
pub fn abort_error(finish: &str) -> Option<String> {
    matches!(finish, "abort" | "error").then(|| format!("the server ended the answer: {finish}"))
}

/// A server's count of tokens; each number is `None` where it does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: Option<u32>,
    /// Tokens generated so far, over all answers to the prompt.
    pub completion_tokens: Option<u32>,
    /// Prompt tokens found in the prefix cache.
    pub cached_tokens: Option<u32>,
    /// Generated tokens that were reasoning.
    pub reasoning_tokens: Option<u32>,
}

impl Usage {
    /// It, and what `earlier` says beside.
    #[must_use]
    pub fn or_earlier(self, earlier: Usage) -> Usage {
        Usage {
            prompt_tokens: self.prompt_tokens.or(earlier.prompt_tokens),
            completion_tokens: self.completion_tokens.or(earlier.completion_tokens),
            cached_tokens: self.cached_tokens.or(earlier.cached_tokens),
            reasoning_tokens: self.reasoning_tokens.or(earlier.reasoning_tokens),
        }
    }
}

/// vLLM's times of a request, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
pub struct ServerTimings {
    /// In the queue.
    #[serde(default)]
    pub queue_time_ms: Option<f64>,
    /// First turn → first token, as vLLM 0.32 has it.
    #[serde(default)]
    pub time_to_first_token_ms: Option<f64>,
}

//! What every API implements to write a response: [`Dialect`], and the types that it is given.

use std::rc::Rc;

use serde_json::Value;

use super::{request::error_body, vocabulary::Vocabulary};

/// The event that ends a stream in OpenAI's and related APIs.
pub const DONE_EVENT: &str = "data: [DONE]\n\n";

/// The message of every API's error event. The wording is vLLM's.
pub const ENGINE_FAILURE: &str = "EngineCore encountered an issue.";

/// What is known about a response before its first token.
#[derive(Debug, Clone, Default)]
pub struct ResponseMeta {
    /// The request id; response ids are made from it.
    pub request_id: String,
    /// Unix seconds.
    pub created: u64,
    /// The model name as the client wrote it.
    pub model: String,
    /// Tokens of all prompts.
    pub prompt_tokens: u32,
    /// The limit on output tokens.
    pub max_tokens: u32,
    /// Whether each chunk contains the usage so far (OpenAI only).
    pub continuous_usage: bool,
    /// The prompts, if the client asked for token ids.
    pub prompt_ids: Option<Vec<Vec<u32>>>,
    /// Choices for each prompt.
    pub n: usize,
    /// Choices for all prompts.
    pub total_choices: usize,
}

/// The content of one chunk.
#[derive(Debug, Clone, Copy, Default)]
pub struct ChunkContent<'a> {
    /// The choice that the chunk belongs to.
    pub choice: usize,
    /// The text. It contains no characters that JSON escapes.
    pub text: &'a str,
    /// The token ids.
    pub ids: &'a [u32],
    /// Where in the message the text goes.
    pub kind: TextKind<'a>,
    /// Log probabilities of the tokens as JSON, if the client asked for them.
    pub logprobs: Option<&'a str>,
    /// Why the choice ends, in its last chunk.
    pub finish_reason: Option<&'a str>,
    /// Tokens generated for the choice, including these.
    pub generated_tokens: u32,
    /// Whether this is the first chunk of the choice.
    pub first: bool,
    /// The usage to add even if chunks do not contain it.
    pub usage: Option<&'a str>,
    /// Whether to add the system fingerprint.
    pub fingerprint: bool,
}

/// The part of a message that a text belongs to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TextKind<'a> {
    /// The content.
    #[default]
    Content,
    /// Reasoning, under this key.
    Reasoning(&'static str),
    /// The arguments of a call of this tool.
    ToolCall(&'a str),
}

/// What is known at the end of a stream.
#[derive(Debug, Clone, Copy)]
pub struct StreamEnd<'a> {
    /// Why it ends, in vLLM's words.
    pub finish_reason: &'static str,
    /// Tokens generated for all choices.
    pub generated_tokens: u32,
    /// How many usage events to send, in APIs that have such an event. 1 unless a fault changes it.
    pub usage_events: u32,
    /// The usage in OpenAI's format.
    pub usage: &'a str,
    /// Whether to send the event that ends the stream.
    pub done: bool,
}

/// A complete output, for a response that is not streamed.
#[derive(Debug, Clone, Copy)]
pub struct FullOutput<'a> {
    /// The tokens of each choice.
    pub outputs: &'a [Rc<[u32]>],
    /// Turns tokens into text.
    pub vocabulary: &'a Vocabulary,
    /// Tokens generated for all choices.
    pub generated_tokens: u32,
    /// Why the choices end, in vLLM's words.
    pub finish_reason: &'static str,
    /// The tool whose arguments the outputs are.
    pub tool: Option<&'a str>,
    /// How many likely tokens to list for each token; `None`: no log probabilities at all.
    pub logprobs: Option<usize>,
    /// Whether to include the usage.
    pub include_usage: bool,
}

impl FullOutput<'_> {
    /// The text of the first choice, which is the only one outside of OpenAI's APIs.
    pub fn first_text(&self) -> String {
        self.outputs.first().map(|output| self.vocabulary.join_texts(output)).unwrap_or_default()
    }
}

/// Writes the responses of one API.
pub trait Dialect {
    /// The events before the first token.
    fn opening_events(&mut self) -> Vec<String> {
        vec![]
    }

    /// An event with tokens, with a finish reason, or with neither.
    fn encode_chunk(&mut self, chunk: ChunkContent<'_>) -> String;

    /// The events after the last token.
    fn ending_events(&mut self, end: StreamEnd<'_>) -> Vec<String>;

    /// Whether the API distinguishes content, reasoning and tool calls.
    fn is_chat(&self) -> bool {
        false
    }

    /// Whether a response that the engine aborts ends as any other does, with the finish reason `abort`.
    fn reports_abort(&self) -> bool {
        false
    }

    /// The usage in OpenAI's format, for a fault that sends it with the last token.
    fn usage_json(&self, _generated_tokens: u32, _reasoning_tokens: Option<u32>) -> String {
        String::new()
    }

    /// Sets how many prompt tokens were prefix cache hits.
    fn set_cached_tokens(&mut self, _tokens: u32) {}

    /// The events that report a failure of the engine.
    fn error_events(&self) -> Vec<String>;

    /// An event that stops in the middle of its JSON.
    fn truncated_event(&self) -> String {
        "data: {\"text\":\n\n".into()
    }

    /// The `content-type` of a stream.
    fn stream_content_type(&self) -> &'static str {
        "text/event-stream; charset=utf-8"
    }

    /// The body of a response that is not streamed.
    fn full_response(&self, full: FullOutput<'_>) -> Value;
}

/// A server-sent event named by the `type` of its data.
pub fn named_sse_event(data: &Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or_default())
}

/// A server-sent event without a name.
pub fn sse_event(data: &Value) -> String {
    format!("data: {data}\n\n")
}

/// OpenAI's event for a failure of the engine.
pub fn openai_error_event() -> String {
    sse_event(&error_body(500, "InternalServerError", None, ENGINE_FAILURE))
}

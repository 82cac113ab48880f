//! The APIs beside OpenAI's completions and chats: each turns its requests into vLLM's words, and the tokens of an answer into its
//! own events. How the engine works does not depend on them.

mod audio;
mod messages;
mod ollama;
pub mod pooling;
mod responses;
mod sglang;
mod tgi;
mod triton;

use serde_json::{Value, json};

use super::{
    events::{Chunk, Format, Part},
    request::{Body, Refusal},
};

/// An API that generates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// `/v1/completions`.
    Completions,
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/responses`.
    Responses,
    /// Anthropic's `/v1/messages`.
    Messages,
    /// `/v1/audio/transcriptions` and `…/translations`.
    Audio,
    /// TGI's `/generate_stream`.
    TgiStream,
    /// TGI's `/generate`.
    Tgi,
    /// `/generate`, which both TGI and `SGLang` have: the keys of the body tell which.
    Generate,
    /// `SGLang`'s `/generate`.
    Sglang,
    /// `/v2/models/…/generate_stream`.
    TritonStream,
    /// `/v2/models/…/generate`.
    Triton,
    /// Ollama's `/api/chat`.
    Ollama,
}

/// What is known of an answer before its first token.
#[derive(Debug, Clone, Default)]
pub struct Named {
    /// The name of the request, and of the answer.
    pub name: String,
    /// Unix seconds.
    pub created: u64,
    /// The model's name, as it was asked for.
    pub model: String,
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// The most tokens of the answer.
    pub max_tokens: u32,
    /// Whether each of OpenAI's events tells the usage so far.
    pub continuous_usage: bool,
    /// The prompts, where their token ids were asked for.
    pub prompt_ids: Option<Vec<Vec<u32>>>,
    /// Answers to each prompt.
    pub n: usize,
    /// Answers to all prompts.
    pub answers: usize,
}

/// What is known of an answer at its end.
#[derive(Debug, Clone, Copy)]
pub struct Ending<'a> {
    /// Why it ends, in vLLM's words.
    pub finish: &'static str,
    /// Tokens generated.
    pub generated: u32,
    /// How many times the usage is told, for those who tell it in an event of its own: 1, unless a fault wants otherwise.
    pub usages: u32,
    /// The usage in OpenAI's words.
    pub usage: &'a str,
    /// Whether the end of the stream is told.
    pub done: bool,
}

/// A whole answer.
#[derive(Debug, Clone, Copy)]
pub struct Whole<'a> {
    /// Its text.
    pub text: &'a str,
    /// Tokens generated.
    pub generated: u32,
    /// Why it ends, in vLLM's words.
    pub finish: &'static str,
    /// Whether the usage is told.
    pub usage: bool,
}

/// How an API writes an answer.
pub trait Dialect {
    /// What comes before the first token.
    fn opening(&mut self) -> Vec<String> {
        vec![]
    }

    /// An event with tokens, or with a finish reason, or with neither.
    fn chunk(&mut self, chunk: Chunk<'_>) -> String;

    /// What comes behind the last token.
    fn ending(&mut self, ending: Ending<'_>) -> Vec<String>;

    /// Whether thoughts and calls of tools have forms of their own.
    fn is_chat(&self) -> bool {
        false
    }

    /// Whether an answer that the engine gives up ends as others do, with the reason `abort`.
    fn tells_abort(&self) -> bool {
        false
    }

    /// The usage in OpenAI's words, where a fault puts it beside the last token.
    fn usage(&self, _generated: u32, _reasoning: Option<u32>) -> String {
        String::new()
    }

    /// The prefix cache gave so many tokens of the prompt.
    fn set_cached_tokens(&mut self, _tokens: u32) {}

    /// The engine fails.
    fn error(&self) -> Vec<String>;

    /// An event that stops in the middle of its JSON.
    fn broken(&self) -> String {
        "data: {\"text\":\n\n".into()
    }

    /// The type of a stream of its events.
    fn media(&self) -> &'static str {
        "text/event-stream; charset=utf-8"
    }

    /// The answer in one piece; `None`: OpenAI's, which `routes` writes.
    fn whole(&self, _whole: Whole<'_>) -> Option<Value> {
        None
    }
}

const FAILURE: &str = "EngineCore encountered an issue.";

impl Api {
    /// By the path of a request.
    pub fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/v1/completions" => Api::Completions,
            "/v1/chat/completions" => Api::Chat,
            "/v1/responses" => Api::Responses,
            "/v1/messages" => Api::Messages,
            "/v1/audio/transcriptions" | "/v1/audio/translations" => Api::Audio,
            "/generate_stream" => Api::TgiStream,
            "/generate" => Api::Generate,
            "/api/chat" => Api::Ollama,
            _ => match path.strip_prefix("/v2/models/")?.split_once('/')?.1 {
                "generate_stream" => Api::TritonStream,
                "generate" => Api::Triton,
                _ => return None,
            },
        })
    }

    /// Whether its prompts are chats.
    pub fn is_chat(self) -> bool {
        matches!(self, Api::Chat | Api::Responses | Api::Messages | Api::Ollama)
    }

    /// The API that a body at this endpoint is of.
    pub fn settle(self, bytes: &[u8]) -> Self {
        match self {
            Api::Generate if tgi::is_its(bytes) => Api::Tgi,
            Api::Generate => Api::Sglang,
            _ => self,
        }
    }

    /// The request in vLLM's words.
    pub fn body(self, bytes: &[u8], content_type: &str) -> Result<Body, Refusal> {
        match self {
            Api::Completions | Api::Chat => super::request::parse(bytes),
            Api::Responses => responses::body(bytes),
            Api::Messages => messages::body(bytes),
            Api::Audio => audio::body(bytes, content_type),
            Api::Tgi => tgi::body(bytes, false),
            Api::TgiStream => tgi::body(bytes, true),
            Api::Generate | Api::Sglang => sglang::body(bytes),
            Api::TritonStream => triton::body(bytes, true),
            Api::Triton => triton::body(bytes, false),
            Api::Ollama => ollama::body(bytes),
        }
    }

    /// How the answer is written.
    pub fn dialect(self, named: Named) -> Box<dyn Dialect> {
        match self {
            Api::Completions | Api::Chat => {
                let id = format!("{}-{}", if self == Api::Chat { "chatcmpl" } else { "cmpl" }, named.name);
                let mut format = Format::new(self == Api::Chat, &id, named.created, &named.model, named.prompt_tokens);
                format.continuous_usage = named.continuous_usage;
                format.prompt_ids = named.prompt_ids;
                (format.n, format.answers) = (named.n, named.answers);
                Box::new(format)
            }
            Api::Responses => Box::new(responses::Responses::new(named)),
            Api::Messages => Box::new(messages::Messages::new(named)),
            Api::Audio => Box::new(audio::Audio::new(named)),
            Api::Tgi | Api::TgiStream => Box::new(tgi::Tgi::new(named)),
            Api::Generate | Api::Sglang => Box::new(sglang::Sglang::new(named)),
            Api::TritonStream | Api::Triton => Box::new(triton::Triton),
            Api::Ollama => Box::new(ollama::Ollama::new(named)),
        }
    }

    /// A refusal, given in OpenAI's words, in the words of the API.
    pub fn refusal(self, body: Value) -> Value {
        let error = &body["error"];
        match self {
            Api::Messages => {
                json!({"type": "error", "error": {"type": error["type"], "message": error["message"]}})
            }
            Api::Tgi | Api::TgiStream => json!({"error": error["message"], "error_type": "validation"}),
            Api::Ollama | Api::Triton | Api::TritonStream => json!({"error": error["message"]}),
            _ => body,
        }
    }
}

/// An event of server-sent events, with the name that its `type` has.
fn named_event(data: &Value) -> String {
    format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or_default())
}

/// An event of server-sent events without a name.
fn event(data: &Value) -> String {
    format!("data: {data}\n\n")
}

/// The text of a chunk, whose escapes were left to its event: there are none.
fn text<'a>(chunk: &Chunk<'a>) -> &'a str {
    chunk.text
}

/// Whether a chunk bears thoughts.
fn thinks(chunk: &Chunk<'_>) -> bool {
    matches!(chunk.part, Part::Reasoning(_))
}

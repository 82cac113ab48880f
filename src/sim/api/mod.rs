//! The APIs that `vb-sim` serves: each translates its requests into vLLM's terms, and writes tokens as its own events. The engine
//! does not know about them.

mod audio;
mod messages;
mod ollama;
mod openai;
pub mod pooling;
mod responses;
mod sglang;
mod tgi;
mod triton;

use serde_json::{Value, json};

use super::{
    dialect::{Dialect, ResponseMeta},
    request::{self, ApiError, GenerationBody},
};

#[cfg(test)]
pub use openai::OpenAiDialect;

/// An API that generates tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GenerationApi {
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
    /// `/generate`, which both TGI and `SGLang` have; the keys of the body decide which one is meant.
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

impl GenerationApi {
    /// The API at this path.
    pub fn from_path(path: &str) -> Option<Self> {
        Some(match path {
            "/v1/completions" => GenerationApi::Completions,
            "/v1/chat/completions" => GenerationApi::Chat,
            "/v1/responses" => GenerationApi::Responses,
            "/v1/messages" => GenerationApi::Messages,
            "/v1/audio/transcriptions" | "/v1/audio/translations" => GenerationApi::Audio,
            "/generate_stream" => GenerationApi::TgiStream,
            "/generate" => GenerationApi::Generate,
            "/api/chat" => GenerationApi::Ollama,
            _ => match path.strip_prefix("/v2/models/")?.split_once('/')?.1 {
                "generate_stream" => GenerationApi::TritonStream,
                "generate" => GenerationApi::Triton,
                _ => return None,
            },
        })
    }

    /// Whether its prompts are chats.
    pub fn is_chat(self) -> bool {
        matches!(self, GenerationApi::Chat | GenerationApi::Responses | GenerationApi::Messages | GenerationApi::Ollama)
    }

    /// Whether it is one of OpenAI's text APIs, which send the usage only if the client asks for it.
    pub fn is_openai(self) -> bool {
        matches!(self, GenerationApi::Completions | GenerationApi::Chat)
    }

    /// Resolves [`GenerationApi::Generate`] by the body of the request.
    pub fn resolve_by_body(self, bytes: &[u8]) -> Self {
        match self {
            GenerationApi::Generate if tgi::is_tgi_body(bytes) => GenerationApi::Tgi,
            GenerationApi::Generate => GenerationApi::Sglang,
            _ => self,
        }
    }

    /// Reads a request and translates it into vLLM's terms.
    pub fn parse_body(self, bytes: &[u8], content_type: &str) -> Result<GenerationBody, ApiError> {
        match self {
            GenerationApi::Completions | GenerationApi::Chat => request::parse_json(bytes),
            GenerationApi::Responses => responses::parse_body(bytes),
            GenerationApi::Messages => messages::parse_body(bytes),
            GenerationApi::Audio => audio::parse_body(bytes, content_type),
            GenerationApi::Tgi => tgi::parse_body(bytes, false),
            GenerationApi::TgiStream => tgi::parse_body(bytes, true),
            GenerationApi::Generate | GenerationApi::Sglang => sglang::parse_body(bytes),
            GenerationApi::TritonStream => triton::parse_body(bytes, true),
            GenerationApi::Triton => triton::parse_body(bytes, false),
            GenerationApi::Ollama => ollama::parse_body(bytes),
        }
    }

    /// The dialect that writes the response.
    pub fn new_dialect(self, meta: ResponseMeta) -> Box<dyn Dialect> {
        match self {
            GenerationApi::Completions | GenerationApi::Chat => {
                Box::new(openai::OpenAiDialect::new(self == GenerationApi::Chat, meta))
            }
            GenerationApi::Responses => Box::new(responses::ResponsesDialect::new(meta)),
            GenerationApi::Messages => Box::new(messages::MessagesDialect::new(meta)),
            GenerationApi::Audio => Box::new(audio::AudioDialect::new(meta)),
            GenerationApi::Tgi | GenerationApi::TgiStream => Box::new(tgi::TgiDialect::new(meta)),
            GenerationApi::Generate | GenerationApi::Sglang => Box::new(sglang::SglangDialect::new(meta)),
            GenerationApi::TritonStream | GenerationApi::Triton => Box::new(triton::TritonDialect),
            GenerationApi::Ollama => Box::new(ollama::OllamaDialect::new(meta)),
        }
    }

    /// Translates an error body from OpenAI's format into the format of this API.
    pub fn translate_error(self, body: Value) -> Value {
        let error = &body["error"];
        match self {
            GenerationApi::Messages => {
                json!({"type": "error", "error": {"type": error["type"], "message": error["message"]}})
            }
            GenerationApi::Tgi | GenerationApi::TgiStream => {
                json!({"error": error["message"], "error_type": "validation"})
            }
            GenerationApi::Ollama | GenerationApi::Triton | GenerationApi::TritonStream => {
                json!({"error": error["message"]})
            }
            _ => body,
        }
    }
}

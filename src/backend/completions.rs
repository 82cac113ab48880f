//! OpenAI completions: `/v1/completions`. A request, and a chunk of its response:
//!
//! ```json
//! {"model":"m","prompt":"hi","max_tokens":16,"stream":true,"stream_options":{"include_usage":true}}
//! {"id":"cmpl-1","choices":[{"index":0,"text":" there","finish_reason":null}]}
//! ```

use serde_json::json;

use super::{Api, Backend, Delta, PromptForm, ReadError, openai, prompt};
use crate::{
    http::sse::SseEvent,
    record::{ContentForm, Object, SampleRequest},
};

pub static BACKEND: Backend = Backend {
    name: "openai",
    aliases: &["vllm"],
    about: "OpenAI completions",
    prompt_forms: &[PromptForm::Text, PromptForm::TokenIds],
    needs: "text or token ids",
    token_counts: "`usage`, or token ids in the chunks",
    checked_against: "vLLM, llama.cpp, Dynamo, LiteLLM, SGLang, transformers",
    api: Some(&CompletionsApi),
};

#[derive(Debug)]
pub struct CompletionsApi;

impl Api for CompletionsApi {
    fn endpoint_path(&self, _stream: bool) -> &'static str {
        "/v1/completions"
    }

    fn request_body(&self, request: &SampleRequest, model: &str, stream: bool) -> Result<Object, String> {
        let prompt = serde_json::to_value(prompt::single_prompt(request)?).map_err(|e| e.to_string())?;
        let mut body = Object::from_iter([("model".into(), model.into()), ("prompt".into(), prompt)]);
        set_output_limit(&mut body, "max_tokens", request);
        set_stream(&mut body, stream);
        Ok(body)
    }

    fn copied_forms(&self) -> &'static [ContentForm] {
        &[ContentForm::Text, ContentForm::Ids]
    }

    fn read_event<'a>(&self, event: SseEvent<'a>) -> Result<Delta<'a>, ReadError> {
        openai::read_chunk(event.data)
    }

    fn read_response<'a>(&self, body: &'a [u8]) -> Result<Delta<'a>, ReadError> {
        openai::read_full(body)
    }
}

/// The limit for APIs that require one in every request.
pub const DEFAULT_OUTPUT_TOKENS: u32 = 1024;

/// Sets the limit of generated tokens, under the API's name for it.
pub fn set_output_limit(body: &mut Object, key: &str, request: &SampleRequest) {
    if let Some(tokens) = request.expected_output_len {
        body.insert(key.into(), tokens.into());
    }
}

/// Sets whether the response is streamed; a stream then ends with the usage.
pub fn set_stream(body: &mut Object, stream: bool) {
    body.insert("stream".into(), stream.into());
    if stream {
        body.insert("stream_options".into(), json!({"include_usage": true}));
    }
}

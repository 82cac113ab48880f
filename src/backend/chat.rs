//! OpenAI chat completions: `/v1/chat/completions`. A request, and a chunk of its response:
//!
//! ```json
//! {"model":"m","messages":[{"role":"user","content":"hi"}],"max_completion_tokens":16,"stream":true,"stream_options":{"include_usage":true}}
//! {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":" there"},"finish_reason":null}]}
//! ```
//!
//! Reasoning is in `reasoning` or `reasoning_content`, tool calls are in `tool_calls`.

use super::{
    Api, Backend, Delta, PromptForm, ReadError,
    completions::{set_output_limit, set_stream},
    openai, prompt,
};
use crate::{
    http::sse::SseEvent,
    record::{ContentForm, Object, SampleRequest},
};

pub static BACKEND: Backend = Backend {
    name: "openai-chat",
    aliases: &[],
    about: "OpenAI chat completions",
    prompt_forms: &[PromptForm::Chat, PromptForm::Media],
    needs: "messages, or text as one user message",
    token_counts: "`usage`, or token ids in the chunks",
    checked_against: "vLLM, llama.cpp, Dynamo, LiteLLM, transformers",
    api: Some(&ChatApi { output_limit: "max_completion_tokens" }),
};

/// The same API for servers that know only the older name of the output limit (`--send-max-tokens`).
pub static MAX_TOKENS_API: &dyn Api = &ChatApi { output_limit: "max_tokens" };

#[derive(Debug)]
struct ChatApi {
    /// The key of the output limit.
    output_limit: &'static str,
}

impl Api for ChatApi {
    fn endpoint_path(&self, _stream: bool) -> &'static str {
        "/v1/chat/completions"
    }

    fn request_body(&self, request: &SampleRequest, model: &str, stream: bool) -> Result<Object, String> {
        let messages = prompt::chat_messages(request)?;
        let mut body = Object::from_iter([("model".into(), model.into()), ("messages".into(), messages.into())]);
        set_output_limit(&mut body, self.output_limit, request);
        set_stream(&mut body, stream);
        Ok(body)
    }

    fn copied_forms(&self) -> &'static [ContentForm] {
        &[ContentForm::Text, ContentForm::Messages]
    }

    fn adapt_body(&self, body: &mut Object) {
        // `logprobs` is a number in completions; in chats it is a switch, and the number is `top_logprobs`.
        if let Some(count) = body.get("logprobs").and_then(serde_json::Value::as_u64) {
            body.insert("logprobs".into(), true.into());
            body.entry("top_logprobs").or_insert_with(|| count.into());
        }
    }

    fn read_event<'a>(&self, event: SseEvent<'a>) -> Result<Delta<'a>, ReadError> {
        openai::read_chunk(event.data)
    }

    fn read_response<'a>(&self, body: &'a [u8]) -> Result<Delta<'a>, ReadError> {
        openai::read_full(body)
    }
}

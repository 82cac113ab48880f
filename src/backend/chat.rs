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
    record::{Object, SampleRequest},
};

pub static BACKEND: Backend = Backend {
    name: "openai-chat",
    aliases: &[],
    about: "OpenAI chat completions",
    prompt_forms: &[PromptForm::Chat, PromptForm::Media],
    needs: "messages, or text as one user message",
    token_counts: "`usage`, or token ids in the chunks",
    checked_against: "vLLM, llama.cpp, Dynamo, LiteLLM, transformers",
    api: Some(&ChatApi),
};

#[derive(Debug)]
struct ChatApi;

impl Api for ChatApi {
    fn endpoint_path(&self, _stream: bool) -> &'static str {
        "/v1/chat/completions"
    }

    fn request_body(&self, request: &SampleRequest, model: &str, stream: bool) -> Result<Object, String> {
        let messages = prompt::chat_messages(request)?;
        let mut body = Object::from_iter([("model".into(), model.into()), ("messages".into(), messages.into())]);
        set_output_limit(&mut body, "max_completion_tokens", request);
        set_stream(&mut body, stream);
        Ok(body)
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

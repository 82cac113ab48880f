//! Anthropic messages: `/v1/messages`. A request, and events of its response:
//!
//! ```text
//! {"model":"m","messages":[{"role":"user","content":"hi"}],"max_tokens":16,"stream":true}
//!
//! event: message_start
//! data: {"type":"message_start","message":{"usage":{"input_tokens":9,"output_tokens":0}, …}}
//!
//! event: content_block_delta
//! data: {"type":"content_block_delta","delta":{"type":"text_delta","text":" there"},"index":0}
//!
//! event: message_delta
//! data: {"type":"message_delta","delta":{"stop_reason":"max_tokens"},"usage":{"output_tokens":2}}
//!
//! event: message_stop
//! data: {"type":"message_stop"}
//! ```

use std::borrow::Cow;

use serde_json::{Value, json};

use super::{
    Api, Backend, ChoiceDelta, Delta, OutputKind, PromptForm, ReadError, SamplingKeys, Usage,
    completions::DEFAULT_OUTPUT_TOKENS,
    lenient::{Content, Filled, FinishReason, List, Nested, Raw, Text, lenient_fields},
    prompt, read_fields,
    sampling::wrap_in_list,
    tool_calls::{arguments_text, join_texts},
    usage::UsageFields,
};
use crate::{
    http::{error_text::error_message, sse::SseEvent},
    record::{ContentForm, Object, SampleRequest},
};

pub static BACKEND: Backend = Backend {
    name: "anthropic",
    aliases: &[],
    about: "Anthropic messages",
    prompt_forms: &[PromptForm::Chat, PromptForm::Media],
    needs: "messages or text; system messages become `system`",
    token_counts: "`usage`, cached tokens included",
    checked_against: "vLLM, llama.cpp, Dynamo, LiteLLM, SGLang",
    api: Some(&AnthropicApi),
};

#[derive(Debug)]
struct AnthropicApi;

impl Api for AnthropicApi {
    fn endpoint_path(&self, _stream: bool) -> &'static str {
        "/v1/messages"
    }

    fn request_body(&self, request: &SampleRequest, model: &str, stream: bool) -> Result<Object, String> {
        let mut messages = prompt::chat_messages(request)?;
        prompt::reject_tool_calls(&messages, BACKEND.name)?;
        let is_system = |message: &Value| message["role"] == "system" || message["role"] == "developer";
        let system: Vec<Value> = messages.iter().filter(|m| is_system(m)).map(|m| m["content"].clone()).collect();
        messages.retain(|message| !is_system(message));
        prompt::map_parts(&mut messages, convert_part);
        let mut body = Object::from_iter([("model".into(), model.into()), ("messages".into(), messages.into())]);
        if !system.is_empty() {
            body.insert("system".into(), system_value(&system));
        }
        body.insert("max_tokens".into(), request.expected_output_len.unwrap_or(DEFAULT_OUTPUT_TOKENS).into());
        body.insert("stream".into(), stream.into());
        Ok(body)
    }

    fn copied_forms(&self) -> &'static [ContentForm] {
        &[ContentForm::Text]
    }

    fn sampling_keys(&self) -> SamplingKeys {
        SamplingKeys { object: None, names: Some(SAMPLING_NAMES) }
    }

    fn adapt_body(&self, body: &mut Object) {
        wrap_in_list(body.get_mut("stop_sequences"));
    }

    fn extra_headers(&self, key: Option<&str>) -> Vec<(&'static str, String)> {
        let version = ("anthropic-version", "2023-06-01".to_owned());
        [Some(version), key.map(|key| ("x-api-key", key.to_owned()))].into_iter().flatten().collect()
    }

    fn read_event<'a>(&self, event: SseEvent<'a>) -> Result<Delta<'a>, ReadError> {
        let message: AnthropicEvent = read_fields(event.data)?;
        let kind = message.kind.0.as_deref().map_or(event.name, str::as_bytes);
        let mut delta = Delta::default();
        match kind {
            b"message_start" => {
                let usage = message.message.0.map(|start| token_usage(start.usage)).unwrap_or_default();
                // Its output count covers only the start of the output.
                delta.usage = Usage { completion_tokens: None, ..usage };
            }
            // The name of a tool is generated, but its arguments show when.
            b"content_block_start" => {
                let more = message.content_block.0.and_then(|block| block.name.0).unwrap_or_default();
                delta.choices.push(ChoiceDelta { more, opens: true, ..ChoiceDelta::default() });
            }
            b"content_block_delta" => {
                // Dynamo counts in every event.
                delta.usage = token_usage(message.usage);
                delta.choices.extend(message.delta.0.and_then(BlockDelta::into_choice));
            }
            b"message_delta" => {
                delta.usage = token_usage(message.usage);
                let finish = message.delta.0.and_then(|block| block.stop_reason.kind).map(finish_reason);
                delta.choices.push(ChoiceDelta { finish, ..ChoiceDelta::default() });
            }
            b"message_stop" => delta.done = true,
            _ if kind == b"error" || message.error.0 => delta.error = Some(error_message(event.data)),
            b"" => return Err(ReadError::lacks("type")),
            // The start and end of content blocks, and keep-alive events.
            _ => {}
        }
        Ok(delta)
    }

    fn read_response<'a>(&self, body: &'a [u8]) -> Result<Delta<'a>, ReadError> {
        let message: AnthropicEvent = read_fields(body)?;
        if message.kind.as_str() == "error" || message.error.0 {
            return Ok(Delta { error: Some(error_message(body)), ..Delta::default() });
        }
        let blocks = message.content.0.ok_or_else(|| ReadError::lacks("content"))?;
        let has = |kind: &str| blocks.iter().any(|block| block.kind.as_str() == kind);
        let texts = blocks.iter().filter(|block| matches!(block.kind.as_str(), "text" | ""));
        let text: String = texts.map(|block| block.text.answer.as_deref().unwrap_or_default()).collect();
        let more = blocks.iter().map(ContentBlock::other_text).fold(Cow::default(), join_texts).into_owned();
        let kind = match (text.is_empty(), has("tool_use")) {
            (true, true) => OutputKind::ToolCall,
            (true, false) if has("thinking") => OutputKind::Reasoning,
            _ => OutputKind::Answer,
        };
        let choice = ChoiceDelta {
            text: text.into(),
            kind,
            more: more.into(),
            finish: message.stop_reason.kind.map(finish_reason),
            ..ChoiceDelta::default()
        };
        let usage = token_usage(message.usage);
        Ok(Delta { choices: [choice].into_iter().collect(), usage, done: true, ..Delta::default() })
    }
}

/// Anthropic's service rejects all others.
const SAMPLING_NAMES: &[(&str, &str)] =
    &[("temperature", "temperature"), ("top_p", "top_p"), ("top_k", "top_k"), ("stop", "stop_sequences")];

/// Joins the system messages into one `system` value: a string, or content parts if any message has parts.
fn system_value(contents: &[Value]) -> Value {
    let texts: Option<Vec<&str>> = contents.iter().map(Value::as_str).collect();
    match texts {
        Some(texts) => texts.join("\n").into(),
        None => contents
            .iter()
            .flat_map(|content| match content {
                Value::Array(parts) => parts.clone(),
                text => vec![json!({"type": "text", "text": text})],
            })
            .collect(),
    }
}

/// Converts a content part from OpenAI format.
fn convert_part(part: &Value) -> Value {
    let Some(url) = prompt::image_url(part) else { return part.clone() };
    let source = match prompt::data_url(url) {
        Some((media, data)) => json!({"type": "base64", "media_type": media, "data": data}),
        None => json!({"type": "url", "url": url}),
    };
    json!({"type": "image", "source": source})
}

/// A stop reason under the name of OpenAI's APIs.
fn finish_reason(reason: Cow<'_, str>) -> Cow<'_, str> {
    match &*reason {
        "max_tokens" => "length".into(),
        "end_turn" | "stop_sequence" => "stop".into(),
        "tool_use" => "tool_calls".into(),
        _ => reason,
    }
}

lenient_fields! {
    /// An event, or a non-streaming response.
    struct AnthropicEvent<'a> {
        "type" => kind: Text<'a>,
        "delta" => delta: Nested<BlockDelta<'a>>,
        "usage" => usage: UsageFields,
        "message" => message: Nested<MessageStart>,
        "content" => content: List<ContentBlock<'a>>,
        "content_block" => content_block: Nested<ContentBlock<'a>>,
        "stop_reason" => stop_reason: FinishReason<'a>,
        "error" => error: Filled,
    }
}

lenient_fields! {
    /// A message without its content.
    struct MessageStart {
        "usage" => usage: UsageFields,
    }
}

lenient_fields! {
    /// A block of a non-streaming response.
    struct ContentBlock<'a> {
        "type" => kind: Text<'a>,
        "text" => text: Content<'a>,
        "thinking" => thinking: Text<'a>,
        "name" => name: Text<'a>,
        "input" => input: Raw<'a>,
    }
}

impl ContentBlock<'_> {
    /// What was generated besides text.
    fn other_text(&self) -> Cow<'_, str> {
        let texts = [self.thinking.as_str().into(), self.name.as_str().into(), arguments_text(self.input)];
        texts.into_iter().fold(Cow::default(), join_texts)
    }
}

lenient_fields! {
    /// The new part of a block, or the end of the message.
    struct BlockDelta<'a> {
        "text" => text: Content<'a>,
        "thinking" => thinking: Content<'a>,
        "partial_json" => partial_json: Text<'a>,
        "stop_reason" => stop_reason: FinishReason<'a>,
    }
}

impl<'a> BlockDelta<'a> {
    /// `None` for a signature and for the opening of a tool call, which have no token.
    fn into_choice(self) -> Option<ChoiceDelta<'a>> {
        let (kind, text) = match (self.text.answer, self.thinking.answer, self.partial_json.filled()) {
            (Some(text), ..) => (OutputKind::Answer, text),
            (None, Some(text), _) => (OutputKind::Reasoning, text),
            (None, None, Some(more)) => {
                return Some(ChoiceDelta { kind: OutputKind::ToolCall, more, ..ChoiceDelta::default() });
            }
            (None, None, None) => return None,
        };
        Some(ChoiceDelta { text, kind, ..ChoiceDelta::default() })
    }
}

/// Anthropic's `input_tokens` leaves out what was read from the cache or written to it.
fn token_usage(fields: UsageFields) -> Usage {
    let cache_tokens = fields.cached.unwrap_or(0).saturating_add(fields.cache_written.unwrap_or(0));
    let prompt = fields.prompt.map(|tokens| tokens.saturating_add(cache_tokens));
    Usage { total_tokens: None, ..UsageFields { prompt, ..fields }.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(data: &str) -> Usage {
        AnthropicApi.read_event(SseEvent { name: b"", data: data.as_bytes() }).unwrap().usage
    }

    #[test]
    fn cached_tokens_count_as_prompt_and_a_start_has_no_output_count() {
        let start = |counts: &str| usage(&format!(r#"{{"type":"message_start","message":{{"usage":{{{counts}}}}}}}"#));
        let cached =
            start(r#""input_tokens":3,"cache_read_input_tokens":4,"cache_creation_input_tokens":5,"output_tokens":1"#);
        let want = Usage { prompt_tokens: Some(12), cached_tokens: Some(4), ..Usage::default() };
        assert_eq!(cached, want);
        assert_eq!(
            start(r#""input_tokens":3,"cache_read_input_tokens":0"#).cached_tokens,
            Some(0),
            "a miss is reported"
        );
        let most = start(r#""input_tokens":4294967295,"cache_read_input_tokens":4294967295"#);
        assert_eq!(most.prompt_tokens, Some(u32::MAX));
        let end = usage(r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":7}}"#);
        assert_eq!((end.prompt_tokens, end.completion_tokens), (None, Some(7)));
    }
}

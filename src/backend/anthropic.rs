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

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    Api, Backend, BorrowedText, ChoiceDelta, Delta, OutputKind, PromptForm, SamplingKeys, Usage,
    completions::DEFAULT_OUTPUT_TOKENS, parse, prompt, sampling::wrap_in_list, tool_calls::join_texts,
    usage::UsageFields,
};
use crate::{
    http::{exchange::error_message, sse::SseEvent},
    record::{Object, SampleRequest},
};

pub static BACKEND: Backend = Backend {
    name: "anthropic",
    aliases: &[],
    about: "Anthropic messages",
    prompt_forms: &[PromptForm::Chat, PromptForm::Media],
    needs: "messages or text; system messages become `system`",
    token_counts: "`usage`, cached tokens included",
    checked_against: "vLLM 0.32",
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

    fn read_event<'a>(&self, event: SseEvent<'a>) -> Result<Delta<'a>, String> {
        let message: AnthropicEvent = parse(event.data)?;
        let mut delta = Delta::default();
        match &*message.kind {
            "message_start" => {
                let usage = message.message.map(|start| token_usage(start.usage)).unwrap_or_default();
                // Its output count covers only the start of the output.
                delta.usage = Usage { completion_tokens: None, ..usage };
            }
            // The name of a tool is generated, but its arguments show when.
            "content_block_start" => {
                let name = message.content_block.map(|block| block.name).unwrap_or_default();
                delta.choices.push(ChoiceDelta { more: name, opens: true, ..ChoiceDelta::default() });
            }
            "content_block_delta" => {
                // Dynamo counts in every event.
                delta.usage = token_usage(message.usage);
                delta.choices.extend(message.delta.and_then(BlockDelta::into_choice));
            }
            "message_delta" => {
                delta.usage = token_usage(message.usage);
                let finish = message.delta.and_then(|block| block.stop_reason).map(finish_reason);
                delta.choices.push(ChoiceDelta { finish, ..ChoiceDelta::default() });
            }
            "message_stop" => delta.done = true,
            _ if message.is_error() => delta.error = Some(error_message(event.data)),
            // The start and end of content blocks, and keep-alive events.
            _ => {}
        }
        Ok(delta)
    }

    fn read_response<'a>(&self, body: &'a [u8]) -> Result<Delta<'a>, String> {
        let message: AnthropicEvent = parse(body)?;
        if message.is_error() {
            return Ok(Delta { error: Some(error_message(body)), ..Delta::default() });
        }
        let blocks = message.content.ok_or("it has no `content`")?;
        let text: String = blocks.iter().filter(|b| b.kind == "text").map(|b| &*b.text).collect();
        let more = blocks.iter().map(ContentBlock::other_text).fold(Cow::default(), join_texts);
        let kind = match (text.is_empty(), blocks.iter().any(|b| b.kind == "tool_use")) {
            (true, true) => OutputKind::ToolCall,
            (true, false) if blocks.iter().any(|b| b.kind == "thinking") => OutputKind::Reasoning,
            _ => OutputKind::Answer,
        };
        let choice = ChoiceDelta {
            text: text.into(),
            kind,
            more,
            finish: message.stop_reason.map(finish_reason),
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

#[derive(Deserialize)]
struct AnthropicEvent<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    delta: Option<BlockDelta<'a>>,
    #[serde(default)]
    usage: UsageFields,
    #[serde(default)]
    message: Option<MessageStart>,
    #[serde(borrow, default)]
    content: Option<Vec<ContentBlock<'a>>>,
    #[serde(borrow, default)]
    content_block: Option<ContentBlock<'a>>,
    #[serde(borrow, default)]
    stop_reason: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

impl AnthropicEvent<'_> {
    fn is_error(&self) -> bool {
        self.kind == "error" || self.error.is_some()
    }
}

#[derive(Deserialize)]
struct MessageStart {
    #[serde(default)]
    usage: UsageFields,
}

#[derive(Deserialize)]
struct ContentBlock<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    text: Cow<'a, str>,
    #[serde(borrow, default)]
    thinking: Cow<'a, str>,
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
}

impl<'a> ContentBlock<'a> {
    /// What was generated besides text.
    fn other_text(&self) -> Cow<'a, str> {
        let input = self.input.map_or("", RawValue::get);
        [self.thinking.clone(), self.name.clone(), input.into()].into_iter().fold(Cow::default(), join_texts)
    }
}

#[derive(Deserialize)]
struct BlockDelta<'a> {
    #[serde(borrow, default)]
    text: Option<BorrowedText<'a>>,
    #[serde(borrow, default)]
    thinking: Option<BorrowedText<'a>>,
    #[serde(borrow, default)]
    partial_json: Option<BorrowedText<'a>>,
    #[serde(borrow, default)]
    stop_reason: Option<Cow<'a, str>>,
}

impl<'a> BlockDelta<'a> {
    /// `None` for a signature and for the opening of a tool call, which have no token.
    fn into_choice(self) -> Option<ChoiceDelta<'a>> {
        let (kind, text) = match self {
            BlockDelta { text: Some(BorrowedText(text)), .. } => (OutputKind::Answer, text),
            BlockDelta { thinking: Some(BorrowedText(text)), .. } => (OutputKind::Reasoning, text),
            BlockDelta { partial_json: Some(BorrowedText(more)), .. } if !more.is_empty() => {
                return Some(ChoiceDelta { kind: OutputKind::ToolCall, more, ..ChoiceDelta::default() });
            }
            _ => return None,
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

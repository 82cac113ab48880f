//! Ollama chats: `/api/chat`, one JSON object per line. A request, and lines of its response:
//!
//! ```json
//! {"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true,"options":{"num_predict":16}}
//! {"model":"m","created_at":"…","message":{"role":"assistant","content":" there"},"done":false}
//! {"model":"m","created_at":"…","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","prompt_eval_count":9,"eval_count":2}
//! ```

use serde_json::Value;

use super::{
    Api, Backend, ChoiceDelta, Delta, OutputKind, PromptForm, ReadError, SamplingKeys, Usage,
    completions::set_output_limit,
    lenient::{Content, Count, Filled, Flag, Nested, Raw, Text, lenient_fields},
    prompt, read_fields,
    sampling::{take_nested, wrap_in_list},
    tool_calls::{call_text, is_filled, join_texts},
};
use crate::{
    http::{body::BodyFormat, error_text::error_message, sse::SseEvent},
    record::{ContentForm, Object, SampleRequest},
};

pub static BACKEND: Backend = Backend {
    name: "ollama",
    aliases: &[],
    about: "Ollama chats, one JSON object per line",
    prompt_forms: &[PromptForm::Chat, PromptForm::Media],
    needs: "messages or text",
    token_counts: "`eval_count` of the last line",
    checked_against: "SGLang",
    api: Some(&OllamaApi),
};

#[derive(Debug)]
struct OllamaApi;

impl Api for OllamaApi {
    fn endpoint_path(&self, _stream: bool) -> &'static str {
        "/api/chat"
    }

    fn request_body(&self, request: &SampleRequest, model: &str, stream: bool) -> Result<Object, String> {
        let mut messages = prompt::chat_messages(request)?;
        messages.iter_mut().try_for_each(convert_message)?;
        let mut options = Object::new();
        set_output_limit(&mut options, "num_predict", request);
        Ok(Object::from_iter([
            ("model".into(), model.into()),
            ("messages".into(), messages.into()),
            ("stream".into(), stream.into()),
            // By default it drops the oldest messages of a chat that is too long, which changes the request.
            ("truncate".into(), false.into()),
            ("options".into(), options.into()),
        ]))
    }

    fn copied_forms(&self) -> &'static [ContentForm] {
        &[ContentForm::Text]
    }

    fn sampling_keys(&self) -> SamplingKeys {
        SamplingKeys { object: Some("options"), names: Some(SAMPLING_NAMES) }
    }

    fn adapt_body(&self, body: &mut Object) {
        if let Some(count) = take_nested(body, "options", "logprobs") {
            body.insert("logprobs".into(), true.into());
            body.insert("top_logprobs".into(), count);
        }
        wrap_in_list(body.get_mut("options").and_then(|options| options.get_mut("stop")));
    }

    fn body_format(&self, stream: bool) -> BodyFormat {
        if stream { BodyFormat::JsonLines } else { BodyFormat::Json }
    }

    fn read_event<'a>(&self, event: SseEvent<'a>) -> Result<Delta<'a>, ReadError> {
        let line: OllamaLine = read_fields(event.data)?;
        if line.error.0 {
            return Ok(Delta { error: Some(error_message(event.data)), ..Delta::default() });
        }
        let (done, finish) = (line.done.0, line.done_reason.filled());
        let message = match line.message.0 {
            Some(message) => message,
            None if done => OllamaMessage::default(),
            None => return Err(ReadError::lacks("message")),
        };
        let usage =
            Usage { prompt_tokens: line.prompt_eval_count.0, completion_tokens: line.eval_count.0, ..Usage::default() };
        let finish = done.then(|| finish.unwrap_or_else(|| "stop".into()));
        let choice = ChoiceDelta { finish, ..message.into_output() };
        Ok(Delta { choices: [choice].into_iter().collect(), usage, done, ..Delta::default() })
    }

    fn read_response<'a>(&self, body: &'a [u8]) -> Result<Delta<'a>, ReadError> {
        self.read_event(SseEvent { name: b"", data: body })
    }
}

/// Converts a message from OpenAI format: one text and a list of images, and tool call arguments as objects instead of text.
fn convert_message(message: &mut Value) -> Result<(), String> {
    for call in message.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
        let arguments = &mut call["function"]["arguments"];
        if let Some(text) = arguments.as_str() {
            *arguments =
                serde_json::from_str(text).map_err(|e| format!("the arguments of a tool call are not JSON: {e}"))?;
        }
    }
    let Some(parts) = message.get("content").and_then(Value::as_array) else { return Ok(()) };
    let (mut text, mut images) = (String::new(), Vec::new());
    for part in parts {
        if let Some(more) = part["text"].as_str() {
            text.push_str(more);
        } else if let Some((_, data)) = prompt::image_url(part).and_then(prompt::data_url) {
            images.push(Value::from(data));
        } else {
            return Err("--backend ollama takes text, and images as `data:` URLs: use --backend openai-chat".into());
        }
    }
    message["content"] = text.into();
    if !images.is_empty() {
        message["images"] = images.into();
    }
    Ok(())
}

const SAMPLING_NAMES: &[(&str, &str)] = &[
    ("temperature", "temperature"),
    ("top_p", "top_p"),
    ("top_k", "top_k"),
    ("min_p", "min_p"),
    ("frequency_penalty", "frequency_penalty"),
    ("presence_penalty", "presence_penalty"),
    ("repetition_penalty", "repeat_penalty"),
    ("logprobs", "logprobs"),
    ("seed", "seed"),
    ("stop", "stop"),
];

lenient_fields! {
    /// A line, or a non-streaming response.
    struct OllamaLine<'a> {
        "message" => message: Nested<OllamaMessage<'a>>,
        "done" => done: Flag,
        "done_reason" => done_reason: Text<'a>,
        "prompt_eval_count" => prompt_eval_count: Count,
        "eval_count" => eval_count: Count,
        "error" => error: Filled,
    }
}

lenient_fields! {
    /// The new part of the answer.
    struct OllamaMessage<'a> {
        "content" => content: Content<'a>,
        "thinking" => thinking: Text<'a>,
        "tool_calls" => tool_calls: Raw<'a>,
    }
}

impl<'a> OllamaMessage<'a> {
    /// What the model generated.
    fn into_output(self) -> ChoiceDelta<'a> {
        let (text, thinking) = (self.content.answer.unwrap_or_default(), self.thinking.0.unwrap_or_default());
        let calls = call_text(self.tool_calls);
        match (is_filled(self.tool_calls), text.is_empty() && !thinking.is_empty()) {
            (true, _) => ChoiceDelta {
                kind: OutputKind::ToolCall,
                text,
                more: join_texts(thinking, calls),
                ..ChoiceDelta::default()
            },
            (false, true) => ChoiceDelta { kind: OutputKind::Reasoning, text: thinking, ..ChoiceDelta::default() },
            (false, false) => ChoiceDelta { text, more: thinking, ..ChoiceDelta::default() },
        }
    }
}

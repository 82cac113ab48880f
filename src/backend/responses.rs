//! OpenAI responses: `/v1/responses`. A request, and events of its response:
//!
//! ```text
//! {"model":"m","input":"hi","max_output_tokens":16,"stream":true,"store":false}
//!
//! event: response.output_text.delta
//! data: {"delta":" there","output_index":0,"sequence_number":4,"type":"response.output_text.delta", …}
//!
//! event: response.completed
//! data: {"response":{"status":"completed","usage":{"input_tokens":9,"output_tokens":2, …}, …}, …}
//! ```

use std::borrow::Cow;

use serde_json::{Value, json};

use super::{
    Api, Backend, ChoiceDelta, Delta, OutputKind, PromptForm, ReadError, Usage,
    completions::set_output_limit,
    lenient::{Content, Filled, List, Nested, Raw, Text, lenient_fields},
    prompt, read_fields,
    tool_calls::{arguments_text, join_texts},
    usage::UsageFields,
};
use crate::{
    http::{error_text::error_message, sse::SseEvent},
    record::{ContentForm, Object, SampleRequest},
};

pub static BACKEND: Backend = Backend {
    name: "openai-responses",
    aliases: &[],
    about: "OpenAI responses",
    prompt_forms: &[PromptForm::Chat, PromptForm::Media],
    needs: "messages or text",
    token_counts: "`usage` in the last event",
    checked_against: "vLLM, llama.cpp, Dynamo, LiteLLM, SGLang, transformers",
    api: Some(&ResponsesApi),
};

#[derive(Debug)]
struct ResponsesApi;

impl Api for ResponsesApi {
    fn endpoint_path(&self, _stream: bool) -> &'static str {
        "/v1/responses"
    }

    fn request_body(&self, request: &SampleRequest, model: &str, stream: bool) -> Result<Object, String> {
        let mut body = Object::from_iter([("model".into(), model.into()), ("input".into(), input_value(request)?)]);
        set_output_limit(&mut body, "max_output_tokens", request);
        body.insert("stream".into(), stream.into());
        // The responses are not retrieved later, so the server need not store them.
        body.insert("store".into(), false.into());
        Ok(body)
    }

    fn copied_forms(&self) -> &'static [ContentForm] {
        &[ContentForm::Text]
    }

    fn adapt_body(&self, body: &mut Object) {
        // `logprobs` is a number in completions; here it takes a number and an entry in `include`.
        if let Some(count) = body.remove("logprobs") {
            body.entry("top_logprobs").or_insert(count);
            let include = body.entry("include").or_insert_with(|| json!([]));
            include.as_array_mut().into_iter().for_each(|list| list.push("message.output_text.logprobs".into()));
        }
    }

    fn read_event<'a>(&self, event: SseEvent<'a>) -> Result<Delta<'a>, ReadError> {
        let message: ResponseEvent = read_fields(event.data)?;
        let kind = message.kind.0.as_deref().map_or(event.name, str::as_bytes);
        let mut delta = Delta::default();
        match kind {
            b"response.output_text.delta" | b"response.refusal.delta" => {
                delta.choices.push(message.delta.into_choice(OutputKind::Answer));
            }
            b"response.reasoning_text.delta" | b"response.reasoning_summary_text.delta" => {
                delta.choices.push(message.delta.into_choice(OutputKind::Reasoning));
            }
            b"response.function_call_arguments.delta"
            | b"response.mcp_call_arguments.delta"
            | b"response.custom_tool_call_input.delta"
            | b"response.code_interpreter_call_code.delta" => {
                // Its text is not part of the answer; an empty one only opens the call.
                let called = message.delta.answer.filter(|text| !text.is_empty());
                let choice = |more| ChoiceDelta { kind: OutputKind::ToolCall, more, ..ChoiceDelta::default() };
                delta.choices.extend(called.map(choice));
            }
            // The name of a tool is generated, but its arguments show when.
            b"response.output_item.added" => {
                let more = message.item.0.and_then(|item| item.name.0).unwrap_or_default();
                delta.choices.push(ChoiceDelta { more, opens: true, ..ChoiceDelta::default() });
            }
            b"response.completed" | b"response.incomplete" | b"response.failed" | b"response.cancelled" => {
                match message.response.0 {
                    Some(response) => return Ok(response.final_delta(event.data)),
                    None => return Err(ReadError::lacks("response")),
                }
            }
            _ if kind == b"error" || message.error.0 => delta.error = Some(error_message(event.data)),
            b"" => return Err(ReadError::lacks("type")),
            // The start and end of items, and their complete text.
            _ => {}
        }
        Ok(delta)
    }

    fn read_response<'a>(&self, body: &'a [u8]) -> Result<Delta<'a>, ReadError> {
        let response: Response = read_fields(body)?;
        if !response.error.0 && response.output.0.is_none() && response.status.as_str().is_empty() {
            return Err(ReadError::Shape("it has neither `output` nor `status`".into()));
        }
        let items = || response.output.0.iter().flatten();
        let texts: String = items().flat_map(OutputItem::answer_parts).map(|part| part.text.as_str()).collect();
        let more = items().flat_map(OutputItem::other_texts).fold(Cow::default(), join_texts).into_owned();
        let calls = items().any(|item| item.kind.as_str().ends_with("_call"));
        let thinks = items().any(|item| item.kind.as_str() == "reasoning");
        let mut delta = response.final_delta(body);
        let kind = match (texts.is_empty(), calls, thinks) {
            (true, true, _) => OutputKind::ToolCall,
            (true, false, true) => OutputKind::Reasoning,
            _ => OutputKind::Answer,
        };
        if let Some(choice) = delta.choices.first_mut() {
            (choice.text, choice.kind, choice.more) = (texts.into(), kind, more.into());
        }
        Ok(delta)
    }
}

/// Text as a string; messages with their content parts under this API's names.
fn input_value(request: &SampleRequest) -> Result<Value, String> {
    if request.messages.is_none() && request.multi_modal_data.is_none() {
        return prompt::single_text(request, BACKEND.name).map(Value::from);
    }
    let mut messages = prompt::chat_messages(request)?;
    prompt::reject_tool_calls(&messages, BACKEND.name)?;
    for message in &mut messages {
        // llama.cpp rejects an assistant's message without it.
        if let Value::Object(message) = message {
            message.entry("type").or_insert_with(|| "message".into());
        }
        let name = if message["role"] == "assistant" { "output_text" } else { "input_text" };
        prompt::map_parts(std::slice::from_mut(message), |part| {
            match (part["text"].as_str(), prompt::image_url(part)) {
                (Some(text), _) => json!({"type": name, "text": text}),
                (None, Some(url)) => json!({"type": "input_image", "image_url": url, "detail": "auto"}),
                _ => part.clone(),
            }
        });
    }
    Ok(messages.into())
}

lenient_fields! {
    /// An event.
    struct ResponseEvent<'a> {
        "type" => kind: Text<'a>,
        "delta" => delta: Content<'a>,
        "item" => item: Nested<OutputItem<'a>>,
        "response" => response: Nested<Response<'a>>,
        "error" => error: Filled,
    }
}

lenient_fields! {
    /// A whole response.
    struct Response<'a> {
        "status" => status: Text<'a>,
        "error" => error: Filled,
        "incomplete_details" => incomplete_details: Nested<IncompleteDetails<'a>>,
        "output" => output: List<OutputItem<'a>>,
        "usage" => usage: UsageFields,
    }
}

lenient_fields! {
    /// Why a response is incomplete.
    struct IncompleteDetails<'a> {
        "reason" => reason: Text<'a>,
    }
}

lenient_fields! {
    /// A message, a tool call, or reasoning.
    struct OutputItem<'a> {
        "type" => kind: Text<'a>,
        "content" => content: List<OutputContent<'a>>,
        "summary" => summary: List<OutputContent<'a>>,
        "name" => name: Text<'a>,
        "arguments" | "input" => arguments: Raw<'a>,
    }
}

lenient_fields! {
    /// A part of a message.
    struct OutputContent<'a> {
        "type" => kind: Text<'a>,
        "text" | "refusal" => text: Text<'a>,
    }
}

impl OutputContent<'_> {
    fn is_answer(&self) -> bool {
        matches!(self.kind.as_str(), "output_text" | "refusal")
    }
}

impl<'a> OutputItem<'a> {
    /// The parts that belong to the answer.
    fn answer_parts(&self) -> impl Iterator<Item = &OutputContent<'a>> {
        self.content.0.iter().flatten().filter(|part| part.is_answer())
    }

    /// What was generated besides the answer: reasoning, or else its summary, and the names and arguments of calls.
    fn other_texts(&self) -> impl Iterator<Item = Cow<'_, str>> {
        let reasoning = self.content.0.as_ref().or(self.summary.0.as_ref()).into_iter().flatten();
        let reasoning = reasoning.filter(|part| !part.is_answer()).map(|part| part.text.as_str().into());
        reasoning.chain([self.name.as_str().into(), arguments_text(self.arguments)])
    }
}

impl<'a> Content<'a> {
    /// A choice with its text.
    fn into_choice(self, kind: OutputKind) -> ChoiceDelta<'a> {
        ChoiceDelta { text: self.answer.unwrap_or_default(), kind, ..ChoiceDelta::default() }
    }
}

impl Response<'_> {
    /// The final delta: usage, finish reason and error. `bytes` is the JSON that holds this response.
    fn final_delta<'a>(&self, bytes: &[u8]) -> Delta<'a> {
        let status = self.status.as_str();
        let error = match status {
            _ if self.error.0 => Some(error_message(bytes)),
            "" | "completed" | "incomplete" => None,
            "failed" => Some(error_message(bytes)),
            status => Some(format!("the response is {status}, not completed")),
        };
        let reason = self.incomplete_details.0.as_ref().map_or("", |details| details.reason.as_str());
        let finish = match reason {
            // The name in OpenAI's other APIs.
            "max_output_tokens" => "length".into(),
            "" if status == "incomplete" => "length".into(),
            "" => "stop".into(),
            reason => reason.to_owned(),
        };
        let usage = Usage::from(self.usage);
        let choice = ChoiceDelta { finish: Some(finish.into()), ..ChoiceDelta::default() };
        Delta { choices: [choice].into_iter().collect(), usage, done: true, error, ..Delta::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_response_is_an_error() {
        for (status, error) in [
            ("queued", Some("the response is queued, not completed")),
            ("in_progress", Some("the response is in_progress, not completed")),
            ("cancelled", Some("the response is cancelled, not completed")),
            ("completed", None),
            ("incomplete", None),
        ] {
            let body = format!(r#"{{"status":"{status}","output":[]}}"#);
            assert_eq!(ResponsesApi.read_response(body.as_bytes()).unwrap().error.as_deref(), error, "{status}");
            let data = format!(r#"{{"type":"response.cancelled","response":{body}}}"#);
            let message = ResponsesApi.read_event(SseEvent { name: b"", data: data.as_bytes() }).unwrap();
            assert_eq!(message.error.as_deref(), error, "{status}");
        }
    }

    #[test]
    fn messages_have_the_type_that_llama_cpp_requires() {
        let request = serde_json::from_str(
            r#"{"messages":[{"role":"user","content":"hi"},
            {"role":"assistant","content":"ho"},{"type":"message","role":"user","content":"more"}]}"#,
        );
        let input = input_value(&request.unwrap()).unwrap();
        assert!(input.as_array().unwrap().iter().all(|message| message["type"] == "message"), "{input}");
    }

    #[test]
    fn events_are_read_by_their_type() {
        let read = |name: &'static str, data: &'static str| {
            ResponsesApi.read_event(SseEvent { name: name.as_bytes(), data: data.as_bytes() })
        };
        let text = read("message", r#"{"type":"response.output_text.delta","delta":"a"}"#).unwrap();
        assert_eq!(text.choices[0].text, "a");
        let named = read("response.output_text.delta", r#"{"delta":"a"}"#).unwrap();
        assert_eq!(named, text);
        let other = read("", r#"{"type":"response.reasoning.delta","delta":{"text":"a"}}"#).unwrap();
        assert_eq!(other, Delta::default());
        let part = read("", r#"{"type":"response.output_text.delta","delta":{"type":"text","text":"a"}}"#).unwrap();
        assert_eq!(part, text);
        assert_eq!(read("", r#"{"choices":[]}"#), Err(ReadError::lacks("type")));
    }

    #[test]
    fn zero_counts_are_reported() {
        let body = br#"{"status":"completed","usage":{"input_tokens":1,"output_tokens":2,
            "input_tokens_details":{"cached_tokens":0},"output_tokens_details":{"reasoning_tokens":0}}}"#;
        let usage = ResponsesApi.read_response(body).unwrap().usage;
        assert_eq!((usage.cached_tokens, usage.reasoning_tokens), (Some(0), Some(0)));
    }
}

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

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    Api, Backend, BorrowedText, ChoiceDelta, Delta, OutputKind, PromptForm, Usage, completions::set_output_limit,
    parse, prompt, tool_calls::join_texts, usage::UsageFields,
};
use crate::{
    http::{exchange::error_message, sse::SseEvent},
    record::{Object, SampleRequest},
};

pub static BACKEND: Backend = Backend {
    name: "openai-responses",
    aliases: &[],
    about: "OpenAI responses",
    prompt_forms: &[PromptForm::Chat, PromptForm::Media],
    needs: "messages or text",
    token_counts: "`usage` in the last event",
    checked_against: "vLLM 0.32",
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

    fn adapt_body(&self, body: &mut Object) {
        // `logprobs` is a number in completions; here it takes a number and an entry in `include`.
        if let Some(count) = body.remove("logprobs") {
            body.entry("top_logprobs").or_insert(count);
            let include = body.entry("include").or_insert_with(|| json!([]));
            include.as_array_mut().into_iter().for_each(|list| list.push("message.output_text.logprobs".into()));
        }
    }

    fn read_event<'a>(&self, event: SseEvent<'a>) -> Result<Delta<'a>, String> {
        let message: ResponseEvent = parse(event.data)?;
        let kind = if message.kind.is_empty() { event.name } else { message.kind.as_bytes() };
        let mut delta = Delta::default();
        match kind {
            b"response.output_text.delta" | b"response.refusal.delta" => {
                delta.choices.push(message.text_choice(OutputKind::Answer)?);
            }
            b"response.reasoning_text.delta" | b"response.reasoning_summary_text.delta" => {
                delta.choices.push(message.text_choice(OutputKind::Reasoning)?);
            }
            b"response.function_call_arguments.delta"
            | b"response.mcp_call_arguments.delta"
            | b"response.custom_tool_call_input.delta"
            | b"response.code_interpreter_call_code.delta" => delta.choices.extend(message.tool_call_choice()?),
            // The name of a tool is generated, but its arguments show when.
            b"response.output_item.added" => {
                let more = message.item.map(|item| item.name).unwrap_or_default();
                delta.choices.push(ChoiceDelta { more, opens: true, ..ChoiceDelta::default() });
            }
            b"response.completed" | b"response.incomplete" | b"response.failed" | b"response.cancelled" => {
                match message.response {
                    Some(response) => return Ok(response.final_delta(event.data)),
                    None => return Err("it has no `response`".into()),
                }
            }
            _ if kind == b"error" || message.error.is_some() => delta.error = Some(error_message(event.data)),
            // The start and end of items, and their complete text.
            _ => {}
        }
        Ok(delta)
    }

    fn read_response<'a>(&self, body: &'a [u8]) -> Result<Delta<'a>, String> {
        let response: Response = parse(body)?;
        if response.error.is_none() && response.output.is_empty() && response.status.is_empty() {
            return Err("it has neither `output` nor `status`".into());
        }
        let texts: String = response.output.iter().flat_map(OutputItem::answer_parts).map(|part| &*part.text).collect();
        let more = response.output.iter().flat_map(OutputItem::other_texts).fold(Cow::default(), join_texts);
        let more = more.into_owned();
        let calls = response.output.iter().any(|item| item.kind.ends_with("_call"));
        let thinks = response.output.iter().any(|item| item.kind == "reasoning");
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

#[derive(Deserialize)]
struct ResponseEvent<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Cow<'a, str>,
    /// A string, in the events that are read here.
    #[serde(borrow, default)]
    delta: Option<&'a RawValue>,
    #[serde(borrow, default)]
    item: Option<OutputItem<'a>>,
    #[serde(borrow, default)]
    response: Option<Response<'a>>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Response<'a> {
    #[serde(borrow, default)]
    status: Cow<'a, str>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(default)]
    incomplete_details: Option<IncompleteDetails>,
    #[serde(borrow, default)]
    output: Vec<OutputItem<'a>>,
    #[serde(default)]
    usage: UsageFields,
}

#[derive(Deserialize)]
struct IncompleteDetails {
    reason: Option<String>,
}

#[derive(Deserialize)]
struct OutputItem<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    content: Option<Vec<OutputContent<'a>>>,
    #[serde(borrow, default)]
    summary: Option<Vec<OutputContent<'a>>>,
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default, alias = "input")]
    arguments: Option<&'a RawValue>,
}

impl<'a> OutputItem<'a> {
    /// The parts that belong to the answer.
    fn answer_parts(&self) -> impl Iterator<Item = &OutputContent<'a>> {
        self.content.iter().flatten().filter(|part| part.is_answer())
    }

    /// What was generated besides the answer: reasoning, or else its summary, and the names and arguments of calls.
    fn other_texts(&self) -> impl Iterator<Item = Cow<'a, str>> {
        let reasoning = if self.content.is_some() { &self.content } else { &self.summary };
        let reasoning = reasoning.iter().flatten().filter(|part| !part.is_answer()).map(|part| part.text.clone());
        let arguments = self.arguments.map(|raw| match parse::<BorrowedText>(raw.get().as_bytes()) {
            Ok(BorrowedText(text)) => text,
            Err(_) => raw.get().into(),
        });
        reasoning.collect::<Vec<_>>().into_iter().chain([self.name.clone()]).chain(arguments)
    }
}

#[derive(Deserialize)]
struct OutputContent<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default, alias = "refusal")]
    text: Cow<'a, str>,
}

impl OutputContent<'_> {
    fn is_answer(&self) -> bool {
        matches!(&*self.kind, "output_text" | "refusal")
    }
}

impl<'a> ResponseEvent<'a> {
    fn delta_text(&self) -> Result<Cow<'a, str>, String> {
        let Some(raw) = self.delta else { return Ok(Cow::default()) };
        let BorrowedText(text) = parse(raw.get().as_bytes())?;
        Ok(text)
    }

    fn text_choice(&self, kind: OutputKind) -> Result<ChoiceDelta<'a>, String> {
        Ok(ChoiceDelta { text: self.delta_text()?, kind, ..ChoiceDelta::default() })
    }

    /// The delta of a tool call, whose text is not part of the answer; `None` if it only opens the call.
    fn tool_call_choice(&self) -> Result<Option<ChoiceDelta<'a>>, String> {
        let more = self.delta_text()?;
        Ok((!more.is_empty()).then(|| ChoiceDelta { kind: OutputKind::ToolCall, more, ..ChoiceDelta::default() }))
    }
}

impl Response<'_> {
    /// The final delta: usage, finish reason and error. `bytes` is the JSON that holds this response.
    fn final_delta<'a>(&self, bytes: &[u8]) -> Delta<'a> {
        let error = match (self.error, &*self.status) {
            (Some(error), _) => Some(error_message(error.get().as_bytes())),
            (None, "" | "completed" | "incomplete") => None,
            (None, "failed") => Some(error_message(bytes)),
            (None, status) => Some(format!("the response is {status}, not completed")),
        };
        let reason = self.incomplete_details.as_ref().and_then(|details| details.reason.clone());
        let finish = match reason.as_deref() {
            // The name in OpenAI's other APIs.
            Some("max_output_tokens") => "length".into(),
            Some(reason) => reason.to_owned(),
            None if self.status == "incomplete" => "length".into(),
            None => "stop".into(),
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
        assert!(read("", r#"{"type":"response.output_text.delta","delta":{"text":"a"}}"#).is_err());
    }

    #[test]
    fn zero_counts_are_reported() {
        let body = br#"{"status":"completed","usage":{"input_tokens":1,"output_tokens":2,
            "input_tokens_details":{"cached_tokens":0},"output_tokens_details":{"reasoning_tokens":0}}}"#;
        let usage = ResponsesApi.read_response(body).unwrap().usage;
        assert_eq!((usage.cached_tokens, usage.reasoning_tokens), (Some(0), Some(0)));
    }
}

//! OpenAI's responses: `/v1/responses`. A request, and events of its reply:
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

use super::{Api, Choice, Delta, Part, Usage, completions::limit, parse, prompt};
use crate::{
    http::{exchange::error_message, sse::Event},
    record::{Object, SampleRequest},
};

/// The API.
#[derive(Debug)]
pub struct Responses;

impl Api for Responses {
    fn endpoint(&self, _stream: bool) -> &'static str {
        "/v1/responses"
    }

    fn body(&self, request: &SampleRequest, model: &str, stream: bool) -> Result<Object, String> {
        let mut body = Object::from_iter([("model".into(), model.into()), ("input".into(), input(request)?)]);
        limit(&mut body, "max_output_tokens", request);
        body.insert("stream".into(), stream.into());
        // Answers that nobody asks for again need not be kept.
        body.insert("store".into(), false.into());
        Ok(body)
    }

    fn arrange(&self, body: &mut Object) {
        // A completion's `logprobs` is a number; here they are asked for in two places.
        if let Some(count) = body.remove("logprobs") {
            body.entry("top_logprobs").or_insert(count);
            let include = body.entry("include").or_insert_with(|| json!([]));
            include.as_array_mut().into_iter().for_each(|list| list.push("message.output_text.logprobs".into()));
        }
    }

    fn read<'a>(&self, event: Event<'a>) -> Result<Delta<'a>, String> {
        let told: Told = parse(event.data)?;
        let kind = if event.name.is_empty() { told.kind.as_bytes() } else { event.name };
        let mut delta = Delta::default();
        match kind {
            b"response.output_text.delta" | b"response.refusal.delta" => delta.choices.push(told.piece(Part::Answer)),
            b"response.reasoning_text.delta" | b"response.reasoning_summary_text.delta" => {
                delta.choices.push(told.piece(Part::Reasoning));
            }
            b"response.function_call_arguments.delta"
            | b"response.mcp_call_arguments.delta"
            | b"response.custom_tool_call_input.delta"
            | b"response.code_interpreter_call_code.delta" => delta.choices.extend(told.call()),
            b"response.completed" | b"response.incomplete" | b"response.failed" => match told.response {
                Some(response) => return Ok(response.end(event.data)),
                None => return Err("it has no `response`".into()),
            },
            _ if kind == b"error" || told.error.is_some() => delta.error = Some(error_message(event.data)),
            // That something begins or ends, and its text once more.
            _ => {}
        }
        Ok(delta)
    }

    fn whole<'a>(&self, body: &'a [u8]) -> Result<Delta<'a>, String> {
        let response: Response = parse(body)?;
        if response.error.is_none() && response.output.is_empty() && response.status.is_empty() {
            return Err("it has neither `output` nor `status`".into());
        }
        let texts: String = response.output.iter().flat_map(|item| &item.content).map(|part| &*part.text).collect();
        let calls = response.output.iter().any(|item| item.kind.ends_with("_call"));
        let thinks = response.output.iter().any(|item| item.kind == "reasoning");
        let mut delta = response.end(body);
        let part = match (texts.is_empty(), calls, thinks) {
            (true, true, _) => Part::Call,
            (true, false, true) => Part::Reasoning,
            _ => Part::Answer,
        };
        if let Some(choice) = delta.choices.first_mut() {
            (choice.text, choice.part) = (texts.into(), part);
        }
        Ok(delta)
    }
}

/// A text as it is; messages with their parts under this API's names.
fn input(request: &SampleRequest) -> Result<Value, String> {
    if request.messages.is_none() && request.multi_modal_data.is_none() {
        return prompt::text(request, "openai-responses").map(Value::from);
    }
    let mut messages = prompt::messages(request)?;
    for message in &mut messages {
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
struct Told<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    delta: Cow<'a, str>,
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
    incomplete_details: Option<Incomplete>,
    #[serde(borrow, default)]
    output: Vec<Item<'a>>,
    #[serde(default)]
    usage: Option<Counts>,
}

#[derive(Deserialize)]
struct Incomplete {
    reason: Option<String>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default, deserialize_with = "content")]
    content: Vec<Content<'a>>,
}

#[derive(Deserialize)]
struct Content<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default, alias = "refusal")]
    text: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Counts {
    input_tokens: Option<u32>,
    output_tokens: Option<u32>,
    input_tokens_details: Option<Details>,
    output_tokens_details: Option<Details>,
}

#[derive(Deserialize)]
struct Details {
    cached_tokens: Option<u32>,
    reasoning_tokens: Option<u32>,
}

/// The parts of an item that are of the answer; an item may have none.
fn content<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Content<'de>>, D::Error> {
    let all = Option::<Vec<Content<'de>>>::deserialize(from)?.unwrap_or_default();
    Ok(all.into_iter().filter(|part| matches!(&*part.kind, "output_text" | "refusal")).collect())
}

impl<'a> Told<'a> {
    fn piece(&self, part: Part) -> Choice<'a> {
        Choice { text: self.delta.clone(), part, ..Choice::default() }
    }

    /// A piece of a call, whose text is not the answer's; `None`: it opens one.
    fn call(&self) -> Option<Choice<'a>> {
        (!self.delta.is_empty()).then(|| Choice { part: Part::Call, ..Choice::default() })
    }
}

impl Response<'_> {
    /// What the end of a response says; `said` are the bytes that it stands in.
    fn end<'a>(&self, said: &[u8]) -> Delta<'a> {
        let failed = matches!(&*self.status, "failed" | "cancelled") || self.error.is_some();
        let error = failed.then(|| error_message(self.error.map_or(said, |error| error.get().as_bytes())));
        let reason = self.incomplete_details.as_ref().and_then(|details| details.reason.clone());
        let finish = match reason.as_deref() {
            // As the other APIs of OpenAI name it.
            Some("max_output_tokens") => "length".into(),
            Some(reason) => reason.to_owned(),
            None if self.status == "incomplete" => "length".into(),
            None => "stop".into(),
        };
        let usage = self.usage.as_ref().map_or_else(Usage::default, |counts| Usage {
            prompt_tokens: counts.input_tokens,
            completion_tokens: counts.output_tokens,
            cached_tokens: counts.input_tokens_details.as_ref().and_then(|d| d.cached_tokens).filter(|n| *n > 0),
            reasoning_tokens: counts.output_tokens_details.as_ref().and_then(|d| d.reasoning_tokens).filter(|n| *n > 0),
        });
        let choice = Choice { finish: Some(finish.into()), ..Choice::default() };
        Delta { choices: [choice].into_iter().collect(), usage, done: true, error, ..Delta::default() }
    }
}

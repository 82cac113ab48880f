//! Ollama's chats: `/api/chat`, a JSON object a line. A request, and lines of its reply:
//!
//! ```json
//! {"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true,"options":{"num_predict":16}}
//! {"model":"m","created_at":"…","message":{"role":"assistant","content":" there"},"done":false}
//! {"model":"m","created_at":"…","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","prompt_eval_count":9,"eval_count":2}
//! ```

use std::borrow::Cow;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, value::RawValue};

use super::{Api, Choice, Delta, Part, Text, Usage, completions::limit, move_into, parse, prompt};
use crate::{
    http::{
        exchange::{Cut, error_message},
        sse::Event,
    },
    record::{Object, SampleRequest},
};

/// The API.
#[derive(Debug)]
pub struct Ollama;

impl Api for Ollama {
    fn endpoint(&self, _stream: bool) -> &'static str {
        "/api/chat"
    }

    fn body(&self, request: &SampleRequest, model: &str, stream: bool) -> Result<Object, String> {
        let mut messages = prompt::messages(request)?;
        messages.iter_mut().for_each(plain);
        let mut options = Object::new();
        limit(&mut options, "num_predict", request);
        Ok(Object::from_iter([
            ("model".into(), model.into()),
            ("messages".into(), messages.into()),
            ("stream".into(), stream.into()),
            ("options".into(), options.into()),
        ]))
    }

    fn sampling(&self) -> Option<&'static str> {
        Some("options")
    }

    fn arrange(&self, body: &mut Object) {
        move_into(body, "options", &["seed"]);
    }

    fn cut(&self, stream: bool) -> Cut {
        if stream { Cut::Lines } else { Cut::Whole }
    }

    fn read<'a>(&self, event: Event<'a>) -> Result<Delta<'a>, String> {
        let told: Told = parse(event.data)?;
        if told.error.is_some() {
            return Ok(Delta { error: Some(error_message(event.data)), ..Delta::default() });
        }
        let message = told.message.ok_or("it has no `message`")?;
        let usage =
            Usage { prompt_tokens: told.prompt_eval_count, completion_tokens: told.eval_count, ..Usage::default() };
        let (part, text) = match message {
            Message { tool_calls: Some(calls), .. } if !calls.is_empty() => (Part::Call, Cow::default()),
            Message { content, thinking: Some(Text(thinking)), .. } if content.is_empty() => {
                (Part::Reasoning, thinking)
            }
            Message { content, .. } => (Part::Answer, content),
        };
        let finish = told.done.then(|| told.done_reason.unwrap_or_else(|| "stop".into()));
        let choice = Choice { text, part, finish, ..Choice::default() };
        Ok(Delta { choices: [choice].into_iter().collect(), usage, done: told.done, ..Delta::default() })
    }

    fn whole<'a>(&self, body: &'a [u8]) -> Result<Delta<'a>, String> {
        self.read(Event { name: b"", data: body })
    }
}

/// Content parts as this API has them: one text, and the images beside it.
fn plain(message: &mut Value) {
    let Some(parts) = message.get("content").and_then(Value::as_array) else { return };
    let texts: Vec<&str> = parts.iter().filter_map(|part| part["text"].as_str()).collect();
    let images = parts.iter().filter_map(prompt::image_url).filter_map(prompt::data_url);
    let images: Vec<&str> = images.map(|(_, data)| data).collect();
    let (text, images) = (Value::from(texts.concat()), Value::from(images));
    message["content"] = text;
    if images.as_array().is_some_and(|list| !list.is_empty()) {
        message["images"] = images;
    }
}

#[derive(Deserialize)]
struct Told<'a> {
    #[serde(borrow, default)]
    message: Option<Message<'a>>,
    #[serde(default)]
    done: bool,
    #[serde(borrow, default)]
    done_reason: Option<Cow<'a, str>>,
    prompt_eval_count: Option<u32>,
    eval_count: Option<u32>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    content: Cow<'a, str>,
    #[serde(borrow, default)]
    thinking: Option<Text<'a>>,
    #[serde(default)]
    tool_calls: Option<Vec<IgnoredAny>>,
}

//! Hugging Face's Text Generation Inference: `/generate_stream` and `/generate`. A request, and events of its response:
//!
//! ```text
//! {"inputs":"hi","parameters":{"max_new_tokens":16,"details":true},"stream":true}
//!
//! data: {"index":1,"token":{"id":612,"text":" there","logprob":-0.4,"special":false},"generated_text":null,"details":null}
//! data: {"index":2,"token":{…},"generated_text":" there!","details":{"finish_reason":"length","generated_tokens":2,"input_length":3}}
//! ```
//!
//! Each event is one token. The last has the complete text; `[DONE]` is not sent.

use std::borrow::Cow;

use serde_json::Value;

use super::{
    Api, Backend, ChoiceDelta, Delta, PromptForm, ReadError, SamplingKeys, Usage,
    completions::set_output_limit,
    lenient::{Count, Filled, Flag, Nested, Text, lenient_fields},
    prompt, read_fields,
    sampling::wrap_in_list,
};
use crate::{
    http::{error_text::error_message, sse::SseEvent},
    record::{ContentForm, Object, SampleRequest},
};

pub static BACKEND: Backend = Backend {
    name: "tgi",
    aliases: &[],
    about: "Text Generation Inference",
    prompt_forms: &[PromptForm::Text],
    needs: "text",
    token_counts: "`details` of the last event; a non-streaming response does not count the prompt",
    checked_against: "no server: responses made by hand",
    api: Some(&TgiApi),
};

#[derive(Debug)]
struct TgiApi;

impl Api for TgiApi {
    fn endpoint_path(&self, stream: bool) -> &'static str {
        if stream { "/generate_stream" } else { "/generate" }
    }

    fn request_body(&self, request: &SampleRequest, _model: &str, stream: bool) -> Result<Object, String> {
        let mut parameters = Object::new();
        set_output_limit(&mut parameters, "max_new_tokens", request);
        parameters.insert("details".into(), true.into());
        if let Some(adapter) = &request.lora {
            parameters.insert("adapter_id".into(), adapter.as_str().into());
        }
        Ok(Object::from_iter([
            ("inputs".into(), prompt::single_text(request, BACKEND.name)?.into()),
            ("parameters".into(), parameters.into()),
            ("stream".into(), stream.into()),
        ]))
    }

    fn copied_forms(&self) -> &'static [ContentForm] {
        &[ContentForm::Text]
    }

    fn sampling_keys(&self) -> SamplingKeys {
        SamplingKeys { object: Some("parameters"), names: Some(SAMPLING_NAMES) }
    }

    fn adapt_body(&self, body: &mut Object) {
        let Some(Value::Object(parameters)) = body.get_mut("parameters") else { return };
        // Values that disable a parameter elsewhere are out of range here. Without a temperature, decoding is greedy.
        let out_of_range = |name: &str, value: &Value| match (name, value.as_f64()) {
            ("temperature" | "top_k", Some(value)) => value <= 0.0,
            ("top_p", Some(value)) => value >= 1.0,
            _ => false,
        };
        parameters.retain(|name, value| !out_of_range(name, value));
        wrap_in_list(parameters.get_mut("stop"));
    }

    fn sends_model(&self) -> bool {
        false
    }

    fn read_event<'a>(&self, event: SseEvent<'a>) -> Result<Delta<'a>, ReadError> {
        let message: TgiEvent = read_fields(event.data)?;
        if message.error.0 {
            return Ok(Delta { error: Some(error_message(event.data)), ..Delta::default() });
        }
        let token = message.token.0.ok_or_else(|| ReadError::lacks("token"))?;
        let (finish, usage) = message.details.0.map_or_else(Default::default, TgiDetails::finish_and_usage);
        let choice = ChoiceDelta {
            text: if token.special.0 { Cow::default() } else { token.text.0.unwrap_or_default() },
            ids: 1,
            finish,
            ..ChoiceDelta::default()
        };
        Ok(Delta {
            choices: [choice].into_iter().collect(),
            usage,
            done: message.generated_text.0.is_some(),
            ..Delta::default()
        })
    }

    fn read_response<'a>(&self, body: &'a [u8]) -> Result<Delta<'a>, ReadError> {
        let message: TgiEvent = read_fields(body)?;
        if message.error.0 {
            return Ok(Delta { error: Some(error_message(body)), ..Delta::default() });
        }
        let text = message.generated_text.0.ok_or_else(|| ReadError::lacks("generated_text"))?;
        let (finish, usage) = message.details.0.map_or_else(Default::default, TgiDetails::finish_and_usage);
        let choice = ChoiceDelta { text, finish, ..ChoiceDelta::default() };
        Ok(Delta { choices: [choice].into_iter().collect(), usage, done: true, ..Delta::default() })
    }
}

const SAMPLING_NAMES: &[(&str, &str)] = &[
    ("temperature", "temperature"),
    ("top_p", "top_p"),
    ("top_k", "top_k"),
    ("frequency_penalty", "frequency_penalty"),
    ("repetition_penalty", "repetition_penalty"),
    ("logprobs", "top_n_tokens"),
    ("seed", "seed"),
    ("stop", "stop"),
];

lenient_fields! {
    /// An event, or a non-streaming response.
    struct TgiEvent<'a> {
        "token" => token: Nested<TgiToken<'a>>,
        "generated_text" => generated_text: Text<'a>,
        "details" => details: Nested<TgiDetails<'a>>,
        "error" => error: Filled,
    }
}

lenient_fields! {
    /// The token of an event.
    struct TgiToken<'a> {
        "text" => text: Text<'a>,
        "special" => special: Flag,
    }
}

lenient_fields! {
    /// How the output ended.
    struct TgiDetails<'a> {
        "finish_reason" => finish_reason: Text<'a>,
        "generated_tokens" => generated_tokens: Count,
        "input_length" => input_length: Count,
    }
}

impl<'a> TgiDetails<'a> {
    fn finish_and_usage(self) -> (Option<Cow<'a, str>>, Usage) {
        let usage = Usage {
            prompt_tokens: self.input_length.0,
            completion_tokens: self.generated_tokens.0,
            ..Usage::default()
        };
        let finish = self.finish_reason.filled().map(|reason| match &*reason {
            "eos_token" | "stop_sequence" => "stop".into(),
            _ => reason,
        });
        (finish, usage)
    }
}

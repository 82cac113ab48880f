//! `SGLang`'s native API: `/generate`. A request, and events of its response:
//!
//! ```text
//! {"text":"hi","sampling_params":{"max_new_tokens":16},"stream":true}
//!
//! data: {"text":" there","meta_info":{"finish_reason":null,"prompt_tokens":1,"completion_tokens":1,"cached_tokens":0}}
//! data: {"text":" there!","meta_info":{"finish_reason":{"type":"length","length":2},"prompt_tokens":1,"completion_tokens":2}}
//! data: [DONE]
//! ```
//!
//! Each event has all text so far, or only the new text if the server runs with `--incremental-streaming-output`, and the number of
//! tokens so far: so the tokens of each chunk are known. An error can end a stream as
//! `{"finish_reason":{"type":"abort","message":"…"}}`.

use std::borrow::Cow;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::{
    Api, Backend, BorrowedText, ChoiceDelta, DOCUMENTATION_ONLY, Delta, Payload, PromptForm, SamplingKeys, TextMode,
    Usage, completions::set_output_limit, delta::abort_error, encode_json, parse, prompt, sampling::take_nested,
    usage::Count,
};
use crate::{
    http::{exchange::error_message, sse::SseEvent},
    record::{Object, Prompt, SampleRequest},
};

pub static BACKEND: Backend = Backend {
    name: "sglang",
    aliases: &[],
    about: "SGLang's native API",
    prompt_forms: &[PromptForm::Text, PromptForm::TokenIds],
    needs: "text or token ids",
    token_counts: "`meta_info` of each event",
    checked_against: DOCUMENTATION_ONLY,
    api: Some(&SglangApi),
};

#[derive(Debug)]
struct SglangApi;

impl Api for SglangApi {
    fn endpoint_path(&self, _stream: bool) -> &'static str {
        "/generate"
    }

    fn request_body(&self, request: &SampleRequest, _model: &str, stream: bool) -> Result<Object, String> {
        let prompt = prompt::single_prompt(request)?;
        let key = if matches!(prompt, Prompt::Text(_)) { "text" } else { "input_ids" };
        let mut params = Object::new();
        set_output_limit(&mut params, "max_new_tokens", request);
        let mut body = Object::from_iter([
            (key.into(), prompt::any_prompt(request)?),
            ("sampling_params".into(), params.into()),
            ("stream".into(), stream.into()),
        ]);
        if let Some(adapter) = &request.lora {
            body.insert("lora_path".into(), adapter.as_str().into());
        }
        Ok(body)
    }

    fn sampling_keys(&self) -> SamplingKeys {
        SamplingKeys { object: Some("sampling_params"), names: Some(SAMPLING_NAMES) }
    }

    fn adapt_body(&self, body: &mut Object) {
        if let Some(count) = take_nested(body, "sampling_params", "logprobs") {
            body.insert("return_logprob".into(), true.into());
            body.insert("top_logprobs_num".into(), count);
        }
    }

    fn encode_body(&self, body: &Object, _request: &SampleRequest) -> Result<Payload, String> {
        let outputs = body.get("sampling_params").and_then(|params| params["n"].as_u64());
        if outputs > Some(1) {
            return Err("--backend sglang mixes `n` outputs in one stream: use --backend openai".into());
        }
        encode_json(body)
    }

    fn sends_model(&self) -> bool {
        false
    }

    fn read_event<'a>(&self, event: SseEvent<'a>) -> Result<Delta<'a>, String> {
        let message: SglangEvent = parse(event.data)?;
        if message.error.is_some() {
            return Ok(Delta { error: Some(error_message(event.data)), ..Delta::default() });
        }
        let meta = message.meta_info.ok_or("it has no `meta_info`")?;
        if let Some(FinishReason { kind, message }) = &meta.finish_reason
            && let Some(error) = abort_error(kind)
        {
            let error = message.as_ref().map_or(error, |text| text.0.to_string());
            return Ok(Delta { error: Some(error), ..Delta::default() });
        }
        let usage = Usage {
            prompt_tokens: meta.prompt_tokens.0,
            completion_tokens: meta.completion_tokens.0,
            cached_tokens: meta.cached_tokens.0,
            reasoning_tokens: meta.reasoning_tokens.0,
            ..Usage::default()
        };
        // With `--incremental-streaming-output` texts and ids are both incremental; older servers send new ids and all text.
        let new_ids_only =
            message.output_ids.is_some_and(|ids| meta.completion_tokens.0 > u32::try_from(ids.len()).ok());
        let text_mode = if new_ids_only { TextMode::Either } else { TextMode::Cumulative };
        let choice = ChoiceDelta {
            text: message.text,
            finish: meta.finish_reason.map(|reason| reason.kind),
            ..ChoiceDelta::default()
        };
        Ok(Delta { choices: [choice].into_iter().collect(), usage, text_mode, ..Delta::default() })
    }

    fn read_response<'a>(&self, body: &'a [u8]) -> Result<Delta<'a>, String> {
        let delta = self.read_event(SseEvent { name: b"", data: body })?;
        Ok(Delta { done: true, text_mode: TextMode::Incremental, ..delta })
    }
}

const SAMPLING_NAMES: &[(&str, &str)] = &[
    ("temperature", "temperature"),
    ("top_p", "top_p"),
    ("top_k", "top_k"),
    ("min_p", "min_p"),
    ("frequency_penalty", "frequency_penalty"),
    ("presence_penalty", "presence_penalty"),
    ("repetition_penalty", "repetition_penalty"),
    ("logprobs", "logprobs"),
    ("ignore_eos", "ignore_eos"),
    ("min_tokens", "min_new_tokens"),
    ("seed", "sampling_seed"),
    ("stop", "stop"),
    ("n", "n"),
];

#[derive(Deserialize)]
struct SglangEvent<'a> {
    #[serde(borrow, default)]
    text: Cow<'a, str>,
    #[serde(default)]
    output_ids: Option<Vec<IgnoredAny>>,
    #[serde(borrow, default)]
    meta_info: Option<SglangMeta<'a>>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct SglangMeta<'a> {
    #[serde(borrow, default)]
    finish_reason: Option<FinishReason<'a>>,
    #[serde(default)]
    prompt_tokens: Count,
    #[serde(default)]
    completion_tokens: Count,
    #[serde(default)]
    cached_tokens: Count,
    #[serde(default)]
    reasoning_tokens: Count,
}

#[derive(Deserialize)]
struct FinishReason<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    message: Option<BorrowedText<'a>>,
}

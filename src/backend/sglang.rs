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

use super::{
    Api, Backend, ChoiceDelta, Delta, Payload, PromptForm, ReadError, SamplingKeys, TextMode, Usage,
    completions::set_output_limit,
    delta::abort_error,
    encode_json,
    lenient::{Count, Filled, FinishReason, Nested, Size, Text, lenient_fields},
    prompt, read_fields,
    sampling::take_nested,
};
use crate::{
    http::{error_text::error_message, sse::SseEvent},
    record::{ContentForm, Object, Prompt, SampleRequest},
};

pub static BACKEND: Backend = Backend {
    name: "sglang",
    aliases: &[],
    about: "SGLang's native API",
    prompt_forms: &[PromptForm::Text, PromptForm::TokenIds],
    needs: "text or token ids",
    token_counts: "`meta_info` of each event",
    checked_against: "SGLang",
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

    fn copied_forms(&self) -> &'static [ContentForm] {
        &[ContentForm::Text, ContentForm::Ids]
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

    fn read_event<'a>(&self, event: SseEvent<'a>) -> Result<Delta<'a>, ReadError> {
        let message: SglangEvent = read_fields(event.data)?;
        if message.error.0 {
            return Ok(Delta { error: Some(error_message(event.data)), ..Delta::default() });
        }
        let meta = match message.meta_info.0 {
            Some(meta) => meta,
            None if message.text.0.is_some() => SglangMeta::default(),
            None => return Err(ReadError::lacks("meta_info")),
        };
        let FinishReason { kind: finish, message: reason } = meta.finish_reason;
        if let Some(error) = finish.as_deref().and_then(abort_error) {
            let error = reason.map_or(error, |text| error_message(text.as_bytes()));
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
        let ids = message.output_ids.0.map(|ids| u32::try_from(ids).unwrap_or(u32::MAX));
        let new_ids_only = ids.is_some() && usage.completion_tokens > ids;
        let text_mode = if new_ids_only { TextMode::Either } else { TextMode::Cumulative };
        let choice = ChoiceDelta { text: message.text.0.unwrap_or_default(), finish, ..ChoiceDelta::default() };
        Ok(Delta { choices: [choice].into_iter().collect(), usage, text_mode, ..Delta::default() })
    }

    fn read_response<'a>(&self, body: &'a [u8]) -> Result<Delta<'a>, ReadError> {
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

lenient_fields! {
    /// An event, or a non-streaming response.
    struct SglangEvent<'a> {
        "text" => text: Text<'a>,
        "output_ids" => output_ids: Size,
        "meta_info" => meta_info: Nested<SglangMeta<'a>>,
        "error" => error: Filled,
    }
}

lenient_fields! {
    /// The counts so far, and how the output ended.
    struct SglangMeta<'a> {
        "finish_reason" => finish_reason: FinishReason<'a>,
        "prompt_tokens" => prompt_tokens: Count,
        "completion_tokens" => completion_tokens: Count,
        "cached_tokens" => cached_tokens: Count,
        "reasoning_tokens" => reasoning_tokens: Count,
    }
}

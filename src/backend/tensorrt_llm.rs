//! TensorRT-LLM on Triton: `/v2/models/ensemble/generate_stream` and `…/generate`. A request, and an event of its response:
//!
//! ```text
//! {"text_input":"hi","max_tokens":16,"bad_words":"","stop_words":"","exclude_input_in_output":true,"stream":true}
//!
//! data: {"model_name":"ensemble","model_version":"1","sequence_end":false,"sequence_id":0,"sequence_start":false,"text_output":" there"}
//! ```
//!
//! It sends neither a finish reason nor a final event: a stream is complete when the server closes it without an error. Token counts
//! must be requested (`return_num_input_tokens`, `return_num_output_tokens`), and not every model has these inputs.
//! `--endpoint` selects a model other than `ensemble`.

use serde_json::Value;

use super::{
    Api, Backend, ChoiceDelta, Delta, PromptForm, ReadError, SamplingKeys, Usage,
    completions::{DEFAULT_OUTPUT_TOKENS, set_output_limit},
    lenient::{Counts, Filled, Texts, lenient_fields},
    prompt, read_fields,
};
use crate::{
    http::{error_text::error_message, sse::SseEvent},
    record::{ContentForm, Object, SampleRequest},
};

pub static BACKEND: Backend = Backend {
    name: "tensorrt-llm",
    aliases: &[],
    about: "TensorRT-LLM on Triton",
    prompt_forms: &[PromptForm::Text],
    needs: "text",
    token_counts: "chunks, or `--tokenizer`; non-streaming: `num_output_tokens`, if the model supports `return_num_output_tokens` in `--extra-body`",
    checked_against: "Triton, with another model",
    api: Some(&TensorrtLlmApi),
};

#[derive(Debug)]
struct TensorrtLlmApi;

impl Api for TensorrtLlmApi {
    fn endpoint_path(&self, stream: bool) -> &'static str {
        if stream { "/v2/models/ensemble/generate_stream" } else { "/v2/models/ensemble/generate" }
    }

    fn request_body(&self, request: &SampleRequest, _model: &str, stream: bool) -> Result<Object, String> {
        let text = prompt::single_text(request, BACKEND.name)?;
        let mut body = Object::from_iter([("text_input".into(), text.into())]);
        body.insert("max_tokens".into(), DEFAULT_OUTPUT_TOKENS.into());
        set_output_limit(&mut body, "max_tokens", request);
        body.insert("bad_words".into(), "".into());
        body.insert("stop_words".into(), "".into());
        // The default may be to repeat the prompt before the output.
        body.insert("exclude_input_in_output".into(), true.into());
        body.insert("stream".into(), stream.into());
        if let Some(adapter) = &request.lora {
            let id: u64 = adapter.parse().map_err(|_| {
                format!(
                    "--backend tensorrt-llm identifies adapters by number, not by name as `{adapter}`: give the `lora_task_id`"
                )
            })?;
            body.insert("lora_task_id".into(), id.into());
        }
        Ok(body)
    }

    fn copied_forms(&self) -> &'static [ContentForm] {
        &[ContentForm::Text]
    }

    fn sampling_keys(&self) -> SamplingKeys {
        SamplingKeys { object: None, names: Some(SAMPLING_NAMES) }
    }

    fn adapt_body(&self, body: &mut Object) {
        // `min_tokens` is its way to generate the requested length.
        if body.remove("ignore_eos") == Some(Value::Bool(true))
            && let Some(limit) = body.get("max_tokens").cloned()
        {
            body.entry("min_tokens").or_insert(limit);
        }
    }

    fn sends_model(&self) -> bool {
        false
    }

    fn read_event<'a>(&self, event: SseEvent<'a>) -> Result<Delta<'a>, ReadError> {
        let message: TritonEvent = read_fields(event.data)?;
        if message.error.0 {
            return Ok(Delta { error: Some(error_message(event.data)), ..Delta::default() });
        }
        let usage = message.token_usage();
        let texts = message.text_output.0.ok_or_else(|| ReadError::lacks("text_output"))?;
        let choice = |(index, text)| ChoiceDelta { index, text, ..ChoiceDelta::default() };
        Ok(Delta { choices: (0..).zip(texts).map(choice).collect(), usage, ..Delta::default() })
    }

    fn read_response<'a>(&self, body: &'a [u8]) -> Result<Delta<'a>, ReadError> {
        let delta = self.read_event(SseEvent { name: b"", data: body })?;
        Ok(Delta { done: true, ..delta })
    }

    fn marks_end(&self) -> bool {
        false
    }
}

const SAMPLING_NAMES: &[(&str, &str)] = &[
    ("temperature", "temperature"),
    ("top_p", "top_p"),
    ("top_k", "top_k"),
    ("frequency_penalty", "frequency_penalty"),
    ("presence_penalty", "presence_penalty"),
    ("repetition_penalty", "repetition_penalty"),
    ("ignore_eos", "ignore_eos"),
    ("min_tokens", "min_tokens"),
    ("seed", "seed"),
    ("stop", "stop_words"),
];

lenient_fields! {
    /// An event, or a non-streaming response. Triton writes a tensor with one element as the element itself.
    struct TritonEvent<'a> {
        "text_output" => text_output: Texts<'a>,
        /// With `return_num_input_tokens` and `return_num_output_tokens`.
        "num_input_tokens" => num_input_tokens: Counts,
        "num_output_tokens" => num_output_tokens: Counts,
        "error" => error: Filled,
    }
}

impl TritonEvent<'_> {
    fn token_usage(&self) -> Usage {
        let total = |counts: &[Option<u32>]| counts.iter().copied().reduce(|a, b| Some(a?.saturating_add(b?)))?;
        // All outputs have the same prompt.
        let prompt_tokens = self.num_input_tokens.0.first().copied().flatten();
        Usage { prompt_tokens, completion_tokens: total(&self.num_output_tokens.0), ..Usage::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_is_one_output() {
        let body = br#"{"text_output":["a","b"],"num_input_tokens":[3,3],"num_output_tokens":[1,2]}"#;
        let delta = TensorrtLlmApi.read_response(body).unwrap();
        let outputs: Vec<_> = delta.choices.iter().map(|choice| (choice.index, &*choice.text)).collect();
        assert_eq!((outputs, delta.usage.prompt_tokens), (vec![(0, "a"), (1, "b")], Some(3)));
        assert_eq!(delta.usage.completion_tokens, Some(3));
        let one =
            TensorrtLlmApi.read_response(br#"{"text_output":"a","num_input_tokens":3,"num_output_tokens":1}"#).unwrap();
        assert_eq!((one.choices.len(), one.usage.prompt_tokens, one.usage.completion_tokens), (1, Some(3), Some(1)));
        let none = TensorrtLlmApi.read_response(br#"{"text_output":"a"}"#).unwrap();
        assert_eq!(none.usage, Usage::default());
    }
}

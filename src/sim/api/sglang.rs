//! `SGLang`'s own `/generate`: each event contains all of the text so far.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    record::Prompt,
    sim::{
        dialect::{ChunkContent, DONE_EVENT, Dialect, ENGINE_FAILURE, FullOutput, ResponseMeta, StreamEnd, sse_event},
        request::{self, ApiError, GenerationBody},
    },
};

#[derive(Deserialize)]
struct SglangBody {
    text: Option<String>,
    input_ids: Option<Vec<u32>>,
    #[serde(default)]
    sampling_params: SglangParams,
    stream: Option<bool>,
    vb_fault: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SglangParams {
    max_new_tokens: Option<i64>,
    ignore_eos: Option<bool>,
}

/// Reads a request and translates it into vLLM's terms.
pub fn parse_body(bytes: &[u8]) -> Result<GenerationBody, ApiError> {
    let request: SglangBody = request::parse_json(bytes)?;
    Ok(GenerationBody {
        prompt: request.input_ids.map(Prompt::Ids).or(request.text.map(Prompt::Text)),
        max_tokens: Some(request.sampling_params.max_new_tokens.unwrap_or(128)),
        ignore_eos: request.sampling_params.ignore_eos,
        stream: request.stream,
        vb_fault: request.vb_fault,
        ..GenerationBody::default()
    })
}

/// Writes generations.
pub struct SglangDialect {
    meta: ResponseMeta,
    text: String,
    ids: Vec<u32>,
    cached_tokens: u32,
}

impl SglangDialect {
    /// For one response.
    pub fn new(meta: ResponseMeta) -> Self {
        SglangDialect { meta, text: String::new(), ids: vec![], cached_tokens: 0 }
    }

    fn output_object(&self, text: &str, finish_reason: Option<&str>, generated: u32) -> Value {
        let finish_reason = finish_reason.map(|reason| match reason {
            "length" => json!({"type": "length", "length": generated}),
            other => json!({"type": other}),
        });
        json!({"text": text, "meta_info": {"id": self.meta.request_id, "finish_reason": finish_reason,
            "prompt_tokens": self.meta.prompt_tokens, "completion_tokens": generated, "cached_tokens": self.cached_tokens}})
    }
}

impl Dialect for SglangDialect {
    fn encode_chunk(&mut self, chunk: ChunkContent<'_>) -> String {
        self.text.push_str(chunk.text);
        self.ids.extend(chunk.ids);
        let mut object = self.output_object(&self.text, chunk.finish_reason, chunk.generated_tokens);
        object["output_ids"] = json!(self.ids);
        sse_event(&object)
    }

    fn ending_events(&mut self, end: StreamEnd<'_>) -> Vec<String> {
        end.done.then(|| DONE_EVENT.into()).into_iter().collect()
    }

    fn reports_abort(&self) -> bool {
        true
    }

    fn set_cached_tokens(&mut self, tokens: u32) {
        self.cached_tokens = tokens;
    }

    fn error_events(&self) -> Vec<String> {
        vec![sse_event(&json!({"error": {"message": ENGINE_FAILURE}})), DONE_EVENT.into()]
    }

    fn full_response(&self, full: FullOutput<'_>) -> Value {
        self.output_object(&full.first_text(), Some(full.finish_reason), full.generated_tokens)
    }
}

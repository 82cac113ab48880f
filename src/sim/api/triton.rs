//! TensorRT-LLM served by Triton's generate extension. Its responses contain neither token counts nor a finish reason. The text
//! of the last event is empty if the model ended the output before the limit.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    record::Prompt,
    sim::{
        dialect::{ChunkContent, Dialect, ENGINE_FAILURE, FullOutput, StreamEnd, sse_event},
        request::{self, ApiError, GenerationBody},
    },
};

#[derive(Deserialize)]
struct TritonBody {
    text_input: String,
    max_tokens: Option<i64>,
    min_tokens: Option<u32>,
    ignore_eos: Option<bool>,
    vb_fault: Option<String>,
}

/// Reads a request and translates it into vLLM's terms.
pub fn parse_body(bytes: &[u8], stream: bool) -> Result<GenerationBody, ApiError> {
    let request: TritonBody = request::parse_json(bytes)?;
    if request.max_tokens.is_none() {
        let message =
            "missing required input(s) ['max_tokens'] for model 'ensemble'. Please provide all required input(s).";
        return Err(ApiError::bad_request(Some("max_tokens"), message));
    }
    Ok(GenerationBody {
        prompt: Some(Prompt::Text(request.text_input)),
        max_tokens: request.max_tokens,
        min_tokens: request.min_tokens,
        stream: Some(stream),
        ignore_eos: request.ignore_eos,
        vb_fault: request.vb_fault,
        ..GenerationBody::default()
    })
}

/// Writes generations.
pub struct TritonDialect;

fn output_object(text: &str) -> Value {
    json!({"model_name": "ensemble", "model_version": "1", "sequence_end": false, "sequence_id": 0,
        "sequence_start": false, "text_output": text})
}

impl Dialect for TritonDialect {
    fn encode_chunk(&mut self, chunk: ChunkContent<'_>) -> String {
        sse_event(&output_object(chunk.text))
    }

    fn ending_events(&mut self, _: StreamEnd<'_>) -> Vec<String> {
        vec![]
    }

    fn error_events(&self) -> Vec<String> {
        vec![sse_event(&json!({"error": ENGINE_FAILURE}))]
    }

    fn full_response(&self, full: FullOutput<'_>) -> Value {
        output_object(&full.first_text())
    }
}

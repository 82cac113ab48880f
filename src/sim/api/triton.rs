//! TensorRT-LLM behind Triton's generate extension: it counts nothing and does not say where an answer ends. The last event may
//! have an empty text, where the model ended the answer by itself.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Dialect, Ending, FAILURE, Whole, event, text};
use crate::{
    record::Prompt,
    sim::{
        events::Chunk,
        request::{self, Body, Refusal},
    },
};

#[derive(Deserialize)]
struct Request {
    text_input: String,
    max_tokens: Option<i64>,
    min_tokens: Option<u32>,
    ignore_eos: Option<bool>,
    vb_fault: Option<String>,
}

/// The request in vLLM's words.
pub fn body(bytes: &[u8], stream: bool) -> Result<Body, Refusal> {
    let request: Request = request::parse(bytes)?;
    if request.max_tokens.is_none() {
        let message =
            "missing required input(s) ['max_tokens'] for model 'ensemble'. Please provide all required input(s).";
        return Err(Refusal::bad(Some("max_tokens"), message));
    }
    Ok(Body {
        prompt: Some(Prompt::Text(request.text_input)),
        max_tokens: request.max_tokens,
        min_tokens: request.min_tokens,
        stream: Some(stream),
        ignore_eos: request.ignore_eos,
        vb_fault: request.vb_fault,
        ..Body::default()
    })
}

/// How it is written.
pub struct Triton;

fn reply(text: &str) -> Value {
    json!({"model_name": "ensemble", "model_version": "1", "sequence_end": false, "sequence_id": 0,
        "sequence_start": false, "text_output": text})
}

impl Dialect for Triton {
    fn chunk(&mut self, chunk: Chunk<'_>) -> String {
        event(&reply(text(&chunk)))
    }

    fn ending(&mut self, _: Ending<'_>) -> Vec<String> {
        vec![]
    }

    fn error(&self) -> Vec<String> {
        vec![event(&json!({"error": FAILURE}))]
    }

    fn whole(&self, whole: Whole<'_>) -> Option<Value> {
        Some(reply(whole.text))
    }
}

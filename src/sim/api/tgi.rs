//! Text Generation Inference 3: `/generate_stream` and `/generate`, written from its `OpenAPI` description.

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    record::Prompt,
    sim::{
        dialect::{ChunkContent, Dialect, ENGINE_FAILURE, FullOutput, ResponseMeta, StreamEnd, sse_event},
        request::{self, ApiError, GenerationBody},
        vocabulary::END_OF_TEXT,
    },
};

#[derive(Deserialize)]
struct TgiBody {
    inputs: String,
    #[serde(default)]
    parameters: TgiParameters,
    stream: Option<bool>,
    ignore_eos: Option<bool>,
    vb_fault: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TgiParameters {
    max_new_tokens: Option<i64>,
    top_p: Option<f64>,
}

/// Whether a request to `/generate` is meant for this API.
pub fn is_tgi_body(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Value>(bytes).is_ok_and(|body| body.get("inputs").is_some())
}

/// Reads a request and translates it into vLLM's terms.
pub fn parse_body(bytes: &[u8], stream: bool) -> Result<GenerationBody, ApiError> {
    let request: TgiBody = request::parse_json(bytes)?;
    if request.parameters.top_p.is_some_and(|p| p <= 0.0 || p >= 1.0) {
        let message = "Input validation error: `top_p` must be > 0.0 and < 1.0";
        return Err(ApiError {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            ..ApiError::bad_request(Some("top_p"), message)
        });
    }
    Ok(GenerationBody {
        prompt: Some(Prompt::Text(request.inputs)),
        max_tokens: Some(request.parameters.max_new_tokens.unwrap_or(100)),
        stream: Some(stream || request.stream == Some(true)),
        ignore_eos: request.ignore_eos,
        vb_fault: request.vb_fault,
        ..GenerationBody::default()
    })
}

/// Writes generations.
pub struct TgiDialect {
    meta: ResponseMeta,
    text: String,
}

impl TgiDialect {
    /// For one response.
    pub fn new(meta: ResponseMeta) -> Self {
        TgiDialect { meta, text: String::new() }
    }
}

/// The `details` at the end of a response, streamed or not.
fn details_object(finish_reason: &str, generated: u32) -> Value {
    let finish_reason = if finish_reason == "stop" { "eos_token" } else { finish_reason };
    json!({"finish_reason": finish_reason, "generated_tokens": generated, "seed": null})
}

impl Dialect for TgiDialect {
    fn encode_chunk(&mut self, chunk: ChunkContent<'_>) -> String {
        self.text.push_str(chunk.text);
        let details = chunk.finish_reason.map(|reason| {
            let mut details = details_object(reason, chunk.generated_tokens);
            details["input_length"] = self.meta.prompt_tokens.into();
            details
        });
        let special = chunk.ids == [END_OF_TEXT];
        let token = json!({"id": chunk.ids.last(), "text": chunk.text, "logprob": -1.0, "special": special});
        let full_text = details.is_some().then_some(&self.text);
        sse_event(
            &json!({"index": chunk.generated_tokens, "token": token, "generated_text": full_text, "details": details}),
        )
    }

    fn ending_events(&mut self, _: StreamEnd<'_>) -> Vec<String> {
        vec![]
    }

    fn error_events(&self) -> Vec<String> {
        vec![sse_event(&json!({"error": ENGINE_FAILURE, "error_type": "generation"}))]
    }

    fn full_response(&self, full: FullOutput<'_>) -> Value {
        let mut details = details_object(full.finish_reason, full.generated_tokens);
        (details["prefill"], details["tokens"]) = (json!([]), json!([]));
        json!({"generated_text": full.first_text(), "details": details})
    }
}

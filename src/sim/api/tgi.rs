//! Text Generation Inference 3: `/generate_stream` and `/generate`, after its `OpenAPI` description.

use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Dialect, Ending, FAILURE, Named, Whole, event, text};
use crate::{
    record::Prompt,
    sim::{
        events::Chunk,
        request::{self, Body, Refusal},
        vocabulary::END_OF_TEXT,
    },
};

#[derive(Deserialize)]
struct Request {
    inputs: String,
    #[serde(default)]
    parameters: Parameters,
    stream: Option<bool>,
    ignore_eos: Option<bool>,
    vb_fault: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Parameters {
    max_new_tokens: Option<i64>,
    top_p: Option<f64>,
}

/// Whether a request to `/generate` is for this API.
pub fn is_its(bytes: &[u8]) -> bool {
    serde_json::from_slice::<Value>(bytes).is_ok_and(|body| body.get("inputs").is_some())
}

/// The request in vLLM's words.
pub fn body(bytes: &[u8], stream: bool) -> Result<Body, Refusal> {
    let request: Request = request::parse(bytes)?;
    if request.parameters.top_p.is_some_and(|p| p <= 0.0 || p >= 1.0) {
        let message = "Input validation error: `top_p` must be > 0.0 and < 1.0";
        return Err(Refusal { status: StatusCode::UNPROCESSABLE_ENTITY, ..Refusal::bad(Some("top_p"), message) });
    }
    Ok(Body {
        prompt: Some(Prompt::Text(request.inputs)),
        max_tokens: Some(request.parameters.max_new_tokens.unwrap_or(100)),
        stream: Some(stream || request.stream == Some(true)),
        ignore_eos: request.ignore_eos,
        vb_fault: request.vb_fault,
        ..Body::default()
    })
}

/// How it is written.
pub struct Tgi {
    named: Named,
    text: String,
}

impl Tgi {
    /// For one answer.
    pub fn new(named: Named) -> Self {
        Tgi { named, text: String::new() }
    }
}

/// What the end of an answer says, streamed or not.
fn details(finish: &str, generated: u32) -> Value {
    let finish = if finish == "stop" { "eos_token" } else { finish };
    json!({"finish_reason": finish, "generated_tokens": generated, "seed": null})
}

impl Dialect for Tgi {
    fn chunk(&mut self, chunk: Chunk<'_>) -> String {
        self.text.push_str(text(&chunk));
        let last = chunk.finish.map(|finish| {
            let mut details = details(finish, chunk.generated);
            details["input_length"] = self.named.prompt_tokens.into();
            details
        });
        let special = chunk.ids == [END_OF_TEXT];
        let token = json!({"id": chunk.ids.last(), "text": text(&chunk), "logprob": -1.0, "special": special});
        let whole = last.is_some().then_some(&self.text);
        event(&json!({"index": chunk.generated, "token": token, "generated_text": whole, "details": last}))
    }

    fn ending(&mut self, _: Ending<'_>) -> Vec<String> {
        vec![]
    }

    fn error(&self) -> Vec<String> {
        vec![event(&json!({"error": FAILURE, "error_type": "generation"}))]
    }

    fn whole(&self, whole: Whole<'_>) -> Option<Value> {
        let mut details = details(whole.finish, whole.generated);
        (details["prefill"], details["tokens"]) = (json!([]), json!([]));
        Some(json!({"generated_text": whole.text, "details": details}))
    }
}

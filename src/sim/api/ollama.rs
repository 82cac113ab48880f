//! Ollama's `/api/chat`: one JSON object per line. All durations are 0.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::sim::{
    dialect::{ChunkContent, Dialect, ENGINE_FAILURE, FullOutput, ResponseMeta, StreamEnd, TextKind},
    request::{self, ApiError, GenerationBody},
};

#[derive(Deserialize)]
struct OllamaBody {
    model: Option<String>,
    messages: Vec<Value>,
    stream: Option<bool>,
    #[serde(default)]
    options: OllamaOptions,
    ignore_eos: Option<bool>,
    vb_fault: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OllamaOptions {
    num_predict: Option<i64>,
}

/// Reads a request and translates it into vLLM's terms. Unlike other APIs, Ollama streams unless `stream` is `false`.
pub fn parse_body(bytes: &[u8]) -> Result<GenerationBody, ApiError> {
    let request: OllamaBody = request::parse_json(bytes)?;
    Ok(GenerationBody {
        model: request.model,
        messages: Some(request.messages),
        max_tokens: request.options.num_predict,
        stream: Some(request.stream.unwrap_or(true)),
        ignore_eos: request.ignore_eos,
        vb_fault: request.vb_fault,
        ..GenerationBody::default()
    })
}

/// Writes chat responses.
pub struct OllamaDialect {
    meta: ResponseMeta,
}

impl OllamaDialect {
    /// For one response.
    pub fn new(meta: ResponseMeta) -> Self {
        OllamaDialect { meta }
    }

    fn created_at(&self) -> String {
        let seconds = i64::try_from(self.meta.created).unwrap_or_default();
        Timestamp::from_second(seconds).unwrap_or_default().to_string()
    }

    fn chunk_object(&self, message: &Value, done: bool) -> Value {
        json!({"model": self.meta.model, "created_at": self.created_at(), "message": message, "done": done})
    }

    fn final_object(&self, message: &Value, finish_reason: &str, generated: u32, usage: bool) -> Value {
        let mut object = self.chunk_object(message, true);
        object["done_reason"] = finish_reason.into();
        for key in ["total_duration", "load_duration", "prompt_eval_duration", "eval_duration"] {
            object[key] = 0.into();
        }
        if usage {
            object["prompt_eval_count"] = self.meta.prompt_tokens.into();
            object["eval_count"] = generated.into();
        }
        object
    }
}

impl Dialect for OllamaDialect {
    fn encode_chunk(&mut self, chunk: ChunkContent<'_>) -> String {
        let message = match chunk.kind {
            TextKind::Reasoning(_) => json!({"role": "assistant", "content": "", "thinking": chunk.text}),
            TextKind::ToolCall(name) => json!({"role": "assistant", "content": "",
                "tool_calls": [{"function": {"name": name, "arguments": {"text": chunk.text}}}]}),
            TextKind::Content => json!({"role": "assistant", "content": chunk.text}),
        };
        format!("{}\n", self.chunk_object(&message, false))
    }

    fn ending_events(&mut self, end: StreamEnd<'_>) -> Vec<String> {
        let message = json!({"role": "assistant", "content": ""});
        let last = || {
            format!("{}\n", self.final_object(&message, end.finish_reason, end.generated_tokens, end.usage_events > 0))
        };
        end.done.then(last).into_iter().collect()
    }

    fn is_chat(&self) -> bool {
        true
    }

    fn error_events(&self) -> Vec<String> {
        vec![format!("{}\n", json!({"error": ENGINE_FAILURE}))]
    }

    fn truncated_event(&self) -> String {
        "{\"message\":\n".into()
    }

    fn stream_content_type(&self) -> &'static str {
        "application/x-ndjson"
    }

    fn full_response(&self, full: FullOutput<'_>) -> Value {
        let message = json!({"role": "assistant", "content": full.first_text()});
        self.final_object(&message, full.finish_reason, full.generated_tokens, full.include_usage)
    }
}

//! Ollama's `/api/chat`: a JSON object a line. The durations are left at 0.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Dialect, Ending, FAILURE, Named, Whole, text, thinks};
use crate::sim::{
    events::{Chunk, Part},
    request::{self, Body, Refusal},
};

#[derive(Deserialize)]
struct Request {
    model: Option<String>,
    messages: Vec<Value>,
    stream: Option<bool>,
    #[serde(default)]
    options: Options,
    ignore_eos: Option<bool>,
    vb_fault: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Options {
    num_predict: Option<i64>,
}

/// The request in vLLM's words. Unlike elsewhere, an answer is streamed unless it is asked not to be.
pub fn body(bytes: &[u8]) -> Result<Body, Refusal> {
    let request: Request = request::parse(bytes)?;
    Ok(Body {
        model: request.model,
        messages: Some(request.messages),
        max_tokens: request.options.num_predict,
        stream: Some(request.stream.unwrap_or(true)),
        ignore_eos: request.ignore_eos,
        vb_fault: request.vb_fault,
        ..Body::default()
    })
}

/// How it is written.
pub struct Ollama {
    named: Named,
}

impl Ollama {
    /// For one answer.
    pub fn new(named: Named) -> Self {
        Ollama { named }
    }

    fn created(&self) -> String {
        let seconds = i64::try_from(self.named.created).unwrap_or_default();
        Timestamp::from_second(seconds).unwrap_or_default().to_string()
    }

    fn reply(&self, message: &Value, done: bool) -> Value {
        json!({"model": self.named.model, "created_at": self.created(), "message": message, "done": done})
    }

    fn end(&self, message: &Value, finish: &str, generated: u32, usage: bool) -> Value {
        let mut reply = self.reply(message, true);
        reply["done_reason"] = finish.into();
        for key in ["total_duration", "load_duration", "prompt_eval_duration", "eval_duration"] {
            reply[key] = 0.into();
        }
        if usage {
            reply["prompt_eval_count"] = self.named.prompt_tokens.into();
            reply["eval_count"] = generated.into();
        }
        reply
    }
}

impl Dialect for Ollama {
    fn chunk(&mut self, chunk: Chunk<'_>) -> String {
        let message = match chunk.part {
            _ if thinks(&chunk) => json!({"role": "assistant", "content": "", "thinking": text(&chunk)}),
            Part::ToolCall(name) => json!({"role": "assistant", "content": "",
                "tool_calls": [{"function": {"name": name, "arguments": {"text": text(&chunk)}}}]}),
            _ => json!({"role": "assistant", "content": text(&chunk)}),
        };
        format!("{}\n", self.reply(&message, false))
    }

    fn ending(&mut self, ending: Ending<'_>) -> Vec<String> {
        let message = json!({"role": "assistant", "content": ""});
        let last = || format!("{}\n", self.end(&message, ending.finish, ending.generated, ending.usages > 0));
        ending.done.then(last).into_iter().collect()
    }

    fn is_chat(&self) -> bool {
        true
    }

    fn error(&self) -> Vec<String> {
        vec![format!("{}\n", json!({"error": FAILURE}))]
    }

    fn broken(&self) -> String {
        "{\"message\":\n".into()
    }

    fn media(&self) -> &'static str {
        "application/x-ndjson"
    }

    fn whole(&self, whole: Whole<'_>) -> Option<Value> {
        let message = json!({"role": "assistant", "content": whole.text});
        Some(self.end(&message, whole.finish, whole.generated, whole.usage))
    }
}

//! Anthropic's `/v1/messages`, with the events of vLLM 0.32 in their order.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Dialect, Ending, FAILURE, Named, Whole, named_event, text, thinks};
use crate::sim::{
    events::{Chunk, Part},
    request::{self, Body, Refusal},
    vocabulary::END_OF_TEXT,
};

#[derive(Deserialize)]
struct Request {
    model: Option<String>,
    messages: Vec<Value>,
    system: Option<Value>,
    max_tokens: i64,
    stream: Option<bool>,
    ignore_eos: Option<bool>,
    vb_fault: Option<String>,
}

/// The request in vLLM's words.
pub fn body(bytes: &[u8]) -> Result<Body, Refusal> {
    let request: Request = request::parse(bytes)?;
    let system = request.system.map(|content| json!({"role": "system", "content": content}));
    Ok(Body {
        model: request.model,
        messages: Some(system.into_iter().chain(request.messages).collect()),
        max_tokens: Some(request.max_tokens),
        stream: request.stream,
        ignore_eos: request.ignore_eos,
        vb_fault: request.vb_fault,
        ..Body::default()
    })
}

/// How it is written.
pub struct Messages {
    named: Named,
    cached: u32,
    /// The kind of the block that is open.
    open: Option<&'static str>,
    blocks: u32,
}

impl Messages {
    /// For one answer.
    pub fn new(named: Named) -> Self {
        Messages { named, cached: 0, open: None, blocks: 0 }
    }

    fn id(&self) -> String {
        format!("chatcmpl-{}", self.named.name)
    }

    /// What went through the cache is counted beside the input.
    fn usage(&self, generated: u32) -> Value {
        let mut usage = json!({"input_tokens": self.named.prompt_tokens - self.cached, "output_tokens": generated});
        if self.cached > 0 {
            usage["cache_read_input_tokens"] = self.cached.into();
        }
        usage
    }

    fn close(&mut self) -> String {
        let index = self.blocks;
        self.blocks += 1;
        let closed = self.open.take().map(|_| named_event(&json!({"type": "content_block_stop", "index": index})));
        closed.unwrap_or_default()
    }
}

/// The reason to stop in this API's words.
fn reason(finish: &str) -> &str {
    match finish {
        "length" => "max_tokens",
        "tool_calls" => "tool_use",
        _ => "end_turn",
    }
}

impl Dialect for Messages {
    fn opening(&mut self) -> Vec<String> {
        let id = self.id();
        vec![named_event(&json!({"type": "message_start", "message": {"id": id, "type": "message",
            "role": "assistant", "content": [], "model": self.named.model, "stop_reason": null, "stop_sequence": null,
            "usage": self.usage(0)}}))]
    }

    fn chunk(&mut self, chunk: Chunk<'_>) -> String {
        // The end token has no text, and no event.
        if chunk.ids == [END_OF_TEXT] {
            return String::new();
        }
        let (kind, block, delta) = match chunk.part {
            _ if thinks(&chunk) => (
                "thinking",
                json!({"type": "thinking", "thinking": "", "signature": ""}),
                json!({"type": "thinking_delta", "thinking": text(&chunk)}),
            ),
            Part::ToolCall(name) => (
                "tool_use",
                json!({"type": "tool_use", "id": "call_0", "name": name, "input": {}}),
                json!({"type": "input_json_delta", "partial_json": text(&chunk)}),
            ),
            _ => ("text", json!({"type": "text", "text": ""}), json!({"type": "text_delta", "text": text(&chunk)})),
        };
        let mut events = String::new();
        if self.open != Some(kind) {
            if self.open.is_some() {
                events.push_str(&self.close());
            }
            self.open = Some(kind);
            let index = self.blocks;
            events.push_str(&named_event(
                &json!({"type": "content_block_start", "content_block": block, "index": index}),
            ));
        }
        events.push_str(&named_event(&json!({"type": "content_block_delta", "delta": delta, "index": self.blocks})));
        events
    }

    fn ending(&mut self, ending: Ending<'_>) -> Vec<String> {
        let usage = if ending.usages > 0 { self.usage(ending.generated) } else { Value::Null };
        let mut events = vec![
            self.close(),
            named_event(&json!({"type": "message_delta",
                "delta": {"stop_reason": reason(ending.finish), "stop_sequence": null}, "usage": usage})),
            named_event(&json!({"type": "message_stop"})),
        ];
        if !ending.done {
            events.pop();
        }
        events
    }

    fn is_chat(&self) -> bool {
        true
    }

    fn set_cached_tokens(&mut self, tokens: u32) {
        self.cached = tokens;
    }

    fn error(&self) -> Vec<String> {
        vec![named_event(&json!({"type": "error", "error": {"type": "internal_error", "message": FAILURE}}))]
    }

    fn whole(&self, whole: Whole<'_>) -> Option<Value> {
        let usage = if whole.usage { self.usage(whole.generated) } else { Value::Null };
        Some(json!({"id": self.id(), "type": "message", "role": "assistant",
            "content": [{"type": "text", "text": whole.text}], "model": self.named.model,
            "stop_reason": reason(whole.finish), "usage": usage}))
    }
}

//! Anthropic's `/v1/messages`, with the events of vLLM 0.32 in their order.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::sim::{
    dialect::{ChunkContent, Dialect, ENGINE_FAILURE, FullOutput, ResponseMeta, StreamEnd, TextKind, named_sse_event},
    request::{self, ApiError, GenerationBody},
    vocabulary::END_OF_TEXT,
};

#[derive(Deserialize)]
struct MessagesBody {
    model: Option<String>,
    messages: Vec<Value>,
    system: Option<Value>,
    max_tokens: i64,
    stream: Option<bool>,
    ignore_eos: Option<bool>,
    vb_fault: Option<String>,
}

/// Reads a request and translates it into vLLM's terms.
pub fn parse_body(bytes: &[u8]) -> Result<GenerationBody, ApiError> {
    let request: MessagesBody = request::parse_json(bytes)?;
    let system = request.system.map(|content| json!({"role": "system", "content": content}));
    Ok(GenerationBody {
        model: request.model,
        messages: Some(system.into_iter().chain(request.messages).collect()),
        max_tokens: Some(request.max_tokens),
        stream: request.stream,
        ignore_eos: request.ignore_eos,
        vb_fault: request.vb_fault,
        ..GenerationBody::default()
    })
}

/// Writes messages.
pub struct MessagesDialect {
    meta: ResponseMeta,
    cached_tokens: u32,
    /// The kind of the open content block.
    open_block: Option<&'static str>,
    /// How many content blocks were closed; also the index of the open one.
    closed_blocks: u32,
}

impl MessagesDialect {
    /// For one response.
    pub fn new(meta: ResponseMeta) -> Self {
        MessagesDialect { meta, cached_tokens: 0, open_block: None, closed_blocks: 0 }
    }

    fn message_id(&self) -> String {
        format!("chatcmpl-{}", self.meta.request_id)
    }

    /// Prefix cache hits are not part of `input_tokens`; they are counted separately.
    fn usage_object(&self, generated: u32) -> Value {
        let mut usage =
            json!({"input_tokens": self.meta.prompt_tokens - self.cached_tokens, "output_tokens": generated});
        if self.cached_tokens > 0 {
            usage["cache_read_input_tokens"] = self.cached_tokens.into();
        }
        usage
    }

    fn close_block(&mut self) -> String {
        let index = self.closed_blocks;
        self.closed_blocks += 1;
        let closed =
            self.open_block.take().map(|_| named_sse_event(&json!({"type": "content_block_stop", "index": index})));
        closed.unwrap_or_default()
    }
}

/// The `stop_reason` for one of vLLM's finish reasons.
fn stop_reason(finish: &str) -> &str {
    match finish {
        "length" => "max_tokens",
        "tool_calls" => "tool_use",
        _ => "end_turn",
    }
}

impl Dialect for MessagesDialect {
    fn opening_events(&mut self) -> Vec<String> {
        let id = self.message_id();
        vec![named_sse_event(&json!({"type": "message_start", "message": {"id": id, "type": "message",
            "role": "assistant", "content": [], "model": self.meta.model, "stop_reason": null, "stop_sequence": null,
            "usage": self.usage_object(0)}}))]
    }

    fn encode_chunk(&mut self, chunk: ChunkContent<'_>) -> String {
        // The end-of-text token has neither text nor an event.
        if chunk.ids == [END_OF_TEXT] {
            return String::new();
        }
        let (kind, block, delta) = match chunk.kind {
            TextKind::Reasoning(_) => (
                "thinking",
                json!({"type": "thinking", "thinking": "", "signature": ""}),
                json!({"type": "thinking_delta", "thinking": chunk.text}),
            ),
            TextKind::ToolCall(name) => (
                "tool_use",
                json!({"type": "tool_use", "id": "call_0", "name": name, "input": {}}),
                json!({"type": "input_json_delta", "partial_json": chunk.text}),
            ),
            TextKind::Content => {
                ("text", json!({"type": "text", "text": ""}), json!({"type": "text_delta", "text": chunk.text}))
            }
        };
        let mut events = String::new();
        if self.open_block != Some(kind) {
            if self.open_block.is_some() {
                events.push_str(&self.close_block());
            }
            self.open_block = Some(kind);
            let index = self.closed_blocks;
            events.push_str(&named_sse_event(
                &json!({"type": "content_block_start", "content_block": block, "index": index}),
            ));
        }
        events.push_str(&named_sse_event(
            &json!({"type": "content_block_delta", "delta": delta, "index": self.closed_blocks}),
        ));
        events
    }

    fn ending_events(&mut self, end: StreamEnd<'_>) -> Vec<String> {
        let usage = if end.usage_events > 0 { self.usage_object(end.generated_tokens) } else { Value::Null };
        let mut events = vec![
            self.close_block(),
            named_sse_event(&json!({"type": "message_delta",
                "delta": {"stop_reason": stop_reason(end.finish_reason), "stop_sequence": null}, "usage": usage})),
            named_sse_event(&json!({"type": "message_stop"})),
        ];
        if !end.done {
            events.pop();
        }
        events
    }

    fn is_chat(&self) -> bool {
        true
    }

    fn set_cached_tokens(&mut self, tokens: u32) {
        self.cached_tokens = tokens;
    }

    fn error_events(&self) -> Vec<String> {
        vec![named_sse_event(&json!({"type": "error", "error": {"type": "internal_error", "message": ENGINE_FAILURE}}))]
    }

    fn full_response(&self, full: FullOutput<'_>) -> Value {
        let usage = if full.include_usage { self.usage_object(full.generated_tokens) } else { Value::Null };
        json!({"id": self.message_id(), "type": "message", "role": "assistant",
            "content": [{"type": "text", "text": full.first_text()}], "model": self.meta.model,
            "stop_reason": stop_reason(full.finish_reason), "usage": usage})
    }
}

//! `/v1/responses`, with the events of vLLM 0.32 in their order.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::sim::{
    dialect::{ChunkContent, Dialect, ENGINE_FAILURE, FullOutput, ResponseMeta, StreamEnd, named_sse_event},
    request::{self, ApiError, GenerationBody},
};

#[derive(Deserialize)]
struct ResponsesBody {
    model: Option<String>,
    input: ResponsesInput,
    instructions: Option<String>,
    max_output_tokens: Option<i64>,
    stream: Option<bool>,
    ignore_eos: Option<bool>,
    vb_fault: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ResponsesInput {
    Text(String),
    Messages(Vec<Value>),
}

/// Reads a request and translates it into vLLM's terms: a text becomes a user message, and instructions a system message.
pub fn parse_body(bytes: &[u8]) -> Result<GenerationBody, ApiError> {
    let request: ResponsesBody = request::parse_json(bytes)?;
    let input = match request.input {
        ResponsesInput::Text(text) => vec![json!({"role": "user", "content": text})],
        ResponsesInput::Messages(messages) => messages,
    };
    let system = request.instructions.map(|text| json!({"role": "system", "content": text}));
    Ok(GenerationBody {
        model: request.model,
        messages: Some(system.into_iter().chain(input).collect()),
        max_tokens: request.max_output_tokens,
        stream: request.stream,
        ignore_eos: request.ignore_eos,
        vb_fault: request.vb_fault,
        ..GenerationBody::default()
    })
}

/// Writes responses.
pub struct ResponsesDialect {
    meta: ResponseMeta,
    text: String,
    cached_tokens: u32,
    sequence_number: u32,
}

impl ResponsesDialect {
    /// For one response.
    pub fn new(meta: ResponseMeta) -> Self {
        ResponsesDialect { meta, text: String::new(), cached_tokens: 0, sequence_number: 0 }
    }

    fn item_id(&self) -> String {
        format!("msg_{}", self.meta.request_id)
    }

    fn numbered_event(&mut self, mut data: Value, kind: &str) -> String {
        data["sequence_number"] = self.sequence_number.into();
        data["type"] = kind.into();
        // vLLM sorts the top-level keys of an event alphabetically.
        if let Value::Object(keys) = &mut data {
            keys.sort_keys();
        }
        self.sequence_number += 1;
        named_sse_event(&data)
    }

    fn message_item(&self, text: Option<&str>, status: &str) -> Value {
        let content: Vec<Value> = text
            .map(|text| json!({"annotations": [], "text": text, "type": "output_text", "logprobs": null}))
            .into_iter()
            .collect();
        json!({"id": self.item_id(), "content": content, "role": "assistant", "status": status, "type": "message",
            "phase": null})
    }

    fn response_object(&self, status: &str, output: &[Value], incomplete: &Value, usage: &Value) -> Value {
        json!({"id": format!("resp_{}", self.meta.request_id), "created_at": self.meta.created,
            "incomplete_details": incomplete, "instructions": null, "metadata": null, "model": self.meta.model,
            "object": "response", "output": output, "parallel_tool_calls": true, "temperature": 1.0,
            "tool_choice": "none", "tools": [], "top_p": 1.0, "background": false,
            "max_output_tokens": self.meta.max_tokens, "max_tool_calls": null, "previous_response_id": null,
            "prompt": null, "reasoning": null, "service_tier": "auto", "status": status, "text": null,
            "top_logprobs": null, "truncation": "disabled", "usage": usage, "user": null, "presence_penalty": 0.0,
            "frequency_penalty": 0.0, "kv_transfer_params": null, "ec_transfer_params": null, "input_messages": null,
            "output_messages": null})
    }

    fn finished_response(&self, text: &str, finish_reason: &str, generated: u32, with_usage: bool) -> Value {
        let complete = finish_reason != "length";
        let incomplete = if complete { Value::Null } else { json!({"reason": "max_output_tokens"}) };
        let prompt = self.meta.prompt_tokens;
        let usage = json!({"input_tokens": prompt, "input_tokens_details": {"cached_tokens": self.cached_tokens,
            "cache_write_tokens": 0, "input_tokens_per_turn": [], "cached_tokens_per_turn": []}, "output_tokens": generated,
            "output_tokens_details": {"reasoning_tokens": 0, "tool_output_tokens": 0, "output_tokens_per_turn": [],
            "tool_output_tokens_per_turn": []}, "total_tokens": prompt + generated});
        let usage = if with_usage { usage } else { Value::Null };
        let status = if complete { "completed" } else { "incomplete" };
        self.response_object(status, &[self.message_item(Some(text), "completed")], &incomplete, &usage)
    }
}

impl Dialect for ResponsesDialect {
    fn opening_events(&mut self) -> Vec<String> {
        let response = self.response_object("in_progress", &[], &Value::Null, &Value::Null);
        let (item, id) = (self.message_item(None, "in_progress"), self.item_id());
        let part = json!({"annotations": [], "text": "", "type": "output_text", "logprobs": []});
        vec![
            self.numbered_event(json!({"response": response}), "response.created"),
            self.numbered_event(json!({"response": response}), "response.in_progress"),
            self.numbered_event(json!({"item": item, "output_index": 0}), "response.output_item.added"),
            self.numbered_event(
                json!({"content_index": 0, "item_id": id, "output_index": 0, "part": part}),
                "response.content_part.added",
            ),
        ]
    }

    fn encode_chunk(&mut self, chunk: ChunkContent<'_>) -> String {
        self.text.push_str(chunk.text);
        let (id, delta) = (self.item_id(), chunk.text);
        let data = json!({"content_index": 0, "delta": delta, "item_id": id, "logprobs": [], "output_index": 0});
        self.numbered_event(data, "response.output_text.delta")
    }

    fn ending_events(&mut self, end: StreamEnd<'_>) -> Vec<String> {
        let (id, text) = (self.item_id(), self.text.clone());
        let part = json!({"annotations": [], "text": text, "type": "output_text", "logprobs": null});
        let item = self.message_item(Some(&text), "completed");
        let response = self.finished_response(&text, end.finish_reason, end.generated_tokens, end.usage_events > 0);
        let mut events = vec![
            self.numbered_event(
                json!({"content_index": 0, "item_id": id, "logprobs": [], "output_index": 0, "text": text}),
                "response.output_text.done",
            ),
            self.numbered_event(
                json!({"content_index": 0, "item_id": id, "output_index": 0, "part": part}),
                "response.content_part.done",
            ),
            self.numbered_event(json!({"item": item, "output_index": 0}), "response.output_item.done"),
        ];
        if end.done {
            events.push(self.numbered_event(json!({"response": response}), "response.completed"));
        }
        events
    }

    fn set_cached_tokens(&mut self, tokens: u32) {
        self.cached_tokens = tokens;
    }

    fn error_events(&self) -> Vec<String> {
        let error = json!({"code": "server_error", "message": ENGINE_FAILURE});
        let mut response = self.response_object("failed", &[], &Value::Null, &Value::Null);
        response["error"] = error;
        vec![named_sse_event(&json!({"response": response, "type": "response.failed"}))]
    }

    fn full_response(&self, full: FullOutput<'_>) -> Value {
        self.finished_response(&full.first_text(), full.finish_reason, full.generated_tokens, full.include_usage)
    }
}

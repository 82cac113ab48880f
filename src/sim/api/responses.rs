//! `/v1/responses`, with the events of vLLM 0.32 in their order.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Dialect, Ending, FAILURE, Named, Whole, named_event, text};
use crate::sim::{
    events::Chunk,
    request::{self, Body, Refusal},
};

#[derive(Deserialize)]
struct Request {
    model: Option<String>,
    input: Input,
    instructions: Option<String>,
    max_output_tokens: Option<i64>,
    stream: Option<bool>,
    ignore_eos: Option<bool>,
    vb_fault: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Input {
    Text(String),
    Messages(Vec<Value>),
}

/// The request in vLLM's words: a text is a message of the user, and instructions one of the system.
pub fn body(bytes: &[u8]) -> Result<Body, Refusal> {
    let request: Request = request::parse(bytes)?;
    let input = match request.input {
        Input::Text(text) => vec![json!({"role": "user", "content": text})],
        Input::Messages(messages) => messages,
    };
    let system = request.instructions.map(|text| json!({"role": "system", "content": text}));
    Ok(Body {
        model: request.model,
        messages: Some(system.into_iter().chain(input).collect()),
        max_tokens: request.max_output_tokens,
        stream: request.stream,
        ignore_eos: request.ignore_eos,
        vb_fault: request.vb_fault,
        ..Body::default()
    })
}

/// How it is written.
pub struct Responses {
    named: Named,
    text: String,
    cached: u32,
    sequence: u32,
}

impl Responses {
    /// For one answer.
    pub fn new(named: Named) -> Self {
        Responses { named, text: String::new(), cached: 0, sequence: 0 }
    }

    fn item_id(&self) -> String {
        format!("msg_{}", self.named.name)
    }

    fn event(&mut self, mut data: Value, kind: &str) -> String {
        data["sequence_number"] = self.sequence.into();
        data["type"] = kind.into();
        // Those of an event itself are in the order of the alphabet.
        if let Value::Object(keys) = &mut data {
            keys.sort_keys();
        }
        self.sequence += 1;
        named_event(&data)
    }

    fn item(&self, text: Option<&str>, status: &str) -> Value {
        let content: Vec<Value> = text
            .map(|text| json!({"annotations": [], "text": text, "type": "output_text", "logprobs": null}))
            .into_iter()
            .collect();
        json!({"id": self.item_id(), "content": content, "role": "assistant", "status": status, "type": "message",
            "phase": null})
    }

    fn response(&self, status: &str, output: &[Value], incomplete: &Value, usage: &Value) -> Value {
        json!({"id": format!("resp_{}", self.named.name), "created_at": self.named.created,
            "incomplete_details": incomplete, "instructions": null, "metadata": null, "model": self.named.model,
            "object": "response", "output": output, "parallel_tool_calls": true, "temperature": 1.0,
            "tool_choice": "none", "tools": [], "top_p": 1.0, "background": false,
            "max_output_tokens": self.named.max_tokens, "max_tool_calls": null, "previous_response_id": null,
            "prompt": null, "reasoning": null, "service_tier": "auto", "status": status, "text": null,
            "top_logprobs": null, "truncation": "disabled", "usage": usage, "user": null, "presence_penalty": 0.0,
            "frequency_penalty": 0.0, "kv_transfer_params": null, "ec_transfer_params": null, "input_messages": null,
            "output_messages": null})
    }

    fn finished(&self, text: &str, finish: &str, generated: u32, with_usage: bool) -> Value {
        let whole = finish != "length";
        let incomplete = if whole { Value::Null } else { json!({"reason": "max_output_tokens"}) };
        let prompt = self.named.prompt_tokens;
        let usage = json!({"input_tokens": prompt, "input_tokens_details": {"cached_tokens": self.cached,
            "cache_write_tokens": 0, "input_tokens_per_turn": [], "cached_tokens_per_turn": []}, "output_tokens": generated,
            "output_tokens_details": {"reasoning_tokens": 0, "tool_output_tokens": 0, "output_tokens_per_turn": [],
            "tool_output_tokens_per_turn": []}, "total_tokens": prompt + generated});
        let usage = if with_usage { usage } else { Value::Null };
        let status = if whole { "completed" } else { "incomplete" };
        self.response(status, &[self.item(Some(text), "completed")], &incomplete, &usage)
    }
}

impl Dialect for Responses {
    fn opening(&mut self) -> Vec<String> {
        let response = self.response("in_progress", &[], &Value::Null, &Value::Null);
        let (item, id) = (self.item(None, "in_progress"), self.item_id());
        let part = json!({"annotations": [], "text": "", "type": "output_text", "logprobs": []});
        vec![
            self.event(json!({"response": response}), "response.created"),
            self.event(json!({"response": response}), "response.in_progress"),
            self.event(json!({"item": item, "output_index": 0}), "response.output_item.added"),
            self.event(
                json!({"content_index": 0, "item_id": id, "output_index": 0, "part": part}),
                "response.content_part.added",
            ),
        ]
    }

    fn chunk(&mut self, chunk: Chunk<'_>) -> String {
        self.text.push_str(text(&chunk));
        let (id, delta) = (self.item_id(), text(&chunk));
        let data = json!({"content_index": 0, "delta": delta, "item_id": id, "logprobs": [], "output_index": 0});
        self.event(data, "response.output_text.delta")
    }

    fn ending(&mut self, ending: Ending<'_>) -> Vec<String> {
        let (id, text) = (self.item_id(), self.text.clone());
        let part = json!({"annotations": [], "text": text, "type": "output_text", "logprobs": null});
        let item = self.item(Some(&text), "completed");
        let response = self.finished(&text, ending.finish, ending.generated, ending.usages > 0);
        let mut events = vec![
            self.event(
                json!({"content_index": 0, "item_id": id, "logprobs": [], "output_index": 0, "text": text}),
                "response.output_text.done",
            ),
            self.event(
                json!({"content_index": 0, "item_id": id, "output_index": 0, "part": part}),
                "response.content_part.done",
            ),
            self.event(json!({"item": item, "output_index": 0}), "response.output_item.done"),
        ];
        if ending.done {
            events.push(self.event(json!({"response": response}), "response.completed"));
        }
        events
    }

    fn set_cached_tokens(&mut self, tokens: u32) {
        self.cached = tokens;
    }

    fn error(&self) -> Vec<String> {
        let error = json!({"code": "server_error", "message": FAILURE});
        let mut response = self.response("failed", &[], &Value::Null, &Value::Null);
        response["error"] = error;
        vec![named_event(&json!({"response": response, "type": "response.failed"}))]
    }

    fn whole(&self, whole: Whole<'_>) -> Option<Value> {
        Some(self.finished(whole.text, whole.finish, whole.generated, whole.usage))
    }
}

//! OpenAI's `/v1/completions` and `/v1/chat/completions`, byte for byte as vLLM 0.32 writes them.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::sim::{
    dialect::{ChunkContent, DONE_EVENT, Dialect, FullOutput, ResponseMeta, StreamEnd, TextKind, openai_error_event},
    logprobs,
};

/// The `system_fingerprint` of responses.
const FINGERPRINT: &str = concat!("vb-sim-", env!("CARGO_PKG_VERSION"));

/// Writes completions and chat completions.
#[derive(Debug)]
pub struct OpenAiDialect {
    meta: ResponseMeta,
    chat: bool,
    id: String,
    /// The beginning that all chunks share, up to and including the bracket of `choices`.
    head: String,
    cached_tokens: u32,
}

impl OpenAiDialect {
    /// For one response; `chat`: chat completions.
    pub fn new(chat: bool, meta: ResponseMeta) -> Self {
        let (prefix, object) = if chat { ("chatcmpl", "chat.completion.chunk") } else { ("cmpl", "text_completion") };
        let id = format!("{prefix}-{}", meta.request_id);
        let (json_id, model, created) = (json!(id), json!(meta.model), meta.created);
        let head =
            format!(r#"data: {{"id":{json_id},"object":"{object}","created":{created},"model":{model},"choices":["#);
        OpenAiDialect { meta, chat, id, head, cached_tokens: 0 }
    }

    /// The event with the role, which opens a choice of a chat.
    fn role_event(&self, choice: usize) -> String {
        let mut event = self.head.clone();
        // Writing to a string cannot fail.
        let _ = write!(event, r#"{{"index":{choice},"#);
        event.push_str(r#""delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]"#);
        self.push_continuous_usage(&mut event, 0);
        event.push_str(",\"prompt_token_ids\":");
        push_ids(&mut event, self.prompt_of_choice(choice));
        event.push_str(",\"prompt_text\":null}\n\n");
        event
    }

    /// The prompt of a choice, if the client asked for token ids.
    fn prompt_of_choice(&self, choice: usize) -> Option<&[u32]> {
        self.meta.prompt_ids.as_ref()?.get(choice / self.meta.n.max(1)).map(Vec::as_slice)
    }

    fn returns_ids(&self) -> bool {
        self.meta.prompt_ids.is_some()
    }

    fn push_completion_choice(&self, event: &mut String, chunk: ChunkContent<'_>) {
        let _ = write!(event, r#"{{"index":{},"text":""#, chunk.choice);
        event.extend([chunk.text, r#"","logprobs":"#, chunk.logprobs.unwrap_or("null"), r#","finish_reason":"#]);
        push_reason(event, chunk.finish_reason);
        event.push_str(r#","stop_reason":null,"prompt_token_ids":"#);
        push_ids(event, self.prompt_of_choice(chunk.choice).filter(|_| chunk.first));
        event.push_str(",\"token_ids\":");
        push_ids(event, self.returns_ids().then_some(chunk.ids));
    }

    fn push_chat_choice(&self, event: &mut String, chunk: ChunkContent<'_>) {
        let _ = write!(event, r#"{{"index":{},"delta":{{"#, chunk.choice);
        match chunk.kind {
            TextKind::Content => event.extend([r#""content":""#, chunk.text, "\""]),
            TextKind::Reasoning(key) => event.extend(["\"", key, r#"":""#, chunk.text, "\""]),
            TextKind::ToolCall(name) if chunk.first => {
                event.push_str(r#""tool_calls":[{"id":"call_0","type":"function","index":0,"function":{"name":"#);
                event.extend([&json!(name).to_string(), r#","arguments":""#, chunk.text, "\"}}]"]);
            }
            TextKind::ToolCall(_) => {
                event.extend([r#""tool_calls":[{"index":0,"function":{"arguments":""#, chunk.text, "\"}}]"]);
            }
        }
        event.extend([r#"},"logprobs":"#, chunk.logprobs.unwrap_or("null"), r#","finish_reason":"#]);
        push_reason(event, chunk.finish_reason);
        if chunk.finish_reason.is_some() {
            event.push_str(",\"stop_reason\":null");
        }
        event.push_str(",\"token_ids\":");
        push_ids(event, self.returns_ids().then_some(chunk.ids));
    }

    fn push_continuous_usage(&self, event: &mut String, generated_tokens: u32) {
        if self.meta.continuous_usage {
            let mut usage = self.usage_json(generated_tokens, None);
            if self.chat {
                usage.insert_str(usage.len() - 1, ",\"completion_tokens_details\":null");
            }
            event.extend([",\"usage\":", &usage]);
        }
    }

    /// The event with the usage and without choices.
    fn usage_event(&self, usage: &str) -> String {
        let mut event = self.head.clone();
        event.extend(["],\"usage\":", usage]);
        push_fingerprint(&mut event);
        event.push_str("}\n\n");
        event
    }

    fn full_completion_choice(&self, choice: usize, full: FullOutput<'_>) -> Value {
        let output: &[u32] = &full.outputs[choice];
        let logprobs = full.logprobs.map(|top| logprobs::completion_logprobs(full.vocabulary, output, top, 0));
        json!({"index": choice, "text": full.vocabulary.join_texts(output), "logprobs": logprobs,
            "finish_reason": full.finish_reason, "stop_reason": null, "token_ids": self.returns_ids().then_some(output),
            "prompt_logprobs": null, "prompt_token_ids": self.prompt_of_choice(choice), "routed_experts": null})
    }

    fn full_chat_choice(&self, choice: usize, full: FullOutput<'_>) -> Value {
        let output: &[u32] = &full.outputs[choice];
        let text = full.vocabulary.join_texts(output);
        let mut message = json!({"role": "assistant", "content": text, "refusal": null, "annotations": null,
            "audio": null, "function_call": null});
        if let Some(tool) = full.tool {
            message["content"] = "".into();
            message["tool_calls"] = json!([{"id": "call_0", "type": "function",
                "function": {"name": tool, "arguments": text}}]);
        }
        message["reasoning"] = Value::Null;
        let logprobs = full.logprobs.map(|top| logprobs::chat_logprobs(full.vocabulary, output, top));
        json!({"index": choice, "message": message, "logprobs": logprobs, "finish_reason": full.finish_reason,
            "stop_reason": null, "token_ids": self.returns_ids().then_some(output), "routed_experts": null})
    }
}

impl Dialect for OpenAiDialect {
    fn opening_events(&mut self) -> Vec<String> {
        if self.chat { (0..self.meta.total_choices).map(|choice| self.role_event(choice)).collect() } else { vec![] }
    }

    fn encode_chunk(&mut self, chunk: ChunkContent<'_>) -> String {
        let mut event = String::with_capacity(self.head.len() + chunk.text.len() + 224);
        event.push_str(&self.head);
        if self.chat {
            self.push_chat_choice(&mut event, chunk);
        } else {
            self.push_completion_choice(&mut event, chunk);
        }
        event.push_str("}]");
        match chunk.usage {
            Some(usage) => event.extend([",\"usage\":", usage]),
            None => self.push_continuous_usage(&mut event, chunk.generated_tokens),
        }
        if chunk.fingerprint {
            push_fingerprint(&mut event);
        }
        event.push_str("}\n\n");
        event
    }

    fn ending_events(&mut self, end: StreamEnd<'_>) -> Vec<String> {
        let usages = (0..end.usage_events).map(|_| self.usage_event(end.usage));
        usages.chain(end.done.then(|| DONE_EVENT.into())).collect()
    }

    fn is_chat(&self) -> bool {
        self.chat
    }

    /// As vLLM does, mentions prefix cache hits only if there were any.
    fn usage_json(&self, generated_tokens: u32, reasoning_tokens: Option<u32>) -> String {
        let prompt = self.meta.prompt_tokens;
        let total = prompt + generated_tokens;
        let mut usage =
            format!(r#"{{"prompt_tokens":{prompt},"total_tokens":{total},"completion_tokens":{generated_tokens}"#);
        // Writing to a string cannot fail.
        if self.cached_tokens > 0 {
            let _ = write!(usage, r#","prompt_tokens_details":{{"cached_tokens":{}}}"#, self.cached_tokens);
        }
        if let Some(reasoning) = reasoning_tokens {
            let _ = write!(usage, r#","completion_tokens_details":{{"reasoning_tokens":{reasoning}}}"#);
        }
        usage.push('}');
        usage
    }

    fn reports_abort(&self) -> bool {
        true
    }

    fn set_cached_tokens(&mut self, tokens: u32) {
        self.cached_tokens = tokens;
    }

    fn error_events(&self) -> Vec<String> {
        vec![openai_error_event(), DONE_EVENT.into()]
    }

    fn truncated_event(&self) -> String {
        format!("{}{{\"index\":0,\n\n", self.head)
    }

    fn full_response(&self, full: FullOutput<'_>) -> Value {
        let prompt = self.meta.prompt_tokens;
        let details = (self.cached_tokens > 0).then(|| json!({"cached_tokens": self.cached_tokens}));
        let usage = full.include_usage.then(|| {
            json!({"prompt_tokens": prompt, "total_tokens": prompt + full.generated_tokens,
                "completion_tokens": full.generated_tokens, "prompt_tokens_details": details,
                "completion_tokens_details": null})
        });
        let choices = 0..full.outputs.len();
        if self.chat {
            let choices: Vec<Value> = choices.map(|choice| self.full_chat_choice(choice, full)).collect();
            return json!({"id": self.id, "object": "chat.completion", "created": self.meta.created,
                "model": self.meta.model, "choices": choices, "service_tier": null, "system_fingerprint": FINGERPRINT,
                "usage": usage, "prompt_logprobs": null, "prompt_token_ids": self.prompt_of_choice(0),
                "prompt_text": null, "kv_transfer_params": null, "ec_transfer_params": null, "metrics": null});
        }
        let choices: Vec<Value> = choices.map(|choice| self.full_completion_choice(choice, full)).collect();
        json!({"id": self.id, "object": "text_completion", "created": self.meta.created, "model": self.meta.model,
            "choices": choices, "service_tier": null, "system_fingerprint": FINGERPRINT, "usage": usage,
            "kv_transfer_params": null, "ec_transfer_params": null, "metrics": null})
    }
}

fn push_fingerprint(event: &mut String) {
    event.extend([",\"system_fingerprint\":\"", FINGERPRINT, "\""]);
}

fn push_reason(event: &mut String, reason: Option<&str>) {
    match reason {
        Some(reason) => event.extend(["\"", reason, "\""]),
        None => event.push_str("null"),
    }
}

fn push_ids(event: &mut String, ids: Option<&[u32]>) {
    let Some(ids) = ids else { return event.push_str("null") };
    event.push('[');
    for (place, id) in ids.iter().enumerate() {
        let comma = if place > 0 { "," } else { "" };
        // Writing to a string cannot fail.
        let _ = write!(event, "{comma}{id}");
    }
    event.push(']');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialect(chat: bool, request_id: &str, model: &str, prompt_tokens: u32) -> OpenAiDialect {
        let (request_id, model) = (request_id.into(), model.into());
        let meta = ResponseMeta {
            request_id,
            created: 17,
            model,
            prompt_tokens,
            n: 1,
            total_choices: 1,
            ..Default::default()
        };
        OpenAiDialect::new(chat, meta)
    }

    /// The bytes of a real vLLM 0.32, apart from its fingerprint.
    #[test]
    fn the_events_match_vllm() {
        let fingerprint = format!("\"system_fingerprint\":\"{FINGERPRINT}\"");
        let mut text = dialect(false, "1", "tiny", 4);
        let chunk =
            ChunkContent { text: " hi", ids: &[7], generated_tokens: 1, first: true, ..ChunkContent::default() };
        let head = r#"data: {"id":"cmpl-1","object":"text_completion","created":17,"model":"tiny","choices":["#;
        let plain = r#"{"index":0,"text":" hi","logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":null}]"#;
        assert_eq!(text.encode_chunk(chunk), format!("{head}{plain}}}\n\n"));
        let last = ChunkContent { finish_reason: Some("length"), fingerprint: true, ..chunk };
        let ending = plain.replace(r#""finish_reason":null"#, r#""finish_reason":"length""#);
        assert_eq!(text.encode_chunk(last), format!("{head}{ending},{fingerprint}}}\n\n"));
        text.meta.continuous_usage = true;
        let usage = r#"{"prompt_tokens":4,"total_tokens":5,"completion_tokens":1}"#;
        assert_eq!(text.encode_chunk(chunk), format!("{head}{plain},\"usage\":{usage}}}\n\n"));
        assert_eq!(
            text.usage_event(&text.usage_json(1, None)),
            format!("{head}],\"usage\":{usage},{fingerprint}}}\n\n")
        );
        text.meta.continuous_usage = false;
        text.meta.prompt_ids = Some(vec![vec![1, 2]]);
        let ids =
            plain.replace(r#"prompt_token_ids":null,"token_ids":null"#, r#"prompt_token_ids":[1,2],"token_ids":[7]"#);
        assert_eq!(text.encode_chunk(chunk), format!("{head}{ids}}}\n\n"));
    }

    #[test]
    fn the_events_of_a_chat_match_vllm() {
        let mut chat = dialect(true, "1", "tiny", 10);
        let head =
            r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":17,"model":"tiny","choices":["#;
        let role = r#"{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"prompt_token_ids":null,"prompt_text":null}"#;
        assert_eq!(chat.role_event(0), format!("{head}{role}\n\n"));
        let chunk = ChunkContent { text: " hi", ids: &[7], generated_tokens: 1, ..ChunkContent::default() };
        let plain = r#"{"index":0,"delta":{"content":" hi"},"logprobs":null,"finish_reason":null,"token_ids":null}]}"#;
        assert_eq!(chat.encode_chunk(chunk), format!("{head}{plain}\n\n"));
        let ending = plain.replace(r#""finish_reason":null"#, r#""finish_reason":"length","stop_reason":null"#);
        let last = ChunkContent { finish_reason: Some("length"), ..chunk };
        assert_eq!(chat.encode_chunk(last), format!("{head}{ending}\n\n"));
        chat.meta.continuous_usage = true;
        let usage =
            r#""usage":{"prompt_tokens":10,"total_tokens":11,"completion_tokens":1,"completion_tokens_details":null}"#;
        assert_eq!(chat.encode_chunk(chunk), format!("{head}{},{usage}}}\n\n", &plain[..plain.len() - 1]));
    }

    #[test]
    fn every_event_is_json() {
        let mut chat = dialect(true, "a\"b", "m\\n", 3);
        chat.cached_tokens = 2;
        let kinds = [TextKind::Content, TextKind::Reasoning("reasoning"), TextKind::ToolCall("a\"b")];
        let chunks = kinds
            .iter()
            .flat_map(|kind| [true, false].map(|first| ChunkContent { kind: *kind, first, ..ChunkContent::default() }));
        let usage = chat.usage_event(&chat.usage_json(4, Some(2)));
        let role = chat.role_event(1);
        for event in chunks.map(|chunk| chat.encode_chunk(chunk)).chain([role, usage, openai_error_event()]) {
            let json = event.strip_prefix("data: ").unwrap().strip_suffix("\n\n").unwrap();
            serde_json::from_str::<Value>(json).unwrap_or_else(|e| panic!("{e}: {json}"));
        }
        assert!(serde_json::from_str::<Value>(&chat.truncated_event()[6..]).is_err());
    }
}

//! The server-sent events of an answer, byte for byte as vLLM 0.32 writes them.

use std::fmt::Write;

use serde_json::{Value, json};

use super::api::{Dialect, Ending};

/// The event that ends a stream.
pub const DONE: &str = "data: [DONE]\n\n";

/// How the events of one answer look. What stays the same in all of them is made once.
#[derive(Debug)]
pub struct Format {
    chat: bool,
    /// An event up to and with the bracket of `choices`.
    head: String,
    /// Tokens of the prompt.
    prompt_tokens: u32,
    /// Of those, the ones from the prefix cache.
    pub cached_tokens: u32,
    /// Whether events tell the usage so far.
    pub continuous_usage: bool,
    /// The tokens of the prompts for their first events, when token ids were asked for.
    pub prompt_ids: Option<Vec<Vec<u32>>>,
    /// Answers to each prompt.
    pub n: usize,
    /// Answers to all prompts.
    pub answers: usize,
}

/// What an event brings.
#[derive(Debug, Clone, Copy, Default)]
pub struct Chunk<'a> {
    /// Which of several answers it belongs to.
    pub answer: usize,
    /// Its text, without need of escapes.
    pub text: &'a str,
    /// Its tokens.
    pub ids: &'a [u32],
    /// What kind of text it is.
    pub part: Part<'a>,
    /// How likely its tokens were, as JSON, where that was asked for.
    pub logprobs: Option<&'a str>,
    /// Why the answer ends here, if it does.
    pub finish: Option<&'a str>,
    /// Tokens up to and with these.
    pub generated: u32,
    /// Whether nothing came before it.
    pub first: bool,
    /// A usage to add, whether or not events tell it.
    pub usage: Option<&'a str>,
    /// Whether the server's name is added.
    pub fingerprint: bool,
}

/// The kinds of text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Part<'a> {
    /// The answer proper.
    #[default]
    Content,
    /// Thoughts, under this key.
    Reasoning(&'static str),
    /// The arguments of a call of this tool.
    ToolCall(&'a str),
}

impl Format {
    /// The format of the answer to one request.
    #[must_use]
    pub fn new(chat: bool, id: &str, created: u64, model: &str, prompt_tokens: u32) -> Self {
        let object = if chat { "chat.completion.chunk" } else { "text_completion" };
        let (id, model) = (json!(id), json!(model));
        let head = format!(r#"data: {{"id":{id},"object":"{object}","created":{created},"model":{model},"choices":["#);
        let (cached_tokens, continuous_usage, prompt_ids) = (0, false, None);
        Format { chat, head, prompt_tokens, cached_tokens, continuous_usage, prompt_ids, n: 1, answers: 1 }
    }

    /// The event with the role, which opens an answer of a chat.
    #[must_use]
    pub fn role(&self, answer: usize) -> String {
        let mut event = self.head.clone();
        // Writing to a string cannot fail.
        let _ = write!(event, r#"{{"index":{answer},"#);
        event.push_str(r#""delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]"#);
        self.push_continuous_usage(&mut event, 0);
        event.push_str(",\"prompt_token_ids\":");
        push_ids(&mut event, self.prompt_of(answer));
        event.push_str(",\"prompt_text\":null}\n\n");
        event
    }

    /// An event with tokens, or with a finish reason, or with neither.
    fn event(&self, chunk: Chunk<'_>) -> String {
        let mut event = String::with_capacity(self.head.len() + chunk.text.len() + 224);
        event.push_str(&self.head);
        if self.chat {
            self.push_delta(&mut event, chunk);
        } else {
            self.push_choice(&mut event, chunk);
        }
        event.push_str("}]");
        match chunk.usage {
            Some(usage) => event.extend([",\"usage\":", usage]),
            None => self.push_continuous_usage(&mut event, chunk.generated),
        }
        if chunk.fingerprint {
            push_fingerprint(&mut event);
        }
        event.push_str("}\n\n");
        event
    }

    /// The prompt that an answer is to, when token ids were asked for.
    fn prompt_of(&self, answer: usize) -> Option<&[u32]> {
        self.prompt_ids.as_ref()?.get(answer / self.n.max(1)).map(Vec::as_slice)
    }

    fn push_choice(&self, event: &mut String, chunk: Chunk<'_>) {
        let _ = write!(event, r#"{{"index":{},"text":""#, chunk.answer);
        event.extend([chunk.text, r#"","logprobs":"#, chunk.logprobs.unwrap_or("null"), r#","finish_reason":"#]);
        push_reason(event, chunk.finish);
        event.push_str(r#","stop_reason":null,"prompt_token_ids":"#);
        push_ids(event, self.prompt_of(chunk.answer).filter(|_| chunk.first));
        event.push_str(",\"token_ids\":");
        push_ids(event, self.prompt_ids.as_ref().map(|_| chunk.ids));
    }

    fn push_delta(&self, event: &mut String, chunk: Chunk<'_>) {
        let _ = write!(event, r#"{{"index":{},"delta":{{"#, chunk.answer);
        match chunk.part {
            Part::Content => event.extend([r#""content":""#, chunk.text, "\""]),
            Part::Reasoning(key) => event.extend(["\"", key, r#"":""#, chunk.text, "\""]),
            Part::ToolCall(name) if chunk.first => {
                event.push_str(r#""tool_calls":[{"id":"call_0","type":"function","index":0,"function":{"name":"#);
                event.extend([&json!(name).to_string(), r#","arguments":""#, chunk.text, "\"}}]"]);
            }
            Part::ToolCall(_) => {
                event.extend([r#""tool_calls":[{"index":0,"function":{"arguments":""#, chunk.text, "\"}}]"]);
            }
        }
        event.extend([r#"},"logprobs":"#, chunk.logprobs.unwrap_or("null"), r#","finish_reason":"#]);
        push_reason(event, chunk.finish);
        if chunk.finish.is_some() {
            event.push_str(",\"stop_reason\":null");
        }
        event.push_str(",\"token_ids\":");
        push_ids(event, self.prompt_ids.as_ref().map(|_| chunk.ids));
    }

    fn push_continuous_usage(&self, event: &mut String, generated: u32) {
        if self.continuous_usage {
            let mut usage = self.counts(generated, None);
            if self.chat {
                usage.insert_str(usage.len() - 1, ",\"completion_tokens_details\":null");
            }
            event.extend([",\"usage\":", &usage]);
        }
    }

    /// The event with the usage and without choices.
    #[must_use]
    pub fn usage_event(&self, usage: &str) -> String {
        let mut event = self.head.clone();
        event.extend(["],\"usage\":", usage]);
        push_fingerprint(&mut event);
        event.push_str("}\n\n");
        event
    }

    /// The usage as JSON. The prefix cache is told when it gave something, as vLLM does.
    fn counts(&self, generated: u32, reasoning: Option<u32>) -> String {
        let prompt = self.prompt_tokens;
        let total = prompt + generated;
        let mut usage = format!(r#"{{"prompt_tokens":{prompt},"total_tokens":{total},"completion_tokens":{generated}"#);
        // Writing to a string cannot fail.
        if self.cached_tokens > 0 {
            let _ = write!(usage, r#","prompt_tokens_details":{{"cached_tokens":{}}}"#, self.cached_tokens);
        }
        if let Some(reasoning) = reasoning {
            let _ = write!(usage, r#","completion_tokens_details":{{"reasoning_tokens":{reasoning}}}"#);
        }
        usage.push('}');
        usage
    }

    /// The event that tells of an error of the engine.
    #[must_use]
    pub fn failure() -> String {
        format!("data: {}\n\n", error_body(500, "InternalServerError", None, "EngineCore encountered an issue."))
    }
}

impl Dialect for Format {
    fn opening(&mut self) -> Vec<String> {
        if self.chat { (0..self.answers).map(|answer| self.role(answer)).collect() } else { vec![] }
    }

    fn chunk(&mut self, chunk: Chunk<'_>) -> String {
        self.event(chunk)
    }

    fn ending(&mut self, ending: Ending<'_>) -> Vec<String> {
        let usages = (0..ending.usages).map(|_| self.usage_event(ending.usage));
        usages.chain(ending.done.then(|| DONE.into())).collect()
    }

    fn is_chat(&self) -> bool {
        self.chat
    }

    fn usage(&self, generated: u32, reasoning: Option<u32>) -> String {
        self.counts(generated, reasoning)
    }

    fn tells_abort(&self) -> bool {
        true
    }

    fn set_cached_tokens(&mut self, tokens: u32) {
        self.cached_tokens = tokens;
    }

    fn error(&self) -> Vec<String> {
        vec![Format::failure(), DONE.into()]
    }

    fn broken(&self) -> String {
        format!("{}{{\"index\":0,\n\n", self.head)
    }
}

/// An error as vLLM words it.
#[must_use]
pub fn error_body(status: u16, kind: &str, param: Option<&str>, message: &str) -> Value {
    json!({"error": {"message": message, "type": kind, "param": param, "code": status}})
}

/// The server's name in answers.
pub const FINGERPRINT: &str = concat!("vb-sim-", env!("CARGO_PKG_VERSION"));

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

    /// The bytes of a real vLLM 0.32, its fingerprint aside.
    #[test]
    fn the_events_are_those_of_vllm() {
        let fingerprint = format!("\"system_fingerprint\":\"{FINGERPRINT}\"");
        let mut text = Format::new(false, "cmpl-1", 17, "tiny", 4);
        let chunk = Chunk { text: " hi", ids: &[7], generated: 1, first: true, ..Chunk::default() };
        let head = r#"data: {"id":"cmpl-1","object":"text_completion","created":17,"model":"tiny","choices":["#;
        let plain = r#"{"index":0,"text":" hi","logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":null}]"#;
        assert_eq!(text.chunk(chunk), format!("{head}{plain}}}\n\n"));
        let last = Chunk { finish: Some("length"), fingerprint: true, ..chunk };
        let ending = plain.replace(r#""finish_reason":null"#, r#""finish_reason":"length""#);
        assert_eq!(text.chunk(last), format!("{head}{ending},{fingerprint}}}\n\n"));
        text.continuous_usage = true;
        let usage = r#"{"prompt_tokens":4,"total_tokens":5,"completion_tokens":1}"#;
        assert_eq!(text.chunk(chunk), format!("{head}{plain},\"usage\":{usage}}}\n\n"));
        assert_eq!(text.usage_event(&text.usage(1, None)), format!("{head}],\"usage\":{usage},{fingerprint}}}\n\n"));
        text.continuous_usage = false;
        text.prompt_ids = Some(vec![vec![1, 2]]);
        let ids =
            plain.replace(r#"prompt_token_ids":null,"token_ids":null"#, r#"prompt_token_ids":[1,2],"token_ids":[7]"#);
        assert_eq!(text.chunk(chunk), format!("{head}{ids}}}\n\n"));
    }

    #[test]
    fn the_events_of_a_chat_are_those_of_vllm() {
        let mut chat = Format::new(true, "chatcmpl-1", 17, "tiny", 10);
        let head =
            r#"data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":17,"model":"tiny","choices":["#;
        let role = r#"{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"prompt_token_ids":null,"prompt_text":null}"#;
        assert_eq!(chat.role(0), format!("{head}{role}\n\n"));
        let chunk = Chunk { text: " hi", ids: &[7], generated: 1, ..Chunk::default() };
        let plain = r#"{"index":0,"delta":{"content":" hi"},"logprobs":null,"finish_reason":null,"token_ids":null}]}"#;
        assert_eq!(chat.chunk(chunk), format!("{head}{plain}\n\n"));
        let ending = plain.replace(r#""finish_reason":null"#, r#""finish_reason":"length","stop_reason":null"#);
        assert_eq!(chat.chunk(Chunk { finish: Some("length"), ..chunk }), format!("{head}{ending}\n\n"));
        chat.continuous_usage = true;
        let usage =
            r#""usage":{"prompt_tokens":10,"total_tokens":11,"completion_tokens":1,"completion_tokens_details":null}"#;
        assert_eq!(chat.chunk(chunk), format!("{head}{},{usage}}}\n\n", &plain[..plain.len() - 1]));
    }

    #[test]
    fn every_event_is_json() {
        let mut format = Format::new(true, "a\"b", 1, "m\\n", 3);
        format.cached_tokens = 2;
        let parts = [Part::Content, Part::Reasoning("reasoning"), Part::ToolCall("a\"b")];
        let chunks =
            parts.iter().flat_map(|part| [true, false].map(|first| Chunk { part: *part, first, ..Chunk::default() }));
        let usage = format.usage_event(&format.usage(4, Some(2)));
        let role = format.role(1);
        for event in chunks.map(|chunk| format.chunk(chunk)).chain([role, usage, Format::failure()]) {
            let json = event.strip_prefix("data: ").unwrap().strip_suffix("\n\n").unwrap();
            serde_json::from_str::<Value>(json).unwrap_or_else(|e| panic!("{e}: {json}"));
        }
        assert!(serde_json::from_str::<Value>(&format.broken()[6..]).is_err());
    }
}

//! The OpenAI API as vLLM speaks it: request bodies, and what a chunk of an answer holds.
//!
//! A request to `/v1/completions`, and one chunk of its answer:
//!
//! ```json
//! {"model":"m","prompt":"hi","max_tokens":16,"stream":true,"stream_options":{"include_usage":true}}
//! {"id":"cmpl-1","choices":[{"index":0,"text":" there","finish_reason":null}]}
//! ```
//!
//! To `/v1/chat/completions`:
//!
//! ```json
//! {"model":"m","messages":[{"role":"user","content":"hi"}],"max_completion_tokens":16,"stream":true,"stream_options":{"include_usage":true}}
//! {"id":"chatcmpl-1","choices":[{"index":0,"delta":{"content":" there"},"finish_reason":null}]}
//! ```

use std::borrow::Cow;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json, value::RawValue};
use smallvec::SmallVec;

use crate::record::{Object, Prompt, SampleRequest};

/// The API that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// `/v1/completions`.
    #[value(alias = "vllm")]
    Openai,
    /// `/v1/chat/completions`.
    OpenaiChat,
}

impl Backend {
    /// The name in flags and records, which is vLLM's.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Backend::Openai => "openai",
            Backend::OpenaiChat => "openai-chat",
        }
    }

    /// The usual path of its endpoint.
    #[must_use]
    pub fn endpoint(self) -> &'static str {
        match self {
            Backend::Openai => "/v1/completions",
            Backend::OpenaiChat => "/v1/chat/completions",
        }
    }

    /// The request body. `flags` are the sampling flags, `extra` is `--extra-body`; a request's own `body` wins over
    /// both.
    ///
    /// # Errors
    /// Says what the request lacks for this API.
    pub fn body(self, request: &SampleRequest, model: &str, flags: &Object, extra: &Object) -> Result<Object, String> {
        let mut body = Object::new();
        body.insert("model".into(), request.lora.as_deref().unwrap_or(model).into());
        let limit = match self {
            Backend::Openai => {
                body.insert("prompt".into(), completion_prompt(request)?);
                "max_tokens"
            }
            Backend::OpenaiChat => {
                body.insert("messages".into(), chat_messages(request)?);
                "max_completion_tokens"
            }
        };
        if let Some(tokens) = request.expected_output_len {
            body.insert(limit.into(), tokens.into());
        }
        body.insert("stream".into(), true.into());
        body.insert("stream_options".into(), json!({"include_usage": true}));
        for part in [Some(flags), Some(extra), request.body.as_ref()].into_iter().flatten() {
            body.extend(part.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        Ok(body)
    }
}

/// The environment's `OPENAI_API_KEY`, unless it is empty.
#[must_use]
pub fn api_key() -> Option<String> {
    std::env::var("OPENAI_API_KEY").ok().filter(|key| !key.is_empty())
}

fn completion_prompt(request: &SampleRequest) -> Result<Value, String> {
    if request.multi_modal_data.is_some() {
        return Err("`multi_modal_data` needs a chat: use --backend openai-chat".into());
    }
    match &request.prompt {
        Some(Prompt::Text(text)) => Ok(text.as_str().into()),
        Some(Prompt::Ids(ids)) => Ok(ids.as_slice().into()),
        Some(Prompt::Texts(_) | Prompt::IdLists(_)) => {
            Err("a list of prompts cannot be timed as one stream: send one a line".into())
        }
        None if request.messages.is_some() => {
            Err("the request has `messages`, not `prompt`: use --backend openai-chat".into())
        }
        None => Err("the request has no `prompt`".into()),
    }
}

fn chat_messages(request: &SampleRequest) -> Result<Value, String> {
    let mut messages = match (&request.messages, &request.prompt) {
        (Some(messages), _) => messages.clone(),
        (None, Some(Prompt::Text(text))) => vec![json!({"role": "user", "content": text})],
        (None, Some(_)) => return Err("token ids cannot be sent as a chat: use --backend openai".into()),
        (None, None) => return Err("the request has neither `messages` nor `prompt`".into()),
    };
    if let Some(parts) = &request.multi_modal_data {
        attach(&mut messages, parts)?;
    }
    Ok(messages.into())
}

/// Puts content parts behind the text of the last message.
fn attach(messages: &mut [Value], parts: &Value) -> Result<(), String> {
    let content = messages
        .last_mut()
        .and_then(|m| m.get_mut("content"))
        .ok_or("`multi_modal_data` needs a message with `content`")?;
    let mut all = match content.take() {
        Value::Array(list) => list,
        text => vec![json!({"type": "text", "text": text})],
    };
    match parts {
        Value::Array(list) => all.extend(list.iter().cloned()),
        part => all.push(part.clone()),
    }
    *content = all.into();
    Ok(())
}

/// One event of an answer, of either API, borrowed from its bytes.
#[derive(Debug, Default, Deserialize)]
pub struct Chunk<'a> {
    /// Pieces of the answer; none in the chunk that carries only usage.
    #[serde(borrow, default, deserialize_with = "or_default")]
    pub choices: SmallVec<[Choice<'a>; 1]>,
    /// Tokens so far, as the server counts them.
    #[serde(default)]
    pub usage: Option<Usage>,
    #[serde(borrow, default)]
    pub(super) error: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) object: Option<Text<'a>>,
    /// The server's own times.
    #[serde(default)]
    pub metrics: Option<Metrics>,
}

impl Chunk<'_> {
    /// Whether it is an error inside a stream that began well: `{"error":…}`, or the older `{"object":"error",…}`.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.error.is_some() || self.object.as_ref().is_some_and(|o| o.0 == "error")
    }
}

/// A piece of one of the answers.
#[derive(Debug, Default, Deserialize)]
pub struct Choice<'a> {
    /// Which of `n` answers.
    #[serde(default)]
    pub index: u32,
    /// Text of a completion.
    #[serde(borrow, default)]
    pub(super) text: Option<Text<'a>>,
    /// A piece of a chat.
    #[serde(borrow, default)]
    pub(super) delta: Option<Delta<'a>>,
    /// The ids of its tokens, where asked for (`return_token_ids`).
    #[serde(default)]
    pub(super) token_ids: Option<Vec<IgnoredAny>>,
    /// Why the answer ends here.
    #[serde(borrow, default)]
    pub finish_reason: Option<Text<'a>>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Delta<'a> {
    #[serde(default)]
    pub(super) role: Option<IgnoredAny>,
    #[serde(borrow, default)]
    pub(super) content: Option<Text<'a>>,
    #[serde(borrow, default)]
    pub(super) reasoning: Option<Text<'a>>,
    /// The older name, which other servers still use.
    #[serde(borrow, default)]
    pub(super) reasoning_content: Option<Text<'a>>,
    #[serde(default)]
    pub(super) tool_calls: Option<Vec<IgnoredAny>>,
    #[serde(default)]
    pub(super) function_call: Option<IgnoredAny>,
}

/// Text that borrows from the event unless it holds escapes.
#[derive(Debug, Default, Deserialize)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

/// A server's count of tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    #[serde(default)]
    pub prompt_tokens: Option<u32>,
    /// Tokens generated so far.
    #[serde(default)]
    pub completion_tokens: Option<u32>,
    #[serde(default)]
    prompt_tokens_details: Option<PromptDetails>,
    #[serde(default)]
    completion_tokens_details: Option<CompletionDetails>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: Option<u32>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
struct CompletionDetails {
    #[serde(default)]
    reasoning_tokens: Option<u32>,
}

impl Usage {
    /// Prompt tokens found in the prefix cache.
    #[must_use]
    pub fn cached_tokens(&self) -> Option<u32> {
        self.prompt_tokens_details.and_then(|d| d.cached_tokens)
    }

    /// Generated tokens that were reasoning.
    #[must_use]
    pub fn reasoning_tokens(&self) -> Option<u32> {
        self.completion_tokens_details.and_then(|d| d.reasoning_tokens)
    }
}

/// vLLM's times of a request, in milliseconds.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct Metrics {
    /// In the queue.
    #[serde(default)]
    pub queue_time_ms: Option<f64>,
    /// First turn → first token, as vLLM 0.32 has it.
    #[serde(default)]
    pub time_to_first_token_ms: Option<f64>,
}

fn or_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

impl Choice<'_> {
    /// The text of the answer proper.
    #[must_use]
    pub fn text(&self) -> &str {
        let chat = self.delta.as_ref().and_then(|d| d.content.as_ref());
        chat.or(self.text.as_ref()).map_or("", |t| &t.0)
    }

    /// The number of token ids that came with it.
    #[must_use]
    pub fn token_ids(&self) -> Option<usize> {
        self.token_ids.as_ref().map(Vec::len).filter(|n| *n > 0)
    }

    /// Whether it brings reasoning.
    #[must_use]
    pub fn reasons(&self) -> bool {
        let delta = self.delta.as_ref();
        delta.is_some_and(|d| filled(d.reasoning.as_ref()) || filled(d.reasoning_content.as_ref()))
    }

    /// Whether it bears a token of the answer proper: text or a call. Never the role that opens a chat, nor the empty
    /// end.
    #[must_use]
    pub fn answers(&self) -> bool {
        let called = self
            .delta
            .as_ref()
            .is_some_and(|d| d.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty()) || d.function_call.is_some());
        called || !self.text().is_empty()
    }

    /// Whether it opens a chat: it names the role.
    #[must_use]
    pub fn opens(&self) -> bool {
        self.delta.as_ref().is_some_and(|d| d.role.is_some())
    }

    /// Whether it bears a token at all.
    #[must_use]
    pub fn bears_token(&self) -> bool {
        self.answers() || self.reasons() || self.token_ids().is_some()
    }
}

fn filled(text: Option<&Text<'_>>) -> bool {
    text.is_some_and(|t| !t.0.is_empty())
}

/// The message of an error as servers phrase it, in one line: `{"error":{"message":…}}`, `{"error":"…"}`,
/// `{"message":…}`, `{"detail":…}`, or whatever text there is.
#[must_use]
pub fn error_message(body: &[u8]) -> String {
    const LONGEST: usize = 400;
    let value: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let error = value.get("error").unwrap_or(&value);
    let found = [error.get("message"), error.get("detail"), Some(error)];
    let text = match found.into_iter().flatten().find_map(Value::as_str) {
        Some(text) => text.to_owned(),
        None if value.is_null() => String::from_utf8_lossy(body).into_owned(),
        None => error.to_string(),
    };
    // Control characters would move about on the terminal that shows it.
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let mut line: String = words.collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = line.char_indices().nth(LONGEST) {
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> SampleRequest {
        serde_json::from_str(text).unwrap()
    }

    fn body(backend: Backend, line: &str) -> Result<String, String> {
        let flags = serde_json::from_str(r#"{"temperature":0.5,"top_p":0.9}"#).unwrap();
        let extra = serde_json::from_str(r#"{"top_p":0.8,"seed":1}"#).unwrap();
        backend.body(&request(line), "m", &flags, &extra).map(|b| serde_json::to_string(&b).unwrap())
    }

    #[test]
    fn bodies() {
        assert_eq!(
            body(Backend::Openai, r#"{"prompt":[1,2],"expected_output_len":4,"body":{"seed":2,"ignore_eos":true}}"#)
                .unwrap(),
            r#"{"model":"m","prompt":[1,2],"max_tokens":4,"stream":true,"stream_options":{"include_usage":true},"temperature":0.5,"top_p":0.8,"seed":2,"ignore_eos":true}"#
        );
        assert_eq!(
            body(Backend::OpenaiChat, r#"{"prompt":"hi","lora":"a","multi_modal_data":{"type":"image_url"}}"#).unwrap(),
            r#"{"model":"a","messages":[{"role":"user","content":[{"type":"text","text":"hi"},{"type":"image_url"}]}],"stream":true,"stream_options":{"include_usage":true},"temperature":0.5,"top_p":0.8,"seed":1}"#
        );
        assert!(body(Backend::Openai, r#"{"messages":[]}"#).unwrap_err().contains("--backend openai-chat"));
        assert!(body(Backend::OpenaiChat, r#"{"prompt":[1]}"#).unwrap_err().contains("--backend openai"));
        assert!(body(Backend::Openai, "{}").is_err());
    }

    #[test]
    fn what_bears_a_token() {
        for (choice, bears, answers) in [
            (r#"{"text":"a"}"#, true, true),
            (r#"{"text":""}"#, false, false),
            (r#"{"text":"","token_ids":[7]}"#, true, false),
            (r#"{"text":"","token_ids":[],"finish_reason":"length"}"#, false, false),
            (r#"{"delta":{"role":"assistant","content":""}}"#, false, false),
            (r#"{"delta":{"content":"\u00e9"}}"#, true, true),
            (r#"{"delta":{"content":null,"reasoning":"hm"}}"#, true, false),
            (r#"{"delta":{"reasoning_content":"hm"}}"#, true, false),
            (r#"{"delta":{"tool_calls":[{"index":0}]}}"#, true, true),
            (r#"{"delta":{"tool_calls":[]}}"#, false, false),
            (r#"{"delta":{},"finish_reason":"stop"}"#, false, false),
        ] {
            let choice: Choice = serde_json::from_str(choice).unwrap();
            assert_eq!((choice.bears_token(), choice.answers()), (bears, answers), "{choice:?}");
        }
    }

    #[test]
    fn errors_in_the_words_of_the_server() {
        for (body, want) in [
            (r#"{"error":{"message":"too\n long","code":400}}"#, "too long"),
            (r#"{"error":"\u001b[2Jbusy\u0000"}"#, "[2Jbusy"),
            (r#"{"error":"busy"}"#, "busy"),
            (r#"{"object":"error","message":"no"}"#, "no"),
            (r#"{"detail":"Not Found"}"#, "Not Found"),
            (r#"{"detail":[{"loc":1}]}"#, r#"{"detail":[{"loc":1}]}"#),
            ("<html>\n<b>Bad Gateway</b>", "<html> <b>Bad Gateway</b>"),
            ("", ""),
        ] {
            assert_eq!(error_message(body.as_bytes()), want);
        }
        assert_eq!(error_message("é".repeat(1000).as_bytes()).chars().count(), 401);
    }
}

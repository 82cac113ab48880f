//! Bodies of requests: what they may say, and how vLLM words a refusal.

use hyper::StatusCode;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    events::error_body,
    fault::Fault,
    vocabulary::{Length, Vocabulary, chat_text},
};
use crate::record::Prompt;

/// The most answers to a request.
const MOST_ANSWERS: usize = 1024;

/// vLLM's `--max-logprobs`.
const MOST_LIKELY: usize = 20;

/// A refusal: a status and vLLM's words.
#[derive(Debug, PartialEq)]
pub struct Refusal {
    /// The HTTP status.
    pub status: StatusCode,
    /// The body.
    pub body: Value,
}

impl Refusal {
    /// A request that cannot be served as it is; `param` is the part that is wrong.
    pub fn bad(param: Option<&str>, message: &str) -> Self {
        Refusal { status: StatusCode::BAD_REQUEST, body: error_body(400, "BadRequestError", param, message) }
    }

    /// A body that is not of the right form.
    fn invalid(param: &str, what: &str) -> Self {
        let message = format!("1 validation error:\n  {what}");
        Refusal { status: StatusCode::BAD_REQUEST, body: error_body(400, "Bad Request", Some(param), &message) }
    }

    fn unknown_model(model: &str, known: &[String]) -> Self {
        let message = format!("The model `{model}` does not exist. Valid aliases: {}.", known.join(", "));
        Refusal { status: StatusCode::NOT_FOUND, body: error_body(404, "NotFoundError", Some("model"), &message) }
    }
}

/// The keys of a generation request that matter here; vLLM's others are taken and ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Body {
    /// The model's name; absent: the only one.
    pub model: Option<String>,
    /// As vLLM has it.
    pub prompt: Option<Prompt>,
    /// As vLLM has it.
    pub messages: Option<Vec<Value>>,
    /// As vLLM has it.
    pub max_tokens: Option<i64>,
    /// As vLLM has it.
    pub max_completion_tokens: Option<i64>,
    /// As vLLM has it.
    pub min_tokens: Option<u32>,
    /// As vLLM has it.
    pub ignore_eos: Option<bool>,
    /// As vLLM has it.
    pub stream: Option<bool>,
    /// As vLLM has it.
    pub stream_options: Option<StreamOptions>,
    /// As vLLM has it.
    pub return_token_ids: Option<bool>,
    /// As vLLM has it.
    pub n: Option<i64>,
    /// As vLLM has it: a number, and a switch in a chat.
    pub logprobs: Option<Value>,
    /// As vLLM has it.
    pub top_logprobs: Option<i64>,
    /// As vLLM has it.
    pub tools: Option<Vec<Value>>,
    /// As vLLM has it.
    pub tool_choice: Option<Value>,
    /// As vLLM has it.
    pub vb_fault: Option<String>,
}

/// What a stream is to have beside the answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct StreamOptions {
    include_usage: Option<bool>,
    continuous_usage_stats: Option<bool>,
}

/// The keys of `/tokenize` and `/detokenize`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct TokenizeBody {
    /// The model's name; absent: the only one.
    pub model: Option<String>,
    prompt: Option<String>,
    messages: Option<Vec<Value>>,
    /// For `/detokenize`.
    pub tokens: Option<Vec<u32>>,
    /// Whether the text of each token is wanted.
    pub return_token_strs: Option<bool>,
}

/// A generation request that can be served.
#[derive(Debug)]
pub struct Ask {
    /// The model's name, as in the answer.
    pub model: String,
    /// The tokens of each prompt.
    pub prompts: Vec<Vec<u32>>,
    /// Answers to each prompt.
    pub n: usize,
    /// How many likely tokens are told for each token; `None`: not even how likely the token was.
    pub logprobs: Option<usize>,
    /// The tool that the answer has to call.
    pub tool: Option<Tool>,
    /// How long the answer may be.
    pub length: Length,
    /// Whether the answer is a stream.
    pub stream: bool,
    /// Whether the stream ends with the usage.
    pub include_usage: bool,
    /// Whether every event has it.
    pub continuous_usage: bool,
    /// Whether token ids are wanted.
    pub return_token_ids: bool,
    /// The fault that the request itself asks for.
    pub fault: Option<Fault>,
}

/// A tool that has to be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// Whether any would have done. vLLM then says that the answer ended with calls.
    pub any: bool,
}

/// Reads JSON of the form `T`.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes).map_err(|e| {
        let message = e.to_string().replace('\'', "`");
        if e.is_data() {
            return Refusal::invalid("body", &format!("{{'type': 'invalid', 'loc': 'body', 'msg': '{message}'}}"));
        }
        let place = format!("body.{}", e.column());
        let ctx = format!("'input': '<dict of 0 items>', 'ctx': {{'error': '{message}'}}");
        let what = format!("{{'type': 'json_invalid', 'loc': '{place}', 'msg': 'JSON decode error', {ctx}}}");
        Refusal::invalid(&place, &what)
    })
}

/// The refusal of a body that does not say that it is JSON.
pub fn not_json() -> Refusal {
    let message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed";
    Refusal { status: StatusCode::BAD_REQUEST, body: error_body(400, "Bad Request", None, message) }
}

/// The name of the model that is asked for, which must be one of `known`.
pub fn model(asked: Option<&str>, known: &[String]) -> Result<String, Refusal> {
    match asked.filter(|name| !name.is_empty()) {
        Some(name) if !known.iter().any(|k| k == name) => Err(Refusal::unknown_model(name, known)),
        Some(name) => Ok(name.to_owned()),
        None => Ok(known.first().cloned().unwrap_or_default()),
    }
}

impl Ask {
    /// Tokens of all prompts.
    pub fn prompt_tokens(&self) -> u32 {
        u32::try_from(self.prompts.iter().map(Vec::len).sum::<usize>()).unwrap_or(u32::MAX)
    }
}

impl Body {
    /// Checks a request for an endpoint as vLLM would.
    pub fn check(self, chat: bool, models: &[String], room: u32, vocabulary: &Vocabulary) -> Result<Ask, Refusal> {
        let model = model(self.model.as_deref(), models)?;
        let stream = self.stream.unwrap_or(false);
        if self.stream_options.is_some() && !stream {
            let message = "Stream options can only be defined when `stream=True`. (parameter=stream_options)";
            return Err(Refusal::bad(Some("stream_options"), message));
        }
        let n = self.n()?;
        let logprobs = if chat { self.chat_logprobs() } else { self.logprobs() }?;
        let tool = if chat { self.tool()? } else { None };
        let fault = self.vb_fault.as_deref().map(str::parse).transpose();
        let fault = fault.map_err(|e: String| Refusal::bad(Some("vb_fault"), &e))?;
        let prompts = if chat { vec![self.chat_tokens(vocabulary)?] } else { self.prompt_tokens(vocabulary)? };
        if prompts.len() * n > MOST_ANSWERS {
            let message = format!("vb-sim gives at most {MOST_ANSWERS} answers to a request. (parameter=n, value={n})");
            return Err(Refusal::bad(Some("n"), &message));
        }
        let longest = prompts.iter().map(Vec::len).max().unwrap_or_default();
        let max_tokens = self.max_tokens(chat, longest, room)?;
        let min_tokens = self.min_tokens.unwrap_or(0);
        let options = self.stream_options.unwrap_or_default();
        Ok(Ask {
            model,
            prompts,
            n,
            logprobs,
            tool,
            // What must not end before its limit ends there, and not with an end token.
            length: Length {
                max_tokens,
                min_tokens,
                ignore_eos: self.ignore_eos == Some(true) || min_tokens >= max_tokens,
            },
            stream,
            include_usage: options.include_usage.unwrap_or(false),
            continuous_usage: options.continuous_usage_stats.unwrap_or(false) && options.include_usage.unwrap_or(false),
            return_token_ids: self.return_token_ids.unwrap_or(false),
            fault,
        })
    }

    fn n(&self) -> Result<usize, Refusal> {
        let n = self.n.unwrap_or(1);
        usize::try_from(n)
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| Refusal::bad(Some("n"), &format!("n must be at least 1, got {n}. (parameter=n, value={n})")))
    }

    /// How many likely tokens a completion is to tell.
    fn logprobs(&self) -> Result<Option<usize>, Refusal> {
        let asked = self.logprobs.as_ref().filter(|asked| !asked.is_null());
        asked.map(|asked| likely("logprobs", asked.as_i64())).transpose()
    }

    /// How many likely tokens a chat is to tell.
    fn chat_logprobs(&self) -> Result<Option<usize>, Refusal> {
        let on = self.logprobs.as_ref() == Some(&Value::Bool(true));
        if !on && self.top_logprobs.is_some_and(|n| n > 0) {
            let message = "when using `top_logprobs`, `logprobs` must be set to true. (parameter=top_logprobs)";
            return Err(Refusal::bad(Some("top_logprobs"), message));
        }
        on.then(|| likely("top_logprobs", Some(self.top_logprobs.unwrap_or(0)))).transpose()
    }

    /// The tool that has to be called: the one that is named, or the first one where any will do.
    fn tool(&self) -> Result<Option<Tool>, Refusal> {
        let Some(choice) =
            self.tool_choice.as_ref().filter(|c| !matches!(c.as_str(), Some("auto" | "none")) && !c.is_null())
        else {
            return Ok(None);
        };
        let names: Vec<&str> =
            self.tools.iter().flatten().filter_map(|tool| tool["function"]["name"].as_str()).collect();
        let wanted = choice["function"]["name"].as_str();
        let found = match (choice.as_str(), wanted) {
            (Some("required"), _) => names.first().map(|name| (name, true)),
            (_, Some(wanted)) => names.iter().find(|name| **name == wanted).map(|name| (name, false)),
            _ => None,
        };
        found.map(|(name, any)| Some(Tool { name: (*name).to_owned(), any })).ok_or_else(|| {
            let message =
                "`tool_choice` must name one of `tools`, or be `required` where there are any. (parameter=tool_choice)";
            Refusal::bad(Some("tool_choice"), message)
        })
    }

    fn prompt_tokens(&self, vocabulary: &Vocabulary) -> Result<Vec<Vec<u32>>, Refusal> {
        let prompts = match &self.prompt {
            Some(Prompt::Text(text)) => vec![encode(vocabulary, text)?],
            Some(Prompt::Ids(ids)) => vec![ids.clone()],
            Some(Prompt::Texts(texts)) => {
                texts.iter().map(|text| encode(vocabulary, text)).collect::<Result<_, _>>()?
            }
            Some(Prompt::IdLists(lists)) => lists.clone(),
            None => Vec::new(),
        };
        if prompts.is_empty() || prompts.iter().any(Vec::is_empty) {
            let message = "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)";
            return Err(Refusal::bad(Some("prompt"), message));
        }
        Ok(prompts)
    }

    fn chat_tokens(&self, vocabulary: &Vocabulary) -> Result<Vec<u32>, Refusal> {
        let Some(messages) = &self.messages else { return Err(missing("messages")) };
        if messages.is_empty() {
            let message = "Cannot apply chat template to an empty conversation. Provide at least one message.";
            return Err(Refusal::bad(None, message));
        }
        encode_chat(vocabulary, messages)
    }

    /// The most tokens of the answer: what was asked for, as far as the model's length has room for it.
    fn max_tokens(&self, chat: bool, prompt: usize, room: u32) -> Result<u32, Refusal> {
        let asked = self.max_completion_tokens.filter(|_| chat).or(self.max_tokens);
        if let Some(asked) = asked.filter(|asked| *asked < 1) {
            let message = format!("max_tokens must be at least 1, got {asked}. (parameter=max_tokens, value={asked})");
            return Err(Refusal::bad(Some("max_tokens"), &message));
        }
        if let Some(asked) = asked.filter(|asked| *asked > i64::from(room)) {
            let message = format!(
                "max_tokens={asked} cannot be greater than max_model_len={room}. Please request fewer output tokens. \
                 (parameter=max_tokens, value={asked})"
            );
            return Err(Refusal::bad(Some("max_tokens"), &message));
        }
        let left = u32::try_from(prompt).ok().and_then(|prompt| room.checked_sub(prompt)).unwrap_or(0);
        if left == 0 {
            let message = format!(
                "This model's maximum context length is {room} tokens. However, your prompt contains at least {prompt} \
                 input tokens, which exceeds this limit even without any output tokens. Please reduce the length of \
                 the input prompt. (parameter=input_tokens, value={prompt})"
            );
            return Err(Refusal::bad(Some("input_tokens"), &message));
        }
        let default = if chat { left } else { 16 };
        Ok(asked.and_then(|asked| u32::try_from(asked).ok()).unwrap_or(default).min(left))
    }
}

impl TokenizeBody {
    /// The tokens of the prompt or the chat.
    pub fn tokens(&self, vocabulary: &Vocabulary) -> Result<Vec<u32>, Refusal> {
        match (&self.prompt, &self.messages) {
            (Some(text), _) => encode(vocabulary, text),
            (None, Some(messages)) => encode_chat(vocabulary, messages),
            (None, None) => Err(missing("prompt")),
        }
    }
}

/// How many likely tokens are told: what was asked for, as far as vLLM allows it.
fn likely(param: &str, asked: Option<i64>) -> Result<usize, Refusal> {
    asked.and_then(|asked| usize::try_from(asked).ok()).filter(|n| *n <= MOST_LIKELY).ok_or_else(|| {
        let asked = asked.map_or_else(|| "no number".into(), |asked| asked.to_string());
        let message = format!("{param} must be from 0 to {MOST_LIKELY}, got {asked}. (parameter={param})");
        Refusal::bad(Some(param), &message)
    })
}

/// The refusal of a body without a key that it needs.
pub fn missing(key: &str) -> Refusal {
    let place = format!("body.{key}");
    Refusal::invalid(&place, &format!("{{'type': 'missing', 'loc': '{place}', 'msg': 'Field required'}}"))
}

fn encode(vocabulary: &Vocabulary, text: &str) -> Result<Vec<u32>, Refusal> {
    vocabulary.encode(text).map_err(|e| Refusal::bad(Some("prompt"), &e.to_string()))
}

fn encode_chat(vocabulary: &Vocabulary, messages: &[Value]) -> Result<Vec<u32>, Refusal> {
    let text = chat_text(messages).map_err(|e| Refusal::bad(Some("messages"), &e))?;
    encode(vocabulary, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(chat: bool, body: &str) -> Result<Ask, Refusal> {
        let models = ["tiny".to_owned(), "lora".to_owned()];
        parse::<Body>(body.as_bytes())?.check(chat, &models, 20, &Vocabulary::builtin().unwrap())
    }

    #[test]
    fn the_defaults_are_those_of_vllm() {
        let ask = check(false, r#"{"prompt":[1,2,3],"a_key_of_tomorrow":{}}"#).unwrap();
        assert_eq!((ask.model.as_str(), ask.length.max_tokens, ask.stream), ("tiny", 16, false));
        let ask = check(true, r#"{"model":"lora","messages":[{"role":"user","content":"hi"}],"stream":null}"#).unwrap();
        assert_eq!(ask.length.max_tokens as usize, 20 - ask.prompts[0].len());
    }

    #[test]
    fn an_answer_never_outgrows_the_model() {
        let ask = check(false, r#"{"prompt":[1,2,3],"max_tokens":20}"#).unwrap();
        assert_eq!(ask.length.max_tokens, 17);
        let ids: Vec<u32> = (0..20).collect();
        let refusal = check(false, &format!(r#"{{"prompt":{ids:?}}}"#)).unwrap_err();
        assert!(refusal.body.to_string().contains("This model's maximum context length is 20 tokens. However, your"));
    }

    #[test]
    fn several_answers_are_asked_for_in_two_ways() {
        let ask = check(false, r#"{"prompt":["a b","c"],"n":3,"logprobs":2}"#).unwrap();
        assert_eq!((ask.prompts.len(), ask.n, ask.logprobs), (2, 3, Some(2)));
        let tools =
            r#""tools":[{"type":"function","function":{"name":"f"}},{"type":"function","function":{"name":"g"}}]"#;
        for (choice, want) in [
            (r#""auto""#, None),
            ("null", None),
            (r#""required""#, Some(("f", true))),
            (r#"{"type":"function","function":{"name":"g"}}"#, Some(("g", false))),
        ] {
            let chat = r#""messages":[{"role":"user","content":"hi"}],"logprobs":true"#;
            let ask = check(true, &format!(r#"{{{chat},{tools},"tool_choice":{choice}}}"#)).unwrap();
            let tool = ask.tool.as_ref().map(|tool| (tool.name.as_str(), tool.any));
            assert_eq!((tool, ask.logprobs), (want, Some(0)), "{choice}");
        }
    }

    #[test]
    fn refusals_are_worded_as_vllm_words_them() {
        for (chat, body, status, kind, start) in [
            (false, "{bad", 400, "Bad Request", "1 validation error:\n  {'type': 'json_invalid', 'loc': 'body.2'"),
            (false, "[1]", 400, "Bad Request", "1 validation error:\n"),
            (false, r#"{"prompt":"a","max_tokens":"x"}"#, 400, "Bad Request", "1 validation error:\n"),
            (false, r#"{"model":"no","prompt":"a"}"#, 404, "NotFoundError", "The model `no` does not exist. Valid"),
            (false, r#"{"prompt":""}"#, 400, "BadRequestError", "Either prompt or prompt_embeds must be provided"),
            (false, r#"{"prompt":"a","max_tokens":0}"#, 400, "BadRequestError", "max_tokens must be at least 1, got 0"),
            (
                false,
                r#"{"prompt":"a","max_tokens":21}"#,
                400,
                "BadRequestError",
                "max_tokens=21 cannot be greater than",
            ),
            (false, r#"{"prompt":["a",""]}"#, 400, "BadRequestError", "Either prompt or prompt_embeds must be"),
            (false, r#"{"prompt":"a","n":0}"#, 400, "BadRequestError", "n must be at least 1, got 0"),
            (false, r#"{"prompt":["a","b"],"n":900}"#, 400, "BadRequestError", "vb-sim gives at most 1024 answers"),
            (false, r#"{"prompt":"a","logprobs":21}"#, 400, "BadRequestError", "logprobs must be from 0 to 20, got 21"),
            (false, r#"{"prompt":"a","stream_options":{}}"#, 400, "BadRequestError", "Stream options can only be"),
            (false, r#"{"prompt":"a","vb_fault":"flood"}"#, 400, "BadRequestError", "no fault is called `flood`"),
            (true, r#"{"prompt":"a"}"#, 400, "Bad Request", "1 validation error:\n  {'type': 'missing', 'loc'"),
            (
                true,
                r#"{"messages":[{"role":"user"}],"top_logprobs":2}"#,
                400,
                "BadRequestError",
                "when using `top_logprobs`",
            ),
            (
                true,
                r#"{"messages":[{"role":"user"}],"tool_choice":"required"}"#,
                400,
                "BadRequestError",
                "`tool_choice` must name",
            ),
            (true, r#"{"messages":[]}"#, 400, "BadRequestError", "Cannot apply chat template to an empty"),
        ] {
            let refusal = check(chat, body).unwrap_err();
            let error = &refusal.body["error"];
            assert_eq!((refusal.status.as_u16(), error["type"].as_str()), (status, Some(kind)), "{body}");
            assert_eq!(error["code"], status);
            assert!(error["message"].as_str().unwrap().starts_with(start), "{body}: {error}");
        }
    }
}

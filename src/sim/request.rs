//! Request bodies, their validation, and error responses in vLLM's wording.

use hyper::StatusCode;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    fault::Fault,
    vocabulary::{LengthLimits, Vocabulary, render_chat},
};
use crate::record::Prompt;

/// The limit on choices for one request.
const MAX_CHOICES: usize = 1024;

/// vLLM's `--max-logprobs`.
const MAX_LOGPROBS: usize = 20;

/// An error response, in OpenAI's format and vLLM's wording.
#[derive(Debug, PartialEq)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// The body of the response.
    pub body: Value,
}

impl ApiError {
    /// A request that cannot be served; `param` is the key at fault.
    pub fn bad_request(param: Option<&str>, message: &str) -> Self {
        ApiError { status: StatusCode::BAD_REQUEST, body: error_body(400, "BadRequestError", param, message) }
    }

    /// A body of the wrong format.
    fn invalid_body(param: &str, detail: &str) -> Self {
        let message = format!("1 validation error:\n  {detail}");
        ApiError { status: StatusCode::BAD_REQUEST, body: error_body(400, "Bad Request", Some(param), &message) }
    }

    fn unknown_model(model: &str, known: &[String]) -> Self {
        let message = format!("The model `{model}` does not exist. Valid aliases: {}.", known.join(", "));
        ApiError { status: StatusCode::NOT_FOUND, body: error_body(404, "NotFoundError", Some("model"), &message) }
    }
}

/// An error body as vLLM writes it.
pub fn error_body(status: u16, kind: &str, param: Option<&str>, message: &str) -> Value {
    json!({"error": {"message": message, "type": kind, "param": param, "code": status}})
}

/// The keys of a generation request that `vb-sim` understands. Except for `vb_fault`, they are vLLM's and have the meaning that
/// they have there; vLLM's other keys are accepted and ignored.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct GenerationBody {
    /// The model name; the first model if absent.
    pub model: Option<String>,
    /// For completions.
    pub prompt: Option<Prompt>,
    /// For chats.
    pub messages: Option<Vec<Value>>,
    /// The limit on output tokens.
    pub max_tokens: Option<i64>,
    /// The same limit, for chats; it takes precedence.
    pub max_completion_tokens: Option<i64>,
    /// The least number of output tokens.
    pub min_tokens: Option<u32>,
    /// Whether to generate exactly `max_tokens` tokens.
    pub ignore_eos: Option<bool>,
    /// Whether to stream the response.
    pub stream: Option<bool>,
    /// What the stream contains in addition to the output.
    pub stream_options: Option<StreamOptions>,
    /// Whether to return token ids.
    pub return_token_ids: Option<bool>,
    /// Choices for each prompt.
    pub n: Option<i64>,
    /// For completions the number of likely tokens; for chats a boolean.
    pub logprobs: Option<Value>,
    /// The number of likely tokens, for chats with `logprobs`.
    pub top_logprobs: Option<i64>,
    /// The tools of a chat.
    pub tools: Option<Vec<Value>>,
    /// Which tool the output has to call.
    pub tool_choice: Option<Value>,
    /// A fault for this request, as in `--fault` but without a share.
    pub vb_fault: Option<String>,
}

/// What a stream contains in addition to the output.
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
    /// The model name; the first model if absent.
    pub model: Option<String>,
    prompt: Option<String>,
    messages: Option<Vec<Value>>,
    /// For `/detokenize`.
    pub tokens: Option<Vec<u32>>,
    /// Whether to return the text of each token.
    pub return_token_strs: Option<bool>,
}

/// A valid generation request.
#[derive(Debug)]
pub struct GenerationRequest {
    /// The model name for the response.
    pub model: String,
    /// The tokens of each prompt.
    pub prompts: Vec<Vec<u32>>,
    /// Choices for each prompt.
    pub n: usize,
    /// How many likely tokens to list for each token; `None`: no log probabilities at all.
    pub logprobs: Option<usize>,
    /// The tool that the output has to call.
    pub tool: Option<ForcedTool>,
    /// The limits on the length of the output.
    pub length: LengthLimits,
    /// Whether to stream the response.
    pub stream: bool,
    /// Whether the stream ends with the usage.
    pub include_usage: bool,
    /// Whether every chunk contains the usage so far.
    pub continuous_usage: bool,
    /// Whether to return token ids.
    pub return_token_ids: bool,
    /// The fault that the request asks for (`vb_fault`).
    pub fault: Option<Fault>,
}

/// A tool that the output has to call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForcedTool {
    /// The name of the tool.
    pub name: String,
    /// Whether any tool was acceptable (`required`). vLLM's finish reason is then `tool_calls`.
    pub any: bool,
}

/// Reads a JSON body.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes).map_err(|e| {
        let message = e.to_string().replace('\'', "`");
        if e.is_data() {
            return ApiError::invalid_body(
                "body",
                &format!("{{'type': 'invalid', 'loc': 'body', 'msg': '{message}'}}"),
            );
        }
        let place = format!("body.{}", e.column());
        let ctx = format!("'input': '<dict of 0 items>', 'ctx': {{'error': '{message}'}}");
        let detail = format!("{{'type': 'json_invalid', 'loc': '{place}', 'msg': 'JSON decode error', {ctx}}}");
        ApiError::invalid_body(&place, &detail)
    })
}

/// The error for a request whose `content-type` is not JSON.
pub fn unsupported_media_type() -> ApiError {
    let message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed";
    ApiError { status: StatusCode::BAD_REQUEST, body: error_body(400, "Bad Request", None, message) }
}

/// The requested model, which must be one of `known`; the first one if the request names none.
pub fn resolve_model(requested: Option<&str>, known: &[String]) -> Result<String, ApiError> {
    match requested.filter(|name| !name.is_empty()) {
        Some(name) if !known.iter().any(|k| k == name) => Err(ApiError::unknown_model(name, known)),
        Some(name) => Ok(name.to_owned()),
        None => Ok(known.first().cloned().unwrap_or_default()),
    }
}

impl GenerationRequest {
    /// Tokens of all prompts.
    pub fn prompt_tokens(&self) -> u32 {
        u32::try_from(self.prompts.iter().map(Vec::len).sum::<usize>()).unwrap_or(u32::MAX)
    }
}

impl GenerationBody {
    /// Validates a request as vLLM does.
    pub fn validate(
        self,
        chat: bool,
        models: &[String],
        max_model_len: u32,
        vocabulary: &Vocabulary,
    ) -> Result<GenerationRequest, ApiError> {
        let model = resolve_model(self.model.as_deref(), models)?;
        let stream = self.stream.unwrap_or(false);
        if self.stream_options.is_some() && !stream {
            let message = "Stream options can only be defined when `stream=True`. (parameter=stream_options)";
            return Err(ApiError::bad_request(Some("stream_options"), message));
        }
        let n = self.parse_n()?;
        let logprobs = if chat { self.chat_logprobs() } else { self.completion_logprobs() }?;
        let tool = if chat { self.forced_tool()? } else { None };
        let fault = self.vb_fault.as_deref().map(str::parse).transpose();
        let fault = fault.map_err(|e: String| ApiError::bad_request(Some("vb_fault"), &e))?;
        let prompts = if chat { vec![self.encode_messages(vocabulary)?] } else { self.encode_prompts(vocabulary)? };
        if prompts.len() * n > MAX_CHOICES {
            let message = format!("vb-sim gives at most {MAX_CHOICES} answers to a request. (parameter=n, value={n})");
            return Err(ApiError::bad_request(Some("n"), &message));
        }
        let longest = prompts.iter().map(Vec::len).max().unwrap_or_default();
        let max_tokens = self.resolve_max_tokens(chat, longest, max_model_len)?;
        let min_tokens = self.min_tokens.unwrap_or(0);
        let options = self.stream_options.unwrap_or_default();
        Ok(GenerationRequest {
            model,
            prompts,
            n,
            logprobs,
            tool,
            // An output whose least length is its limit ends at the limit, not with an end-of-text token.
            length: LengthLimits {
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

    fn parse_n(&self) -> Result<usize, ApiError> {
        let n = self.n.unwrap_or(1);
        usize::try_from(n).ok().filter(|n| *n > 0).ok_or_else(|| {
            ApiError::bad_request(Some("n"), &format!("n must be at least 1, got {n}. (parameter=n, value={n})"))
        })
    }

    /// How many likely tokens to list for each token of a completion.
    fn completion_logprobs(&self) -> Result<Option<usize>, ApiError> {
        let requested = self.logprobs.as_ref().filter(|requested| !requested.is_null());
        requested.map(|requested| check_logprobs("logprobs", requested.as_i64())).transpose()
    }

    /// How many likely tokens to list for each token of a chat.
    fn chat_logprobs(&self) -> Result<Option<usize>, ApiError> {
        let on = self.logprobs.as_ref() == Some(&Value::Bool(true));
        if !on && self.top_logprobs.is_some_and(|n| n > 0) {
            let message = "when using `top_logprobs`, `logprobs` must be set to true. (parameter=top_logprobs)";
            return Err(ApiError::bad_request(Some("top_logprobs"), message));
        }
        on.then(|| check_logprobs("top_logprobs", Some(self.top_logprobs.unwrap_or(0)))).transpose()
    }

    /// The tool that the output has to call: the one that `tool_choice` names, or the first one if it is `required`.
    fn forced_tool(&self) -> Result<Option<ForcedTool>, ApiError> {
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
        found.map(|(name, any)| Some(ForcedTool { name: (*name).to_owned(), any })).ok_or_else(|| {
            let message =
                "`tool_choice` must name one of `tools`, or be `required` where there are any. (parameter=tool_choice)";
            ApiError::bad_request(Some("tool_choice"), message)
        })
    }

    fn encode_prompts(&self, vocabulary: &Vocabulary) -> Result<Vec<Vec<u32>>, ApiError> {
        let prompts = match &self.prompt {
            Some(Prompt::Text(text)) => vec![encode_text(vocabulary, text)?],
            Some(Prompt::Ids(ids)) => vec![ids.clone()],
            Some(Prompt::Texts(texts)) => {
                texts.iter().map(|text| encode_text(vocabulary, text)).collect::<Result<_, _>>()?
            }
            Some(Prompt::IdLists(lists)) => lists.clone(),
            None => Vec::new(),
        };
        if prompts.is_empty() || prompts.iter().any(Vec::is_empty) {
            let message = "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)";
            return Err(ApiError::bad_request(Some("prompt"), message));
        }
        Ok(prompts)
    }

    fn encode_messages(&self, vocabulary: &Vocabulary) -> Result<Vec<u32>, ApiError> {
        let Some(messages) = &self.messages else { return Err(missing_key("messages")) };
        if messages.is_empty() {
            let message = "Cannot apply chat template to an empty conversation. Provide at least one message.";
            return Err(ApiError::bad_request(None, message));
        }
        encode_chat(vocabulary, messages)
    }

    /// The limit on output tokens: the requested one, reduced to what the model's context has room for.
    fn resolve_max_tokens(&self, chat: bool, prompt: usize, max_model_len: u32) -> Result<u32, ApiError> {
        let requested = self.max_completion_tokens.filter(|_| chat).or(self.max_tokens);
        if let Some(requested) = requested.filter(|requested| *requested < 1) {
            let message =
                format!("max_tokens must be at least 1, got {requested}. (parameter=max_tokens, value={requested})");
            return Err(ApiError::bad_request(Some("max_tokens"), &message));
        }
        if let Some(requested) = requested.filter(|requested| *requested > i64::from(max_model_len)) {
            let message = format!(
                "max_tokens={requested} cannot be greater than max_model_len={max_model_len}. Please request fewer output tokens. \
                 (parameter=max_tokens, value={requested})"
            );
            return Err(ApiError::bad_request(Some("max_tokens"), &message));
        }
        let left = u32::try_from(prompt).ok().and_then(|prompt| max_model_len.checked_sub(prompt)).unwrap_or(0);
        if left == 0 {
            let message = format!(
                "This model's maximum context length is {max_model_len} tokens. However, your prompt contains at least {prompt} \
                 input tokens, which exceeds this limit even without any output tokens. Please reduce the length of \
                 the input prompt. (parameter=input_tokens, value={prompt})"
            );
            return Err(ApiError::bad_request(Some("input_tokens"), &message));
        }
        let default = if chat { left } else { 16 };
        Ok(requested.and_then(|requested| u32::try_from(requested).ok()).unwrap_or(default).min(left))
    }
}

impl TokenizeBody {
    /// The tokens of the prompt or the chat.
    pub fn encode_input(&self, vocabulary: &Vocabulary) -> Result<Vec<u32>, ApiError> {
        match (&self.prompt, &self.messages) {
            (Some(text), _) => encode_text(vocabulary, text),
            (None, Some(messages)) => encode_chat(vocabulary, messages),
            (None, None) => Err(missing_key("prompt")),
        }
    }
}

/// Checks a number of likely tokens against vLLM's limit.
fn check_logprobs(param: &str, requested: Option<i64>) -> Result<usize, ApiError> {
    requested.and_then(|requested| usize::try_from(requested).ok()).filter(|n| *n <= MAX_LOGPROBS).ok_or_else(|| {
        let requested = requested.map_or_else(|| "no number".into(), |requested| requested.to_string());
        let message = format!("{param} must be from 0 to {MAX_LOGPROBS}, got {requested}. (parameter={param})");
        ApiError::bad_request(Some(param), &message)
    })
}

/// The error for a body that lacks a required key.
pub fn missing_key(key: &str) -> ApiError {
    let place = format!("body.{key}");
    ApiError::invalid_body(&place, &format!("{{'type': 'missing', 'loc': '{place}', 'msg': 'Field required'}}"))
}

fn encode_text(vocabulary: &Vocabulary, text: &str) -> Result<Vec<u32>, ApiError> {
    vocabulary.encode_text(text).map_err(|e| ApiError::bad_request(Some("prompt"), &e.to_string()))
}

fn encode_chat(vocabulary: &Vocabulary, messages: &[Value]) -> Result<Vec<u32>, ApiError> {
    let text = render_chat(messages).map_err(|e| ApiError::bad_request(Some("messages"), &e))?;
    encode_text(vocabulary, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(chat: bool, body: &str) -> Result<GenerationRequest, ApiError> {
        let models = ["tiny".to_owned(), "lora".to_owned()];
        parse_json::<GenerationBody>(body.as_bytes())?.validate(chat, &models, 20, &Vocabulary::builtin().unwrap())
    }

    #[test]
    fn the_defaults_match_vllm() {
        let request = check(false, r#"{"prompt":[1,2,3],"an_unknown_key":{}}"#).unwrap();
        assert_eq!((request.model.as_str(), request.length.max_tokens, request.stream), ("tiny", 16, false));
        let request =
            check(true, r#"{"model":"lora","messages":[{"role":"user","content":"hi"}],"stream":null}"#).unwrap();
        assert_eq!(request.length.max_tokens as usize, 20 - request.prompts[0].len());
    }

    #[test]
    fn the_output_limit_is_what_the_context_has_room_for() {
        let request = check(false, r#"{"prompt":[1,2,3],"max_tokens":20}"#).unwrap();
        assert_eq!(request.length.max_tokens, 17);
        let ids: Vec<u32> = (0..20).collect();
        let error = check(false, &format!(r#"{{"prompt":{ids:?}}}"#)).unwrap_err();
        assert!(error.body.to_string().contains("This model's maximum context length is 20 tokens. However, your"));
    }

    #[test]
    fn choices_logprobs_and_tools_are_read() {
        let request = check(false, r#"{"prompt":["a b","c"],"n":3,"logprobs":2}"#).unwrap();
        assert_eq!((request.prompts.len(), request.n, request.logprobs), (2, 3, Some(2)));
        let tools =
            r#""tools":[{"type":"function","function":{"name":"f"}},{"type":"function","function":{"name":"g"}}]"#;
        for (choice, want) in [
            (r#""auto""#, None),
            ("null", None),
            (r#""required""#, Some(("f", true))),
            (r#"{"type":"function","function":{"name":"g"}}"#, Some(("g", false))),
        ] {
            let chat = r#""messages":[{"role":"user","content":"hi"}],"logprobs":true"#;
            let request = check(true, &format!(r#"{{{chat},{tools},"tool_choice":{choice}}}"#)).unwrap();
            let tool = request.tool.as_ref().map(|tool| (tool.name.as_str(), tool.any));
            assert_eq!((tool, request.logprobs), (want, Some(0)), "{choice}");
        }
    }

    #[test]
    fn errors_have_the_wording_of_vllm() {
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
            let error = check(chat, body).unwrap_err();
            let body_error = &error.body["error"];
            assert_eq!((error.status.as_u16(), body_error["type"].as_str()), (status, Some(kind)), "{body}");
            assert_eq!(body_error["code"], status);
            assert!(body_error["message"].as_str().unwrap().starts_with(start), "{body}: {body_error}");
        }
    }
}

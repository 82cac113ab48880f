//! The APIs that servers offer: how a request is written, and how a response is read.
//!
//! ```text
//! SampleRequest ─▶ Api::request_body ─▶ sampling flags, --extra-body, the request's own body ─▶ Payload ─▶ the server
//! RawContent    ─▶ BodyFrame: such a body of a similar request, with gaps for the content ───────────────▲
//! Delta ◀─ Api::read_event (streaming) or Api::read_response (non-streaming) ◀───────────────────── its bytes
//! ```
//!
//! Each backend is one file with one `static BACKEND`, listed in [`BACKENDS`]; the head of the file shows a request and a
//! response. `docs/BACKENDS.md` compares them. A server that is not listed needs no Rust: see [`template`].

mod anthropic;
mod audio;
mod chat;
mod completions;
mod delta;
mod embeddings;
mod frame;
mod lenient;
mod list;
mod ollama;
mod openai;
pub mod pattern;
mod pooling;
mod prompt;
mod rerank;
mod responses;
mod sampling;
mod sglang;
pub mod template;
mod tensorrt_llm;
mod tgi;
mod tool_calls;
mod usage;

use std::{fmt, path::Path};

use clap::builder::PossibleValue;

pub use delta::{ChoiceDelta, Delta, OutputKind, ServerTimings, TextMode, Usage};
pub use frame::{BodyFrames, BodyParts};
pub use list::list_backends;
pub use sampling::SamplingKeys;

use crate::{
    error::Error,
    http::{body::BodyFormat, sse::SseEvent},
    record::{ContentForm, Object, SampleRequest},
    secrets::Secrets,
};

/// Every backend, in the order of `--help` and the docs.
pub static BACKENDS: &[&Backend] = &[
    &completions::BACKEND,
    &chat::BACKEND,
    &responses::BACKEND,
    &anthropic::BACKEND,
    &embeddings::BACKEND,
    &pooling::BACKEND,
    &rerank::BACKEND,
    &audio::BACKEND,
    &tgi::BACKEND,
    &sglang::BACKEND,
    &tensorrt_llm::BACKEND,
    &ollama::BACKEND,
    &template::BACKEND,
];

/// One value of `--backend`, and what `--help`, `--list-backends` and `docs/BACKENDS.md` say about it.
#[derive(Debug)]
pub struct Backend {
    /// The name in flags and records; vLLM's name where it has one.
    pub name: &'static str,
    /// Other names that `--backend` accepts.
    pub aliases: &'static [&'static str],
    /// The API in a few words.
    pub about: &'static str,
    /// The forms of prompt that it accepts.
    pub prompt_forms: &'static [PromptForm],
    /// What a request must have, as Markdown.
    pub needs: &'static str,
    /// Where token counts come from, as Markdown.
    pub token_counts: &'static str,
    /// The server that it was checked against.
    pub checked_against: &'static str,
    /// Writes requests and reads responses; `None`: the file of `--template` describes the API.
    pub api: Option<&'static dyn Api>,
}

/// A form of prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PromptForm {
    /// Text that the server passes to the model as it is.
    Text,
    /// Messages, or text that becomes one: the server applies the model's chat template.
    Chat,
    /// Token ids.
    TokenIds,
    /// A list of texts in one request.
    TextList,
    /// Images or audio.
    Media,
}

impl Backend {
    /// The backend that `--backend NAME` selects.
    #[must_use]
    pub fn from_name(name: &str) -> Option<&'static Self> {
        BACKENDS.iter().copied().find(|backend| backend.name == name || backend.aliases.contains(&name))
    }

    fn accepts(&self, form: PromptForm) -> bool {
        self.prompt_forms.contains(&form)
    }

    /// Whether the server applies the model's chat template to the prompt.
    #[must_use]
    pub fn is_chat(&self) -> bool {
        self.accepts(PromptForm::Chat)
    }

    /// Whether a prompt may be a list of token ids.
    #[must_use]
    pub fn takes_ids(&self) -> bool {
        self.accepts(PromptForm::TokenIds)
    }

    /// Whether a prompt may be a list of texts.
    #[must_use]
    pub fn takes_lists(&self) -> bool {
        self.accepts(PromptForm::TextList)
    }

    /// Whether a request may have images or audio.
    #[must_use]
    pub fn takes_media(&self) -> bool {
        self.accepts(PromptForm::Media)
    }

    /// Whether a request must have images or audio.
    #[must_use]
    pub fn needs_media(&self) -> bool {
        self.prompt_forms == [PromptForm::Media]
    }

    /// Whether the server generates tokens. A template may.
    #[must_use]
    pub fn generates_tokens(&self) -> bool {
        self.api.is_none_or(Api::generates_tokens)
    }

    /// The API that limits outputs by `max_tokens`.
    ///
    /// # Errors
    /// This API has one name for the limit.
    pub fn max_tokens_api(&self) -> Result<&'static dyn Api, Error> {
        let only = |name| Error::Usage(format!("--send-max-tokens works with --backend {name} only: leave it out"));
        if self.name == chat::BACKEND.name { Ok(chat::MAX_TOKENS_API) } else { Err(only(chat::BACKEND.name)) }
    }

    /// The API. `template` is the file of `--template`, which only `--backend template` takes.
    ///
    /// # Errors
    /// The file is missing, not wanted, or not a template.
    pub fn open_api(&self, template: Option<&Path>) -> Result<&'static dyn Api, Error> {
        match (self.api, template) {
            (Some(api), None) => Ok(api),
            (Some(_), Some(_)) => Err(Error::Usage("--template works with --backend template only".into())),
            // The program opens one file and uses it to its end, so leaking it loses nothing.
            (None, Some(file)) => Ok(Box::leak(Box::new(template::TemplateApi::open(file)?))),
            (None, None) => Err(Error::Usage(format!(
                "--backend {} needs a file that describes the API: --template FILE (docs/BACKENDS.md)",
                self.name
            ))),
        }
    }
}

impl clap::ValueEnum for &'static Backend {
    fn value_variants<'a>() -> &'a [Self] {
        BACKENDS
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let about = match self.api {
            Some(api) => format!("{}: {}", self.about, api.endpoint_path(true)),
            None => self.about.to_owned(),
        };
        Some(PossibleValue::new(self.name).aliases(self.aliases).help(about))
    }
}

/// An API: writes requests and reads responses. `stream` says whether the response is streamed.
pub trait Api: fmt::Debug + Send + Sync {
    /// The usual path of its endpoint.
    fn endpoint_path(&self, stream: bool) -> &str;

    /// The body of a request before the sampling flags are added.
    ///
    /// # Errors
    /// Says what the request lacks for this API.
    fn request_body(&self, request: &SampleRequest, model: &str, stream: bool) -> Result<Object, String>;

    /// The forms of content that the body holds as the request has them: text that is not changed, or messages that are not
    /// converted. They are copied and not parsed.
    fn copied_forms(&self) -> &'static [ContentForm] {
        &[]
    }

    /// Where sampling parameters go in the body, and their names.
    fn sampling_keys(&self) -> SamplingKeys {
        if self.generates_tokens() { SamplingKeys::VLLM } else { SamplingKeys::NONE }
    }

    /// Rewrites keys for this API, once all parts of the body are merged.
    fn adapt_body(&self, _body: &mut Object) {}

    /// The bytes that are sent.
    ///
    /// # Errors
    /// Says what the request lacks.
    fn encode_body(&self, body: &Object, _request: &SampleRequest) -> Result<Payload, String> {
        encode_json(body)
    }

    /// Headers in addition to the usual ones; `key` is the API key.
    fn extra_headers(&self, _key: Option<&str>) -> Vec<(&'static str, String)> {
        vec![]
    }

    /// Whether requests name a model.
    fn sends_model(&self) -> bool {
        true
    }

    /// How a response is divided into chunks. Without generated tokens there is nothing to stream.
    fn body_format(&self, stream: bool) -> BodyFormat {
        if stream && self.generates_tokens() { BodyFormat::Events } else { BodyFormat::Json }
    }

    /// Reads a chunk: an event or a line. Events without data, `[DONE]` and events named `error` are handled by the caller.
    ///
    /// # Errors
    /// It is not a chunk of this API.
    fn read_event<'a>(&self, event: SseEvent<'a>) -> Result<Delta<'a>, ReadError> {
        self.read_response(event.data)
    }

    /// Reads a non-streaming response.
    ///
    /// # Errors
    /// It is not a response of this API.
    fn read_response<'a>(&self, body: &'a [u8]) -> Result<Delta<'a>, ReadError>;

    /// Whether it generates tokens: a response without any is then an error.
    fn generates_tokens(&self) -> bool {
        true
    }

    /// Whether a stream marks its end. One that does not is complete when the server closes it without an error.
    fn marks_end(&self) -> bool {
        true
    }
}

/// The body of a request, encoded.
#[derive(Debug, Clone)]
pub struct Payload {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The value of `content-type`.
    pub content_type: String,
    /// The secrets in the body, from the request, the flags or a template.
    pub secrets: Secrets,
}

/// An API, and whether responses are streamed.
#[derive(Debug, Clone, Copy)]
pub struct Protocol {
    /// The API.
    pub api: &'static dyn Api,
    /// Responses are streamed.
    pub stream: bool,
}

/// Completions, streaming.
impl Default for Protocol {
    fn default() -> Self {
        Protocol { api: &completions::CompletionsApi, stream: true }
    }
}

impl Protocol {
    /// How responses are divided into chunks.
    #[must_use]
    pub fn body_format(self) -> BodyFormat {
        self.api.body_format(self.stream)
    }

    /// The usual path of the endpoint.
    #[must_use]
    pub fn endpoint_path(self) -> &'static str {
        self.api.endpoint_path(self.stream)
    }
}

/// The payload of a request: its own keys, then the sampling `flags`, then `extra` (--extra-body), then its own `body`. Each
/// is a JSON merge patch: a later key replaces an earlier one, objects are merged, and a null removes its key. A null in `extra`
/// has the last word, because it is about every request.
///
/// # Errors
/// Says what the request lacks for this API.
pub fn build_payload(
    Protocol { api, stream }: Protocol,
    request: &SampleRequest,
    model: &str,
    flags: &Object,
    extra: &Object,
) -> Result<Payload, String> {
    let mut body = api.request_body(request, request.lora.as_deref().unwrap_or(model), stream)?;
    let sampling = api.sampling_keys();
    let mut own = request.body.clone().unwrap_or_default();
    if !sampling.supports_param("ignore_eos") {
        // `vb-gen` adds it to every request, and some servers reject keys that they do not know.
        own.remove("ignore_eos");
    }
    let extra = sampling.place_params(extra);
    for part in [&sampling.place_params(flags), &extra, &sampling.place_params(&own)] {
        sampling::merge_patch(&mut body, part);
    }
    // Before the body is adapted, so that nothing follows from the key, and after it, since that may add it.
    sampling::remove_nulled(&mut body, &extra);
    api.adapt_body(&mut body);
    sampling::remove_nulled(&mut body, &extra);
    let payload = api.encode_body(&body, request)?;
    let mut secrets = Secrets::default();
    secrets.add_body(&body);
    Ok(Payload { secrets, ..payload })
}

fn encode_json(body: &Object) -> Result<Payload, String> {
    let bytes = serde_json::to_vec(body).map_err(|e| e.to_string())?;
    Ok(Payload { bytes, content_type: "application/json".into(), secrets: Secrets::default() })
}

/// Why bytes are not a chunk or a response of an API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadError {
    /// They are not JSON.
    Syntax(String),
    /// They hold nothing that the API has.
    Shape(String),
}

impl ReadError {
    fn lacks(key: &str) -> Self {
        ReadError::Shape(format!("it has no `{key}`"))
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ReadError::Syntax(why) | ReadError::Shape(why)) = self;
        f.write_str(why)
    }
}

/// Reads JSON.
fn read_json<'a, T: serde::Deserialize<'a>>(data: &'a [u8]) -> Result<T, ReadError> {
    serde_json::from_slice(data).map_err(|e| ReadError::Syntax(e.to_string()))
}

/// Reads the fields of a JSON object; any other JSON has none.
fn read_fields<'a, T: lenient::Fields<'a>>(data: &'a [u8]) -> Result<T, ReadError> {
    let lenient::Nested(fields) = read_json(data)?;
    Ok(fields.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;
    use serde_json::json;

    use super::*;

    fn open_api(backend: &str, template: Option<&Path>) -> Result<&'static dyn Api, Error> {
        Backend::from_name(backend).unwrap().open_api(template)
    }

    /// The body that goes to a backend, as JSON.
    fn body(backend: &str, line: &str, stream: bool) -> Result<serde_json::Value, String> {
        let flags = serde_json::from_str(r#"{"temperature":0.5,"top_p":0.9}"#).unwrap();
        let extra = serde_json::from_str(r#"{"top_p":0.8,"seed":1}"#).unwrap();
        let request: SampleRequest = serde_json::from_str(line).unwrap();
        let api = open_api(backend, None).unwrap();
        let payload = build_payload(Protocol { api, stream }, &request, "m", &flags, &extra)?;
        assert_eq!(payload.content_type, "application/json");
        Ok(serde_json::from_slice(&payload.bytes).unwrap())
    }

    #[test]
    fn bodies_have_the_keys_of_each_api() {
        let hi = r#"{"prompt":"hi","expected_output_len":4,"body":{"ignore_eos":true}}"#;
        let ids = r#"{"prompt":[1,2],"expected_output_len":4,"body":{"seed":2,"ignore_eos":true}}"#;
        let tail = |mut value: serde_json::Value| {
            value.as_object_mut().unwrap().extend(
                json!({"temperature": 0.5, "top_p": 0.8, "seed": 1, "ignore_eos": true}).as_object().unwrap().clone(),
            );
            value
        };
        let usage = json!({"include_usage": true});
        let user = json!([{"role": "user", "content": "hi"}]);
        for (backend, line, stream, want) in [
            (
                "openai",
                ids,
                true,
                json!({"model": "m", "prompt": [1, 2], "max_tokens": 4, "stream": true, "stream_options": usage,
                    "temperature": 0.5, "top_p": 0.8, "seed": 2, "ignore_eos": true}),
            ),
            ("openai", hi, false, tail(json!({"model": "m", "prompt": "hi", "max_tokens": 4, "stream": false}))),
            (
                "openai-chat",
                hi,
                true,
                tail(json!({"model": "m", "messages": user, "max_completion_tokens": 4, "stream": true,
                    "stream_options": usage})),
            ),
            (
                "openai-responses",
                hi,
                true,
                tail(json!({"model": "m", "input": "hi", "max_output_tokens": 4, "stream": true, "store": false})),
            ),
            (
                "anthropic",
                hi,
                true,
                json!({"model": "m", "messages": user, "max_tokens": 4, "stream": true, "temperature": 0.5,
                    "top_p": 0.8, "seed": 1}),
            ),
            (
                "tgi",
                hi,
                true,
                json!({"inputs": "hi", "parameters": {"max_new_tokens": 4, "details": true, "temperature": 0.5,
                    "top_p": 0.8, "seed": 1}, "stream": true}),
            ),
            (
                "sglang",
                ids,
                true,
                json!({"input_ids": [1, 2], "sampling_params": {"max_new_tokens": 4, "temperature": 0.5, "top_p": 0.8,
                    "sampling_seed": 2, "ignore_eos": true}, "stream": true}),
            ),
            (
                "tensorrt-llm",
                hi,
                false,
                json!({"text_input": "hi", "max_tokens": 4, "bad_words": "", "stop_words": "",
                    "exclude_input_in_output": true, "stream": false, "temperature": 0.5, "top_p": 0.8, "seed": 1,
                    "min_tokens": 4}),
            ),
            (
                "ollama",
                hi,
                true,
                json!({"model": "m", "messages": user, "stream": true, "truncate": false,
                    "options": {"num_predict": 4, "temperature": 0.5, "top_p": 0.8, "seed": 1}}),
            ),
        ] {
            assert_eq!(body(backend, line, stream).unwrap(), want, "{backend}");
        }
    }

    /// Every key that a backend writes, at the top and one level below, can be left out.
    #[test]
    fn a_null_in_extra_body_leaves_a_key_out_of_every_backend() {
        let hi = r#"{"prompt":"hi","expected_output_len":4,"body":{"ignore_eos":true,"logprobs":2}}"#;
        let list = r#"{"prompt":["hi","ho"],"body":{"user":"u"}}"#;
        let request = |backend: &Backend| -> SampleRequest {
            serde_json::from_str(if backend.accepts(PromptForm::TextList) { list } else { hi }).unwrap()
        };
        let flags: Object = serde_json::from_str(r#"{"temperature":0.5,"top_p":0.9}"#).unwrap();
        for backend in BACKENDS.iter().filter(|backend| !backend.needs_media()) {
            let Some(api) = backend.api else { continue };
            for stream in [true, false] {
                let sent = |extra: &serde_json::Value| -> Object {
                    let extra = extra.as_object().unwrap();
                    let protocol = Protocol { api, stream };
                    let payload = build_payload(protocol, &request(backend), "m", &flags, extra).unwrap();
                    serde_json::from_slice(&payload.bytes).unwrap()
                };
                let whole = sent(&json!({}));
                for (key, value) in &whole {
                    let left = sent(&json!({key: null}));
                    assert!(!left.contains_key(key), "{}: {key}: {left:?}", backend.name);
                    for inner in value.as_object().into_iter().flatten().map(|(inner, _)| inner) {
                        let left = sent(&json!({key: {inner: null}}));
                        assert!(left[key].get(inner).is_none(), "{}: {key}.{inner}: {left:?}", backend.name);
                    }
                }
            }
        }
        // Under vLLM's name too, and nothing follows from it.
        let payload = |backend, extra: serde_json::Value| {
            let protocol = Protocol { api: open_api(backend, None).unwrap(), stream: true };
            let request = serde_json::from_str(hi).unwrap();
            let payload = build_payload(protocol, &request, "m", &flags, extra.as_object().unwrap()).unwrap();
            serde_json::from_slice::<serde_json::Value>(&payload.bytes).unwrap()
        };
        assert_eq!(payload("sglang", json!({"top_p": null}))["sampling_params"].get("top_p"), None);
        let silent = payload("tensorrt-llm", json!({"ignore_eos": null}));
        assert_eq!((silent.get("ignore_eos"), silent.get("min_tokens")), (None, None));
    }

    #[test]
    fn tensorrt_llm_has_its_own_keys_for_length_and_adapter() {
        let sent = |line| body("tensorrt-llm", line, true).unwrap();
        let plain = sent(r#"{"prompt":"hi","lora":"7"}"#);
        assert_eq!(
            (&plain["max_tokens"], &plain["min_tokens"], &plain["lora_task_id"]),
            (&json!(1024), &json!(null), &json!(7))
        );
        let own = sent(r#"{"prompt":"hi","body":{"ignore_eos":true,"max_tokens":9}}"#);
        assert_eq!((&own["max_tokens"], &own["min_tokens"], &own["ignore_eos"]), (&json!(9), &json!(9), &json!(null)));
        let less = sent(r#"{"prompt":"hi","body":{"ignore_eos":true,"min_tokens":2}}"#);
        assert_eq!(less["min_tokens"], 2);
        let no = sent(r#"{"prompt":"hi","body":{"ignore_eos":false}}"#);
        assert_eq!((&no["min_tokens"], &no["ignore_eos"]), (&json!(null), &json!(null)));
    }

    /// A request's own object for the API's parameters is merged with the existing keys.
    #[test]
    fn parameters_go_where_the_api_has_them_under_its_names() {
        let line =
            |body: serde_json::Value| json!({"prompt": "hi", "expected_output_len": 4, "body": body}).to_string();
        let sent = |backend, own| body(backend, &line(own), true).unwrap();
        let ollama = sent("ollama", json!({"options": {"num_ctx": 8192}, "logprobs": 2, "stop": "x"}));
        let options =
            json!({"num_predict": 4, "temperature": 0.5, "top_p": 0.8, "seed": 1, "num_ctx": 8192, "stop": ["x"]});
        assert_eq!((&ollama["options"], &ollama["logprobs"]), (&options, &json!(true)));
        assert_eq!(ollama["top_logprobs"], 2);
        let sglang = sent("sglang", json!({"sampling_params": {"stop": "x"}, "logprobs": 3, "min_tokens": 4}));
        let params = json!({"max_new_tokens": 4, "temperature": 0.5, "top_p": 0.8, "sampling_seed": 1, "stop": "x",
            "min_new_tokens": 4});
        assert_eq!((&sglang["sampling_params"], &sglang["return_logprob"]), (&params, &json!(true)));
        assert_eq!(sglang["top_logprobs_num"], 3);
        // Out of their range there, where they would change nothing.
        let tgi = sent("tgi", json!({"temperature": 0, "top_p": 1, "top_k": -1, "parameters": {"stop": "x"}}));
        let parameters = json!({"max_new_tokens": 4, "details": true, "seed": 1, "stop": ["x"]});
        assert_eq!(tgi["parameters"], parameters);
        let anthropic = sent("anthropic", json!({"stop": "x", "ignore_eos": true}));
        assert_eq!((&anthropic["stop_sequences"], &anthropic["ignore_eos"]), (&json!(["x"]), &json!(null)));
        let responses = sent("openai-responses", json!({"logprobs": 2}));
        assert_eq!(
            (&responses["top_logprobs"], &responses["include"]),
            (&json!(2), &json!(["message.output_text.logprobs"]))
        );
    }

    #[test]
    fn messages_keep_all_their_parts() {
        let text = |text: &str| json!([{"type": "text", "text": text}]);
        let talk = json!({"messages": [{"role": "system", "content": text("Be brief.")}, {"role": "developer", "content": "Now."},
            {"role": "user", "content": text("hi")}, {"role": "assistant", "content": text("ho")}]})
        .to_string();
        let sent = body("anthropic", &talk, true).unwrap();
        assert_eq!(sent["system"], json!([{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Now."}]));
        assert_eq!(sent["messages"].as_array().unwrap().len(), 2);
        let sent = body("openai-responses", &talk, true).unwrap();
        assert_eq!(sent["input"][3]["content"], json!([{"type": "output_text", "text": "ho"}]));
        assert_eq!(sent["input"][2]["content"], json!([{"type": "input_text", "text": "hi"}]));
        let far =
            json!({"prompt": "hi", "multi_modal_data": {"type": "image_url", "image_url": {"url": "https://h/a.png"}}});
        assert!(body("ollama", &far.to_string(), true).unwrap_err().contains("`data:` URLs"));
    }

    #[test]
    fn tool_calls_are_sent_to_apis_with_openais_format() {
        let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}});
        let talk = json!({"messages": [{"role": "user", "content": "hi"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": "2"}]})
        .to_string();
        for backend in ["anthropic", "openai-responses"] {
            assert!(body(backend, &talk, true).unwrap_err().contains("use --backend openai-chat"), "{}", backend);
        }
        let sent = body("ollama", &talk, true).unwrap();
        assert_eq!(sent["messages"][1]["tool_calls"][0]["function"]["arguments"], json!({"a": 1}));
        assert_eq!(body("openai-chat", &talk, true).unwrap()["messages"][2]["tool_call_id"], "c");
    }

    #[test]
    fn unsupported_requests_are_refused_with_the_cure() {
        for (backend, line, cure) in [
            ("openai", r#"{"messages":[]}"#, "--backend openai-chat"),
            ("openai-chat", r#"{"prompt":[1]}"#, "--backend openai"),
            ("openai", "{}", "no `prompt`"),
            ("vllm-rerank", r#"{"prompt":"hi"}"#, "[query, document, …]"),
            ("openai-audio", r#"{"prompt":"hi"}"#, "input_audio"),
            ("openai", r#"{"prompt":["a","b"]}"#, "send one prompt per line"),
            ("sglang", r#"{"prompt":"hi","body":{"sampling_params":{"n":2}}}"#, "--backend openai"),
            ("openai-embeddings", r#"{"prompt":"hi","body":{"encoding_format":"bytes"}}"#, "base64 or float"),
            ("vllm-pooling", r#"{"prompt":"hi","body":{"encoding_format":"bytes_only"}}"#, "base64 or float"),
            ("tensorrt-llm", r#"{"prompt":"hi","lora":"sql"}"#, "`lora_task_id`"),
        ] {
            let error = body(backend, line, true).unwrap_err();
            assert!(error.contains(cure), "{backend}: {error}");
        }
        assert!(open_api("template", None).unwrap_err().to_string().contains("--template FILE"));
        assert!(open_api("openai", Some(Path::new("x"))).is_err());
    }

    #[test]
    fn names_and_aliases_are_unique_and_select_their_backend() {
        let mut seen = std::collections::HashSet::new();
        for backend in BACKENDS {
            for name in std::iter::once(&backend.name).chain(backend.aliases) {
                assert!(seen.insert(*name), "{name}");
                assert_eq!(Backend::from_name(name).unwrap().name, backend.name);
                assert_eq!(<&Backend>::from_str(name, false).unwrap().name, backend.name);
            }
        }
        assert!(Backend::from_name("other").is_none());
    }
}

//! The APIs that servers speak: what a request looks like, and what a piece of the reply holds.
//!
//! ```text
//! SampleRequest ─▶ Api::body ─▶ flags, --extra-body, the request's own body ─▶ Payload ─▶ the server
//! Delta ◀─ Api::read (an event) or Api::whole (a reply in one piece) ◀─────────────────── its bytes
//! ```
//!
//! One file for each, whose head shows a request and a reply. `docs/BACKENDS.md` has them all side by side. A server that is
//! not among them needs no Rust: see [`template`].

mod anthropic;
mod audio;
mod chat;
mod completions;
mod delta;
mod embeddings;
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

use std::{borrow::Cow, fmt, path::Path};

pub use delta::{Choice, Delta, Extent, Metrics, Part, Usage};
pub use sampling::Sampling;

use crate::{
    error::Error,
    http::{exchange::Cut, sse::Event},
    record::{Object, SampleRequest},
};

/// The API that is spoken. The names are vLLM's where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// `/v1/completions`.
    #[value(alias = "vllm")]
    Openai,
    /// `/v1/chat/completions`.
    OpenaiChat,
    /// `/v1/responses`.
    OpenaiResponses,
    /// Anthropic's `/v1/messages`.
    Anthropic,
    /// `/v1/embeddings`.
    OpenaiEmbeddings,
    /// vLLM's `/pooling`.
    VllmPooling,
    /// `/v1/rerank`.
    VllmRerank,
    /// `/v1/audio/transcriptions`.
    OpenaiAudio,
    /// Text Generation Inference: `/generate_stream`.
    Tgi,
    /// `SGLang`'s own `/generate`.
    Sglang,
    /// TensorRT-LLM behind Triton: `/v2/models/ensemble/generate_stream`.
    TensorrtLlm,
    /// Ollama's `/api/chat`.
    Ollama,
    /// Any other, described by the file of --template.
    Template,
}

impl Backend {
    /// The name in flags and records.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Backend::Openai => "openai",
            Backend::OpenaiChat => "openai-chat",
            Backend::OpenaiResponses => "openai-responses",
            Backend::Anthropic => "anthropic",
            Backend::OpenaiEmbeddings => "openai-embeddings",
            Backend::VllmPooling => "vllm-pooling",
            Backend::VllmRerank => "vllm-rerank",
            Backend::OpenaiAudio => "openai-audio",
            Backend::Tgi => "tgi",
            Backend::Sglang => "sglang",
            Backend::TensorrtLlm => "tensorrt-llm",
            Backend::Ollama => "ollama",
            Backend::Template => "template",
        }
    }

    /// Whether the server puts the model's chat template round a prompt.
    #[must_use]
    pub fn is_chat(self) -> bool {
        matches!(self, Backend::OpenaiChat | Backend::OpenaiResponses | Backend::Anthropic | Backend::Ollama)
    }

    /// Whether a prompt may be a list of token ids.
    #[must_use]
    pub fn takes_ids(self) -> bool {
        use Backend::{Openai, OpenaiEmbeddings, Sglang, Template, VllmPooling};
        matches!(self, Openai | OpenaiEmbeddings | VllmPooling | Sglang | Template)
    }

    /// Whether images or sound may stand beside the text.
    #[must_use]
    pub fn takes_media(self) -> bool {
        self.is_chat() || matches!(self, Backend::OpenaiAudio | Backend::Template)
    }

    /// The API itself. `template` is the file of --template, which goes with [`Backend::Template`].
    ///
    /// # Errors
    /// The file is missing, not wanted, or not a template.
    pub fn api(self, template: Option<&Path>) -> Result<&'static dyn Api, Error> {
        if template.is_some() && self != Backend::Template {
            return Err(Error::Usage("--template goes with --backend template only".into()));
        }
        Ok(match self {
            Backend::Openai => &completions::Completions,
            Backend::OpenaiChat => &chat::Chat,
            Backend::OpenaiResponses => &responses::Responses,
            Backend::Anthropic => &anthropic::Messages,
            Backend::OpenaiEmbeddings => &embeddings::Embeddings,
            Backend::VllmPooling => &pooling::Pooling,
            Backend::VllmRerank => &rerank::Rerank,
            Backend::OpenaiAudio => &audio::Audio,
            Backend::Tgi => &tgi::Tgi,
            Backend::Sglang => &sglang::Sglang,
            Backend::TensorrtLlm => &tensorrt_llm::TensorrtLlm,
            Backend::Ollama => &ollama::Ollama,
            Backend::Template => {
                let file = template.ok_or_else(|| {
                    Error::Usage("--backend template is described in a file: --template FILE (docs/BACKENDS.md)".into())
                })?;
                // One for the whole program, so it may stay.
                Box::leak(Box::new(template::Template::open(file)?))
            }
        })
    }
}

/// One API. `stream` says whether the reply is asked for token by token or in one piece.
pub trait Api: fmt::Debug + Send + Sync {
    /// The usual path of its endpoint.
    fn endpoint(&self, stream: bool) -> &str;

    /// What the request itself says, before flags are added.
    ///
    /// # Errors
    /// Says what the request lacks for this API.
    fn body(&self, request: &SampleRequest, model: &str, stream: bool) -> Result<Object, String>;

    /// Where its sampling parameters stand.
    fn sampling(&self) -> Sampling {
        Sampling::VLLM
    }

    /// Puts keys where this API has them, once the whole body is together.
    fn arrange(&self, _body: &mut Object) {}

    /// The bytes that are sent.
    ///
    /// # Errors
    /// Says what the request lacks.
    fn encode(&self, body: &Object, _request: &SampleRequest) -> Result<Payload, String> {
        json(body)
    }

    /// Headers beside the usual ones; `key` is the API key.
    fn headers(&self, _key: Option<&str>) -> Vec<(&'static str, String)> {
        vec![]
    }

    /// Whether requests name a model.
    fn sends_model(&self) -> bool {
        true
    }

    /// How its reply is cut into pieces.
    fn cut(&self, stream: bool) -> Cut {
        if stream { Cut::Events } else { Cut::Whole }
    }

    /// Reads one event or line of a reply. Events without data, `[DONE]`, and those that are called `error` are not shown to it.
    ///
    /// # Errors
    /// It is nothing of this API.
    fn read<'a>(&self, event: Event<'a>) -> Result<Delta<'a>, String>;

    /// Reads a reply in one piece.
    ///
    /// # Errors
    /// It is nothing of this API.
    fn whole<'a>(&self, body: &'a [u8]) -> Result<Delta<'a>, String>;

    /// Whether it generates tokens: an answer without any is none then.
    fn generates(&self) -> bool {
        true
    }

    /// Whether a stream says where it ends. One that does not is over when the server closes it in good order.
    fn tells_end(&self) -> bool {
        true
    }
}

/// The body of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Their type.
    pub content_type: String,
}

/// An API, and whether replies are streamed.
#[derive(Debug, Clone, Copy)]
pub struct Protocol {
    /// The API.
    pub api: &'static dyn Api,
    /// Replies come token by token, and not in one piece.
    pub stream: bool,
}

/// Completions, streamed.
impl Default for Protocol {
    fn default() -> Self {
        Protocol { api: &completions::Completions, stream: true }
    }
}

impl Protocol {
    /// How replies are cut into pieces.
    #[must_use]
    pub fn cut(self) -> Cut {
        self.api.cut(self.stream)
    }

    /// The usual path of the endpoint.
    #[must_use]
    pub fn endpoint(self) -> &'static str {
        self.api.endpoint(self.stream)
    }
}

/// The payload of a request: its own keys, then the sampling `flags`, then `extra` (--extra-body), then its own `body`, where a
/// later key replaces an earlier one and objects are merged.
///
/// # Errors
/// Says what the request lacks for this API.
pub fn payload(
    Protocol { api, stream }: Protocol,
    request: &SampleRequest,
    model: &str,
    flags: &Object,
    extra: &Object,
) -> Result<Payload, String> {
    let mut body = api.body(request, request.lora.as_deref().unwrap_or(model), stream)?;
    let sampling = api.sampling();
    let mut own = request.body.clone().unwrap_or_default();
    if !sampling.has("ignore_eos") {
        // `vb-gen` puts it into its requests whatever the server, and some refuse what they do not know.
        own.remove("ignore_eos");
    }
    for part in [flags, extra, &own] {
        sampling::add(&mut body, &sampling.place(part));
    }
    api.arrange(&mut body);
    api.encode(&body, request)
}

fn json(body: &Object) -> Result<Payload, String> {
    let bytes = serde_json::to_vec(body).map_err(|e| e.to_string())?;
    Ok(Payload { bytes, content_type: "application/json".into() })
}

/// Text that borrows from the reply unless it holds escapes. (An `Option<Cow<str>>` is a copy always, whatever serde is told.)
#[derive(Debug, Default, serde::Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Reads JSON, or says why it is not what was due.
fn parse<'a, T: serde::Deserialize<'a>>(data: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(data).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;
    use serde_json::json;

    use super::*;

    /// The body that goes to a backend, as JSON.
    fn body(backend: Backend, line: &str, stream: bool) -> Result<serde_json::Value, String> {
        let flags = serde_json::from_str(r#"{"temperature":0.5,"top_p":0.9}"#).unwrap();
        let extra = serde_json::from_str(r#"{"top_p":0.8,"seed":1}"#).unwrap();
        let request: SampleRequest = serde_json::from_str(line).unwrap();
        let api = backend.api(None).unwrap();
        let payload = payload(Protocol { api, stream }, &request, "m", &flags, &extra)?;
        assert_eq!(payload.content_type, "application/json");
        Ok(serde_json::from_slice(&payload.bytes).unwrap())
    }

    #[test]
    fn bodies_are_what_each_api_wants() {
        use Backend::{Anthropic, Ollama, Openai, OpenaiChat, OpenaiResponses, Sglang, TensorrtLlm, Tgi};
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
                Openai,
                ids,
                true,
                json!({"model": "m", "prompt": [1, 2], "max_tokens": 4, "stream": true, "stream_options": usage,
                    "temperature": 0.5, "top_p": 0.8, "seed": 2, "ignore_eos": true}),
            ),
            (Openai, hi, false, tail(json!({"model": "m", "prompt": "hi", "max_tokens": 4, "stream": false}))),
            (
                OpenaiChat,
                hi,
                true,
                tail(json!({"model": "m", "messages": user, "max_completion_tokens": 4, "stream": true,
                    "stream_options": usage})),
            ),
            (
                OpenaiResponses,
                hi,
                true,
                tail(json!({"model": "m", "input": "hi", "max_output_tokens": 4, "stream": true, "store": false})),
            ),
            (
                Anthropic,
                hi,
                true,
                json!({"model": "m", "messages": user, "max_tokens": 4, "stream": true, "temperature": 0.5,
                    "top_p": 0.8, "seed": 1}),
            ),
            (
                Tgi,
                hi,
                true,
                json!({"inputs": "hi", "parameters": {"max_new_tokens": 4, "details": true, "temperature": 0.5,
                    "top_p": 0.8, "seed": 1}, "stream": true}),
            ),
            (
                Sglang,
                ids,
                true,
                json!({"input_ids": [1, 2], "sampling_params": {"max_new_tokens": 4, "temperature": 0.5, "top_p": 0.8,
                    "sampling_seed": 2, "ignore_eos": true}, "stream": true}),
            ),
            (
                TensorrtLlm,
                hi,
                false,
                json!({"text_input": "hi", "max_tokens": 4, "bad_words": "", "stop_words": "",
                    "exclude_input_in_output": true, "stream": false, "temperature": 0.5, "top_p": 0.8, "seed": 1,
                    "min_tokens": 4}),
            ),
            (
                Ollama,
                hi,
                true,
                json!({"model": "m", "messages": user, "stream": true, "truncate": false,
                    "options": {"num_predict": 4, "temperature": 0.5, "top_p": 0.8, "seed": 1}}),
            ),
        ] {
            assert_eq!(body(backend, line, stream).unwrap(), want, "{}", backend.name());
        }
    }

    #[test]
    fn tensorrt_llm_is_asked_for_a_length_and_an_adapter_in_its_words() {
        let sent = |line| body(Backend::TensorrtLlm, line, true).unwrap();
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

    /// A request's own object for the API's parameters stands beside what is in there already.
    #[test]
    fn parameters_go_where_the_api_has_them_under_its_names() {
        let line =
            |body: serde_json::Value| json!({"prompt": "hi", "expected_output_len": 4, "body": body}).to_string();
        let sent = |backend, own| body(backend, &line(own), true).unwrap();
        let ollama = sent(Backend::Ollama, json!({"options": {"num_ctx": 8192}, "logprobs": 2, "stop": "x"}));
        let options =
            json!({"num_predict": 4, "temperature": 0.5, "top_p": 0.8, "seed": 1, "num_ctx": 8192, "stop": ["x"]});
        assert_eq!((&ollama["options"], &ollama["logprobs"]), (&options, &json!(true)));
        assert_eq!(ollama["top_logprobs"], 2);
        let sglang = sent(Backend::Sglang, json!({"sampling_params": {"stop": "x"}, "logprobs": 3, "min_tokens": 4}));
        let params = json!({"max_new_tokens": 4, "temperature": 0.5, "top_p": 0.8, "sampling_seed": 1, "stop": "x",
            "min_new_tokens": 4});
        assert_eq!((&sglang["sampling_params"], &sglang["return_logprob"]), (&params, &json!(true)));
        assert_eq!(sglang["top_logprobs_num"], 3);
        // Out of their range there, where they would change nothing.
        let tgi = sent(Backend::Tgi, json!({"temperature": 0, "top_p": 1, "top_k": -1, "parameters": {"stop": "x"}}));
        let parameters = json!({"max_new_tokens": 4, "details": true, "seed": 1, "stop": ["x"]});
        assert_eq!(tgi["parameters"], parameters);
        let anthropic = sent(Backend::Anthropic, json!({"stop": "x", "ignore_eos": true}));
        assert_eq!((&anthropic["stop_sequences"], &anthropic["ignore_eos"]), (&json!(["x"]), &json!(null)));
        let responses = sent(Backend::OpenaiResponses, json!({"logprobs": 2}));
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
        let sent = body(Backend::Anthropic, &talk, true).unwrap();
        assert_eq!(sent["system"], json!([{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Now."}]));
        assert_eq!(sent["messages"].as_array().unwrap().len(), 2);
        let sent = body(Backend::OpenaiResponses, &talk, true).unwrap();
        assert_eq!(sent["input"][3]["content"], json!([{"type": "output_text", "text": "ho"}]));
        assert_eq!(sent["input"][2]["content"], json!([{"type": "input_text", "text": "hi"}]));
        let far =
            json!({"prompt": "hi", "multi_modal_data": {"type": "image_url", "image_url": {"url": "https://h/a.png"}}});
        assert!(body(Backend::Ollama, &far.to_string(), true).unwrap_err().contains("`data:` addresses"));
    }

    #[test]
    fn calls_of_tools_go_where_their_form_is_known() {
        let call = json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}});
        let talk = json!({"messages": [{"role": "user", "content": "hi"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": "2"}]})
        .to_string();
        for backend in [Backend::Anthropic, Backend::OpenaiResponses] {
            assert!(
                body(backend, &talk, true).unwrap_err().contains("use --backend openai-chat"),
                "{}",
                backend.name()
            );
        }
        let sent = body(Backend::Ollama, &talk, true).unwrap();
        assert_eq!(sent["messages"][1]["tool_calls"][0]["function"]["arguments"], json!({"a": 1}));
        assert_eq!(body(Backend::OpenaiChat, &talk, true).unwrap()["messages"][2]["tool_call_id"], "c");
    }

    #[test]
    fn what_a_backend_does_not_take_is_refused_with_the_cure() {
        for (backend, line, cure) in [
            (Backend::Openai, r#"{"messages":[]}"#, "--backend openai-chat"),
            (Backend::OpenaiChat, r#"{"prompt":[1]}"#, "--backend openai"),
            (Backend::Openai, "{}", "no `prompt`"),
            (Backend::VllmRerank, r#"{"prompt":"hi"}"#, "[query, document, …]"),
            (Backend::OpenaiAudio, r#"{"prompt":"hi"}"#, "input_audio"),
            (Backend::Openai, r#"{"prompt":["a","b"]}"#, "send one a line"),
            (Backend::Sglang, r#"{"prompt":"hi","body":{"sampling_params":{"n":2}}}"#, "--backend openai"),
            (Backend::OpenaiEmbeddings, r#"{"prompt":"hi","body":{"encoding_format":"bytes"}}"#, "base64 or float"),
            (Backend::VllmPooling, r#"{"prompt":"hi","body":{"encoding_format":"bytes_only"}}"#, "base64 or float"),
            (Backend::TensorrtLlm, r#"{"prompt":"hi","lora":"sql"}"#, "`lora_task_id`"),
        ] {
            let error = body(backend, line, true).unwrap_err();
            assert!(error.contains(cure), "{}: {error}", backend.name());
        }
        assert!(Backend::Template.api(None).unwrap_err().to_string().contains("--template FILE"));
        assert!(Backend::Openai.api(Some(Path::new("x"))).is_err());
    }

    #[test]
    fn names_are_those_of_the_flag() {
        for backend in Backend::value_variants() {
            assert_eq!(backend.to_possible_value().unwrap().get_name(), backend.name());
        }
    }
}

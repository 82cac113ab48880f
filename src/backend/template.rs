//! Any other API, described in a file: a Jinja template of the body, and pointers to the values of a response.
//!
//! ```yaml
//! endpoint: /generate
//! body: |
//!   {"inputs": {{ prompt | tojson }}, "max": {{ expected_output_len }}, "stream": {{ stream | tojson }}}
//! stream: events              # or `lines` of JSON; without it responses are not streamed
//! text: /token/text           # JSON pointers into an event, a line, or a non-streaming response
//! finish: /details/finish_reason
//! output_tokens: /details/generated_tokens
//! ```
//!
//! A request written with this file, and an event that it reads:
//!
//! ```text
//! {"inputs":"hi","max":16,"stream":true}
//!
//! data: {"token":{"text":" there"},"details":{"finish_reason":"length","generated_tokens":16}}
//! ```
//!
//! `docs/BACKENDS.md` lists all keys. The variables in the body are the keys of the request (`prompt`, `messages`,
//! `expected_output_len`, …), `model` and `stream`; the sampling flags are added at the top level.

use std::{borrow::Cow, collections::HashSet, path::Path};

use minijinja::{Environment, UndefinedBehavior, context, value::Serde};
use serde::Deserialize;
use serde_json::Value;

use super::{
    Api, Backend, ChoiceDelta, Delta, OutputKind, PromptForm, ReadError, SamplingKeys, TextMode, Usage,
    lenient::{Count, Filled},
};
use crate::{
    error::Error,
    http::{body::BodyFormat, error_text::error_message, sse::SseEvent},
    json,
    record::{Object, SampleRequest},
};

/// `--backend template`.
pub static BACKEND: Backend = Backend {
    name: "template",
    aliases: &[],
    about: "any other API, described by the file of --template",
    prompt_forms: &[PromptForm::Text, PromptForm::TokenIds, PromptForm::TextList, PromptForm::Media],
    needs: "`--template FILE`, and the prompt that its `body` uses",
    token_counts: "the keys that its file names",
    checked_against: "llama.cpp",
    api: None,
};

/// An API described by a file.
#[derive(Debug)]
pub struct TemplateApi {
    file: TemplateFile,
    environment: Environment<'static>,
    /// The variables of its body.
    names: HashSet<String>,
    name: String,
}

/// The content of the file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TemplateFile {
    /// The path of the endpoint.
    endpoint: String,
    /// The body of a request: a Jinja template that renders a JSON object.
    body: String,
    /// How a streamed response is divided into chunks.
    #[serde(default)]
    stream: Option<StreamFormat>,
    /// The pointer to the new text.
    #[serde(default)]
    text: Option<String>,
    /// The pointer to the reasoning.
    #[serde(default)]
    reasoning: Option<String>,
    /// Whether the text is all text so far, not only the new text.
    #[serde(default)]
    cumulative: bool,
    /// The pointer to the finish reason.
    #[serde(default)]
    finish: Option<String>,
    #[serde(default)]
    prompt_tokens: Option<String>,
    #[serde(default)]
    output_tokens: Option<String>,
    #[serde(default)]
    cached_tokens: Option<String>,
    /// The pointer to an error: any value that is not empty, null, false or 0.
    #[serde(default)]
    error: Option<String>,
    /// The pointer to the end marker: any value that is not empty, null, false or 0.
    #[serde(default)]
    done: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StreamFormat {
    Events,
    Lines,
}

const BODY_TEMPLATE: &str = "body";

impl TemplateApi {
    /// Reads the file.
    ///
    /// # Errors
    /// Names the file and its mistake.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::read(path, e))?;
        Self::parse(&text, &path.display().to_string())
    }

    fn parse(text: &str, name: &str) -> Result<Self, Error> {
        let wrong = |what: &dyn std::fmt::Display| Error::Usage(format!("--template {name}: {what}"));
        let file: TemplateFile = serde_yaml::from_str(text).map_err(|e| wrong(&e))?;
        for (key, pointer) in file.json_pointers() {
            if !pointer.is_empty() && !pointer.starts_with('/') {
                return Err(wrong(&format!("`{key}` is a JSON pointer and must begin with a slash: /{pointer}")));
            }
        }
        if file.text.is_none() && file.stream.is_some() {
            return Err(wrong(&"`stream` needs `text`, the pointer to the new text"));
        }
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::SemiStrict);
        environment.add_template_owned(BODY_TEMPLATE, file.body.clone()).map_err(|e| wrong(&format!("`body`: {e}")))?;
        let names = environment.get_template(BODY_TEMPLATE).map_err(|e| wrong(&e))?.undeclared_variables(false);
        Ok(TemplateApi { file, environment, names, name: name.to_owned() })
    }

    /// The value at a pointer; `None` for null.
    fn value_at<'v>(value: &'v Value, pointer: Option<&String>) -> Option<&'v Value> {
        value.pointer(pointer?).filter(|found| !found.is_null())
    }

    /// The text at a pointer; empty if absent.
    fn text_at(value: &Value, pointer: Option<&String>) -> Result<String, ReadError> {
        match Self::value_at(value, pointer) {
            Some(Value::String(text)) => Ok(text.clone()),
            None | Some(Value::Bool(false)) => Ok(String::new()),
            Some(_) => {
                let pointer = pointer.map_or("", String::as_str);
                Err(ReadError::Shape(format!("the value at {pointer} is not a string")))
            }
        }
    }

    fn read_delta<'a>(&self, data: &[u8], complete: bool) -> Result<Delta<'a>, ReadError> {
        let value: Value = serde_json::from_slice(data).map_err(|e| ReadError::Syntax(e.to_string()))?;
        let file = &self.file;
        let at = |pointer: &Option<String>| Self::value_at(&value, pointer.as_ref());
        // These read any JSON.
        let is_set = |found: &&Value| Filled::deserialize(*found).is_ok_and(|filled| filled.0);
        if let Some(found) = at(&file.error).filter(is_set) {
            let own = found.is_string() || found.is_object() || found.is_array();
            let error = if own { error_message(found.to_string().as_bytes()) } else { error_message(data) };
            return Ok(Delta { error: Some(error), ..Delta::default() });
        }
        let number = |pointer: &Option<String>| at(pointer).and_then(|found| Count::deserialize(found).ok()?.0);
        let (answer, reasoning) =
            (Self::text_at(&value, file.text.as_ref())?, Self::text_at(&value, file.reasoning.as_ref())?);
        let only_reasoning = answer.is_empty() && !reasoning.is_empty();
        if complete && !only_reasoning && file.text.is_some() && at(&file.text).is_none() {
            let pointer = file.text.as_deref().unwrap_or_default();
            return Err(ReadError::Shape(format!("no value at {pointer}")));
        }
        let (kind, text) =
            if only_reasoning { (OutputKind::Reasoning, reasoning) } else { (OutputKind::Answer, answer) };
        let finish = at(&file.finish)
            .filter(is_set)
            .map(|found| found.as_str().map_or_else(|| found.to_string(), str::to_owned));
        // A chunk without the text's key has no token, even if the count of tokens grows: no text can have been held back.
        let opens = at(&file.text).is_none();
        let choice = ChoiceDelta {
            text: Cow::Owned(text),
            kind,
            finish: finish.map(Cow::Owned),
            opens,
            ..ChoiceDelta::default()
        };
        let usage = Usage {
            prompt_tokens: number(&file.prompt_tokens),
            completion_tokens: number(&file.output_tokens),
            cached_tokens: number(&file.cached_tokens),
            ..Usage::default()
        };
        let done = complete || at(&file.done).is_some_and(|found| is_set(&found));
        let choices = [choice].into_iter().filter(|_| file.text.is_some()).collect();
        let text_mode = if file.cumulative && !complete { TextMode::Cumulative } else { TextMode::Incremental };
        Ok(Delta { choices, usage, done, text_mode, ..Delta::default() })
    }
}

impl TemplateFile {
    fn json_pointers(&self) -> impl Iterator<Item = (&'static str, &String)> {
        [
            ("text", &self.text),
            ("reasoning", &self.reasoning),
            ("finish", &self.finish),
            ("prompt_tokens", &self.prompt_tokens),
            ("output_tokens", &self.output_tokens),
            ("cached_tokens", &self.cached_tokens),
            ("error", &self.error),
            ("done", &self.done),
        ]
        .into_iter()
        .filter_map(|(key, pointer)| Some((key, pointer.as_ref()?)))
    }
}

impl Api for TemplateApi {
    fn endpoint_path(&self, _stream: bool) -> &str {
        &self.file.endpoint
    }

    fn request_body(&self, request: &SampleRequest, model: &str, stream: bool) -> Result<Object, String> {
        let wrong = |what: &dyn std::fmt::Display| format!("the `body` of --template {}: {what}", self.name);
        if request.lora.is_some() && !self.names.contains("lora") && !self.sends_model() {
            return Err(wrong(&"it uses neither `lora` nor `model`, and the request names an adapter"));
        }
        let template = self.environment.get_template(BODY_TEMPLATE).map_err(|e| wrong(&e))?;
        let variables = minijinja::Value::from(Serde(request));
        let text =
            template.render(context! { model => model, stream => stream, ..variables }).map_err(|e| wrong(&e))?;
        json::parse_object(&text).map_err(|e| wrong(&format!("it is not a JSON object: {e}")))
    }

    fn sampling_keys(&self) -> SamplingKeys {
        // The template decides what a body is, so nothing is left out, even if no text is read.
        SamplingKeys::VLLM
    }

    fn sends_model(&self) -> bool {
        self.names.contains("model")
    }

    fn body_format(&self, stream: bool) -> BodyFormat {
        match self.file.stream.filter(|_| stream) {
            Some(StreamFormat::Events) => BodyFormat::Events,
            Some(StreamFormat::Lines) => BodyFormat::JsonLines,
            None => BodyFormat::Json,
        }
    }

    fn read_event<'a>(&self, event: SseEvent<'a>) -> Result<Delta<'a>, ReadError> {
        self.read_delta(event.data, false)
    }

    fn read_response<'a>(&self, body: &'a [u8]) -> Result<Delta<'a>, ReadError> {
        self.read_delta(body, true)
    }

    fn generates_tokens(&self) -> bool {
        self.file.text.is_some()
    }

    fn marks_end(&self) -> bool {
        self.file.finish.is_some() || self.file.done.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
endpoint: /generate
body: |
  {\"inputs\": {{ prompt | tojson }}, \"max\": {{ expected_output_len }}, \"stream\": {{ stream | tojson }}}
stream: events
text: /token/text
finish: /details/finish_reason
output_tokens: /details/generated_tokens
error: /error
";

    #[test]
    fn the_body_is_rendered_from_the_request() {
        let template = TemplateApi::parse(FILE, "t.yaml").unwrap();
        let request: SampleRequest =
            serde_json::from_str(r#"{"prompt":"say \"hi\"","expected_output_len":3}"#).unwrap();
        let body = template.request_body(&request, "m", true).unwrap();
        assert_eq!(serde_json::to_string(&body).unwrap(), r#"{"inputs":"say \"hi\"","max":3,"stream":true}"#);
        let short: SampleRequest = serde_json::from_str(r#"{"prompt":"hi"}"#).unwrap();
        let error = template.request_body(&short, "m", true).unwrap_err();
        assert!(error.contains("the `body` of --template t.yaml") && error.contains("undefined"), "{error}");
    }

    #[test]
    fn pointers_find_the_values_of_a_response() {
        let template = TemplateApi::parse(FILE, "t.yaml").unwrap();
        let read = |data: &'static [u8]| template.read_event(SseEvent { name: b"", data }).unwrap();
        let first = read(br#"{"token":{"text":" a"},"details":null}"#);
        assert_eq!((&*first.choices[0].text, first.choices[0].finish.is_none()), (" a", true));
        let last = read(br#"{"token":{"text":"b"},"details":{"finish_reason":"length","generated_tokens":2}}"#);
        assert_eq!((last.choices[0].finish.as_deref(), last.usage.completion_tokens), (Some("length"), Some(2)));
        assert_eq!(read(br#"{"error":"overloaded"}"#).error.as_deref(), Some("overloaded"));
        assert!(template.read_response(br#"{"other":1}"#).is_err() && template.read_response(b"oops").is_err());
        for other in ["[1]", "{}", "1", "true"] {
            let data = format!(r#"{{"token":{{"text":{other}}}}}"#);
            let want = ReadError::Shape("the value at /token/text is not a string".into());
            assert_eq!(
                template.read_event(SseEvent { name: b"", data: data.as_bytes() }).unwrap_err(),
                want,
                "{other}"
            );
            assert_eq!(template.read_response(data.as_bytes()).unwrap_err(), want, "{other}");
        }
    }

    #[test]
    fn reasoning_alone_is_a_response() {
        let file = format!("{FILE}reasoning: /thoughts\n");
        let template = TemplateApi::parse(&file, "t.yaml").unwrap();
        let delta = template.read_response(br#"{"token":{"text":null},"thoughts":"hm"}"#).unwrap();
        assert!(delta.done && delta.choices[0].has_reasoning(), "{delta:?}");
        assert!(
            template.read_response(br#"{"thoughts":""}"#).unwrap_err().to_string().contains("no value at /token/text")
        );
    }

    #[test]
    fn the_variables_of_a_body_are_known() {
        let template =
            |body: &str| TemplateApi::parse(&format!("endpoint: /g\ntext: /t\nbody: '{body}'"), "t.yaml").unwrap();
        let asks: SampleRequest = serde_json::from_str(r#"{"prompt":"hi","lora":"sql"}"#).unwrap();
        let plain = template(r#"{"for": "a model"}"#);
        assert!(!plain.sends_model());
        assert!(plain.request_body(&asks, "sql", true).unwrap_err().contains("neither `lora` nor `model`"));
        for name in ["model", "lora"] {
            let named = template(&format!(r#"{{"adapter": "{{{{ {name} }}}}"}}"#));
            assert_eq!(named.sends_model(), name == "model");
            assert_eq!(named.request_body(&asks, "sql", true).unwrap()["adapter"], "sql", "{name}");
        }
    }

    #[test]
    fn mistakes_in_the_file_are_reported_with_their_key() {
        for (text, want) in [
            ("endpoint: /g\nbody: '{}'\ntext: token", "`text` is a JSON pointer"),
            ("endpoint: /g\nbody: '{}'\nstream: events", "`stream` needs `text`"),
            ("endpoint: /g\nbody: '{{ oops'\ntext: /a", "`body`: syntax error"),
            ("endpoint: /g\nbody: '{}'\nbdoy: 1", "unknown field `bdoy`"),
            ("body: '{}'", "missing field `endpoint`"),
        ] {
            let error = TemplateApi::parse(text, "t.yaml").unwrap_err().to_string();
            assert!(error.starts_with("--template t.yaml: ") && error.contains(want), "{error}");
        }
    }
}

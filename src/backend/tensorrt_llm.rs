//! TensorRT-LLM behind Triton: `/v2/models/ensemble/generate_stream` and `…/generate`. A request, and an event of its reply:
//!
//! ```text
//! {"text_input":"hi","max_tokens":16,"bad_words":"","stop_words":"","stream":true}
//!
//! data: {"model_name":"ensemble","model_version":"1","sequence_end":false,"sequence_id":0,"sequence_start":false,"text_output":" there"}
//! ```
//!
//! It counts no tokens and says neither why nor that an answer ends: a stream is over when the server ends it in good order.
//! `--endpoint` names another model than `ensemble`.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Api, Choice, Delta, Sampling, Text, completions::limit, parse, prompt};
use crate::{
    http::{exchange::error_message, sse::Event},
    record::{Object, SampleRequest},
};

/// The API.
#[derive(Debug)]
pub struct TensorrtLlm;

impl Api for TensorrtLlm {
    fn endpoint(&self, stream: bool) -> &'static str {
        if stream { "/v2/models/ensemble/generate_stream" } else { "/v2/models/ensemble/generate" }
    }

    fn body(&self, request: &SampleRequest, _model: &str, stream: bool) -> Result<Object, String> {
        let text = prompt::text(request, "tensorrt-llm")?;
        let mut body = Object::from_iter([("text_input".into(), text.into())]);
        limit(&mut body, "max_tokens", request);
        body.insert("bad_words".into(), "".into());
        body.insert("stop_words".into(), "".into());
        body.insert("stream".into(), stream.into());
        Ok(body)
    }

    fn sampling(&self) -> Sampling {
        Sampling { within: None, known: Some(KNOWN) }
    }

    fn sends_model(&self) -> bool {
        false
    }

    fn read<'a>(&self, event: Event<'a>) -> Result<Delta<'a>, String> {
        let told: Told = parse(event.data)?;
        if told.error.is_some() {
            return Ok(Delta { error: Some(error_message(event.data)), ..Delta::default() });
        }
        let Text(text) = told.text_output.ok_or("it has no `text_output`")?;
        Ok(Delta { choices: [Choice { text, ..Choice::default() }].into_iter().collect(), ..Delta::default() })
    }

    fn whole<'a>(&self, body: &'a [u8]) -> Result<Delta<'a>, String> {
        let delta = self.read(Event { name: b"", data: body })?;
        Ok(Delta { done: true, ..delta })
    }

    fn tells_end(&self) -> bool {
        false
    }
}

const KNOWN: &[(&str, &str)] = &[
    ("temperature", "temperature"),
    ("top_p", "top_p"),
    ("top_k", "top_k"),
    ("frequency_penalty", "frequency_penalty"),
    ("presence_penalty", "presence_penalty"),
    ("repetition_penalty", "repetition_penalty"),
    ("seed", "seed"),
    ("stop", "stop_words"),
];

#[derive(Deserialize)]
struct Told<'a> {
    #[serde(borrow, default)]
    text_output: Option<Text<'a>>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

//! OpenAI's embeddings: `/v1/embeddings`, whose `input` may be a list. A request and its reply:
//!
//! ```json
//! {"model":"m","input":"hi"}
//! {"object":"list","data":[{"index":0,"object":"embedding","embedding":[0.1,-0.2]}],"usage":{"prompt_tokens":1,"total_tokens":1}}
//! ```
//!
//! Nothing is generated and nothing streamed. Too long an input is refused by the server, as it should be: vLLM's own bench asks
//! it to cut them silently.

use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::{Api, Delta, Sampling, Usage, parse, prompt};
use crate::{
    http::{
        exchange::{Cut, error_message},
        sse::Event,
    },
    record::{Object, SampleRequest},
};

/// The API.
#[derive(Debug)]
pub struct Embeddings;

impl Api for Embeddings {
    fn endpoint(&self, _stream: bool) -> &'static str {
        "/v1/embeddings"
    }

    fn body(&self, request: &SampleRequest, model: &str, _stream: bool) -> Result<Object, String> {
        Ok(Object::from_iter([("model".into(), model.into()), ("input".into(), prompt::any(request)?)]))
    }

    fn sampling(&self) -> Sampling {
        Sampling::NONE
    }

    fn cut(&self, _stream: bool) -> Cut {
        Cut::Whole
    }

    fn read<'a>(&self, event: Event<'a>) -> Result<Delta<'a>, String> {
        self.whole(event.data)
    }

    fn whole<'a>(&self, body: &'a [u8]) -> Result<Delta<'a>, String> {
        results(body)
    }

    fn generates(&self) -> bool {
        false
    }
}

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(default)]
    data: Vec<IgnoredAny>,
    #[serde(default)]
    results: Vec<IgnoredAny>,
    #[serde(default)]
    usage: Option<Counts>,
}

#[derive(Deserialize)]
struct Counts {
    prompt_tokens: Option<u32>,
    total_tokens: Option<u32>,
}

/// A reply with one result or more under `data` or `results`, as all APIs that generate nothing have it.
pub fn results(body: &[u8]) -> Result<Delta<'_>, String> {
    let reply: Reply = parse(body)?;
    let error = reply.error.is_some().then(|| error_message(body));
    if error.is_none() && reply.data.is_empty() && reply.results.is_empty() {
        return Err("it has no result, neither under `data` nor `results`".into());
    }
    let tokens = reply.usage.and_then(|counts| counts.prompt_tokens.or(counts.total_tokens));
    let usage = Usage { prompt_tokens: tokens, ..Usage::default() };
    Ok(Delta { usage, done: true, error, ..Delta::default() })
}

//! OpenAI embeddings: `/v1/embeddings`; `input` may be a list. A request and its response:
//!
//! ```json
//! {"model":"m","input":"hi"}
//! {"object":"list","data":[{"index":0,"object":"embedding","embedding":[0.1,-0.2]}],"usage":{"prompt_tokens":1,"total_tokens":1}}
//! ```
//!
//! Nothing is generated or streamed. The server rejects an input that is too long, and nothing here asks it to truncate the input
//! silently, as vLLM's own benchmark does.

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, value::RawValue};

use super::{Api, Backend, Delta, Payload, PromptForm, Usage, encode_json, parse, prompt};
use crate::{
    http::exchange::error_message,
    record::{Object, SampleRequest},
};

pub static BACKEND: Backend = Backend {
    name: "openai-embeddings",
    aliases: &[],
    about: "OpenAI embeddings",
    prompt_forms: &[PromptForm::Text, PromptForm::TokenIds, PromptForm::TextList],
    needs: "text, token ids, or a list of either",
    token_counts: "`usage` (prompt only)",
    checked_against: "vLLM 0.32",
    api: Some(&EmbeddingsApi),
};

#[derive(Debug)]
pub struct EmbeddingsApi;

impl Api for EmbeddingsApi {
    fn endpoint_path(&self, _stream: bool) -> &'static str {
        "/v1/embeddings"
    }

    fn request_body(&self, request: &SampleRequest, model: &str, _stream: bool) -> Result<Object, String> {
        Ok(Object::from_iter([("model".into(), model.into()), ("input".into(), prompt::any_prompt(request)?)]))
    }

    fn encode_body(&self, body: &Object, _request: &SampleRequest) -> Result<Payload, String> {
        let bytes = body.get("encoding_format").and_then(Value::as_str).filter(|format| format.starts_with("bytes"));
        match bytes {
            Some(_) => Err("`encoding_format` bytes has no token counts: set it to base64 or float".into()),
            None => encode_json(body),
        }
    }

    fn read_response<'a>(&self, body: &'a [u8]) -> Result<Delta<'a>, String> {
        parse_results(body)
    }

    fn generates_tokens(&self) -> bool {
        false
    }
}

#[derive(Deserialize)]
struct PooledResponse<'a> {
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
    #[serde(default)]
    data: Vec<IgnoredAny>,
    #[serde(default)]
    results: Vec<IgnoredAny>,
    #[serde(default)]
    usage: Option<EmbeddingsUsage>,
    #[serde(default)]
    meta: Option<CohereMeta>,
}

/// Cohere's place for token counts.
#[derive(Deserialize)]
struct CohereMeta {
    tokens: Option<CohereTokens>,
}

#[derive(Deserialize)]
struct CohereTokens {
    input_tokens: Option<u32>,
}

#[derive(Deserialize)]
struct EmbeddingsUsage {
    prompt_tokens: Option<u32>,
    total_tokens: Option<u32>,
}

/// Parses a response with at least one result under `data` or `results`: the format of all APIs that generate nothing.
pub fn parse_results(body: &[u8]) -> Result<Delta<'_>, String> {
    let response: PooledResponse = parse(body)?;
    let error = response.error.is_some().then(|| error_message(body));
    if error.is_none() && response.data.is_empty() && response.results.is_empty() {
        return Err("it has no result in `data` or `results`".into());
    }
    let tokens = response.usage.and_then(|counts| counts.prompt_tokens.or(counts.total_tokens));
    let meta = || response.meta?.tokens?.input_tokens;
    let usage = Usage { prompt_tokens: tokens.or_else(meta), ..Usage::default() };
    Ok(Delta { usage, done: true, error, ..Delta::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_counts_are_found_where_each_server_reports_them() {
        for counts in [
            r#""usage":{"prompt_tokens":4,"total_tokens":9}"#,
            r#""usage":{"total_tokens":4}"#,
            r#""meta":{"billed_units":{"search_units":1},"tokens":{"input_tokens":4}}"#,
        ] {
            let body = format!(r#"{{"results":[{{"index":0,"relevance_score":0.9}}],{counts}}}"#);
            assert_eq!(parse_results(body.as_bytes()).unwrap().usage.prompt_tokens, Some(4), "{counts}");
        }
    }
}

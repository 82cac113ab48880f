//! OpenAI embeddings: `/v1/embeddings`; `input` may be a list. A request and its response:
//!
//! ```json
//! {"model":"m","input":"hi"}
//! {"object":"list","data":[{"index":0,"object":"embedding","embedding":[0.1,-0.2]}],"usage":{"prompt_tokens":1,"total_tokens":1}}
//! ```
//!
//! Nothing is generated or streamed. The server rejects an input that is too long, and nothing here asks it to truncate the input
//! silently, as vLLM's own benchmark does.

use serde_json::Value;

use super::{
    Api, Backend, Delta, Payload, PromptForm, ReadError, Usage, encode_json,
    lenient::{Count, Filled, Nested, Size, lenient_fields},
    prompt, read_fields,
};
use crate::{
    http::error_text::error_message,
    record::{ContentForm, Object, SampleRequest},
};

pub static BACKEND: Backend = Backend {
    name: "openai-embeddings",
    aliases: &[],
    about: "OpenAI embeddings",
    prompt_forms: &[PromptForm::Text, PromptForm::TokenIds, PromptForm::TextList],
    needs: "text, token ids, or a list of either",
    token_counts: "`usage` (prompt only)",
    checked_against: "vLLM, llama.cpp",
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

    fn copied_forms(&self) -> &'static [ContentForm] {
        &[ContentForm::Text, ContentForm::Ids, ContentForm::Texts, ContentForm::IdLists]
    }

    fn encode_body(&self, body: &Object, _request: &SampleRequest) -> Result<Payload, String> {
        let bytes = body.get("encoding_format").and_then(Value::as_str).filter(|format| format.starts_with("bytes"));
        match bytes {
            Some(_) => Err("`encoding_format` bytes has no token counts: set it to base64 or float".into()),
            None => encode_json(body),
        }
    }

    fn read_response<'a>(&self, body: &'a [u8]) -> Result<Delta<'a>, ReadError> {
        parse_results(body)
    }

    fn generates_tokens(&self) -> bool {
        false
    }
}

lenient_fields! {
    /// A response of all APIs that generate nothing.
    struct PooledResponse {
        "error" => error: Filled,
        "data" => data: Size,
        "results" => results: Size,
        "usage" => usage: Nested<EmbeddingsUsage>,
        "meta" => meta: Nested<CohereMeta>,
    }
}

lenient_fields! {
    /// Cohere's place for token counts.
    struct CohereMeta {
        "tokens" => tokens: Nested<CohereTokens>,
    }
}

lenient_fields! {
    /// Cohere's token counts.
    struct CohereTokens {
        "input_tokens" => input_tokens: Count,
    }
}

lenient_fields! {
    /// The token counts of the others.
    struct EmbeddingsUsage {
        "prompt_tokens" => prompt_tokens: Count,
        "total_tokens" => total_tokens: Count,
    }
}

/// Parses a response with at least one result under `data` or `results`: the format of all APIs that generate nothing.
pub fn parse_results(body: &[u8]) -> Result<Delta<'_>, ReadError> {
    let response: PooledResponse = read_fields(body)?;
    let error = response.error.0.then(|| error_message(body));
    if error.is_none() && !response.data.is_filled() && !response.results.is_filled() {
        return Err(ReadError::Shape("it has no result in `data` or `results`".into()));
    }
    let tokens = response.usage.0.and_then(|counts| counts.prompt_tokens.0.or(counts.total_tokens.0));
    let meta = || response.meta.0?.tokens.0?.input_tokens.0;
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

//! Reranking in the API of vLLM, Jina and Cohere: `/v1/rerank`. The prompt is a list; the query comes first. A request and its
//! response:
//!
//! ```json
//! {"model":"m","query":"who","documents":["he","she"]}
//! {"results":[{"index":1,"document":{"text":"she"},"relevance_score":0.7}],"usage":{"total_tokens":4}}
//! ```

use super::{Api, Backend, Delta, PromptForm, ReadError, embeddings, prompt};
use crate::record::{Object, Prompt, SampleRequest};

pub static BACKEND: Backend = Backend {
    name: "vllm-rerank",
    aliases: &[],
    about: "reranking (vLLM, Jina, Cohere)",
    prompt_forms: &[PromptForm::TextList],
    needs: "a list of texts: the query, then the documents",
    token_counts: "`usage` (prompt only)",
    checked_against: "vLLM, llama.cpp",
    api: Some(&RerankApi),
};

#[derive(Debug)]
struct RerankApi;

impl Api for RerankApi {
    fn endpoint_path(&self, _stream: bool) -> &'static str {
        "/v1/rerank"
    }

    fn request_body(&self, request: &SampleRequest, model: &str, _stream: bool) -> Result<Object, String> {
        prompt::reject_media(request)?;
        let Some(Prompt::Texts(texts)) = &request.prompt else {
            return Err("reranking needs a list of texts as `prompt`: [query, document, …]".into());
        };
        let [query, documents @ ..] = &texts[..] else { return Err("the `prompt` has no query".into()) };
        if documents.is_empty() {
            return Err("the `prompt` has a query but no document to rank".into());
        }
        Ok(Object::from_iter([
            ("model".into(), model.into()),
            ("query".into(), query.as_str().into()),
            ("documents".into(), documents.into()),
        ]))
    }

    fn read_response<'a>(&self, body: &'a [u8]) -> Result<Delta<'a>, ReadError> {
        embeddings::parse_results(body)
    }

    fn generates_tokens(&self) -> bool {
        false
    }
}

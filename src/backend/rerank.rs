//! Reranking as vLLM, Jina and Cohere have it: `/v1/rerank`. The prompt is a list, the query first. A request and its reply:
//!
//! ```json
//! {"model":"m","query":"who","documents":["he","she"]}
//! {"results":[{"index":1,"document":{"text":"she"},"relevance_score":0.7}],"usage":{"total_tokens":4}}
//! ```

use super::{Api, Delta, Sampling, embeddings, prompt};
use crate::{
    http::{exchange::Cut, sse::Event},
    record::{Object, Prompt, SampleRequest},
};

/// The API.
#[derive(Debug)]
pub struct Rerank;

impl Api for Rerank {
    fn endpoint(&self, _stream: bool) -> &'static str {
        "/v1/rerank"
    }

    fn body(&self, request: &SampleRequest, model: &str, _stream: bool) -> Result<Object, String> {
        prompt::without_media(request)?;
        let Some(Prompt::Texts(texts)) = &request.prompt else {
            return Err("reranking needs a `prompt` that is a list of texts: [query, document, …]".into());
        };
        let [query, documents @ ..] = &texts[..] else { return Err("the `prompt` has no query".into()) };
        if documents.is_empty() {
            return Err("the `prompt` has a query and no document to rank".into());
        }
        Ok(Object::from_iter([
            ("model".into(), model.into()),
            ("query".into(), query.as_str().into()),
            ("documents".into(), documents.into()),
        ]))
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
        embeddings::results(body)
    }

    fn generates(&self) -> bool {
        false
    }
}

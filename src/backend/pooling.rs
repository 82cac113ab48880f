//! vLLM pooling: `/pooling`, the raw output of a pooling model. A request and its response:
//!
//! ```json
//! {"model":"m","input":"hi"}
//! {"object":"list","data":[{"index":0,"object":"pooling","data":[0.1,-0.2]}],"usage":{"prompt_tokens":1,"total_tokens":1}}
//! ```

use super::{Api, Backend, Delta, Payload, PromptForm, ReadError, embeddings, embeddings::EmbeddingsApi};
use crate::record::{ContentForm, Object, SampleRequest};

pub static BACKEND: Backend = Backend {
    name: "vllm-pooling",
    aliases: &[],
    about: "vLLM pooling",
    prompt_forms: &[PromptForm::Text, PromptForm::TokenIds, PromptForm::TextList],
    needs: "text, token ids, or a list of either",
    token_counts: "`usage` (prompt only)",
    checked_against: "vLLM",
    api: Some(&PoolingApi),
};

#[derive(Debug)]
struct PoolingApi;

impl Api for PoolingApi {
    fn endpoint_path(&self, _stream: bool) -> &'static str {
        "/pooling"
    }

    fn request_body(&self, request: &SampleRequest, model: &str, stream: bool) -> Result<Object, String> {
        EmbeddingsApi.request_body(request, model, stream)
    }

    fn copied_forms(&self) -> &'static [ContentForm] {
        EmbeddingsApi.copied_forms()
    }

    fn encode_body(&self, body: &Object, request: &SampleRequest) -> Result<Payload, String> {
        EmbeddingsApi.encode_body(body, request)
    }

    fn read_response<'a>(&self, body: &'a [u8]) -> Result<Delta<'a>, ReadError> {
        embeddings::parse_results(body)
    }

    fn generates_tokens(&self) -> bool {
        false
    }
}

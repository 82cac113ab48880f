//! The endpoints that generate no tokens: `/v1/embeddings`, `/pooling`, `/rerank` and `/score`, as in vLLM 0.32.
//!
//! The engine computes each prompt like any other. The result is a small vector that depends only on the seed and the prompt.

use base64::Engine;
use rand::Rng;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    record::Prompt,
    rng,
    sim::{
        fault::Fault,
        request::{self, ApiError},
        vocabulary::Vocabulary,
    },
};

/// A pooling endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolingEndpoint {
    Embeddings,
    /// `/pooling`: the output of the model's pooler.
    Pooling,
    Rerank,
    Score,
}

/// The default length of a vector.
const DEFAULT_DIMENSIONS: u32 = 64;

/// More than any model has.
const MAX_DIMENSIONS: u32 = 1 << 16;

/// A valid pooling request.
#[derive(Debug)]
pub struct PoolingJob {
    /// The model name for the response.
    pub model: String,
    /// The prompts to compute.
    pub prompts: Vec<Vec<u32>>,
    /// The fault that the request asks for (`vb_fault`).
    pub fault: Option<Fault>,
    /// The texts to rank.
    documents: Vec<String>,
    /// How many of them to return.
    top_n: usize,
    dimensions: u32,
    base64: bool,
}

#[derive(Deserialize)]
struct PoolingBody {
    model: Option<String>,
    input: Option<Prompt>,
    query: Option<String>,
    documents: Option<Vec<RerankDocument>>,
    top_n: Option<usize>,
    encoding_format: Option<String>,
    text_1: Option<String>,
    text_2: Option<ScoreTexts>,
    dimensions: Option<u32>,
    vb_fault: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ScoreTexts {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RerankDocument {
    Plain(String),
    Object { text: String },
}

impl RerankDocument {
    fn into_text(self) -> String {
        match self {
            RerankDocument::Plain(text) | RerankDocument::Object { text } => text,
        }
    }
}

impl PoolingEndpoint {
    /// The endpoint at this path.
    pub fn from_path(path: &str) -> Option<Self> {
        Some(match path {
            "/v1/embeddings" => PoolingEndpoint::Embeddings,
            "/pooling" => PoolingEndpoint::Pooling,
            "/rerank" | "/v1/rerank" | "/v2/rerank" => PoolingEndpoint::Rerank,
            "/score" | "/v1/score" => PoolingEndpoint::Score,
            _ => return None,
        })
    }

    /// Reads and checks a request. The two texts of a pair are separate prompts, as for an embedding model.
    pub fn parse_request(
        self,
        bytes: &[u8],
        models: &[String],
        max_model_len: u32,
        vocabulary: &Vocabulary,
    ) -> Result<PoolingJob, ApiError> {
        let request: PoolingBody = request::parse_json(bytes)?;
        let model = request::resolve_model(request.model.as_deref(), models)?;
        let dimensions = request.dimensions.unwrap_or(DEFAULT_DIMENSIONS);
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            let message = format!("dimensions must be from 1 to {MAX_DIMENSIONS}, got {dimensions}.");
            return Err(ApiError::bad_request(Some("dimensions"), &message));
        }
        let fault = request.vb_fault.as_deref().map(str::parse).transpose();
        let fault = fault.map_err(|e: String| ApiError::bad_request(Some("vb_fault"), &e))?;
        let base64 = match request.encoding_format.as_deref() {
            None | Some("float") => false,
            Some("base64") => true,
            Some(other) => {
                let message = format!("encoding_format must be float or base64, got {other}.");
                return Err(ApiError::bad_request(Some("encoding_format"), &message));
            }
        };
        // As in vLLM, 0 means all of them.
        let top_n = request.top_n.filter(|n| *n > 0).unwrap_or(usize::MAX);
        let encode = |text: &String| {
            vocabulary.encode_text(text).map_err(|e| ApiError::bad_request(Some("input"), &e.to_string()))
        };
        let (documents, prompts) = match self {
            PoolingEndpoint::Embeddings | PoolingEndpoint::Pooling => {
                let prompts = match request.input.ok_or_else(|| request::missing_key("input"))? {
                    Prompt::Text(text) => vec![encode(&text)?],
                    Prompt::Texts(texts) => texts.iter().map(encode).collect::<Result<_, _>>()?,
                    Prompt::Ids(ids) => vec![ids],
                    Prompt::IdLists(lists) => lists,
                };
                (vec![], prompts)
            }
            PoolingEndpoint::Rerank | PoolingEndpoint::Score => {
                let rerank = self == PoolingEndpoint::Rerank;
                let query = if rerank { request.query } else { request.text_1 };
                let query = query.ok_or_else(|| request::missing_key(if rerank { "query" } else { "text_1" }))?;
                let texts = match request.text_2 {
                    Some(ScoreTexts::One(text)) => Some(vec![text]),
                    Some(ScoreTexts::Several(texts)) => Some(texts),
                    None => request.documents.map(|all| all.into_iter().map(RerankDocument::into_text).collect()),
                };
                let texts = texts.ok_or_else(|| request::missing_key("documents"))?;
                let prompts = std::iter::once(&query).chain(&texts).map(encode).collect::<Result<_, _>>()?;
                (texts, prompts)
            }
        };
        let fits = |prompt: &Vec<u32>| !prompt.is_empty() && prompt.len() < max_model_len as usize;
        if prompts.is_empty() || !prompts.iter().all(fits) {
            let message = format!("Each input must have at least one token and fewer than {max_model_len}.");
            return Err(ApiError::bad_request(Some("input"), &message));
        }
        Ok(PoolingJob { model, prompts, fault, documents, top_n, dimensions, base64 })
    }

    /// The body of the response.
    pub fn response_body(self, job: &PoolingJob, request_id: &str, created: u64, seed: u64) -> Value {
        let tokens: usize = job.prompts.iter().map(Vec::len).sum();
        let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0,
            "prompt_tokens_details": null, "completion_tokens_details": null});
        let vectors: Vec<Vec<f64>> = job.prompts.iter().map(|p| prompt_vector(p, seed, job.dimensions)).collect();
        let list = |prefix: &str, data: Vec<Value>| {
            json!({"id": format!("{prefix}-{request_id}"), "object": "list", "created": created, "model": job.model,
                "data": data, "usage": usage})
        };
        let each = |object: &str, key: &str| -> Vec<Value> {
            let encoded = |vector: &[f64]| if job.base64 { encode_base64(vector).into() } else { json!(vector) };
            let item =
                |(index, vector): (usize, &Vec<f64>)| json!({"index": index, "object": object, key: encoded(vector)});
            vectors.iter().enumerate().map(item).collect()
        };
        let scores = || vectors.iter().skip(1).map(|v| v.iter().zip(&vectors[0]).map(|(a, b)| a * b).sum::<f64>());
        match self {
            PoolingEndpoint::Embeddings => list("embd", each("embedding", "embedding")),
            PoolingEndpoint::Pooling => list("pooling", each("pooling", "data")),
            PoolingEndpoint::Score => {
                let item = |(index, score)| json!({"index": index, "object": "score", "score": score});
                list("score", scores().enumerate().map(item).collect())
            }
            PoolingEndpoint::Rerank => {
                let mut results: Vec<(usize, f64)> = scores().enumerate().collect();
                results.sort_by(|a, b| b.1.total_cmp(&a.1));
                let item = |(index, score): (usize, f64)| {
                    json!({"index": index, "document": {"text": job.documents.get(index), "multi_modal": null},
                        "relevance_score": score})
                };
                json!({"id": format!("score-{request_id}"), "model": job.model,
                    "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
                    "results": results.into_iter().take(job.top_n).map(item).collect::<Vec<_>>()})
            }
        }
    }
}

/// The numbers as 32-bit floats, little-endian, in base64.
fn encode_base64(vector: &[f64]) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "models return 32-bit numbers")]
    let bytes: Vec<u8> = vector.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect();
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// A unit vector that depends on the seed and the prompt.
fn prompt_vector(prompt: &[u32], seed: u64, dimensions: u32) -> Vec<f64> {
    let key = prompt.iter().fold(0_u64, |sum, id| sum.wrapping_mul(31).wrapping_add(u64::from(*id)));
    let mut rng = rng::random_stream(seed, "vector", key);
    let numbers: Vec<f64> = (0..dimensions).map(|_| f64::from(rng.next_u32()) / f64::from(u32::MAX) - 0.5).collect();
    let length = libm::sqrt(numbers.iter().map(|x| x * x).sum());
    numbers.into_iter().map(|x| x / length.max(f64::MIN_POSITIVE)).collect()
}

//! The endpoints that generate nothing: `/v1/embeddings`, `/pooling`, `/rerank` and `/score`, as vLLM 0.32 writes them.
//!
//! A prompt is computed as any other, and its result is a small vector that depends on the prompt only.

use base64::Engine;
use rand::Rng;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    record::Prompt,
    rng,
    sim::{
        fault::Fault,
        request::{self, Refusal},
        vocabulary::Vocabulary,
    },
};

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    Embeddings,
    /// What the model's pooler gives.
    Whatever,
    Rerank,
    Score,
}

/// Numbers in a vector.
const DIMENSIONS: u32 = 64;

/// More than any model has.
const MOST_DIMENSIONS: u32 = 1 << 16;

/// A request.
#[derive(Debug)]
pub struct Asked {
    /// The model's name, as in the answer.
    pub model: String,
    /// The prompts to compute.
    pub prompts: Vec<Vec<u32>>,
    /// The fault that the request itself asks for.
    pub fault: Option<Fault>,
    /// The texts that are ranked.
    documents: Vec<String>,
    /// How many of them are told.
    best: usize,
    dimensions: u32,
    base64: bool,
}

#[derive(Deserialize)]
struct Request {
    model: Option<String>,
    input: Option<Prompt>,
    query: Option<String>,
    documents: Option<Vec<Document>>,
    top_n: Option<usize>,
    encoding_format: Option<String>,
    text_1: Option<String>,
    text_2: Option<Texts>,
    dimensions: Option<u32>,
    vb_fault: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Document {
    Plain(String),
    Object { text: String },
}

impl Document {
    fn text(self) -> String {
        match self {
            Document::Plain(text) | Document::Object { text } => text,
        }
    }
}

impl Pooling {
    /// By the path of a request.
    pub fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/v1/embeddings" => Pooling::Embeddings,
            "/pooling" => Pooling::Whatever,
            "/rerank" | "/v1/rerank" | "/v2/rerank" => Pooling::Rerank,
            "/score" | "/v1/score" => Pooling::Score,
            _ => return None,
        })
    }

    /// Reads a request. Of a pair, both texts are computed each by itself, as an embedding model does.
    pub fn ask(self, bytes: &[u8], models: &[String], room: u32, vocabulary: &Vocabulary) -> Result<Asked, Refusal> {
        let request: Request = request::parse(bytes)?;
        let model = request::model(request.model.as_deref(), models)?;
        let dimensions = request.dimensions.unwrap_or(DIMENSIONS);
        if !(1..=MOST_DIMENSIONS).contains(&dimensions) {
            let message = format!("dimensions must be from 1 to {MOST_DIMENSIONS}, got {dimensions}.");
            return Err(Refusal::bad(Some("dimensions"), &message));
        }
        let fault = request.vb_fault.as_deref().map(str::parse).transpose();
        let fault = fault.map_err(|e: String| Refusal::bad(Some("vb_fault"), &e))?;
        let base64 = match request.encoding_format.as_deref() {
            None | Some("float") => false,
            Some("base64") => true,
            Some(other) => {
                let message = format!("encoding_format must be float or base64, got {other}.");
                return Err(Refusal::bad(Some("encoding_format"), &message));
            }
        };
        // As in vLLM, 0 is all of them.
        let best = request.top_n.filter(|n| *n > 0).unwrap_or(usize::MAX);
        let encode = |text: &String| vocabulary.encode(text).map_err(|e| Refusal::bad(Some("input"), &e.to_string()));
        let (documents, prompts) = match self {
            Pooling::Embeddings | Pooling::Whatever => {
                let prompts = match request.input.ok_or_else(|| request::missing("input"))? {
                    Prompt::Text(text) => vec![encode(&text)?],
                    Prompt::Texts(texts) => texts.iter().map(encode).collect::<Result<_, _>>()?,
                    Prompt::Ids(ids) => vec![ids],
                    Prompt::IdLists(lists) => lists,
                };
                (vec![], prompts)
            }
            Pooling::Rerank | Pooling::Score => {
                let rerank = self == Pooling::Rerank;
                let query = if rerank { request.query } else { request.text_1 };
                let query = query.ok_or_else(|| request::missing(if rerank { "query" } else { "text_1" }))?;
                let texts = match request.text_2 {
                    Some(Texts::One(text)) => Some(vec![text]),
                    Some(Texts::Several(texts)) => Some(texts),
                    None => request.documents.map(|all| all.into_iter().map(Document::text).collect()),
                };
                let texts = texts.ok_or_else(|| request::missing("documents"))?;
                let prompts = std::iter::once(&query).chain(&texts).map(encode).collect::<Result<_, _>>()?;
                (texts, prompts)
            }
        };
        let fits = |prompt: &Vec<u32>| !prompt.is_empty() && prompt.len() < room as usize;
        if prompts.is_empty() || !prompts.iter().all(fits) {
            let message = format!("Each input must have at least one token and fewer than {room}.");
            return Err(Refusal::bad(Some("input"), &message));
        }
        Ok(Asked { model, prompts, fault, documents, best, dimensions, base64 })
    }

    /// The reply.
    pub fn reply(self, asked: &Asked, name: &str, created: u64, seed: u64) -> Value {
        let tokens: usize = asked.prompts.iter().map(Vec::len).sum();
        let usage = json!({"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0,
            "prompt_tokens_details": null, "completion_tokens_details": null});
        let vectors: Vec<Vec<f64>> = asked.prompts.iter().map(|p| vector(p, seed, asked.dimensions)).collect();
        let list = |id: &str, data: Vec<Value>| {
            json!({"id": format!("{id}-{name}"), "object": "list", "created": created, "model": asked.model,
                "data": data, "usage": usage})
        };
        let each = |object: &str, key: &str| -> Vec<Value> {
            let told = |vector: &[f64]| if asked.base64 { base64(vector).into() } else { json!(vector) };
            let item =
                |(index, vector): (usize, &Vec<f64>)| json!({"index": index, "object": object, key: told(vector)});
            vectors.iter().enumerate().map(item).collect()
        };
        let scores = || vectors.iter().skip(1).map(|v| v.iter().zip(&vectors[0]).map(|(a, b)| a * b).sum::<f64>());
        match self {
            Pooling::Embeddings => list("embd", each("embedding", "embedding")),
            Pooling::Whatever => list("pooling", each("pooling", "data")),
            Pooling::Score => {
                let item = |(index, score)| json!({"index": index, "object": "score", "score": score});
                list("score", scores().enumerate().map(item).collect())
            }
            Pooling::Rerank => {
                let mut results: Vec<(usize, f64)> = scores().enumerate().collect();
                results.sort_by(|a, b| b.1.total_cmp(&a.1));
                let item = |(index, score): (usize, f64)| {
                    json!({"index": index, "document": {"text": asked.documents.get(index), "multi_modal": null},
                        "relevance_score": score})
                };
                json!({"id": format!("score-{name}"), "model": asked.model,
                    "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
                    "results": results.into_iter().take(asked.best).map(item).collect::<Vec<_>>()})
            }
        }
    }
}

/// Its numbers as 32 bits each, the lowest byte first.
fn base64(vector: &[f64]) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "such are the numbers of a model")]
    let bytes: Vec<u8> = vector.iter().flat_map(|x| (*x as f32).to_le_bytes()).collect();
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// A vector of length 1.
fn vector(prompt: &[u32], seed: u64, dimensions: u32) -> Vec<f64> {
    let name = prompt.iter().fold(0_u64, |sum, id| sum.wrapping_mul(31).wrapping_add(u64::from(*id)));
    let mut rng = rng::random_stream(seed, "vector", name);
    let numbers: Vec<f64> = (0..dimensions).map(|_| f64::from(rng.next_u32()) / f64::from(u32::MAX) - 0.5).collect();
    let length = libm::sqrt(numbers.iter().map(|x| x * x).sum());
    numbers.into_iter().map(|x| x / length.max(f64::MIN_POSITIVE)).collect()
}

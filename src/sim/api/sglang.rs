//! `SGLang`'s own `/generate`: each event has all of the text so far.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Dialect, Ending, FAILURE, Named, Whole, event, text};
use crate::{
    record::Prompt,
    sim::{
        events::{Chunk, DONE},
        request::{self, Body, Refusal},
    },
};

#[derive(Deserialize)]
struct Request {
    text: Option<String>,
    input_ids: Option<Vec<u32>>,
    #[serde(default)]
    sampling_params: Params,
    stream: Option<bool>,
    vb_fault: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Params {
    max_new_tokens: Option<i64>,
    ignore_eos: Option<bool>,
}

/// The request in vLLM's words.
pub fn body(bytes: &[u8]) -> Result<Body, Refusal> {
    let request: Request = request::parse(bytes)?;
    Ok(Body {
        prompt: request.input_ids.map(Prompt::Ids).or(request.text.map(Prompt::Text)),
        max_tokens: Some(request.sampling_params.max_new_tokens.unwrap_or(128)),
        ignore_eos: request.sampling_params.ignore_eos,
        stream: request.stream,
        vb_fault: request.vb_fault,
        ..Body::default()
    })
}

/// How it is written.
pub struct Sglang {
    named: Named,
    text: String,
    ids: Vec<u32>,
    cached: u32,
}

impl Sglang {
    /// For one answer.
    pub fn new(named: Named) -> Self {
        Sglang { named, text: String::new(), ids: vec![], cached: 0 }
    }

    fn reply(&self, text: &str, finish: Option<&str>, generated: u32) -> Value {
        let finish = finish.map(|finish| match finish {
            "length" => json!({"type": "length", "length": generated}),
            other => json!({"type": other}),
        });
        json!({"text": text, "meta_info": {"id": self.named.name, "finish_reason": finish,
            "prompt_tokens": self.named.prompt_tokens, "completion_tokens": generated, "cached_tokens": self.cached}})
    }
}

impl Dialect for Sglang {
    fn chunk(&mut self, chunk: Chunk<'_>) -> String {
        self.text.push_str(text(&chunk));
        self.ids.extend(chunk.ids);
        let mut reply = self.reply(&self.text, chunk.finish, chunk.generated);
        reply["output_ids"] = json!(self.ids);
        event(&reply)
    }

    fn ending(&mut self, ending: Ending<'_>) -> Vec<String> {
        ending.done.then(|| DONE.into()).into_iter().collect()
    }

    fn tells_abort(&self) -> bool {
        true
    }

    fn set_cached_tokens(&mut self, tokens: u32) {
        self.cached = tokens;
    }

    fn error(&self) -> Vec<String> {
        vec![event(&json!({"error": {"message": FAILURE}})), DONE.into()]
    }

    fn whole(&self, whole: Whole<'_>) -> Option<Value> {
        Some(self.reply(whole.text, Some(whole.finish), whole.generated))
    }
}

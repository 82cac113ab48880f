//! `/v1/audio/transcriptions` and `…/translations`: a form with a file. As with Whisper, half a minute of sound is 1,500 tokens of
//! the prompt; how long a WAV file is, its head says.

use serde_json::{Value, json};

use super::{Dialect, Ending, Named, Whole, event, text};
use crate::{
    record::Prompt,
    sim::{
        events::{Chunk, DONE, Format},
        request::{Body, Refusal},
    },
};

/// Tokens for a second of sound.
const A_SECOND: f64 = 50.0;

/// The request in vLLM's words.
pub fn body(bytes: &[u8], content_type: &str) -> Result<Body, Refusal> {
    let boundary = content_type.split("boundary=").nth(1).map(|text| text.trim_matches('"'));
    let boundary = boundary.ok_or_else(|| Refusal::bad(None, "the form has no boundary"))?;
    let mut body = Body::default();
    let mut sound = None;
    for (name, value) in fields(bytes, boundary) {
        let text = || String::from_utf8_lossy(value).into_owned();
        match name.as_str() {
            "file" => sound = Some(value),
            "model" => body.model = Some(text()),
            "stream" => body.stream = Some(text().eq_ignore_ascii_case("true")),
            "max_completion_tokens" => body.max_tokens = text().parse().ok(),
            "ignore_eos" => body.ignore_eos = Some(text().eq_ignore_ascii_case("true")),
            "vb_fault" => body.vb_fault = Some(text()),
            _ => {}
        }
    }
    let sound = sound.ok_or_else(|| super::super::request::missing("file"))?;
    // What is in it decides the answer, as a prompt does.
    let salt = sound.iter().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)));
    body.prompt = Some(Prompt::Ids((0..tokens(sound)).map(|place| salt.wrapping_add(place) % 3000 + 1).collect()));
    Ok(body)
}

/// The named parts of a form.
fn fields<'a>(bytes: &'a [u8], boundary: &str) -> Vec<(String, &'a [u8])> {
    let line = format!("--{boundary}");
    let starts: Vec<usize> = memchr::memmem::find_iter(bytes, line.as_bytes()).collect();
    let parts = starts.windows(2).filter_map(|pair| bytes.get(pair[0] + line.len()..pair[1]));
    parts
        .filter_map(|part| {
            let end = memchr::memmem::find(part, b"\r\n\r\n")?;
            let head = String::from_utf8_lossy(&part[..end]);
            let name = head.split("name=\"").nth(1)?.split('"').next()?.to_owned();
            Some((name, part.get(end + 4..part.len().checked_sub(2)?)?))
        })
        .collect()
}

/// Tokens of a sound: at least one.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // small, not negative, and `as` saturates
fn tokens(sound: &[u8]) -> u32 {
    let rate = sound.get(28..32).filter(|_| sound.starts_with(b"RIFF"));
    let rate = rate.and_then(|bytes| bytes.try_into().ok()).map_or(32_000, u32::from_le_bytes).max(1);
    let seconds = sound.len().saturating_sub(44) as f64 / f64::from(rate);
    ((seconds * A_SECOND).ceil() as u32).max(1)
}

/// How it is written.
pub struct Audio {
    named: Named,
    cached: u32,
}

impl Audio {
    /// For one answer.
    pub fn new(named: Named) -> Self {
        Audio { named, cached: 0 }
    }

    fn event(&self, choices: &Value, generated: u32) -> String {
        let prompt = self.named.prompt_tokens;
        let usage = json!({"prompt_tokens": prompt, "total_tokens": prompt + generated,
            "completion_tokens": generated});
        event(&json!({"id": format!("trsc-{}", self.named.name), "object": "transcription.chunk",
            "created": self.named.created, "model": self.named.model, "choices": choices, "usage": usage}))
    }
}

impl Dialect for Audio {
    fn chunk(&mut self, chunk: Chunk<'_>) -> String {
        let choice = json!([{"delta": {"content": text(&chunk)}, "finish_reason": chunk.finish, "stop_reason": null}]);
        self.event(&choice, chunk.generated)
    }

    fn ending(&mut self, ending: Ending<'_>) -> Vec<String> {
        let usages = (0..ending.usages).map(|_| self.event(&json!([]), ending.generated));
        usages.chain(ending.done.then(|| DONE.into())).collect()
    }

    fn set_cached_tokens(&mut self, tokens: u32) {
        self.cached = tokens;
    }

    fn error(&self) -> Vec<String> {
        vec![Format::failure(), DONE.into()]
    }

    fn whole(&self, whole: Whole<'_>) -> Option<Value> {
        Some(
            json!({"text": whole.text, "usage": {"type": "duration", "seconds": self.named.prompt_tokens.div_ceil(50)}}),
        )
    }
}

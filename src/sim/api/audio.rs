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

/// Tokens of a sound: at least one, and no more than any model has room for.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // small, not negative, and `as` saturates
fn tokens(sound: &[u8]) -> u32 {
    let (bytes, a_second) = wav(sound).unwrap_or((sound.len(), 32_000));
    let seconds = bytes as f64 / f64::from(a_second);
    ((seconds * A_SECOND).ceil() as u32).clamp(1, MOST)
}

/// A prompt of more tokens is refused by any profile.
const MOST: u32 = 1 << 20;

/// The bytes of a WAV file's samples, and those of a second; `None`: it is another file.
fn wav(file: &[u8]) -> Option<(usize, u32)> {
    let mut rest = file.strip_prefix(b"RIFF")?.get(4..)?.strip_prefix(b"WAVE")?;
    let mut rate = None;
    while let Some((head, body)) = rest.split_at_checked(8) {
        let size = u32::from_le_bytes(head[4..].try_into().ok()?) as usize;
        match &head[..4] {
            b"fmt " => rate = Some(u32::from_le_bytes(body.get(8..12)?.try_into().ok()?)),
            // A file that is being written says a size that it does not have.
            b"data" => return Some((size.min(body.len()), rate.filter(|rate| *rate > 0)?)),
            _ => {}
        }
        // Chunks begin at even places.
        rest = body.get(size + size % 2..)?;
    }
    None
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

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(name: &str, body: &[u8]) -> Vec<u8> {
        let padding = &[0][..body.len() % 2];
        [name.as_bytes(), &u32::try_from(body.len()).unwrap().to_le_bytes(), body, padding].concat()
    }

    fn sound(rate: u32, before: &[u8], samples: usize) -> Vec<u8> {
        let format = [&[1, 0, 1, 0, 0x80, 0x3e, 0, 0][..], &rate.to_le_bytes(), &[2, 0, 16, 0]].concat();
        let chunks = [before.to_vec(), chunk("fmt ", &format), chunk("data", &vec![0; samples])].concat();
        chunk("RIFF", &[b"WAVE".to_vec(), chunks].concat())
    }

    #[test]
    fn a_second_of_sound_is_fifty_tokens_wherever_its_head_says_so() {
        assert_eq!(tokens(&sound(32_000, &[], 32_000)), 50);
        assert_eq!(tokens(&sound(32_000, &chunk("LIST", b"odd"), 16_000)), 25);
        assert_eq!((tokens(b"RIFF"), tokens(b"")), (1, 1));
    }

    #[test]
    fn a_head_that_says_nonsense_costs_nothing() {
        assert!(tokens(&sound(0, &[], 3_000_000)) < 5000);
        assert_eq!(tokens(&sound(1, &[], 1_000_000)), MOST);
    }
}

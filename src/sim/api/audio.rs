//! `/v1/audio/transcriptions` and `…/translations`: a form with an audio file. As with Whisper, 30 seconds of audio are 1,500
//! prompt tokens. The duration of a WAV file is taken from its header.

use serde_json::{Value, json};

use crate::{
    record::Prompt,
    sim::{
        dialect::{
            ChunkContent, DONE_EVENT, Dialect, FullOutput, ResponseMeta, StreamEnd, openai_error_event, sse_event,
        },
        request::{self, ApiError, GenerationBody},
    },
};

/// Prompt tokens for one second of audio.
const TOKENS_PER_SECOND: f64 = 50.0;

/// The limit on prompt tokens: more than any profile accepts.
const MAX_PROMPT_TOKENS: u32 = 1 << 20;

/// Reads a request and translates it into vLLM's terms.
pub fn parse_body(bytes: &[u8], content_type: &str) -> Result<GenerationBody, ApiError> {
    let boundary = content_type.split("boundary=").nth(1).map(|text| text.trim_matches('"'));
    let boundary = boundary.ok_or_else(|| ApiError::bad_request(None, "the form has no boundary"))?;
    let mut body = GenerationBody::default();
    let mut audio = None;
    for (name, value) in form_fields(bytes, boundary) {
        let text = || String::from_utf8_lossy(value).into_owned();
        match name.as_str() {
            "file" => audio = Some(value),
            "model" => body.model = Some(text()),
            "stream" => body.stream = Some(text().eq_ignore_ascii_case("true")),
            "max_completion_tokens" => body.max_tokens = text().parse().ok(),
            "ignore_eos" => body.ignore_eos = Some(text().eq_ignore_ascii_case("true")),
            "vb_fault" => body.vb_fault = Some(text()),
            _ => {}
        }
    }
    let audio = audio.ok_or_else(|| request::missing_key("file"))?;
    // The content of the file decides the output, as the text of a prompt does.
    let salt = audio.iter().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)));
    body.prompt =
        Some(Prompt::Ids((0..count_tokens(audio)).map(|place| salt.wrapping_add(place) % 3000 + 1).collect()));
    Ok(body)
}

/// The named fields of a form.
fn form_fields<'a>(bytes: &'a [u8], boundary: &str) -> Vec<(String, &'a [u8])> {
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

/// Prompt tokens of an audio file: at least one, at most [`MAX_PROMPT_TOKENS`].
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // small, not negative, and `as` saturates
fn count_tokens(audio: &[u8]) -> u32 {
    let (bytes, per_second) = parse_wav_header(audio).unwrap_or((audio.len(), 32_000));
    let seconds = bytes as f64 / f64::from(per_second);
    ((seconds * TOKENS_PER_SECOND).ceil() as u32).clamp(1, MAX_PROMPT_TOKENS)
}

/// The size of a WAV file's samples in bytes, and bytes per second; `None`: not a WAV file.
fn parse_wav_header(file: &[u8]) -> Option<(usize, u32)> {
    let mut rest = file.strip_prefix(b"RIFF")?.get(4..)?.strip_prefix(b"WAVE")?;
    let mut rate = None;
    while let Some((head, body)) = rest.split_at_checked(8) {
        let size = u32::from_le_bytes(head[4..].try_into().ok()?) as usize;
        match &head[..4] {
            b"fmt " => rate = Some(u32::from_le_bytes(body.get(8..12)?.try_into().ok()?)),
            // The header of a file that is still being written may give a larger size than the file has.
            b"data" => return Some((size.min(body.len()), rate.filter(|rate| *rate > 0)?)),
            _ => {}
        }
        // Chunks are aligned to even offsets.
        rest = body.get(size + size % 2..)?;
    }
    None
}

/// Writes transcriptions.
pub struct AudioDialect {
    meta: ResponseMeta,
}

impl AudioDialect {
    /// For one response.
    pub fn new(meta: ResponseMeta) -> Self {
        AudioDialect { meta }
    }

    fn chunk_event(&self, choices: &Value, generated: u32) -> String {
        let prompt = self.meta.prompt_tokens;
        let usage = json!({"prompt_tokens": prompt, "total_tokens": prompt + generated,
            "completion_tokens": generated});
        sse_event(&json!({"id": format!("trsc-{}", self.meta.request_id), "object": "transcription.chunk",
            "created": self.meta.created, "model": self.meta.model, "choices": choices, "usage": usage}))
    }
}

impl Dialect for AudioDialect {
    fn encode_chunk(&mut self, chunk: ChunkContent<'_>) -> String {
        let choice =
            json!([{"delta": {"content": chunk.text}, "finish_reason": chunk.finish_reason, "stop_reason": null}]);
        self.chunk_event(&choice, chunk.generated_tokens)
    }

    fn ending_events(&mut self, end: StreamEnd<'_>) -> Vec<String> {
        let usages = (0..end.usage_events).map(|_| self.chunk_event(&json!([]), end.generated_tokens));
        usages.chain(end.done.then(|| DONE_EVENT.into())).collect()
    }

    fn error_events(&self) -> Vec<String> {
        vec![openai_error_event(), DONE_EVENT.into()]
    }

    fn full_response(&self, full: FullOutput<'_>) -> Value {
        json!({"text": full.first_text(), "usage": {"type": "duration", "seconds": self.meta.prompt_tokens.div_ceil(50)}})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(name: &str, body: &[u8]) -> Vec<u8> {
        let padding = &[0][..body.len() % 2];
        [name.as_bytes(), &u32::try_from(body.len()).unwrap().to_le_bytes(), body, padding].concat()
    }

    fn wav_file(rate: u32, before: &[u8], samples: usize) -> Vec<u8> {
        let format = [&[1, 0, 1, 0, 0x80, 0x3e, 0, 0][..], &rate.to_le_bytes(), &[2, 0, 16, 0]].concat();
        let chunks = [before.to_vec(), chunk("fmt ", &format), chunk("data", &vec![0; samples])].concat();
        chunk("RIFF", &[b"WAVE".to_vec(), chunks].concat())
    }

    #[test]
    fn one_second_of_audio_is_fifty_tokens_for_any_header_layout() {
        assert_eq!(count_tokens(&wav_file(32_000, &[], 32_000)), 50);
        assert_eq!(count_tokens(&wav_file(32_000, &chunk("LIST", b"odd"), 16_000)), 25);
        assert_eq!((count_tokens(b"RIFF"), count_tokens(b"")), (1, 1));
    }

    #[test]
    fn an_invalid_header_does_not_give_a_huge_prompt() {
        assert!(count_tokens(&wav_file(0, &[], 3_000_000)) < 5000);
        assert_eq!(count_tokens(&wav_file(1, &[], 1_000_000)), MAX_PROMPT_TOKENS);
    }
}

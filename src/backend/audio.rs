//! OpenAI transcriptions: `/v1/audio/transcriptions`, a form with the audio as a file. The audio is the request's `input_audio`
//! part:
//!
//! ```text
//! {"multi_modal_data":{"type":"input_audio","input_audio":{"data":"UklGR…","format":"wav"}}}
//!
//! model=m  file=audio.wav  stream=true  stream_include_usage=true  max_completion_tokens=16
//!
//! data: {"object":"transcription.chunk","choices":[{"delta":{"content":" there"},"finish_reason":null}], …}
//! ```
//!
//! A non-streaming response is `{"text":"there", …}`, without token counts, or the plain text if `response_format` is `text`, `srt`
//! or `vtt`. `--endpoint /v1/audio/translations` translates.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::Value;

use super::{
    Api, Backend, ChoiceDelta, Delta, Payload, PromptForm, ReadError, SamplingKeys, Usage,
    completions::set_output_limit,
    lenient::{Content, Filled, Text, lenient_fields},
    openai, prompt, read_fields,
    usage::UsageFields,
};
use crate::{
    http::{error_text::error_message, sse::SseEvent},
    record::{Object, SampleRequest},
    secrets::Secrets,
};

pub static BACKEND: Backend = Backend {
    name: "openai-audio",
    aliases: &[],
    about: "OpenAI transcriptions",
    prompt_forms: &[PromptForm::Media],
    needs: "an `input_audio` part in `multi_modal_data`",
    token_counts: "`usage`, if streaming",
    checked_against: "vLLM",
    api: Some(&AudioApi),
};

#[derive(Debug)]
struct AudioApi;

impl Api for AudioApi {
    fn endpoint_path(&self, _stream: bool) -> &'static str {
        "/v1/audio/transcriptions"
    }

    fn request_body(&self, request: &SampleRequest, model: &str, stream: bool) -> Result<Object, String> {
        let mut body = Object::from_iter([("model".into(), model.into())]);
        set_output_limit(&mut body, "max_completion_tokens", request);
        body.insert("stream".into(), stream.into());
        if stream {
            body.insert("stream_include_usage".into(), true.into());
            body.insert("stream_continuous_usage_stats".into(), true.into());
        }
        Ok(body)
    }

    fn sampling_keys(&self) -> SamplingKeys {
        SamplingKeys { object: None, names: Some(SAMPLING_NAMES) }
    }

    fn encode_body(&self, body: &Object, request: &SampleRequest) -> Result<Payload, String> {
        let (format, audio) = decode_audio(request)?;
        let boundary = unused_boundary(&audio);
        let mut bytes = Vec::with_capacity(audio.len() + 1024);
        for (name, value) in body {
            // In a form, a list is a repeated field, and null is an absent field.
            let values = value.as_array().map_or_else(|| std::slice::from_ref(value), Vec::as_slice);
            for value in values.iter().filter(|value| !value.is_null()) {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                bytes.extend_from_slice(
                    format!("--{boundary}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n")
                        .as_bytes(),
                );
            }
        }
        let head = format!(
            "--{boundary}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"audio.{format}\"\r\n\
             content-type: audio/{format}\r\n\r\n"
        );
        bytes.extend_from_slice(head.as_bytes());
        bytes.extend_from_slice(&audio);
        bytes.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        let content_type = format!("multipart/form-data; boundary={boundary}");
        Ok(Payload { bytes, content_type, secrets: Secrets::default() })
    }

    /// vLLM's chunks have the format of chat chunks; OpenAI's service has its own events.
    fn read_event<'a>(&self, event: SseEvent<'a>) -> Result<Delta<'a>, ReadError> {
        if memchr::memmem::find(event.data, b"transcript.text.").is_none() {
            return openai::read_chunk(event.data);
        }
        let event: TranscriptEvent = read_fields(event.data)?;
        let mut delta = Delta { usage: event.usage.into(), ..Delta::default() };
        match event.kind.as_str() {
            "transcript.text.delta" => {
                let text = event.delta.answer.unwrap_or_default();
                delta.choices.push(ChoiceDelta { text, ..ChoiceDelta::default() });
            }
            "transcript.text.done" => delta.done = true,
            // The text again, by speaker.
            _ => {}
        }
        Ok(delta)
    }

    fn read_response<'a>(&self, body: &'a [u8]) -> Result<Delta<'a>, ReadError> {
        let (text, usage) = if body.trim_ascii_start().starts_with(b"{") {
            let event: TranscriptEvent = read_fields(body)?;
            if event.error.0 {
                return Ok(Delta { error: Some(error_message(body)), ..Delta::default() });
            }
            (event.text.0.ok_or_else(|| ReadError::lacks("text"))?, event.usage.into())
        } else {
            let text = String::from_utf8_lossy(body);
            (text.trim_end_matches('\n').to_owned().into(), Usage::default())
        };
        let choice = ChoiceDelta { text, ..ChoiceDelta::default() };
        Ok(Delta { choices: [choice].into_iter().collect(), usage, done: true, ..Delta::default() })
    }
}

/// vLLM's parameters; OpenAI's service supports only the first.
const SAMPLING_NAMES: &[(&str, &str)] = &[
    ("temperature", "temperature"),
    ("top_p", "top_p"),
    ("top_k", "top_k"),
    ("min_p", "min_p"),
    ("frequency_penalty", "frequency_penalty"),
    ("presence_penalty", "presence_penalty"),
    ("repetition_penalty", "repetition_penalty"),
    ("seed", "seed"),
];

lenient_fields! {
    /// An event of OpenAI's service, or a non-streaming response.
    struct TranscriptEvent<'a> {
        "type" => kind: Text<'a>,
        "delta" => delta: Content<'a>,
        "text" => text: Text<'a>,
        /// OpenAI's token counts. Usage in seconds of audio is ignored.
        "usage" => usage: UsageFields,
        "error" => error: Filled,
    }
}

/// Decodes the request's audio: its format and its bytes.
fn decode_audio(request: &SampleRequest) -> Result<(&str, Vec<u8>), String> {
    let mut parts = request.multi_modal_data.as_ref().into_iter().flat_map(prompt::content_parts);
    let found = parts.find_map(|part| part.get("input_audio"));
    let found = found.ok_or("this backend needs audio: add `multi_modal_data` with an `input_audio` part")?;
    let data = found.get("data").and_then(Value::as_str).ok_or("its `input_audio` has no `data`")?;
    let bytes =
        BASE64_STANDARD.decode(data).map_err(|e| format!("the `data` of its `input_audio` is not base64: {e}"))?;
    let format = found.get("format").and_then(Value::as_str).unwrap_or("wav");
    let plain = !format.is_empty() && format.bytes().all(|b| b.is_ascii_alphanumeric());
    if plain {
        Ok((format, bytes))
    } else {
        Err(format!("the `format` of its `input_audio` is not a file extension: {format:?}"))
    }
}

/// A boundary for the parts of the form that does not occur in the audio.
fn unused_boundary(audio: &[u8]) -> String {
    let occurs = |text: &str| memchr::memmem::find(audio, text.as_bytes()).is_some();
    let mut number = 0_u64;
    loop {
        let text = format!("vb-part-{number}");
        if !occurs(&text) {
            return text;
        }
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Protocol, *};

    #[test]
    fn a_form_holds_the_keys_and_the_audio_byte_for_byte() {
        let audio = b"RIFF vb-part-0 \r\n--";
        let line = format!(
            r#"{{"expected_output_len":4,"multi_modal_data":[{{"type":"input_audio","input_audio":{{"data":"{}","format":"wav"}}}}],
               "body":{{"language":"en"}}}}"#,
            BASE64_STANDARD.encode(audio)
        );
        let request: SampleRequest = serde_json::from_str(&line).unwrap();
        let none = Object::new();
        let payload =
            super::super::build_payload(Protocol { api: &AudioApi, stream: false }, &request, "m", &none, &none)
                .unwrap();
        assert_eq!(payload.content_type, "multipart/form-data; boundary=vb-part-1");
        let text = String::from_utf8(payload.bytes).unwrap();
        for part in [
            "name=\"model\"\r\n\r\nm\r\n",
            "name=\"max_completion_tokens\"\r\n\r\n4\r\n",
            "name=\"language\"\r\n\r\nen\r\n",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(text.contains(
            "filename=\"audio.wav\"\r\ncontent-type: audio/wav\r\n\r\nRIFF vb-part-0 \r\n--\r\n--vb-part-1--\r\n"
        ));
        for bad in [
            r#"{"input_audio":{"data":"?"}}"#,
            r#"{"input_audio":{}}"#,
            r#"{"input_audio":{"data":"","format":"a/b"}}"#,
        ] {
            let request =
                SampleRequest { multi_modal_data: Some(serde_json::from_str(bad).unwrap()), ..request.clone() };
            assert!(AudioApi.encode_body(&none, &request).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_response_may_be_plain_text() {
        let text =
            |body: &'static str| AudioApi.read_response(body.as_bytes()).map(|delta| delta.choices[0].text.to_string());
        assert_eq!(text("There.\n").unwrap(), "There.");
        assert_eq!(text("WEBVTT\n\n00:00.000 --> 00:01.000\nThere.\n").unwrap().lines().count(), 4);
        assert_eq!(text(r#"{"text":"There."}"#).unwrap(), "There.");
        assert!(text(r#"{"text":"The"#).is_err());
        assert_eq!(AudioApi.read_response(b"\xff").unwrap().choices[0].text, "\u{fffd}");
    }
}

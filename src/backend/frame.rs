//! Bodies that are copied instead of built: what requests of the same shape have in common is encoded once, with gaps for
//! their content and their output limit.
//!
//! A frame is what [`build_payload`] makes of a request whose content is a marker, cut where the marker is. So it is right for
//! any API whose body holds the content unchanged ([`Api::copied_forms`](super::Api::copied_forms)), and for all flags.

use std::sync::Arc;

use memchr::memmem;
use serde_json::json;

use super::{Protocol, build_payload};
use crate::{
    record::{ContentForm, Object, Prompt, RawContent, SampleRequest},
    secrets::Secrets,
};

/// The longest `body` of a request that is remembered with its frame, in bytes.
const MAX_OWN_BODY: usize = 4096;

/// The number of frames to remember. Where each request has another `body`, none of them is of use again.
const MAX_FRAMES: usize = 64;

/// A body with gaps.
#[derive(Debug, PartialEq, Eq)]
struct FramePieces {
    /// Pieces of JSON, each with what follows it.
    pieces: Vec<(Box<[u8]>, Gap)>,
    /// The last piece.
    end: Box<[u8]>,
}

/// What differs between requests of the same shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gap {
    Content,
    OutputLimit,
}

/// The body of all requests of one shape.
#[derive(Debug)]
pub struct BodyFrame {
    pieces: FramePieces,
    /// The value of `content-type`.
    pub content_type: String,
    /// The secrets in it; `None` without any.
    pub secrets: Option<Arc<Secrets>>,
}

/// What decides how a body looks, apart from its gaps.
#[derive(Debug, PartialEq, Eq)]
struct RequestShape {
    form: ContentForm,
    has_limit: bool,
    body: Option<Box<str>>,
    lora: Option<Box<str>>,
}

/// The frames of a run.
#[derive(Debug, Default)]
pub struct BodyFrames {
    /// Shapes with their frames; `None`: requests of this shape must be built.
    known: Vec<(RequestShape, Option<BodyFrame>)>,
    /// The index of the frame that was used last: the next request probably has its shape.
    last: usize,
}

/// What the bodies of a run are built with.
#[derive(Debug, Clone, Copy)]
pub struct BodyParts<'a> {
    /// The API, and whether responses are streamed.
    pub protocol: Protocol,
    /// The name of the model.
    pub model: &'a str,
    /// Sampling flags.
    pub flags: &'a Object,
    /// `--extra-body`.
    pub extra: &'a Object,
}

impl BodyFrames {
    /// The frame for a request without content and its content; `None` if its body must be built.
    pub fn find_frame(
        &mut self,
        parts: BodyParts<'_>,
        sample: &SampleRequest,
        content: &RawContent<'_>,
    ) -> Option<&BodyFrame> {
        let has_limit = sample.expected_output_len.is_some();
        let fits = |(shape, _): &(RequestShape, _)| {
            shape.form == content.form
                && shape.has_limit == has_limit
                && shape.body.as_deref() == content.body
                && shape.lora.as_deref() == sample.lora.as_deref()
        };
        if !self.known.get(self.last).is_some_and(fits) {
            self.last = match self.known.iter().position(fits) {
                Some(index) => index,
                None if self.known.len() == MAX_FRAMES || content.body.is_some_and(|own| own.len() > MAX_OWN_BODY) => {
                    return None;
                }
                None => {
                    let frame = BodyFrame::build(parts, sample, content);
                    let (body, lora) = (content.body.map(Box::from), sample.lora.as_deref().map(Box::from));
                    self.known.push((RequestShape { form: content.form, has_limit, body, lora }, frame));
                    self.known.len() - 1
                }
            };
        }
        self.known[self.last].1.as_ref()
    }
}

impl BodyFrame {
    /// Builds the frame of requests that differ from this one in content and output limit only; `None` if their bodies have more differences.
    fn build(parts: BodyParts<'_>, sample: &SampleRequest, content: &RawContent<'_>) -> Option<Self> {
        let (pieces, content_type, secrets) = Self::build_with(parts, sample, content, 1)?;
        // What merely looks like a marker looks like one of two at most.
        let (again, ..) = Self::build_with(parts, sample, content, 2)?;
        let secrets = (!secrets.is_empty()).then(|| Arc::new(secrets));
        (pieces == again).then_some(BodyFrame { pieces, content_type, secrets })
    }

    fn build_with(
        BodyParts { protocol, model, flags, extra }: BodyParts<'_>,
        sample: &SampleRequest,
        content: &RawContent<'_>,
        number: u32,
    ) -> Option<(FramePieces, String, Secrets)> {
        let (text, id) = (format!("vb-content-{number}"), 4_026_531_840 + number);
        let limit = sample.expected_output_len.map(|_| 4_160_749_568 + number);
        let prompt = match content.form {
            ContentForm::Text => Some(Prompt::Text(text.clone())),
            ContentForm::Ids => Some(Prompt::Ids(vec![id])),
            ContentForm::Texts => Some(Prompt::Texts(vec![text.clone()])),
            ContentForm::IdLists => Some(Prompt::IdLists(vec![vec![id]])),
            ContentForm::Messages => None,
        };
        let messages = prompt.is_none().then(|| vec![json!({"content": text})]);
        let marker = match &messages {
            Some(messages) => serde_json::to_string(messages),
            None => serde_json::to_string(&prompt),
        };
        let sample = SampleRequest {
            prompt,
            messages,
            expected_output_len: limit,
            lora: sample.lora.clone(),
            body: content.body.map(serde_json::from_str).transpose().ok()?,
            ..SampleRequest::default()
        };
        let payload = build_payload(protocol, &sample, model, flags, extra).ok()?;
        let limit = limit.map(|limit| limit.to_string());
        let pieces = FramePieces::cut(&payload.bytes, &marker.ok()?, limit.as_deref());
        Some((pieces, payload.content_type, payload.secrets))
    }

    /// The length of the body, in bytes.
    #[must_use]
    pub fn body_len(&self, content: &str, limit: &str) -> usize {
        let gap = |gap: &Gap| if *gap == Gap::Content { content.len() } else { limit.len() };
        self.pieces.pieces.iter().map(|(piece, next)| piece.len() + gap(next)).sum::<usize>() + self.pieces.end.len()
    }

    /// Appends the body with this content and this output limit.
    pub fn write_body(&self, content: &str, limit: &str, out: &mut Vec<u8>) {
        for (piece, next) in &self.pieces.pieces {
            out.extend_from_slice(piece);
            out.extend_from_slice(if *next == Gap::Content { content.as_bytes() } else { limit.as_bytes() });
        }
        out.extend_from_slice(&self.pieces.end);
    }
}

impl FramePieces {
    /// Cuts a body at the markers.
    fn cut(mut body: &[u8], content: &str, limit: Option<&str>) -> Self {
        let mut pieces = Vec::new();
        loop {
            let content = memmem::find(body, content.as_bytes()).map(|at| (at, Gap::Content, content.len()));
            let limit =
                limit.and_then(|limit| Some((memmem::find(body, limit.as_bytes())?, Gap::OutputLimit, limit.len())));
            let Some((at, gap, len)) = content.into_iter().chain(limit).min_by_key(|(at, ..)| *at) else { break };
            pieces.push((body[..at].into(), gap));
            body = &body[at + len..];
        }
        FramePieces { pieces, end: body.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::BACKENDS, *};

    fn parts<'a>(protocol: Protocol, none: &'a Object, extra: &'a Object) -> BodyParts<'a> {
        BodyParts { protocol, model: "m", flags: none, extra }
    }

    #[test]
    fn every_form_that_an_api_copies_keeps_its_spelling() {
        let none = Object::new();
        for backend in BACKENDS {
            let Some(api) = backend.api else { continue };
            for form in api.copied_forms() {
                let json = match form {
                    ContentForm::Text => r#""\u00e9 \/ \"""#,
                    ContentForm::Ids => "[1,  2]",
                    ContentForm::Texts => r#"["\u00e9" ,"b"]"#,
                    ContentForm::IdLists => "[[1,  2],[ ]]",
                    ContentForm::Messages => r#"[{"role":"user", "content":"\u00e9"}]"#,
                };
                let content = RawContent { form: *form, json, body: Some(r#"{"ignore_eos": true}"#) };
                let sample = SampleRequest { expected_output_len: Some(12), ..SampleRequest::default() };
                let mut frames = BodyFrames::default();
                let parts = parts(Protocol { api, stream: true }, &none, &none);
                let frame = frames.find_frame(parts, &sample, &content).unwrap();
                let mut body = Vec::new();
                frame.write_body(json, "12", &mut body);
                assert_eq!(body.len(), frame.body_len(json, "12"));
                let body = String::from_utf8(body).unwrap();
                assert_eq!(body.matches(json).count(), 1, "{}: {body}", backend.name);
                assert_eq!(body.contains("12"), api.generates_tokens(), "{}: {body}", backend.name);
            }
        }
    }

    #[test]
    fn a_frame_is_kept_for_each_shape_up_to_a_limit() {
        let (none, mut frames) = (Object::new(), BodyFrames::default());
        let parts = parts(Protocol::default(), &none, &none);
        let mut find = |body: &str, lora: Option<&str>, limit: Option<u32>| {
            let sample =
                SampleRequest { lora: lora.map(str::to_owned), expected_output_len: limit, ..SampleRequest::default() };
            let content = RawContent { form: ContentForm::Text, json: "\"p\"", body: Some(body) };
            let frame = frames.find_frame(parts, &sample, &content)?;
            let mut out = Vec::new();
            frame.write_body(content.json, &limit.map(|limit| limit.to_string()).unwrap_or_default(), &mut out);
            Some((String::from_utf8(out).unwrap(), frame.secrets.is_some()))
        };
        let tail = r#""stream":true,"stream_options":{"include_usage":true}"#;
        for (body, lora, limit, want, secret) in [
            ("{}", None, None, format!(r#"{{"model":"m","prompt":"p",{tail}}}"#), false),
            ("{}", Some("a"), Some(7), format!(r#"{{"model":"a","prompt":"p","max_tokens":7,{tail}}}"#), false),
            (r#"{"token":"t"}"#, None, None, format!(r#"{{"model":"m","prompt":"p",{tail},"token":"t"}}"#), false),
            (r#"{"key":"abcd"}"#, None, None, format!(r#"{{"model":"m","prompt":"p",{tail},"key":"abcd"}}"#), true),
        ] {
            assert_eq!(find(body, lora, limit), Some((want, secret)));
        }
        // It looks like a marker, or is not an object.
        for refused in [r#"{"user":"vb-content-1"}"#, r#"{"a":4160749569}"#, "[]"] {
            assert_eq!(find(refused, None, Some(1)), None, "{refused}");
        }
        assert!((0..MAX_FRAMES).any(|n| find(&format!("{{\"n\":{n}}}"), None, None).is_none()));
        assert!(find("{}", None, None).is_some());
    }
}

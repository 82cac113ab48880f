//! What a request needs before it is due: its bytes, and the part of its output that repeats it.

use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use serde_json::Value;

use super::{lora::AdapterMix, scheduled::Scheduled};
use crate::{
    backend::{self, BodyFrames, BodyParts, Protocol},
    http::exchange::{OutgoingRequest, RequestTarget, write_header},
    record::{ContentForm, Object, RawContent, RequestFuncOutput, SampleRequest},
    rng,
    secrets::{self, Secrets},
    units::{Nanos, push_decimal},
};

/// One request, ready to send.
#[derive(Debug)]
pub struct RequestFuncInput {
    /// The end of its head and its body, or what they are built from.
    pub prepared: PreparedRequest,
    /// The request's own arrival time.
    pub timestamp: Option<Nanos>,
    /// How long its user thinks before it.
    pub think_time: Option<Nanos>,
    /// When it was read, on the clock of the input; 0 if it was available before the client asked for it.
    pub read: Nanos,
    /// When to cancel it, counted from its start; `None`: never.
    pub cancel_after: Option<Nanos>,
    /// The part of its output that repeats the request.
    pub output: Box<RequestFuncOutput>,
    /// Secrets in its own body; `None` without any.
    pub secrets: Option<Arc<Secrets>>,
}

/// A request, as far as it can be built.
#[derive(Debug)]
pub enum PreparedRequest {
    /// It can be sent: the headers that only this request has, and its body. They are the same for each server.
    Ready(Bytes),
    /// It needs the responses to the turns before it. Kept as JSON, since a parsed chat is several times as large.
    Incomplete(Box<[u8]>),
}

impl Scheduled for RequestFuncInput {
    fn timestamp(&self) -> Option<Nanos> {
        self.timestamp
    }

    fn session(&self) -> Option<&str> {
        self.output.session_id.as_deref()
    }

    fn begins_conversation(&self) -> bool {
        self.output.turn == Some(0)
    }

    fn needs_responses(&self) -> bool {
        matches!(self.prepared, PreparedRequest::Incomplete(_))
    }

    fn read_at(&self) -> Nanos {
        self.read
    }

    fn think_time(&self) -> Option<Nanos> {
        self.think_time
    }

    fn weight(&self) -> u64 {
        let prompt = match &self.prepared {
            PreparedRequest::Ready(bytes) => bytes.len(),
            PreparedRequest::Incomplete(json) => json.len(),
        };
        (size_of::<Self>() + size_of::<RequestFuncOutput>() + prompt) as u64
    }
}

/// What all requests of a run have in common.
#[derive(Debug, Clone)]
pub struct RequestTemplate {
    /// The API, and whether responses are streamed.
    pub protocol: Protocol,
    /// The endpoint at each server.
    pub targets: Vec<Arc<RequestTarget>>,
    /// The header for the session id, and its value for requests without one.
    pub session_header: Option<(HeaderName, Option<HeaderValue>)>,
    /// The name of the model.
    pub model: String,
    /// Sampling flags.
    pub flags: Object,
    /// `--extra-body`.
    pub extra: Object,
    /// LoRA adapters for requests that do not name one.
    pub mix: Option<AdapterMix>,
    /// Which requests the client cancels.
    pub cancel: Option<CancelPolicy>,
    /// Whether requests are sent at their own times, and not at a rate.
    pub own_times: bool,
}

/// `--cancel-rate` and `--cancel-after`.
#[derive(Debug, Clone, Copy)]
pub struct CancelPolicy {
    /// The share of the requests that the client cancels.
    pub share: f64,
    /// When it cancels them, counted from their start.
    pub after: Nanos,
    /// Decides which requests these are.
    pub seed: u64,
}

impl CancelPolicy {
    fn time_to_cancel(self, number: u64) -> Option<Nanos> {
        (rng::sample_unit(&mut rng::random_stream(self.seed, "cancel", number)) < self.share).then_some(self.after)
    }
}

impl RequestTemplate {
    /// Prepares one request; `number` names it if it has no id.
    ///
    /// # Errors
    /// Describes what is wrong with the request.
    pub fn prepare(&self, mut sample: SampleRequest, number: u64) -> Result<RequestFuncInput, String> {
        let mut output = start_output(&mut sample, number);
        output.expected_prompt_len = sample.prompt_len.filter(|_| !has_media(&sample));
        let (prepared, secrets) = if placeholders(&mut sample).next().is_some() {
            if sample.session_id.is_none() {
                return Err(
                    "`messages` has a placeholder for a response (assistant content null), which needs a `session_id`"
                        .into(),
                );
            }
            output.expected_prompt_len = None;
            let json = serde_json::to_vec(&sample).map_err(|e| e.to_string())?;
            (PreparedRequest::Incomplete(json.into()), None)
        } else {
            self.build_bytes(&sample, &output.request_id)?
        };
        Ok(self.finish_input(&sample, prepared, output, secrets, number))
    }

    /// Whether content of this form may be copied into the body.
    #[must_use]
    pub fn can_copy(&self, form: ContentForm) -> bool {
        self.protocol.api.copied_forms().contains(&form)
    }

    /// Like [`RequestTemplate::prepare`], for a request whose content is still text; `None` if it must be parsed. Takes
    /// from `sample` only what is returned.
    pub fn prepare_copy(
        &self,
        frames: &mut BodyFrames,
        sample: &mut SampleRequest,
        content: &RawContent<'_>,
        number: u64,
    ) -> Option<RequestFuncInput> {
        if !self.can_copy(content.form) || secrets::may_hold_secret(content.json) {
            return None;
        }
        let parts = BodyParts { protocol: self.protocol, model: &self.model, flags: &self.flags, extra: &self.extra };
        let frame = frames.find_frame(parts, sample, content)?;
        let limit = sample.expected_output_len.map(|limit| limit.to_string()).unwrap_or_default();
        let body_len = frame.body_len(content.json, &limit);
        let named =
            sample.request_id.as_deref().map_or_else(|| format!("line-{number}").into(), std::borrow::Cow::from);
        let mut bytes = self.write_head(sample, &named, &frame.content_type, body_len).ok()?;
        frame.write_body(content.json, &limit, &mut bytes);
        drop(named);
        let secrets = frame.secrets.clone();
        let output = start_output(sample, number);
        Some(self.finish_input(sample, PreparedRequest::Ready(bytes.into()), output, secrets, number))
    }

    fn finish_input(
        &self,
        sample: &SampleRequest,
        prepared: PreparedRequest,
        output: Box<RequestFuncOutput>,
        secrets: Option<Arc<Secrets>>,
        number: u64,
    ) -> RequestFuncInput {
        RequestFuncInput {
            prepared,
            timestamp: sample.timestamp,
            think_time: sample.think_time,
            read: Nanos(0),
            cancel_after: self.cancel.and_then(|cancel| cancel.time_to_cancel(number)),
            output,
            secrets,
        }
    }

    /// Puts `responses` into the placeholders of the chat.
    ///
    /// # Errors
    /// There are fewer responses than placeholders.
    pub fn fill(
        &self,
        json: &[u8],
        responses: Vec<String>,
        request_id: &str,
    ) -> Result<(PreparedRequest, Option<Arc<Secrets>>), String> {
        let mut sample: SampleRequest = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        let mut responses = responses.into_iter();
        for placeholder in placeholders(&mut sample) {
            *placeholder = responses
                .next()
                .ok_or("it has placeholders for more responses than there were turns before it")?
                .into();
        }
        self.build_bytes(&sample, request_id)
    }

    fn build_bytes(
        &self,
        sample: &SampleRequest,
        request_id: &str,
    ) -> Result<(PreparedRequest, Option<Arc<Secrets>>), String> {
        let payload = backend::build_payload(self.protocol, sample, &self.model, &self.flags, &self.extra)?;
        let mut bytes = self.write_head(sample, request_id, &payload.content_type, payload.bytes.len())?;
        bytes.extend_from_slice(&payload.bytes);
        let secrets = (!payload.secrets.is_empty()).then(|| Arc::new(payload.secrets));
        Ok((PreparedRequest::Ready(bytes.into()), secrets))
    }

    /// The headers that only this request has, with room for its body.
    fn write_head(
        &self,
        sample: &SampleRequest,
        request_id: &str,
        content_type: &str,
        body_len: usize,
    ) -> Result<Vec<u8>, String> {
        let text = |what: &str, text: &str| {
            let fits = text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
            if fits { Ok(()) } else { Err(format!("the {what} {text:?} cannot be sent as a header: use plain ASCII")) }
        };
        text("request_id", request_id)?;
        let session = match (&self.session_header, &sample.session_id) {
            (Some((name, _)), Some(session)) => {
                text("session_id", session)?;
                Some((name, session.as_bytes()))
            }
            (Some((name, Some(value))), None) => Some((name, value.as_bytes())),
            _ => None,
        };
        let session_len = session.map_or(0, |(name, value)| name.as_str().len() + value.len() + 4);
        let digits = body_len.checked_ilog10().unwrap_or_default() as usize + 1;
        let fixed = "x-request-id: \r\ncontent-type: \r\ncontent-length: \r\n\r\n".len() + content_type.len() + digits;
        let mut head = Vec::with_capacity(request_id.len() + session_len + fixed + body_len);
        write_header(&mut head, "x-request-id", request_id.as_bytes());
        if let Some((name, value)) = session {
            write_header(&mut head, name.as_str(), value);
        }
        write_header(&mut head, "content-type", content_type.as_bytes());
        head.extend_from_slice(b"content-length: ");
        push_decimal(&mut head, body_len as u64);
        head.extend_from_slice(b"\r\n\r\n");
        Ok(head)
    }

    /// The request to one of the servers.
    #[must_use]
    pub fn address_request(&self, server: usize, bytes: Bytes) -> OutgoingRequest {
        OutgoingRequest { target: Arc::clone(&self.targets[server]), bytes }
    }
}

/// The part of an output that repeats the request; moves the names out of it.
fn start_output(sample: &mut SampleRequest, number: u64) -> Box<RequestFuncOutput> {
    Box::new(RequestFuncOutput {
        request_id: sample.request_id.take().unwrap_or_else(|| format!("line-{number}")),
        session_id: sample.session_id.clone(),
        turn: sample.turn,
        tags: sample.tags.take().map(without_secrets),
        prompt_len: sample.prompt_len.unwrap_or(0),
        expected_prompt_len: sample.prompt_len,
        expected_output_len: sample.expected_output_len,
        expected_cached_len: sample.expected_cached_len,
        ..RequestFuncOutput::default()
    })
}

/// Tags are written to the output, so they hold no secrets.
fn without_secrets(tags: Object) -> Object {
    let mut tags = Value::Object(tags);
    secrets::hide_values(&mut tags, secrets::is_credential);
    if let Value::Object(tags) = tags { tags } else { Object::new() }
}

/// The placeholders for responses in a chat: assistant messages whose content is null.
fn placeholders(sample: &mut SampleRequest) -> impl Iterator<Item = &mut Value> {
    let messages = sample.messages.iter_mut().flatten().filter(|message| message["role"] == "assistant");
    // SDKs write `"tool_calls": null` into messages without tool calls.
    let has_tool_calls = |message: &Value| match message.get("tool_calls") {
        None | Some(Value::Null) => false,
        Some(Value::Array(calls)) => !calls.is_empty(),
        Some(_) => true,
    };
    messages
        .filter(move |message| !has_tool_calls(message))
        .filter_map(|message| message.get_mut("content").filter(|content| content.is_null()))
}

/// Whether a request has images or audio, whose tokens no tokenizer counts.
fn has_media(sample: &SampleRequest) -> bool {
    let parts = sample.messages.iter().flatten().filter_map(|message| message["content"].as_array()).flatten();
    sample.multi_modal_data.is_some() || parts.into_iter().any(|part| part["type"] != "text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_cancelled_as_were_asked_for_and_the_seed_decides_which() {
        let cancel = CancelPolicy { share: 0.3, after: Nanos(5), seed: 1 };
        let cancelled: Vec<u64> = (0..10_000).filter(|n| cancel.time_to_cancel(*n) == Some(Nanos(5))).collect();
        assert!(cancelled.len().abs_diff(3000) < 150, "{}", cancelled.len());
        assert_eq!(cancelled[..5], (0..).filter(|n| cancel.time_to_cancel(*n).is_some()).take(5).collect::<Vec<_>>());
        assert!((0..100).all(|n| CancelPolicy { share: 0.0, ..cancel }.time_to_cancel(n).is_none()));
    }
}

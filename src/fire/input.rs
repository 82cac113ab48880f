//! Requests from standard input, made ready to send before the clock of the run starts.

use std::{
    io::{self, BufRead, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc as std_mpsc,
    },
    thread,
};

use bytes::Bytes;
use hyper::{
    Request, Uri,
    header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use serde_json::Value;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::{
    lora::AdapterMix,
    priority::Work,
    read_ahead::{self, ReadAheadReceiver, ReadAheadSender},
    scheduled::Scheduled,
};
use crate::{
    arrival::{self, ArrivalClock},
    backend::{self, Protocol},
    cli,
    clock::Clock,
    error::Error,
    http::exchange::OutgoingRequest,
    ndjson::NdjsonReader,
    record::{Object, RequestFuncOutput, SampleRequest},
    rng,
    secrets::{self, Secrets},
    units::{Nanos, SECOND},
};

/// One request, ready to send.
#[derive(Debug)]
pub struct RequestFuncInput {
    /// The whole request with its body, or what the body is built from.
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
    pub output: RequestFuncOutput,
    /// Secrets in its own body.
    pub secrets: Secrets,
}

/// A request, as far as it can be built.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all requests are of the large variant")]
pub enum PreparedRequest {
    /// It can be sent. There is one for each server.
    Ready(SmallVec<[OutgoingRequest; 1]>),
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
            PreparedRequest::Ready(requests) => requests.first().map_or(0, |one| one.request.body().len()),
            PreparedRequest::Incomplete(json) => json.len(),
        };
        (size_of::<Self>() + prompt) as u64
    }
}

/// What all requests of a run have in common.
#[derive(Debug, Clone)]
pub struct RequestTemplate {
    /// The API, and whether responses are streamed.
    pub protocol: Protocol,
    /// The URL of the endpoint at each server.
    pub uris: Vec<Uri>,
    /// Headers for every request.
    pub headers: HeaderMap,
    /// The header for the session id.
    pub session_header: Option<HeaderName>,
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
        let request_id = sample.request_id.take().unwrap_or_else(|| format!("line-{number}"));
        let mut output = RequestFuncOutput {
            request_id,
            session_id: sample.session_id.clone(),
            turn: sample.turn,
            tags: sample.tags.take().map(without_secrets),
            prompt_len: sample.prompt_len.unwrap_or(0),
            expected_prompt_len: sample.prompt_len.filter(|_| !has_media(&sample)),
            expected_output_len: sample.expected_output_len,
            expected_cached_len: sample.expected_cached_len,
            ..RequestFuncOutput::default()
        };
        let (timestamp, think_time) = (sample.timestamp, sample.think_time);
        let (prepared, secrets) = if placeholders(&mut sample).next().is_some() {
            if sample.session_id.is_none() {
                return Err(
                    "`messages` has a placeholder for a response (assistant content null), which needs a `session_id`"
                        .into(),
                );
            }
            output.expected_prompt_len = None;
            let json = serde_json::to_vec(&sample).map_err(|e| e.to_string())?;
            (PreparedRequest::Incomplete(json.into()), Secrets::default())
        } else {
            self.build_requests(&sample, &output.request_id)?
        };
        let cancel_after = self.cancel.and_then(|cancel| cancel.time_to_cancel(number));
        Ok(RequestFuncInput { prepared, timestamp, think_time, read: Nanos(0), cancel_after, output, secrets })
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
    ) -> Result<(PreparedRequest, Secrets), String> {
        let mut sample: SampleRequest = serde_json::from_slice(json).map_err(|e| e.to_string())?;
        let mut responses = responses.into_iter();
        for placeholder in placeholders(&mut sample) {
            *placeholder = responses
                .next()
                .ok_or("it has placeholders for more responses than there were turns before it")?
                .into();
        }
        self.build_requests(&sample, request_id)
    }

    fn build_requests(&self, sample: &SampleRequest, request_id: &str) -> Result<(PreparedRequest, Secrets), String> {
        let payload = backend::build_payload(self.protocol, sample, &self.model, &self.flags, &self.extra)?;
        let text = |what: &str, text: &str| {
            let value = HeaderValue::from_str(text).ok().filter(|_| text.is_ascii());
            value.ok_or_else(|| format!("the {what} {text:?} cannot be sent as a header: use plain ASCII"))
        };
        let mut headers = self.headers.clone();
        headers.insert(CONTENT_TYPE, HeaderValue::from_str(&payload.content_type).map_err(|e| e.to_string())?);
        headers.insert("x-request-id", text("request_id", request_id)?);
        if let (Some(name), Some(session)) = (&self.session_header, &sample.session_id) {
            headers.insert(name.clone(), text("session_id", session)?);
        }
        let body = Bytes::from(payload.bytes);
        let requests = self.uris.iter().map(|uri| build_request(uri, headers.clone(), body.clone()));
        Ok((PreparedRequest::Ready(requests.collect::<Result<_, _>>()?), payload.secrets))
    }
}

/// Tags are written to the output, so they hold no secrets.
fn without_secrets(tags: Object) -> Object {
    let mut tags = Value::Object(tags);
    secrets::hide_values(&mut tags, secrets::is_credential);
    if let Value::Object(tags) = tags { tags } else { Object::new() }
}

fn build_request(uri: &Uri, mut headers: HeaderMap, body: Bytes) -> Result<OutgoingRequest, String> {
    if let Some(host) = uri.authority() {
        let host = HeaderValue::from_str(host.as_str()).map_err(|e| e.to_string())?;
        headers.entry(HOST).or_insert(host);
    }
    let mut request = Request::post(uri).body(body).map_err(|e| e.to_string())?;
    *request.headers_mut() = headers;
    Ok(OutgoingRequest::new(request))
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

/// The thread that reads requests.
#[derive(Debug)]
pub struct RequestInput {
    /// Prepared requests.
    pub requests: ReadAheadReceiver<RequestFuncInput>,
    /// The first request as it was read; closed without a value if the input is empty.
    pub first: oneshot::Receiver<SampleRequest>,
    /// The number of requests, once the end has been read; 0 before.
    pub total: Arc<AtomicU64>,
    /// The clock of the input, for [`RequestFuncInput::read`].
    pub clock: Clock,
    /// How reading ended. It may still go on when a run is stopped.
    pub end: std_mpsc::Receiver<Result<(), Error>>,
}

/// Standard input that notes when the client had to wait for it. Lines that come at once had been available before.
#[derive(Debug)]
pub struct TimedStdin(pub StdinWait);

/// When the client last had to wait for input.
#[derive(Debug, Clone)]
pub struct StdinWait {
    clock: Clock,
    last: Arc<AtomicU64>,
}

impl StdinWait {
    /// The client has not waited yet.
    #[must_use]
    pub fn new() -> Self {
        StdinWait { clock: Clock::start(), last: Arc::default() }
    }
}

impl Read for TimedStdin {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut stdin = io::stdin().lock();
        let available = loop {
            match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&Timespec::default())) {
                Err(Errno::INTR) => {}
                // After an error in `poll`, the read below reports it.
                polled => break polled != Ok(0),
            }
        };
        let read = stdin.read(buffer)?;
        if !available {
            self.0.last.store(self.0.clock.now().0, Relaxed);
        }
        Ok(read)
    }
}

/// Starts the thread that reads and prepares requests.
pub fn start_reading(
    input: impl BufRead + Send + 'static,
    waited: StdinWait,
    template: RequestTemplate,
) -> Result<RequestInput, Error> {
    let (send, requests) = read_ahead::channel();
    let (send_first, first) = oneshot::channel();
    let (send_end, end) = std_mpsc::channel();
    let total = Arc::new(AtomicU64::new(0));
    let (count, clock) = (Arc::clone(&total), waited.clock);
    thread::Builder::new()
        .name("input".into())
        .spawn(move || {
            Work::Prepare.apply_to_thread();
            let ended = read_all(input, &waited, &template, &send, send_first);
            drop(send);
            let ended = ended.map(|read| count.store(read, Relaxed));
            // The receiver is dropped if the run was stopped.
            let _ = send_end.send(ended);
        })
        .map_err(|e| Error::Setup(format!("cannot start a thread: {e}")))?;
    Ok(RequestInput { requests, first, total, clock, end })
}

fn read_all(
    input: impl BufRead,
    waited: &StdinWait,
    template: &RequestTemplate,
    send: &ReadAheadSender<RequestFuncInput>,
    first: oneshot::Sender<SampleRequest>,
) -> Result<u64, Error> {
    let mut lines = NdjsonReader::new(input, "stdin");
    let (mut first, mut read, mut mix) = (Some(first), 0, template.mix.clone());
    let mut arrivals = Arrivals { own: template.own_times, ..Arrivals::default() };
    while let Some(mut sample) = lines.next_request()? {
        arrivals.resolve_times(&mut sample, lines.line_number()).map_err(|what| lines.error_at(0, &what))?;
        let copy = first.is_some().then(|| sample.clone());
        if let Some(mix) = &mut mix {
            let own = sample.lora.take();
            let adapter = own.unwrap_or_else(|| mix.pick_adapter(sample.session_id.as_deref()).to_owned());
            sample.tags.get_or_insert_default().entry("lora").or_insert_with(|| adapter.as_str().into());
            sample.lora = Some(adapter);
        }
        let mut request = template.prepare(sample, lines.line_number()).map_err(|what| {
            let output = "a record with a `type`, which a request does not have: is this output of vb-fire?";
            lines.error_at(0, if lines.has_type() { output } else { &what })
        })?;
        request.read = Nanos(waited.last.load(Relaxed));
        if let (Some(first), Some(sample)) = (first.take(), copy) {
            let _ = first.send(sample);
        }
        if send.blocking_send(request).is_err() {
            // The run was stopped.
            break;
        }
        read += 1;
    }
    Ok(read)
}

/// Makes the times of the requests count from the start of the run.
#[derive(Default)]
struct Arrivals {
    /// Whether the requests are sent at their times.
    own: bool,
    clock: ArrivalClock,
    latest: Nanos,
    warned: bool,
}

impl Arrivals {
    /// A pause before a request that the user may not have meant: a day.
    const LONG_PAUSE: Nanos = Nanos(24 * 3600 * SECOND);

    fn resolve_times(&mut self, sample: &mut SampleRequest, line: u64) -> Result<(), String> {
        if let Some(think_time) = sample.think_time {
            arrival::check_wait("think_time", think_time)?;
        }
        let Some(time) = sample.timestamp.filter(|_| self.own) else { return Ok(()) };
        let due = self.clock.resolve(time)?;
        if due.since(self.latest) > Self::LONG_PAUSE && !self.warned {
            self.warned = true;
            let hours = due.since(self.latest).0 / (3600 * SECOND);
            cli::print_warning(
                "vb-fire",
                format!(
                    "stdin:{line}: its `timestamp` is {hours} hours after the one before it; \
                     --request-rate sends requests at another pace"
                ),
            );
        }
        self.latest = self.latest.max(due);
        sample.timestamp = Some(due);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;

    fn template() -> RequestTemplate {
        RequestTemplate {
            protocol: Protocol::default(),
            uris: vec!["http://h:1/v1/completions".parse().unwrap(), "http://i:2/v1/completions".parse().unwrap()],
            headers: HeaderMap::new(),
            session_header: Some(HeaderName::from_static("x-session-id")),
            model: "m".into(),
            flags: Object::new(),
            extra: Object::new(),
            mix: None,
            cancel: None,
            own_times: true,
        }
    }

    fn sent(prepared: &PreparedRequest) -> &[OutgoingRequest] {
        match prepared {
            PreparedRequest::Ready(requests) => requests,
            PreparedRequest::Incomplete(json) => panic!("{json:?}"),
        }
    }

    #[test]
    fn lines_before_a_bad_one_are_sent() {
        let text = &b"{\"prompt\":\"a\"}\n{\"prompt\":\"b\",\"request_id\":\"x\"}\n{\"prompt\":}\n"[..];
        let mut input = start_reading(text, StdinWait::new(), template()).unwrap();
        let mut ids = Vec::new();
        while let Some(request) = input.requests.blocking_recv() {
            for (request_of, host) in sent(&request.prepared).iter().zip(["h:1", "i:2"]) {
                assert_eq!(request_of.request.headers()[HOST], host);
                assert_eq!(request_of.request.headers()["x-request-id"], request.output.request_id.as_str());
            }
            ids.push(request.output.request_id);
        }
        assert_eq!(ids, ["line-1", "x"]);
        assert_eq!(input.end.recv().unwrap().unwrap_err().to_string(), "stdin:3:11: expected value");
        assert!(input.first.try_recv().is_ok());
    }

    /// The times of the requests that are sent for these lines, and the error at the end.
    fn times(text: &'static str, own_times: bool) -> (Vec<Option<Nanos>>, String) {
        let template = RequestTemplate { own_times, ..template() };
        let mut input = start_reading(text.as_bytes(), StdinWait::new(), template).unwrap();
        let times = std::iter::from_fn(|| input.requests.blocking_recv()).map(|request| request.timestamp).collect();
        (times, input.end.recv().unwrap().map_or_else(|e| e.to_string(), |()| String::new()))
    }

    #[test]
    fn dates_count_from_the_first_one() {
        let text = "{\"prompt\":\"a\",\"timestamp\":1700000000000}\n{\"prompt\":\"a\"}\n\
                    {\"prompt\":\"a\",\"timestamp\":\"2023-11-14T22:13:21.5Z\"}\n{\"prompt\":\"a\",\"timestamp\":5}\n";
        let (sent, error) = times(text, true);
        assert_eq!(sent, [Some(Nanos(0)), None, Some(Nanos(1_500_000_000))]);
        assert!(error.starts_with("stdin:4: its `timestamp`"), "{error}");
        assert_eq!(times(text, false).0.len(), 4, "with a rate, times are not used");
        let (sent, error) = times("{\"prompt\":\"a\",\"think_time\":1e9}\n", true);
        assert!(sent.is_empty() && error.contains("`think_time` is 11574 days"), "{error}");
    }

    #[test]
    fn a_turn_waits_for_the_responses_that_it_has_placeholders_for() {
        let template = RequestTemplate {
            protocol: Protocol {
                api: Backend::from_name("openai-chat").unwrap().open_api(None).unwrap(),
                stream: true,
            },
            ..template()
        };
        let line = r#"{"session_id":"s","messages":[{"role":"user","content":"a"},{"role":"assistant","content":null},{"role":"user","content":"b"}]}"#;
        let sample: SampleRequest = serde_json::from_str(line).unwrap();
        let incomplete = |sample: SampleRequest| match template.prepare(sample, 1).unwrap().prepared {
            PreparedRequest::Incomplete(json) => json,
            PreparedRequest::Ready(_) => panic!("it has no placeholder"),
        };
        let filled = template.fill(&incomplete(sample.clone()), vec!["A".into(), "B".into()], "r").unwrap();
        let request = &sent(&filled.0)[0].request;
        assert_eq!(request.headers()["x-session-id"], "s");
        let body: Value = serde_json::from_slice(request.body()).unwrap();
        assert_eq!(body["messages"][1]["content"], "A");
        assert!(template.fill(&incomplete(sample.clone()), vec![], "r").unwrap_err().contains("more responses"));
        let alone = SampleRequest { session_id: None, ..sample };
        assert!(template.prepare(alone, 1).unwrap_err().contains("needs a `session_id`"));
    }

    #[test]
    fn as_many_are_cancelled_as_were_asked_for_and_the_seed_decides_which() {
        let cancel = CancelPolicy { share: 0.3, after: Nanos(5), seed: 1 };
        let cancelled: Vec<u64> = (0..10_000).filter(|n| cancel.time_to_cancel(*n) == Some(Nanos(5))).collect();
        assert!(cancelled.len().abs_diff(3000) < 150, "{}", cancelled.len());
        assert_eq!(cancelled[..5], (0..).filter(|n| cancel.time_to_cancel(*n).is_some()).take(5).collect::<Vec<_>>());
        assert!((0..100).all(|n| CancelPolicy { share: 0.0, ..cancel }.time_to_cancel(n).is_none()));
    }
}

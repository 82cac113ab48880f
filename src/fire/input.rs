//! Requests from standard input, made ready to send before any clock runs.

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
use tokio::sync::{mpsc, oneshot};

use super::{lora::Mix, secrets::Secrets};
use crate::{
    backend::{self, Protocol},
    clock::Clock,
    error::Error,
    http::exchange::OutgoingRequest,
    ndjson::LineReader,
    record::{Object, RequestFuncOutput, SampleRequest},
    rng,
    units::Nanos,
};

/// Requests read ahead: enough to hide the reading, few enough for long prompts to fit the memory.
const READ_AHEAD: usize = 256;

/// One request made ready.
#[derive(Debug)]
pub struct RequestFuncInput {
    /// The whole request, body included, or what it is to be made of.
    pub prepared: Prepared,
    /// As in the request.
    pub timestamp: Option<Nanos>,
    /// As in the request.
    pub think_time: Option<Nanos>,
    /// When it had arrived, by the clock of the input; 0 when it was there before anybody asked.
    pub read: Nanos,
    /// The client is to leave so long after the start; `None`: it stays.
    pub abandon: Option<Nanos>,
    /// Its output, as far as that repeats the request.
    pub output: RequestFuncOutput,
    /// What must not be shown of its own body.
    pub secrets: Secrets,
}

/// How far a request is.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all are of the large one")]
pub enum Prepared {
    /// It can be sent: one for each server.
    Ready(SmallVec<[OutgoingRequest; 1]>),
    /// It waits for what the server says to the turns before it, as JSON: read, a long chat is several times as large.
    Open(Box<[u8]>),
}

impl RequestFuncInput {
    /// What it takes of the memory, in bytes, about.
    pub fn weight(&self) -> u64 {
        let prompt = match &self.prepared {
            Prepared::Ready(requests) => requests.first().map_or(0, |one| one.request.body().len()),
            Prepared::Open(open) => open.len(),
        };
        (size_of::<Self>() + prompt) as u64
    }
}

/// How requests are made ready.
#[derive(Debug, Clone)]
pub struct Template {
    /// The API.
    pub protocol: Protocol,
    /// Where to: one for each server.
    pub uris: Vec<Uri>,
    /// The headers of each.
    pub headers: HeaderMap,
    /// The header that names the conversation.
    pub session_header: Option<HeaderName>,
    /// The model's name.
    pub model: String,
    /// Sampling flags.
    pub flags: Object,
    /// `--extra-body`.
    pub extra: Object,
    /// Adapters for requests that name none.
    pub mix: Option<Mix>,
    /// What is left before its end.
    pub abandon: Option<Abandon>,
}

/// `--cancel-rate` and `--cancel-after`.
#[derive(Debug, Clone, Copy)]
pub struct Abandon {
    /// The share of the requests that the client leaves,
    pub share: f64,
    /// so long after their start.
    pub after: Nanos,
    /// Which they are.
    pub seed: u64,
}

impl Abandon {
    fn of(self, number: u64) -> Option<Nanos> {
        (rng::sample_unit(&mut rng::random_stream(self.seed, "cancel", number)) < self.share).then_some(self.after)
    }
}

impl Template {
    /// Makes one request ready; `number` names it if it has no id.
    ///
    /// # Errors
    /// Says what is wrong with the request.
    pub fn ready(&self, mut sample: SampleRequest, number: u64) -> Result<RequestFuncInput, String> {
        let request_id = sample.request_id.take().unwrap_or_else(|| format!("line-{number}"));
        let output = RequestFuncOutput {
            request_id,
            session_id: sample.session_id.clone(),
            turn: sample.turn,
            tags: sample.tags.take(),
            prompt_len: sample.prompt_len.unwrap_or(0),
            expected_output_len: sample.expected_output_len,
            expected_cached_len: sample.expected_cached_len,
            ..RequestFuncOutput::default()
        };
        let (timestamp, think_time) = (sample.timestamp, sample.think_time);
        let mut secrets = Secrets::default();
        sample.body.iter().for_each(|body| secrets.add_body(body));
        let prepared = if holes(&mut sample).next().is_some() {
            if sample.session_id.is_none() {
                return Err(
                    "`messages` has a place for the server's reply, and there is no `session_id` to say whose".into()
                );
            }
            Prepared::Open(serde_json::to_vec(&sample).map_err(|e| e.to_string())?.into())
        } else {
            Prepared::Ready(self.outgoing(&sample, &output.request_id)?)
        };
        let abandon = self.abandon.and_then(|abandon| abandon.of(number));
        Ok(RequestFuncInput { prepared, timestamp, think_time, read: Nanos(0), abandon, output, secrets })
    }

    /// Puts `replies` where the chat has room for them.
    ///
    /// # Errors
    /// There are too few.
    pub fn fill(&self, open: &[u8], replies: Vec<String>, request_id: &str) -> Result<Prepared, String> {
        let mut sample: SampleRequest = serde_json::from_slice(open).map_err(|e| e.to_string())?;
        let mut replies = replies.into_iter();
        for hole in holes(&mut sample) {
            *hole = replies.next().ok_or("it has more places for replies than there were turns before it")?.into();
        }
        self.outgoing(&sample, request_id).map(Prepared::Ready)
    }

    fn outgoing(&self, sample: &SampleRequest, request_id: &str) -> Result<SmallVec<[OutgoingRequest; 1]>, String> {
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
        self.uris.iter().map(|uri| outgoing(uri, headers.clone(), body.clone())).collect()
    }
}

fn outgoing(uri: &Uri, mut headers: HeaderMap, body: Bytes) -> Result<OutgoingRequest, String> {
    if let Some(host) = uri.authority() {
        let host = HeaderValue::from_str(host.as_str()).map_err(|e| e.to_string())?;
        headers.entry(HOST).or_insert(host);
    }
    let mut request = Request::post(uri).body(body).map_err(|e| e.to_string())?;
    *request.headers_mut() = headers;
    Ok(OutgoingRequest::new(request))
}

/// The places in a chat where what the server says belongs: the content of its messages that is null.
fn holes(sample: &mut SampleRequest) -> impl Iterator<Item = &mut Value> {
    let messages = sample.messages.iter_mut().flatten().filter(|message| message["role"] == "assistant");
    // SDKs write `"tool_calls": null` of messages that call none.
    let calls = |message: &Value| match message.get("tool_calls") {
        None | Some(Value::Null) => false,
        Some(Value::Array(calls)) => !calls.is_empty(),
        Some(_) => true,
    };
    messages
        .filter(move |message| !calls(message))
        .filter_map(|message| message.get_mut("content").filter(|content| content.is_null()))
}

/// Requests as they come, from a thread of their own.
#[derive(Debug)]
pub struct Input {
    /// Requests made ready.
    pub requests: mpsc::Receiver<RequestFuncInput>,
    /// The first request as it was read; closed without one when there is none.
    pub first: oneshot::Receiver<SampleRequest>,
    /// Requests in all, once the end has been read; 0 before.
    pub total: Arc<AtomicU64>,
    /// What `read` of requests counts by.
    pub clock: Clock,
    /// How reading ended. It may still go on when a run was stopped.
    pub end: std_mpsc::Receiver<Result<(), Error>>,
}

/// Standard input, which notes when it had to be waited for: what comes at once had been there before.
#[derive(Debug)]
pub struct Stdin(pub Waited);

/// When input was last waited for.
#[derive(Debug, Clone)]
pub struct Waited {
    clock: Clock,
    last: Arc<AtomicU64>,
}

impl Waited {
    /// Not yet.
    #[must_use]
    pub fn new() -> Self {
        Waited { clock: Clock::start(), last: Arc::default() }
    }
}

impl Read for Stdin {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut stdin = io::stdin().lock();
        let there = loop {
            match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&Timespec::default())) {
                Err(Errno::INTR) => {}
                // What cannot be asked is told by its own read.
                polled => break polled != Ok(0),
            }
        };
        let read = stdin.read(buffer)?;
        if !there {
            self.0.last.store(self.0.clock.now().0, Relaxed);
        }
        Ok(read)
    }
}

/// Starts reading.
pub fn read(input: impl BufRead + Send + 'static, waited: Waited, template: Template) -> Result<Input, Error> {
    let (send, requests) = mpsc::channel(READ_AHEAD);
    let (send_first, first) = oneshot::channel();
    let (send_end, end) = std_mpsc::channel();
    let total = Arc::new(AtomicU64::new(0));
    let (count, clock) = (Arc::clone(&total), waited.clock);
    thread::Builder::new()
        .name("input".into())
        .spawn(move || {
            let ended = read_all(input, &waited, &template, &send, send_first);
            drop(send);
            let ended = ended.map(|read| count.store(read, Relaxed));
            // Nobody asks any more when the run was stopped.
            let _ = send_end.send(ended);
        })
        .map_err(|e| Error::Setup(format!("cannot start a thread: {e}")))?;
    Ok(Input { requests, first, total, clock, end })
}

fn read_all(
    input: impl BufRead,
    waited: &Waited,
    template: &Template,
    send: &mpsc::Sender<RequestFuncInput>,
    first: oneshot::Sender<SampleRequest>,
) -> Result<u64, Error> {
    let mut lines = LineReader::new(input, "stdin");
    let (mut first, mut read, mut mix) = (Some(first), 0, template.mix.clone());
    while let Some(mut sample) = lines.next_record::<SampleRequest>()? {
        let copy = first.is_some().then(|| sample.clone());
        if let Some(mix) = &mut mix {
            let own = sample.lora.take();
            let adapter = own.unwrap_or_else(|| mix.next(sample.session_id.as_deref()).to_owned());
            sample.tags.get_or_insert_default().entry("lora").or_insert_with(|| adapter.as_str().into());
            sample.lora = Some(adapter);
        }
        let mut ready = template.ready(sample, lines.line_number()).map_err(|what| lines.error_at(0, &what))?;
        ready.read = Nanos(waited.last.load(Relaxed));
        if let (Some(first), Some(sample)) = (first.take(), copy) {
            let _ = first.send(sample);
        }
        if send.blocking_send(ready).is_err() {
            // The run was stopped.
            break;
        }
        read += 1;
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;

    fn template() -> Template {
        Template {
            protocol: Protocol::default(),
            uris: vec!["http://h:1/v1/completions".parse().unwrap(), "http://i:2/v1/completions".parse().unwrap()],
            headers: HeaderMap::new(),
            session_header: Some(HeaderName::from_static("x-session-id")),
            model: "m".into(),
            flags: Object::new(),
            extra: Object::new(),
            mix: None,
            abandon: None,
        }
    }

    fn sent(prepared: &Prepared) -> &[OutgoingRequest] {
        match prepared {
            Prepared::Ready(requests) => requests,
            Prepared::Open(open) => panic!("{open:?}"),
        }
    }

    #[test]
    fn lines_before_a_bad_one_are_sent() {
        let text = &b"{\"prompt\":\"a\"}\n{\"prompt\":\"b\",\"request_id\":\"x\"}\n{\"prompt\":}\n"[..];
        let mut input = read(text, Waited::new(), template()).unwrap();
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

    #[test]
    fn a_turn_waits_for_the_replies_that_it_has_room_for() {
        let template = Template {
            protocol: Protocol {
                api: Backend::from_name("openai-chat").unwrap().open_api(None).unwrap(),
                stream: true,
            },
            ..template()
        };
        let line = r#"{"session_id":"s","messages":[{"role":"user","content":"a"},{"role":"assistant","content":null},{"role":"user","content":"b"}]}"#;
        let sample: SampleRequest = serde_json::from_str(line).unwrap();
        let open = |sample: SampleRequest| match template.ready(sample, 1).unwrap().prepared {
            Prepared::Open(open) => open,
            Prepared::Ready(_) => panic!("it has no place"),
        };
        let filled = template.fill(&open(sample.clone()), vec!["A".into(), "B".into()], "r").unwrap();
        let request = &sent(&filled)[0].request;
        assert_eq!(request.headers()["x-session-id"], "s");
        let body: Value = serde_json::from_slice(request.body()).unwrap();
        assert_eq!(body["messages"][1]["content"], "A");
        assert!(template.fill(&open(sample.clone()), vec![], "r").unwrap_err().contains("more places"));
        let alone = SampleRequest { session_id: None, ..sample };
        assert!(template.ready(alone, 1).unwrap_err().contains("no `session_id`"));
    }

    #[test]
    fn as_many_are_abandoned_as_were_asked_for_and_the_seed_says_which() {
        let abandon = Abandon { share: 0.3, after: Nanos(5), seed: 1 };
        let left: Vec<u64> = (0..10_000).filter(|n| abandon.of(*n) == Some(Nanos(5))).collect();
        assert!(left.len().abs_diff(3000) < 150, "{}", left.len());
        assert_eq!(left[..5], (0..).filter(|n| abandon.of(*n).is_some()).take(5).collect::<Vec<_>>());
        assert!((0..100).all(|n| Abandon { share: 0.0, ..abandon }.of(n).is_none()));
    }
}

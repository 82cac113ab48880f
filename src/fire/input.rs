//! Requests from standard input, made ready to send before any clock runs.

use std::{
    io::BufRead,
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
    header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue},
};
use tokio::sync::{mpsc, oneshot};

use crate::{
    backend::{self, Protocol},
    error::Error,
    http::exchange::Outgoing,
    ndjson::Lines,
    record::{Object, RequestFuncOutput, SampleRequest},
    units::Nanos,
};

/// Requests read ahead: enough to hide the reading, few enough for long prompts to fit the memory.
const READ_AHEAD: usize = 256;

/// One request made ready.
#[derive(Debug)]
pub struct RequestFuncInput {
    /// The whole request, body included.
    pub request: Outgoing,
    /// As in the request.
    pub timestamp: Option<Nanos>,
    /// Its output, as far as that repeats the request.
    pub output: RequestFuncOutput,
}

/// How requests are made ready.
#[derive(Debug, Clone)]
pub struct Template {
    /// The API.
    pub protocol: Protocol,
    /// Where to.
    pub uri: Uri,
    /// The headers of each.
    pub headers: HeaderMap,
    /// The model's name.
    pub model: String,
    /// Sampling flags.
    pub flags: Object,
    /// `--extra-body`.
    pub extra: Object,
}

impl Template {
    /// Makes one request ready; `number` names it if it has no id.
    ///
    /// # Errors
    /// Says what is wrong with the request.
    pub fn ready(&self, sample: SampleRequest, number: u64) -> Result<RequestFuncInput, String> {
        let payload = backend::payload(self.protocol, &sample, &self.model, &self.flags, &self.extra)?;
        let request_id = sample.request_id.unwrap_or_else(|| format!("line-{number}"));
        let id = HeaderValue::from_str(&request_id).ok().filter(|_| request_id.is_ascii());
        let id =
            id.ok_or_else(|| format!("the request_id {request_id:?} cannot be sent as a header: use plain ASCII"))?;
        let mut request = Request::post(&self.uri).body(Bytes::from(payload.bytes)).map_err(|e| e.to_string())?;
        *request.headers_mut() = self.headers.clone();
        let kind = HeaderValue::from_str(&payload.content_type).map_err(|e| e.to_string())?;
        request.headers_mut().insert(CONTENT_TYPE, kind);
        if let Some(host) = self.uri.authority() {
            let host = HeaderValue::from_str(host.as_str()).map_err(|e| e.to_string())?;
            request.headers_mut().entry(HOST).or_insert(host);
        }
        request.headers_mut().insert("x-request-id", id);
        let output = RequestFuncOutput {
            request_id,
            session_id: sample.session_id,
            turn: sample.turn,
            tags: sample.tags,
            prompt_len: sample.prompt_len.unwrap_or(0),
            expected_output_len: sample.expected_output_len,
            expected_cached_len: sample.expected_cached_len,
            ..RequestFuncOutput::default()
        };
        Ok(RequestFuncInput { request: Outgoing::new(request), timestamp: sample.timestamp, output })
    }
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
    /// How reading ended. It may still go on when a run was stopped.
    pub end: std_mpsc::Receiver<Result<(), Error>>,
}

/// Starts reading.
pub fn read(input: impl BufRead + Send + 'static, template: Template) -> Result<Input, Error> {
    let (send, requests) = mpsc::channel(READ_AHEAD);
    let (send_first, first) = oneshot::channel();
    let (send_end, end) = std_mpsc::channel();
    let total = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&total);
    thread::Builder::new()
        .name("input".into())
        .spawn(move || {
            let ended = read_all(input, &template, &send, send_first);
            drop(send);
            let ended = ended.map(|read| count.store(read, Relaxed));
            // Nobody asks any more when the run was stopped.
            let _ = send_end.send(ended);
        })
        .map_err(|e| Error::Setup(format!("cannot start a thread: {e}")))?;
    Ok(Input { requests, first, total, end })
}

fn read_all(
    input: impl BufRead,
    template: &Template,
    send: &mpsc::Sender<RequestFuncInput>,
    first: oneshot::Sender<SampleRequest>,
) -> Result<u64, Error> {
    let mut lines = Lines::new(input, "stdin");
    let (mut first, mut read) = (Some(first), 0);
    while let Some(sample) = lines.next_record::<SampleRequest>()? {
        let copy = first.is_some().then(|| sample.clone());
        let ready = template.ready(sample, lines.number()).map_err(|what| lines.wrong(0, &what))?;
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

    #[test]
    fn lines_before_a_bad_one_are_sent() {
        let template = Template {
            protocol: Protocol::default(),
            uri: "http://h:1/v1/completions".parse().unwrap(),
            headers: HeaderMap::new(),
            model: "m".into(),
            flags: Object::new(),
            extra: Object::new(),
        };
        let text = &b"{\"prompt\":\"a\"}\n{\"prompt\":\"b\",\"request_id\":\"x\"}\n{\"prompt\":}\n"[..];
        let mut input = read(text, template).unwrap();
        let mut ids = Vec::new();
        while let Some(request) = input.requests.blocking_recv() {
            assert_eq!(request.request.request.headers()[HOST], "h:1");
            assert_eq!(request.request.request.headers()["x-request-id"], request.output.request_id.as_str());
            ids.push(request.output.request_id);
        }
        assert_eq!(ids, ["line-1", "x"]);
        assert_eq!(input.end.recv().unwrap().unwrap_err().to_string(), "stdin:3:11: expected value");
        assert!(input.first.try_recv().is_ok());
    }
}

//! The thread that reads requests from standard input and prepares them before they are due.

use std::{
    io::{self, BufRead, Read},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc as std_mpsc,
    },
    thread,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use tokio::sync::oneshot;

use super::{
    extent::InputExtent,
    prepare::{RequestFuncInput, RequestTemplate},
    priority::Work,
    read_ahead::{self, ReadAheadReceiver, ReadAheadSender, ReadAheadWaker},
};
use crate::{
    arrival::{self, ArrivalClock},
    backend::BodyFrames,
    cli,
    clock::Clock,
    error::Error,
    ndjson::NdjsonReader,
    record::{RawContent, SampleRequest},
    units::{Nanos, SECOND},
};

/// The thread that reads requests.
#[derive(Debug)]
pub struct RequestInput {
    /// Prepared requests.
    pub requests: ReadAheadReceiver<RequestFuncInput>,
    /// The first request as it was read; closed without a value if the input is empty.
    pub first: oneshot::Receiver<SampleRequest>,
    /// How much input there is.
    pub extent: Arc<InputExtent>,
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
    state: Arc<WaitState>,
}

#[derive(Debug, Default)]
struct WaitState {
    last: AtomicU64,
    /// Requests that are ready are not kept back while the client waits, or reads a long line.
    waker: OnceLock<ReadAheadWaker<RequestFuncInput>>,
}

impl StdinWait {
    /// The client has not waited yet.
    #[must_use]
    pub fn new() -> Self {
        StdinWait { clock: Clock::start(), state: Arc::default() }
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
        let StdinWait { clock, state } = &self.0;
        if let Some(waker) = state.waker.get() {
            waker.wake();
        }
        let read = stdin.read(buffer)?;
        if !available {
            state.last.store(clock.now().0, Relaxed);
        }
        Ok(read)
    }
}

/// Starts the thread that reads and prepares requests, ahead of need by the number of `slots`.
pub fn start_reading(
    input: impl BufRead + Send + 'static,
    waited: StdinWait,
    template: RequestTemplate,
    slots: Option<u32>,
) -> Result<RequestInput, Error> {
    let (send, requests) = read_ahead::channel(slots);
    // A wait that is used already has its waker.
    let _ = waited.state.waker.set(send.waker());
    let (send_first, first) = oneshot::channel();
    let (send_end, end) = std_mpsc::channel();
    let extent = Arc::new(InputExtent::of_stdin());
    let (read, clock) = (Arc::clone(&extent), waited.clock);
    thread::Builder::new()
        .name("input".into())
        .spawn(move || {
            Work::Prepare.apply_to_thread();
            let ended = read_all(input, &waited, &template, &send, send_first, &read);
            drop(send);
            let ended = ended.map(|()| read.note_end());
            // The receiver is dropped if the run was stopped.
            let _ = send_end.send(ended);
        })
        .map_err(|e| Error::Setup(format!("cannot start a thread: {e}")))?;
    Ok(RequestInput { requests, first, extent, clock, end })
}

fn read_all(
    input: impl BufRead,
    waited: &StdinWait,
    template: &RequestTemplate,
    send: &ReadAheadSender<RequestFuncInput>,
    first: oneshot::Sender<SampleRequest>,
    extent: &InputExtent,
) -> Result<(), Error> {
    let mut lines = NdjsonReader::new(input, "stdin");
    let (mut first, mut mix) = (Some(first), template.mix.clone());
    let mut arrivals = Arrivals { own: template.own_times, ..Arrivals::default() };
    let mut frames = BodyFrames::default();
    while lines.next_object()?.is_some() {
        let (line, number) = (lines.line(), lines.line_number());
        let size = line.len();
        let parse = || SampleRequest::parse(line).map_err(|(column, what)| lines.error_at(column, &what));
        // The first one is returned with its content.
        let split = if first.is_none() { RawContent::split_line(line) } else { None };
        let (mut sample, content) = match split.filter(|(_, content)| template.can_copy(content.form)) {
            Some((sample, content)) => (sample, Some(content)),
            None => (parse()?, None),
        };
        if let Some(announced) = sample.num_prompts {
            extent.note_announced(announced);
        }
        arrivals.resolve_times(&mut sample, number).map_err(|what| lines.error_at(0, &what))?;
        let copy = first.is_some().then(|| sample.clone());
        if let Some(mix) = &mut mix {
            let own = sample.lora.take();
            let adapter = own.unwrap_or_else(|| mix.pick_adapter(sample.session_id.as_deref()).to_owned());
            sample.tags.get_or_insert_default().entry("lora").or_insert_with(|| adapter.as_str().into());
            sample.lora = Some(adapter);
        }
        let copied = content.and_then(|content| template.prepare_copy(&mut frames, &mut sample, &content, number));
        let prepared = if let Some(request) = copied {
            Ok(request)
        } else {
            if content.is_some() {
                let SampleRequest { prompt, messages, body, .. } = parse()?;
                sample = SampleRequest { prompt, messages, body, ..sample };
            }
            template.prepare(sample, number)
        };
        let mut request = prepared.map_err(|what| {
            let output = "a record with a `type`, which a request does not have: is this output of vb-fire?";
            lines.error_at(0, if lines.has_type() { output } else { &what })
        })?;
        request.read = Nanos(waited.state.last.load(Relaxed));
        if let (Some(first), Some(sample)) = (first.take(), copy) {
            let _ = first.send(sample);
        }
        if send.blocking_send(request).is_err() {
            // The run was stopped.
            break;
        }
        extent.note_request(size, arrivals.latest);
    }
    Ok(())
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
    use std::collections::BTreeMap;

    use hyper::{HeaderMap, header::HeaderName};
    use proptest::prelude::*;
    use serde_json::Value;

    use super::{super::prepare::PreparedRequest, *};
    use crate::{
        backend::{BACKENDS, Backend, Protocol},
        http::exchange::RequestTarget,
        record::Object,
    };

    fn target(url: &str) -> Arc<RequestTarget> {
        Arc::new(RequestTarget::new(url.parse().unwrap(), &HeaderMap::new()))
    }

    fn template() -> RequestTemplate {
        RequestTemplate {
            protocol: Protocol::default(),
            targets: ["http://h:1/v1/completions", "http://i:2/v1/completions"].map(target).to_vec(),
            session_header: Some((HeaderName::from_static("x-session-id"), None)),
            model: "m".into(),
            flags: Object::new(),
            extra: Object::new(),
            mix: None,
            cancel: None,
            own_times: true,
        }
    }

    /// The request to the first server.
    fn sent(prepared: &PreparedRequest) -> hyper::Request<bytes::Bytes> {
        match prepared {
            PreparedRequest::Ready(bytes) => template().address_request(0, bytes.clone()).to_http().unwrap(),
            PreparedRequest::Incomplete(json) => panic!("{json:?}"),
        }
    }

    #[test]
    fn lines_before_a_bad_one_are_sent() {
        let text = &b"{\"prompt\":\"a\"}\n{\"prompt\":\"b\",\"request_id\":\"x\"}\n{\"prompt\":}\n"[..];
        let mut input = start_reading(text, StdinWait::new(), template(), None).unwrap();
        let mut ids = Vec::new();
        while let Some(request) = input.requests.blocking_recv() {
            assert_eq!(sent(&request.prepared).headers()["x-request-id"], request.output.request_id.as_str());
            ids.push(request.output.request_id);
        }
        assert_eq!(ids, ["line-1", "x"]);
        assert_eq!(input.end.recv().unwrap().unwrap_err().to_string(), "stdin:3:11: expected value");
        assert!(input.first.try_recv().is_ok());
    }

    /// The times of the requests that are sent for these lines, and the error at the end.
    fn times(text: &'static str, own_times: bool) -> (Vec<Option<Nanos>>, String) {
        let template = RequestTemplate { own_times, ..template() };
        let mut input = start_reading(text.as_bytes(), StdinWait::new(), template, None).unwrap();
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
        let request = sent(&filled.0);
        assert_eq!(request.headers()["x-session-id"], "s");
        let body: Value = serde_json::from_slice(request.body()).unwrap();
        assert_eq!(body["messages"][1]["content"], "A");
        assert!(template.fill(&incomplete(sample.clone()), vec![], "r").unwrap_err().contains("more responses"));
        let alone = SampleRequest { session_id: None, ..sample };
        assert!(template.prepare(alone, 1).unwrap_err().contains("needs a `session_id`"));
    }

    /// What is sent for these lines, with the secrets in it, or the error.
    type Prepared = (Vec<(BTreeMap<String, String>, Vec<u8>, String, bool)>, String);

    fn prepare_all(template: &RequestTemplate, lines: &str) -> Prepared {
        let lines = std::io::Cursor::new(lines.to_owned());
        let mut input = start_reading(lines, StdinWait::new(), template.clone(), None).unwrap();
        let sent = std::iter::from_fn(|| input.requests.blocking_recv()).map(|request| {
            let http = sent(&request.prepared);
            let headers = http.headers().iter().map(|(name, v)| (name.to_string(), v.to_str().unwrap().into()));
            let output = serde_json::to_string(&request.output).unwrap();
            (headers.collect(), http.body().to_vec(), output, request.secrets.is_some())
        });
        (sent.collect(), input.end.recv().unwrap().map_or_else(|e| e.to_string(), |()| String::new()))
    }

    /// The same without copying: each line is the first of an input.
    fn prepare_by_parsing(template: &RequestTemplate, lines: &[String]) -> Prepared {
        let mut all = (vec![], String::new());
        for (number, line) in lines.iter().enumerate() {
            let (sent, error) = prepare_all(template, &format!("{}{line}\n", "\n".repeat(number)));
            all.0.extend(sent);
            all.1 = error;
            if !all.1.is_empty() {
                break;
            }
        }
        all
    }

    fn any_text() -> impl Strategy<Value = String> {
        r#"([a-z {}\[\],:é😀]|\\n|\\"|\\\\|\\u00e9|\\ud83d\\ude00|\\ud83d|\{\\"api_key\\":\\"sk-planted\\"\}|vb-content-1|null){0,8}"#
            .prop_map(|text| format!("\"{text}\""))
    }

    /// The value of `prompt` or `messages`.
    fn any_content() -> impl Strategy<Value = String> {
        let list = |item: BoxedStrategy<String>| {
            prop::collection::vec(item, 0..4).prop_map(|all| format!("[{}]", all.join(", "))).boxed()
        };
        let id = || prop_oneof![any::<u32>().prop_map(|id| id.to_string()), Just("4026531841".to_owned())].boxed();
        let content = prop_oneof![
            4 => any_text(),
            1 => any_text().prop_map(|text| format!(r#"[{{"type": "text", "text": {text}}}]"#)),
            1 => Just(r#"[{"type":"image_url","image_url":{"url":"data:image/png;base64,QUJD"}}]"#.to_owned()),
        ];
        let more = prop_oneof![
            3 => Just(""),
            1 => Just(r#","name":"x""#),
            1 => Just(r#","metadata":{"auth-token":"sk-planted"}"#),
            1 => Just(r#","tool_calls":null"#),
        ];
        let role = prop_oneof![Just("user"), Just("system"), Just("assistant")];
        let message = (role, content, more)
            .prop_map(|(role, content, more)| format!(r#"{{"role":"{role}", "content":{content}{more}}}"#));
        prop_oneof![
            4 => any_text().prop_map(|text| format!("\"prompt\":{text}")),
            2 => list(id()).prop_map(|ids| format!("\"prompt\":{ids}")),
            1 => list(any_text().boxed()).prop_map(|texts| format!("\"prompt\": {texts}")),
            1 => list(list(id())).prop_map(|lists| format!("\"prompt\":{lists}")),
            4 => list(message.boxed()).prop_map(|messages| format!("\"messages\":{messages}")),
        ]
    }

    fn any_line() -> impl Strategy<Value = String> {
        let own = prop_oneof![
            3 => Just(r#","body":{"ignore_eos": true}"#),
            1 => Just(r#","body":{"seed":7,"stop":["a","b"],"logprobs":2}"#),
            1 => Just(r#","body":{"api_key":"sk-planted","max_tokens":4160749569}"#),
            1 => Just(r#","body":{"prompt":null,"messages":[],"stream_options":null}"#),
            1 => Just(r#","body":{"user":"vb-content-1"}"#),
            3 => Just(""),
        ];
        let others = [
            r#","request_id":"a""#,
            r#","request_id":7,"session_id":"s","turn":0"#,
            r#","expected_output_len":12"#,
            r#","expected_output_len":"4160749569","prompt_len":3,"expected_cached_len":1"#,
            r#","lora":"3""#,
            r#","tags":{"x":1,"password":"sk-planted"}"#,
            r#","prompt_len":1.5"#,
            r#","n":NaN"#,
        ];
        (any_content(), own, prop::sample::subsequence(others.to_vec(), 0..3))
            .prop_map(|(content, own, others)| format!("{{{content}{own}{}}}", others.concat()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// A body that is copied holds the same as one that is built, for every API, with any flags and any line.
        #[test]
        fn a_copied_request_is_the_one_that_would_be_built(
            lines in prop::collection::vec(any_line(), 1..6),
            stream: bool,
            extra in prop_oneof![
                Just("{}"),
                Just(r#"{"top_p":0.8,"metadata":{"token":"sk-planted"},"stream_options":{"x":1}}"#),
                Just(r#"{"prompt":"fixed","user":"vb-content-1 4160749569"}"#),
                Just(r#"{"max_tokens":null,"messages":null,"input":{"a":1}}"#),
            ],
        ) {
            // The first is always built, and with a message without a session its own.
            let lines: Vec<String> = std::iter::once(r#"{"prompt":["a","b"],"messages":[{"role":"user","content":"a"}]}"#.to_owned()).chain(lines).collect();
            for backend in BACKENDS {
                let Some(api) = backend.api else { continue };
                let flags = Object::from_iter([("temperature".to_owned(), 0.5.into())]);
                let (protocol, extra) = (Protocol { api, stream }, serde_json::from_str(extra).unwrap());
                let template = RequestTemplate { protocol, flags, extra, ..template() };
                // A line that this API cannot send ends the input.
                let lines: Vec<String> =
                    lines.iter().filter(|line| prepare_by_parsing(&template, &[(*line).clone()]).1.is_empty()).cloned().collect();
                let (copied, error) = prepare_all(&template, &lines.join("\n"));
                let (built, wanted) = prepare_by_parsing(&template, &lines);
                prop_assert_eq!(error, wanted);
                prop_assert_eq!(copied.len(), built.len());
                for (mut copied, mut built) in copied.into_iter().zip(built) {
                    if let (Ok(value), Ok(want)) = (serde_json::from_slice::<Value>(&copied.1), serde_json::from_slice::<Value>(&built.1)) {
                        // With the same order of keys.
                        prop_assert_eq!(value.to_string(), want.to_string());
                        (copied.1, built.1) = (vec![], vec![]);
                    }
                    prop_assert_eq!(copied, built);
                }
            }
        }
    }
}

//! `vb-fire`: reads requests, sends them to a server, and writes an output for each.
//!
//! ```text
//! input (thread) ─▶ dispatch (main thread) ─▶ attempt (task on a reader thread) ─▶ sink (thread)
//! reads, builds     when due and a slot is    reads and stamps                     evaluates, counts,
//! the bytes         free: writes the request  the response                         writes
//! ```
//!
//! With `--scrape` another thread reads the server's metrics, which reach the sink the same way.
//!
//! The clock of the run starts when the first request is ready. The main thread sends what becomes due, so that arriving responses do not
//! delay it; what the end of a response makes sendable, the thread that read it sends. Nothing waits for the sink, but what waits for the
//! sink may not exceed `--max-buffer`.
//!
//! The types of a request on its way:
//!
//! ```text
//! SampleRequest      a line of the input                               input.rs      input thread
//!   RequestFuncInput   ready to send, or to be filled with responses   prepare.rs    input thread, then main thread
//!   Queued             waits for its time and a slot                   queue.rs      both, behind a lock
//!   SentRequest        is being sent (holds the transport's Exchange)  launch.rs     either, then reader thread
//!   Attempt            how it went (holds the ReceivedResponse)        attempt.rs    reader thread
//!   FinishedRequest    waits to be written                             sink.rs       reader thread, then sink
//! RequestFuncOutput  a line of the output                              record        sink
//! ```

mod added_keys;
mod args;
mod attempt;
mod backlog;
mod balance;
mod buffering;
mod capture;
mod counts;
mod dispatch;
mod extent;
mod headers;
mod histogram;
mod input;
mod launch;
mod lengths;
mod lora;
mod models;
#[cfg(test)]
mod odd_fields;
mod preflight;
mod prepare;
mod priority;
mod progress;
mod queue;
mod read_ahead;
mod reader;
mod response;
#[cfg(test)]
mod response_tests;
mod run_end;
mod scheduled;
mod scrape;
mod session;
mod sink;
mod slots;
mod stamp_error;
mod stop;
mod tally;
mod token_count;
#[cfg(test)]
mod token_count_tests;
mod transcript;
mod usage;
mod verdict;
mod warmup;
mod watch;
mod weighed;

use std::{
    io::{self, IsTerminal},
    sync::{Arc, OnceLock, Weak, atomic::Ordering::Relaxed, mpsc as std_mpsc},
    thread,
    time::Duration,
};

pub use args::Args;
use hyper::{
    Uri,
    header::{CONTENT_TYPE, HeaderName},
};
use reqwest::Url;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
    time::sleep,
};

use self::{
    args::TransportKind,
    attempt::ClientState,
    backlog::Backlog,
    balance::Balancer,
    capture::{stamps_used, start_capture},
    dispatch::{DispatchEnd, Dispatcher, SendNext, Sources},
    extent::InputExtent,
    headers::Headers,
    input::{RequestInput, StdinWait, TimedStdin},
    launch::{Launcher, TargetServer, TaskContext, TurnEvents},
    lora::AdapterMix,
    preflight::{FailureContext, Preflight},
    prepare::{CancelPolicy, RequestTemplate},
    priority::Work,
    progress::{ProgressPlan, ProgressThread, show_waiting},
    queue::ThinkTimes,
    reader::ReaderThreads,
    run_end::{RunEnd, arrivals_record, collect_evidence, end_record, exit_result, write_end},
    scrape::{ScrapeOutput, Scraper},
    sink::{Sink, SinkResult},
    stop::{StopReason, StopSignal, Stopper, announce_stop},
    usage::UsageMonitor,
    verdict::judge_run,
};
use crate::{
    backend::{self, Protocol},
    cli::{self, progress::ProgressDisplay},
    clock::{Clock, unix_now},
    error::Error,
    http::{
        body::BodyFormat,
        connection::join_url,
        exchange::{RequestTarget, Transport},
        packets::PacketCapture,
        portable::PortableTransport,
        socket::KernelStamping,
        stamped::StampedTransport,
    },
    load::{ArrivalMonitor, RequestRate, Schedule, arrivals::GapDistribution},
    pacer::Sleeper,
    record::{ClockAnchor, EndRecord, FORMAT_VERSION, Line, Object, RunRecord, SampleRequest, Verdict},
    rng,
    secrets::{self, without_keys},
    text::TextReader,
    tokens::Tokenizer,
    units::Nanos,
};

/// Time for a server to accept a new connection.
const ACCEPT_TIME: Nanos = Nanos(50_000);

/// Runs the tool.
pub fn run(args: &Args) -> Result<(), Error> {
    if args.schema {
        return cli::print_schema::<Line>();
    }
    if args.list_backends {
        return cli::print_to_stdout(&backend::list_backends());
    }
    let urls = args.base_urls()?;
    let rate = args.load_rate()?;
    if io::stdin().is_terminal() {
        let cure = "pipe in the output of vb-gen, or type lines like {\"prompt\":\"hi\"} (Ctrl-D ends)";
        cli::print_warning("vb-fire", format_args!("reading requests from the terminal; {cure}"));
    }
    let protocol = args.resolve_protocol()?;
    let mut headers = Headers::new(&args.header, cli::api_key(), protocol, &urls)?;
    headers.secrets.add_body(args.extra_body.as_ref().unwrap_or(&Object::new()));
    headers.secrets.add_url(args.endpoint_path(protocol));
    secrets::remember(&headers.secrets);
    let open_files = check_open_files(args.max_concurrency);
    // This thread sends what is due; others read the responses.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::Setup(format!("cannot start the runtime: {e}")))?;
    let result = runtime.block_on(run_load(args, &urls, protocol, rate, headers, open_files));
    // A thread that still waits for standard input must not delay the exit.
    runtime.shutdown_background();
    result
}

/// Open files other than connections.
const OTHER_FILES: u64 = 32;

/// Warns if the requests in flight may need more connections than the system allows. Returns how many it allows.
fn check_open_files(max_concurrency: Option<u32>) -> usize {
    let allowed = cli::raise_open_file_limit();
    let needed = u64::from(max_concurrency.unwrap_or(0)) + OTHER_FILES;
    if allowed < needed {
        cli::print_warning(
            "vb-fire",
            format_args!("{needed} open files are needed and {allowed} are allowed: raise `ulimit -n`"),
        );
    }
    usize::try_from(allowed.saturating_sub(OTHER_FILES)).unwrap_or(usize::MAX)
}

/// Does the whole run, from the checks before the load to the last record.
async fn run_load(
    args: &Args,
    urls: &[Url],
    protocol: Protocol,
    rate: Option<RequestRate>,
    headers: Headers,
    open_files: usize,
) -> Result<(), Error> {
    let url = &urls[0];
    let selftest = args.read_selftest()?;
    let portable = args.transport == TransportKind::Portable;
    let make_preflight = |url| Preflight::new(url, &headers, args.insecure, args.timeout_connect, portable);
    let preflight = make_preflight(url)?;
    let mut servers = Vec::new();
    for url in urls {
        let preflight = make_preflight(url)?;
        if args.ready_check > Nanos(0) {
            preflight.wait_until_ready(args.ready_check).await?;
        }
        // With the portable transport a proxy may lie in between, which reqwest handles.
        if portable {
            preflight.check_reachable().await?;
        } else {
            servers.push(preflight::check_connection(url, args.insecure, args.timeout_connect).await?);
        }
    }
    let model = match &args.model {
        Some(model) => model.clone(),
        None if protocol.api.sends_model() => preflight.first_model().await?,
        // The name is for the records only.
        None => preflight.known_models().await.into_iter().next().unwrap_or_else(|| args.backend.name.into()),
    };
    let template = request_template(args, urls, protocol, &headers, &model)?;
    let waited = StdinWait::new();
    let stdin = TextReader::new(io::BufReader::with_capacity(1 << 16, TimedStdin(waited.clone())));
    let mut input = input::start_reading(stdin, waited, template.clone(), args.max_concurrency)?;
    let first = tokio::select! {
        first = &mut input.first => first,
        never = show_waiting(args.shows_progress()) => match never {},
    };
    let Ok(first) = first else {
        return Err(no_request_error(&input));
    };
    let capture = start_capture(args, &servers)?;
    let stopper = Stopper::default();
    watch_signals(&stopper, args.grace)?;
    let readers = ReaderThreads::start(args.threads.into())?;
    let _stamping = KernelStamping::switch_on();
    let has_key = headers.has_key();
    let load = LoadRun { args, urls, template, headers, first, readers: &readers, stopper, rate, open_files, capture };
    let run = RunRecord { selftest, ..first_record(&load, &model) };
    let clock = Clock::start();
    let (keep_alive, threads) = (!args.no_keep_alive, args.threads.into());
    let end = if portable {
        let portable =
            |url| PortableTransport::new(url, keep_alive, args.insecure, args.timeout_connect, threads, clock);
        let all = urls.iter().map(portable).collect::<Result<Vec<PortableTransport>, Error>>()?;
        load.run(all, run, input).await?
    } else {
        for server in &mut servers {
            server.keep_alive = keep_alive;
            server.capture.clone_from(&load.capture);
        }
        let all = servers.iter().map(|server| StampedTransport::new(server, threads, clock)).collect();
        load.run(all, run, input).await?
    };
    readers.stop_all();
    let endpoint = without_keys(args.endpoint_path(protocol));
    let context =
        FailureContext { backend: args.backend, endpoint: &endpoint, model: &model, has_key, models: Vec::new() };
    exit_result(args, &preflight, context, end).await
}

/// A load that is ready to be sent.
struct LoadRun<'a> {
    args: &'a Args,
    urls: &'a [Url],
    template: RequestTemplate,
    headers: Headers,
    first: SampleRequest,
    readers: &'a ReaderThreads,
    stopper: Stopper,
    rate: Option<RequestRate>,
    /// The number of connections that the system allows.
    open_files: usize,
    /// The packets of the servers, with --stamps packets.
    capture: Option<PacketCapture>,
}

impl LoadRun<'_> {
    /// Sends the warm-up and then the measured requests over these transports, one per server.
    async fn run<T: Transport>(self, transports: Vec<T>, run: RunRecord, input: RequestInput) -> Result<RunEnd, Error> {
        let transports: Vec<Arc<T>> = transports.into_iter().map(Arc::new).collect();
        if self.args.num_warmups > 0 {
            warmup::run_warmup(&self, &transports).await?;
        }
        // Before the connections are opened: they would age while the first scrape is awaited.
        if self.args.scrape.is_some() {
            close_idle_connections(&transports);
        }
        let scraper = Scraper::start_if_asked(self.args, &self.urls[0], &self.headers).await?;
        // A short input has been read by now, and needs at most one connection per request.
        let needed = input.extent.total().and_then(|total| usize::try_from(total).ok()).unwrap_or(usize::MAX);
        let connections = self.args.preconnect_count(self.open_files).min(needed).div_ceil(transports.len());
        let mut stop = self.stopper.stop_signal();
        tokio::select! {
            biased;
            // Nothing will be sent.
            () = stop.wait_for_drain() => {}
            () = async {
                for transport in &transports {
                    self.open_connections(&**transport, connections).await;
                }
            } => {}
        }
        self.run_measured(transports, run, input, scraper).await
    }

    /// What the attempts share.
    fn client_state(&self, clock: Clock, keep_texts: bool) -> Arc<ClientState> {
        let protocol = self.template.protocol;
        let client = ClientState::new(clock, protocol, self.args.time_limits(protocol), self.args.threads.into());
        Arc::new(ClientState { keep_texts, ..client })
    }

    /// Shows how the run goes.
    fn start_progress(
        &self,
        client: &Arc<ClientState>,
        input: Arc<InputExtent>,
    ) -> Result<Option<ProgressThread>, Error> {
        if !self.args.shows_progress() {
            return Ok(None);
        }
        let plan = ProgressPlan {
            rate: self.rate.as_ref().and_then(RequestRate::to_profile),
            max_seconds: self.args.max_seconds,
            streamed: client.protocol.body_format() != BodyFormat::Json,
            input,
        };
        let display = ProgressDisplay::open("vb-fire", true);
        display.map(|display| ProgressThread::start(Arc::clone(client), plan, display)).transpose()
    }

    /// Opens `count` connections, so that opening them is not a part of the load. If that fails, the requests will report it.
    async fn open_connections(&self, transport: &impl Transport, count: usize) {
        let threads = usize::from(self.args.threads);
        let share = |thread| count / threads + usize::from(thread < count % threads);
        // Dropping the set ends the tasks.
        let mut opening = JoinSet::new();
        for thread in 0..threads {
            opening.spawn_on(transport.open_connections(thread, share(thread)), self.readers.handle(thread));
        }
        while let Some(opened) = opening.join_next().await {
            if let Ok(Err(failure)) = opened {
                let cure = preflight::failure_cure(failure.kind, &failure.message, None);
                cli::print_warning(
                    "vb-fire",
                    format_args!("cannot open {count} connections in advance: {}; {cure}", failure.message),
                );
                return;
            }
        }
        // The kernel has opened them, but the server is still accepting them, which is not a part of the load either.
        sleep(ACCEPT_TIME.to_duration() * u32::try_from(count).unwrap_or(u32::MAX)).await;
    }
}

fn no_request_error(input: &RequestInput) -> Error {
    match input.end.recv() {
        Ok(Err(e)) => e,
        _ => Error::Input("stdin: no requests; pipe in the output of vb-gen, or lines like {\"prompt\":\"hi\"}".into()),
    }
}

fn request_template(
    args: &Args,
    urls: &[Url],
    protocol: Protocol,
    headers: &Headers,
    model: &str,
) -> Result<RequestTemplate, Error> {
    let endpoint = args.endpoint_path(protocol);
    let uri = |url: &Url| {
        let uri = join_url(url, endpoint).parse::<Uri>();
        let shown = without_keys(endpoint);
        uri.map_err(|e| Error::Usage(format!("--endpoint {shown} and --base-url do not form a URL: {e}")))
    };
    let cancel = |share| CancelPolicy { share, after: args.cancel_after, seed: args.seed };
    // What differs between requests is written after the headers that all have.
    let mut shared = headers.map.clone();
    for own in [CONTENT_TYPE, HeaderName::from_static("x-request-id")] {
        shared.remove(own);
    }
    let session_header = args.session_header()?.map(|name| {
        let value = shared.remove(&name);
        (name, value)
    });
    let target = |url| Ok::<_, Error>(Arc::new(RequestTarget::new(uri(url)?, &shared)));
    Ok(RequestTemplate {
        protocol,
        targets: urls.iter().map(target).collect::<Result<_, _>>()?,
        session_header,
        model: model.to_owned(),
        flags: args.sampling_keys(),
        extra: args.extra_body.clone().unwrap_or_default(),
        mix: AdapterMix::new(&args.lora_modules, args.lora_assignment, args.lora_zipf_alpha, args.seed),
        cancel: args.cancel_rate.map(cancel),
        own_times: args.load_rate()?.is_none(),
    })
}

/// Drains the run at the first signal and cancels it at the second.
fn watch_signals(stopper: &Stopper, grace: Nanos) -> Result<(), Error> {
    let failed = |e| Error::Setup(format!("cannot watch for signals: {e}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hangup = if cli::handles_hangup() { Some(signal(SignalKind::hangup()).map_err(failed)?) } else { None };
    let (stopper, mut stop) = (stopper.clone(), stopper.stop_signal());
    tokio::spawn({
        let stopper = stopper.clone();
        async move {
            stop.wait_for_drain().await;
            sleep(grace.to_duration()).await;
            stopper.cancel_all(StopReason::Interrupted);
        }
    });
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                Some(()) = async { hangup.as_mut()?.recv().await } => {}
            }
            stopper.handle_signal();
        }
    });
    Ok(())
}

fn first_record(load: &LoadRun<'_>, model: &str) -> RunRecord {
    let LoadRun { args, urls, headers, rate, .. } = load;
    let protocol = load.template.protocol;
    let default_id = || format!("{:x}-{:x}", unix_now().0 / 1_000_000, std::process::id());
    RunRecord {
        format: FORMAT_VERSION,
        run_id: args.run_id.clone().unwrap_or_else(default_id),
        tool: concat!("vb-fire ", env!("CARGO_PKG_VERSION")).into(),
        argv: headers.scrub_argv(std::env::args_os().map(|a| a.to_string_lossy().into_owned())),
        host: cli::host_name(),
        model: headers.scrub_text(model),
        tokenizer: args.tokenizer.clone(),
        backend: args.backend.name.into(),
        base_url: urls.iter().map(server_name).collect::<Vec<_>>().join(","),
        endpoint: without_keys(args.endpoint_path(protocol)),
        stream: (protocol.body_format() == BodyFormat::Json).then_some(false),
        request_rate: rate.as_ref().and_then(RequestRate::as_constant),
        rate_profile: rate.as_ref().and_then(RequestRate::profile_text).map(str::to_owned),
        burst_size: Some(args.burst_size).filter(|size| *size > 1),
        burstiness: Some(args.burstiness).filter(|shape| shape.is_finite()),
        max_concurrency: args.max_concurrency,
        num_warmups: args.num_warmups,
        seed: args.seed,
        transport: Some(args.transport.name().into()),
        stamps: stamps_used(args, load.capture.as_ref()).map(str::to_owned),
        threads: Some(args.threads.into()),
        ..RunRecord::default()
    }
}

/// The name of a server in records.
fn server_name(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

impl LoadRun<'_> {
    /// Runs the measured part: starts the clock, sends the requests, and writes all outcomes.
    async fn run_measured<T: Transport>(
        self,
        transports: Vec<Arc<T>>,
        mut run: RunRecord,
        input: RequestInput,
        scraper: Option<Scraper>,
    ) -> Result<RunEnd, Error> {
        let (args, stopper) = (self.args, self.stopper.clone());
        // For servers that do not send usage. If the tokenizer is not on this machine, chunks are counted instead.
        let tokenizer = args.tokenizer.as_deref().map(Tokenizer::open_local).transpose()?.flatten();
        let clock = Clock::start();
        for transport in &transports {
            transport.set_clock(clock);
        }
        run.clock = ClockAnchor { start: clock.to_unix(Nanos(0)) };
        let run_id = run.run_id.clone();
        let client = self.client_state(clock, tokenizer.is_some());
        let backlog = Arc::new(Backlog::new(args.max_buffer, stopper.clone()));
        let (entries, receive) = std_mpsc::channel();
        let progress = self.start_progress(&client, input.extent)?;
        spawn_stop_notice(&client, stopper.stop_signal(), args.grace);
        let sink = Sink {
            run,
            clock,
            headers: self.headers,
            keep_text: !args.no_text,
            keep_read_lags: args.read_lags,
            backlog: Arc::clone(&backlog),
            tokenizer,
            stopper: stopper.clone(),
            client: Arc::clone(&client),
        };
        let sink = sink.start(receive)?;
        let scrape_output =
            || ScrapeOutput { run_id: run_id.clone(), entries: entries.clone(), backlog: Arc::clone(&backlog) };
        let scraping = scraper.map(|scraper| scraper.start_writing(scrape_output()));
        if let Some(limit) = args.max_seconds {
            stop_after(limit, stopper.clone());
        }
        let usage = UsageMonitor::start(self.readers.handles(), clock).await?;
        let (alive, mut gone) = mpsc::channel(1);
        let (events, received) = mpsc::unbounded_channel();
        let slots = args.request_slots();
        let context = Arc::new(TaskContext {
            client: Arc::clone(&client),
            entries,
            backlog,
            stop: stopper.stop_signal(),
            events: TurnEvents { events, news: Arc::clone(slots.news()) },
            readers: self.readers.handles().cloned().collect(),
            next: OnceLock::new(),
            _alive: alive,
        });
        let servers = target_servers(transports.clone(), self.urls);
        let balancer = Balancer::new(args.balance, servers.len());
        let launcher = Launcher::new(servers, balancer, Arc::clone(&context), Arc::new(self.template));
        let sources = Sources {
            requests: input.requests,
            events: received,
            schedule: Schedule::new(self.rate.as_ref(), args.burstiness, args.burst_size, args.seed),
            think_times: ThinkTimes::new(args.think_time, rng::random_stream(args.seed, "thinking", 0)),
            max_sessions: args.max_sessions,
            input_lead: input.clock.now().since(clock.now()),
            end: args.max_seconds,
            arrivals: arrivals_for(args, self.rate.as_ref()),
        };
        let dispatcher = Dispatcher::new(sources, slots, Sleeper::new(clock), stopper.clone(), launcher);
        let sending = send_all(dispatcher, context).await;
        let by_schedule = self.rate.as_ref().map_or(sending.timed, |rate| !rate.is_free());
        // A fixed number of sessions closes the loop too.
        let open_loop = Some(by_schedule || args.max_concurrency.is_none() && args.max_sessions.is_none());
        let arrivals = sending.arrivals.filter(|_| by_schedule);
        // Ends when the last task drops its sender.
        while gone.recv().await.is_some() {}
        let duration = measured_duration(&client);
        let started = client.started.load(Relaxed);
        let client = usage.finish(duration).await;
        let reason = stopper.stop_signal().stop_reason();
        let timeout = (reason == Some(StopReason::OutputStalled)).then_some(args.grace);
        // If the records are lost, the last scrape has no reader either.
        let has_reader = !matches!(reason, Some(StopReason::OutputLost | StopReason::OutputStalled));
        if let Some(scraping) = scraping.filter(|_| has_reader) {
            close_idle_connections(&transports);
            scraping.finish().await;
        }
        let mut written = wait_for_sink(sink, timeout, self.capture.as_ref()).await?;
        // Before the last record: the reader of the records then begins to print.
        drop(progress);
        // After an early end, the input thread may still wait for input that never arrives.
        let input =
            if reason.is_some() { input.end.try_recv().unwrap_or(Ok(())) } else { input.end.recv().unwrap_or(Ok(())) };
        let evidence = collect_evidence(args, &written, client, by_schedule, duration, sending);
        let (verdict, reasons) = judge_run(&evidence);
        let end = EndRecord {
            run_id,
            duration,
            open_loop,
            arrivals: arrivals.map(arrivals_record),
            verdict: Some(verdict),
            reasons,
            buffering: Some(evidence.buffering.clone())
                .filter(|b| b.compared > 0 && !evidence.may_have_joined_chunks(verdict == Verdict::ClientBound)),
            reuse_ended: transports.iter().any(|transport| transport.has_ended_reuse()),
            ..end_record(&written, &evidence, sending.not_due, reason, &input)
        };
        if written.error.is_none()
            && let Err(Error::Write { source, .. }) = write_end(&end)
        {
            written.error = Some(source);
        }
        Ok(RunEnd { written, started, input, reason, captured: self.capture.is_some(), record: end })
    }
}

/// Sends all requests, on this thread and where responses end. When it returns, only the tasks that read hold the context.
async fn send_all<T: Transport>(
    dispatcher: Dispatcher<Launcher<T>, Sleeper>,
    context: Arc<TaskContext<T::Exchange>>,
) -> DispatchEnd {
    let dispatcher = Arc::new(dispatcher);
    let next: Weak<dyn SendNext<_>> = Arc::downgrade(&dispatcher) as Weak<_>;
    let _ = context.next.set(next);
    drop(context);
    // After all other threads were started, which would inherit it.
    Work::Send.apply_to_thread();
    dispatcher.dispatch().await
}

/// The duration ends with the last outcome: waiting for more input or for a slow reader is not a part of it. Without any outcome,
/// it is the time until now.
fn measured_duration(client: &ClientState) -> Nanos {
    match client.ended.load(Relaxed) {
        0 => client.clock.now(),
        ended => Nanos(ended),
    }
}

/// Says on standard error that the run is stopping, once it is.
fn spawn_stop_notice(client: &Arc<ClientState>, stop: StopSignal, grace: Nanos) {
    let client = Arc::clone(client);
    tokio::spawn(announce_stop(stop, grace, move || client.count_in_flight()));
}

fn close_idle_connections<T: Transport>(transports: &[Arc<T>]) {
    for transport in transports {
        transport.close_idle();
    }
}

/// The servers, with names if there are several.
fn target_servers<T>(transports: Vec<Arc<T>>, urls: &[Url]) -> Vec<TargetServer<T>> {
    let name = |url| (urls.len() > 1).then(|| server_name(url));
    let server = |(transport, url)| TargetServer { transport, name: name(url) };
    transports.into_iter().zip(urls).map(server).collect()
}

/// The check of whether requests are sent on schedule, and of the distribution of the gaps if they have one.
fn arrivals_for(args: &Args, rate: Option<&RequestRate>) -> ArrivalMonitor {
    let profile = rate.and_then(RequestRate::to_profile).filter(|_| args.burst_size == 1);
    ArrivalMonitor::new(profile.and_then(|profile| GapDistribution::new(profile, args.burstiness)))
}

/// Drains the run after `--max-seconds`.
fn stop_after(limit: Nanos, stopper: Stopper) {
    tokio::spawn(async move {
        sleep(limit.to_duration()).await;
        stopper.start_drain(StopReason::MaxSeconds);
    });
}

/// Waits until everything is written, or for `timeout`: a reader that has stopped reading may never go on.
async fn wait_for_sink(
    sink: thread::JoinHandle<SinkResult>,
    timeout: Option<Nanos>,
    capture: Option<&PacketCapture>,
) -> Result<SinkResult, Error> {
    if let Some(timeout) = timeout {
        let clock = Clock::start();
        while !sink.is_finished() {
            if clock.now() > timeout {
                let lost = "the load was stopped, and the outcomes not yet written are lost";
                return Err(Error::Setup(format!("the reader of the records does not read: {lost} (--max-buffer)")));
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
    let mut written = sink
        .join()
        .map_err(|_| Error::Setup("the thread that writes the records failed: this is a bug in vb-fire".into()))?;
    written.tally.stamps.packet_drops = capture.map_or(0, PacketCapture::count_drops);
    Ok(written)
}

//! `vb-fire`: requests in, outputs out, and in between the load.
//!
//! ```text
//! input (thread) ─▶ dispatch (main thread) ─▶ attempt (a task on a reader) ─▶ sink (thread)
//! reads, builds     when due, if room:        reads and stamps                judges, counts,
//! the bytes         writes the request        the answer                      writes
//! ```
//!
//! With `--scrape` one more thread asks the server for its own numbers, which reach the sink the same way.
//!
//! The clock of the run starts when the first request is ready. Sending has a thread of its own, so that no answer that
//! arrives meanwhile holds it up. Nothing waits for the sink, but what waits for it may not outgrow `--max-buffer`.

mod answer;
mod args;
mod attempt;
mod backlog;
mod balance;
mod dispatch;
mod headers;
mod input;
mod launch;
mod lora;
mod preflight;
mod reader;
mod scrape;
mod secrets;
mod session;
mod sink;
mod slots;
mod stop;
mod tally;
mod transcript;
mod usage;
mod verdict;
mod warmup;

use std::{
    io::{self, IsTerminal, Write},
    sync::{Arc, atomic::Ordering::Relaxed, mpsc as std_mpsc},
    thread,
    time::Duration,
};

pub use args::Args;
use hyper::Uri;
use reqwest::Url;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task::JoinSet,
    time::sleep,
};

use self::{
    args::TransportKind,
    attempt::Client,
    backlog::Backlog,
    balance::Balancer,
    dispatch::{Left, Sources, dispatch},
    headers::Headers,
    input::{Abandon, Input, Stdin, Template, Waited},
    launch::{Attendant, Launcher, Server},
    lora::Mix,
    preflight::Preflight,
    reader::Readers,
    scrape::{Outlet, Scraper},
    secrets::without_keys,
    sink::{Progress, Sink, Written},
    stop::{Stopper, Why},
    usage::Watch,
    verdict::{Evidence, judge},
};
use crate::{
    backend::{self, Protocol},
    cli,
    clock::{Clock, unix_now},
    error::Error,
    http::{
        connection::join_url,
        exchange::{BodyFormat, Transport},
        portable::PortableTransport,
        socket::KernelStamping,
        stamped::StampedTransport,
    },
    load::{
        ArrivalMonitor, RequestRate, Schedule,
        arrivals::{ArrivalSummary, GapDistribution, LateRequests},
    },
    ndjson,
    pacer::Sleeper,
    record::{
        self, ClientUse, ClockAnchor, EndRecord, FORMAT_VERSION, GapTest, LateCounts, Line, NotSent, Object, RunRecord,
        SampleRequest, Verdict,
    },
    rng,
    tokens::Tokenizer,
    units::Nanos,
};

/// What a server may need to take a new connection up.
const ACCEPTING: Nanos = Nanos(50_000);

/// Runs the tool.
pub fn run(args: &Args) -> Result<(), Error> {
    if args.schema {
        return cli::print_schema::<Line>();
    }
    if args.list_backends {
        return cli::print_to_stdout(&backend::list_backends());
    }
    let urls = args.urls()?;
    let rate = args.rate()?;
    let protocol = args.protocol()?;
    let mut headers = Headers::new(&args.header, cli::api_key(), protocol, &urls)?;
    headers.secrets.add_body(args.extra_body.as_ref().unwrap_or(&Object::new()));
    headers.secrets.add_query(args.endpoint(protocol));
    let open_files = check_open_files(args.max_concurrency);
    // This thread sends; what arrives is read by others.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::Setup(format!("cannot start the runtime: {e}")))?;
    let done = runtime.block_on(load(args, &urls, protocol, rate, headers, open_files));
    // A thread that still waits for standard input must not hold the exit up.
    runtime.shutdown_background();
    done
}

/// Files that are open beside those of connections.
const OTHER_FILES: u64 = 32;

/// Each request in flight has a connection: warns where those may be too many for the system. Gives how many there may be.
fn check_open_files(max_concurrency: Option<u32>) -> usize {
    let allowed = cli::raise_open_file_limit();
    let needed = u64::from(max_concurrency.unwrap_or(0)) + OTHER_FILES;
    if allowed < needed {
        cli::print_warning(
            "vb-fire",
            format_args!("{needed} open files are needed and {allowed} allowed: raise `ulimit -n`"),
        );
    }
    usize::try_from(allowed.saturating_sub(OTHER_FILES)).unwrap_or(usize::MAX)
}

/// The whole run, from the first question to the last record.
async fn load(
    args: &Args,
    urls: &[Url],
    protocol: Protocol,
    rate: Option<RequestRate>,
    headers: Headers,
    open_files: usize,
) -> Result<(), Error> {
    let url = &urls[0];
    let selftest = args.selftest()?;
    let portable = args.transport == TransportKind::Portable;
    let asker = |url| Preflight::new(url, &headers, args.insecure, args.timeout_connect, portable);
    let preflight = asker(url)?;
    let mut servers = Vec::new();
    for url in urls {
        let preflight = asker(url)?;
        if args.ready_check > Nanos(0) {
            preflight.ready(args.ready_check).await?;
        }
        // What lies between, a proxy perhaps, is reqwest's business there.
        if portable {
            preflight.reachable().await?;
        } else {
            servers.push(preflight::connect(url, args.insecure, args.timeout_connect).await?);
        }
    }
    let model = match &args.model {
        Some(model) => model.clone(),
        None if protocol.api.sends_model() => preflight.model().await?,
        // It is for the records only.
        None => preflight.known_models().await.into_iter().next().unwrap_or_else(|| args.backend.name.into()),
    };
    let template = template(args, urls, protocol, &headers, &model)?;
    let waited = Waited::new();
    let stdin = io::BufReader::with_capacity(1 << 16, Stdin(waited.clone()));
    let mut input = input::read(stdin, waited, template.clone())?;
    let Ok(first) = (&mut input.first).await else {
        return Err(no_request(&input));
    };
    let stopper = Stopper::default();
    watch_signals(&stopper, args.grace)?;
    let readers = Readers::start(args.threads.into())?;
    let _stamping = KernelStamping::switch_on();
    let load = Load { args, urls, template, headers, first, readers: &readers, stopper, rate, open_files };
    let run = RunRecord { selftest, ..run_record(&load, model) };
    let clock = Clock::start();
    let (keep_alive, threads) = (!args.no_keep_alive, args.threads.into());
    let ended = if portable {
        let portable = || PortableTransport::new(keep_alive, args.insecure, args.timeout_connect, threads, clock);
        let all = urls.iter().map(|_| portable()).collect::<Result<Vec<PortableTransport>, Error>>()?;
        load.run(all, run, input).await?
    } else {
        for server in &mut servers {
            server.keep_alive = keep_alive;
        }
        let all = servers.iter().map(|server| StampedTransport::new(server, threads, clock)).collect();
        load.run(all, run, input).await?
    };
    readers.stop();
    exit(args, &preflight, ended).await
}

/// A load that is about to be sent.
struct Load<'a> {
    args: &'a Args,
    urls: &'a [Url],
    template: Template,
    headers: Headers,
    first: SampleRequest,
    readers: &'a Readers,
    stopper: Stopper,
    rate: Option<RequestRate>,
    /// Connections that the system allows.
    open_files: usize,
}

impl Load<'_> {
    /// Over these transports, one to each server: first the warm-up, then the measured part.
    async fn run<T: Transport>(self, transports: Vec<T>, run: RunRecord, input: Input) -> Result<Ended, Error> {
        let transports: Vec<Arc<T>> = transports.into_iter().map(Arc::new).collect();
        if self.args.num_warmups > 0 {
            warmup::run(&self, &transports).await?;
        }
        // Before connections are opened ahead, which the wait for a page would let grow old.
        let scraper = Scraper::begin(self.args, &self.urls[0], &self.headers).await?;
        // A short input, which has been read by now, needs no more than one for each request.
        let known = usize::try_from(input.total.load(Relaxed)).unwrap_or(usize::MAX);
        let needed = if known == 0 { usize::MAX } else { known };
        let ahead = self.args.connections_ahead(self.open_files).min(needed).div_ceil(transports.len());
        let mut stop = self.stopper.watch();
        tokio::select! {
            biased;
            // Nothing will be sent.
            () = stop.draining() => {}
            () = async {
                for transport in &transports {
                    self.preconnect(&**transport, ahead).await;
                }
            } => {}
        }
        self.measure(transports, run, input, scraper).await
    }

    /// Opens so many connections, so that opening them is no part of the load. Where that fails the requests tell.
    async fn preconnect(&self, transport: &impl Transport, count: usize) {
        let threads = usize::from(self.args.threads);
        let share = |at| count / threads + usize::from(at < count % threads);
        // Whoever gives up waiting for them ends them.
        let mut opening = JoinSet::new();
        for at in 0..threads {
            opening.spawn_on(transport.open_connections(at, share(at)), self.readers.handle(at));
        }
        while let Some(opened) = opening.join_next().await {
            if let Ok(Err(failure)) = opened {
                let cure = preflight::cure(failure.kind, &failure.message, None);
                cli::print_warning(
                    "vb-fire",
                    format_args!("opening {count} connections ahead: {}; {cure}", failure.message),
                );
                return;
            }
        }
        // The kernel has opened them, but the server is still taking them up: that too is no part of the load.
        sleep(ACCEPTING.to_duration() * u32::try_from(count).unwrap_or(u32::MAX)).await;
    }
}

fn no_request(input: &Input) -> Error {
    match input.end.recv() {
        Ok(Err(e)) => e,
        _ => Error::Input(
            "stdin: there is no request; pipe in what vb-gen writes, or lines like {\"prompt\":\"hi\"}".into(),
        ),
    }
}

fn template(args: &Args, urls: &[Url], protocol: Protocol, headers: &Headers, model: &str) -> Result<Template, Error> {
    let endpoint = args.endpoint(protocol);
    let uri = |url: &Url| {
        let made = join_url(url, endpoint).parse::<Uri>();
        let shown = without_keys(endpoint);
        made.map_err(|e| Error::Usage(format!("--endpoint {shown} makes no URL with --base-url: {e}")))
    };
    let abandon = |share| Abandon { share, after: args.cancel_after, seed: args.seed };
    Ok(Template {
        protocol,
        uris: urls.iter().map(uri).collect::<Result<_, _>>()?,
        headers: headers.map.clone(),
        session_header: args.session_header()?,
        model: model.to_owned(),
        flags: args.sampling(),
        extra: args.extra_body.clone().unwrap_or_default(),
        mix: Mix::new(&args.lora_modules, args.lora_assignment, args.lora_zipf_alpha, args.seed),
        abandon: args.cancel_rate.map(abandon),
    })
}

/// The first signal stops starting and drains, the second cancels.
fn watch_signals(stopper: &Stopper, grace: Nanos) -> Result<(), Error> {
    let failed = |e| Error::Setup(format!("cannot watch for signals: {e}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let (stopper, mut stop) = (stopper.clone(), stopper.watch());
    tokio::spawn({
        let stopper = stopper.clone();
        async move {
            stop.draining().await;
            sleep(grace.to_duration()).await;
            stopper.cancel(Why::Interrupted);
        }
    });
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            stopper.signal();
        }
    });
    Ok(())
}

fn run_record(load: &Load<'_>, model: String) -> RunRecord {
    let Load { args, urls, headers, rate, .. } = load;
    let protocol = load.template.protocol;
    let default_id = || format!("{:x}-{:x}", unix_now().0 / 1_000_000, std::process::id());
    RunRecord {
        format: FORMAT_VERSION,
        run_id: args.run_id.clone().unwrap_or_else(default_id),
        tool: concat!("vb-fire ", env!("CARGO_PKG_VERSION")).into(),
        argv: headers.scrub_argv(std::env::args_os().map(|a| a.to_string_lossy().into_owned())),
        host: cli::host_name(),
        model,
        tokenizer: args.tokenizer.clone(),
        backend: args.backend.name.into(),
        base_url: urls.iter().map(server_name).collect::<Vec<_>>().join(","),
        endpoint: without_keys(args.endpoint(protocol)),
        stream: (protocol.response_framing() == BodyFormat::Json).then_some(false),
        request_rate: rate.as_ref().and_then(RequestRate::as_constant),
        rate_profile: rate.as_ref().and_then(RequestRate::profile_text).map(str::to_owned),
        burst_size: Some(args.burst_size).filter(|size| *size > 1),
        burstiness: Some(args.burstiness).filter(|shape| shape.is_finite()),
        max_concurrency: args.max_concurrency,
        num_warmups: args.num_warmups,
        seed: args.seed,
        transport: Some(args.transport.name().into()),
        threads: Some(args.threads.into()),
        ..RunRecord::default()
    }
}

/// A server as records name it.
fn server_name(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

/// A run that is over.
struct Ended {
    written: Written,
    /// Requests that were begun, each of which must have left a record.
    started: u64,
    input: Result<(), Error>,
    why: Option<Why>,
    verdict: Verdict,
    reasons: Vec<String>,
}

impl Load<'_> {
    /// The measured part: the clock starts, requests are sent, all outcomes are written.
    async fn measure<T: Transport>(
        self,
        transports: Vec<Arc<T>>,
        mut run: RunRecord,
        input: Input,
        scraper: Option<Scraper>,
    ) -> Result<Ended, Error> {
        let Load { args, stopper, .. } = self;
        // For servers that send no usage. One that is not on this machine is no reason to stop: chunks are counted then.
        let tokenizer = args.tokenizer.as_deref().map(Tokenizer::open_local).transpose()?.flatten();
        let clock = Clock::start();
        for transport in &transports {
            transport.set_clock(clock);
        }
        run.clock = ClockAnchor { start: clock.to_unix(Nanos(0)) };
        let run_id = run.run_id.clone();
        let client = Arc::new(Client::new(clock, self.template.protocol, args.limits(self.template.protocol)));
        let backlog = Arc::new(Backlog::new(args.max_buffer, stopper.clone()));
        let (entries, receive) = std_mpsc::channel();
        // Between records on the same terminal it would only be in the way.
        let shown = io::stderr().is_terminal() && !io::stdout().is_terminal();
        let progress = shown.then(|| Progress { client: Arc::clone(&client), total: input.total });
        let sink = Sink {
            run,
            clock,
            headers: self.headers,
            keep_text: !args.no_text,
            keep_read_lags: args.read_lags,
            backlog: Arc::clone(&backlog),
            tokenizer,
            stopper: stopper.clone(),
            progress,
        };
        let sink = sink.start(receive)?;
        let outlet = || Outlet { run_id: run_id.clone(), entries: entries.clone(), backlog: Arc::clone(&backlog) };
        let scraping = scraper.map(|scraper| scraper.follow(outlet()));
        if let Some(limit) = args.max_seconds {
            stop_after(limit, stopper.clone());
        }
        let watch = Watch::start(self.readers.handles(), clock).await?;
        let (alive, mut gone) = mpsc::channel(1);
        let (news, heard) = mpsc::unbounded_channel();
        let attendant = Attendant { client: Arc::clone(&client), entries, backlog, stop: stopper.watch(), news, alive };
        let schedule = Schedule::new(self.rate.as_ref(), args.burstiness, args.burst_size, args.seed);
        let name = |url| (self.urls.len() > 1).then(|| server_name(url));
        let servers: Vec<_> = transports
            .into_iter()
            .zip(self.urls)
            .map(|(transport, url)| Server { transport, name: name(url) })
            .collect();
        let balancer = Balancer::new(args.balance, servers.len());
        let mut launcher = Launcher::new(
            servers,
            balancer,
            self.readers,
            attendant,
            Arc::new(self.template),
            (args.think_time, rng::random_stream(args.seed, "thinking", 0)),
            arrivals(args, self.rate.as_ref()),
        );
        launcher.lead = input.clock.now().since(clock.now());
        let (slots, pace) = (args.slots(), Sleeper::new(clock));
        let sources = Sources {
            requests: input.requests,
            news: heard,
            schedule,
            most_sessions: args.max_sessions,
            end: args.max_seconds,
        };
        let left = dispatch(sources, &slots, &pace, &stopper, &mut launcher).await;
        let by_schedule = self.rate.as_ref().map_or(launcher.timed, |rate| !rate.is_free());
        // Users of whom there are so many at once close the loop too.
        let open_loop = Some(by_schedule || args.max_concurrency.is_none() && args.max_sessions.is_none());
        let told = launcher.end().filter(|_| by_schedule);
        // Ends when the last task has dropped its sender.
        while gone.recv().await.is_some() {}
        // Neither the wait for more input nor a slow reader is a part of it. Without any outcome it is the time until now.
        let duration = match client.ended.load(Relaxed) {
            0 => clock.now(),
            ended => Nanos(ended),
        };
        let started = client.started.load(Relaxed);
        let client = watch.end(duration).await;
        let why = stopper.watch().why();
        let patience = (why == Some(Why::OutputStalled)).then_some(args.grace);
        // Nobody takes the last page of a run whose records are lost.
        let taken = !matches!(why, Some(Why::OutputLost | Why::OutputStalled));
        if let Some(scraping) = scraping.filter(|_| taken) {
            scraping.end().await;
        }
        let mut written = finish(sink, patience).await?;
        // After an early end the reader may wait for input that never comes.
        let input =
            if why.is_some() { input.end.try_recv().unwrap_or(Ok(())) } else { input.end.recv().unwrap_or(Ok(())) };
        let evidence = evidence(args, &written, client, by_schedule, duration, left);
        let (verdict, reasons) = judge(&evidence);
        let end = EndRecord {
            run_id,
            duration,
            open_loop,
            arrivals: told.map(arrivals_record),
            client: Some(evidence.client),
            verdict: Some(verdict),
            reasons: reasons.clone(),
            ..end_record(&written, left.not_due, why, &input)
        };
        if written.error.is_none()
            && let Err(Error::Write { source, .. }) = write_end(&end)
        {
            written.error = Some(source);
        }
        Ok(Ended { written, started, input, why, verdict, reasons })
    }
}

/// What watches the sending, with the law of the gaps where there is one.
fn arrivals(args: &Args, rate: Option<&RequestRate>) -> ArrivalMonitor {
    let profile = rate.and_then(RequestRate::to_profile).filter(|_| args.burst_size == 1);
    ArrivalMonitor::new(profile.and_then(|profile| GapDistribution::new(profile, args.burstiness)))
}

fn arrivals_record(told: ArrivalSummary) -> record::Arrivals {
    let LateRequests { no_slot, input, client } = told.late;
    record::Arrivals {
        planned: told.planned,
        distance: told.distance,
        p: told.p,
        gaps: told.gaps.map(|(distance, p)| GapTest { distance, p }),
        late: LateCounts { no_slot, input, client },
    }
}

/// `--max-seconds`.
fn stop_after(limit: Nanos, stopper: Stopper) {
    tokio::spawn(async move {
        sleep(limit.to_duration()).await;
        stopper.drain(Why::MaxSeconds);
    });
}

/// The last record, which comes behind everything that the sink wrote.
fn write_end(end: &EndRecord) -> Result<(), Error> {
    let mut out = cli::buffered_stdout();
    ndjson::write_record(&mut out, end)?;
    out.flush().map_err(Error::write_stdout)
}

/// Waits until everything is written; with `patience` only for so long, since a reader that takes nothing may never.
async fn finish(sink: thread::JoinHandle<Written>, patience: Option<Nanos>) -> Result<Written, Error> {
    if let Some(patience) = patience {
        let clock = Clock::start();
        while !sink.is_finished() {
            if clock.now() > patience {
                let waited = "the load was stopped, and what waited is lost";
                return Err(Error::Setup(format!("the reader of the records takes none: {waited} (--max-buffer)")));
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
    sink.join().map_err(|_| Error::Setup("the thread that writes the records failed: this is a bug in vb-fire".into()))
}

/// What the client knows of itself.
fn evidence(
    args: &Args,
    written: &Written,
    client: ClientUse,
    by_schedule: bool,
    duration: Nanos,
    left: Left,
) -> Evidence {
    let tally = &written.tally;
    Evidence {
        kernel: args.transport != TransportKind::Portable && cfg!(target_os = "linux"),
        stamps: tally.stamps,
        read_lag: tally.read_lag(),
        send_lag: tally.send_lag(),
        client: ClientUse { retransmits: tally.retransmits, ..client },
        by_schedule,
        slots: args.max_concurrency,
        latency: tally.mean_latency(),
        duration,
        sent: tally.offered - tally.not_sent(),
        hidden: left.full,
    }
}

fn end_record(written: &Written, left: u64, why: Option<Why>, input: &Result<(), Error>) -> EndRecord {
    let tally = &written.tally;
    let why_not = match (why, input) {
        (Some(why), _) => Some(why.words().to_owned()),
        (None, Err(e)) => Some(e.to_string()),
        (None, Ok(())) => tally.why_not_sent().map(str::to_owned),
    };
    EndRecord {
        offered: tally.offered,
        outcomes: tally.outcomes.clone(),
        not_sent: NotSent { count: tally.not_sent() + left, why: why_not },
        interrupted: matches!(why, Some(Why::Interrupted | Why::OutputLost | Why::OutputStalled)),
        schedule_lag: tally.schedule_lag(),
        send_lag: tally.send_lag(),
        read_lag: tally.read_lag(),
        stamps: Some(tally.stamps),
        ..EndRecord::default()
    }
}

/// What the exit code says, the gravest first.
async fn exit(args: &Args, preflight: &Preflight, ended: Ended) -> Result<(), Error> {
    if let Some(e) = &ended.written.error {
        let lost = ended.written.lost;
        return Err(Error::Setup(match e.kind() {
            io::ErrorKind::BrokenPipe => {
                format!("the reader of the records left, so the load was stopped; {lost} outcomes are lost")
            }
            _ => format!("cannot write stdout: {e}; the load was stopped, {lost} outcomes are lost"),
        }));
    }
    for reason in &ended.reasons {
        cli::print_warning("vb-fire", format_args!("{}: {reason}", ended.verdict.name()));
    }
    let tally = &ended.written.tally;
    let unrecorded = ended.started.saturating_sub(tally.offered - tally.not_sent());
    if unrecorded > 0 {
        return Err(Error::Invalid(format!(
            "{unrecorded} requests were sent and have no record, because their tasks failed (above): report it, please"
        )));
    }
    let share = tally.failed as f64 / (tally.offered as f64).max(1.0);
    let failed = match tally.most_frequent() {
        Some(most) if share > args.fail_above || tally.failed == tally.offered => {
            let models = if most.status == Some(404) { preflight.known_models().await } else { vec![] };
            let cure = preflight::cure_of(&most, args.backend, &models);
            Some(format!(
                "{} of {} requests failed; most often ({}) {}: {}; {cure}",
                tally.failed, tally.offered, most.count, most.kind, most.message
            ))
        }
        _ => None,
    };
    if ended.why == Some(Why::OutputStalled) {
        return Err(Error::Setup(
            "the reader of the records was too slow, so the load was stopped at --max-buffer; all outcomes were written"
                .into(),
        ));
    }
    match (ended.input, ended.why, failed) {
        (Err(e), _, failed) => {
            if let Some(text) = failed {
                cli::print_warning("vb-fire", text);
            }
            Err(e)
        }
        (Ok(()), Some(Why::Interrupted), _) => Err(Error::Interrupted),
        (Ok(()), _, Some(text)) => Err(Error::Check(text)),
        _ if args.strict && ended.verdict == Verdict::ClientBound => Err(Error::Invalid(
            "the measurement is invalid (--strict): the client, and not the server, set some of the numbers".into(),
        )),
        _ => Ok(()),
    }
}

//! `vb-fire`: requests in, outputs out, and in between the load.
//!
//! ```text
//! input (thread) ─▶ dispatch ─▶ attempt (one task each) ─▶ sink (thread)
//! reads, builds     when due,    connect, send, read,      judges, counts,
//! the bytes         if room      stamp                      writes
//! ```
//!
//! The clock of the run starts when the first request is ready. Nothing waits for the sink.

mod answer;
mod args;
mod attempt;
mod dispatch;
mod headers;
mod input;
mod preflight;
mod sink;
mod stop;
mod tally;
mod warmup;

use std::{
    io::{self, IsTerminal, Write},
    sync::{Arc, atomic::Ordering::Relaxed, mpsc as std_mpsc},
    thread,
};

pub use args::Args;
use hyper::Uri;
use reqwest::Url;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::sleep,
};

use self::{
    attempt::{Client, attempt},
    dispatch::{Launch, Slot, dispatch},
    headers::Headers,
    input::{Input, RequestFuncInput, Template},
    preflight::Preflight,
    sink::{Finished, Progress, Sink, What, Written},
    stop::{Stop, Stopper, Why},
};
use crate::{
    cli,
    clock::{Clock, unix_now},
    error::Error,
    http::{
        connection::{Server, join},
        openai::api_key,
    },
    load::Schedule,
    ndjson,
    pacer::Pacer,
    record::{ClockAnchor, EndRecord, FORMAT_VERSION, Line, NotSent, Object, RunRecord},
    tokens::Tokenizer,
    units::Nanos,
};

/// Runs the tool.
pub fn run(args: &Args) -> Result<(), Error> {
    if args.schema {
        return cli::print_schema::<Line>();
    }
    let url = args.url()?;
    let selftest = args.selftest()?;
    let schedule = Schedule::new(args.request_rate, args.burstiness, args.seed);
    let headers = Headers::new(&args.header, api_key())?;
    check_open_files(args.max_concurrency);
    // One thread carries all connections: the stamps of a connection need it, and it makes concurrency exact.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::Setup(format!("cannot start the runtime: {e}")))?;
    let done = runtime.block_on(load(args, &url, schedule, headers, selftest));
    // A thread that still waits for standard input must not hold the exit up.
    runtime.shutdown_background();
    done
}

/// Each request in flight has a connection: warns where those may be too many for the system.
fn check_open_files(max_concurrency: Option<u32>) {
    let allowed = cli::raise_open_files();
    let needed = u64::from(max_concurrency.unwrap_or(0)) + 32;
    if allowed < needed {
        cli::warn("vb-fire", format_args!("{needed} open files are needed and {allowed} allowed: raise `ulimit -n`"));
    }
}

/// The whole run, from the first question to the last record.
async fn load(
    args: &Args,
    url: &Url,
    schedule: Schedule,
    headers: Headers,
    selftest: Option<Object>,
) -> Result<(), Error> {
    let preflight = Preflight::new(url, &headers, args.insecure, args.timeout_connect)?;
    if args.ready_check > Nanos(0) {
        preflight.ready(args.ready_check).await?;
    }
    let mut server = preflight::connect(url, args.insecure, args.timeout_connect).await?;
    server.keep_alive = !args.no_keep_alive;
    let model = match &args.model {
        Some(model) => model.clone(),
        None => preflight.model().await?,
    };
    let template = template(args, url, &headers, &model)?;
    let mut input = input::read(io::BufReader::new(io::stdin()), template.clone())?;
    let Ok(first) = (&mut input.first).await else {
        return Err(no_request(&input));
    };
    let stopper = Stopper::default();
    watch_signals(&stopper, args.grace)?;
    if args.num_warmups > 0 {
        warmup::run(args, &template, &server, &headers, &first, &stopper).await?;
    }
    let run = RunRecord { selftest, ..run_record(args, url, &headers, model) };
    let ended = measure(args, server, schedule, headers, run, input, &stopper).await?;
    verdict(args, &preflight, ended).await
}

fn no_request(input: &Input) -> Error {
    match input.end.recv() {
        Ok(Err(e)) => e,
        _ => Error::Input(
            "stdin: there is no request; pipe in what vb-gen writes, or lines like {\"prompt\":\"hi\"}".into(),
        ),
    }
}

fn template(args: &Args, url: &Url, headers: &Headers, model: &str) -> Result<Template, Error> {
    let uri: Uri = join(url, args.endpoint())
        .parse()
        .map_err(|e| Error::Usage(format!("--endpoint {} makes no URL with --base-url: {e}", args.endpoint())))?;
    Ok(Template {
        backend: args.backend,
        uri,
        headers: headers.map.clone(),
        model: model.to_owned(),
        flags: args.sampling(),
        extra: args.extra_body.clone().unwrap_or_default(),
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
            sleep(grace.duration()).await;
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

fn run_record(args: &Args, url: &Url, headers: &Headers, model: String) -> RunRecord {
    let default_id = || format!("{:x}-{:x}", unix_now().0 / 1_000_000, std::process::id());
    RunRecord {
        format: FORMAT_VERSION,
        run_id: args.run_id.clone().unwrap_or_else(default_id),
        tool: concat!("vb-fire ", env!("CARGO_PKG_VERSION")).into(),
        argv: headers.scrub_argv(std::env::args_os().map(|a| a.to_string_lossy().into_owned())),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        model,
        tokenizer: args.tokenizer.clone(),
        backend: args.backend.name().into(),
        base_url: url.as_str().trim_end_matches('/').into(),
        endpoint: args.endpoint().into(),
        request_rate: args.request_rate.filter(|r| r.is_finite()),
        burstiness: args.burstiness,
        max_concurrency: args.max_concurrency,
        num_warmups: args.num_warmups,
        seed: args.seed,
        ..RunRecord::default()
    }
}

/// A run that is over.
struct Ended {
    written: Written,
    input: Result<(), Error>,
    why: Option<Why>,
}

/// Starts each request at its time on its own task.
struct Launcher {
    client: Arc<Client>,
    outcomes: std_mpsc::Sender<Finished>,
    stop: Stop,
    /// Held by every task, so that the last one can be awaited.
    alive: mpsc::Sender<()>,
    /// Whether a request had a time of its own.
    timed: bool,
}

impl Launch for Launcher {
    type Request = RequestFuncInput;

    fn timestamp(&self, request: &RequestFuncInput) -> Option<Nanos> {
        request.timestamp
    }

    fn start(&mut self, request: RequestFuncInput, scheduled: Nanos, slot: Slot) {
        self.client.started.fetch_add(1, Relaxed);
        self.timed |= request.timestamp.is_some();
        let (client, outcomes) = (Arc::clone(&self.client), self.outcomes.clone());
        let (mut stop, alive) = (self.stop.clone(), self.alive.clone());
        let RequestFuncInput { request, output, .. } = request;
        tokio::spawn(async move {
            let done = attempt(&client, request, &mut stop).await;
            drop(slot);
            client.ended.store(client.clock.now().0, Relaxed);
            // The sink is there until the last sender is gone.
            let _ = outcomes.send(Finished { output, scheduled, what: What::Attempt(Box::new(done)) });
            drop(alive);
        });
    }

    fn never(&mut self, request: RequestFuncInput, scheduled: Nanos, why: Why) {
        self.client.ended.store(self.client.clock.now().0, Relaxed);
        let _ = self.outcomes.send(Finished { output: request.output, scheduled, what: What::NotSent(why) });
    }
}

/// The measured part: the clock starts, requests are sent, all outcomes are written.
async fn measure(
    args: &Args,
    server: Server,
    schedule: Schedule,
    headers: Headers,
    mut run: RunRecord,
    input: Input,
    stopper: &Stopper,
) -> Result<Ended, Error> {
    // For servers that send no usage. Not having one is no reason to stop: chunks are counted then.
    let tokenizer = args.tokenizer.as_deref().and_then(|name| Tokenizer::open_local(name).ok().flatten());
    let clock = Clock::start();
    run.clock = ClockAnchor { start: clock.unix(Nanos(0)) };
    let run_id = run.run_id.clone();
    let client = Arc::new(Client::new(server, clock, args.limits()));
    let (outcomes, receive) = std_mpsc::channel();
    // Between records on the same terminal it would only be in the way.
    let shown = io::stderr().is_terminal() && !io::stdout().is_terminal();
    let progress = shown.then(|| Progress { client: Arc::clone(&client), total: input.total });
    let keep_text = !args.no_text;
    let sink = Sink { run, clock, headers, keep_text, tokenizer, stopper: stopper.clone(), progress };
    let sink = sink.start(receive)?;
    if let Some(limit) = args.max_seconds {
        stop_after(limit, stopper.clone());
    }
    let slots = args.slots();
    let (alive, mut gone) = mpsc::channel(1);
    let pacer = Pacer::start(clock)?;
    let mut launcher = Launcher { client: Arc::clone(&client), outcomes, stop: stopper.watch(), alive, timed: false };
    let left = dispatch(input.requests, schedule, slots, &pacer, stopper.watch(), &mut launcher).await;
    let by_schedule = args.request_rate.map_or(launcher.timed, f64::is_finite);
    let open_loop = Some(by_schedule || args.max_concurrency.is_none());
    drop(launcher);
    // Ends when the last task has dropped its sender.
    while gone.recv().await.is_some() {}
    // Neither the wait for more input nor a slow reader is a part of it. Without any outcome it is the time until now.
    let duration = match client.ended.load(Relaxed) {
        0 => clock.now(),
        ended => Nanos(ended),
    };
    let mut written = join_thread(sink)?;
    let why = stopper.watch().why();
    // After an early end the reader may wait for input that never comes.
    let input = if why.is_some() { input.end.try_recv().unwrap_or(Ok(())) } else { input.end.recv().unwrap_or(Ok(())) };
    let end = EndRecord { run_id, duration, open_loop, ..end_record(&written, left, why, &input) };
    if written.error.is_none()
        && let Err(Error::Write { source, .. }) = write_end(&end)
    {
        written.error = Some(source);
    }
    Ok(Ended { written, input, why })
}

/// `--max-seconds`.
fn stop_after(limit: Nanos, stopper: Stopper) {
    tokio::spawn(async move {
        sleep(limit.duration()).await;
        stopper.drain(Why::MaxSeconds);
    });
}

/// The last record, which comes behind everything that the sink wrote.
fn write_end(end: &EndRecord) -> Result<(), Error> {
    let mut out = cli::stdout();
    ndjson::write(&mut out, end)?;
    out.flush().map_err(Error::stdout)
}

fn join_thread<T>(handle: thread::JoinHandle<T>) -> Result<T, Error> {
    handle
        .join()
        .map_err(|_| Error::Setup("the thread that writes the records failed: this is a bug in vb-fire".into()))
}

fn end_record(written: &Written, left: u64, why: Option<Why>, input: &Result<(), Error>) -> EndRecord {
    let tally = &written.tally;
    let never = tally.outcomes.get("not_sent").copied().unwrap_or(0);
    let why_not = match (why, input) {
        (Some(why), _) => Some(why.words().to_owned()),
        (None, Err(e)) => Some(e.to_string()),
        (None, Ok(())) => None,
    };
    EndRecord {
        offered: tally.offered,
        outcomes: tally.outcomes.clone(),
        not_sent: NotSent { count: never + left, why: why_not },
        interrupted: matches!(why, Some(Why::Interrupted | Why::OutputLost)),
        schedule_lag: tally.schedule_lag(),
        ..EndRecord::default()
    }
}

/// What the exit code says, the gravest first.
async fn verdict(args: &Args, preflight: &Preflight, ended: Ended) -> Result<(), Error> {
    if let Some(e) = &ended.written.error {
        let lost = ended.written.lost;
        return Err(Error::Setup(match e.kind() {
            io::ErrorKind::BrokenPipe => {
                format!("the reader of the records left, so the load was stopped; {lost} outcomes are lost")
            }
            _ => format!("cannot write stdout: {e}; the load was stopped, {lost} outcomes are lost"),
        }));
    }
    let tally = &ended.written.tally;
    let share = tally.failed as f64 / (tally.offered as f64).max(1.0);
    let failed = match tally.most_frequent() {
        Some(most) if share > args.fail_above || tally.failed == tally.offered => {
            let models = if most.status == Some(404) { preflight.known_models().await } else { vec![] };
            let cure = preflight::cure(most.kind, &most.message, most.status, &models);
            Some(format!(
                "{} of {} requests failed; most often ({}) {}: {}; {cure}",
                tally.failed, tally.offered, most.count, most.kind, most.message
            ))
        }
        _ => None,
    };
    match (ended.input, ended.why) {
        (Err(e), _) => {
            if let Some(text) = failed {
                cli::warn("vb-fire", text);
            }
            Err(e)
        }
        (Ok(()), Some(Why::Interrupted)) => Err(Error::Interrupted),
        _ => failed.map_or(Ok(()), |text| Err(Error::Check(text))),
    }
}

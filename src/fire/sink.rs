//! Writes the records, on a thread of its own: a slow reader downstream never slows the sending.

use std::{
    io::{self, BufWriter, Write},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::Duration,
};

use super::{
    attempt::{Attempt, Client, Due, Traces},
    backlog::Backlog,
    headers::Headers,
    secrets::Secrets,
    stop::{Stopper, Why},
    tally::{NOT_SENT, Tally},
};
use crate::{
    cli,
    clock::Clock,
    error::Error,
    ndjson,
    record::{ErrorKind, RequestFuncOutput, RunRecord, ScrapeRecord},
    tokens::Tokenizer,
    units::Nanos,
};

/// How often the line of progress is written anew.
const TICK: Duration = Duration::from_millis(500);

/// What becomes a record.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all are of the large one")]
pub enum Entry {
    /// A request that is over.
    Finished(Finished),
    /// What the server told of itself.
    Scrape {
        /// Without secrets.
        record: ScrapeRecord,
        /// Its share of the backlog, in bytes.
        size: u64,
    },
}

/// A request that is over.
#[derive(Debug)]
pub struct Finished {
    /// What is known of it so far.
    pub output: RequestFuncOutput,
    /// What must not be shown of its own body.
    pub secrets: Secrets,
    /// When it was to be sent.
    pub due: Due,
    /// Its share of the backlog, in bytes.
    pub size: u64,
    /// What became of it, or why it was never sent.
    pub what: What,
}

/// What became of a request.
#[derive(Debug)]
pub enum What {
    /// It was sent, or tried to be.
    Attempt(Box<Attempt>),
    /// It was due, but the run ended first.
    NotSent(Why),
}

/// What the thread needs.
pub struct Sink {
    /// The run's first record.
    pub run: RunRecord,
    /// The clock of the run.
    pub clock: Clock,
    /// Hides secrets in errors.
    pub headers: Headers,
    /// Whether to keep the generated text.
    pub keep_text: bool,
    /// Whether to write how late each chunk was read.
    pub keep_read_lags: bool,
    /// What waits to be written.
    pub backlog: Arc<Backlog>,
    /// Counts tokens for a server that does not.
    pub tokenizer: Option<Tokenizer>,
    /// Ends the run when nobody takes the records.
    pub stopper: Stopper,
    /// For the line of progress; `None`: no line.
    pub progress: Option<Progress>,
}

/// What the line of progress tells beside the counts.
pub struct Progress {
    /// Knows what was started and received.
    pub client: Arc<Client>,
    /// Requests in all, once the end of the input has been read; 0 before.
    pub total: Arc<AtomicU64>,
}

/// How writing ended.
#[derive(Debug)]
pub struct Written {
    /// The counts.
    pub tally: Tally,
    /// The first failure to write; everything after it is lost.
    pub error: Option<io::Error>,
    /// Outcomes lost to it.
    pub lost: u64,
    /// Outcomes that are lost if the next flush fails.
    unflushed: u64,
}

impl Sink {
    /// Starts the thread. It ends when all senders of entries are gone.
    pub fn start(self, entries: mpsc::Receiver<Entry>) -> Result<thread::JoinHandle<Written>, Error> {
        let tally = Tally::new()?;
        thread::Builder::new()
            .name("sink".into())
            .spawn(move || self.write(&entries, tally, BufWriter::with_capacity(1 << 16, io::stdout())))
            .map_err(|e| Error::Setup(format!("cannot start a thread: {e}")))
    }

    fn write(self, entries: &mpsc::Receiver<Entry>, tally: Tally, mut out: impl Write) -> Written {
        let mut written = Written { tally, error: None, lost: 0, unflushed: 0 };
        let first = ndjson::write_record(&mut out, &self.run).and_then(|()| out.flush().map_err(Error::write_stdout));
        self.check(first, &mut written);
        let mut shown = Nanos(0);
        loop {
            match entries.recv_timeout(TICK) {
                Ok(entry) => {
                    self.enter(entry, &mut out, &mut written);
                    // What is finished is on its way before we rest: a killed run loses none of it.
                    while let Ok(entry) = entries.try_recv() {
                        self.enter(entry, &mut out, &mut written);
                    }
                    let flushed = out.flush().map_err(Error::write_stdout);
                    self.check(flushed, &mut written);
                    written.unflushed = 0;
                }
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            let now = self.clock.now();
            if now.since(shown).to_duration() >= TICK {
                self.show_progress(&written.tally, false);
                shown = now;
            }
        }
        self.show_progress(&written.tally, true);
        written
    }

    fn enter(&self, entry: Entry, out: &mut impl Write, written: &mut Written) {
        match entry {
            Entry::Finished(outcome) => self.record(outcome, out, written),
            Entry::Scrape { record, size } => {
                if written.error.is_none() {
                    let result = ndjson::write_record(out, &record);
                    self.check(result, written);
                }
                self.backlog.less(size);
            }
        }
    }

    fn record(&self, outcome: Finished, out: &mut impl Write, written: &mut Written) {
        let Finished { mut output, secrets, due, size, what } = outcome;
        output.run_id.clone_from(&self.run.run_id);
        let traces = match what {
            What::Attempt(attempt) => attempt.finish(self.clock, due, |text| self.count(text), &mut output),
            What::NotSent(why) => {
                output.scheduled_time = self.clock.to_unix(due.scheduled);
                output.error_kind = Some(ErrorKind::NotSent);
                output.error = format!("{NOT_SENT}{}", why.words());
                Traces::default()
            }
        };
        output.error = self.headers.scrub(secrets.scrub(output.error));
        if !self.keep_text {
            output.generated_text = None;
        }
        written.tally.count(&output);
        written.tally.trace(&traces);
        if !self.keep_read_lags {
            output.read_lag = None;
        }
        if written.error.is_some() {
            written.lost += 1;
        } else {
            written.unflushed += 1;
            let result = ndjson::write_record(out, &output);
            self.check(result, written);
        }
        self.backlog.less(size);
    }

    fn check(&self, result: Result<(), Error>, written: &mut Written) {
        if let Err(Error::Write { source, .. }) = result
            && written.error.is_none()
        {
            written.error = Some(source);
            written.lost += written.unflushed;
            self.stopper.cancel(Why::OutputLost);
        }
    }

    fn count(&self, text: &str) -> Option<u32> {
        u32::try_from(self.tokenizer.as_ref()?.count(text).ok()?).ok()
    }

    fn show_progress(&self, tally: &Tally, last: bool) {
        let Some(Progress { client, total }) = &self.progress else { return };
        let seconds = self.clock.now().as_secs_f64().max(1e-3);
        let started = client.started.load(Relaxed);
        let running = started.saturating_sub(tally.offered);
        let rate = client.tokens.load(Relaxed) as f64 / seconds;
        let eta = match total.load(Relaxed) {
            total if total > 0 && tally.offered > 0 && !last => {
                let left = total.saturating_sub(tally.offered) as f64 * seconds / tally.offered as f64;
                format!(", about {left:.0} s left")
            }
            _ => String::new(),
        };
        let line = format!("{} done, {running} running, {} failed, {rate:.0} tok/s{eta}", tally.offered, tally.failed);
        cli::print_progress("vb-fire", &line, last);
    }
}

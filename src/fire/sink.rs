//! Writes the records, on its own thread: a slow reader downstream never slows the sending.

use std::{
    borrow::Cow,
    io::{self, Write},
    sync::{Arc, atomic::Ordering::Relaxed, mpsc},
    thread,
    time::Duration,
};

use super::{
    attempt::{Attempt, ClientState, TimingQuality},
    backlog::Backlog,
    headers::Headers,
    priority::Work,
    stop::{StopReason, Stopper},
    tally::{NOT_SENT, Tally},
};
use crate::{
    clock::Clock,
    error::Error,
    load::SendTimes,
    ndjson,
    record::{ErrorKind, RequestFuncOutput, RunRecord, ScrapeRecord, WriteJson},
    secrets::Secrets,
    tokens::Tokenizer,
};

/// How long outcomes may wait for others. Writing each at once would wake the thread for each, at the cost of the threads that send
/// and read; a killed run loses the outcomes of this time.
const BATCH_TIME: Duration = Duration::from_millis(20);

/// Lines that are written at once, in bytes.
const WRITE_SIZE: usize = 1 << 16;

/// Something that becomes a record.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all are of the large one")]
pub enum SinkEntry {
    /// A request that has ended.
    Request(FinishedRequest),
    /// Metrics of the server.
    Scrape {
        /// The record, without secrets.
        record: ScrapeRecord,
        /// Its share of the backlog, in bytes.
        size: u64,
    },
}

/// A request that has ended.
#[derive(Debug)]
pub struct FinishedRequest {
    /// The part of its output that repeats the request.
    pub output: Box<RequestFuncOutput>,
    /// Secrets in its own body; `None` without any.
    pub secrets: Option<Arc<Secrets>>,
    /// When it could be sent.
    pub times: SendTimes,
    /// Its share of the backlog, in bytes.
    pub size: u64,
    /// How it ended, or why it was due but never sent.
    pub outcome: Result<Box<Attempt>, StopReason>,
}

/// Writes records.
pub struct Sink {
    /// The first record of the run.
    pub run: RunRecord,
    /// The clock of the run.
    pub clock: Clock,
    /// Removes secrets from errors.
    pub headers: Headers,
    /// Whether to keep the generated text.
    pub keep_text: bool,
    /// Whether to write how late each chunk was read.
    pub keep_read_lags: bool,
    /// Bytes that wait to be written.
    pub backlog: Arc<Backlog>,
    /// Counts tokens if the server does not.
    pub tokenizer: Option<Tokenizer>,
    /// Ends the run when the records cannot be written.
    pub stopper: Stopper,
    /// Learns how many outputs there are.
    pub client: Arc<ClientState>,
}

/// How writing ended.
#[derive(Debug)]
pub struct SinkResult {
    /// The counts.
    pub tally: Tally,
    /// The first write error; everything after it is lost.
    pub error: Option<io::Error>,
    /// Outcomes lost to it.
    pub lost: u64,
    /// Outcomes that would be lost if the next write failed.
    unwritten: u64,
}

/// Lines on their way to standard output.
struct LineBuffer<W> {
    lines: Vec<u8>,
    out: W,
}

impl Sink {
    /// Starts the thread. It ends when all senders of entries are dropped.
    pub fn start(self, entries: mpsc::Receiver<SinkEntry>) -> Result<thread::JoinHandle<SinkResult>, Error> {
        let tally = Tally::new()?;
        thread::Builder::new()
            .name("sink".into())
            .spawn(move || {
                Work::Write.apply_to_thread();
                self.write_all(&entries, tally, io::stdout())
            })
            .map_err(|e| Error::Setup(format!("cannot start a thread: {e}")))
    }

    fn write_all(mut self, entries: &mpsc::Receiver<SinkEntry>, tally: Tally, out: impl Write) -> SinkResult {
        let mut written = SinkResult { tally, error: None, lost: 0, unwritten: 0 };
        let mut out = LineBuffer { lines: Vec::with_capacity(WRITE_SIZE), out };
        let first = ndjson::write_record(&mut out.lines, &self.run);
        self.check_write(first, &mut written);
        self.write_lines(&mut out, &mut written);
        while let Ok(entry) = entries.recv() {
            for entry in std::iter::once(entry).chain(entries.try_iter()) {
                self.write_entry(entry, &mut out, &mut written);
            }
            // Before the next wait, so that a killed run loses as little as possible.
            self.write_lines(&mut out, &mut written);
            thread::sleep(BATCH_TIME);
        }
        written
    }

    fn write_entry(&mut self, entry: SinkEntry, out: &mut LineBuffer<impl Write>, written: &mut SinkResult) {
        match entry {
            SinkEntry::Request(finished) => self.write_output(finished, out, written),
            SinkEntry::Scrape { record, size } => {
                if written.error.is_none() {
                    let result = ndjson::write_record(&mut out.lines, &record);
                    self.check_write(result, written);
                }
                self.backlog.remove_bytes(size);
            }
        }
        if out.lines.len() >= WRITE_SIZE {
            self.write_lines(out, written);
        }
    }

    fn write_output(&mut self, finished: FinishedRequest, out: &mut LineBuffer<impl Write>, written: &mut SinkResult) {
        let FinishedRequest { mut output, secrets, times, size, outcome } = finished;
        output.run_id = std::mem::take(&mut self.run.run_id);
        let shown_tokens = outcome.as_ref().map_or(0, |attempt| attempt.tokens_so_far());
        let timing = match outcome {
            Ok(attempt) => attempt.finish(self.clock, times, |text| self.count_tokens(text), &mut output),
            Err(reason) => {
                output.scheduled_time = self.clock.to_unix(times.scheduled);
                output.error_kind = Some(ErrorKind::NotSent);
                output.error = format!("{NOT_SENT}{}", reason.reason_text());
                TimingQuality::default()
            }
        };
        if let Some(own) = &secrets {
            output.error = own.hide(&output.error).into_owned();
        }
        output.error = self.headers.scrub_text(&output.error);
        let server_texts = output.generated_text.iter_mut().chain(&mut output.finish_reason);
        for text in server_texts {
            for known in std::iter::once(&self.headers.secrets).chain(secrets.as_deref()) {
                if let Cow::Owned(hidden) = known.hide_whole(text) {
                    *text = hidden;
                }
            }
        }
        if !self.keep_text {
            output.generated_text = None;
        }
        written.tally.count_output(&output);
        written.tally.count_timing(&timing);
        self.count_progress(&output, shown_tokens, &written.tally);
        if !self.keep_read_lags {
            output.read_lag = None;
        }
        if written.error.is_some() {
            written.lost += 1;
        } else {
            written.unwritten += 1;
            output.write_json(&mut out.lines);
            out.lines.push(b'\n');
        }
        self.run.run_id = output.run_id;
        self.backlog.remove_bytes(size);
    }

    fn count_progress(&self, output: &RequestFuncOutput, shown_tokens: u64, tally: &Tally) {
        let counts = &self.client.outputs;
        counts.tokens.fetch_add(output.output_tokens.into(), Relaxed);
        counts.shown_tokens.fetch_add(shown_tokens, Relaxed);
        counts.done.store(tally.population.offered, Relaxed);
        counts.failed.store(tally.population.failed(), Relaxed);
        counts.mean_latency.store(tally.mean_latency().unwrap_or_default().0, Relaxed);
    }

    /// Writes the lines to standard output. After an error, they are lost.
    fn write_lines(&self, out: &mut LineBuffer<impl Write>, written: &mut SinkResult) {
        if written.error.is_some() {
            return out.lines.clear();
        }
        let result = out.out.write_all(&out.lines).and_then(|()| out.out.flush());
        out.lines.clear();
        self.check_write(result.map_err(Error::write_stdout), written);
        written.unwritten = 0;
    }

    fn check_write(&self, result: Result<(), Error>, written: &mut SinkResult) {
        if let Err(Error::Write { source, .. }) = result
            && written.error.is_none()
        {
            written.error = Some(source);
            written.lost += written.unwritten;
            self.stopper.cancel_all(StopReason::OutputLost);
        }
    }

    fn count_tokens(&self, text: &str) -> Option<u32> {
        u32::try_from(self.tokenizer.as_ref()?.count(text).ok()?).ok()
    }
}

//! Writes requests as lines: numbers and tags them, and counts prompts with a wrong length.

use std::io::{BufWriter, StdoutLock, Write};

use crate::{
    arrival::ArrivalClock,
    cli::{
        self,
        progress::{Progress, ProgressDisplay},
    },
    error::Error,
    generate::ordered::{Demand, NextItem, make_in_order},
    ndjson,
    record::{Object, SampleRequest},
};

/// Requested and actual length of a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PromptLen {
    pub want: usize,
    pub got: usize,
}

impl PromptLen {
    /// A length that was measured, not requested.
    pub fn exact(len: usize) -> Self {
        PromptLen { want: len, got: len }
    }
}

/// Standard output as a stream of requests.
pub struct RequestWriter {
    out: BufWriter<StdoutLock<'static>>,
    prefix: String,
    tags: Option<Object>,
    generates: bool,
    /// Finished requests that may wait per thread.
    ahead: usize,
    /// `--max-model-len`, if given.
    max_model_len: Option<u32>,
    too_long: u64,
    written: u64,
    sessions: u64,
    misfits: u64,
    worst: usize,
    arrivals: ArrivalClock,
    /// The number of requests that there will be; 0: not known.
    total: u64,
    progress: Option<ProgressDisplay>,
}

impl RequestWriter {
    /// Ids consist of `prefix` and a number; `tags` are added to every request. If nothing is generated, no output
    /// length is written.
    pub fn new(
        prefix: String,
        tags: Option<Object>,
        generates: bool,
        ahead: usize,
        max_model_len: Option<u32>,
    ) -> Self {
        RequestWriter {
            out: cli::buffered_stdout(),
            prefix,
            tags,
            generates,
            ahead,
            max_model_len,
            too_long: 0,
            written: 0,
            sessions: 0,
            misfits: 0,
            worst: 0,
            arrivals: ArrivalClock::default(),
            total: 0,
            progress: None,
        }
    }

    /// Announces the number of requests that there will be, 0 if it is not known, and shows on a terminal how far writing into a file has
    /// got. Into a pipe, the reader shows it.
    pub fn announce(&mut self, total: u64) {
        self.total = total;
        self.progress = if cli::writes_to_file() { ProgressDisplay::open("vb-gen", false) } else { None };
    }

    /// Finished requests that may wait per thread.
    pub fn read_ahead(&self) -> usize {
        self.ahead
    }

    /// Number of requests written.
    pub fn requests_written(&self) -> u64 {
        self.written
    }

    /// Number of conversations written.
    pub fn sessions_written(&self) -> u64 {
        self.sessions
    }

    /// Writes the turns of a conversation, in order, as one session.
    pub fn write_session(
        &mut self,
        turns: impl Iterator<Item = Result<(SampleRequest, PromptLen), Error>>,
    ) -> Result<(), Error> {
        let session = self.sessions;
        for (made, turn) in turns.zip(0..) {
            let (mut request, fitted) = made?;
            request.session_id = Some(format!("{}session-{session}", self.prefix));
            request.turn = Some(turn);
            self.write_measured(request, fitted)?;
        }
        self.sessions += 1;
        Ok(())
    }

    /// Writes the requests 0, 1, … up to `count`, which several threads make.
    pub fn write_numbered(
        &mut self,
        count: u64,
        make: impl Fn(u64) -> Result<(SampleRequest, PromptLen), Error> + Sync,
    ) -> Result<(), Error> {
        let make = |item| (item < count).then(|| make(item));
        make_in_order(self.ahead, make, |turn| {
            match turn {
                NextItem::Wait => self.flush()?,
                NextItem::Item(item) => {
                    let (request, fitted) = item?;
                    self.write_measured(request, fitted)?;
                }
            }
            Ok(Demand::Yes)
        })
    }

    /// Writes a request whose prompt was measured.
    pub fn write_measured(&mut self, mut request: SampleRequest, fitted: PromptLen) -> Result<(), Error> {
        if fitted.want != fitted.got {
            self.misfits += 1;
            self.worst = self.worst.max(fitted.want.abs_diff(fitted.got));
        }
        request.prompt_len = u32::try_from(fitted.got).ok();
        self.write(request)
    }

    /// Writes a request. It keeps its own id and tags, but a tag of the command line wins over one with the same name.
    pub fn write(&mut self, mut request: SampleRequest) -> Result<(), Error> {
        if request.request_id.is_none() {
            request.request_id = Some(format!("{}{}", self.prefix, self.written));
        }
        if let Some(time) = request.timestamp {
            let resolved = self.arrivals.resolve(time);
            let id = request.request_id.as_deref().unwrap_or_default();
            request.timestamp = Some(resolved.map_err(|what| Error::Input(format!("the request `{id}`: {what}")))?);
        }
        if let Some(tags) = &self.tags {
            request.tags.get_or_insert_default().extend(tags.clone());
        }
        if !self.generates {
            request.expected_output_len = None;
        }
        let len = request.prompt_len.unwrap_or(0).saturating_add(request.expected_output_len.unwrap_or(0));
        self.too_long += u64::from(self.max_model_len.is_some_and(|most| len > most));
        if self.total > 0 {
            request.num_prompts = u32::try_from(self.total).ok().filter(|_| self.written == 0);
        }
        ndjson::write_record(&mut self.out, &request)?;
        self.written += 1;
        let (written, total) = (self.written, self.total);
        if let Some(display) = &mut self.progress {
            display.update(|| {
                let of_all = if total > 0 { format!(" of {total}") } else { String::new() };
                let text = format!("{written}{of_all} requests written");
                Progress { steps: (total > 0).then_some((written, total)), text }
            });
        }
        Ok(())
    }

    /// Flushes what was written so far.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.out.flush().map_err(Error::write_stdout)
    }

    /// Flushes, and reports how many prompts do not have the requested length.
    pub fn finish(mut self) -> Result<(), Error> {
        self.flush()?;
        self.progress = None;
        if self.misfits > 0 {
            let (misfits, written, worst) = (self.misfits, self.written, self.worst);
            super::print_warning(format!(
                "{misfits} of {written} prompts could not be made exactly as long as requested (off by up to {worst} tokens); \
                 their prompt_len is the actual length"
            ));
        }
        if let (1.., Some(most)) = (self.too_long, self.max_model_len) {
            super::print_warning(format!(
                "{} of {} requests exceed --max-model-len {most} (prompt and response together): the server will reject them",
                self.too_long, self.written
            ));
        }
        Ok(())
    }
}

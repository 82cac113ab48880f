//! Reads streams of records, or one result of vLLM, into a [`Recording`].

use std::{
    io::BufRead,
    path::{Path, PathBuf},
};

use serde::de::Error as _;

use super::{
    line::{Kind, OutputLine},
    recording::Recording,
    vllm::VllmResult,
};
use crate::{
    cli,
    error::Error,
    ndjson::Lines,
    record::{EndRecord, RunRecord},
};

/// How to read.
#[derive(Debug, Clone, Copy, Default)]
pub struct Reader {
    /// Keep texts, errors and the gaps of failures.
    pub detailed: bool,
    /// Count bad lines and go on.
    pub lenient: bool,
}

impl Reader {
    /// Reads all of these, which may be parts or hosts of one run.
    pub fn read(self, paths: &[PathBuf]) -> Result<Recording, Error> {
        let mut recording = Recording::default();
        for path in paths {
            self.read_file(path, &mut recording)?;
        }
        Ok(recording)
    }

    fn read_file(self, path: &Path, recording: &mut Recording) -> Result<(), Error> {
        let (input, name) = cli::open(path)?;
        self.read_lines(Lines::new(input, name), recording)
    }

    /// Reads to the end of one input. A last line that is cut off, as a killed writer leaves it, is noted and no error.
    fn read_lines<R: BufRead>(self, mut lines: Lines<R>, recording: &mut Recording) -> Result<(), Error> {
        // The error of the line before: whether it is only a cut is known when no line follows.
        let mut wrong: Option<(bool, Error)> = None;
        while let Some(line) = lines.next_line()? {
            if let Some((_, error)) = wrong.take() {
                self.bad_line(error, recording)?;
            }
            let taken = if line == b"{" {
                let text = rest(line.to_vec(), &mut lines)?;
                self.take(&text, recording).map_err(|e| {
                    let one_a_line = "a record over several lines; write one a line (`jq -c .`)";
                    if e.is_syntax() { serde_json::Error::custom(one_a_line) } else { e }
                })
            } else {
                self.take(line, recording)
            };
            wrong = taken.err().map(|e| (e.is_eof(), lines.bad_json(&e)));
        }
        match wrong {
            Some((true, error)) => {
                cli::warn("vb-stats", format!("{error}: the last line is cut off and was left out"));
                recording.cut = true;
                Ok(())
            }
            Some((false, error)) => self.bad_line(error, recording),
            None => Ok(()),
        }
    }

    fn bad_line(self, error: Error, recording: &mut Recording) -> Result<(), Error> {
        if !self.lenient {
            return Err(error);
        }
        recording.bad_lines += 1;
        Ok(())
    }

    fn take(self, line: &[u8], recording: &mut Recording) -> Result<(), serde_json::Error> {
        let kind = Kind::of(line)?;
        let mixed = match kind {
            Kind::Output => recording.vllm.is_some(),
            Kind::Vllm => recording.vllm.is_some() || !recording.requests.is_empty(),
            _ => false,
        };
        if mixed {
            return Err(serde_json::Error::custom(
                "a result of vLLM cannot be merged with other requests (its clock has no known origin); give it alone",
            ));
        }
        match kind {
            Kind::Output => serde_json::from_slice::<OutputLine>(line)?.add_to(recording, self.detailed)?,
            Kind::Run => {
                let run: RunRecord = serde_json::from_slice(line)?;
                recording.belongs_to(&run.run_id);
                recording.runs.push(run);
            }
            Kind::End => {
                let end: EndRecord = serde_json::from_slice(line)?;
                recording.belongs_to(&end.run_id);
                recording.ends.push(end);
            }
            Kind::Vllm => {
                serde_json::from_slice::<VllmResult>(line)?.add_to(recording, self.detailed);
            }
            Kind::Bare => {
                return Err(serde_json::Error::custom(
                    "a result without its requests; make it with --save-detailed, or give it to vb-agg",
                ));
            }
            Kind::Other => recording.skipped += 1,
        }
        Ok(())
    }
}

/// A JSON object that was printed over many lines: all of the input.
fn rest<R: BufRead>(mut text: Vec<u8>, lines: &mut Lines<R>) -> Result<Vec<u8>, Error> {
    while let Some(line) = lines.next_line()? {
        text.push(b'\n');
        text.extend_from_slice(line);
    }
    Ok(text)
}

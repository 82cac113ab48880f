//! Reads streams of records, or one result of vLLM, into a [`Recording`].

use std::{io::BufRead, path::PathBuf};

use serde::de::Error as _;

use super::{
    Recording,
    labels::{GroupBy, Labels},
    line::{OutputLine, RecordKind},
    vllm::VllmResult,
};
use crate::{
    cli,
    error::Error,
    ndjson::LineReader,
    record::{EndRecord, RunRecord},
};

/// How to read.
#[derive(Debug, Clone, Copy, Default)]
pub struct RecordingReader<'a> {
    /// Keep texts, errors and the gaps of failures.
    pub detailed: bool,
    /// Count bad lines and go on.
    pub lenient: bool,
    /// What requests are grouped by.
    pub by: &'a [GroupBy],
    /// The program that reads, for its messages.
    pub tool: &'static str,
}

impl RecordingReader<'_> {
    /// Reads all of these, which may be parts or hosts of one run.
    pub fn read(self, paths: &[PathBuf]) -> Result<Recording, Error> {
        self.read_in_parts(paths, usize::MAX, |_| Ok(()))
    }

    /// The same, and whenever the requests weigh `most` they are given away to `tell`.
    pub fn read_in_parts(
        self,
        paths: &[PathBuf],
        most: usize,
        mut tell: impl FnMut(Recording) -> Result<(), Error>,
    ) -> Result<Recording, Error> {
        let mut recording = Recording { labels: Labels::new(self.by), ..Recording::default() };
        let mut check = |recording: &mut Recording| {
            // A result of vLLM is one line, and in memory already.
            if recording.memory_weight() < most || recording.vllm.is_some() {
                Ok(())
            } else {
                tell(recording.take_requests())
            }
        };
        for path in paths {
            let (input, name) = cli::open_input(path)?;
            if let Some(error) = self.read_lines(LineReader::new(input, name), &mut recording, &mut check)? {
                cli::print_warning(self.tool, format!("{error}: the last line is cut off and was left out"));
            }
        }
        Ok(recording)
    }

    /// Reads to the end of one input. A last line that is cut off, as a killed writer leaves it, is noted and returned,
    /// and is no failure.
    /// After each `check` looks at the recording.
    fn read_lines<R: BufRead>(
        self,
        mut lines: LineReader<R>,
        recording: &mut Recording,
        check: &mut dyn FnMut(&mut Recording) -> Result<(), Error>,
    ) -> Result<Option<Error>, Error> {
        // The error of the line before: whether it is only a cut is known when no line follows.
        let mut wrong: Option<(bool, Error)> = None; // (may be a cut, what)
        while let Some(line) = lines.next_line()? {
            if let Some((_, error)) = wrong.take() {
                self.count_bad_line(error, recording)?;
            }
            // A number that ends in its point is wrong and not unfinished to serde.
            let in_number = line.last().is_some_and(|byte| b".-+eE".contains(byte));
            let taken = if line == b"{" {
                let text = read_remaining_lines(line.to_vec(), &mut lines)?;
                self.add_record(&text, recording).map_err(|e| {
                    let one_a_line = "a record over several lines; write one a line (`jq -c .`)";
                    if e.is_syntax() { serde_json::Error::custom(one_a_line) } else { e }
                })
            } else {
                self.add_record(line, recording)
            };
            check(recording)?;
            wrong = taken.err().map(|e| (e.is_eof() || in_number, lines.bad_json(&e)));
        }
        match wrong {
            Some((true, error)) => {
                recording.cut = true;
                Ok(Some(error))
            }
            Some((false, error)) => self.count_bad_line(error, recording).map(|()| None),
            None => Ok(None),
        }
    }

    fn count_bad_line(self, error: Error, recording: &mut Recording) -> Result<(), Error> {
        if !self.lenient {
            return Err(error);
        }
        recording.bad_lines += 1;
        Ok(())
    }

    fn add_record(self, line: &[u8], recording: &mut Recording) -> Result<(), serde_json::Error> {
        let kind = RecordKind::from_line(line)?;
        let mixed = match kind {
            RecordKind::Output => recording.vllm.is_some(),
            RecordKind::Vllm => recording.vllm.is_some() || !recording.requests.is_empty(),
            _ => false,
        };
        if mixed {
            return Err(serde_json::Error::custom(
                "a result of vLLM cannot be merged with other requests (its clock has no known origin); give it alone",
            ));
        }
        match kind {
            RecordKind::Output => serde_json::from_slice::<OutputLine>(line)?.add_to(recording, self.detailed)?,
            RecordKind::Run => {
                let run: RunRecord = serde_json::from_slice(line)?;
                recording.add_run_id(&run.run_id);
                // The parts of a run that was taken apart each have its records.
                if !recording.runs.contains(&run) {
                    recording.runs.push(run);
                }
            }
            RecordKind::End => {
                let end: EndRecord = serde_json::from_slice(line)?;
                recording.add_run_id(&end.run_id);
                if !recording.ends.contains(&end) {
                    recording.ends.push(end);
                }
            }
            RecordKind::Scrape => recording.pages.add(serde_json::from_slice(line)?),
            RecordKind::Vllm => {
                serde_json::from_slice::<VllmResult>(line)?.add_to(recording, self.detailed);
            }
            RecordKind::Bare => {
                return Err(serde_json::Error::custom(
                    "a result without its requests; make it with --save-detailed, or give it to vb-agg",
                ));
            }
            RecordKind::Other => recording.skipped += 1,
        }
        Ok(())
    }
}

/// A JSON object that was printed over many lines: all of the input.
fn read_remaining_lines<R: BufRead>(mut text: Vec<u8>, lines: &mut LineReader<R>) -> Result<Vec<u8>, Error> {
    while let Some(line) = lines.next_line()? {
        text.push(b'\n');
        text.extend_from_slice(line);
    }
    Ok(text)
}

/// Reads a stream from memory, with all details.
#[cfg(test)]
pub(crate) fn read_bytes(bytes: &[u8]) -> Result<Recording, Error> {
    let mut recording = Recording::default();
    let reader = RecordingReader { detailed: true, ..RecordingReader::default() };
    reader.read_lines(LineReader::new(bytes, "stdin"), &mut recording, &mut |_| Ok(()))?;
    Ok(recording)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RUN: &str = include_str!("../../tests/data/stats-run.ndjson");

    /// A writer may be killed at any byte.
    #[test]
    fn a_stream_cut_anywhere_is_read_up_to_there() {
        let lines: Vec<&str> = RUN.lines().collect();
        let run = [lines[0], lines[5], lines[11]].join("\n");
        for end in 0..run.len() {
            let recording = read_bytes(&run.as_bytes()[..end]).unwrap_or_else(|e| panic!("cut at byte {end}: {e}"));
            let read = recording.requests.len() + recording.runs.len() + recording.ends.len();
            let whole = run[..end].bytes().filter(|byte| *byte == b'\n').count();
            // A line may be whole but for its newline.
            assert!(read == whole || read == whole + 1, "cut at byte {end}: {read} of {whole} lines");
            assert_eq!(recording.cut, read == whole && !run[..end].is_empty() && !run[..end].ends_with('\n'));
            assert!(!recording.is_complete());
        }
    }

    #[test]
    fn what_a_line_does_not_know_may_be_null_or_absent() {
        let nulls =
            r#"{"success":true,"error":null,"run_id":null,"itl":null,"ttft":1,"phases":null,"prompt_len":null}"#;
        let recording = read_bytes(nulls.as_bytes()).unwrap();
        assert_eq!(recording.requests[0].latency, Some(1.0));
        assert_eq!(recording.requests[0].output_tokens, 1);
        assert_eq!(read_bytes(b"{\"type\":7}\n{\"type\":\"later\"}\n{}").unwrap().skipped, 3);
    }

    #[test]
    fn times_that_are_none_are_told() {
        for (line, what) in [
            (r#"{"success":true,"ttft":0.1,"itl":[0.1,-0.1]}"#, "stdin:1: -0.1 is not a time"),
            (r#"{"type":"output","start_time":"noon"}"#, "stdin:1:37: \"noon\" is not a time in Unix seconds"),
            ("5", "stdin:1:1: invalid type: integer `5`, expected a record"),
            (r#"{"type":"output","ttft":"1"}"#, "stdin:1:27: invalid type: string"),
        ] {
            let error = read_bytes(line.as_bytes()).unwrap_err();
            assert!(error.to_string().starts_with(what), "{error}");
        }
    }

    proptest! {
        #[test]
        fn bytes_of_any_kind_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_bytes(&bytes);
        }
    }
}

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
    json,
    ndjson::NdjsonReader,
    record::{EndRecord, RunRecord},
};

/// Options of reading.
#[derive(Debug, Clone, Copy, Default)]
pub struct RecordingReader<'a> {
    /// Whether to keep texts, errors and the gaps of failures.
    pub detailed: bool,
    /// Whether to count bad lines and continue.
    pub lenient: bool,
    /// The properties that requests are grouped by.
    pub by: &'a [GroupBy],
    /// The name of the program, for its messages.
    pub tool: &'static str,
}

impl RecordingReader<'_> {
    /// Reads all inputs, which may be parts or hosts of one run.
    pub fn read(self, paths: &[PathBuf]) -> Result<Recording, Error> {
        self.read_in_parts(paths, usize::MAX, |_| Ok(()))
    }

    /// The same, but whenever the requests weigh `max_weight`, they are moved out and passed to `take_part`.
    pub fn read_in_parts(
        self,
        paths: &[PathBuf],
        max_weight: usize,
        mut take_part: impl FnMut(Recording) -> Result<(), Error>,
    ) -> Result<Recording, Error> {
        let mut recording = Recording { labels: Labels::new(self.by), ..Recording::default() };
        let mut check = |recording: &mut Recording| {
            // A result of vLLM is one line, and in memory already.
            if recording.memory_weight() < max_weight || recording.vllm.is_some() {
                Ok(())
            } else {
                take_part(recording.take_requests())
            }
        };
        for path in paths {
            let (input, name) = cli::open_input(path)?;
            recording.repeats.begin_run();
            if let Some(error) = self.read_lines(NdjsonReader::new(input, name), &mut recording, &mut check)? {
                cli::print_warning(self.tool, format!("{error}: the last line is truncated and was skipped"));
            }
        }
        if let Some((id, outputs, offered)) = recording.repeats.find_excess(&recording.ends) {
            return Err(Error::Input(format!(
                "the run {id} is in the input twice: it has {offered} requests, and {outputs} outputs were read"
            )));
        }
        Ok(recording)
    }

    /// Reads one input to its end. A truncated last line, as a killed writer leaves it, is noted and returned, and is not an
    /// error. `check` looks at the recording after each line.
    fn read_lines<R: BufRead>(
        self,
        mut lines: NdjsonReader<R>,
        recording: &mut Recording,
        check: &mut dyn FnMut(&mut Recording) -> Result<(), Error>,
    ) -> Result<Option<Error>, Error> {
        // The error of the previous line: only if no line follows, it may be a truncation.
        let mut wrong: Option<(bool, Error)> = None; // (may be a truncation, error)
        while let Some(line) = lines.next_line()? {
            if let Some((_, error)) = wrong.take() {
                self.count_bad_line(error, recording)?;
            }
            // serde takes a number that ends in its decimal point for wrong, not for truncated.
            let in_number = line.last().is_some_and(|byte| b".-+eE".contains(byte));
            let is_object = line.starts_with(b"{");
            let taken = if line == b"{" {
                let text = read_remaining_lines(line.to_vec(), &mut lines)?;
                self.add_repaired(&text, recording).map_err(|e| {
                    let one_per_line = "a record spans several lines; write one record per line (`jq -c .`)";
                    if e.is_syntax() { serde_json::Error::custom(one_per_line) } else { e }
                })
            } else {
                self.add_repaired(line, recording)
            };
            if recording.repeats.has_found() {
                return Err(lines.error_at(0, "the outputs of this run have been read already; pass each run once"));
            }
            check(recording)?;
            wrong = taken.err().map(|e| {
                if is_object { (e.is_eof() || in_number, lines.bad_json(&e)) } else { (false, lines.not_an_object()) }
            });
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

    fn add_repaired(self, line: &[u8], recording: &mut Recording) -> Result<(), serde_json::Error> {
        json::parse_with(line, |line| self.add_record(line, recording))
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
                "a result of vLLM cannot be merged with other requests, because the origin of its clock is unknown; pass it alone",
            ));
        }
        match kind {
            RecordKind::Output => {
                let output: OutputLine = serde_json::from_slice(line)?;
                recording.repeats.count_output(output.run_id(), line);
                output.add_to(recording, self.detailed)?;
            }
            RecordKind::Run => {
                let run: RunRecord = serde_json::from_slice(line)?;
                recording.add_run_id(&run.run_id);
                recording.repeats.begin_run();
                // Each part of a run that was split has its run record.
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
                    "a result without its requests; write it with --save-detailed, or pass it to vb-agg",
                ));
            }
            RecordKind::Other => recording.skipped += 1,
        }
        Ok(())
    }
}

/// Reads a JSON object that spans many lines: the rest of the input.
fn read_remaining_lines<R: BufRead>(mut text: Vec<u8>, lines: &mut NdjsonReader<R>) -> Result<Vec<u8>, Error> {
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
    reader.read_lines(NdjsonReader::new(bytes, "stdin"), &mut recording, &mut |_| Ok(()))?;
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
            // A line may be complete except for its newline.
            assert!(read == whole || read == whole + 1, "cut at byte {end}: {read} of {whole} lines");
            assert_eq!(recording.cut, read == whole && !run[..end].is_empty() && !run[..end].ends_with('\n'));
            assert!(!recording.is_complete());
        }
    }

    #[test]
    fn unknown_fields_may_be_null_or_absent() {
        let nulls =
            r#"{"success":true,"error":null,"run_id":null,"itl":null,"ttft":1,"phases":null,"prompt_len":null}"#;
        let recording = read_bytes(nulls.as_bytes()).unwrap();
        assert_eq!(recording.requests[0].latency, Some(1.0));
        assert_eq!(recording.requests[0].output_tokens, 1);
        assert_eq!(read_bytes(b"{\"type\":7}\n{\"type\":\"later\"}\n{}").unwrap().skipped, 3);
    }

    #[test]
    fn values_that_are_not_times_are_errors() {
        for (line, what) in [
            (r#"{"success":true,"ttft":0.1,"itl":[0.1,-0.1]}"#, "stdin:1: -0.1 is not a time"),
            (r#"{"type":"output","start_time":"noon"}"#, "stdin:1:37: \"noon\" is not a time in Unix seconds"),
            ("5", "stdin:1: not a JSON object, which each line must be: 5"),
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

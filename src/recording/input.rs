//! Reads streams of records, or one result of vLLM, into a [`Recording`].
//!
//! Each thread reads a block of lines, parses its outputs, and waits for its turn to add them: the recording gets the lines one
//! by one in their order, and does not depend on the number of threads. What is not an output in plain JSON is parsed in turn.

use std::{
    io::BufRead,
    path::PathBuf,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use serde::de::Error as _;

use super::{
    Recording,
    blocks::{Block, BlockReader},
    labels::{GroupBy, Labels},
    line::{OutputLine, RecordKind},
    vllm::VllmResult,
};
use crate::{
    cli,
    error::Error,
    json::{self, plain},
    ndjson::LinePlace,
    parallel,
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
    /// Whether to keep results without their requests in [`Recording::summaries`].
    pub summaries: bool,
    /// The name of the program, for its messages.
    pub tool: &'static str,
}

/// Looks at the recording after each line.
type Check<'a> = dyn FnMut(&mut Recording) -> Result<(), Error> + Send + 'a;

/// What the threads that read an input share.
struct SharedInput<'r, R> {
    source: Mutex<BlockSource<R>>,
    lines: Mutex<LinesInTurn<'r>>,
    /// Wakes threads when it is the turn of another block.
    next_turn: Condvar,
}

struct BlockSource<R> {
    blocks: BlockReader<R>,
    /// The number of the next block.
    next: u64,
    has_ended: bool,
}

/// The state between two lines.
struct LinesInTurn<'r> {
    recording: &'r mut Recording,
    check: &'r mut Check<'r>,
    name: String,
    /// The number of the block whose turn it is.
    turn: u64,
    /// The error of the previous line, and whether it may be a truncation, which it is only if no line follows.
    wrong: Option<(bool, Error)>,
    /// Whether the input has ended, or is not read any further.
    has_ended: bool,
    failure: Option<Error>,
}

/// Lets the other threads end if this one panics.
struct EndOnPanic<'s, 'r, R>(&'s SharedInput<'r, R>);

impl<R> Drop for EndOnPanic<'_, '_, R> {
    fn drop(&mut self) {
        if thread::panicking() {
            lock(&self.0.lines).has_ended = true;
            self.0.next_turn.notify_all();
        }
    }
}

/// Locks, even after a panic of another thread, which ends the program.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
        mut take_part: impl FnMut(Recording) -> Result<(), Error> + Send,
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
            let threads = parallel::thread_count();
            if let Some(error) = self.read_lines(BlockReader::new(input, name), threads, &mut recording, &mut check)? {
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
    /// error.
    fn read_lines<R: BufRead + Send>(
        self,
        blocks: BlockReader<R>,
        threads: usize,
        recording: &mut Recording,
        check: &mut Check,
    ) -> Result<Option<Error>, Error> {
        let name = blocks.name().to_owned();
        let input = SharedInput {
            source: Mutex::new(BlockSource { blocks, next: 0, has_ended: false }),
            lines: Mutex::new(LinesInTurn {
                recording,
                check,
                name,
                turn: 0,
                wrong: None,
                has_ended: false,
                failure: None,
            }),
            next_turn: Condvar::new(),
        };
        thread::scope(|scope| {
            // A small input needs no other threads.
            let mut block = Block::default();
            if !self.read_block(&input, &mut block) || block.is_short() && !self.read_block(&input, &mut block) {
                return;
            }
            for _ in 1..threads {
                let help = || self.read_blocks(&input);
                // Without another thread, this one does everything.
                drop(thread::Builder::new().spawn_scoped(scope, help));
            }
            self.read_blocks(&input);
        });
        let lines = input.lines.into_inner().unwrap_or_else(PoisonError::into_inner);
        match (lines.failure, lines.wrong) {
            (Some(failure), _) => Err(failure),
            (None, Some((true, error))) => {
                lines.recording.cut = true;
                Ok(Some(error))
            }
            (None, Some((false, error))) => self.count_bad_line(error, lines.recording).map(|()| None),
            (None, None) => Ok(None),
        }
    }

    fn read_blocks<R: BufRead>(self, input: &SharedInput<R>) {
        let _end = EndOnPanic(input);
        let mut block = Block::default();
        while self.read_block(input, &mut block) {}
    }

    /// Reads the next block and adds its lines; false if there is nothing more to do.
    fn read_block<R: BufRead>(self, input: &SharedInput<R>, block: &mut Block) -> bool {
        let mut source = lock(&input.source);
        if source.has_ended {
            return false;
        }
        let read = source.blocks.read_block(block);
        let turn = source.next;
        source.next += 1;
        source.has_ended = !matches!(read, Ok(true));
        // While its writer is slower than one thread, another one would only be woken to wait.
        let source = Some(source).filter(|_| block.is_short());
        let outputs: Vec<Option<OutputLine>> = block.lines().map(|(_, line)| OutputLine::parse_plain(line)).collect();
        let mut lines = lock(&input.lines);
        while lines.turn != turn && !lines.has_ended {
            lines = input.next_turn.wait(lines).unwrap_or_else(PoisonError::into_inner);
        }
        if lines.has_ended {
            return false;
        }
        let added = read.and_then(|more| {
            block
                .lines()
                .zip(outputs)
                .try_for_each(|((number, line), output)| self.add_line(number, line, output, &mut lines))?;
            Ok(more)
        });
        lines.has_ended = !matches!(added, Ok(true));
        lines.failure = added.err();
        lines.turn += 1;
        let goes_on = !lines.has_ended;
        drop((lines, source));
        input.next_turn.notify_all();
        goes_on
    }

    /// Adds a line, and its output if that was parsed already.
    fn add_line(
        self,
        number: u64,
        line: &[u8],
        mut output: Option<OutputLine>,
        lines: &mut LinesInTurn,
    ) -> Result<(), Error> {
        let LinesInTurn { recording, check, name, wrong, .. } = lines;
        if let Some((_, error)) = wrong.take() {
            self.count_bad_line(error, recording)?;
        }
        let place = LinePlace { name, number };
        let added = json::parse_with(line, |line| match output.take() {
            Some(output) => {
                check_clocks(recording.vllm.is_some()).and_then(|()| self.add_output(output, line, recording))
            }
            None => self.add_record(line, recording),
        });
        if recording.repeats.has_found() {
            return Err(place.error_at(0, "the outputs of this run have been read already; pass each run once"));
        }
        check(recording)?;
        // An object on many lines is one line.
        let is_spread = line.starts_with(b"{\n");
        // serde takes a number that ends in its decimal point for wrong, not for truncated.
        let in_number = line.last().is_some_and(|byte| b".-+eE".contains(byte)) && !is_spread;
        *wrong = added.err().map(|e| match line {
            [b'{', ..] if is_spread && e.is_syntax() => {
                let e =
                    serde_json::Error::custom("a record spans several lines; write one record per line (`jq -c .`)");
                (false, place.bad_json(&e))
            }
            [b'{', ..] => (e.is_eof() || in_number, place.bad_json(&e)),
            _ => (false, place.not_an_object(line)),
        });
        Ok(())
    }

    fn count_bad_line(self, error: Error, recording: &mut Recording) -> Result<(), Error> {
        if !self.lenient {
            return Err(error);
        }
        recording.bad_lines += 1;
        Ok(())
    }

    fn add_record(self, line: &[u8], recording: &mut Recording) -> Result<(), serde_json::Error> {
        match RecordKind::from_line(line)? {
            RecordKind::Output => {
                check_clocks(recording.vllm.is_some())?;
                self.add_output(OutputLine::parse(line)?, line, recording)?;
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
            RecordKind::Scrape => recording.pages.add(plain::parse(line)?),
            RecordKind::Vllm => {
                check_clocks(recording.vllm.is_some() || !recording.requests.is_empty())?;
                plain::parse::<VllmResult>(line)?.add_to(recording, self.detailed);
            }
            RecordKind::Bare if !self.summaries => {
                return Err(serde_json::Error::custom(
                    "a result without its requests; write it with --save-detailed, or pass it to vb-agg or vb-diff",
                ));
            }
            RecordKind::Bare => recording.summaries.add(line)?,
            RecordKind::Other => {
                recording.skipped += 1;
                if self.summaries && recording.requests.is_empty() {
                    recording.summaries.add(line)?;
                }
            }
        }
        Ok(())
    }

    fn add_output(self, output: OutputLine, line: &[u8], recording: &mut Recording) -> Result<(), serde_json::Error> {
        recording.repeats.count_output(output.run_id(), line);
        output.add_to(recording, self.detailed)
    }
}

/// Fails if a result of vLLM is `mixed` with other requests.
fn check_clocks(mixed: bool) -> Result<(), serde_json::Error> {
    let what = "a result of vLLM cannot be merged with other requests, because the origin of its clock is unknown; pass it alone";
    if mixed { Err(serde_json::Error::custom(what)) } else { Ok(()) }
}

/// Reads a stream from memory, with all details.
#[cfg(test)]
pub(crate) fn read_bytes(bytes: &[u8]) -> Result<Recording, Error> {
    let mut recording = Recording::default();
    let reader = RecordingReader { detailed: true, ..RecordingReader::default() };
    reader.read_lines(BlockReader::new(bytes, "stdin"), 1, &mut recording, &mut |_| Ok(()))?;
    Ok(recording)
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use proptest::prelude::*;

    use super::*;

    const RUN: &str = include_str!("../../tests/data/stats-run.ndjson");

    fn read_with(bytes: &[u8], block_bytes: usize, threads: usize, lenient: bool) -> String {
        let mut recording = Recording::default();
        let input = BufReader::with_capacity(block_bytes, bytes);
        let blocks = BlockReader::new(input, "stdin").with_block_bytes(block_bytes);
        let reader = RecordingReader { detailed: true, lenient, ..RecordingReader::default() };
        let mut after_lines = Vec::new();
        let mut check = |recording: &mut Recording| {
            after_lines.push((recording.requests.len(), recording.bad_lines));
            Ok(())
        };
        let read = reader.read_lines(blocks, threads, &mut recording, &mut check).map_err(|e| e.to_string());
        let Recording { requests, gaps, base, span, cut, bad_lines, skipped, run_ids, texts, errors, .. } = recording;
        format!(
            "{read:?} {requests:?} {gaps:?} {base:?} {span:?} {cut} {bad_lines} {skipped} {run_ids:?} {texts:?} {errors:?} {after_lines:?}"
        )
    }

    /// Neither the size of blocks nor the number of threads changes what is read, nor which line an error names.
    #[test]
    fn threads_read_what_one_reads() {
        let bad = RUN.replacen("\"ttft\":", "\"ttft\":-", 3).replacen("\"success\":true", "\"success\":NaN", 1);
        let many = RUN.lines().nth(1).unwrap_or_default();
        let unlike: String = (0..200)
            .map(|i| many.replacen("\"start_time\":1", &format!("\"start_time\":{}", i + 1), 1) + "\n")
            .collect();
        for (name, text) in [
            ("whole", RUN.to_owned()),
            ("bad", bad.clone()),
            ("cut", RUN[..RUN.len() - 20].to_owned()),
            ("spread", format!("{RUN}\n{{\n\"success\":true,\n\"ttft\":1}}\n")),
            ("many", format!("{unlike}oops\n{unlike}[]")),
        ] {
            for lenient in [false, true] {
                let want = read_with(text.as_bytes(), 1 << 20, 1, lenient);
                for (block_bytes, threads) in [(100, 1), (100, 5), (3000, 2), (10_000, 3)] {
                    let got = read_with(text.as_bytes(), block_bytes, threads, lenient);
                    assert!(got == want, "{name} {lenient} {block_bytes} {threads}: {got} and not {want}");
                }
            }
        }
    }

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

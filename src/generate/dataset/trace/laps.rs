//! The rows of a trace that are to be sent, and when: its window, its speed, and its laps.

use std::path::{Path, PathBuf};

use super::{TraceFlags, TraceFormat, TraceRow, TraceRows};
use crate::{
    cli,
    error::Error,
    units::{MAX_TOKENS, Nanos},
};

/// A row that is to be sent.
#[derive(Debug, PartialEq)]
pub struct ScheduledRow {
    /// The row.
    pub row: TraceRow,
    /// When, from the first row that is sent.
    pub at: Nanos,
    /// The row's blocks under the names of its lap.
    pub blocks: Vec<u64>,
    /// Tokens of its prompt that a cache without end would have; `None`: the trace does not tell.
    pub cached: Option<u32>,
}

/// Goes through a trace, once or several times.
pub struct TraceLaps<'a> {
    format: &'a TraceFormat<'a>,
    path: PathBuf,
    name: String,
    flags: &'a TraceFlags,
    rows: Box<dyn TraceRows>,
    lap: u64,
    /// What was left out of the laps before.
    left_out: Option<String>,
    /// The first row of all, by the trace's own time; and the first and last that are sent, with how many they are.
    origin: Option<Nanos>,
    first: Nanos,
    last: Nanos,
    sent: u64,
    /// The time between the same row in two laps, in the trace's own time.
    period: Nanos,
    seen: SeenBlocks,
}

impl<'a> TraceLaps<'a> {
    /// At the beginning of the file.
    ///
    /// `front` and `rear` are the tokens that the server puts in front of a prompt and behind it.
    pub fn new(
        format: &'a TraceFormat<'a>,
        path: &Path,
        flags: &'a TraceFlags,
        (front, rear): (usize, usize),
    ) -> Result<Self, Error> {
        if let (Some(from), Some(to)) = (flags.from, flags.to)
            && from >= to
        {
            return Err(Error::Usage("--from is not before --to: there is nothing between them".into()));
        }
        if flags.laps.is_some_and(|laps| laps != 1) && !path.is_file() {
            return Err(Error::Usage(format!("--loop reads {} again, so it must be a regular file", path.display())));
        }
        let (rows, name) = open_trace(format, path)?;
        Ok(TraceLaps {
            format,
            path: path.to_path_buf(),
            name,
            flags,
            rows,
            lap: 0,
            left_out: None,
            origin: None,
            first: Nanos(0),
            last: Nanos(0),
            sent: 0,
            period: Nanos(0),
            seen: SeenBlocks::new(format.block_size, front, rear),
        })
    }

    /// The next row that is to be sent; `None`: there are no more.
    pub fn next_scheduled(&mut self) -> Result<Option<ScheduledRow>, Error> {
        loop {
            match self.next_in_window()? {
                Some(row) => return self.schedule_row(row).map(Some),
                None if !self.next_lap()? => return Ok(None),
                None => {}
            }
        }
    }

    /// Whether the trace has any row that could be sent, in whatever window.
    pub fn has_rows(&self) -> bool {
        self.origin.is_some()
    }

    /// What was left out of each lap, in words.
    pub fn left_out(&self) -> Option<String> {
        self.left_out.clone().or_else(|| self.rows.left_out())
    }

    fn next_in_window(&mut self) -> Result<Option<TraceRow>, Error> {
        while let Some(row) = self.rows.next_row()? {
            if row.input.max(row.output) > MAX_TOKENS {
                let (name, line) = (&self.name, row.line);
                return Err(Error::Input(format!(
                    "{name}:{line}: more than {MAX_TOKENS} tokens, longer than any context"
                )));
            }
            let origin = *self.origin.get_or_insert(row.time);
            let own = row.time.since(origin);
            if row.time < origin || self.flags.to.is_some_and(|to| own >= to) {
                if row.time < origin {
                    return Err(self.out_of_order(&row));
                }
                return Ok(None);
            }
            if own >= self.flags.from.unwrap_or_default() {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    fn out_of_order(&self, row: &TraceRow) -> Error {
        let (name, line) = (&self.name, row.line);
        Error::Input(format!("{name}:{line}: this row came before the one above it: sort the trace by time first"))
    }

    fn schedule_row(&mut self, row: TraceRow) -> Result<ScheduledRow, Error> {
        if self.sent == 0 {
            (self.first, self.last) = (row.time, row.time);
        }
        if row.time < self.last {
            return Err(self.out_of_order(&row));
        }
        self.last = row.time;
        if self.lap == 0 {
            self.sent += 1;
        }
        let own = row.time.since(self.first) + Nanos(self.period.0.saturating_mul(self.lap));
        // Below 2^53 ns, a hundred days, without any loss.
        let at = Nanos::from_secs_f64(own.as_secs_f64() / self.flags.speed.unwrap_or(1.0));
        let at = if self.flags.speed.is_none() { own } else { at };
        let cached = self.seen.count_cached(&row);
        // Names of other laps are other names: to its servers each lap is new.
        let blocks = row.blocks.iter().map(|block| block.wrapping_add(self.lap << 40)).collect();
        Ok(ScheduledRow { row, at, blocks, cached })
    }

    /// Goes back to the beginning, if there is to be another lap.
    fn next_lap(&mut self) -> Result<bool, Error> {
        let laps = self.flags.laps.unwrap_or(1);
        if self.sent == 0 || (laps > 0 && self.lap + 1 >= laps) {
            return Ok(false);
        }
        if self.lap == 0 {
            let span = self.last.since(self.first);
            if span == Nanos(0) {
                return Err(Error::Usage(format!(
                    "all rows of {} that were sent came at one instant, so a lap has no length and --loop would send them all \
                     at once: widen --from and --to, or leave out --loop",
                    self.name
                )));
            }
            // One gap more than there are between the rows, so that the laps follow each other at the trace's own rate.
            self.period = Nanos(span.0 + span.0 / (self.sent - 1).max(1));
        }
        self.left_out = self.left_out.take().or_else(|| self.rows.left_out());
        self.rows = open_trace(self.format, &self.path)?.0;
        self.lap += 1;
        self.last = self.first;
        self.seen.start_lap();
        Ok(true)
    }
}

fn open_trace(format: &TraceFormat, path: &Path) -> Result<(Box<dyn TraceRows>, String), Error> {
    let (input, name) = cli::open_input(path)?;
    Ok(((format.open)(input, name.clone())?, name))
}

/// The blocks that were sent: two bits for each. Traces number their blocks as they come, so there are few gaps.
#[derive(Debug, Default)]
struct SeenBlocks {
    /// Tokens of a block.
    size: usize,
    /// Blocks at the beginning that are what the server adds and nothing else: the first row of all brings them.
    front: usize,
    /// Tokens that the server adds behind a prompt.
    rear: usize,
    /// Whether any row was sent.
    begun: bool,
    /// Blocks of which the trace's own tokens were sent.
    whole: BlockBits,
    /// Blocks that a prompt ended with, where what the server adds took the place of the last of their tokens: only the same
    /// prompt has them again.
    ends: BlockBits,
    lost: bool,
}

/// Beyond this number of a block the bits would fill more than 256 MiB, and nothing is told any more.
const MOST_BLOCKS: u64 = 1 << 30;

impl SeenBlocks {
    fn new(block_size: u32, front: usize, rear: usize) -> Self {
        let size = block_size as usize;
        SeenBlocks { size, front: front.checked_div(size).unwrap_or_default(), rear, ..SeenBlocks::default() }
    }

    /// Tokens of the row in its leading blocks that came before; its blocks are known from now on.
    fn count_cached(&mut self, row: &TraceRow) -> Option<u32> {
        self.lost |= row.blocks.iter().any(|block| *block >= MOST_BLOCKS);
        let begun = std::mem::replace(&mut self.begun, true);
        if row.blocks.is_empty() || self.lost {
            return None;
        }
        let input = row.input as usize;
        let whole = match self.rear {
            0 => row.blocks.len(),
            rear => input.saturating_sub(rear).checked_div(self.size)?.min(row.blocks.len()),
        };
        let (own, end) = row.blocks.split_at(whole);
        let added = if begun { self.front.min(whole) } else { 0 };
        let mut known = added + own[added..].iter().take_while(|block| self.whole.is_set(**block)).count();
        if known == whole && end.iter().all(|block| self.ends.is_set(*block)) {
            known = row.blocks.len();
        }
        for (bits, blocks) in [(&mut self.whole, own), (&mut self.ends, end)] {
            for block in blocks {
                bits.set_bit(*block);
            }
        }
        // The last token is computed in any case, since the answer begins there.
        u32::try_from(known.saturating_mul(self.size).min(input.saturating_sub(1))).ok()
    }

    /// Another lap, whose blocks are all new. What the server adds stays what it was.
    fn start_lap(&mut self) {
        (self.whole, self.ends, self.lost) = (BlockBits::default(), BlockBits::default(), false);
    }
}

/// A bit for each number.
#[derive(Debug, Default)]
struct BlockBits(Vec<u64>);

impl BlockBits {
    fn is_set(&self, block: u64) -> bool {
        let (word, bit) = bit_position(block);
        self.0.get(word).is_some_and(|bits| bits >> bit & 1 == 1)
    }

    fn set_bit(&mut self, block: u64) {
        let (word, bit) = bit_position(block);
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << bit;
    }
}

fn bit_position(block: u64) -> (usize, u64) {
    (usize::try_from(block / 64).unwrap_or(usize::MAX), block % 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(input: u32, blocks: &[u64]) -> TraceRow {
        TraceRow { input, blocks: blocks.to_vec(), ..TraceRow::default() }
    }

    #[test]
    fn cached_tokens_are_those_of_the_leading_blocks_that_came_before() {
        let mut seen = SeenBlocks::new(512, 0, 0);
        assert_eq!(seen.count_cached(&row(1000, &[0, 1])), Some(0));
        assert_eq!(seen.count_cached(&row(1500, &[0, 2, 1])), Some(512), "a block behind a new one is not found");
        assert_eq!(seen.count_cached(&row(1000, &[0, 1])), Some(999), "the last token is always computed");
        assert_eq!(seen.count_cached(&row(9, &[])), None);
        assert_eq!(seen.count_cached(&row(9, &[1 << 40])), None, "too far apart to keep a bit of each");
        assert_eq!(seen.count_cached(&row(1000, &[0, 1])), None, "and now it cannot tell any more");
    }

    #[test]
    fn what_the_server_adds_is_known_in_front_and_no_blocks_own_behind() {
        let mut seen = SeenBlocks::new(16, 20, 5);
        assert_eq!(seen.count_cached(&row(52, &[0, 1, 2, 3])), Some(0));
        assert_eq!(seen.count_cached(&row(52, &[10, 11, 12, 13])), Some(16), "a block that is the template's alone");
        // Tokens 47 to 51 of the first prompt are the template's, so its third block is not the trace's.
        assert_eq!(seen.count_cached(&row(80, &[0, 1, 2, 5, 6])), Some(32));
        assert_eq!(seen.count_cached(&row(52, &[0, 1, 2, 3])), Some(51), "the same prompt again");
        assert_eq!(seen.count_cached(&row(51, &[0, 1, 2, 4])), Some(32), "ends with another block");
        seen.start_lap();
        assert_eq!(seen.count_cached(&row(52, &[0, 1, 2, 3])), Some(16));
    }
}

//! The rows of a trace that are sent, and when: its window, speed and laps.

use std::path::{Path, PathBuf};

use super::{TraceFlags, TraceFormat, TraceRow, TraceRows};
use crate::{
    arrival::MAX_WAIT,
    error::Error,
    units::{MAX_TOKENS, Nanos},
};

/// A row with the time at which it is sent.
#[derive(Debug, PartialEq)]
pub struct ScheduledRow {
    /// The row.
    pub row: TraceRow,
    /// Time since the first row that is sent.
    pub at: Nanos,
    /// The row's blocks, renamed for each lap.
    pub blocks: Vec<u64>,
    /// Prefix cache hit of its prompt in a cache of unlimited size; `None`: the trace does not have the data.
    pub cached: Option<u32>,
}

/// Iterates over a trace, once or several times.
pub struct TraceLaps<'a> {
    format: &'a TraceFormat<'a>,
    path: PathBuf,
    name: String,
    flags: &'a TraceFlags,
    rows: Box<dyn TraceRows>,
    lap: u64,
    /// Rows that were skipped in earlier laps.
    left_out: Option<String>,
    /// Time of the first row of the trace; times of the first and last row that were sent, and their number.
    origin: Option<Nanos>,
    first: Nanos,
    last: Nanos,
    sent: u64,
    /// Time from a row to the same row of the next lap, at the trace's own speed.
    period: Nanos,
    seen: SeenBlocks,
}

impl<'a> TraceLaps<'a> {
    /// Starts at the beginning of the file.
    ///
    /// `front` and `rear` are the tokens that the server adds before and after a prompt.
    pub fn new(
        format: &'a TraceFormat<'a>,
        path: &Path,
        flags: &'a TraceFlags,
        (front, rear): (usize, usize),
    ) -> Result<Self, Error> {
        if let (Some(from), Some(to)) = (flags.from, flags.to)
            && from >= to
        {
            return Err(Error::Usage("--from is not before --to: the window is empty".into()));
        }
        if flags.laps.is_some_and(|laps| laps != 1) && !path.is_file() {
            return Err(Error::Usage(format!(
                "--loop reads {} several times, so it must be a regular file",
                path.display()
            )));
        }
        let rows = (format.open)(path)?;
        let name = if path == Path::new("-") { "stdin".to_owned() } else { path.display().to_string() };
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

    /// The next row to send; `None` at the end.
    pub fn next_scheduled(&mut self) -> Result<Option<ScheduledRow>, Error> {
        loop {
            match self.next_in_window()? {
                Some(row) => return self.schedule_row(row).map(Some),
                None if !self.next_lap()? => return Ok(None),
                None => {}
            }
        }
    }

    /// Whether the trace has any rows, in or outside the window.
    pub fn has_rows(&self) -> bool {
        self.origin.is_some()
    }

    /// Describes the rows that each lap skipped.
    pub fn left_out(&self) -> Option<String> {
        self.left_out.clone().or_else(|| self.rows.left_out())
    }

    fn next_in_window(&mut self) -> Result<Option<TraceRow>, Error> {
        while let Some(row) = self.rows.next_row()? {
            if row.input.max(row.output) > MAX_TOKENS {
                let place = &row.place;
                return Err(Error::Input(format!("{place}: more than {MAX_TOKENS} tokens, longer than any context")));
            }
            let origin = *self.origin.get_or_insert(row.time);
            let own = row.time.since(origin);
            if row.time < origin || self.flags.to.is_some_and(|to| own >= to) {
                if row.time < origin {
                    return Err(out_of_order(&row));
                }
                return Ok(None);
            }
            if own >= self.flags.from.unwrap_or_default() {
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    fn schedule_row(&mut self, row: TraceRow) -> Result<ScheduledRow, Error> {
        if self.sent == 0 {
            (self.first, self.last) = (row.time, row.time);
        }
        if row.time < self.last {
            return Err(out_of_order(&row));
        }
        self.last = row.time;
        if self.lap == 0 {
            self.sent += 1;
        }
        let own = row.time.since(self.first) + Nanos(self.period.0.saturating_mul(self.lap));
        // Exact below 2^53 ns, a hundred days.
        let at = Nanos::from_secs_f64(own.as_secs_f64() / self.flags.speed.unwrap_or(1.0));
        let at = if self.flags.speed.is_none() { own } else { at };
        if at > MAX_WAIT {
            return Err(Error::Input(format!(
                "{}: this row is sent more than a year after the first one: are all times in the same unit? \
                 --to ends the trace before it, and --speed shortens it",
                row.place
            )));
        }
        let cached = self.seen.count_cached(&row);
        // Each lap has its own block names, so that its prompts are new to the server.
        let blocks = row.blocks.iter().map(|block| block.wrapping_add(self.lap << 40)).collect();
        Ok(ScheduledRow { row, at, blocks, cached })
    }

    /// Starts another lap, unless this was the last.
    fn next_lap(&mut self) -> Result<bool, Error> {
        let laps = self.flags.laps.unwrap_or(1);
        if self.sent == 0 || (laps > 0 && self.lap + 1 >= laps) {
            return Ok(false);
        }
        if self.lap == 0 {
            let span = self.last.since(self.first);
            if span == Nanos(0) {
                return Err(Error::Usage(format!(
                    "all rows of {} that are sent have the same time, so a lap has no length and --loop would send all of them \
                     at once: use a larger window, or leave out --loop",
                    self.name
                )));
            }
            // One gap more than between the rows, so that the laps follow each other at the trace's own rate.
            self.period = Nanos(span.0 + span.0 / (self.sent - 1).max(1));
        }
        self.left_out = self.left_out.take().or_else(|| self.rows.left_out());
        self.rows = (self.format.open)(&self.path)?;
        self.lap += 1;
        self.last = self.first;
        self.seen.start_lap();
        Ok(true)
    }
}

fn out_of_order(row: &TraceRow) -> Error {
    let place = &row.place;
    Error::Input(format!("{place}: this row is earlier than the previous one: sort the trace by time first"))
}

/// Blocks that were sent, in two bits each. Traces number their blocks consecutively, so few bits are unused.
#[derive(Debug, Default)]
struct SeenBlocks {
    /// Tokens per block.
    size: usize,
    /// Leading blocks that only contain what the server adds: the first row brings them into the cache.
    front: usize,
    /// Tokens that the server adds after a prompt.
    rear: usize,
    /// Whether any row was sent.
    begun: bool,
    /// Blocks that were sent completely.
    whole: BlockBits,
    /// Last blocks of prompts, in which the tokens that the server adds replaced the trace's last ones: only the same
    /// prompt has them again.
    ends: BlockBits,
    lost: bool,
}

/// Beyond this block number the bits would need more than 256 MiB, and computing cache hits stops.
const MAX_BLOCK: u64 = 1 << 30;

impl SeenBlocks {
    fn new(block_size: u32, front: usize, rear: usize) -> Self {
        let size = block_size as usize;
        SeenBlocks { size, front: front.checked_div(size).unwrap_or_default(), rear, ..SeenBlocks::default() }
    }

    /// Counts the tokens in the row's leading blocks that were sent before, and adds its blocks.
    fn count_cached(&mut self, row: &TraceRow) -> Option<u32> {
        self.lost |= row.blocks.iter().any(|block| *block >= MAX_BLOCK);
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
        // The last token is always computed, because the response begins there.
        u32::try_from(known.saturating_mul(self.size).min(input.saturating_sub(1))).ok()
    }

    /// Starts another lap, with new blocks. What the server adds stays in the cache.
    fn start_lap(&mut self) {
        (self.whole, self.ends, self.lost) = (BlockBits::default(), BlockBits::default(), false);
    }
}

/// One bit per number.
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
    fn cached_tokens_are_in_leading_blocks_that_were_sent_before() {
        let mut seen = SeenBlocks::new(512, 0, 0);
        assert_eq!(seen.count_cached(&row(1000, &[0, 1])), Some(0));
        assert_eq!(seen.count_cached(&row(1500, &[0, 2, 1])), Some(512), "a block after a new one is not found");
        assert_eq!(seen.count_cached(&row(1000, &[0, 1])), Some(999), "the last token is always computed");
        assert_eq!(seen.count_cached(&row(9, &[])), None);
        assert_eq!(seen.count_cached(&row(9, &[1 << 40])), None, "too far apart to keep a bit per block");
        assert_eq!(seen.count_cached(&row(1000, &[0, 1])), None, "no longer computed");
    }

    #[test]
    fn tokens_that_the_server_adds_are_cached_at_the_beginning_only() {
        let mut seen = SeenBlocks::new(16, 20, 5);
        assert_eq!(seen.count_cached(&row(52, &[0, 1, 2, 3])), Some(0));
        assert_eq!(seen.count_cached(&row(52, &[10, 11, 12, 13])), Some(16), "a block that only the template fills");
        // Tokens 47 to 51 of the first prompt are the template's, so its third block is not complete.
        assert_eq!(seen.count_cached(&row(80, &[0, 1, 2, 5, 6])), Some(32));
        assert_eq!(seen.count_cached(&row(52, &[0, 1, 2, 3])), Some(51), "the same prompt again");
        assert_eq!(seen.count_cached(&row(51, &[0, 1, 2, 4])), Some(32), "ends with another block");
        seen.start_lap();
        assert_eq!(seen.count_cached(&row(52, &[0, 1, 2, 3])), Some(16));
    }
}

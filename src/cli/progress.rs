//! How far a program has got, on standard error: a bar on a terminal, a line from time to time in a file.

use std::{
    io::{self, IsTerminal, Write},
    sync::{Mutex, MutexGuard, PoisonError},
};

use terminal_size::{Width, terminal_size_of};
use unicode_width::UnicodeWidthChar;

use super::look::LookFlags;
use crate::{
    clock::Clock,
    printable::clean_line,
    units::{Nanos, SECOND},
};

/// How often the bar is drawn.
const DRAW_INTERVAL: Nanos = Nanos(SECOND / 2);

/// How often a line is written into a file.
const LINE_INTERVAL: Nanos = Nanos(30 * SECOND);

/// Its parts: of ASCII, since terminals with Chinese fonts may draw others two columns wide.
const BAR_WIDTH: usize = 12;

/// Returns to the begin of the line and erases it.
const ERASE_LINE: &str = "\r\x1b[2K";

/// The bar that the terminal shows. Messages are written above it.
static BAR: Mutex<Option<String>> = Mutex::new(None);

/// Shows how far a program has got. Dropping it takes the bar away.
#[derive(Debug)]
pub struct ProgressDisplay {
    tool: &'static str,
    clock: Clock,
    /// When it was last shown.
    shown: Nanos,
    on_terminal: bool,
    /// The cell of a sweep, which shows how the cell ended in its own line.
    cell: Option<String>,
}

/// How far a program has got.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Steps that are done, and all steps; `None`: their number is not known.
    pub steps: Option<(u64, u64)>,
    /// What else there is to know, the most important first: a narrow terminal cuts it.
    pub text: String,
}

impl ProgressDisplay {
    /// Shows nothing until [`ProgressDisplay::update`]. `None`: standard error is not a terminal, and `in_files` does not ask for lines
    /// in files.
    #[must_use]
    pub fn open(tool: &'static str, in_files: bool) -> Option<Self> {
        let on_terminal = io::stderr().is_terminal();
        let (clock, cell) = (Clock::start(), super::sweep_cell());
        (on_terminal || in_files).then_some(ProgressDisplay { tool, clock, shown: Nanos(0), on_terminal, cell })
    }

    /// Shows the progress if it is time to.
    pub fn update(&mut self, progress: impl FnOnce() -> Progress) {
        let now = self.clock.now();
        let interval = if self.on_terminal { DRAW_INTERVAL } else { LINE_INTERVAL };
        if now.since(self.shown) < interval {
            return;
        }
        self.shown = now;
        let mut progress = progress();
        if let Some(cell) = &self.cell {
            progress.text.insert_str(0, &format!("{cell}: "));
        }
        if !self.on_terminal {
            super::print_warning(self.tool, progress.text);
            return;
        }
        // A terminal that does not know its width is as wide as the usual one.
        let width = terminal_size_of(io::stderr()).map_or(80, |(Width(columns), _)| columns.into());
        progress.text = LookFlags::of_messages().language().translate(&progress.text).into_owned();
        let line = progress.draw(self.tool, width);
        let mut shown = lock_bar();
        print(&[ERASE_LINE, &line]);
        *shown = Some(line);
    }

    /// Replaces the bar by a line that stays, unless a sweep writes that; in a file, `text` is written only if other lines were.
    pub fn close(self, text: &str) {
        let (tool, is_shown) = (self.tool, self.cell.is_none() && (self.on_terminal || self.shown > Nanos(0)));
        drop(self);
        if is_shown {
            super::print_warning(tool, text);
        }
    }
}

impl Drop for ProgressDisplay {
    fn drop(&mut self) {
        if lock_bar().take().is_some() {
            print(&[ERASE_LINE]);
        }
    }
}

impl Progress {
    /// A line for a terminal of this width. The last column remains empty: some terminals begin a new line after it.
    fn draw(&self, tool: &str, width: usize) -> String {
        let bar = self.steps.map_or_else(String::new, |(done, all)| {
            let full =
                usize::try_from(done.min(all).saturating_mul(BAR_WIDTH as u64) / all.max(1)).unwrap_or(BAR_WIDTH);
            format!(" [{}{}]", "#".repeat(full), "-".repeat(BAR_WIDTH - full))
        });
        let line = format!("{tool}{bar} {}", clean_line(&self.text));
        let mut free = width.saturating_sub(1);
        let fits = |c: &char| {
            let columns = c.width().unwrap_or_default();
            let fits = columns <= free;
            free = free.saturating_sub(columns);
            fits
        };
        line.chars().take_while(fits).collect()
    }
}

fn lock_bar() -> MutexGuard<'static, Option<String>> {
    BAR.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes lines to standard error, above the bar if there is one.
pub(super) fn print_above_bar(lines: &str) {
    match &*lock_bar() {
        Some(bar) => print(&[ERASE_LINE, lines, bar]),
        None => print(&[lines]),
    }
}

fn print(parts: &[&str]) {
    // If standard error is closed or full, there is nowhere to report it.
    let _ = io::stderr().write_all(parts.concat().as_bytes()).and_then(|()| io::stderr().flush());
}

/// A time for people who wait: `40 s`, `12 min`, `3.5 h`.
#[must_use]
pub fn format_seconds(left: Nanos) -> String {
    match left.as_secs_f64() {
        seconds if seconds < 99.5 => format!("{seconds:.0} s"),
        seconds if seconds < 99.5 * 60.0 => format!("{:.0} min", seconds / 60.0),
        seconds => format!("{:.1} h", seconds / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_cut_to_the_width_of_the_terminal() {
        let progress = Progress { steps: Some((50, 200)), text: "50 of 200, 7 s left, 8 running".into() };
        assert_eq!(progress.draw("vb-fire", 80), "vb-fire [###---------] 50 of 200, 7 s left, 8 running");
        assert_eq!(progress.draw("vb-fire", 40), "vb-fire [###---------] 50 of 200, 7 s l");
        assert_eq!(progress.draw("vb-fire", 0), "");
        let chinese = Progress { text: "50 / 200，还需 7 s".into(), ..Progress::default() };
        assert_eq!(chinese.draw("vb-fire", 22), "vb-fire 50 / 200，还");
        let unknown = Progress { steps: None, ..progress };
        assert_eq!(unknown.draw("vb-fire", 20), "vb-fire 50 of 200, ");
    }

    #[test]
    fn a_time_has_two_digits() {
        let texts = [0.4, 99.4, 100.0, 5969.0, 5971.0, 1e6].map(|s| format_seconds(Nanos::from_secs_f64(s)));
        assert_eq!(texts, ["0 s", "99 s", "2 min", "99 min", "1.7 h", "277.8 h"]);
    }
}

//! Text for people: lines, notes and columns, in a language, with colours, as wide as the terminal.
//!
//! What is added is made fit for a terminal first, so the only control characters are the colours added here.

use std::borrow::Cow;

use anstyle::{AnsiColor, Style};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::{lang::Language, printable::clean_line, secrets::hide_remembered};

/// The width of a table that is not printed on a terminal.
const WIDTH_OF_FILES: usize = 80;

/// How text for people looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Look {
    /// The language.
    pub language: Language,
    /// Whether there are colours.
    pub colored: bool,
    /// The columns of the terminal; `None` for a file, in which lines may be of any length.
    pub width: Option<usize>,
}

impl Look {
    /// The width that tables should have.
    #[must_use]
    pub fn table_width(self) -> usize {
        self.width.unwrap_or(WIDTH_OF_FILES)
    }
}

/// What a text means to the reader, shown as a colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tone {
    /// Ordinary text.
    #[default]
    Plain,
    /// Something is as it should be.
    Good,
    /// Something may be wrong, or is not known.
    Doubtful,
    /// Something is wrong.
    Bad,
    /// What to read first.
    Strong,
    /// What to read last.
    Faint,
}

impl Tone {
    fn style(self) -> Style {
        let color = |color: AnsiColor| Style::new().fg_color(Some(color.into()));
        match self {
            Tone::Plain => Style::new(),
            Tone::Good => color(AnsiColor::Green),
            Tone::Doubtful => color(AnsiColor::Yellow),
            Tone::Bad => color(AnsiColor::Red).bold(),
            Tone::Strong => Style::new().bold(),
            Tone::Faint => Style::new().dimmed(),
        }
    }
}

/// A piece of text with one tone: part of a line, or a cell of a table.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    text: String,
    tone: Tone,
    right: bool,
    verbatim: bool,
}

impl Cell {
    /// Text that begins at the left of its column.
    pub fn left(text: impl Into<String>) -> Self {
        Cell { text: text.into(), ..Cell::default() }
    }

    /// Text that ends at the right of its column, as numbers do.
    pub fn right(text: impl Into<String>) -> Self {
        Cell { right: true, ..Cell::left(text) }
    }

    /// Text of servers and files, and names: it is not translated.
    pub fn verbatim(text: impl Into<String>) -> Self {
        Cell { verbatim: true, ..Cell::left(text) }
    }

    /// Whether it has no text.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// With this tone.
    #[must_use]
    pub fn toned(self, tone: Tone) -> Self {
        Cell { tone, ..self }
    }

    /// Fit for a terminal, and in the language of the reader.
    fn finish(&self, look: Look) -> String {
        let text = hide_remembered(&self.text);
        let text = if self.verbatim { Cow::Borrowed(&*text) } else { look.language.translate(&text) };
        clean_line(&text).into_owned()
    }
}

/// Text for people, as it is built.
#[derive(Debug, Default)]
pub struct Printout {
    look: Look,
    text: String,
}

impl Printout {
    /// An empty text.
    #[must_use]
    pub fn new(look: Look) -> Self {
        Printout { look, text: String::new() }
    }

    /// How it looks.
    #[must_use]
    pub fn look(&self) -> Look {
        self.look
    }

    /// The text, which may have colours.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Adds an empty line, unless the last line is one.
    pub fn add_blank(&mut self) {
        if !self.text.ends_with("\n\n") {
            self.text.push('\n');
        }
    }

    /// Adds a line.
    pub fn add_line(&mut self, text: impl Into<String>) {
        self.add_cells(&[Cell::left(text)]);
    }

    /// Adds a line as it is, with the spaces at its end: in English in every language.
    pub fn add_exact(&mut self, line: &str) {
        self.text.push_str(&clean_line(line));
        self.text.push('\n');
    }

    /// Adds a line of several pieces.
    pub fn add_cells(&mut self, cells: &[Cell]) {
        let mut line = String::new();
        for cell in cells {
            line.push_str(&self.paint(&cell.finish(self.look), cell.tone));
        }
        self.push_line(&line);
    }

    /// Adds a line whose cells have fixed widths: 0 for as wide as the text.
    pub fn add_fields(&mut self, fields: &[(Cell, usize)]) {
        let mut line = String::new();
        for (cell, width) in fields {
            let text = cell.finish(self.look);
            line.push_str(&self.paint_padded(&text, cell, *width));
        }
        self.push_line(&line);
    }

    /// Adds a rule around a heading.
    pub fn add_rule(&mut self, heading: &str, fill: char, width: usize) {
        let heading = Cell::left(heading).finish(self.look);
        let free = width.saturating_sub(heading.width());
        let rule = |n: usize| fill.to_string().repeat(n);
        self.push_line(&(rule(free / 2) + &heading + &rule(free - free / 2)));
    }

    /// Adds text that is wrapped at the width of the terminal; all lines but the first are indented.
    pub fn add_wrapped(&mut self, cells: &[Cell], indent: usize) {
        let Some(width) = self.look.width.filter(|width| *width > indent + 20) else { return self.add_cells(cells) };
        let pieces: Vec<(String, Tone)> = cells.iter().map(|cell| (cell.finish(self.look), cell.tone)).collect();
        let whole: String = pieces.iter().map(|(text, _)| text.as_str()).collect();
        let breaks = wrap_text(&whole, width, indent);
        let (mut line, mut at) = (String::new(), 0);
        for (text, tone) in pieces {
            let end = at + text.len();
            let mut from = at;
            for cut in breaks.iter().copied().filter(|cut| (at..end).contains(cut)) {
                line.push_str(&self.paint(whole[from..cut].trim_end(), tone));
                self.push_line(&line);
                line = " ".repeat(indent);
                from = cut;
            }
            line.push_str(&self.paint(&whole[from..end], tone));
            at = end;
        }
        self.push_line(&line);
    }

    /// Adds rows in columns as wide as their widest cells.
    pub fn add_columns(&mut self, rows: &[Vec<Cell>]) {
        let texts: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(|cell| cell.finish(self.look)).collect()).collect();
        let widths = column_widths(&texts);
        for (row, texts) in rows.iter().zip(&texts) {
            let cells = row.iter().zip(texts).zip(&widths);
            let line: Vec<String> = cells.map(|((cell, text), width)| self.paint_padded(text, cell, *width)).collect();
            self.push_line(&line.join(GAP));
        }
    }

    /// How wide these rows would be.
    #[must_use]
    pub fn width_of_columns(&self, rows: &[Vec<Cell>]) -> usize {
        let texts: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(|cell| cell.finish(self.look)).collect()).collect();
        let widths = column_widths(&texts);
        widths.iter().sum::<usize>() + GAP.len() * widths.len().saturating_sub(1)
    }

    fn push_line(&mut self, line: &str) {
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    fn paint_padded(&self, text: &str, cell: &Cell, width: usize) -> String {
        let pad = " ".repeat(width.saturating_sub(text.width()));
        let painted = self.paint(text, cell.tone);
        if cell.right { pad + &painted } else { painted + &pad }
    }

    fn paint(&self, text: &str, tone: Tone) -> String {
        if !self.look.colored || tone == Tone::Plain || text.is_empty() {
            return text.to_owned();
        }
        let style = tone.style();
        format!("{style}{text}{style:#}")
    }
}

/// The space between two columns.
const GAP: &str = "  ";

fn column_widths(rows: &[Vec<String>]) -> Vec<usize> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|row| Some(row.get(column)?.width())).max().unwrap_or_default();
    (0..columns).map(width).collect()
}

/// The places at which a text continues on the next line: after spaces, and between characters that are two columns wide.
fn wrap_text(text: &str, width: usize, indent: usize) -> Vec<usize> {
    let mut breaks = Vec::new();
    // The last place for a break, and the width up to it.
    let (mut at, mut possible) = (0, None);
    let mut before = ' ';
    for (place, c) in text.char_indices() {
        let wide = |c: char| c.width() == Some(2) && !is_closing(c);
        if place > 0 && c != ' ' && (before == ' ' || wide(c) || (c.is_alphanumeric() && before.width() == Some(2))) {
            possible = Some((place, at));
        }
        at += c.width().unwrap_or_default();
        before = c;
        if at > width
            && c != ' '
            && let Some((place, used)) = possible.take()
        {
            breaks.push(place);
            at = at - used + indent;
        }
    }
    breaks
}

/// Whether a character may not begin a line.
fn is_closing(c: char) -> bool {
    matches!(c, '，' | '。' | '；' | '：' | '、' | '）' | '」' | '！' | '？' | '”')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(width: Option<usize>) -> Look {
        Look { width, ..Look::default() }
    }

    #[test]
    fn characters_of_two_columns_align() {
        let mut out = Printout::new(Look::default());
        out.add_columns(&[
            vec![Cell::left("首 Token 延迟"), Cell::right("1.5")],
            vec![Cell::left("TTFT"), Cell::right("中文")],
        ]);
        assert_eq!(out.as_str(), "首 Token 延迟   1.5\nTTFT           中文\n");
        let widths: Vec<usize> = out.as_str().lines().map(UnicodeWidthStr::width).collect();
        assert_eq!(widths[0], widths[1]);
    }

    #[test]
    fn long_text_is_wrapped_with_an_indent() {
        let mut out = Printout::new(look(Some(30)));
        out.add_wrapped(&[Cell::left("note: "), Cell::left("one two three four five six seven eight")], 6);
        assert_eq!(out.as_str(), "note: one two three four five\n      six seven eight\n");
        let mut out = Printout::new(look(Some(30)));
        out.add_wrapped(&[Cell::left("一二三四五六七八九十一二三四，五六七八九十")], 4);
        assert_eq!(out.as_str(), "一二三四五六七八九十一二三四，\n    五六七八九十\n");
        let mut out = Printout::new(look(None));
        out.add_wrapped(&[Cell::left("one two three four five six seven eight")], 6);
        assert_eq!(out.as_str().lines().count(), 1);
    }

    #[test]
    fn empty_lines_do_not_pile_up() {
        let mut out = Printout::new(Look::default());
        out.add_line("a");
        out.add_blank();
        out.add_blank();
        out.add_line("b");
        assert_eq!(out.as_str(), "a\n\nb\n");
    }

    #[test]
    fn colours_are_around_clean_text() {
        let mut out = Printout::new(Look { colored: true, ..Look::default() });
        out.add_cells(&[Cell::left("a\u{1b}[31mb\nc").toned(Tone::Good), Cell::left(" d")]);
        assert_eq!(out.as_str(), "\u{1b}[32ma\u{fffd}[31mb c\u{1b}[0m d\n");
        let mut out = Printout::new(Look { colored: true, ..Look::default() });
        out.add_columns(&[vec![Cell::right("1").toned(Tone::Bad), Cell::left("x")], vec![Cell::right("10")]]);
        assert_eq!(out.as_str(), " \u{1b}[1m\u{1b}[31m1\u{1b}[0m  x\n10\n");
    }

    #[test]
    fn names_are_not_translated() {
        let mut out = Printout::new(Look { language: Language::Zh, ..Look::default() });
        out.add_cells(&[Cell::left("steady"), Cell::verbatim(" steady")]);
        assert_eq!(out.as_str(), "稳态 steady\n");
    }
}

//! Text of servers and files, made fit for a terminal: characters that a terminal acts on, or that change the order of the
//! letters, are replaced. Records and JSON keep them.

use std::borrow::Cow;

/// What is shown in place of such a character. It has the same width, so that tables stay aligned.
const REPLACEMENT: char = '\u{fffd}';

/// Text of several lines: only their ends keep their effect.
#[must_use]
pub fn clean_text(text: &str) -> Cow<'_, str> {
    replace_chars(text, |c| if c == '\n' { c } else { printable_char(c) })
}

/// Text of one line: line ends and tabs become spaces.
#[must_use]
pub fn clean_line(text: &str) -> Cow<'_, str> {
    replace_chars(text, |c| if matches!(c, '\n' | '\r' | '\t') { ' ' } else { printable_char(c) })
}

fn replace_chars(text: &str, shown: impl Fn(char) -> char) -> Cow<'_, str> {
    if text.chars().all(|c| shown(c) == c) { Cow::Borrowed(text) } else { text.chars().map(shown).collect() }
}

fn printable_char(c: char) -> char {
    let acts = c.is_control()
        // Marks of the order of letters, line ends of Unicode, and what is not visible.
        || matches!(
            c,
            '\u{61c}'
                | '\u{180e}'
                | '\u{200b}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        );
    if acts { REPLACEMENT } else { c }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_acts_on_is_replaced() {
        for (text, line) in [
            ("a\u{1b}[2Jb", "a\u{fffd}[2Jb"),
            ("a\u{9b}2Jb\u{7f}\u{0}\u{8}", "a\u{fffd}2Jb\u{fffd}\u{fffd}\u{fffd}"),
            ("ab\u{202e}cd\u{2066}\u{200f}", "ab\u{fffd}cd\u{fffd}\u{fffd}"),
            ("a\r\nb\tc\u{2028}d", "a  b c\u{fffd}d"),
            ("größer, 中文, 👩\u{200d}🚀", "größer, 中文, 👩\u{200d}🚀"),
        ] {
            assert_eq!(clean_line(text), line);
        }
        assert_eq!(clean_text("a\nb\r\n\u{1b}"), "a\nb\u{fffd}\n\u{fffd}");
        assert!(matches!(clean_text("a\nb"), Cow::Borrowed(_)) && matches!(clean_line("a b"), Cow::Borrowed(_)));
    }
}

//! The chunks of one answer differ, nearly all of them, in their text only: the rest need not be parsed again.

use std::borrow::Cow;

use memchr::memchr2;
use smallvec::smallvec;

use super::openai::{Choice, Chunk, Delta, Text};

/// A chunk with its text left out.
#[derive(Debug, Default)]
pub struct Pattern {
    /// What stands before and behind the text, one after the other; empty: there is no pattern.
    around: Vec<u8>,
    before: usize,
    piece: Piece,
}

/// Where a chunk has its text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Piece {
    #[default]
    Text,
    Content,
    Reasoning,
    ReasoningContent,
}

impl Pattern {
    /// Remembers `data`, of which `chunk` was read, if it holds nothing but text that another may replace.
    pub fn learn(&mut self, data: &[u8], chunk: &Chunk<'_>) {
        self.around.clear();
        let Some((piece, text)) = only_text(chunk) else { return };
        let Some(start) = text.as_ptr().addr().checked_sub(data.as_ptr().addr()) else { return };
        let (Some(before), Some(behind)) = (data.get(..start), data.get(start + text.len()..)) else { return };
        self.around.extend_from_slice(before);
        self.around.extend_from_slice(behind);
        (self.before, self.piece) = (start, piece);
    }

    /// What parsing `data` would give, if it differs from what was learned in its text only.
    #[must_use]
    pub fn read<'a>(&self, data: &'a [u8]) -> Option<Chunk<'a>> {
        let (before, behind) = self.around.split_at_checked(self.before)?;
        let text = data.strip_prefix(before)?.strip_suffix(behind)?;
        // What ends a string of JSON, or changes the meaning of what follows, is left to the parser.
        let plain = !text.is_empty() && memchr2(b'"', b'\\', text).is_none() && text.iter().all(|byte| *byte >= b' ');
        if self.around.is_empty() || !plain {
            return None;
        }
        let text = Some(Text(Cow::Borrowed(str::from_utf8(text).ok()?)));
        let choice = match self.piece {
            Piece::Text => Choice { text, ..Choice::default() },
            Piece::Content => Choice::of(Delta { content: text, ..Delta::default() }),
            Piece::Reasoning => Choice::of(Delta { reasoning: text, ..Delta::default() }),
            Piece::ReasoningContent => Choice::of(Delta { reasoning_content: text, ..Delta::default() }),
        };
        Some(Chunk { choices: smallvec![choice], ..Chunk::default() })
    }
}

/// The text of a chunk of one choice that says nothing else, and stands in it as it is.
fn only_text<'a>(chunk: &'a Chunk<'_>) -> Option<(Piece, &'a str)> {
    let Chunk { choices, usage: None, error: None, object, metrics: None } = chunk else { return None };
    let [Choice { index: 0, text, delta, token_ids, finish_reason: None }] = &choices[..] else { return None };
    if object.as_ref().is_some_and(|o| o.0 == "error") || token_ids.as_ref().is_some_and(|ids| !ids.is_empty()) {
        return None;
    }
    let (piece, text) = match (text, delta) {
        (Some(text), None) => (Piece::Text, text),
        (None, Some(Delta { role: None, content, reasoning, reasoning_content, tool_calls: None, function_call: None })) => {
            match (content, reasoning, reasoning_content) {
                (Some(text), None, None) => (Piece::Content, text),
                (None, Some(text), None) => (Piece::Reasoning, text),
                (None, None, Some(text)) => (Piece::ReasoningContent, text),
                _ => return None,
            }
        }
        _ => return None,
    };
    match &text.0 {
        Cow::Borrowed(text) if !text.is_empty() => Some((piece, text)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(data: &[u8]) -> Option<Chunk<'_>> {
        serde_json::from_slice(data).ok()
    }

    fn shown(chunk: &Chunk<'_>) -> String {
        let Chunk { choices, usage, error, object: _, metrics } = chunk;
        // The kind of object is told apart only as far as it is an error.
        format!("{choices:?} {usage:?} {error:?} {} {metrics:?}", chunk.is_error())
    }

    const SHAPES: [&str; 6] = [
        r#"{"id":"a","object":"text_completion","choices":[{"index":0,"text":"TEXT","finish_reason":null}]}"#,
        r#"{"choices":[{"index":0,"delta":{"content":"TEXT"},"token_ids":null}]}"#,
        r#"{"choices":[{"index":0,"delta":{"reasoning":"TEXT"}}],"usage":null}"#,
        r#"{"choices":[{"index":0,"delta":{"reasoning_content":"TEXT"}}]}"#,
        r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":"TEXT"}}]}"#,
        r#"{"choices":[{"index":0,"text":"TEXT","token_ids":[1]}],"usage":{"completion_tokens":3}}"#,
    ];

    #[test]
    fn which_chunks_repeat() {
        for (shape, repeats) in SHAPES.iter().zip([true, true, true, true, false, false]) {
            let (first, second) = (shape.replace("TEXT", "one"), shape.replace("TEXT", " zwei ü"));
            let mut pattern = Pattern::default();
            assert!(pattern.read(first.as_bytes()).is_none());
            pattern.learn(first.as_bytes(), &parsed(first.as_bytes()).unwrap());
            assert_eq!(pattern.read(second.as_bytes()).is_some(), repeats, "{shape}");
        }
        let mut pattern = Pattern::default();
        let first = SHAPES[0].replace("TEXT", "x");
        pattern.learn(first.as_bytes(), &parsed(first.as_bytes()).unwrap());
        for other in [r#"a\n"#, r#"a","finish_reason":"stop"#, "", "\n", "\u{7f}"] {
            let second = SHAPES[0].replace("TEXT", other);
            assert_eq!(pattern.read(second.as_bytes()).is_some(), other == "\u{7f}", "{other:?}");
        }
        assert!(pattern.read(&SHAPES[0].replace("TEXT", "?").replace('?', "\u{0}").into_bytes()).is_none());
        assert!(pattern.read(first.replace("index\":0", "index\":1").as_bytes()).is_none());
        assert!(pattern.read(first.replace("null}", "\"stop\"}").as_bytes()).is_none());
    }

    proptest! {
        #[test]
        fn it_never_says_what_the_parser_would_not(
            shapes in prop::collection::vec(0..SHAPES.len(), 1..12),
            texts in prop::collection::vec(r#"[ab\\"n\n ü]{0,5}|","text":"|\}\]"#, 12),
        ) {
            let mut pattern = Pattern::default();
            for (shape, text) in shapes.iter().zip(&texts) {
                let data = SHAPES[*shape].replace("TEXT", text);
                let wanted = parsed(data.as_bytes());
                if let Some(chunk) = pattern.read(data.as_bytes()) {
                    prop_assert_eq!(Some(shown(&chunk)), wanted.as_ref().map(shown), "{}", data);
                }
                if let Some(chunk) = &wanted {
                    pattern.learn(data.as_bytes(), chunk);
                }
            }
        }
    }
}

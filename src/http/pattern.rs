//! The chunks of one answer differ, nearly all of them, in their text only: the rest need not be parsed again.

use std::borrow::Cow;

use super::openai::{Choice, Chunk, Delta};

/// A chunk with its text left out.
#[derive(Debug, Default)]
pub struct Pattern {
    /// What stands before and behind the text, one after the other; empty: there is no pattern.
    around: Vec<u8>,
    before: usize,
    piece: Piece,
}

/// What a chunk's text is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Piece {
    /// Of the answer proper.
    #[default]
    Answer,
    /// Of the thoughts before it.
    Reasoning,
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

    /// The text of `data`, and whether it is of the answer proper or reasoning, if it differs from what was learned in its
    /// text only.
    #[must_use]
    pub fn read<'a>(&self, data: &'a [u8]) -> Option<(Piece, &'a str)> {
        let (before, behind) = self.around.split_at_checked(self.before)?;
        let text = data.strip_prefix(before)?.strip_suffix(behind)?;
        // What ends a string of JSON, or changes the meaning of what follows, is left to the parser.
        let plain = !text.is_empty() && text.iter().all(|byte| *byte >= b' ' && !matches!(byte, b'"' | b'\\'));
        if self.around.is_empty() || !plain {
            return None;
        }
        Some((self.piece, str::from_utf8(text).ok()?))
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
        (Some(text), None) => (Piece::Answer, text),
        (
            None,
            Some(Delta { role: None, content, reasoning, reasoning_content, tool_calls: None, function_call: None }),
        ) => match (content, reasoning, reasoning_content) {
            (Some(text), None, None) => (Piece::Answer, text),
            (None, Some(text), None) | (None, None, Some(text)) => (Piece::Reasoning, text),
            _ => return None,
        },
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

    /// What an answer takes from a chunk whose only news is its text; `None`: there is more.
    fn news(chunk: &Chunk<'_>) -> Option<(Piece, String)> {
        let [choice] = &chunk.choices[..] else { return None };
        let more = choice.index > 0 || choice.finish_reason.is_some() || choice.token_ids().is_some() || choice.opens();
        if more || chunk.is_error() || chunk.usage.is_some() || chunk.metrics.is_some() {
            return None;
        }
        let reasoning = choice.delta.as_ref().and_then(|d| d.reasoning.as_ref().or(d.reasoning_content.as_ref()));
        match reasoning {
            Some(text) => choice.text().is_empty().then(|| (Piece::Reasoning, text.0.to_string())),
            None => Some((Piece::Answer, choice.text().to_owned())),
        }
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
        for other in [r"a\n", r#"a","finish_reason":"stop"#, "", "\n", "\u{7f}"] {
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
                if let Some((piece, text)) = pattern.read(data.as_bytes()) {
                    prop_assert_eq!(Some((piece, text.to_owned())), wanted.as_ref().and_then(news), "{}", data);
                }
                if let Some(chunk) = &wanted {
                    pattern.learn(data.as_bytes(), chunk);
                }
            }
        }
    }
}

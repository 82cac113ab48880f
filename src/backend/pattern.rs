//! Most chunks of a response differ only in their text. This reads such chunks without parsing their JSON again.

use std::borrow::Cow;

use super::{Delta, OutputKind, TextMode, Usage};
use crate::http::sse::SseEvent;

/// A chunk without its text.
#[derive(Debug, Default)]
pub struct ChunkPattern {
    /// The event's name, the bytes before the text, and the bytes after it, concatenated; empty: nothing was learned.
    around: Vec<u8>,
    name_end: usize,
    before_end: usize,
    kind: OutputKind,
}

impl ChunkPattern {
    /// Remembers `event`, from which `delta` was parsed, if its text is its only content.
    pub fn learn_chunk(&mut self, event: SseEvent<'_>, delta: &Delta<'_>) {
        self.around.clear();
        let Some((kind, text)) = only_text(delta) else { return };
        let Some(start) = text.as_ptr().addr().checked_sub(event.data.as_ptr().addr()) else { return };
        let (before, after) = (event.data.get(..start), event.data.get(start + text.len()..));
        let (Some(before), Some(after)) = (before, after) else { return };
        for bytes in [event.name, before, after] {
            self.around.extend_from_slice(bytes);
        }
        (self.name_end, self.before_end, self.kind) = (event.name.len(), event.name.len() + start, kind);
    }

    /// The text of `event` and its kind, if `event` differs from the learned chunk only in its text.
    #[must_use]
    pub fn read_text<'a>(&self, event: SseEvent<'a>) -> Option<(OutputKind, &'a str)> {
        let (before, after) = self.around.split_at_checked(self.before_end)?;
        let (name, before) = before.split_at_checked(self.name_end)?;
        let text = event.data.strip_prefix(before)?.strip_suffix(after)?;
        // A quote, a backslash or a control character needs the parser: it ends the JSON string, escapes, or is invalid.
        let plain = !text.is_empty() && text.iter().all(|byte| *byte >= b' ' && !matches!(byte, b'"' | b'\\'));
        if self.around.is_empty() || !plain || event.name != name {
            return None;
        }
        Some((self.kind, str::from_utf8(text).ok()?))
    }
}

/// The text of a chunk that holds one choice, nothing else, and no escapes.
fn only_text<'a>(delta: &'a Delta<'_>) -> Option<(OutputKind, &'a str)> {
    let Delta { choices, usage, metrics: None, done: false, error: None, text_mode: TextMode::Incremental } = delta
    else {
        return None;
    };
    let [choice] = &choices[..] else { return None };
    let more = choice.index > 0 || choice.ids > 0 || choice.finish.is_some() || choice.opens || choice.whole;
    if more || !choice.more.is_empty() || *usage != Usage::default() || choice.kind == OutputKind::ToolCall {
        return None;
    }
    match &choice.text {
        Cow::Borrowed(text) if !text.is_empty() => Some((choice.kind, text)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::openai, *};

    fn parsed(data: &[u8]) -> Option<Delta<'_>> {
        openai::read_chunk(data).ok()
    }

    fn event(data: &[u8]) -> SseEvent<'_> {
        SseEvent { name: b"", data }
    }

    /// The kind and text of a chunk; `None` if it holds more than text.
    fn news(delta: &Delta<'_>) -> Option<(OutputKind, String)> {
        let [choice] = &delta.choices[..] else { return None };
        let more = choice.index > 0 || choice.finish.is_some() || choice.ids > 0 || choice.opens || choice.whole;
        if more || delta.error.is_some() || delta.usage != Usage::default() || delta.metrics.is_some() {
            return None;
        }
        Some((choice.kind, choice.text.to_string()))
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
            let mut pattern = ChunkPattern::default();
            assert!(pattern.read_text(event(first.as_bytes())).is_none());
            pattern.learn_chunk(event(first.as_bytes()), &parsed(first.as_bytes()).unwrap());
            assert_eq!(pattern.read_text(event(second.as_bytes())).is_some(), repeats, "{shape}");
        }
        let mut pattern = ChunkPattern::default();
        let first = SHAPES[0].replace("TEXT", "x");
        pattern.learn_chunk(event(first.as_bytes()), &parsed(first.as_bytes()).unwrap());
        for other in [r"a\n", r#"a","finish_reason":"stop"#, "", "\n", "\u{7f}"] {
            let second = SHAPES[0].replace("TEXT", other);
            assert_eq!(pattern.read_text(event(second.as_bytes())).is_some(), other == "\u{7f}", "{other:?}");
        }
        assert!(pattern.read_text(event(SHAPES[0].replace("TEXT", "\u{0}").as_bytes())).is_none());
        assert!(pattern.read_text(event(first.replace("index\":0", "index\":1").as_bytes())).is_none());
        assert!(pattern.read_text(event(first.replace("null}", "\"stop\"}").as_bytes())).is_none());
    }

    proptest! {
        #[test]
        fn a_match_agrees_with_the_parser(
            shapes in prop::collection::vec(0..SHAPES.len(), 1..12),
            texts in prop::collection::vec(r#"[ab\\"n\n ü]{0,5}|","text":"|\}\]"#, 12),
        ) {
            let mut pattern = ChunkPattern::default();
            for (shape, text) in shapes.iter().zip(&texts) {
                let data = SHAPES[*shape].replace("TEXT", text);
                let wanted = parsed(data.as_bytes());
                if let Some((kind, text)) = pattern.read_text(event(data.as_bytes())) {
                    prop_assert_eq!(Some((kind, text.to_owned())), wanted.as_ref().and_then(news), "{}", data);
                }
                if let Some(chunk) = &wanted {
                    pattern.learn_chunk(event(data.as_bytes()), chunk);
                }
            }
        }
    }
}

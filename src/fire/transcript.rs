//! The text of a response. Some servers send only new text in each chunk, others send the whole text so far.

use std::borrow::Cow;

use crate::backend::TextMode;

/// The text of a response so far.
#[derive(Debug, Default)]
pub struct Transcript {
    text: String,
    /// The reasoning so far, for a server that repeats it.
    reasoning: String,
    /// For [`TextMode::Either`]: a chunk showed that chunks hold only new text.
    only_new: bool,
    /// For [`TextMode::Either`]: the number of chunks that equal the text so far, while it is not known what chunks hold.
    repeats: usize,
}

impl Transcript {
    /// Reserves room for this number of bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Transcript { text: String::with_capacity(bytes), ..Transcript::default() }
    }

    /// The text so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The final text.
    pub fn into_text(self) -> String {
        self.text
    }

    /// Size on the heap, in bytes.
    pub fn heap_bytes(&self) -> usize {
        self.text.capacity() + self.reasoning.capacity()
    }

    /// Adds new text.
    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Returns the new part of a chunk's text in this mode. If the server replaced the end of the text so far, that end
    /// is removed; a chunk without text removes nothing.
    pub fn new_text<'a>(&mut self, mode: TextMode, chunk: Cow<'a, str>) -> Cow<'a, str> {
        let repeats = self.text == chunk;
        match mode {
            _ if chunk.is_empty() => return chunk,
            TextMode::Incremental => return chunk,
            TextMode::Either if self.only_new => return chunk,
            TextMode::Either if repeats => self.repeats += 1,
            TextMode::Either if !chunk.starts_with(&self.text) => {
                self.only_new = true;
                // The chunks that seemed to repeat the text were new text as well.
                self.text = self.text.repeat(std::mem::take(&mut self.repeats) + 1);
                return chunk;
            }
            TextMode::Either | TextMode::Cumulative if !repeats => self.repeats = 0,
            TextMode::Either | TextMode::Cumulative => {}
        }
        split_new(&mut self.text, chunk)
    }

    /// Returns the new part of a chunk's reasoning.
    pub fn new_reasoning<'a>(&mut self, chunk: Cow<'a, str>) -> Cow<'a, str> {
        let new = split_new(&mut self.reasoning, chunk);
        self.reasoning.push_str(&new);
        new
    }
}

/// Returns what follows the common beginning of `old` and `all`, and truncates `old` to that beginning: a server may replace an
/// incomplete character.
fn split_new<'a>(old: &mut String, all: Cow<'a, str>) -> Cow<'a, str> {
    if all.is_empty() {
        return all;
    }
    let common = if all.starts_with(&**old) { old.len() } else { common_len(old, &all) };
    old.truncate(common);
    match all {
        Cow::Borrowed(all) => all.get(common..).unwrap_or_default().into(),
        Cow::Owned(mut all) => all.split_off(common).into(),
    }
}

/// The number of bytes of the characters that both begin with.
fn common_len(one: &str, other: &str) -> usize {
    one.chars().zip(other.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text of these chunks, and what was new in each.
    fn text_of(mode: TextMode, chunks: &[&str]) -> (String, Vec<String>) {
        let mut transcript = Transcript::default();
        let mut new_parts = Vec::new();
        for chunk in chunks {
            let new = transcript.new_text(mode, Cow::Borrowed(chunk));
            transcript.push(&new);
            new_parts.push(new.into_owned());
        }
        (transcript.into_text(), new_parts)
    }

    #[test]
    fn what_a_server_takes_back_is_replaced() {
        let (text, news) = text_of(TextMode::Cumulative, &["é", "é\u{fffd}", "é😀 b", "é😀 b c"]);
        assert_eq!((text.as_str(), &news[2..]), ("é😀 b c", &["😀 b".to_owned(), " c".into()][..]));
        assert_eq!(text_of(TextMode::Cumulative, &["a EN", "a ", ""]).0, "a ");
        assert_eq!(text_of(TextMode::Cumulative, &["é", "è!"]).0, "è!", "never within a character");
        let mut thinks = Transcript::default();
        assert_eq!(thinks.new_reasoning("hm\u{fffd}".into()), "hm\u{fffd}");
        assert_eq!((thinks.new_reasoning("hmm".into()), thinks.text()), ("m".into(), ""));
    }

    #[test]
    fn chunks_that_may_be_either_are_what_they_turn_out_to_be() {
        let either = |chunks: &[&str]| text_of(TextMode::Either, chunks).0;
        assert_eq!(either(&["a", "a b", "a b", "a b c"]), "a b c", "all so far");
        assert_eq!(either(&["a", " b", "", " c"]), "a b c", "what is new");
        assert_eq!(either(&["a", " b", "a b", "a"]), "a ba ba", "new, although it was there before");
        assert_eq!(either(&["ha", "ha", "ha", "!"]), "hahaha!", "known late");
        assert_eq!(either(&["", "a", "a", "a b"]), "a b");
        assert_eq!(text_of(TextMode::Incremental, &["a", "a"]).0, "aa");
    }
}

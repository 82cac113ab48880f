//! What an answer says, of servers that send what is new and of those that send all so far with every chunk.

use std::borrow::Cow;

use crate::backend::Extent;

/// The text of an answer, as far as it has come.
#[derive(Debug, Default)]
pub struct Transcript {
    text: String,
    /// The thoughts of a server that repeats them.
    thoughts: String,
    /// Its chunks were found to be what is new, where they might have been all.
    only_news: bool,
    /// How often a chunk was no more than all before it, while nothing told whether it was new.
    again: usize,
}

impl Transcript {
    /// With room for so many bytes.
    pub fn with_room(bytes: usize) -> Self {
        Transcript { text: String::with_capacity(bytes), ..Transcript::default() }
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text, for good.
    pub fn into_text(self) -> String {
        self.text
    }

    /// Bytes on the heap.
    pub fn heap(&self) -> usize {
        self.text.capacity() + self.thoughts.capacity()
    }

    /// Adds what is new.
    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Of `told`, which is of this extent, what is new of the answer. What its server puts something else in the place of is
    /// gone; a chunk without text takes nothing back.
    pub fn news<'a>(&mut self, extent: Extent, told: Cow<'a, str>) -> Cow<'a, str> {
        let again = self.text == told;
        match extent {
            _ if told.is_empty() => return told,
            Extent::New => return told,
            Extent::Either if self.only_news => return told,
            Extent::Either if again => self.again += 1,
            Extent::Either if !told.starts_with(&self.text) => {
                self.only_news = true;
                // What looked like all before, once more, was new as well.
                self.text = self.text.repeat(std::mem::take(&mut self.again) + 1);
                return told;
            }
            Extent::Either | Extent::All if !again => self.again = 0,
            Extent::Either | Extent::All => {}
        }
        behind(&mut self.text, told)
    }

    /// The same of its thoughts.
    pub fn news_of_thoughts<'a>(&mut self, told: Cow<'a, str>) -> Cow<'a, str> {
        let new = behind(&mut self.thoughts, told);
        self.thoughts.push_str(&new);
        new
    }
}

/// What `all` has behind its common beginning with `old`, which is cut to that: a server may put a character in the place of one
/// that was not whole yet.
fn behind<'a>(old: &mut String, all: Cow<'a, str>) -> Cow<'a, str> {
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

/// Bytes of the characters that both begin with.
fn common_len(one: &str, other: &str) -> usize {
    one.chars().zip(other.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text that comes of chunks, and what was new in each.
    fn heard(extent: Extent, chunks: &[&str]) -> (String, Vec<String>) {
        let mut transcript = Transcript::default();
        let mut news = Vec::new();
        for chunk in chunks {
            let new = transcript.news(extent, Cow::Borrowed(chunk));
            transcript.push(&new);
            news.push(new.into_owned());
        }
        (transcript.into_text(), news)
    }

    #[test]
    fn what_a_server_takes_back_is_replaced() {
        let (text, news) = heard(Extent::All, &["é", "é\u{fffd}", "é😀 b", "é😀 b c"]);
        assert_eq!((text.as_str(), &news[2..]), ("é😀 b c", &["😀 b".to_owned(), " c".into()][..]));
        assert_eq!(heard(Extent::All, &["a EN", "a ", ""]).0, "a ");
        assert_eq!(heard(Extent::All, &["é", "è!"]).0, "è!", "never within a character");
        let mut thinks = Transcript::default();
        assert_eq!(thinks.news_of_thoughts("hm\u{fffd}".into()), "hm\u{fffd}");
        assert_eq!((thinks.news_of_thoughts("hmm".into()), thinks.text()), ("m".into(), ""));
    }

    #[test]
    fn chunks_that_may_be_either_are_what_they_turn_out_to_be() {
        let either = |chunks: &[&str]| heard(Extent::Either, chunks).0;
        assert_eq!(either(&["a", "a b", "a b", "a b c"]), "a b c", "all so far");
        assert_eq!(either(&["a", " b", "", " c"]), "a b c", "what is new");
        assert_eq!(either(&["a", " b", "a b", "a"]), "a ba ba", "new, although it was there before");
        assert_eq!(either(&["ha", "ha", "ha", "!"]), "hahaha!", "told late");
        assert_eq!(either(&["", "a", "a", "a b"]), "a b");
        assert_eq!(heard(Extent::New, &["a", "a"]).0, "aa");
    }
}

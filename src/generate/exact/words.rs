//! Words that are one token each: a text has as many tokens as words.

use std::collections::HashMap;

use rand::Rng;

use crate::{
    data::SONNETS,
    error::Error,
    rng,
    tokens::{Tokenizer, is_word},
};

/// Number of words: 13 bits of randomness each, and few enough for the cache of a tokenizer's model.
///
/// The first ids of a vocabulary are its most frequent merges, so these are common words, and texts have about as many
/// bytes per token as real text. Drawing from the whole vocabulary gives long and rare tokens.
const MAX_WORDS: usize = 8192;
/// Words of the sonnets that a server is asked about.
const WORDS_ASKED: usize = 1024;
/// Words per question to the server.
const WORDS_PER_QUESTION: usize = 16;

/// Words, each a space and letters, that remain one token between others of their kind.
#[derive(Debug)]
pub struct WordList {
    pieces: Vec<String>,
    /// Words that prompts begin with, in the order that the seed shuffled.
    heads: Vec<u32>,
    /// Whether these words are also one token without their space.
    bare_heads: bool,
}

impl WordList {
    /// Collects the words of a tokenizer; `seed` determines the order of first words.
    pub fn from_tokenizer(tokenizer: &Tokenizer, seed: u64) -> Result<Self, Error> {
        let pieces =
            if tokenizer.is_remote() { words_from_server(tokenizer)? } else { words_of_vocabulary(tokenizer)? };
        if pieces.is_empty() {
            return Err(Error::Usage(format!(
                "the tokenizer {} has no words that are one token each, so texts cannot be made exactly as long as requested; \
                 use --prompt-token-ids",
                tokenizer.name()
            )));
        }
        let mut heads: Vec<u32> = (0..).take(pieces.len()).collect();
        let mut bare_heads = false;
        // Asking a server about each word would take one round trip per word.
        if !tokenizer.is_remote() {
            let counts = pieces.iter().map(|piece| tokenizer.count(piece.trim_start()));
            let counts = counts.collect::<Result<Vec<usize>, Error>>()?;
            let bare: Vec<u32> = (0..).zip(counts).filter(|(_, count)| *count == 1).map(|(i, _)| i).collect();
            // A vocabulary with few such words has too few to distinguish many prompts.
            if bare.len() * 2 >= pieces.len() {
                (heads, bare_heads) = (bare, true);
            }
        }
        rng::shuffle_list(&mut heads, &mut rng::random_stream(seed, "heads", 0));
        Ok(WordList { pieces, heads, bare_heads })
    }

    /// Draws any word, including its space.
    pub fn draw_word(&self, rng: &mut impl Rng) -> &str {
        &self.pieces[rng::sample_index(rng, self.pieces.len())]
    }

    /// Number of words that prompts can begin with.
    pub fn head_count(&self) -> usize {
        self.heads.len()
    }

    /// The first word of prompt `item`: no two prompts have the same, as long as there are fewer prompts than words.
    ///
    /// At the beginning of a text it has no space, which some templates would strip, if most words of this tokenizer
    /// are one token without it too.
    pub fn head_word(&self, item: u64, begins: bool) -> &str {
        let piece = &self.pieces[self.heads[wrap_index(item, self.heads.len())] as usize];
        if begins && self.bare_heads { piece.trim_start() } else { piece }
    }
}

/// Index in a list of length `len`, starting over at the end.
pub fn wrap_index(item: u64, len: usize) -> usize {
    usize::try_from(item % len as u64).unwrap_or_default()
}

/// Tries each entry of the vocabulary.
fn words_of_vocabulary(tokenizer: &Tokenizer) -> Result<Vec<String>, Error> {
    // Some decoders drop the first space, and some tokenizers add one, so ids are decoded after another word.
    let anchor = tokenizer.encode("a", false)?;
    let anchor_text = tokenizer.decode(&anchor)?;
    let mut pieces = Vec::new();
    for id in tokenizer.ordinary_ids() {
        let both: Vec<u32> = anchor.iter().copied().chain([id]).collect();
        let text = tokenizer.decode(&both)?;
        let Some(piece) = text.strip_prefix(&anchor_text) else { continue };
        if is_word(piece) && tokenizer.encode(&text, false)? == both {
            pieces.push(piece.to_owned());
            if pieces.len() == MAX_WORDS {
                break;
            }
        }
    }
    Ok(pieces)
}

/// Asks the server about several words of the sonnets at once: a group with as many tokens as words has only suitable
/// ones.
fn words_from_server(tokenizer: &Tokenizer) -> Result<Vec<String>, Error> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for word in SONNETS.split_whitespace().filter(|w| w.bytes().all(|b| b.is_ascii_lowercase())) {
        *counts.entry(word).or_default() += 1;
    }
    let mut words: Vec<(&str, usize)> = counts.into_iter().collect();
    words.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
    let pieces: Vec<String> = words.into_iter().take(WORDS_ASKED).map(|(word, _)| format!(" {word}")).collect();
    let mut good = Vec::new();
    for group in pieces.chunks(WORDS_PER_QUESTION) {
        sift_words(tokenizer, group, &mut good)?;
    }
    Ok(good)
}

fn sift_words(tokenizer: &Tokenizer, group: &[String], good: &mut Vec<String>) -> Result<(), Error> {
    if tokenizer.count(&format!("a{}", group.concat()))? == group.len() + 1 {
        good.extend_from_slice(group);
    } else if group.len() > 1 {
        let (left, right) = group.split_at(group.len() / 2);
        sift_words(tokenizer, left, good)?;
        sift_words(tokenizer, right, good)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn texts_have_as_many_tokens_as_words() {
        let tokenizer = Tokenizer::builtin().unwrap();
        let words = WordList::from_tokenizer(&tokenizer, 3).unwrap();
        assert!(words.pieces.len() > 1000, "{}", words.pieces.len());
        for item in 0..50 {
            let mut rng = rng::random_stream(3, "test", item);
            let mut text = words.head_word(item, true).to_owned();
            (0..40).for_each(|_| text.push_str(words.draw_word(&mut rng)));
            assert_eq!(tokenizer.count(&text).unwrap(), 41, "{text}");
        }
    }

    #[test]
    fn no_two_prompts_begin_alike() {
        let words = WordList::from_tokenizer(&Tokenizer::builtin().unwrap(), 0).unwrap();
        let n = words.heads.len() as u64;
        let heads: HashSet<&str> = (0..n).map(|item| words.head_word(item, true)).collect();
        assert_eq!(heads.len() as u64, n);
    }
}

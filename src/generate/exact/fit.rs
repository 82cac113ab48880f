//! Makes a text exactly as long as requested, counted as the server will count it.

use std::cmp::Ordering;

use serde_json::json;

use crate::{error::Error, tokens::Tokenizer};

/// Most attempts to reach the requested length. The first one nearly always succeeds.
const MAX_ATTEMPTS: usize = 32;

/// A tokenizer, and what the server adds to a prompt: special tokens, or a chat template.
#[derive(Debug, Clone, Copy)]
pub struct PromptCounter<'a> {
    pub tokenizer: &'a Tokenizer,
    chat: bool,
    /// Special tokens, which do not depend on the text.
    special: usize,
}

impl<'a> PromptCounter<'a> {
    /// For completions, or for chats.
    pub fn new(tokenizer: &'a Tokenizer, chat: bool) -> Result<Self, Error> {
        let special = if chat { 0 } else { tokenizer.special_tokens_added()? };
        Ok(PromptCounter { tokenizer, chat, special })
    }

    /// For texts that only get special tokens as part of a pair.
    pub fn without_special_tokens(tokenizer: &'a Tokenizer) -> Self {
        PromptCounter { tokenizer, chat: false, special: 0 }
    }

    /// The prompt tokens that the server will report for `text`.
    pub fn count(&self, text: &str) -> Result<usize, Error> {
        if self.chat {
            return self.tokenizer.count_chat(&[json!({"role": "user", "content": text})]);
        }
        Ok(self.tokenizer.count(text)? + self.special)
    }

    /// Tokens that the server adds to a text.
    pub fn added_tokens(&self) -> Result<usize, Error> {
        if self.chat {
            return Ok(self.count("a")?.saturating_sub(self.tokenizer.count("a")?));
        }
        Ok(self.special)
    }

    /// Added tokens before the text; all of them if a tokenizer does not return token ids.
    pub fn tokens_in_front(&self) -> Result<usize, Error> {
        let overhead = self.added_tokens()?;
        if overhead == 0 {
            return Ok(0);
        }
        // Two texts that have nothing in common, so that only the added tokens are equal.
        let ids = |text: &str| {
            if self.chat {
                return self.tokenizer.encode_chat(&[json!({"role": "user", "content": text})]);
            }
            self.tokenizer.encode(text, true)
        };
        let (a, b) = (ids("a")?, ids("b")?);
        let differs = a.iter().zip(&b).position(|(a, b)| a != b);
        Ok(differs.map_or(overhead, |front| front.min(overhead)))
    }
}

/// A text that can be shortened by removing words.
#[derive(Debug, Default)]
pub struct TextDraft {
    text: String,
    /// Byte offset of each word that may be removed.
    pieces: Vec<usize>,
}

impl TextDraft {
    /// Starts with text that must stay.
    pub fn starting_with(fixed: &str) -> Self {
        TextDraft { text: fixed.to_owned(), pieces: Vec::new() }
    }

    /// Appends a word that may be removed.
    pub fn push(&mut self, piece: &str) {
        self.pieces.push(self.text.len());
        self.text.push_str(piece);
    }

    /// Appends a line of verse; each of its words may be removed.
    pub fn push_line(&mut self, line: &str) {
        for (i, word) in line.split(' ').enumerate() {
            self.pieces.push(self.text.len());
            self.text.push(if i == 0 { '\n' } else { ' ' });
            self.text.push_str(word);
        }
    }

    fn remove_pieces(&mut self, pieces: usize) {
        let rest = self.pieces.len().saturating_sub(pieces);
        if let Some(end) = self.pieces.get(rest) {
            self.text.truncate(*end);
            self.pieces.truncate(rest);
        }
    }

    /// Removes or appends words until the text has `want` tokens. Appended words come from `next` and are one token
    /// each.
    ///
    /// Returns the text and its actual number of tokens, which differs from `want` if all attempts failed.
    pub fn fit_tokens<'p>(
        mut self,
        want: usize,
        count: impl Fn(&str) -> Result<usize, Error>,
        mut next: impl FnMut() -> &'p str,
    ) -> Result<(String, usize), Error> {
        let mut got = count(&self.text)?;
        for _ in 0..MAX_ATTEMPTS {
            match got.cmp(&want) {
                Ordering::Equal => break,
                Ordering::Less => (got..want).for_each(|_| self.push(next())),
                // Half as many, since a word may have several tokens; if too many were removed, the next attempt
                // appends some.
                Ordering::Greater => self.remove_pieces((got - want).div_ceil(2)),
            }
            got = count(&self.text)?;
        }
        Ok((self.text, got))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A tokenizer with one token per two bytes, so that words merge with their neighbours.
    #[allow(clippy::unnecessary_wraps)] // the signature that `fit_tokens` expects
    fn pairs(text: &str) -> Result<usize, Error> {
        Ok(text.len().div_ceil(2))
    }

    proptest! {
        #[test]
        fn every_length_is_reached_even_if_pieces_merge(
            pieces in proptest::collection::vec("[a-z]{1,9}", 0..40), want in 3..60_usize,
        ) {
            let mut draft = TextDraft::starting_with("kept ");
            for piece in &pieces {
                draft.push(piece);
            }
            let (text, got) = draft.fit_tokens(want, pairs, || "xy").unwrap();
            prop_assert!(text.starts_with("kept "));
            prop_assert_eq!((got, pairs(&text).unwrap()), (want, want));
        }
    }

    /// A tokenizer that adds one token before a text and two after it, as BERT's do.
    #[test]
    fn tokens_before_a_text_are_distinguished_from_those_after_it() {
        let folder = std::env::temp_dir().join(format!("vb-front-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut json: serde_json::Value = serde_json::from_str(crate::tokens::BUILTIN).unwrap();
        let special = json!({"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}});
        json["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": [special, {"Sequence": {"id": "A", "type_id": 0}}, special, special],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}},
        });
        let tokenizer = |folder: &std::path::Path| Tokenizer::open(folder.to_str().unwrap()).unwrap();
        std::fs::write(folder.join("tokenizer.json"), json.to_string()).unwrap();
        let bert = tokenizer(&folder);
        let counter = PromptCounter::new(&bert, false).unwrap();
        assert_eq!((counter.tokens_in_front().unwrap(), counter.added_tokens().unwrap()), (1, 3));
        let template = "<|endoftext|><|endoftext|>{{ messages[0].content }}<|endoftext|>";
        std::fs::write(folder.join("chat_template.jinja"), template).unwrap();
        let chat = tokenizer(&folder);
        let counter = PromptCounter::new(&chat, true).unwrap();
        assert_eq!((counter.tokens_in_front().unwrap(), counter.added_tokens().unwrap()), (2, 3));
        let builtin = Tokenizer::builtin().unwrap();
        assert_eq!(PromptCounter::new(&builtin, true).unwrap().tokens_in_front().unwrap(), 0);
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn what_cannot_be_fitted_keeps_its_true_length() {
        let three = |text: &str| Ok(text.len() / 3 * 3);
        let (text, got) = TextDraft::starting_with("").fit_tokens(4, three, || "abc").unwrap();
        assert_eq!(got, three(&text).unwrap());
        assert_ne!(got, 4);
    }
}

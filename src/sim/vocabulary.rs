//! What the model reads and writes: prompts into tokens, and answers of ordinary words.

use serde_json::Value;

use super::blocks::chain;
use crate::{
    error::Error,
    rng,
    tokens::{Tokenizer, is_word},
};

/// The token that ends an answer by itself. It counts, and has no text.
pub const END_OF_TEXT: u32 = 0;

/// The longest answer that ends by itself.
const LONGEST_STOP: u32 = 512;

/// A tokenizer, and the words of it that answers are made of.
#[derive(Debug)]
pub struct Vocabulary {
    tokenizer: Tokenizer,
    /// Those that are words ([`is_word`]): a text of them has as many tokens as words.
    words: Vec<u32>,
    /// The text of each word by its id; empty for all other ids.
    texts: Vec<String>,
}

/// What a request may say about the length of its answer.
#[derive(Debug, Clone, Copy)]
pub struct Length {
    /// At most so many tokens.
    pub max_tokens: u32,
    /// At least so many, if the answer ends by itself.
    pub min_tokens: u32,
    /// Exactly `max_tokens`: the answer does not end by itself.
    pub ignore_eos: bool,
}

impl Vocabulary {
    /// That of the built-in tokenizer.
    pub fn builtin() -> Result<Self, Error> {
        Self::of(Tokenizer::builtin()?)
    }

    /// That of a tokenizer.
    ///
    /// # Errors
    /// It has no words.
    pub fn of(tokenizer: Tokenizer) -> Result<Self, Error> {
        let ids = tokenizer.ordinary_ids();
        let mut words = Vec::new();
        let mut texts = vec![String::new(); ids.last().map_or(0, |last| *last as usize + 1)];
        for id in ids {
            let text = tokenizer.decode(&[id])?;
            if is_word(&text) {
                words.push(id);
                texts[id as usize] = text;
            }
        }
        if words.is_empty() {
            let message = format!("--tokenizer {} has no words: give one for text", tokenizer.name());
            return Err(Error::Usage(message));
        }
        Ok(Vocabulary { tokenizer, words, texts })
    }

    /// The tokens of a text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, Error> {
        self.tokenizer.encode(text, true)
    }

    /// The text of tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String, Error> {
        self.tokenizer.decode(ids)
    }

    /// The text of a token of an answer, which needs no escapes in JSON.
    #[must_use]
    pub fn text(&self, id: u32) -> &str {
        self.texts.get(id as usize).map_or("", String::as_str)
    }

    /// One of the words, of which there are fewer than numbers.
    #[must_use]
    pub fn word(&self, number: u32) -> u32 {
        self.words[number as usize % self.words.len()]
    }

    /// The text of an answer.
    #[must_use]
    pub fn texts(&self, ids: &[u32]) -> String {
        ids.iter().map(|id| self.text(*id)).collect()
    }

    /// Answer number `which` to a prompt: the same for the same seed, prompt and length.
    ///
    /// With `ignore_eos` it has exactly `max_tokens` tokens. Else it ends by itself, after a length drawn evenly from
    /// `min_tokens` to `max_tokens`, but not beyond 512; then its last token is [`END_OF_TEXT`].
    #[must_use]
    pub fn answer(&self, seed: u64, prompt: &[u32], which: u64, length: Length) -> Vec<u32> {
        let mut rng = rng::random_stream(seed, "answer", chain(which, prompt));
        let longest = length.max_tokens.min(LONGEST_STOP.max(length.min_tokens));
        let shortest = length.min_tokens.clamp(1, longest);
        // Drawn in any case, so that `ignore_eos` changes the length and not the words.
        let drawn = rng::sample_between(&mut rng, u64::from(shortest), u64::from(longest));
        let count = if length.ignore_eos { u64::from(length.max_tokens) } else { drawn };
        let mut ids: Vec<u32> = (0..count).map(|_| self.words[rng::sample_index(&mut rng, self.words.len())]).collect();
        if let Some(end) = ids.last_mut().filter(|_| !length.ignore_eos) {
            *end = END_OF_TEXT;
        }
        ids
    }
}

/// A chat as one text: a line `role: content` for each message, then `assistant:`.
///
/// A content that begins with a space gets none more: so an answer that is sent back has the tokens it was generated
/// with, and the prefix cache finds it.
pub fn chat_text(messages: &[Value]) -> Result<String, String> {
    let mut text = String::new();
    for message in messages {
        let role = message["role"].as_str().ok_or("a message has no `role`")?;
        let content = content(&message["content"])?;
        let space = if content.starts_with(' ') { "" } else { " " };
        text.extend([role, ":", space, &content, "\n"]);
    }
    Ok(text + "assistant:")
}

/// The text of a message; of a part that is no text (an image, say) its type in angle brackets.
fn content(content: &Value) -> Result<String, String> {
    match content {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => parts
            .iter()
            .map(|part| match (&part["type"], &part["text"]) {
                (_, Value::String(text)) => Ok(text.clone()),
                (Value::String(kind), _) => Ok(format!("<{kind}>")),
                _ => Err("a part of a message has neither `text` nor `type`".to_owned()),
            })
            .collect(),
        _ => Err("the `content` of a message is text or a list of parts".into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn length(max_tokens: u32, ignore_eos: bool) -> Length {
        Length { max_tokens, min_tokens: 0, ignore_eos }
    }

    #[test]
    fn an_answer_has_as_many_tokens_for_whoever_counts_them_again() {
        let vocabulary = Vocabulary::builtin().unwrap();
        assert!(vocabulary.words.len() > 1000, "{}", vocabulary.words.len());
        let all = vocabulary.words.clone();
        assert_eq!(vocabulary.encode(&vocabulary.texts(&all)).unwrap(), all);
        let answer = vocabulary.answer(1, &[1, 2, 3], 0, length(100, true));
        assert_eq!(vocabulary.encode(&vocabulary.texts(&answer)).unwrap(), answer);
    }

    #[test]
    fn an_answer_depends_on_seed_and_prompt_only() {
        let vocabulary = Vocabulary::builtin().unwrap();
        let answer = |seed, prompt: &[u32]| vocabulary.answer(seed, prompt, 0, length(50, true));
        assert_eq!(answer(1, &[1, 2]), answer(1, &[1, 2]));
        assert_ne!(answer(1, &[1, 2]), answer(2, &[1, 2]));
        assert_ne!(answer(1, &[1, 2]), answer(1, &[2, 1]));
    }

    #[test]
    fn an_answer_ends_by_itself_within_its_limits() {
        let vocabulary = Vocabulary::builtin().unwrap();
        for prompt in 0..200 {
            let answer = vocabulary.answer(0, &[prompt], 0, length(20, false));
            assert!((1..=20).contains(&answer.len()));
            assert_eq!(answer.iter().position(|id| *id == END_OF_TEXT), Some(answer.len() - 1));
            let long = vocabulary.answer(0, &[prompt], 0, Length { min_tokens: 600, ..length(100_000, false) });
            assert_eq!(long.len(), 600);
        }
        assert_eq!(vocabulary.answer(0, &[1], 0, Length { min_tokens: 30, ..length(20, false) }).len(), 20);
    }

    #[test]
    fn a_chat_becomes_lines_and_an_answer_keeps_its_tokens() {
        let messages = [
            json!({"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {}}]}),
            json!({"role": "assistant", "content": " thou art"}),
        ];
        assert_eq!(chat_text(&messages).unwrap(), "user: hi<image_url>\nassistant: thou art\nassistant:");
        assert!(chat_text(&[json!({"content": "hi"})]).is_err());
        assert!(chat_text(&[json!({"role": "user", "content": 7})]).is_err());
    }
}

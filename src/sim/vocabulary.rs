//! Turns prompts into tokens, and generates outputs from ordinary words.

use serde_json::Value;

use super::blocks::chain_hash;
use crate::{
    error::Error,
    rng,
    tokens::{Tokenizer, is_word},
};

/// The token that ends an output before its limit. It counts as a token and has no text.
pub const END_OF_TEXT: u32 = 0;

/// The limit on outputs that end with [`END_OF_TEXT`].
const MAX_STOPPED_TOKENS: u32 = 512;

/// A tokenizer and the words that outputs consist of.
#[derive(Debug)]
pub struct Vocabulary {
    tokenizer: Tokenizer,
    /// Tokens that are words ([`is_word`]): their text has as many tokens as words.
    words: Vec<u32>,
    /// The text of each word by its token id; empty for all other ids.
    texts: Vec<String>,
}

/// The limits that a request sets on the length of its output.
#[derive(Debug, Clone, Copy)]
pub struct LengthLimits {
    /// The most tokens.
    pub max_tokens: u32,
    /// The fewest tokens, if the output may end before `max_tokens`.
    pub min_tokens: u32,
    /// Whether the output has exactly `max_tokens` tokens.
    pub ignore_eos: bool,
}

impl Vocabulary {
    /// The vocabulary of the built-in tokenizer.
    pub fn builtin() -> Result<Self, Error> {
        Self::new(Tokenizer::builtin()?)
    }

    /// The vocabulary of a tokenizer.
    ///
    /// # Errors
    /// If none of its tokens is a word.
    pub fn new(tokenizer: Tokenizer) -> Result<Self, Error> {
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
            let message = format!("--tokenizer {} contains no words: choose a tokenizer for text", tokenizer.name());
            return Err(Error::Usage(message));
        }
        Ok(Vocabulary { tokenizer, words, texts })
    }

    /// The tokens of a text.
    pub fn encode_text(&self, text: &str) -> Result<Vec<u32>, Error> {
        self.tokenizer.encode(text, true)
    }

    /// The text of tokens.
    pub fn decode_tokens(&self, ids: &[u32]) -> Result<String, Error> {
        self.tokenizer.decode(ids)
    }

    /// The text of an output token. It contains no characters that JSON escapes.
    #[must_use]
    pub fn token_text(&self, id: u32) -> &str {
        self.texts.get(id as usize).map_or("", String::as_str)
    }

    /// The word with this number, modulo the number of words.
    #[must_use]
    pub fn nth_word(&self, number: u32) -> u32 {
        self.words[number as usize % self.words.len()]
    }

    /// The text of output tokens.
    #[must_use]
    pub fn join_texts(&self, ids: &[u32]) -> String {
        ids.iter().map(|id| self.token_text(*id)).collect()
    }

    /// Generates choice number `choice` for a prompt: the same for the same seed, prompt and length.
    ///
    /// With `ignore_eos` it has exactly `max_tokens` tokens. Otherwise its length is drawn uniformly from `min_tokens` to
    /// `max_tokens`, but not beyond 512, and its last token is [`END_OF_TEXT`].
    #[must_use]
    pub fn generate_output(&self, seed: u64, prompt: &[u32], choice: u64, length: LengthLimits) -> Vec<u32> {
        let mut rng = rng::random_stream(seed, "answer", chain_hash(choice, prompt));
        let longest = length.max_tokens.min(MAX_STOPPED_TOKENS.max(length.min_tokens));
        let shortest = length.min_tokens.clamp(1, longest);
        // Drawn even if unused, so that `ignore_eos` changes the length and not the words.
        let drawn = rng::sample_between(&mut rng, u64::from(shortest), u64::from(longest));
        let count = if length.ignore_eos { u64::from(length.max_tokens) } else { drawn };
        let mut ids: Vec<u32> = (0..count).map(|_| self.words[rng::sample_index(&mut rng, self.words.len())]).collect();
        if let Some(end) = ids.last_mut().filter(|_| !length.ignore_eos) {
            *end = END_OF_TEXT;
        }
        ids
    }
}

/// Renders a chat as one text: a line `role: content` for each message, then `assistant:`.
///
/// No space is added before a content that begins with one. An output that the client sends back then has the tokens it was
/// generated with, and the prefix cache finds it.
pub fn render_chat(messages: &[Value]) -> Result<String, String> {
    let mut text = String::new();
    for message in messages {
        let role = message["role"].as_str().ok_or("a message has no `role`")?;
        let content = content_text(&message["content"])?;
        let space = if content.starts_with(' ') { "" } else { " " };
        text.extend([role, ":", space, &content, "\n"]);
    }
    Ok(text + "assistant:")
}

/// The text of a message's content. A part without text, such as an image, becomes its type in angle brackets.
fn content_text(content: &Value) -> Result<String, String> {
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

    fn length(max_tokens: u32, ignore_eos: bool) -> LengthLimits {
        LengthLimits { max_tokens, min_tokens: 0, ignore_eos }
    }

    #[test]
    fn encoding_the_text_of_an_output_gives_its_tokens() {
        let vocabulary = Vocabulary::builtin().unwrap();
        assert!(vocabulary.words.len() > 1000, "{}", vocabulary.words.len());
        let all = vocabulary.words.clone();
        assert_eq!(vocabulary.encode_text(&vocabulary.join_texts(&all)).unwrap(), all);
        let output = vocabulary.generate_output(1, &[1, 2, 3], 0, length(100, true));
        assert_eq!(vocabulary.encode_text(&vocabulary.join_texts(&output)).unwrap(), output);
    }

    #[test]
    fn an_output_depends_on_seed_and_prompt_only() {
        let vocabulary = Vocabulary::builtin().unwrap();
        let output = |seed, prompt: &[u32]| vocabulary.generate_output(seed, prompt, 0, length(50, true));
        assert_eq!(output(1, &[1, 2]), output(1, &[1, 2]));
        assert_ne!(output(1, &[1, 2]), output(2, &[1, 2]));
        assert_ne!(output(1, &[1, 2]), output(1, &[2, 1]));
    }

    #[test]
    fn an_output_ends_within_its_limits() {
        let vocabulary = Vocabulary::builtin().unwrap();
        for prompt in 0..200 {
            let output = vocabulary.generate_output(0, &[prompt], 0, length(20, false));
            assert!((1..=20).contains(&output.len()));
            assert_eq!(output.iter().position(|id| *id == END_OF_TEXT), Some(output.len() - 1));
            let long =
                vocabulary.generate_output(0, &[prompt], 0, LengthLimits { min_tokens: 600, ..length(100_000, false) });
            assert_eq!(long.len(), 600);
        }
        assert_eq!(
            vocabulary.generate_output(0, &[1], 0, LengthLimits { min_tokens: 30, ..length(20, false) }).len(),
            20
        );
    }

    #[test]
    fn a_chat_becomes_lines_and_an_output_keeps_its_tokens() {
        let messages = [
            json!({"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {}}]}),
            json!({"role": "assistant", "content": " thou art"}),
        ];
        assert_eq!(render_chat(&messages).unwrap(), "user: hi<image_url>\nassistant: thou art\nassistant:");
        assert!(render_chat(&[json!({"content": "hi"})]).is_err());
        assert!(render_chat(&[json!({"role": "user", "content": 7})]).is_err());
    }
}

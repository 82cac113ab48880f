//! Tokenizers: text to token ids and back, and how many.

use std::path::Path;

use tokenizers::Tokenizer as Local;

use crate::error::Error;

/// The tokenizer that ships with the project: a byte-level BPE of 3,113 tokens trained on the sonnets by
/// `examples/train_tokenizer.rs`. Id 0 is `<|endoftext|>`, its only special token.
pub const BUILTIN: &str = include_str!("builtin.json");

/// Text to token ids and back.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    local: Local,
    name: String,
}

impl Tokenizer {
    /// The tokenizer that ships with the project.
    pub fn builtin() -> Result<Self, Error> {
        Self::from_json(BUILTIN.as_bytes(), "builtin")
    }

    /// A `tokenizer.json`, or a folder that holds one.
    pub fn from_path(path: &Path) -> Result<Self, Error> {
        let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_path_buf() };
        let json = std::fs::read(&file).map_err(|e| Error::read(&file, e))?;
        Self::from_json(&json, &path.display().to_string())
    }

    /// The content of a `tokenizer.json`; `name` is for messages and results.
    pub fn from_json(json: &[u8], name: &str) -> Result<Self, Error> {
        let mut local =
            Local::from_bytes(json).map_err(|e| Error::Usage(format!("{name} is not a tokenizer.json: {e}")))?;
        // Lengths are ours to decide: a file may ask for padding or truncation.
        local.with_padding(None);
        local.with_truncation(None).map_err(|e| Error::Usage(format!("{name}: {e}")))?;
        Ok(Tokenizer { local, name: name.to_owned() })
    }

    /// How it was named: `builtin`, a path, or an id on the hub.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The token ids of `text`, with the special tokens that the model's own template adds if `special`.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, Error> {
        match self.local.encode_fast(text, special) {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(e) => Err(Error::Input(format!("the tokenizer {} cannot encode a text: {e}", self.name))),
        }
    }

    /// The number of tokens of `text`, without special ones.
    pub fn count(&self, text: &str) -> Result<usize, Error> {
        Ok(self.encode(text, false)?.len())
    }

    /// The text of these ids, special tokens left in.
    pub fn decode(&self, ids: &[u32]) -> Result<String, Error> {
        self.local
            .decode(ids, false)
            .map_err(|e| Error::Input(format!("the tokenizer {} cannot decode ids: {e}", self.name)))
    }

    /// How many special tokens a single text gets.
    pub fn special_tokens_added(&self) -> Result<usize, Error> {
        Ok(self.encode("", true)?.len())
    }

    /// The ids that are neither special nor added: what random prompts may be made of, in ascending order.
    #[must_use]
    pub fn ordinary_ids(&self) -> Vec<u32> {
        let added = self.local.get_added_tokens_decoder();
        let mut ids: Vec<u32> =
            self.local.get_vocab(false).into_values().filter(|id| !added.contains_key(id)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_builtin_tokenizer_keeps_every_byte() {
        let tokenizer = Tokenizer::builtin().unwrap();
        for text in ["Shall I compare thee to a summers day", "naïve 你好 🙂\n\ttabs", ""] {
            let ids = tokenizer.encode(text, true).unwrap();
            assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        }
        assert_eq!(tokenizer.special_tokens_added().unwrap(), 0);
        let ids = tokenizer.ordinary_ids();
        assert!(ids.len() == 3112 && ids[0] == 1, "{} from {}", ids.len(), ids[0]);
    }
}

//! Tokenizers: encode, decode and count.

mod chat;
mod growing;
mod hub;
mod python;
mod segments;
mod server;
mod strings;

use std::{path::Path, sync::Arc};

use serde_json::Value;
use tokenizers::Tokenizer as Local;

use self::{chat::ChatTemplate, hub::Hub, segments::SegmentCounter};
use crate::error::{Error, catch_panic};
pub use chat::ChatInput;
pub use growing::ChatCounter;
pub use server::TokenizerServer;

/// The tokenizer that ships with the project: a byte-level BPE of 3,113 tokens trained on the sonnets by
/// `examples/train_tokenizer.rs`. Id 0 is `<|endoftext|>`, its only special token.
pub const BUILTIN: &str = include_str!("builtin.json");

/// Converts text to token ids and back.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    engine: TokenizerEngine,
    name: String,
    chat: Option<Arc<ChatTemplate>>,
}

/// Where text is tokenized.
#[derive(Debug, Clone)]
enum TokenizerEngine {
    Local(Box<Local>, Option<Arc<SegmentCounter>>),
    Server(TokenizerServer),
}

impl Tokenizer {
    /// The tokenizer that ships with the project.
    pub fn builtin() -> Result<Self, Error> {
        Self::from_json(BUILTIN.as_bytes(), "builtin")
    }

    /// Opens the tokenizer that `--tokenizer` names: `builtin`, a file or folder, or an id on the Hugging Face hub.
    ///
    /// `server` is not accepted, since it needs an address: see [`Tokenizer::from_server`].
    pub fn open(name: &str) -> Result<Self, Error> {
        if let Some(local) = Self::open_local(name)? {
            Ok(local)
        } else if hub::is_id(name) {
            let tokenizer = Self::from_path(&Hub::from_env().tokenizer_folder(name)?)?;
            Ok(Tokenizer { name: name.to_owned(), ..tokenizer })
        } else {
            Err(Error::Usage(format!(
                "no tokenizer `{name}`: it is neither a file nor a folder, and not a valid id on the hub; \
                 use a tokenizer.json, its folder, an id such as Qwen/Qwen2.5-7B-Instruct, `builtin` or `server`"
            )))
        }
    }

    /// Like [`Tokenizer::open`] without the hub: `builtin`, a file or folder. `None` for any other name.
    pub fn open_local(name: &str) -> Result<Option<Self>, Error> {
        let path = Path::new(name);
        match name {
            "builtin" => Self::builtin().map(Some),
            _ if path.exists() => Self::from_path(path).map(Some),
            _ => Ok(None),
        }
    }

    /// Reads a `tokenizer.json`, or the one in a folder, and the chat template in the same folder.
    fn from_path(path: &Path) -> Result<Self, Error> {
        let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_path_buf() };
        let json = std::fs::read(&file).map_err(|e| Error::read(&file, e))?;
        let mut tokenizer = Self::from_json(&json, &path.display().to_string())?;
        if let Some(folder) = file.parent() {
            tokenizer.chat = ChatTemplate::from_folder(folder)?.map(Arc::new);
        }
        Ok(tokenizer)
    }

    /// Parses the content of a `tokenizer.json`; `name` appears in messages and results.
    fn from_json(json: &[u8], name: &str) -> Result<Self, Error> {
        let wrong = |what: &str| Error::Usage(format!("{name} is not a tokenizer.json: {what}"));
        // The crate panics on some files that are cut off.
        let read = catch_panic(|| Local::from_bytes(json));
        let read = read.ok_or_else(|| wrong("it is damaged or cut off: get it again"))?;
        let mut local = read.map_err(|e| wrong(&e.to_string()))?;
        // The file may ask for padding or truncation, which would change lengths.
        local.with_padding(None);
        local.with_truncation(None).map_err(|e| Error::Usage(format!("{name}: {e}")))?;
        let segments = SegmentCounter::from_tokenizer(&local).map(Arc::new);
        Ok(Tokenizer { engine: TokenizerEngine::Local(Box::new(local), segments), name: name.to_owned(), chat: None })
    }

    /// The tokenizer of a running server, through its `/tokenize` and `/detokenize` endpoints.
    #[must_use]
    pub fn from_server(server: TokenizerServer) -> Self {
        Tokenizer { engine: TokenizerEngine::Server(server), name: "server".into(), chat: None }
    }

    /// The name that `--tokenizer` gave it: `builtin`, a path, an id on the hub, or `server`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether each call costs a round trip to a server.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        matches!(self.engine, TokenizerEngine::Server(_))
    }

    /// The token ids of `text`; `special` adds the special tokens of the model's own template.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, Error> {
        match &self.engine {
            TokenizerEngine::Server(server) => server.tokenize_text(text, special),
            TokenizerEngine::Local(local, _) => match local.encode_fast(text, special) {
                Ok(encoding) => Ok(encoding.get_ids().to_vec()),
                Err(e) => Err(Error::Input(format!("the tokenizer {} cannot encode a text: {e}", self.name))),
            },
        }
    }

    /// The number of tokens of `text`, without special ones.
    pub fn count(&self, text: &str) -> Result<usize, Error> {
        if let TokenizerEngine::Local(local, Some(segments)) = &self.engine
            && let Some(count) = segments.count(local, text)
        {
            return Ok(count);
        }
        Ok(self.encode(text, false)?.len())
    }

    /// Whether it can count the tokens of a chat with the model's template applied.
    #[must_use]
    pub fn knows_chats(&self) -> bool {
        self.is_remote() || self.chat.is_some()
    }

    /// Whether it can render a chat as text without a server ([`Tokenizer::render_chat`]).
    #[must_use]
    pub fn has_template(&self) -> bool {
        self.chat.is_some()
    }

    /// The number of tokens of a chat as the model reads it, including template, roles and generation prompt.
    ///
    /// Without a template (see [`Tokenizer::knows_chats`]), the number of tokens of the message texts.
    pub fn count_chat(&self, messages: &[Value]) -> Result<usize, Error> {
        self.count_chat_with(messages.into())
    }

    /// Like [`Tokenizer::count_chat`], with the tools and template arguments of the request.
    pub fn count_chat_with(&self, chat: ChatInput) -> Result<usize, Error> {
        match (&self.engine, &self.chat) {
            (TokenizerEngine::Server(server), _) => server.count_chat(chat),
            // The template includes the special tokens.
            (TokenizerEngine::Local(..), Some(template)) => self.count(&template.render_chat(chat)?),
            (TokenizerEngine::Local(..), None) => {
                chat.messages.iter().map(|m| self.count(&chat::message_text(m))).sum()
            }
        }
    }

    /// The token ids of a chat, as [`Tokenizer::count_chat`] counts them; empty if the server returns only their number.
    pub fn encode_chat(&self, messages: &[Value]) -> Result<Vec<u32>, Error> {
        match (&self.engine, &self.chat) {
            (TokenizerEngine::Server(server), _) => server.tokenize_chat(messages.into()),
            (TokenizerEngine::Local(..), Some(template)) => self.encode(&template.render_chat(messages.into())?, false),
            (TokenizerEngine::Local(..), None) => {
                let texts = messages.iter().map(|message| self.encode(&chat::message_text(message), false));
                Ok(texts.collect::<Result<Vec<_>, Error>>()?.concat())
            }
        }
    }

    /// The text of a chat, up to the start of the response; for endpoints that take text.
    pub fn render_chat(&self, chat: ChatInput) -> Result<String, Error> {
        match &self.chat {
            Some(template) => template.render_chat(chat),
            None => Err(Error::Usage(format!(
                "--tokenizer {} has no chat template to render `messages` with: set --tokenizer to the model's folder \
                 or its id on the hub, or use --backend openai-chat, whose server applies the template",
                self.name
            ))),
        }
    }

    /// The text of token ids, including special tokens.
    pub fn decode(&self, ids: &[u32]) -> Result<String, Error> {
        match &self.engine {
            TokenizerEngine::Server(server) => server.detokenize_ids(ids),
            TokenizerEngine::Local(local, _) => local
                .decode(ids, false)
                .map_err(|e| Error::Input(format!("the tokenizer {} cannot decode ids: {e}", self.name))),
        }
    }

    /// The number of special tokens that are added to a single text.
    pub fn special_tokens_added(&self) -> Result<usize, Error> {
        // Some servers reject an empty text.
        Ok(self.encode("a", true)?.len().saturating_sub(self.encode("a", false)?.len()))
    }

    /// The number of special tokens that are added to a pair of texts, as a cross-encoder reads it: `[CLS] query [SEP] document [SEP]`.
    pub fn special_tokens_added_to_pair(&self) -> Result<usize, Error> {
        let TokenizerEngine::Local(local, _) = &self.engine else {
            return Err(Error::Usage(
                "/tokenize of a server does not accept pairs of texts: use the model's own tokenizer, as --tokenizer BAAI/bge-reranker-base"
                    .into(),
            ));
        };
        let pair = local
            .encode_fast(("a", "a"), true)
            .map_err(|e| Error::Input(format!("the tokenizer {} cannot encode a pair of texts: {e}", self.name)))?;
        Ok(pair.len().saturating_sub(2 * self.encode("a", false)?.len()))
    }

    /// The ids that are neither special nor added, in ascending order; empty for a server, which does not list them.
    #[must_use]
    pub fn ordinary_ids(&self) -> Vec<u32> {
        let TokenizerEngine::Local(local, _) = &self.engine else { return Vec::new() };
        let added = local.get_added_tokens_decoder();
        let mut ids: Vec<u32> = local.get_vocab(false).into_values().filter(|id| !added.contains_key(id)).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

/// Whether the text of a token is a space and English letters. Among others of its kind, such a token stays one token when
/// the text is encoded again.
#[must_use]
pub fn is_word(text: &str) -> bool {
    text.strip_prefix(' ').is_some_and(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphabetic()))
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

    /// The model of a `tokenizer.json` comes last, so a file may end at any place before it.
    #[test]
    fn a_tokenizer_file_cut_anywhere_is_an_error() {
        let places = (0..BUILTIN.len()).step_by(9973).chain(BUILTIN.len() - 5..BUILTIN.len() - 2);
        for end in places.filter(|end| BUILTIN.is_char_boundary(*end)) {
            let error = Tokenizer::from_json(&BUILTIN.as_bytes()[..end], "t.json").unwrap_err();
            assert!(error.exit_code() == 2 && error.to_string().starts_with("t.json is not a"), "{end}: {error}");
        }
        for odd in ["", "{}", "[]", "null", r#"{"model":{}}"#, r#"{"model":{"type":"BPE"}}"#] {
            assert!(Tokenizer::from_json(odd.as_bytes(), "t.json").is_err(), "{odd}");
        }
    }

    #[test]
    fn a_chat_without_a_template_is_as_long_as_its_texts() {
        let tokenizer = Tokenizer::builtin().unwrap();
        let messages = [serde_json::json!({"role": "user", "content": "Shall I compare thee"})];
        assert!(!tokenizer.knows_chats());
        assert_eq!(tokenizer.count_chat(&messages).unwrap(), 4);
    }

    #[test]
    fn an_impossible_name_is_refused_with_the_cure() {
        let error = Tokenizer::open("/no/such/folder").unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains("`builtin` or `server`"), "{error}");
    }
}

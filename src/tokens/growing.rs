//! Counts the tokens of a chat that grows turn by turn, without recounting earlier turns.

use super::{ChatInput, Tokenizer, TokenizerEngine, chat};
use crate::error::Error;

/// Counts the tokens of one chat.
///
/// A tokenizer first splits a text at its added tokens (`<|im_end|>`, …). So the token count up to the end of an added token does
/// not depend on the text after it, and only the text after the last unchanged one is counted. The whole text is counted each
/// time if the tokenizer may work in another way.
#[derive(Debug)]
pub struct ChatCounter<'a> {
    tokenizer: &'a Tokenizer,
    /// The text of the chat at the last count.
    text: String,
    /// The end of each added token in the text, and the number of tokens up to there.
    marks: Vec<(usize, usize)>,
    /// For a chat without a template: the number of messages counted, and their tokens.
    messages: (usize, usize),
}

impl<'a> ChatCounter<'a> {
    /// A counter for an empty chat.
    #[must_use]
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        ChatCounter { tokenizer, text: String::new(), marks: Vec::new(), messages: (0, 0) }
    }

    /// Like [`Tokenizer::count_chat_with`]. The chat must begin with the messages of the last call.
    pub fn count_chat(&mut self, chat: ChatInput) -> Result<usize, Error> {
        match (&self.tokenizer.engine, &self.tokenizer.chat) {
            (TokenizerEngine::Server(_), _) => self.tokenizer.count_chat_with(chat),
            (TokenizerEngine::Local(..), Some(_)) => self.count_rendered(chat),
            (TokenizerEngine::Local(..), None) => {
                let (known, mut total) = self.messages;
                for message in chat.messages.iter().skip(known) {
                    total += self.tokenizer.count(&chat::message_text(message))?;
                }
                self.messages = (chat.messages.len(), total);
                Ok(total)
            }
        }
    }

    /// The number of tokens of a chat as [`Tokenizer::render_chat`] renders it.
    pub fn count_rendered(&mut self, chat: ChatInput) -> Result<usize, Error> {
        let text = self.tokenizer.render_chat(chat)?;
        let TokenizerEngine::Local(_, Some(segments)) = &self.tokenizer.engine else {
            return self.tokenizer.count(&text);
        };
        let common = text.bytes().zip(self.text.bytes()).take_while(|(new, old)| new == old).count();
        // An added token that begins before a mark could end after it, now that other bytes follow.
        let unchanged = common.saturating_sub(segments.longest_added());
        self.marks.truncate(self.marks.partition_point(|(at, _)| *at <= unchanged));
        let (mut at, mut total) = self.marks.last().copied().unwrap_or_default();
        while let Some((start, len)) = segments.first_added(&text[at..]) {
            let end = at + start + len;
            total += self.tokenizer.count(&text[at..end])?;
            self.marks.push((end, total));
            at = end;
        }
        total += self.tokenizer.count(&text[at..])?;
        self.text = text;
        Ok(total)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::LazyLock};

    use serde_json::Value;

    use super::*;
    use crate::tokens::BUILTIN;

    /// The built-in vocabulary with chat markers, and a template that renders the last message differently.
    static CHAT: LazyLock<Tokenizer> = LazyLock::new(|| {
        let folder = std::env::temp_dir().join(format!("vb-growing-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut json: Value = serde_json::from_str(BUILTIN).unwrap();
        let list = json["added_tokens"].as_array_mut().unwrap();
        for (id, content) in [(3113, "<|im_start|>"), (3114, "<|im_end|>"), (3115, "<|im_end|>>")] {
            list.push(serde_json::json!({"id": id, "content": content, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": true}));
        }
        fs::write(folder.join("tokenizer.json"), json.to_string()).unwrap();
        let template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if loop.last %}last {% endif %}{{ m.content }}\
                        <|im_end|>{% endfor %}<|im_start|>assistant\n";
        fs::write(folder.join("chat_template.jinja"), template).unwrap();
        let tokenizer = Tokenizer::open(folder.to_str().unwrap()).unwrap();
        fs::remove_dir_all(folder).unwrap();
        tokenizer
    });

    fn messages_of(texts: &[String]) -> Vec<Value> {
        let message = |(text, role): (&String, &&str)| serde_json::json!({"role": role, "content": text});
        texts.iter().zip(["user", "assistant"].iter().cycle()).map(message).collect()
    }

    proptest::proptest! {
        #[test]
        fn a_growing_chat_is_counted_like_a_new_one(
            texts in proptest::collection::vec(r"([a-z ]{0,9}|<\|im_end\|>{0,2}|<\|im_|>|[ \n]{1,3}|\PC{0,2}){0,4}", 1..12),
        ) {
            for tokenizer in [&*CHAT, &Tokenizer::builtin().unwrap()] {
                let messages = messages_of(&texts);
                let mut counter = ChatCounter::new(tokenizer);
                for len in 1..=messages.len() {
                    let chat = &messages[..len];
                    proptest::prop_assert_eq!(counter.count_chat(chat.into()).unwrap(), tokenizer.count_chat(chat).unwrap());
                }
            }
        }
    }
}

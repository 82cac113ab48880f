//! Counting a chat that grows turn by turn, without counting again what was counted before.

use super::{Chat, Engine, Tokenizer, chat};
use crate::error::Error;

/// The counter of one chat.
///
/// A text is cut at its added tokens (`<|im_end|>`, …) before anything else is done to it. So what stands up to the end of one
/// has as many tokens as it had, whatever comes behind, and only the rest is counted. A tokenizer that may work in another way
/// counts all of it each time.
#[derive(Debug)]
pub struct Growing<'a> {
    tokenizer: &'a Tokenizer,
    /// The text of the chat as it was last, with the places behind its added tokens and the tokens up to each.
    text: String,
    marks: Vec<(usize, usize)>,
    /// Of a chat without a template: its messages so far, and their tokens.
    messages: (usize, usize),
}

impl<'a> Growing<'a> {
    /// Of a chat that has not begun.
    #[must_use]
    pub fn new(tokenizer: &'a Tokenizer) -> Self {
        Growing { tokenizer, text: String::new(), marks: Vec::new(), messages: (0, 0) }
    }

    /// As [`Tokenizer::count_chat_with`]. The chat begins with the messages that it had.
    pub fn count_chat(&mut self, chat: Chat) -> Result<usize, Error> {
        match (&self.tokenizer.engine, &self.tokenizer.chat) {
            (Engine::Server(_), _) => self.tokenizer.count_chat_with(chat),
            (Engine::Local(..), Some(_)) => self.count_rendered(chat),
            (Engine::Local(..), None) => {
                let (known, mut total) = self.messages;
                for message in chat.messages.iter().skip(known) {
                    total += self.tokenizer.count(&chat::text(message))?;
                }
                self.messages = (chat.messages.len(), total);
                Ok(total)
            }
        }
    }

    /// The number of tokens of the text that [`Tokenizer::render_chat`] makes of a chat.
    pub fn count_rendered(&mut self, chat: Chat) -> Result<usize, Error> {
        let text = self.tokenizer.render_chat(chat)?;
        let Engine::Local(_, Some(segments)) = &self.tokenizer.engine else { return self.tokenizer.count(&text) };
        let alike = text.bytes().zip(self.text.bytes()).take_while(|(new, old)| new == old).count();
        // An added token that begins in front of a mark could end behind it, if other bytes come there now.
        let sure = alike.saturating_sub(segments.longest_added());
        self.marks.truncate(self.marks.partition_point(|(at, _)| *at <= sure));
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

    /// The built-in vocabulary with marks of a chat, behind a template that writes the last message in another way.
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

    fn said(texts: &[String]) -> Vec<Value> {
        let message = |(text, role): (&String, &&str)| serde_json::json!({"role": role, "content": text});
        texts.iter().zip(["user", "assistant"].iter().cycle()).map(message).collect()
    }

    proptest::proptest! {
        #[test]
        fn a_chat_that_grows_is_counted_as_one_that_is_new(
            texts in proptest::collection::vec(r"([a-z ]{0,9}|<\|im_end\|>{0,2}|<\|im_|>|[ \n]{1,3}|\PC{0,2}){0,4}", 1..12),
        ) {
            for tokenizer in [&*CHAT, &Tokenizer::builtin().unwrap()] {
                let messages = said(&texts);
                let mut growing = Growing::new(tokenizer);
                for most in 1..=messages.len() {
                    let chat = &messages[..most];
                    proptest::prop_assert_eq!(growing.count_chat(chat.into()).unwrap(), tokenizer.count_chat(chat).unwrap());
                }
            }
        }
    }
}

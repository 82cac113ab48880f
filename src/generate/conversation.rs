//! Conversations in dataset files, in `ShareGPT`'s or the `OpenAI` API's format.

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::{Value, json};

use crate::{
    error::Error,
    generate::{
        common::Common,
        exact::{OutputLen, PromptCounter},
        media,
        rows::LeftOut,
        session::{self, ScriptedTurn, SessionRequests},
        writer::PromptLen,
    },
};

/// Keys of a row that hold a conversation.
pub const CONVERSATION_KEYS: [&str; 3] = ["conversations", "conversation", "messages"];

/// A message: `{"role":…,"content":…}`, or `{"from":…,"value":…}`.
#[derive(Debug, Clone, Deserialize)]
pub struct ChatMessage {
    #[serde(alias = "from", default, deserialize_with = "deserialize_role")]
    role: String,
    #[serde(alias = "value", alias = "text", default, deserialize_with = "deserialize_text")]
    content: Option<String>,
}

/// Reads a conversation: a list of messages, of texts by user and model in turn, or of lists of messages. Nulls are skipped.
pub fn read_messages(list: Value) -> Result<Vec<ChatMessage>, String> {
    let Value::Array(list) = list else { return Err("it is not a list of messages".into()) };
    let flat = list.into_iter().flat_map(|item| match item {
        // Some datasets have a list of turns, each a list of messages.
        Value::Array(turn) => turn,
        message => vec![message],
    });
    let mut messages = Vec::new();
    for message in flat.filter(|message| !message.is_null()) {
        messages.push(match message {
            Value::String(text) => {
                let role = if messages.len() % 2 == 0 { "user" } else { "assistant" };
                ChatMessage { role: role.into(), content: Some(text) }
            }
            message => serde_json::from_value(message).map_err(|e| e.to_string())?,
        });
    }
    Ok(messages)
}

fn deserialize_role<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Reads a text, or joins the texts of content parts.
fn deserialize_text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    match Value::deserialize(from)? {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        Value::Array(parts) => media::text_of_parts(&parts).map(Some).map_err(D::Error::custom),
        _ => Err(D::Error::custom("the content is neither text nor a list of parts")),
    }
}

/// Role of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaker {
    System,
    User,
    Model,
}

impl ChatMessage {
    /// Whether it is a system prompt.
    pub fn is_system(&self) -> bool {
        self.parse_speaker() == Some(Speaker::System)
    }

    /// Its text, if it has one.
    pub fn into_text(self) -> Option<String> {
        self.content
    }

    fn parse_speaker(&self) -> Option<Speaker> {
        match self.role.as_str() {
            "system" | "developer" => Some(Speaker::System),
            "user" | "human" | "prompter" => Some(Speaker::User),
            "assistant" | "gpt" | "chatgpt" | "bing" | "bard" | "model" => Some(Speaker::Model),
            _ => None,
        }
    }
}

/// Questions and answers of a conversation.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    /// The system prompt.
    pub system: Option<String>,
    /// Questions and their answers.
    pub pairs: Vec<(String, String)>,
}

impl Conversation {
    /// Takes messages as long as questions and answers alternate and neither is empty. Answers before the first
    /// question are skipped: the row is the middle of a longer conversation.
    pub fn from_messages(messages: Vec<ChatMessage>) -> Self {
        let mut conversation = Conversation::default();
        let mut messages = messages
            .into_iter()
            .skip_while(|message| message.parse_speaker() == Some(Speaker::Model))
            .map(|message| (message.parse_speaker(), message.content.unwrap_or_default()))
            .peekable();
        if let Some((_, text)) = messages.next_if(|(speaker, _)| *speaker == Some(Speaker::System)) {
            conversation.system = Some(text).filter(|text| !text.is_empty());
        }
        while let (Some((Some(Speaker::User), question)), Some((Some(Speaker::Model), answer))) =
            (messages.next(), messages.next())
        {
            if question.trim().is_empty() || answer.trim().is_empty() {
                break;
            }
            conversation.pairs.push((question, answer));
        }
        conversation
    }

    /// The messages up to the first answer, and that answer; none without a user message.
    pub fn opening_messages(messages: Vec<ChatMessage>) -> (Vec<Value>, Option<String>) {
        let mut opening = Vec::new();
        let mut asked = false;
        for message in messages {
            let role = match message.parse_speaker() {
                Some(Speaker::Model) if asked => return (opening, message.content),
                // The row is the middle of a longer conversation.
                Some(Speaker::Model) => continue,
                Some(Speaker::System) => "system",
                Some(Speaker::User) => "user",
                None => break,
            };
            asked |= role == "user";
            opening.push(json!({"role": role, "content": message.content.unwrap_or_default()}));
        }
        if !asked {
            opening.clear();
        }
        (opening, None)
    }

    /// The last message of the model.
    pub fn last_answer(messages: Vec<ChatMessage>) -> Option<String> {
        messages
            .into_iter()
            .rfind(|message| message.parse_speaker() == Some(Speaker::Model))
            .and_then(|last| last.content)
    }

    /// Makes one request per question. `--output-len`, or else the length of the answer, is what each asks for.
    pub fn into_session(
        self,
        common: &Common,
        counter: PromptCounter,
    ) -> Result<Result<SessionRequests, LeftOut>, Error> {
        if self.pairs.is_empty() {
            return Ok(Err(LeftOut("no question with an answer at its start")));
        }
        let turns = self.pairs.into_iter().map(|(user, response)| {
            let response_len = match common.output_len {
                Some(OutputLen::Tokens(n)) => n,
                // The answer is generated, so it has no special tokens in front.
                _ => u32::try_from(counter.tokenizer.count(&response)?).unwrap_or(u32::MAX),
            };
            // The question has its own length.
            Ok(ScriptedTurn { user, response, response_len, asked: PromptLen::exact(0) })
        });
        let session = session::build_session(common, counter, self.system.as_deref(), turns, 0, None)?;
        if session.is_empty() {
            return Ok(Err(LeftOut("the first turn exceeds --max-model-len")));
        }
        Ok(Ok(session))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(messages: Value) -> Conversation {
        Conversation::from_messages(serde_json::from_value(messages).unwrap())
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    #[test]
    fn both_ways_of_writing_are_read() {
        let theirs =
            json!([{"from": "system", "value": "s"}, {"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]);
        let openai = json!([{"role": "system", "content": "s"}, {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"}]);
        let want = Conversation { system: Some("s".into()), pairs: pairs(&[("a", "b")]) };
        assert_eq!(
            (conversation(theirs), conversation(openai)),
            (
                Conversation { ..want },
                conversation(json!([
            {"role": "system", "content": "s"}, {"role": "user", "content": "a"}, {"role": "model", "content": "b"}]))
            )
        );
    }

    #[test]
    fn it_goes_as_far_as_both_sides_take_turns() {
        let say = |who: &str, text: &str| json!({"from": who, "value": text});
        let odd = json!([
            say("gpt", "x"),
            say("human", "a"),
            say("gpt", "b"),
            say("human", "c"),
            say("human", "d"),
            say("gpt", "e")
        ]);
        assert_eq!(conversation(odd).pairs, pairs(&[("a", "b")]));
        let empty = json!([say("human", "a"), say("gpt", "b"), say("human", "c"), say("gpt", " ")]);
        assert_eq!(conversation(empty).pairs, pairs(&[("a", "b")]));
        assert_eq!(conversation(json!([say("human", "a")])), Conversation::default());
        assert_eq!(conversation(json!([{"role": "user", "content": null}, say("gpt", "b")])).pairs, []);
    }

    #[test]
    fn messages_may_be_texts_lists_and_nulls() {
        let read = |list: Value| Conversation::from_messages(read_messages(list).unwrap()).pairs;
        assert_eq!(read(json!(["a", "b", null, "c", "d"])), pairs(&[("a", "b"), ("c", "d")]));
        let message = |who: &str, text: &str| json!({"role": who, "content": text, "weight": null});
        assert_eq!(read(json!([[message("user", "a")], null, [message("assistant", "b")]])), pairs(&[("a", "b")]));
        assert!(read_messages(json!("a")).is_err() && read_messages(json!([7])).is_err());
        assert_eq!(read(json!([{"role": null, "content": "a"}])), []);
    }

    #[test]
    fn a_message_may_be_a_list_of_parts() {
        let part = |text: &str| json!({"type": "text", "text": text, "index": null});
        let parts = json!([part("a"), {"type": "image", "text": null, "index": 0}, part("b")]);
        let asked = json!([{"role": "user", "content": parts}, {"role": "assistant", "content": [part("c")]}]);
        assert_eq!(conversation(asked).pairs, pairs(&[("a\nb", "c")]));
        let holds = json!({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]});
        let error = serde_json::from_value::<ChatMessage>(holds).unwrap_err().to_string();
        assert!(error.contains("--dataset-name custom"), "{error}");
        assert!(serde_json::from_value::<ChatMessage>(json!({"role": "user", "content": 7})).is_err());
    }
}

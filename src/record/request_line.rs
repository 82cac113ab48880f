//! A line of the input whose prompt stays JSON text: what is sent as it was written need not be parsed.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{Object, SampleRequest};
use crate::{arrival, fields, json, units::Nanos};

/// How the content of a request is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentForm {
    /// `prompt` is text.
    Text,
    /// `prompt` is a list of token ids.
    Ids,
    /// `prompt` is a list of texts.
    Texts,
    /// `prompt` is a list of lists of token ids.
    IdLists,
    /// `messages`, each with its text: no images or audio, and no placeholder for a response.
    Messages,
}

/// The content of a request as it was written. Each part is valid JSON, and what a parser would repair is not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawContent<'a> {
    /// How it is written.
    pub form: ContentForm,
    /// The value of `prompt` or `messages`.
    pub json: &'a str,
    /// The value of `body`.
    pub body: Option<&'a str>,
}

/// The keys of [`SampleRequest`].
#[derive(Deserialize)]
struct RequestLine<'a> {
    #[serde(default, deserialize_with = "fields::deserialize_name")]
    request_id: Option<String>,
    #[serde(borrow)]
    prompt: Option<&'a RawValue>,
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
    #[serde(default, deserialize_with = "fields::deserialize_count")]
    prompt_len: Option<u32>,
    #[serde(default, deserialize_with = "fields::deserialize_count")]
    expected_output_len: Option<u32>,
    #[serde(default, deserialize_with = "fields::deserialize_count")]
    expected_cached_len: Option<u32>,
    #[serde(default, deserialize_with = "arrival::deserialize_timestamp")]
    timestamp: Option<Nanos>,
    #[serde(default, deserialize_with = "fields::deserialize_name")]
    session_id: Option<String>,
    #[serde(default, deserialize_with = "fields::deserialize_count")]
    turn: Option<u32>,
    think_time: Option<Nanos>,
    #[serde(default, deserialize_with = "fields::deserialize_name")]
    lora: Option<String>,
    multi_modal_data: Option<IgnoredAny>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
    tags: Option<Object>,
    #[serde(default, deserialize_with = "fields::deserialize_count_or_none")]
    num_prompts: Option<u32>,
}

impl<'a> RawContent<'a> {
    /// Splits a line into a request without `prompt`, `messages` and `body`, and these as text. `None`: the line must be
    /// parsed, because it is wrong, needs a repair, or has more than text.
    #[must_use]
    pub fn split_line(line: &'a [u8]) -> Option<(SampleRequest, RawContent<'a>)> {
        let line: RequestLine = serde_json::from_str(str::from_utf8(line).ok()?).ok()?;
        let (form, json) = match (line.prompt, line.messages) {
            (Some(prompt), None) => (ContentForm::from_prompt(prompt.get())?, prompt.get()),
            (None, Some(messages)) if is_plain_chat(messages.get()) => (ContentForm::Messages, messages.get()),
            _ => return None,
        };
        if line.multi_modal_data.is_some() || json::has_half_character(json) {
            return None;
        }
        let sample = SampleRequest {
            request_id: line.request_id,
            prompt_len: line.prompt_len,
            expected_output_len: line.expected_output_len,
            expected_cached_len: line.expected_cached_len,
            timestamp: line.timestamp,
            session_id: line.session_id,
            turn: line.turn,
            think_time: line.think_time,
            lora: line.lora,
            tags: line.tags,
            num_prompts: line.num_prompts,
            ..SampleRequest::default()
        };
        Some((sample, RawContent { form, json, body: line.body.map(RawValue::get) }))
    }
}

/// Whether these are messages with text only.
fn is_plain_chat(messages: &str) -> bool {
    /// The keys that decide it. Content that is null is a placeholder or belongs to a tool call.
    #[derive(Deserialize)]
    struct MessageOutline<'a> {
        #[serde(borrow)]
        content: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct PartOutline<'a> {
        #[serde(rename = "type")]
        kind: &'a str,
    }
    let is_text = |part: &PartOutline| part.kind == "text";
    let is_plain = |message: &MessageOutline| {
        let content = message.content.map(RawValue::get).unwrap_or_default();
        content.starts_with('"')
            || serde_json::from_str::<Vec<PartOutline>>(content).is_ok_and(|p| p.iter().all(is_text))
    };
    serde_json::from_str::<Vec<MessageOutline>>(messages).is_ok_and(|all| all.iter().all(is_plain))
}

impl ContentForm {
    /// The form of a `prompt`; `None` if it has none of them.
    fn from_prompt(json: &str) -> Option<Self> {
        if json.starts_with('"') {
            return Some(ContentForm::Text);
        }
        Some(match serde_json::from_str(json).ok()? {
            PromptKind::Id => return None,
            PromptKind::Text => ContentForm::Text,
            PromptKind::Ids => ContentForm::Ids,
            PromptKind::Texts => ContentForm::Texts,
            PromptKind::IdLists => ContentForm::IdLists,
        })
    }
}

/// What a value is. Reading it checks all of the value and keeps nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PromptKind {
    Id,
    Text,
    Ids,
    Texts,
    IdLists,
}

impl<'de> Deserialize<'de> for PromptKind {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct KindVisitor;
        impl<'de> Visitor<'de> for KindVisitor {
            type Value = PromptKind;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a prompt")
            }
            fn visit_str<E: de::Error>(self, _: &str) -> Result<PromptKind, E> {
                Ok(PromptKind::Text)
            }
            fn visit_u64<E: de::Error>(self, id: u64) -> Result<PromptKind, E> {
                u32::try_from(id).map(|_| PromptKind::Id).map_err(E::custom)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<PromptKind, A::Error> {
                let first = list.next_element()?.unwrap_or(PromptKind::Id);
                while let Some(item) = list.next_element::<PromptKind>()? {
                    if item != first {
                        return Err(de::Error::custom("a list of different things"));
                    }
                }
                match first {
                    PromptKind::Id => Ok(PromptKind::Ids),
                    PromptKind::Text => Ok(PromptKind::Texts),
                    PromptKind::Ids => Ok(PromptKind::IdLists),
                    PromptKind::Texts | PromptKind::IdLists => Err(de::Error::custom("a list of lists")),
                }
            }
        }
        from.deserialize_any(KindVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_that_can_be_copied_is_found_with_its_form() {
        for (content, form) in [
            (r#""prompt":"a \"b\" \u00e9 \ud83d\ude00""#, ContentForm::Text),
            (r#""prompt":[]"#, ContentForm::Ids),
            (r#""prompt":[1, 4294967295]"#, ContentForm::Ids),
            (r#""prompt":["a","b"]"#, ContentForm::Texts),
            (r#""prompt":[[1],[],[2,3]]"#, ContentForm::IdLists),
            (r#""messages":[]"#, ContentForm::Messages),
            (r#""messages":[{"role":"user","content":"a","name":"x"}]"#, ContentForm::Messages),
            (r#""messages":[{"role":"user","content":[{"type":"text","text":"a"}]}]"#, ContentForm::Messages),
        ] {
            let line = format!(r#"{{"request_id":7,"turn":"2",{content},"body":{{"n": 1}},"later":[1]}}"#);
            let (sample, raw) = RawContent::split_line(line.as_bytes()).unwrap();
            assert_eq!((raw.form, raw.body), (form, Some(r#"{"n": 1}"#)), "{line}");
            assert!(content.ends_with(raw.json), "{}", raw.json);
            let parsed = SampleRequest::parse(line.as_bytes()).unwrap();
            assert_eq!(sample, SampleRequest { prompt: None, messages: None, body: None, ..parsed });
        }
    }

    #[test]
    fn what_must_be_parsed_is_not_copied() {
        for line in [
            "{}",
            "[]",
            r#"{"prompt":null}"#,
            r#"{"prompt":7}"#,
            r#"{"prompt":[-1]}"#,
            r#"{"prompt":[4294967296]}"#,
            r#"{"prompt":[1.0]}"#,
            r#"{"prompt":[1,"a"]}"#,
            r#"{"prompt":[["a"]]}"#,
            r#"{"prompt":[[[1]]]}"#,
            r#"{"prompt":"half \ud83d"}"#,
            r#"{"prompt":"half \ude00\ud83d x"}"#,
            r#"{"prompt":"bad \x escape"}"#,
            "{\"prompt\":\"a\tb\"}",
            r#"{"prompt":"a","n":NaN}"#,
            r#"{"prompt":"a","prompt":"b"}"#,
            r#"{"prompt":"a","messages":[]}"#,
            r#"{"prompt":"a","multi_modal_data":{}}"#,
            r#"{"messages":"a"}"#,
            r#"{"messages":["a"]}"#,
            r#"{"messages":[{"role":"assistant","content":null}]}"#,
            r#"{"messages":[{"role":"user"}]}"#,
            r#"{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}"#,
            r#"{"messages":[{"role":"user","content":[{"text":"a"}]}]}"#,
            r#"{"messages":[{"role":"user","content":"\udead"}]}"#,
        ] {
            assert_eq!(RawContent::split_line(line.as_bytes()), None, "{line}");
        }
        assert_eq!(RawContent::split_line(b"{\"prompt\":\"\xff\"}"), None);
    }
}

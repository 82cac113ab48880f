//! One request to send, independent of the API of the server.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, SeqAccess, Visitor},
};
use serde_json::Value;

use super::Object;
use crate::{arrival, error::strip_location, fields, json, text, units::Nanos};

/// One request: written by `vb-gen` or by hand, read by `vb-fire`. `{"prompt":"hi"}` is enough.
///
/// The names come from vLLM's `SampleRequest`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SampleRequest {
    /// Sent to the server as `x-request-id` and copied to the output. Absent: `vb-fire` uses the line number.
    #[serde(default, deserialize_with = "fields::deserialize_name", skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The prompt: text, token ids, or a list of either for endpoints that accept lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Prompt>,
    /// The messages of a chat, in the format of the OpenAI API; instead of `prompt`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages: Option<Vec<Value>>,
    /// The length of the prompt in tokens, as the generator counted it. Absent: unknown.
    #[serde(default, deserialize_with = "fields::deserialize_count", skip_serializing_if = "Option::is_none")]
    pub prompt_len: Option<u32>,
    /// The maximum number of tokens to generate (`max_tokens`). Absent: the server's limit.
    #[serde(default, deserialize_with = "fields::deserialize_count", skip_serializing_if = "Option::is_none")]
    pub expected_output_len: Option<u32>,
    /// Tokens of the prompt that the workload expects to be prefix cache hits. Absent: no expectation.
    #[serde(default, deserialize_with = "fields::deserialize_count", skip_serializing_if = "Option::is_none")]
    pub expected_cached_len: Option<u32>,
    /// When to send the request, in seconds from the start of the run. Absent: as soon as possible. Unix time and dates are read
    /// too: then the first request is sent at the start of the run.
    #[serde(default, deserialize_with = "arrival::deserialize_timestamp", skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Nanos>,
    /// The conversation of the request.
    #[serde(default, deserialize_with = "fields::deserialize_name", skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// The position in the conversation, from 0.
    #[serde(default, deserialize_with = "fields::deserialize_count", skip_serializing_if = "Option::is_none")]
    pub turn: Option<u32>,
    /// The think time: seconds between the last token of the previous turn and this request. Absent: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub think_time: Option<Nanos>,
    /// The LoRA adapter, sent as the name of the model.
    #[serde(default, deserialize_with = "fields::deserialize_name", skip_serializing_if = "Option::is_none")]
    pub lora: Option<String>,
    /// Content parts (images, audio) that a chat sends after the text of the prompt: one part or a list of parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multi_modal_data: Option<Value>,
    /// Merged into the request body last, so it overrides every flag; a null removes its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<Object>,
    /// Copied unchanged to the output, so that results can be grouped by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<Object>,
    /// On the first line: how many requests follow, with this one. Only the progress of `vb-fire` uses it. Absent: unknown.
    #[serde(default, deserialize_with = "fields::deserialize_count_or_none", skip_serializing_if = "Option::is_none")]
    pub num_prompts: Option<u32>,
}

impl SampleRequest {
    /// Parses a line. Unlike serde's, the error names the key with a wrong value, and comes with its column; 0: unknown.
    ///
    /// # Errors
    /// It is not JSON, or a value has the wrong type.
    pub fn parse(line: &[u8]) -> Result<Self, (usize, String)> {
        if let Some(column) = text::find_bad_utf8(line) {
            return Err((column, text::BAD_UTF8.into()));
        }
        json::parse_lenient(line).map_err(|e| {
            let what = strip_location(&e);
            let bad_key = if e.is_data() { Self::find_bad_key(line) } else { None };
            let what = bad_key.map_or(what.clone(), |key| format!("`{key}`: {what}"));
            (if e.line() == 1 { e.column() } else { 0 }, what)
        })
    }

    /// The first key of a line whose value has the wrong type; `None` if the line is not an object.
    fn find_bad_key(line: &[u8]) -> Option<String> {
        let object: Object = json::parse_lenient(line).ok()?;
        object.into_iter().find(|(key, value)| !Self::takes_value(key, value)).map(|(key, _)| key)
    }

    /// Whether a request may have this value under this key. All other keys are ignored, so they take any value.
    #[must_use]
    pub fn takes_value(key: &str, value: &Value) -> bool {
        let alone = Object::from_iter([(key.to_owned(), value.clone())]);
        serde_json::from_value::<Self>(alone.into()).is_ok()
    }
}

/// The prompt of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Prompt {
    /// Text, which the server tokenizes.
    Text(String),
    /// Token ids, which the server uses unchanged.
    Ids(Vec<u32>),
    /// Several texts, for endpoints that accept batches.
    Texts(Vec<String>),
    /// Several lists of token ids.
    IdLists(Vec<Vec<u32>>),
}

/// Written by hand, because `untagged` loses the column of an error and does not describe it.
impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct PromptVisitor;
        impl<'de> Visitor<'de> for PromptVisitor {
            type Value = Prompt;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a prompt: text, a list of token ids, or a list of either")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Prompt, E> {
                Ok(Prompt::Text(text.to_owned()))
            }
            fn visit_string<E: de::Error>(self, text: String) -> Result<Prompt, E> {
                Ok(Prompt::Text(text))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Prompt, A::Error> {
                Ok(match list.next_element::<PromptItem>()? {
                    None => Prompt::Ids(Vec::new()),
                    Some(PromptItem::Id(first)) => Prompt::Ids(collect_items(first, list)?),
                    Some(PromptItem::Text(first)) => Prompt::Texts(collect_items(first, list)?),
                    Some(PromptItem::Ids(first)) => Prompt::IdLists(collect_items(first, list)?),
                })
            }
        }
        from.deserialize_any(PromptVisitor)
    }
}

fn collect_items<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(first: T, mut list: A) -> Result<Vec<T>, A::Error> {
    let mut items = vec![first];
    while let Some(item) = list.next_element()? {
        items.push(item);
    }
    Ok(items)
}

#[derive(Deserialize)]
#[serde(untagged)]
enum PromptItem {
    Id(u32),
    Text(String),
    Ids(Vec<u32>),
}

impl JsonSchema for Prompt {
    fn schema_name() -> Cow<'static, str> {
        "Prompt".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let id = json_schema!({"type": "integer", "minimum": 0});
        json_schema!({"anyOf": [
            {"type": "string"},
            {"type": "array", "items": id},
            {"type": "array", "items": {"type": "string"}},
            {"type": "array", "items": {"type": "array", "items": id}},
        ]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_enough() {
        let request: SampleRequest = serde_json::from_str(r#"{"prompt":"hi","a_future_key":1}"#).unwrap();
        assert_eq!(request.prompt, Some(Prompt::Text("hi".into())));
        assert_eq!(serde_json::to_string(&request).unwrap(), r#"{"prompt":"hi"}"#);
    }

    #[test]
    fn values_are_read_as_people_write_them() {
        let line = r#"{"prompt":"hi","request_id":7,"session_id":3,"turn":"2","prompt_len":12.0,"expected_output_len":"128",
            "timestamp":"2023-11-14T22:13:20Z","lora":null,"tags":{"x":NaN}}"#;
        let request = SampleRequest::parse(line.as_bytes()).unwrap();
        assert_eq!((request.request_id.as_deref(), request.session_id.as_deref()), (Some("7"), Some("3")));
        assert_eq!((request.turn, request.prompt_len, request.expected_output_len), (Some(2), Some(12), Some(128)));
        assert_eq!(request.timestamp, Some(Nanos(1_700_000_000_000_000_000)));
    }

    #[test]
    fn a_wrong_value_is_an_error_that_names_its_key() {
        for (line, key) in [
            (r#"{"prompt":"a","tags":["x"]}"#, "`tags`"),
            (r#"{"prompt":"a","body":"Dear Sir"}"#, "`body`"),
            (r#"{"prompt":"a","timestamp":"soon"}"#, "`timestamp`"),
            (r#"{"prompt":"a","expected_output_len":1.5,"n":NaN}"#, "`expected_output_len`"),
            (r#"{"prompt":"a","request_id":[1]}"#, "`request_id`"),
            (r#"{"prompt":"a","messages":"hi"}"#, "`messages`"),
        ] {
            let (_, what) = SampleRequest::parse(line.as_bytes()).unwrap_err();
            assert!(what.starts_with(key), "{what}");
        }
        assert_eq!(SampleRequest::parse(b"{\"prompt\":}").unwrap_err(), (11, "expected value".into()));
    }

    #[test]
    fn every_kind_of_prompt_survives_a_round_trip() {
        for text in [r#""hi""#, "[1,2]", r#"["a","b"]"#, "[[1],[2,3]]", "[]"] {
            let prompt: Prompt = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&prompt).unwrap(), text);
        }
        let error = serde_json::from_str::<SampleRequest>(r#"{"prompt":7}"#).unwrap_err().to_string();
        assert!(error.contains("expected a prompt: text, a list of token ids"), "{error}");
    }
}

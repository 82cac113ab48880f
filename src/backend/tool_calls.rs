//! What the model generates in a tool call: the name of the function and its arguments.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{BorrowedText, parse};

/// A tool call, or a part of one, under the names of all APIs.
#[derive(Default, Deserialize)]
#[serde(default)]
struct ToolCall<'a> {
    #[serde(borrow, alias = "custom")]
    function: Option<CalledFunction<'a>>,
    /// For APIs that do not nest them (`flatten` cannot borrow).
    #[serde(borrow)]
    name: Option<BorrowedText<'a>>,
    #[serde(borrow, alias = "input")]
    arguments: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CalledFunction<'a> {
    #[serde(borrow)]
    name: Option<BorrowedText<'a>>,
    #[serde(borrow, alias = "input")]
    arguments: Option<&'a RawValue>,
}

/// Whether a value holds anything: not null, false, or an empty string, list or object.
#[must_use]
pub fn is_filled(value: Option<&RawValue>) -> bool {
    let Some(text) = value.map(|value| value.get().trim_ascii()) else { return false };
    match text.as_bytes() {
        [b'[' | b'{' | b'"', inner @ .., _] => !inner.trim_ascii().is_empty(),
        _ => !matches!(text, "null" | "false"),
    }
}

/// The names and arguments of a list of tool calls, or of one; empty if there are none.
#[must_use]
pub fn call_text<'a>(value: Option<&'a RawValue>) -> Cow<'a, str> {
    let Some(value) = value.filter(|value| is_filled(Some(value))) else { return Cow::default() };
    let bytes = value.get().as_bytes();
    let calls: Vec<ToolCall<'a>> =
        if bytes.starts_with(b"[") { parse(bytes) } else { parse(bytes).map(|call| vec![call]) }.unwrap_or_default();
    let functions = calls
        .into_iter()
        .map(|call| call.function.unwrap_or(CalledFunction { name: call.name, arguments: call.arguments }));
    functions.flat_map(CalledFunction::into_texts).fold(Cow::default(), join_texts)
}

/// Both texts, one after the other; copied only if both hold something.
#[must_use]
pub fn join_texts<'a>(one: Cow<'a, str>, other: Cow<'a, str>) -> Cow<'a, str> {
    match (one.is_empty(), other.is_empty()) {
        (true, _) => other,
        (_, true) => one,
        _ => (one.into_owned() + &other).into(),
    }
}

impl<'a> CalledFunction<'a> {
    fn into_texts(self) -> impl Iterator<Item = Cow<'a, str>> {
        // A string that holds JSON, or with some servers the JSON itself.
        let arguments = self.arguments.map(|raw| match parse::<BorrowedText>(raw.get().as_bytes()) {
            Ok(BorrowedText(text)) => text,
            Err(_) => raw.get().into(),
        });
        self.name.map(|name| name.0).into_iter().chain(arguments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> &RawValue {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn names_and_arguments_are_what_the_model_wrote() {
        for (json, text) in [
            (r#"[{"index":0,"id":"call_1","type":"function","function":{"name":"look","arguments":""}}]"#, "look"),
            (r#"[{"index":0,"function":{"arguments":"{\"a\":1}"}}]"#, r#"{"a":1}"#),
            (r#"[{"function":{"name":"f","arguments":{"a":1}}},{"function":{"name":"g"}}]"#, r#"f{"a":1}g"#),
            (r#"{"name":"f","arguments":"{}"}"#, "f{}"),
            (r#"[{"type":"tool_use","name":"f","input":{"a":1}}]"#, r#"f{"a":1}"#),
            (r#"[{"custom":{"name":"f","input":"x"}}]"#, "fx"),
            (r#"[{"index":0}]"#, ""),
            ("[]", ""),
            ("7", ""),
        ] {
            assert_eq!(call_text(Some(raw(json))), text, "{json}");
        }
        assert_eq!(call_text(None), "");
    }

    #[test]
    fn empty_values_hold_nothing() {
        for json in ["null", "false", "\"\"", "[]", "{}", "[ ]", " { } "] {
            assert!(!is_filled(Some(raw(json))), "{json}");
        }
        for json in ["true", "1", "\"a\"", "[0]", "{\"a\":1}"] {
            assert!(is_filled(Some(raw(json))), "{json}");
        }
        assert!(!is_filled(None));
    }
}

//! What the model generates in a tool call: the name of the function and its arguments.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::{
    lenient::{List, Nested, Raw, Size, Text, lenient_fields},
    read_json,
};

lenient_fields! {
    /// A tool call, or a part of one, under the names of all APIs.
    struct ToolCall<'a> {
        "function" | "custom" => function: Nested<CalledFunction<'a>>,
        /// For APIs that do not nest them.
        "name" => name: Text<'a>,
        "arguments" | "input" => arguments: Raw<'a>,
    }
}

lenient_fields! {
    /// A function and its arguments.
    struct CalledFunction<'a> {
        "name" => name: Text<'a>,
        "arguments" | "input" => arguments: Raw<'a>,
    }
}

/// Whether a value is a list or an object with an element that is not null.
#[must_use]
pub fn is_filled(Raw(value): Raw) -> bool {
    value.is_some_and(|value| read_json::<Size>(value.get().as_bytes()).is_ok_and(Size::is_filled))
}

/// The names and arguments of a list of tool calls, or of one; empty without any.
#[must_use]
pub fn call_text<'a>(value: Raw<'a>) -> Cow<'a, str> {
    let Some(json) = value.0.map(RawValue::get).filter(|_| is_filled(value)) else { return Cow::default() };
    let calls = if json.starts_with('[') {
        read_json::<List<ToolCall<'a>>>(json.as_bytes()).map(List::into_elements)
    } else {
        read_json::<Nested<ToolCall<'a>>>(json.as_bytes()).map(|call| call.0.into_iter().collect())
    };
    let functions = calls
        .unwrap_or_default()
        .into_iter()
        .map(|call| call.function.0.unwrap_or(CalledFunction { name: call.name, arguments: call.arguments }));
    functions.flat_map(CalledFunction::into_texts).fold(Cow::default(), join_texts)
}

/// The arguments of a call: a string that holds JSON, or with some servers the JSON itself.
#[must_use]
pub fn arguments_text(Raw(arguments): Raw<'_>) -> Cow<'_, str> {
    let Some(json) = arguments.map(RawValue::get) else { return Cow::default() };
    read_json::<Text>(json.as_bytes()).ok().and_then(|text| text.0).unwrap_or(json.into())
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
    fn into_texts(self) -> [Cow<'a, str>; 2] {
        [self.name.0.unwrap_or_default(), arguments_text(self.arguments)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> Raw<'_> {
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
            assert_eq!(call_text(raw(json)), text, "{json}");
        }
        assert_eq!(call_text(Raw(None)), "");
    }

    #[test]
    fn empty_values_hold_nothing() {
        for json in ["null", "false", "true", "0", "1", "\"\"", "\"a\"", "[]", "[null]", "{}", "[ ]", " { } "] {
            assert!(!is_filled(raw(json)), "{json}");
        }
        for json in ["[0]", "[{}]", "{\"a\":1}"] {
            assert!(is_filled(raw(json)), "{json}");
        }
        assert!(!is_filled(Raw(None)));
    }
}

//! The list of models that a server has, in the forms that servers write it.

use serde_json::Value;

use crate::json::parse_lenient;

/// The models of a server.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ModelList {
    /// Their names, in the order of the server.
    pub names: Vec<String>,
    /// Why it is empty, for people.
    pub missing: String,
}

/// Keys whose value may be the list, and keys whose value may be the name of a model.
const LIST_KEYS: [&str; 3] = ["data", "models", "result"];
const NAME_KEYS: [&str; 4] = ["id", "name", "model", "model_name"];

impl ModelList {
    /// A list without any model.
    #[must_use]
    pub fn empty(missing: impl Into<String>) -> Self {
        ModelList { names: vec![], missing: missing.into() }
    }

    /// Reads a response: a list, or an object with one; each model is an object with its name, or the name. `None`: not JSON.
    #[must_use]
    pub fn parse(body: &[u8]) -> Option<Self> {
        let value: Value = parse_lenient(body).ok()?;
        let lists = LIST_KEYS.iter().filter_map(|key| value.get(key)).chain([&value]).filter_map(Value::as_array);
        let (mut count, mut names) = (0, Vec::new());
        for list in lists {
            count += 1;
            names = list.iter().filter_map(model_name).collect();
            if !names.is_empty() {
                break;
            }
        }
        let null = LIST_KEYS.iter().find(|key| value.get(key).is_some_and(Value::is_null));
        let missing = match null {
            Some(key) if count == 0 => format!("its `{key}` is null"),
            _ if count == 0 => "it is not a list of models".into(),
            _ => "the list is empty".into(),
        };
        Some(ModelList { names, missing })
    }
}

fn model_name(model: &Value) -> Option<String> {
    let named = || NAME_KEYS.iter().find_map(|key| model.get(key)?.as_str());
    model.as_str().or_else(named).filter(|name| !name.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_models_have_many_forms() {
        for (body, names) in [
            (r#"{"object":"list","data":[{"id":"a"},{"id":"b"}]}"#, &["a", "b"][..]),
            (r#"[{"id":"a"},{"name":"b"}]"#, &["a", "b"]),
            (r#"["a","b"]"#, &["a", "b"]),
            (r#"{"models":[{"name":"a","model":"x"},{"model":"b"}]}"#, &["a", "b"]),
            (r#"{"models":["a"]}"#, &["a"]),
            (r#"{"data":null,"models":[{"name":"a"}]}"#, &["a"]),
            (r#"{"data":[],"models":[{"name":"a"}]}"#, &["a"]),
            (r#"{"data":[null,{"id":5},{"id":""},{"id":"a","score":NaN}]}"#, &["a"]),
        ] {
            assert_eq!(ModelList::parse(body.as_bytes()).unwrap().names, names, "{body}");
        }
        for (body, missing) in [
            (r#"{"object":"list","data":null}"#, "its `data` is null"),
            (r#"{"models":null}"#, "its `models` is null"),
            (r#"{"data":[]}"#, "the list is empty"),
            ("[]", "the list is empty"),
            ("{}", "it is not a list of models"),
            (r#"{"data":{"id":"a"}}"#, "it is not a list of models"),
            ("\"ok\"", "it is not a list of models"),
        ] {
            assert_eq!(ModelList::parse(body.as_bytes()), Some(ModelList::empty(missing)), "{body}");
        }
        assert_eq!(ModelList::parse(b"<html>"), None);
    }
}

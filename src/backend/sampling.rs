//! Sampling parameters: flags and requests use vLLM's names, which are mapped to the names and places of each API.

use serde_json::Value;

use crate::record::Object;

/// Where sampling parameters go in the body of an API, and their names there.
#[derive(Debug, Clone, Copy)]
pub struct SamplingKeys {
    /// The object of the body that holds them; `None`: the top level.
    pub object: Option<&'static str>,
    /// The supported parameters: vLLM's name, and the name in this API. `None`: all, under vLLM's names.
    pub names: Option<&'static [(&'static str, &'static str)]>,
}

impl SamplingKeys {
    /// All of vLLM's parameters, at the top level.
    pub const VLLM: Self = SamplingKeys { object: None, names: None };
    /// No parameters, for APIs that generate nothing.
    pub const NONE: Self = SamplingKeys { object: None, names: Some(&[]) };

    /// Whether the API has a parameter for this name of vLLM's.
    #[must_use]
    pub fn supports_param(self, name: &str) -> bool {
        self.own_name(name).is_some()
    }

    fn own_name(self, name: &str) -> Option<&str> {
        let Some(known) = self.names else { return Some(name) };
        known.iter().find(|(vllm, _)| *vllm == name).map(|(_, own)| *own)
    }

    /// Moves parameters at the top level of `part` to where the API has them. Other keys, and nulls, are unchanged.
    #[must_use]
    pub fn place_params(self, part: &Object) -> Object {
        let mut placed = Object::new();
        for (name, value) in part {
            match (self.own_name(name), self.object) {
                (Some(own), Some(within)) => {
                    let inner = Object::from_iter([(own.to_owned(), value.clone())]);
                    overlay_value(&mut placed, within, &inner.into());
                }
                (Some(own), _) => overlay_value(&mut placed, own, value),
                (None, _) => overlay_value(&mut placed, name, value),
            }
        }
        placed
    }
}

/// Merges `part` into `body` as a JSON merge patch (RFC 7396): its values replace those in `body`, objects are merged key by
/// key, and a null removes its key.
pub fn merge_patch(body: &mut Object, part: &Object) {
    for (key, value) in part {
        match value {
            Value::Null => {
                body.shift_remove(key);
            }
            Value::Object(inner) => {
                let old = body.entry(key.as_str()).or_insert_with(|| Object::new().into());
                if !old.is_object() {
                    *old = Object::new().into();
                }
                old.as_object_mut().into_iter().for_each(|old| merge_patch(old, inner));
            }
            value => {
                body.insert(key.clone(), value.clone());
            }
        }
    }
}

/// Removes from `body` every key that `part` has as null, at every level.
pub fn remove_nulled(body: &mut Object, part: &Object) {
    for (key, value) in part {
        match (value, body.get_mut(key)) {
            (Value::Null, _) => {
                body.shift_remove(key);
            }
            (Value::Object(inner), Some(Value::Object(old))) => remove_nulled(old, inner),
            _ => {}
        }
    }
}

/// Sets a key of a part; objects are merged key by key, and a null is kept, since it removes a key of the body later.
fn overlay_value(part: &mut Object, key: &str, value: &Value) {
    match (part.get_mut(key), value) {
        (Some(Value::Object(old)), Value::Object(new)) => {
            new.iter().for_each(|(key, value)| overlay_value(old, key, value));
        }
        (Some(old), new) => *old = new.clone(),
        (None, new) => {
            part.insert(key.to_owned(), new.clone());
        }
    }
}

/// Removes `key` from the object `within` of the body.
pub fn take_nested(body: &mut Object, within: &str, key: &str) -> Option<Value> {
    body.get_mut(within)?.as_object_mut()?.remove(key)
}

/// Wraps a string in a list, for APIs that take only lists.
pub fn wrap_in_list(value: Option<&mut Value>) {
    if let Some(value) = value.filter(|value| value.is_string()) {
        *value = Value::Array(vec![value.take()]);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> Object {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_later_part_wins_at_every_level() {
        let api =
            SamplingKeys { object: Some("options"), names: Some(&[("top_p", "top_p"), ("seed", "sampling_seed")]) };
        let mut body = object(json!({"options": {"num_predict": 4}, "stream": true}));
        for part in [
            json!({"top_p": 0.9}),
            json!({"seed": 1, "options": {"num_ctx": 9, "top_p": 0.8}}),
            json!({"seed": 2, "other": [1]}),
        ] {
            merge_patch(&mut body, &api.place_params(&object(part)));
        }
        let options = json!({"num_predict": 4, "top_p": 0.8, "num_ctx": 9, "sampling_seed": 2});
        assert_eq!(Value::Object(body), json!({"options": options, "stream": true, "other": [1]}));
    }

    /// The examples of RFC 7396 that concern objects.
    #[test]
    fn a_part_is_a_merge_patch() {
        for (body, part, want) in [
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"e": 1}), json!({"a": {"bb": {"ccc": null}}}), json!({"e": 1, "a": {"bb": {}}})),
            (json!({"a": "b"}), json!({"a": {"c": 1}}), json!({"a": {"c": 1}})),
        ] {
            let mut merged = object(body);
            merge_patch(&mut merged, &object(part));
            assert_eq!(Value::Object(merged), want);
        }
        let mut body = object(json!({"a": 1, "b": {"c": 2, "d": 3}, "e": 4}));
        remove_nulled(&mut body, &object(json!({"a": null, "b": {"c": null}, "e": {"f": null}, "g": 5})));
        assert_eq!(Value::Object(body), json!({"b": {"d": 3}, "e": 4}));
    }

    #[test]
    fn vllm_has_all_at_the_top() {
        let part = object(json!({"ignore_eos": true, "whatever": {"a": 1}}));
        assert_eq!(SamplingKeys::VLLM.place_params(&part), part);
        assert!(!SamplingKeys::NONE.supports_param("temperature") && SamplingKeys::VLLM.supports_param("min_p"));
    }
}

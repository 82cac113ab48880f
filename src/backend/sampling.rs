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

    /// Moves parameters at the top level of `part` to where the API has them. Other keys are unchanged.
    #[must_use]
    pub fn place_params(self, part: &Object) -> Object {
        let mut placed = Object::new();
        for (name, value) in part {
            match (self.own_name(name), self.object) {
                (Some(own), Some(within)) => {
                    merge_value(&mut placed, within, &Object::from_iter([(own.to_owned(), value.clone())]).into());
                }
                (Some(own), _) => merge_value(&mut placed, own, value),
                (None, _) => merge_value(&mut placed, name, value),
            }
        }
        placed
    }
}

/// Merges `part` into `body`: its values replace those in `body`, and objects are merged key by key.
pub fn merge_object(body: &mut Object, part: &Object) {
    part.iter().for_each(|(key, value)| merge_value(body, key, value));
}

fn merge_value(body: &mut Object, key: &str, value: &Value) {
    match (body.get_mut(key), value) {
        (Some(Value::Object(old)), Value::Object(new)) => merge_object(old, new),
        (Some(old), new) => *old = new.clone(),
        (None, new) => {
            body.insert(key.to_owned(), new.clone());
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
            merge_object(&mut body, &api.place_params(&object(part)));
        }
        let options = json!({"num_predict": 4, "top_p": 0.8, "num_ctx": 9, "sampling_seed": 2});
        assert_eq!(Value::Object(body), json!({"options": options, "stream": true, "other": [1]}));
    }

    #[test]
    fn vllm_has_all_at_the_top() {
        let part = object(json!({"ignore_eos": true, "whatever": {"a": 1}}));
        assert_eq!(SamplingKeys::VLLM.place_params(&part), part);
        assert!(!SamplingKeys::NONE.supports_param("temperature") && SamplingKeys::VLLM.supports_param("min_p"));
    }
}

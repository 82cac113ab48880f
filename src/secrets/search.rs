//! Whether JSON text may hold a secret, found without building a tree.

use std::fmt;

use serde::{
    Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};

use super::{is_secret, may_be_json};

/// Whether [`Secrets::add_body`](super::Secrets::add_body) could find a secret in this JSON, which it reads by the same rules. It may be wrong in one
/// direction only: it also finds what names a secret and holds none, as the parameters of a tool.
#[must_use]
pub fn may_hold_secret(json: &str) -> bool {
    // Nearly all prompts are plain text, or numbers.
    if let Some(text) = json.strip_prefix('"') {
        return text.trim_start().starts_with(['{', '\\']);
    }
    if memchr::memchr(b'"', json.as_bytes()).is_none() {
        return false;
    }
    SecretSearch.deserialize(&mut serde_json::Deserializer::from_str(json)).is_err()
}

/// Reads a value, and fails at the first possible secret.
struct SecretSearch;

impl<'de> DeserializeSeed<'de> for SecretSearch {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for SecretSearch {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without secrets")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        if may_be_json(text) { Err(E::custom("JSON as text")) } else { Ok(()) }
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(SecretSearch)?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key_seed(PublicName)?.is_some() {
            map.next_value_seed(SecretSearch)?;
        }
        Ok(())
    }
}

/// Reads a key, and fails if it names a secret.
struct PublicName;

impl<'de> DeserializeSeed<'de> for PublicName {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_str(self)
    }
}

impl Visitor<'_> for PublicName {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }
    fn visit_str<E: de::Error>(self, name: &str) -> Result<(), E> {
        if is_secret(name) { Err(E::custom("a name of a secret")) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::{super::Secrets, *};

    #[test]
    fn a_body_with_a_secret_is_recognized() {
        for secret in [
            r#"[{"role":"user","content":"hi","api_key":"sk-planted"}]"#,
            r#"[{"content":[{"type":"text","text":"hi","x":{"Auth-Token":"sk-planted"}}]}]"#,
            r#"[{"content":" {\"password\":\"sk-planted\"}"}]"#,
            r#"["\n\u007b\"password\":\"sk-planted\"}"]"#,
            r#""{\"password\":\"sk-planted\"}""#,
            r#"" \t{\"password\":\"sk-planted\"}""#,
            r#""\u007b\"password\":\"sk-planted\"}""#,
        ] {
            assert!(may_hold_secret(secret), "{secret}");
        }
        for public in [
            r#""what is an api_key, a token and a {\"password\":\"\"}?""#,
            r#"[{"role":"user","content":"what is an api_key and a token?","name":"key"}]"#,
            r#"[{"role":"user","content":"code { \"token\" }","max_tokens":3}]"#,
            "[1,2,[3]]",
        ] {
            assert!(!may_hold_secret(public), "{public}");
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let text = r#"(key|api_key|Token|max_tokens|role|[ {"\\\n]|é|sk-12345){0,3}"#;
        let leaf = prop_oneof![Just(Value::Null), any::<u32>().prop_map(Value::from), text.prop_map(Value::from)];
        leaf.prop_recursive(3, 12, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((text, inner), 0..4).prop_map(|all| Value::Object(all.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_secret_of_a_body_is_missed(value in any_value()) {
            let mut found = Secrets::default();
            let body = json!({"messages": value});
            found.add_body(body.as_object().unwrap());
            prop_assert!(found.is_empty() || may_hold_secret(&value.to_string()), "{}", value);
        }
    }
}

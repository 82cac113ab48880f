//! Texts that must never be shown: keys in headers, bodies and URLs.

use reqwest::Url;
use serde_json::Value;

use crate::record::Object;

/// Replaces a secret.
pub const HIDDEN: &str = "***";

/// The shortest secret to hide. Shorter ones, such as the `x` for servers that accept any key, would be found in every other word.
pub const MIN_SECRET_LEN: usize = 4;

/// How much of the beginning of a secret is enough to recognize it.
const RECOGNIZABLE_LEN: usize = 8;

/// Texts to hide.
#[derive(Debug, Clone, Default)]
pub struct Secrets(Vec<String>);

impl Secrets {
    /// Adds one or more secrets.
    pub fn add(&mut self, secrets: impl IntoIterator<Item = String>) {
        self.0.extend(secrets.into_iter().filter(|secret| secret.len() >= MIN_SECRET_LEN));
    }

    /// Adds the values of keys such as `api_key` anywhere in a body.
    pub fn add_body(&mut self, body: &Object) {
        for (key, value) in body {
            match value {
                Value::String(text) if is_secret(key) => self.add([text.clone()]),
                Value::Object(inner) => self.add_body(inner),
                Value::Array(list) => list.iter().filter_map(Value::as_object).for_each(|inner| self.add_body(inner)),
                _ => {}
            }
        }
    }

    /// Adds the values of keys such as `api_key` in the query of a URL, both as written and decoded.
    pub fn add_query(&mut self, url: &str) {
        let Some((_, query)) = url.split_once('?') else { return };
        self.add(query_pairs(query).filter(|(name, _)| is_secret_in_query(name)).map(|(_, value)| value.to_owned()));
        // Only the query is used.
        let Ok(url) = Url::parse(&format!("http://h/?{query}")) else { return };
        self.add(url.query_pairs().filter(|(name, _)| is_secret_in_query(name)).map(|(_, value)| value.into_owned()));
    }

    /// Removes the secrets from `text`: servers often repeat a wrong key in their error.
    #[must_use]
    pub fn scrub_text(&self, text: String) -> String {
        self.0.iter().fold(text, |text, secret| hide_secret(&text, secret))
    }
}

/// Whether the name of a header or a body key means that it holds a secret.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    let ends = ["key", "token", "secret", "password", "authorization", "cookie"];
    ends.iter().any(|end| name.ends_with(end))
}

/// Queries have additional names, for signatures of clouds and keys of functions.
fn is_secret_in_query(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    is_secret(&name)
        || name.ends_with("signature")
        || name.ends_with("credential")
        || ["sig", "code", "auth"].contains(&name.as_str())
}

/// The names and values of a query.
fn query_pairs(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split(['&', '#']).filter_map(|part| part.split_once('='))
}

/// A URL without the values of keys such as `api_key` in its query, however short they are.
#[must_use]
pub fn without_keys(url: &str) -> String {
    let Some((path, query)) = url.split_once('?') else { return url.to_owned() };
    let shown = |part: &str| match part.split_once('=') {
        Some((name, _)) if is_secret_in_query(name) => format!("{name}={HIDDEN}"),
        _ => part.to_owned(),
    };
    format!("{path}?{}", query.split('&').map(shown).collect::<Vec<_>>().join("&"))
}

/// Removes `secret` from `text`, also where only its beginning is left of it.
fn hide_secret(text: &str, secret: &str) -> String {
    let beginning: String = secret.chars().take(RECOGNIZABLE_LEN).collect();
    let (mut clean, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(&beginning) {
        clean.push_str(&rest[..at]);
        clean.push_str(HIDDEN);
        let same = rest[at..].chars().zip(secret.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8());
        rest = &rest[at + same.sum::<usize>()..];
    }
    clean + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_bodies_and_queries_are_found_by_their_names() {
        let mut secrets = Secrets::default();
        let body = r#"{"api_key":"sk-3456","max_tokens":9,"metadata":[{"auth-token":"tttt"}],"stop":"stop"}"#;
        secrets.add_body(&serde_json::from_str(body).unwrap());
        assert_eq!(secrets.scrub_text("sk-3456 tttt stop".into()), "*** *** stop");
        let url = "/x?Key=a%2Fbcd&model=mmmm&sig=ssss&api-version=2024&X-Amz-Signature=zzzz&key=no#token=tttt";
        let mut secrets = Secrets::default();
        secrets.add_query(url);
        assert_eq!(
            secrets.scrub_text("a/bcd, a%2Fbcd; mmmm ssss 2024 zzzz no tttt".into()),
            "***, ***; mmmm *** 2024 *** no ***"
        );
        assert_eq!(without_keys(url), "/x?Key=***&model=mmmm&sig=***&api-version=2024&X-Amz-Signature=***&key=***");
        assert_eq!(without_keys("/v1/x"), "/v1/x");
    }

    #[test]
    fn a_secret_that_was_cut_off_is_hidden_too() {
        let mut secrets = Secrets::default();
        secrets.add(["sk-12345678".to_owned(), "x".to_owned()]);
        assert_eq!(secrets.scrub_text("bad key sk-12345…".into()), "bad key ***…");
        assert_eq!(secrets.scrub_text("sk-123456 and sk-12345678, sk-other".into()), "*** and ***, sk-other");
        assert_eq!(secrets.scrub_text("max".into()), "max");
    }
}

//! The headers of every request, and the secrets among them.

use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT,
};
use reqwest::Url;

use crate::{
    backend::Protocol,
    error::Error,
    http::headers::{have_key, is_key_header, key_value, parse_header_flags},
    secrets::{HIDDEN, Secrets, without_keys},
};

/// This host accepts a key in one header only: a `Bearer` is another kind of token there. Servers that offer its API in addition
/// to their own (vLLM with --api-key) read the `Bearer`.
const ANTHROPIC_HOST: &str = "api.anthropic.com";

/// Headers for every request, and the secrets in them.
#[derive(Debug, Clone, Default)]
pub struct Headers {
    /// The headers, without `x-request-id`.
    pub map: HeaderMap,
    /// Texts to hide in everything that is shown.
    pub secrets: Secrets,
}

impl Headers {
    /// The headers of the protocol for the servers at `urls`, and `NAME=VALUE` flags, which override them. If the flags hold a
    /// key, `api_key` from the environment is not sent.
    pub fn new(flags: &[String], api_key: Option<String>, protocol: Protocol, urls: &[Url]) -> Result<Self, Error> {
        let mut headers = Headers::default();
        headers.map.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.map.insert(ACCEPT, HeaderValue::from_static(protocol.body_format().media_type().0));
        // Compressed data arrives in blocks, whose times differ from the times of the tokens.
        headers.map.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        headers.map.insert(USER_AGENT, HeaderValue::from_static(concat!("vb-fire/", env!("CARGO_PKG_VERSION"))));
        headers.secrets.add(api_key.clone());
        let given = parse_header_flags(flags)?;
        let api_key = api_key.filter(|_| !have_key(&given));
        let own = protocol.api.extra_headers(api_key.as_deref());
        let at_anthropic = urls.iter().any(|url| url.host_str() == Some(ANTHROPIC_HOST));
        let one_key = at_anthropic && own.iter().any(|(name, _)| is_key_header(name));
        for (name, value) in own {
            headers.map.insert(HeaderName::from_static(name), key_value("", &value)?);
        }
        if let Some(key) = api_key.filter(|_| !one_key) {
            headers.map.insert(AUTHORIZATION, key_value("Bearer ", &key)?);
        }
        for (name, value) in &given {
            headers.secrets.add_header(name.as_str(), &String::from_utf8_lossy(value.as_bytes()));
        }
        headers.map.extend(given);
        Ok(headers)
    }

    /// Whether requests carry a key.
    #[must_use]
    pub fn has_key(&self) -> bool {
        have_key(&self.map)
    }

    /// Removes the secrets from `text`.
    #[must_use]
    pub fn scrub_text(&self, text: &str) -> String {
        self.secrets.hide(text).into_owned()
    }

    /// The command line without the values of headers, without keys in URLs, and without any secret elsewhere.
    #[must_use]
    pub fn scrub_argv(&self, argv: impl IntoIterator<Item = String>) -> Vec<String> {
        let mut value_follows = false;
        let mut clean = Vec::new();
        for arg in argv {
            let name_only = |flag: &str| format!("{}={HIDDEN}", flag.split('=').next().unwrap_or_default());
            let is_flag = arg.starts_with('-');
            let shown = match arg.strip_prefix("--header=") {
                Some(flag) => format!("--header={}", name_only(flag)),
                None if value_follows && !is_flag => name_only(&arg),
                None => without_keys(&arg),
            };
            // `--header` takes several values, so it applies until the next flag.
            value_follows = if is_flag { arg == "--header" } else { value_follows };
            clean.push(self.scrub_text(&shown));
        }
        clean
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Backend;

    #[test]
    fn anthropic_gets_its_key_once() {
        let sent = |backend: &str, url: &str| {
            let protocol = Protocol { api: Backend::from_name(backend).unwrap().open_api(None).unwrap(), stream: true };
            let headers = Headers::new(&[], Some("sk-12345678".into()), protocol, &[url.parse().unwrap()]).unwrap();
            ["x-api-key", "authorization"].map(|name| headers.map.contains_key(name))
        };
        assert_eq!(sent("anthropic", "https://api.anthropic.com"), [true, false]);
        assert_eq!(sent("anthropic", "http://127.0.0.1:8000"), [true, true]);
        assert_eq!(sent("openai-chat", "https://api.anthropic.com/v1"), [false, true], "its other API");
    }

    #[test]
    fn secrets_are_hidden_everywhere() {
        let flags = ["Authorization=Bearer sk-12345678".to_owned(), "x-team=red".to_owned()];
        let headers = Headers::new(&flags, Some("env-key".into()), Protocol::default(), &[]).unwrap();
        assert_eq!(headers.map[AUTHORIZATION], "Bearer sk-12345678");
        assert_eq!(headers.scrub_text("bad key sk-12345678, not env-key"), "bad key ***, not ***");
        let argv =
            ["vb-fire", "--header", "Authorization=Bearer sk-12345678", "x-team=red", "--model", "m", "--header=a=b"];
        assert_eq!(
            headers.scrub_argv(argv.map(String::from)),
            ["vb-fire", "--header", "Authorization=***", "x-team=***", "--model", "m", "--header=a=***"]
        );
        let argv = ["--endpoint", "/x?key=k&a=b", "--endpoint=/x?sig=k"];
        assert_eq!(
            headers.scrub_argv(argv.map(String::from)),
            ["--endpoint", "/x?key=***&a=b", "--endpoint=/x?sig=***"]
        );
        let headers = Headers::new(&["x-api-key=abc1234".into()], Some("x".into()), Protocol::default(), &[]).unwrap();
        assert_eq!(headers.scrub_text("key abc1234 is wrong, max"), "key *** is wrong, max");
        let headers =
            Headers::new(&["X-Api-Key=abc1234".into()], Some("env-key".into()), Protocol::default(), &[]).unwrap();
        assert!(!headers.map.contains_key(AUTHORIZATION));
        for bad in ["sk-12345678", "a b=sk-12345678", "a=sk-12345678\n"] {
            let error = Headers::new(&[bad.to_owned()], None, Protocol::default(), &[]).unwrap_err().to_string();
            assert!(!error.contains("sk-12345678"), "{error}");
        }
    }
}

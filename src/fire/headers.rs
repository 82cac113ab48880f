//! The headers of every request, and the secrets among them.

use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT,
};
use reqwest::Url;

use crate::{
    backend::Protocol,
    error::Error,
    secrets::{HIDDEN, Secrets, without_keys},
};

/// This host accepts a key in one header only: a `Bearer` is another kind of token there. Servers that offer its API in addition
/// to their own (vLLM with --api-key) read the `Bearer`.
const ANTHROPIC_HOST: &str = "api.anthropic.com";

/// The headers that hold a key.
const KEY_HEADERS: [&str; 3] = ["authorization", "x-api-key", "api-key"];

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
        let is_key = |name: &str| KEY_HEADERS.contains(&name.to_ascii_lowercase().as_str());
        let own_key = |flag: &String| flag.split_once('=').is_some_and(|(name, _)| is_key(name.trim()));
        let api_key = api_key.filter(|_| !flags.iter().any(own_key));
        let bad_key = |_| Error::Usage("OPENAI_API_KEY contains characters that are not allowed in a header".into());
        let own = protocol.api.extra_headers(api_key.as_deref());
        let at_anthropic = urls.iter().any(|url| url.host_str() == Some(ANTHROPIC_HOST));
        let one_key = at_anthropic && own.iter().any(|(name, _)| is_key(name));
        for (name, value) in own {
            headers.map.insert(HeaderName::from_static(name), HeaderValue::from_str(&value).map_err(bad_key)?);
        }
        if let Some(key) = api_key.filter(|_| !one_key) {
            headers.map.insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {key}")).map_err(bad_key)?);
        }
        for flag in flags {
            headers.add_flag(flag)?;
        }
        Ok(headers)
    }

    fn add_flag(&mut self, flag: &str) -> Result<(), Error> {
        // The value may be a secret, so no message contains it.
        let (name, value) = flag.split_once('=').ok_or_else(|| {
            Error::Usage("--header takes NAME=VALUE, as in --header Authorization='Bearer KEY'".into())
        })?;
        let key: HeaderName = name.trim().parse().map_err(|_| {
            Error::Usage("--header NAME=VALUE: what is before the first `=` is not a valid header name".into())
        })?;
        let header = HeaderValue::from_str(value).map_err(|_| {
            Error::Usage(format!("--header {key}=…: the value contains characters that are not allowed in a header"))
        })?;
        self.secrets.add_header(key.as_str(), value);
        self.map.insert(key, header);
        Ok(())
    }

    /// Whether requests carry a key.
    #[must_use]
    pub fn has_key(&self) -> bool {
        KEY_HEADERS.iter().any(|name| self.map.contains_key(*name))
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

//! The headers of every request, and the secrets among them.

use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};

use crate::{backend::Protocol, error::Error};

/// What stands in the place of a secret.
const HIDDEN: &str = "***";

/// Headers for every request, and what must never be shown of them.
#[derive(Debug, Clone, Default)]
pub struct Headers {
    /// The headers, without `x-request-id`.
    pub map: HeaderMap,
    secrets: Vec<String>,
}

impl Headers {
    /// What the protocol wants, and `NAME=VALUE` flags, which win over it and over the API key of the environment.
    pub fn new(flags: &[String], api_key: Option<String>, protocol: Protocol) -> Result<Self, Error> {
        let mut headers = Headers::default();
        headers.map.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.map.insert(ACCEPT, HeaderValue::from_static(protocol.cut().media().0));
        headers.map.insert(USER_AGENT, HeaderValue::from_static(concat!("vb-fire/", env!("CARGO_PKG_VERSION"))));
        let bad_key = |_| Error::Usage("OPENAI_API_KEY holds characters that no header may have".into());
        for (name, value) in protocol.api.headers(api_key.as_deref()) {
            headers.map.insert(HeaderName::from_static(name), HeaderValue::from_str(&value).map_err(bad_key)?);
        }
        if let Some(key) = api_key {
            headers.map.insert(AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {key}")).map_err(bad_key)?);
            headers.secrets.push(key);
        }
        for flag in flags {
            headers.add(flag)?;
        }
        Ok(headers)
    }

    fn add(&mut self, flag: &str) -> Result<(), Error> {
        // The value may be a secret, so it is in no message.
        let (name, value) = flag.split_once('=').ok_or_else(|| {
            Error::Usage("--header takes NAME=VALUE, as in --header Authorization='Bearer KEY'".into())
        })?;
        let wrong = |what: &str| Error::Usage(format!("--header {name}=…: {what}"));
        let key: HeaderName = name.trim().parse().map_err(|_| wrong("this is no name of a header"))?;
        let header =
            HeaderValue::from_str(value).map_err(|_| wrong("the value holds characters that no header may have"))?;
        self.map.insert(key, header);
        // `Bearer KEY` must not be shown, nor `KEY` alone.
        self.secrets.extend(value.split_whitespace().filter(|word| word.len() >= 8).map(str::to_owned));
        Ok(())
    }

    /// `text` without secrets: servers like to repeat a wrong key in their error.
    #[must_use]
    pub fn scrub(&self, text: String) -> String {
        self.secrets.iter().fold(text, |text, secret| text.replace(secret.as_str(), HIDDEN))
    }

    /// The command line without the values of headers, and without any secret elsewhere.
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
                None => arg.clone(),
            };
            // `--header` takes several values, so it holds until the next flag.
            value_follows = if is_flag { arg == "--header" } else { value_follows };
            clean.push(self.scrub(shown));
        }
        clean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_wherever_they_stand() {
        let flags = ["Authorization=Bearer sk-12345678".to_owned(), "x-team=red".to_owned()];
        let headers = Headers::new(&flags, Some("env-key".into()), Protocol::default()).unwrap();
        assert_eq!(headers.map[AUTHORIZATION], "Bearer sk-12345678");
        assert_eq!(headers.scrub("bad key sk-12345678, not env-key".into()), "bad key ***, not ***");
        let argv =
            ["vb-fire", "--header", "Authorization=Bearer sk-12345678", "x-team=red", "--model", "m", "--header=a=b"];
        assert_eq!(
            headers.scrub_argv(argv.map(String::from)),
            ["vb-fire", "--header", "Authorization=***", "x-team=***", "--model", "m", "--header=a=***"]
        );
        for bad in ["sk-12345678", "a b=sk-12345678", "a=sk-12345678\n"] {
            let error = Headers::new(&[bad.to_owned()], None, Protocol::default()).unwrap_err().to_string();
            assert!(!error.contains("sk-12345678"), "{error}");
        }
    }
}

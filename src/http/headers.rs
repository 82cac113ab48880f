//! Headers that the user asks for with `--header`, and the key of the environment.

use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use crate::error::Error;

/// The headers that hold a key.
const KEY_HEADERS: [&str; 3] = ["authorization", "x-api-key", "api-key"];

/// Whether a header of this name, in lower case, holds a key.
#[must_use]
pub fn is_key_header(name: &str) -> bool {
    KEY_HEADERS.contains(&name)
}

/// Whether one of the headers holds a key.
#[must_use]
pub fn have_key(headers: &HeaderMap) -> bool {
    KEY_HEADERS.iter().any(|name| headers.contains_key(*name))
}

/// The headers of `NAME=VALUE` flags; the last one of a name counts. No message contains a value, which may be a secret.
pub fn parse_header_flags(flags: &[String]) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    for flag in flags {
        let (name, value) = flag.split_once('=').ok_or_else(|| {
            Error::Usage("--header takes NAME=VALUE, as in --header Authorization='Bearer KEY'".into())
        })?;
        let name: HeaderName = name.trim().parse().map_err(|_| {
            Error::Usage("--header NAME=VALUE: what is before the first `=` is not a valid header name".into())
        })?;
        let value = HeaderValue::from_str(value).map_err(|_| {
            Error::Usage(format!("--header {name}=…: the value contains characters that are not allowed in a header"))
        })?;
        headers.insert(name, value);
    }
    Ok(headers)
}

/// The value of a header with the key of the environment, after `prefix`.
pub fn key_value(prefix: &str, key: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(&format!("{prefix}{key}"))
        .map_err(|_| Error::Usage("OPENAI_API_KEY contains characters that are not allowed in a header".into()))
}

/// The headers of the flags, with `api_key` as a `Bearer` unless they hold a key.
pub fn flags_or_key(flags: &[String], api_key: Option<String>) -> Result<HeaderMap, Error> {
    let mut headers = parse_header_flags(flags)?;
    if let Some(key) = api_key.filter(|_| !have_key(&headers)) {
        headers.insert(AUTHORIZATION, key_value("Bearer ", &key)?);
    }
    Ok(headers)
}

//! Texts that must never be shown: keys in headers, bodies, URLs and the environment.
//!
//! A server may repeat a key in its error, in whole or in part, and in another encoding: [`Secrets::hide`] finds it there too.
//! What the process itself was given is [remembered](remember), and hidden in everything that it prints.

use std::{
    borrow::Cow,
    collections::HashSet,
    sync::{OnceLock, PoisonError, RwLock},
};

use base64::{
    Engine as _,
    engine::{
        DecodePaddingMode,
        general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD_NO_PAD},
    },
};
use serde_json::{Map, Value};
use smallvec::SmallVec;

mod search;

pub use search::may_hold_secret;

/// Replaces a secret.
pub const HIDDEN: &str = "***";

/// The shortest secret to hide. Shorter ones, such as the `x` for servers that accept any key, would be found in every other word.
const MIN_SECRET_LEN: usize = 4;

/// How many bytes in a row show too much of a secret, and the shortest text that may be a secret without a name.
const RECOGNIZABLE_LEN: usize = 8;

/// The longest escape: `&#1114111;`.
const MAX_ESCAPE: usize = 10;

/// How often a text may be encoded on top of an encoding.
const MAX_ENCODINGS: usize = 3;

/// The variables that hold keys.
const KEY_VARIABLES: [&str; 4] = ["OPENAI_API_KEY", "VLLM_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"];

/// The variables with a URL, which may have a password.
const URL_VARIABLES: [&str; 7] =
    ["HF_ENDPOINT", "http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];

/// Texts to hide.
#[derive(Debug, Clone, Default)]
pub struct Secrets {
    /// Keys: any part that shows too much is hidden.
    keys: Vec<String>,
    /// Texts that may be secrets, such as the value of any header: only the whole is hidden.
    others: Vec<String>,
    /// What is recognized of the keys. Computed when it is first needed.
    parts: OnceLock<RecognizedParts>,
}

/// What is recognized of keys.
#[derive(Debug, Clone, Default)]
struct RecognizedParts {
    /// All sequences of [`RECOGNIZABLE_LEN`] bytes of the keys and of their encodings, normalized.
    windows: HashSet<u64>,
}

impl Secrets {
    /// Adds keys.
    pub fn add(&mut self, keys: impl IntoIterator<Item = String>) {
        for key in keys {
            if key.len() >= MIN_SECRET_LEN && !self.keys.contains(&key) {
                self.keys.push(key);
                self.parts = OnceLock::new();
            }
        }
    }

    /// Adds all of `other`.
    pub fn add_all(&mut self, other: &Secrets) {
        self.add(other.keys.iter().cloned());
        self.others.extend(other.others.iter().filter(|text| !self.others.contains(text)).cloned().collect::<Vec<_>>());
    }

    /// Whether there is nothing to hide.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.others.is_empty()
    }

    /// Adds the secrets in the value of a header.
    pub fn add_header(&mut self, name: &str, value: &str) {
        if !is_secret(name) {
            // The value of any other header may be a secret if it is long enough.
            if !is_common_header(name) {
                let words = value.split_whitespace().filter(|word| word.len() >= RECOGNIZABLE_LEN);
                self.others.extend(words.map(str::to_owned));
            }
            return;
        }
        let name = name.trim().to_ascii_lowercase();
        // `Bearer KEY`, `Digest username="me", response="…"`.
        let (scheme, credentials) = match value.trim().split_once(' ') {
            Some((scheme, rest)) if name.ends_with("authorization") || is_scheme(scheme) => (scheme, rest.trim()),
            _ => ("", value.trim()),
        };
        if scheme.eq_ignore_ascii_case("basic") {
            self.add_basic(credentials);
        }
        if !["authorization", "cookie", "cookies"].iter().any(|end| name.ends_with(end)) {
            return self.add([credentials.to_owned()]);
        }
        let parts: Vec<&str> = credentials.split([' ', ',', ';']).filter(|part| !part.is_empty()).collect();
        let compound = parts.len() > 1;
        for part in parts {
            // `NAME=VALUE`, but `=` at the end is a part of base64.
            let (name, value) = match part.split_once('=') {
                Some((name, value)) if !value.trim_matches('=').is_empty() => (name, value),
                _ => ("", part),
            };
            let public = ["signedheaders", "realm", "algorithm", "qop", "uri", "path", "domain", "expires", "samesite"];
            let short = compound && name.is_empty() && value.len() < RECOGNIZABLE_LEN;
            if !short && !public.contains(&name.to_ascii_lowercase().as_str()) {
                let value = value.trim_matches('"');
                self.add([value.to_owned(), percent_decode(value)]);
            }
        }
    }

    /// Adds the user and the password of `Basic` credentials.
    fn add_basic(&mut self, credentials: &str) {
        let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let engine = GeneralPurpose::new(&base64::alphabet::STANDARD, lenient);
        if let Some(plain) = engine.decode(credentials).ok().and_then(|bytes| String::from_utf8(bytes).ok()) {
            self.add(plain.split_once(':').map(|(_, password)| password.to_owned()));
            self.add([plain]);
        }
    }

    /// Adds the values of keys such as `api_key` anywhere in a body, and everything below them.
    pub fn add_body(&mut self, body: &Map<String, Value>) {
        for (key, value) in body {
            match value {
                // The names of a tool's parameters: their values describe them.
                Value::Object(_) if key == "properties" => {}
                _ if is_secret(key) => self.add_values(key, value),
                _ => self.add_nested(value),
            }
        }
    }

    fn add_nested(&mut self, value: &Value) {
        match value {
            Value::Object(inner) => self.add_body(inner),
            Value::Array(list) => list.iter().for_each(|item| self.add_nested(item)),
            // JSON as text.
            Value::String(text) if may_be_json(text) => {
                if let Ok(inner) = serde_json::from_str::<Map<String, Value>>(text) {
                    self.add_body(&inner);
                }
            }
            _ => {}
        }
    }

    /// Adds all texts in the value of a secret key.
    fn add_values(&mut self, key: &str, value: &Value) {
        match value {
            Value::String(text) => self.add_header(key, text),
            Value::Object(inner) => inner.values().for_each(|value| self.add_values(key, value)),
            Value::Array(list) => list.iter().for_each(|value| self.add_values(key, value)),
            // `max_token: 100000` is not a secret, and neither is a small number.
            Value::Number(number) if !key.to_ascii_lowercase().contains("token") => {
                self.add([number.to_string()].into_iter().filter(|digits| digits.len() > 5));
            }
            _ => {}
        }
    }

    /// Adds the password of a URL, and the values of keys such as `api_key` in its query and its fragment.
    pub fn add_url(&mut self, url: &str) {
        if let Some((user, _)) =
            url.split_once("://").and_then(|(_, rest)| rest.split(['/', '?', '#']).next()?.rsplit_once('@'))
        {
            let password = user.split_once(':').map_or(user, |(_, password)| password);
            self.add([password.to_owned(), percent_decode(password)]);
        }
        for part in url.split(URL_SEPARATORS) {
            if let Some((_, value)) = part.split_once('=').filter(|(name, _)| is_secret_in_url(name)) {
                self.add([value.to_owned(), percent_decode(value)]);
            }
        }
    }

    /// Adds the keys of the environment.
    #[must_use]
    pub fn from_environment() -> Self {
        let mut secrets = Secrets::default();
        secrets.add(KEY_VARIABLES.iter().filter_map(|name| std::env::var(name).ok()));
        for url in URL_VARIABLES.iter().filter_map(|name| std::env::var(name).ok()) {
            secrets.add_url(&url);
        }
        secrets
    }

    /// The secrets in a command line of any of the programs.
    #[must_use]
    pub fn from_command_line(args: impl IntoIterator<Item = String>) -> Self {
        let mut secrets = Secrets::default();
        let mut flag = String::new();
        for arg in args {
            let (name, value) = match arg.split_once('=').filter(|_| arg.starts_with("--")) {
                Some((name, value)) => (name, Some(value)),
                None if arg.starts_with("--") => (arg.as_str(), None),
                // A flag may have several values.
                None => (flag.as_str(), Some(arg.as_str())),
            };
            let name = name.replace('_', "-");
            if let Some(value) = value {
                secrets.add_flag(&name, value);
            }
            flag = name;
        }
        secrets
    }

    fn add_flag(&mut self, flag: &str, value: &str) {
        match flag {
            "--header" => {
                if let Some((name, value)) = value.split_once('=') {
                    self.add_header(name.trim(), value);
                }
            }
            "--extra-body" => {
                if let Ok(body) = serde_json::from_str(value) {
                    self.add_body(&body);
                }
            }
            "--api-key" => self.add([value.to_owned()]),
            "--endpoint" | "--base-url" | "--scrape" => self.add_url(value),
            _ => {}
        }
    }

    /// Replaces the secrets in `text`, also where only a part of them is left, and where they are encoded: in a URL, as a
    /// string of JSON, as HTML, base64 or hexadecimal.
    #[must_use]
    pub fn hide<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if self.is_empty() || text.is_empty() {
            return Cow::Borrowed(text);
        }
        let parts = self.parts.get_or_init(|| RecognizedParts::from_keys(&self.keys));
        let mut found = Vec::new();
        let mut layer: Vec<DecodedByte> =
            text.bytes().enumerate().map(|(at, byte)| DecodedByte { byte, start: at, end: at + 1 }).collect();
        for _ in 0..=MAX_ENCODINGS {
            parts.find_windows(&layer, &mut found);
            let bytes: Vec<u8> = layer.iter().map(|decoded| decoded.byte).collect();
            let short = self.keys.iter().filter(|key| key.len() < RECOGNIZABLE_LEN);
            for whole in short.chain(&self.others) {
                let places = memchr::memmem::find_iter(&bytes, whole.as_bytes());
                found.extend(places.map(|at| (layer[at].start, layer[at + whole.len() - 1].end)));
            }
            let Some(next) = decode_layer(&layer) else { break };
            layer = next;
        }
        if found.is_empty() { Cow::Borrowed(text) } else { Cow::Owned(replace_ranges(text, found)) }
    }

    /// Replaces the secrets in all texts of a value.
    pub fn hide_in(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.hide(text).into_owned(),
            Value::Array(list) => list.iter_mut().for_each(|item| self.hide_in(item)),
            Value::Object(map) => map.values_mut().for_each(|value| self.hide_in(value)),
            _ => {}
        }
    }

    /// Replaces the secrets in a long text, such as generated text, in which a secret is rare: only if it has a whole one.
    #[must_use]
    pub fn hide_whole<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let long = self.keys.iter().filter(|key| key.len() >= RECOGNIZABLE_LEN);
        let has = |key: &String| memchr::memmem::find(text.as_bytes(), key.as_bytes()).is_some();
        if long.clone().any(has) {
            let mut only = Secrets::default();
            only.add(long.cloned());
            return Cow::Owned(only.hide(text).into_owned());
        }
        Cow::Borrowed(text)
    }
}

impl RecognizedParts {
    fn from_keys(keys: &[String]) -> Self {
        let mut parts = RecognizedParts::default();
        for key in keys.iter().filter(|key| key.len() >= RECOGNIZABLE_LEN) {
            parts.add_windows(key.as_bytes());
            // As a form writes it.
            parts.add_windows(key.replace(' ', "+").as_bytes());
            let digits = key.bytes().flat_map(|byte| [byte >> 4, byte & 0xf]);
            let hex: Vec<u8> = digits.map(|digit| b"0123456789abcdef"[usize::from(digit)]).collect();
            parts.add_windows(&hex);
            // In base64, three bytes are four letters: the letters depend on where among other bytes the key begins. Those
            // at its ends depend on these other bytes too.
            for (before, cut) in [(0, 0), (1, 2), (2, 3)] {
                let bytes = [vec![0; before], key.as_bytes().to_vec()].concat();
                let letters = STANDARD_NO_PAD.encode(&bytes);
                parts.add_windows(letters.as_bytes().get(cut..bytes.len() * 8 / 6).unwrap_or_default());
            }
        }
        parts
    }

    fn add_windows(&mut self, text: &[u8]) {
        self.windows.extend(text.windows(RECOGNIZABLE_LEN).map(|window| window_key(window.iter().copied())));
    }

    /// Adds the places of all windows in `layer`.
    fn find_windows(&self, layer: &[DecodedByte], found: &mut Vec<(usize, usize)>) {
        if self.windows.is_empty() {
            return;
        }
        for window in layer.windows(RECOGNIZABLE_LEN) {
            if self.windows.contains(&window_key(window.iter().map(|decoded| decoded.byte))) {
                found.push((window[0].start, window[RECOGNIZABLE_LEN - 1].end));
            }
        }
    }
}

/// A window as one number. Letters lose their case, and the two alphabets of base64 are equal.
fn window_key(window: impl Iterator<Item = u8>) -> u64 {
    window.fold(0, |key, byte| {
        let byte = match byte.to_ascii_lowercase() {
            b'-' => b'+',
            b'_' => b'/',
            other => other,
        };
        key << 8 | u64::from(byte)
    })
}

/// A byte of a decoded text, and the range of the text that encodes it.
#[derive(Debug, Clone, Copy)]
struct DecodedByte {
    byte: u8,
    start: usize,
    end: usize,
}

/// Decodes `%2F`, `\u002f`, `\x2f`, `\"`, `&#47;`, `&#x2f;` and `&amp;`; `None` if there is nothing to decode.
fn decode_layer(layer: &[DecodedByte]) -> Option<Vec<DecodedByte>> {
    if !layer.iter().any(|decoded| matches!(decoded.byte, b'%' | b'\\' | b'&')) {
        return None;
    }
    let (mut decoded, mut at, mut changed) = (Vec::with_capacity(layer.len()), 0, false);
    while at < layer.len() {
        let mut head = [0; MAX_ESCAPE];
        layer[at..].iter().zip(&mut head).for_each(|(decoded, byte)| *byte = decoded.byte);
        let head = &head[..MAX_ESCAPE.min(layer.len() - at)];
        let Some((bytes, len)) = decode_escape(head) else {
            decoded.push(layer[at]);
            at += 1;
            continue;
        };
        changed = true;
        let (start, end) = (layer[at].start, layer[at + len - 1].end);
        decoded.extend(bytes.into_iter().map(|byte| DecodedByte { byte, start, end }));
        at += len;
    }
    changed.then_some(decoded)
}

/// The bytes of the escape at the start of `head`, and its length.
fn decode_escape(head: &[u8]) -> Option<(Vec<u8>, usize)> {
    let digits = |from: usize, to: usize, radix: u32| {
        let digits = std::str::from_utf8(head.get(from..to)?).ok()?;
        if digits.starts_with('+') { None } else { u32::from_str_radix(digits, radix).ok() }
    };
    let letter = |code: u32| Some(char::from_u32(code)?.to_string().into_bytes());
    let byte = |code: u32| u8::try_from(code).ok().map(|byte| vec![byte]);
    match head {
        [b'%', ..] => Some((byte(digits(1, 3, 16)?)?, 3)),
        [b'\\', b'u', ..] => Some((letter(digits(2, 6, 16)?)?, 6)),
        [b'\\', b'x', ..] => Some((byte(digits(2, 4, 16)?)?, 4)),
        [b'\\', escaped, ..] if escaped.is_ascii_punctuation() => Some((vec![*escaped], 2)),
        [b'&', b'#', rest @ ..] => {
            let end = rest.iter().position(|b| *b == b';')? + 2;
            let code = if matches!(rest[0], b'x' | b'X') { digits(3, end, 16) } else { digits(2, end, 10) };
            Some((letter(code?)?, end + 1))
        }
        [b'&', ..] => {
            let names: [(&[u8], u8); 5] =
                [(b"&amp;", b'&'), (b"&lt;", b'<'), (b"&gt;", b'>'), (b"&quot;", b'"'), (b"&apos;", b'\'')];
            let (name, byte) = names.iter().find(|(name, _)| head.starts_with(name))?;
            Some((vec![*byte], name.len()))
        }
        _ => None,
    }
}

/// The text with each range replaced; ranges that touch are one.
fn replace_ranges(text: &str, mut ranges: Vec<(usize, usize)>) -> String {
    ranges.sort_unstable();
    let (mut shown, mut done) = (String::with_capacity(text.len()), None);
    for (start, end) in ranges {
        match done {
            Some(until) if start <= until => {}
            _ => {
                let before = text.get(done.unwrap_or(0)..text.floor_char_boundary(start));
                shown.push_str(before.unwrap_or_default());
                shown.push_str(HIDDEN);
            }
        }
        done = Some(text.ceil_char_boundary(end).max(done.unwrap_or(0)));
    }
    shown + text.get(done.unwrap_or(0)..).unwrap_or_default()
}

/// Whether a text may be an object of JSON.
fn may_be_json(text: &str) -> bool {
    text.trim_start().starts_with('{') && text.contains('"')
}

/// A name as it is compared: lowercase, with underscores.
fn normalize_name(name: &str) -> SmallVec<[u8; 48]> {
    let letter = |byte: u8| if byte == b'-' { b'_' } else { byte.to_ascii_lowercase() };
    name.bytes().map(letter).collect()
}

/// Whether the name of a header or a body key means that it holds a secret.
#[must_use]
pub fn is_secret(name: &str) -> bool {
    let name = normalize_name(name.trim());
    let ends = ["key", "token", "auth", "pwd", "cookie", "signature", "bearer", "jwt"];
    let singular = name.strip_suffix(b"s").unwrap_or(&name);
    has_credential(&name)
        || ends.iter().any(|end| singular.ends_with(end.as_bytes()))
            && ![&b"max_tokens"[..], b"max_completion_tokens"].contains(&&name[..])
}

/// Whether a name can mean nothing but a secret: a `key` may also be the one of a table.
#[must_use]
pub fn is_credential(name: &str) -> bool {
    has_credential(&normalize_name(name))
}

fn has_credential(name: &[u8]) -> bool {
    let parts = ["secret", "password", "passwd", "passphrase", "credential", "authorization", "api_key", "apikey"];
    parts.iter().any(|part| name.windows(part.len()).any(|window| window == part.as_bytes()))
}

/// Whether this is a scheme, with which credentials begin.
fn is_scheme(word: &str) -> bool {
    ["bearer", "basic", "token", "key", "apikey", "api-key"].contains(&word.to_ascii_lowercase().as_str())
}

/// Whether a header has a value that everybody knows.
fn is_common_header(name: &str) -> bool {
    let name = name.trim().to_ascii_lowercase();
    name.starts_with("accept") || name.starts_with("content-") || name.ends_with("-version") || name == "user-agent"
}

/// URLs have additional names, for signatures of clouds and keys of functions.
fn is_secret_in_url(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    is_secret(&name) || ["sig", "code"].contains(&name.as_str())
}

/// What separates the parts of a URL that may be `NAME=VALUE`.
const URL_SEPARATORS: [char; 4] = ['?', '&', '#', ';'];

/// A URL without the values of keys such as `api_key` in its query and its fragment, however short they are.
#[must_use]
pub fn without_keys(url: &str) -> String {
    let shown = |part: &str| {
        let (text, separator) = part.split_at(part.trim_end_matches(URL_SEPARATORS).len());
        match text.split_once('=') {
            Some((name, _)) if is_secret_in_url(name) => format!("{name}={HIDDEN}{separator}"),
            _ => part.to_owned(),
        }
    };
    url.split_inclusive(URL_SEPARATORS).map(shown).collect()
}

/// Hides the values of keys such as `api_key` in a value; `is_hidden` recognizes their names.
pub fn hide_values(value: &mut Value, is_hidden: fn(&str) -> bool) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if is_hidden(key) && !value.is_number() && !value.is_null() && !value.is_boolean() {
                    *value = HIDDEN.into();
                } else {
                    hide_values(value, is_hidden);
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|item| hide_values(item, is_hidden)),
        _ => {}
    }
}

fn percent_decode(text: &str) -> String {
    let layer: Vec<DecodedByte> = text.bytes().map(|byte| DecodedByte { byte, start: 0, end: 0 }).collect();
    let decoded = decode_layer(&layer).unwrap_or(layer);
    String::from_utf8_lossy(&decoded.iter().map(|decoded| decoded.byte).collect::<Vec<_>>()).into_owned()
}

/// The secrets that this process was given.
static REMEMBERED: RwLock<Option<Secrets>> = RwLock::new(None);

/// Hides these secrets in everything that this process prints from here on.
pub fn remember(secrets: &Secrets) {
    let mut all = REMEMBERED.write().unwrap_or_else(PoisonError::into_inner);
    all.get_or_insert_default().add_all(secrets);
}

/// Hides the secrets that this process was given.
#[must_use]
pub fn hide_remembered(text: &str) -> Cow<'_, str> {
    let all = REMEMBERED.read().unwrap_or_else(PoisonError::into_inner);
    all.as_ref().map_or(Cow::Borrowed(text), |all| all.hide(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(add: impl Fn(&mut Secrets)) -> Secrets {
        let mut secrets = Secrets::default();
        add(&mut secrets);
        secrets
    }

    #[test]
    fn keys_of_bodies_and_urls_are_found_by_their_names() {
        let body = r#"{"api_key":"sk-3456","max_tokens":9,"metadata":[{"auth-token":"tttt"}],"stop":"stop"}"#;
        let in_body = secrets(|all| all.add_body(&serde_json::from_str(body).unwrap()));
        assert_eq!(in_body.hide("sk-3456 tttt stop"), "*** *** stop");
        let url = "/x?Key=a%2Fbcd&model=mmmm&sig=ssss&api-version=2024&X-Amz-Signature=zzzz&key=no#token=tttt";
        assert_eq!(
            secrets(|all| all.add_url(url)).hide("a/bcd, a%2Fbcd; mmmm ssss 2024 zzzz no tttt"),
            "***, ***; mmmm *** 2024 *** no ***"
        );
        assert_eq!(
            without_keys(url),
            "/x?Key=***&model=mmmm&sig=***&api-version=2024&X-Amz-Signature=***&key=***#token=***"
        );
        assert_eq!(without_keys("/x?a=b#access_token=abcd;sig=1"), "/x?a=b#access_token=***;sig=***");
        assert_eq!(without_keys("/v1/x"), "/v1/x");
        let with_password = secrets(|all| all.add_url("http://me:pa%24%24word@h:1/x"));
        assert_eq!(with_password.hide("pa$$word of me at h:1"), "*** of me at h:1");
    }

    #[test]
    fn everything_below_the_name_of_a_secret_is_one() {
        for body in [
            r#"{"token":["sk-planted"]}"#,
            r#"{"api_key":{"v":"sk-planted"}}"#,
            r#"{"a":[[{"b":{"x-api-key":[{"c":["sk-planted"]}]}}]]}"#,
            r#"{"api_keys":["sk-planted"]}"#,
            r#"{"headers":{"Authorization":"Bearer sk-planted"}}"#,
            r#"{"metadata":"{\"password\":\"sk-planted\"}"}"#,
            r#"{"client_secret_value":"sk-planted"}"#,
        ] {
            let all = secrets(|all| all.add_body(&serde_json::from_str(body).unwrap()));
            assert_eq!(all.hide("no sk-planted"), "no ***", "{body}");
        }
        let pin =
            secrets(|all| all.add_body(&serde_json::from_str(r#"{"password":123456,"max_tokens":100000}"#).unwrap()));
        assert_eq!(pin.hide("123456 100000"), "*** 100000");
        let tool = r#"{"tools":[{"parameters":{"properties":{"api_key":{"type":"string"}}}}]}"#;
        assert!(secrets(|all| all.add_body(&serde_json::from_str(tool).unwrap())).is_empty());
    }

    #[test]
    fn the_parts_of_a_header_are_secrets() {
        for (name, value, part) in [
            ("Authorization", "Bearer sk-planted1", "sk-planted1"),
            ("authorization", "Basic bWU6c2stcGxhbnRlZA==", "sk-planted"),
            ("Authorization", "Basic bWU6c2stcGxhbnRlZA", "me:sk-planted"),
            ("Authorization", "Digest username=\"me\", response=\"6629fae4\"", "6629fae4"),
            ("Authorization", "AWS4-HMAC-SHA256 Credential=AKIDPLANT/2026/x, Signature=fe5f80f7", "fe5f80f7"),
            ("Proxy-Authorization", "Key abcd1234", "abcd1234"),
            ("Cookie", "theme=d; session=s3cr3t; csrf=planted-csrf", "s3cr3t"),
            ("Cookie", "theme=d; session=s3cr3t; csrf=planted-csrf", "planted-csrf"),
            ("X-Auth", "planted!", "planted!"),
        ] {
            let all = secrets(|all| all.add_header(name, value));
            assert_eq!(all.hide(&format!("wrong: {part}.")), "wrong: ***.", "{name}: {value}");
            assert_eq!(all.hide("Bearer Basic Digest Signature= session="), "Bearer Basic Digest Signature= session=");
        }
        let other = secrets(|all| all.add_header("x-team", "red-herring"));
        assert_eq!(other.hide("red-herring, red-herr"), "***, red-herr", "only the whole");
        assert!(secrets(|all| all.add_header("Accept", "application/json")).is_empty());
    }

    #[test]
    fn an_encoded_secret_is_hidden() {
        let key = "sk/Pl+an\"t&ed\\1234567";
        let all = secrets(|all| all.add([key.to_owned()]));
        for text in [
            key,
            "SK/PL+AN\"T&ED\\1234567",
            "sk%2FPl%2Ban%22t%26ed%5C1234567",
            "sk%2fPl%2ban%22t%26ed%5c1234567",
            "sk%252FPl%252Ban%2522t%2526ed%255C1234567",
            r#"sk/Pl+an\"t&ed\\1234567"#,
            r"sk\/Pl\u002ban\u0022t\u0026ed\u005c1234567",
            r"sk\x2fPl\x2ban\x22t\x26ed\x5c1234567",
            "sk&#x2F;Pl&#43;an&quot;t&amp;ed&#92;1234567",
            "736b2f506c2b616e22742665645c31323334353637",
        ] {
            let hidden = all.hide(&format!("bad <{text}> key")).into_owned();
            assert!(hidden.starts_with("bad <***") && hidden.ends_with("> key"), "{text}: {hidden}");
        }
        for around in ["", "a", "ab", "user:", "{\"key\":\"", "äöü"] {
            let encoded = STANDARD_NO_PAD.encode(format!("{around}{key}{around}"));
            for encoded in [encoded.clone(), encoded.replace('+', "-").replace('/', "_")] {
                let hidden = all.hide(&encoded).into_owned();
                assert!(hidden.contains(HIDDEN) && hidden.len() < around.len() * 4 + 12, "{around}: {hidden}");
            }
        }
    }

    #[test]
    fn a_part_of_a_secret_is_hidden() {
        let all = secrets(|all| all.add(["sk-12345678".to_owned(), "x".to_owned(), "tiny".to_owned()]));
        assert_eq!(all.hide("bad key sk-12345…"), "bad key ***…");
        assert_eq!(all.hide("sk-123456 and sk-12345678, sk-other"), "*** and ***, sk-other");
        assert_eq!(all.hide("it ends with 12345678"), "it ends with ***");
        assert_eq!(all.hide("max Tiny tiny"), "max Tiny ***");
        assert_eq!(all.hide("größer sk-12345678 größer"), "größer *** größer");
        assert_eq!(all.hide_whole("a tiny key sk-12345678 of text"), "a tiny key *** of text");
        assert!(matches!(all.hide_whole("a tiny text of sk-12345"), Cow::Borrowed(_)));
    }

    #[test]
    fn a_command_line_has_secrets() {
        let args = [
            "vb-fire",
            "--header",
            "x-a=b",
            "Cookie=s=planted1",
            "--header=x-api-key=planted2",
            "--extra_body",
            r#"{"token":["planted3"]}"#,
            "--endpoint",
            "/x?key=planted4",
            "--model",
            "x-api-key=m",
            "--api-key",
            "planted5",
        ];
        let all = Secrets::from_command_line(args.map(str::to_owned));
        assert_eq!(all.keys, ["planted1", "planted2", "planted3", "planted4", "planted5"]);
    }

    #[test]
    fn values_of_secret_keys_are_hidden_in_a_config() {
        let mut value = serde_json::json!({"extra_body": {"api_key": ["a"], "n": 1}, "num_tokens": 5, "model": "m"});
        hide_values(&mut value, is_secret);
        assert_eq!(value, serde_json::json!({"extra_body": {"api_key": "***", "n": 1}, "num_tokens": 5, "model": "m"}));
    }
}

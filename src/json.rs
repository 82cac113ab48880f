//! JSON as others write it: with NaN and infinities, half characters, and bytes that are not UTF-8.
//!
//! JSON has none of these, but Python, pandas and several servers write them. They never carry what is measured, so they are
//! replaced rather than refused.

pub mod plain;

use std::borrow::Cow;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Map, Value};

/// Parses JSON, repaired if it must be.
///
/// # Errors
/// It is not JSON even then, or not a `T`.
pub fn parse_lenient<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
    parse_with(text, |text| serde_json::from_slice(text))
}

/// Like [`parse_lenient`], with a parser that may borrow from the text. It runs again if the text must be repaired.
///
/// # Errors
/// As for [`parse_lenient`].
pub fn parse_with<T>(text: &[u8], mut parse: impl FnMut(&[u8]) -> serde_json::Result<T>) -> serde_json::Result<T> {
    parse(text).or_else(|e| match repair_json(text).map(|text| parse(&text)) {
        Some(Ok(value)) => Ok(value),
        // The text has no error but the wrong value of a key.
        Some(Err(repaired)) if repaired.is_data() => Err(repaired),
        _ => Err(e),
    })
}

/// Whether this is one JSON value.
#[must_use]
pub fn is_whole(text: &[u8]) -> bool {
    parse_lenient::<IgnoredAny>(text).is_ok()
}

/// Whether this is the beginning of a JSON value.
#[must_use]
pub fn is_cut(text: &[u8]) -> bool {
    let ends_early = |text: &[u8]| serde_json::from_slice::<IgnoredAny>(text).is_err_and(|e| e.is_eof());
    // The parser calls the beginning of a number, and of NaN, wrong rather than cut.
    let text = without_half_number(text);
    ends_early(text) || repair_json(text).is_some_and(|text| ends_early(&text))
}

/// The text without a number or a word at its end, if it has more than that.
fn without_half_number(text: &[u8]) -> &[u8] {
    let len = text.iter().rev().take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'+' | b'-')).count();
    let (before, word) = text.split_at(text.len() - len);
    let digits = word.iter().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    let begins_none = |name: &str| name.as_bytes().starts_with(word.strip_prefix(b"-").unwrap_or(word));
    if !before.is_empty() && (digits || begins_none("NaN") || begins_none("Infinity")) { before } else { text }
}

/// Parses a JSON object.
///
/// # Errors
/// Why it is not an object. Unlike the message of serde, it quotes nothing: the text may be a key.
pub fn parse_object(text: &str) -> Result<Map<String, Value>, String> {
    let kind = match parse_lenient(text.as_bytes()).map_err(|e: serde_json::Error| e.to_string())? {
        Value::Object(object) => return Ok(object),
        Value::Array(_) => "a list",
        Value::String(_) => "a string",
        Value::Number(_) => "a number",
        Value::Bool(_) => "a boolean",
        Value::Null => "null",
    };
    Err(format!("found {kind}"))
}

/// The text with everything replaced that JSON does not have and a writer may well have meant; `None`: there is nothing to replace.
///
/// `NaN` and infinities become null. In strings, bytes that are not UTF-8 and halves of surrogate pairs become U+FFFD, control
/// characters are escaped, and a backslash that begins no escape becomes a backslash.
#[must_use]
pub fn repair_json(text: &[u8]) -> Option<Vec<u8>> {
    let clean = String::from_utf8_lossy(text);
    let mut out = Vec::with_capacity(clean.len());
    let mut rest = clean.as_bytes();
    let mut in_string = false;
    while let Some((&byte, after)) = rest.split_first() {
        let used = match byte {
            b'"' => {
                in_string = !in_string;
                out.push(byte);
                1
            }
            b'\\' if in_string => copy_escape(rest, &mut out),
            0..=0x1f if in_string => {
                out.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
                1
            }
            _ if !in_string && let Some(len) = not_a_number_len(rest) => {
                out.extend_from_slice(b"null");
                len
            }
            _ => {
                out.push(byte);
                // `Nano` holds no NaN: words are copied whole.
                let in_word = !in_string && byte.is_ascii_alphanumeric();
                let word = after.iter().take_while(|b| in_word && b.is_ascii_alphanumeric()).count();
                out.extend_from_slice(&after[..word]);
                1 + word
            }
        };
        rest = &rest[used..];
    }
    (matches!(clean, Cow::Owned(_)) || out != text).then_some(out)
}

/// Whether a string in valid JSON has half of a surrogate pair.
#[must_use]
pub fn has_half_character(json: &str) -> bool {
    let mut rest = json.as_bytes();
    while let Some(at) = memchr::memchr(b'\\', rest) {
        rest = &rest[at..];
        let used = match (code_unit(rest), rest.get(6..).and_then(code_unit)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => return true,
            _ => 2,
        };
        rest = rest.get(used..).unwrap_or_default();
    }
    false
}

/// Copies the escape at the start of `rest` if it is one, and otherwise what it was meant to be; returns its length.
fn copy_escape(rest: &[u8], out: &mut Vec<u8>) -> usize {
    match rest.get(1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
            out.extend_from_slice(&rest[..2]);
            2
        }
        Some(b'u') => match (code_unit(rest), rest.get(6..).and_then(code_unit)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => {
                out.extend_from_slice(&rest[..12]);
                12
            }
            (Some(0xd800..=0xdfff), _) => {
                out.extend_from_slice(b"\\ufffd");
                6
            }
            (Some(_), _) => {
                out.extend_from_slice(&rest[..6]);
                6
            }
            (None, _) => {
                out.extend_from_slice(b"\\\\");
                1
            }
        },
        _ => {
            out.extend_from_slice(b"\\\\");
            1
        }
    }
}

/// The UTF-16 code unit of the escape at the start of `text`, as `\ud83d`.
fn code_unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    let all_hex = digits.iter().all(u8::is_ascii_hexdigit);
    u16::from_str_radix(str::from_utf8(digits).ok().filter(|_| all_hex)?, 16).ok()
}

/// The length of the NaN or infinity at the start of `text`.
fn not_a_number_len(text: &[u8]) -> Option<usize> {
    let sign = usize::from(matches!(text.first(), Some(b'-' | b'+')));
    let word = text[sign..].iter().take_while(|b| b.is_ascii_alphabetic()).count();
    let word = &text[sign..sign + word];
    let is_one = ["nan", "infinity", "inf"].iter().any(|name| word.eq_ignore_ascii_case(name.as_bytes()));
    is_one.then_some(sign + word.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_json_does_not_have_is_replaced() {
        for (text, want) in [
            (&br#"{"a":NaN,"b":-Infinity,"c":[inf,nan]}"#[..], json!({"a": null, "b": null, "c": [null, null]})),
            (br#"{"NaN":"NaN, -Infinity"}"#, json!({"NaN": "NaN, -Infinity"})),
            (br#"["\ud83d","\ude00","\ud83d\ud83d\ude00x"]"#, json!(["\u{fffd}", "\u{fffd}", "\u{fffd}\u{1f600}x"])),
            (b"[\"\xf0\x9f\",\"\xff b\"]", json!(["\u{fffd}", "\u{fffd} b"])),
            (b"[\"a\tb\nc\"]", json!(["a\tb\nc"])),
            (br#"["\x41 \uZZZZ \\ \" \'"]"#, json!(["\\x41 \\uZZZZ \\ \" \\'"])),
        ] {
            assert_eq!(parse_lenient::<Value>(text).unwrap(), want, "{}", String::from_utf8_lossy(text));
        }
        for broken in [&b"{"[..], b"", b"[NaN", b"[Nano]", b"{\"a\":1e}", b"oops"] {
            assert!(parse_lenient::<Value>(broken).is_err(), "{}", String::from_utf8_lossy(broken));
        }
    }

    #[test]
    fn half_characters_are_found() {
        for whole in [r#""a""#, r#""\ud83d\ude00""#, r#""\\ud83d""#, r#""\u00e9\n""#, r#""\ud83d\ude00\ud83d\ude00""#] {
            assert!(!has_half_character(whole), "{whole}");
        }
        for half in [r#""\ud83d""#, r#""\ude00\ud83d""#, r#""\ud83d\ud83d\ude00""#, r#""\ud83d\n""#, r#""\\\uDEAD""#] {
            assert!(has_half_character(half), "{half}");
        }
    }

    #[test]
    fn a_value_is_whole_or_cut() {
        let text = r#"{"a":["\u00e9",-1.5e+3,null],"b":NaN,"c":-Infinity}"#.as_bytes();
        assert!(is_whole(text) && !is_cut(text));
        for end in 1..text.len() {
            assert!(is_cut(&text[..end]) && !is_whole(&text[..end]), "{}", String::from_utf8_lossy(&text[..end]));
        }
        for broken in [&b"oops"[..], b"{]", b"{} {}"] {
            assert!(!is_cut(broken) && !is_whole(broken));
        }
    }

    proptest! {
        #[test]
        fn json_has_nothing_to_repair(text in r#"("([a \\"]|\\\\|\\"|\\ud83d\\ude00|é|Na|nan){0,4}"|[1,:{}\[\] ]|null|1e9){0,12}"#) {
            if serde_json::from_str::<Value>(&text).is_ok() {
                prop_assert_eq!(repair_json(text.as_bytes()), None);
            }
        }

        #[test]
        fn any_bytes_are_safe(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _ = repair_json(&bytes);
        }
    }
}

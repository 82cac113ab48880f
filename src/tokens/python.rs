//! Values formatted as Python formats them, which chat templates rely on.

use std::fmt::{self, Write};

use jiff::{Timestamp, fmt::strtime};
use serde_json::Value;

use crate::units::UnixNanos;

/// The options of `json.dumps`.
#[derive(Debug, Default)]
pub struct JsonDumps {
    /// Write characters that are not ASCII as `\uXXXX`.
    pub ascii: bool,
    /// Spaces per level; `None`: everything on one line.
    pub indent: Option<usize>,
    /// Separators of items, and of key and value; `None`: `", "` (without the space if indented) and `": "`.
    pub separators: Option<(String, String)>,
    /// Sort keys by code point.
    pub sort_keys: bool,
}

impl JsonDumps {
    /// `json.dumps(value)`.
    #[must_use]
    pub fn format_json(&self, value: &Value) -> String {
        let mut out = String::new();
        self.write_value(value, 0, &mut out);
        out
    }

    fn write_value(&self, value: &Value, level: usize, out: &mut String) {
        match value {
            Value::Null => out.push_str("null"),
            Value::Bool(yes) => out.push_str(if *yes { "true" } else { "false" }),
            Value::Number(number) => push_number(number, out),
            Value::String(text) => self.write_text(text, out),
            Value::Array(items) => self.write_items(['[', ']'], items, level, out, |item, out| {
                self.write_value(item, level + 1, out);
            }),
            Value::Object(map) => {
                let mut pairs: Vec<_> = map.iter().collect();
                if self.sort_keys {
                    pairs.sort_by(|a, b| a.0.cmp(b.0));
                }
                let colon = self.separators.as_ref().map_or(": ", |(_, colon)| colon);
                self.write_items(['{', '}'], &pairs, level, out, |(key, item), out| {
                    self.write_text(key, out);
                    out.push_str(colon);
                    self.write_value(item, level + 1, out);
                });
            }
        }
    }

    fn write_items<T>(
        &self,
        [open, close]: [char; 2],
        items: &[T],
        level: usize,
        out: &mut String,
        write_item: impl Fn(&T, &mut String),
    ) {
        let comma = match &self.separators {
            Some((comma, _)) => comma,
            None if self.indent.is_some() => ",",
            None => ", ",
        };
        let line = |level: usize| self.indent.map(|n| format!("\n{}", " ".repeat(n * level))).unwrap_or_default();
        out.push(open);
        for (i, item) in items.iter().enumerate() {
            out.push_str(if i > 0 { comma } else { "" });
            out.push_str(&line(level + 1));
            write_item(item, out);
        }
        if !items.is_empty() {
            out.push_str(&line(level));
        }
        out.push(close);
    }

    fn write_text(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                _ if c < ' ' || (self.ascii && !(' '..='~').contains(&c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        push_formatted(out, format_args!("\\u{unit:04x}"));
                    }
                }
                _ => out.push(c),
            }
        }
        out.push('"');
    }
}

/// `str(value)`.
#[must_use]
pub fn format_str(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        _ => format_repr(value),
    }
}

/// `repr(value)`.
fn format_repr(value: &Value) -> String {
    let joined = |items: Vec<String>| items.join(", ");
    match value {
        Value::Null => "None".into(),
        Value::Bool(yes) => if *yes { "True" } else { "False" }.into(),
        Value::Number(number) => {
            let mut out = String::new();
            push_number(number, &mut out);
            out
        }
        Value::String(text) => quote_text(text),
        Value::Array(items) => format!("[{}]", joined(items.iter().map(format_repr).collect())),
        Value::Object(map) => {
            format!(
                "{{{}}}",
                joined(map.iter().map(|(k, v)| format!("{}: {}", quote_text(k), format_repr(v))).collect())
            )
        }
    }
}

/// A string in single quotes, or in double quotes if that saves a backslash.
fn quote_text(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if c == quote => out.extend(['\\', c]),
            _ if c < ' ' || ('\u{7f}'..='\u{a0}').contains(&c) => {
                push_formatted(&mut out, format_args!("\\x{:02x}", c as u32));
            }
            _ => out.push(c),
        }
    }
    out.push(quote);
    out
}

fn push_number(number: &serde_json::Number, out: &mut String) {
    match number.as_f64() {
        Some(x) if number.is_f64() => push_float(x, out),
        _ => push_formatted(out, format_args!("{number}")),
    }
}

/// The shortest digits that parse back to the number, with an exponent below 1e-4 and from 1e16.
fn push_float(x: f64, out: &mut String) {
    if x == 0.0 || (1e-4..1e16).contains(&x.abs()) {
        push_formatted(out, format_args!("{x:?}"));
        return;
    }
    let text = format!("{x:e}");
    match text.split_once('e').and_then(|(digits, exponent)| Some((digits, exponent.parse::<i32>().ok()?))) {
        Some((digits, exponent)) => push_formatted(out, format_args!("{digits}e{exponent:+03}")),
        None => out.push_str(&text),
    }
}

fn push_formatted(out: &mut String, text: fmt::Arguments) {
    // Writing to a string cannot fail.
    let _ = out.write_fmt(text);
}

/// The directives of `strftime` that chat templates are known to use. jiff has more, some of them with another meaning than in
/// Python (`%f`, `%Z`).
const DATE_DIRECTIVES: &str = "dmyHMSIpjYFBbAa%";

/// `datetime.strftime` in UTC and English, with the C library's `%-d` for `%d` without its zero; `None` for a directive that no
/// chat template is known to use.
#[must_use]
pub fn format_date(format: &str, now: UnixNanos) -> Option<String> {
    let mut letters = format.chars();
    while let Some(c) = letters.next() {
        if c == '%' {
            let letter = letters.next()?;
            let letter = if letter == '-' { letters.next()? } else { letter };
            DATE_DIRECTIVES.find(letter)?;
        }
    }
    let now = Timestamp::from_nanosecond(now.0.into()).ok()?;
    strtime::format(format, now).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_is_written_as_pythons_dumps_does() {
        let value = json!({"b": [1, 2.0, 1e16, 1e-5, 0.0001, -1.5e300], "a": {"é\n\u{1}😀": null, "x": true}, "e": [], "o": {}});
        let plain = JsonDumps::default().format_json(&value);
        assert_eq!(
            plain,
            "{\"b\": [1, 2.0, 1e+16, 1e-05, 0.0001, -1.5e+300], \"a\": {\"é\\n\\u0001😀\": null, \"x\": true}, \"e\": [], \"o\": {}}"
        );
        let small = json!({"b": [1, "é😀"], "a": {}});
        let pretty = JsonDumps { ascii: true, indent: Some(2), sort_keys: true, ..JsonDumps::default() };
        assert_eq!(
            pretty.format_json(&small),
            "{\n  \"a\": {},\n  \"b\": [\n    1,\n    \"\\u00e9\\ud83d\\ude00\"\n  ]\n}"
        );
        let tight = JsonDumps { separators: Some((",".into(), ":".into())), ..JsonDumps::default() };
        assert_eq!(tight.format_json(&small), "{\"b\":[1,\"é😀\"],\"a\":{}}");
    }

    #[test]
    fn values_are_shown_as_pythons_str_does() {
        let value = json!(["it's", "a \"b\" 'c'\n", null, true, {"k": 1.0}]);
        assert_eq!(format_str(&value), r#"["it's", 'a "b" \'c\'\n', None, True, {'k': 1.0}]"#);
        assert_eq!(format_str(&json!("text")), "text");
    }

    #[test]
    fn dates_are_formatted_as_pythons_strftime_does() {
        let at = |seconds: u64, format: &str| format_date(format, UnixNanos(seconds * 1_000_000_000)).unwrap();
        assert_eq!(at(0, "%Y-%m-%d %H:%M:%S %A"), "1970-01-01 00:00:00 Thursday");
        assert_eq!(
            at(1_709_210_096, "%d %b %Y, %a %H:%M:%S, %F, 100%%"),
            "29 Feb 2024, Thu 12:34:56, 2024-02-29, 100%"
        );
        assert_eq!(at(1_735_689_599, "%B %-d %y"), "December 31 24");
        assert_eq!(at(4_107_542_400, "%F"), "2100-03-01");
        assert_eq!(at(0, "%I %p %j %-I %-j"), "12 AM 001 12 1");
        assert_eq!(at(1_709_210_096, "%I %p %j %-I %-j"), "12 PM 060 12 60");
        assert_eq!(at(1_735_689_599, "%I %p %j %-I %-j"), "11 PM 366 11 366");
        assert_eq!(at(1_709_210_096, "%-m %-B %-H"), "2 February 12");
        for unknown in ["%Q", "%f", "%Z", "%_d", "%", "%-"] {
            assert_eq!(format_date(unknown, UnixNanos(0)), None, "{unknown}");
        }
    }
}

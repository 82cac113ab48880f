//! How Python writes values: what chat templates, which are made for Python, take for granted.

use std::fmt::{self, Write};

use serde_json::Value;

use crate::units::UnixNanos;

/// What `json.dumps` may be told.
#[derive(Debug, Default)]
pub struct Dumps {
    /// Write what is not ASCII as `\uXXXX`.
    pub ascii: bool,
    /// Spaces of a level; `None`: all on one line.
    pub indent: Option<usize>,
    /// What stands between items, and between key and value; `None`: `", "` (without the space if indented), `": "`.
    pub separators: Option<(String, String)>,
    /// Keys in the order of their characters.
    pub sort_keys: bool,
}

impl Dumps {
    /// `json.dumps(value)`.
    #[must_use]
    pub fn write(&self, value: &Value) -> String {
        let mut out = String::new();
        self.value(value, 0, &mut out);
        out
    }

    fn value(&self, value: &Value, level: usize, out: &mut String) {
        match value {
            Value::Null => out.push_str("null"),
            Value::Bool(yes) => out.push_str(if *yes { "true" } else { "false" }),
            Value::Number(number) => push_number(number, out),
            Value::String(text) => self.text(text, out),
            Value::Array(items) => self.items(['[', ']'], items, level, out, |item, out| {
                self.value(item, level + 1, out);
            }),
            Value::Object(map) => {
                let mut pairs: Vec<_> = map.iter().collect();
                if self.sort_keys {
                    pairs.sort_by(|a, b| a.0.cmp(b.0));
                }
                let colon = self.separators.as_ref().map_or(": ", |(_, colon)| colon);
                self.items(['{', '}'], &pairs, level, out, |(key, item), out| {
                    self.text(key, out);
                    out.push_str(colon);
                    self.value(item, level + 1, out);
                });
            }
        }
    }

    fn items<T>(
        &self,
        [open, close]: [char; 2],
        items: &[T],
        level: usize,
        out: &mut String,
        one: impl Fn(&T, &mut String),
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
            one(item, out);
        }
        if !items.is_empty() {
            out.push_str(&line(level));
        }
        out.push(close);
    }

    fn text(&self, text: &str, out: &mut String) {
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
                        push(out, format_args!("\\u{unit:04x}"));
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
pub fn str(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        _ => repr(value),
    }
}

/// `repr(value)`.
fn repr(value: &Value) -> String {
    let joined = |items: Vec<String>| items.join(", ");
    match value {
        Value::Null => "None".into(),
        Value::Bool(yes) => if *yes { "True" } else { "False" }.into(),
        Value::Number(number) => {
            let mut out = String::new();
            push_number(number, &mut out);
            out
        }
        Value::String(text) => quoted(text),
        Value::Array(items) => format!("[{}]", joined(items.iter().map(repr).collect())),
        Value::Object(map) => {
            format!("{{{}}}", joined(map.iter().map(|(k, v)| format!("{}: {}", quoted(k), repr(v))).collect()))
        }
    }
}

/// A string in single quotes, or in double ones where that saves a backslash.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if c == quote => out.extend(['\\', c]),
            _ if c < ' ' || ('\u{7f}'..='\u{a0}').contains(&c) => push(&mut out, format_args!("\\x{:02x}", c as u32)),
            _ => out.push(c),
        }
    }
    out.push(quote);
    out
}

fn push_number(number: &serde_json::Number, out: &mut String) {
    match number.as_f64() {
        Some(x) if number.is_f64() => push_float(x, out),
        _ => push(out, format_args!("{number}")),
    }
}

/// The shortest digits that give the number back, with an exponent below 1e-4 and from 1e16 on.
fn push_float(x: f64, out: &mut String) {
    if x == 0.0 || (1e-4..1e16).contains(&x.abs()) {
        push(out, format_args!("{x:?}"));
        return;
    }
    let text = format!("{x:e}");
    match text.split_once('e').and_then(|(digits, exponent)| Some((digits, exponent.parse::<i32>().ok()?))) {
        Some((digits, exponent)) => push(out, format_args!("{digits}e{exponent:+03}")),
        None => out.push_str(&text),
    }
}

fn push(out: &mut String, what: fmt::Arguments) {
    // A string takes everything.
    let _ = out.write_fmt(what);
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// `datetime.strftime` in UTC and English; `None` for a letter that no chat template is known to use.
#[must_use]
pub fn strftime(format: &str, now: UnixNanos) -> Option<String> {
    let seconds = now.0 / 1_000_000_000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (month_name, day_name) = (MONTHS[month - 1], DAYS[usize::try_from(days % 7).ok()?]);
    let mut out = String::new();
    let mut letters = format.chars();
    while let Some(c) = letters.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut letter = letters.next()?;
        // `%-d` is `%d` without its zero.
        let padded = letter != '-';
        if !padded {
            letter = letters.next()?;
        }
        let mut two = |n: u64| push(&mut out, format_args!("{n:0width$}", width = if padded { 2 } else { 1 }));
        match letter {
            'd' => two(day),
            'm' => two(month as u64),
            'y' => two(year % 100),
            'H' => two(second / 3600),
            'M' => two(second / 60 % 60),
            'S' => two(second % 60),
            'I' => two((second / 3600 + 11) % 12 + 1),
            'p' => out.push_str(if second < 43_200 { "AM" } else { "PM" }),
            'j' => push(&mut out, format_args!("{:0width$}", day_of_year(days), width = if padded { 3 } else { 1 })),
            'Y' => push(&mut out, format_args!("{year}")),
            'F' => push(&mut out, format_args!("{year}-{month:02}-{day:02}")),
            'B' => out.push_str(month_name),
            'b' => out.push_str(&month_name[..3]),
            'A' => out.push_str(day_name),
            'a' => out.push_str(&day_name[..3]),
            '%' => out.push('%'),
            _ => return None,
        }
    }
    Some(out)
}

/// The number of a day in its year, from 1; `days` are counted from 1970-01-01.
fn day_of_year(days: u64) -> u64 {
    let (year, ..) = civil(days);
    let before = (1..=366).find(|back| days.checked_sub(*back).is_none_or(|day| civil(day).0 < year));
    before.unwrap_or(1)
}

/// Year, month and day of a day counted from 1970-01-01: years are counted from March, so that the day that a leap year has
/// more is its last.
fn civil(days: u64) -> (u64, usize, u64) {
    const ERA: u64 = 146_097; // days in 400 years
    let shifted = days + 719_468; // from 0000-03-01
    let (era, day) = (shifted / ERA, shifted % ERA);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let (number, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, usize::try_from(number).unwrap_or(1), of_year - (153 * month + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_is_written_as_pythons_dumps_does() {
        let value = json!({"b": [1, 2.0, 1e16, 1e-5, 0.0001, -1.5e300], "a": {"é\n\u{1}😀": null, "x": true}, "e": [], "o": {}});
        let plain = Dumps::default().write(&value);
        assert_eq!(
            plain,
            "{\"b\": [1, 2.0, 1e+16, 1e-05, 0.0001, -1.5e+300], \"a\": {\"é\\n\\u0001😀\": null, \"x\": true}, \"e\": [], \"o\": {}}"
        );
        let small = json!({"b": [1, "é😀"], "a": {}});
        let pretty = Dumps { ascii: true, indent: Some(2), sort_keys: true, ..Dumps::default() };
        assert_eq!(pretty.write(&small), "{\n  \"a\": {},\n  \"b\": [\n    1,\n    \"\\u00e9\\ud83d\\ude00\"\n  ]\n}");
        let tight = Dumps { separators: Some((",".into(), ":".into())), ..Dumps::default() };
        assert_eq!(tight.write(&small), "{\"b\":[1,\"é😀\"],\"a\":{}}");
    }

    #[test]
    fn values_are_shown_as_pythons_str_does() {
        let value = json!(["it's", "a \"b\" 'c'\n", null, true, {"k": 1.0}]);
        assert_eq!(str(&value), r#"["it's", 'a "b" \'c\'\n', None, True, {'k': 1.0}]"#);
        assert_eq!(str(&json!("text")), "text");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |seconds: u64, format: &str| strftime(format, UnixNanos(seconds * 1_000_000_000)).unwrap();
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
        assert_eq!(strftime("%Q", UnixNanos(0)), None);
    }
}

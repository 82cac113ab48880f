//! Python string methods that minijinja and `minijinja_contrib` lack or implement differently.

use minijinja::{
    Error, ErrorKind, Value as Jinja,
    value::{Kwargs, from_args},
};

/// Calls a string method; `None` if the method is not implemented here.
pub fn call_method(text: &str, name: &str, args: &[Jinja]) -> Result<Option<Jinja>, Error> {
    Ok(Some(match name {
        "split" | "rsplit" => {
            let (sep, limit, named): (Option<String>, Option<i64>, Kwargs) = from_args(args)?;
            let sep = sep.map_or_else(|| named.get::<Option<String>>("sep"), |sep| Ok(Some(sep)))?;
            let limit = limit.map_or_else(|| named.get::<Option<i64>>("maxsplit"), |limit| Ok(Some(limit)))?;
            named.assert_all_used()?;
            // As in Python, a negative value means no limit.
            let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
            match (sep.as_deref(), name) {
                (Some(""), _) => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
                (Some(sep), "split") => list_value(text.splitn(limit.saturating_add(1), sep)),
                (Some(sep), _) => list_value(reverse_list(text.rsplitn(limit.saturating_add(1), sep).collect())),
                (None, "split") => list_value(first_words(text, limit)),
                (None, _) => list_value(reverse_list(last_words(text, limit))),
            }
        }
        "removeprefix" => {
            let (part,): (&str,) = from_args(args)?;
            text.strip_prefix(part).unwrap_or(text).into()
        }
        "removesuffix" => {
            let (part,): (&str,) = from_args(args)?;
            text.strip_suffix(part).unwrap_or(text).into()
        }
        "partition" => {
            let (sep,): (&str,) = from_args(args)?;
            list_value(text.split_once(sep).map_or([text, "", ""], |(before, after)| [before, sep, after]))
        }
        "rpartition" => {
            let (sep,): (&str,) = from_args(args)?;
            list_value(text.rsplit_once(sep).map_or(["", "", text], |(before, after)| [before, sep, after]))
        }
        _ => return Ok(None),
    }))
}

fn list_value<'t>(parts: impl IntoIterator<Item = &'t str>) -> Jinja {
    parts.into_iter().map(str::to_owned).collect::<Vec<String>>().into()
}

fn reverse_list(mut parts: Vec<&str>) -> Vec<&str> {
    parts.reverse();
    parts
}

/// The first `limit` words, then the remaining text unchanged.
fn first_words(text: &str, limit: usize) -> Vec<&str> {
    let (mut rest, mut words) = (text.trim_start(), Vec::new());
    while !rest.is_empty() && words.len() < limit {
        let (word, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        words.push(word);
        rest = after.trim_start();
    }
    words.extend(Some(rest).filter(|rest| !rest.is_empty()));
    words
}

/// The last `limit` words in reverse order, then the remaining text unchanged.
fn last_words(text: &str, limit: usize) -> Vec<&str> {
    let (mut rest, mut words) = (text.trim_end(), Vec::new());
    while !rest.is_empty() && words.len() < limit {
        let (before, word) = rest.rsplit_once(char::is_whitespace).unwrap_or(("", rest));
        words.push(word);
        rest = before.trim_end();
    }
    words.extend(Some(rest).filter(|rest| !rest.is_empty()));
    words
}

/// Jinja's `indent` filter: puts `indentation` before each line; the `first` line and `blank` lines only on request.
pub fn indent_lines(text: &str, indentation: &str, first: bool, blank: bool) -> String {
    // Jinja appends a line end too, so that a trailing line end is kept.
    let text = format!("{text}\n");
    let mut out = String::new();
    for (i, line) in split_lines(&text).into_iter().enumerate() {
        out.push_str(if i > 0 { "\n" } else { "" });
        if if i == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(indentation);
        }
        out.push_str(line);
    }
    out
}

/// `str.splitlines()`.
fn split_lines(text: &str) -> Vec<&str> {
    const ENDS: [char; 10] =
        ['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];
    let (mut rest, mut lines) = (text, Vec::new());
    while let Some(end) = rest.find(ENDS) {
        lines.push(&rest[..end]);
        let after = &rest[end..];
        rest = after.strip_prefix("\r\n").or(after.strip_prefix(ENDS)).unwrap_or_default();
    }
    lines.extend(Some(rest).filter(|rest| !rest.is_empty()));
    lines
}

//! What Python's strings can do, and the engine of chat templates or its helpers cannot, or do in another way.

use minijinja::{
    Error, ErrorKind, Value as Jinja,
    value::{Kwargs, from_args},
};

/// What a method of a string gives; `None`: it is none of those that are known here.
pub fn method(text: &str, name: &str, args: &[Jinja]) -> Result<Option<Jinja>, Error> {
    Ok(Some(match name {
        "split" | "rsplit" => {
            let (sep, most, named): (Option<String>, Option<i64>, Kwargs) = from_args(args)?;
            let sep = sep.map_or_else(|| named.get::<Option<String>>("sep"), |sep| Ok(Some(sep)))?;
            let most = most.map_or_else(|| named.get::<Option<i64>>("maxsplit"), |most| Ok(Some(most)))?;
            named.assert_all_used()?;
            // Below 0 is no limit either.
            let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
            match (sep.as_deref(), name) {
                (Some(""), _) => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
                (Some(sep), "split") => list(text.splitn(most.saturating_add(1), sep)),
                (Some(sep), _) => list(reversed(text.rsplitn(most.saturating_add(1), sep).collect())),
                (None, "split") => list(words(text, most)),
                (None, _) => list(reversed(last_words(text, most))),
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
            list(text.split_once(sep).map_or([text, "", ""], |(before, after)| [before, sep, after]))
        }
        "rpartition" => {
            let (sep,): (&str,) = from_args(args)?;
            list(text.rsplit_once(sep).map_or(["", "", text], |(before, after)| [before, sep, after]))
        }
        _ => return Ok(None),
    }))
}

fn list<'t>(parts: impl IntoIterator<Item = &'t str>) -> Jinja {
    parts.into_iter().map(str::to_owned).collect::<Vec<String>>().into()
}

fn reversed(mut parts: Vec<&str>) -> Vec<&str> {
    parts.reverse();
    parts
}

/// The first `most` words, and the rest as it is.
fn words(text: &str, most: usize) -> Vec<&str> {
    let (mut rest, mut words) = (text.trim_start(), Vec::new());
    while !rest.is_empty() && words.len() < most {
        let (word, behind) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        words.push(word);
        rest = behind.trim_start();
    }
    words.extend(Some(rest).filter(|rest| !rest.is_empty()));
    words
}

/// The last `most` words, from the last on, and the rest as it is.
fn last_words(text: &str, most: usize) -> Vec<&str> {
    let (mut rest, mut words) = (text.trim_end(), Vec::new());
    while !rest.is_empty() && words.len() < most {
        let (before, word) = rest.rsplit_once(char::is_whitespace).unwrap_or(("", rest));
        words.push(word);
        rest = before.trim_end();
    }
    words.extend(Some(rest).filter(|rest| !rest.is_empty()));
    words
}

/// Jinja's filter `indent`: the lines but the first behind `indention`; the first and blank ones if asked.
pub fn indent(text: &str, indention: &str, first: bool, blank: bool) -> String {
    // As Jinja does it, which keeps a line end at the end so.
    let text = format!("{text}\n");
    let mut out = String::new();
    for (i, line) in lines(&text).into_iter().enumerate() {
        out.push_str(if i > 0 { "\n" } else { "" });
        if if i == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(indention);
        }
        out.push_str(line);
    }
    out
}

/// `str.splitlines()`.
fn lines(text: &str) -> Vec<&str> {
    const ENDS: [char; 10] =
        ['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];
    let (mut rest, mut lines) = (text, Vec::new());
    while let Some(end) = rest.find(ENDS) {
        lines.push(&rest[..end]);
        let behind = &rest[end..];
        rest = behind.strip_prefix("\r\n").or(behind.strip_prefix(ENDS)).unwrap_or_default();
    }
    lines.extend(Some(rest).filter(|rest| !rest.is_empty()));
    lines
}

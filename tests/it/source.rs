//! Splits source text into code, comments and strings, for the tests that read the sources.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// A source file in parts. Lines count from 1.
#[derive(Debug, Default)]
pub struct SourceParts {
    /// The code without comments and without the content of strings; line breaks are kept.
    pub code: String,
    /// Comments, with adjacent line comments joined into one text: the first line and the text.
    pub comments: Vec<(usize, String)>,
    /// String literals: the line and the content, with escapes left in place.
    pub strings: Vec<(usize, String)>,
}

/// All files below `folder` with one of the extensions, sorted.
pub fn files_below(folder: &Path, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
        if entry.is_dir() {
            found.extend(files_below(&entry, extensions));
        } else if entry.extension().is_some_and(|e| extensions.iter().any(|wanted| e == *wanted)) {
            found.push(entry);
        }
    }
    found.sort();
    found
}

impl SourceParts {
    /// Splits Rust source.
    pub fn from_rust(text: &str) -> Self {
        let chars: Vec<char> = text.chars().collect();
        let mut parts = SourceParts::default();
        let mut line = 1;
        let mut at = 0;
        while at < chars.len() {
            let (kind, end) = next_token(&chars, at);
            let token: String = chars[at..end].iter().collect();
            let breaks = token.matches('\n').count();
            match kind {
                Token::Code => parts.code.push(chars[at]),
                Token::Comment => parts.add_comment(line, token.trim_start_matches(['/', '!', '*'])),
                Token::Text { open, close } => {
                    let content: String = chars[at + open..(end - close).max(at + open)].iter().collect();
                    parts.strings.push((line, content));
                    parts.code.push_str("\"\"");
                }
                Token::Char => parts.code.push_str("' '"),
            }
            if kind != Token::Code {
                parts.code.extend(std::iter::repeat_n('\n', breaks));
            }
            line += breaks;
            at = end;
        }
        parts
    }

    /// Splits a shell or Python script. A string ends at the end of its line, except `"""` in Python.
    pub fn from_script(text: &str) -> Self {
        let mut parts = SourceParts::default();
        let mut docstring: Option<(usize, String)> = None;
        for (number, line) in (1..).zip(text.lines()) {
            if let Some((start, content)) = &mut docstring {
                let (more, ended) = line.split_once("\"\"\"").map_or((line, false), |(more, _)| (more, true));
                content.push('\n');
                content.push_str(more);
                if ended {
                    parts.strings.push((*start, content.clone()));
                    docstring = None;
                }
                continue;
            }
            docstring = parts.add_script_line(number, line);
        }
        parts
    }

    /// Adds a line of a script. Returns the start of a docstring that does not end on this line.
    fn add_script_line(&mut self, number: usize, line: &str) -> Option<(usize, String)> {
        let mut rest = line;
        let mut before = ' ';
        while let Some(c) = rest.chars().next() {
            if c == '#' && before.is_whitespace() {
                self.add_comment(number, rest.trim_start_matches(['#', '!']));
                break;
            }
            if let Some(content) = rest.strip_prefix("\"\"\"") {
                let Some((content, more)) = content.split_once("\"\"\"") else {
                    return Some((number, content.to_owned()));
                };
                self.strings.push((number, content.to_owned()));
                rest = more;
                before = '"';
            } else if (c == '"' || c == '\'') && before != '\\' {
                let content = &rest[1..];
                let end = content.find(c).unwrap_or(content.len());
                self.strings.push((number, content[..end].to_owned()));
                rest = content.get(end + 1..).unwrap_or_default();
                before = c;
            } else {
                self.code.push(c);
                before = c;
                rest = &rest[c.len_utf8()..];
            }
        }
        self.code.push('\n');
        None
    }

    fn add_comment(&mut self, line: usize, text: &str) {
        if let Some((first, earlier)) = self.comments.last_mut()
            && *first + earlier.matches('\n').count() + 1 == line
            && self.code.lines().last().is_some_and(|code| code.trim().is_empty())
        {
            earlier.push('\n');
            earlier.push_str(text);
            return;
        }
        self.comments.push((line, text.to_owned()));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Code,
    Comment,
    /// A string, with the lengths of its delimiters.
    Text {
        open: usize,
        close: usize,
    },
    Char,
}

/// The kind of the token at `at`, and its end. Code is one character.
fn next_token(chars: &[char], at: usize) -> (Token, usize) {
    let from = |text: &str| chars[at..].iter().copied().zip(text.chars()).filter(|(a, b)| a == b).count() == text.len();
    let find = |text: &str, start: usize| {
        let wanted: Vec<char> = text.chars().collect();
        chars[start..].windows(wanted.len()).position(|w| w == wanted).map_or(chars.len(), |found| start + found)
    };
    if from("//") {
        return (Token::Comment, find("\n", at));
    }
    if from("/*") {
        return (Token::Comment, (find("*/", at) + 2).min(chars.len()));
    }
    let word_before = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    let prefix =
        if word_before { 0 } else { chars[at..].iter().take(2).take_while(|c| matches!(c, 'b' | 'r' | 'c')).count() };
    let hashes = chars[at + prefix..].iter().take_while(|c| **c == '#').count();
    let raw = prefix > 0 && chars[at..at + prefix].contains(&'r');
    if chars.get(at + prefix + hashes) == Some(&'"') && (raw || hashes == 0) {
        let open = prefix + hashes + 1;
        if raw {
            let close = format!("\"{}", "#".repeat(hashes));
            let end = find(&close, at + open);
            return (Token::Text { open, close: hashes + 1 }, (end + hashes + 1).min(chars.len()));
        }
        let mut end = at + open;
        while end < chars.len() && chars[end] != '"' {
            end += if chars[end] == '\\' { 2 } else { 1 };
        }
        return (Token::Text { open, close: 1 }, (end + 1).min(chars.len()));
    }
    if chars[at] == '\'' {
        if chars.get(at + 1) == Some(&'\\') {
            return (Token::Char, find("'", at + 3) + 1);
        }
        if chars.get(at + 2) == Some(&'\'') {
            return (Token::Char, at + 3);
        }
    }
    (Token::Code, at + 1)
}

/// Removes the items with `#[cfg(test)]` from `code`, which has no comments and strings. Also returns the names of modules
/// among them that are files: `#[cfg(test)] mod proof;`.
pub fn remove_test_items(code: &str) -> (String, Vec<String>) {
    const ATTRIBUTE: &str = "#[cfg(test)]";
    let mut kept = String::new();
    let mut modules = Vec::new();
    let mut rest = code;
    while let Some(start) = rest.find(ATTRIBUTE) {
        kept.push_str(&rest[..start]);
        let item = &rest[start + ATTRIBUTE.len()..];
        let end = item_end(item);
        let words: Vec<&str> = item[..end].split_whitespace().collect();
        if let ["mod", name] | ["pub", "mod", name] = words[..]
            && let Some(name) = name.strip_suffix(';')
        {
            modules.push(name.to_owned());
        }
        rest = &item[end..];
    }
    kept.push_str(rest);
    (kept, modules)
}

/// The length of the item at the start of `code`: up to its `;`, or to the brace that closes its first one.
fn item_end(code: &str) -> usize {
    let mut depth = 0_u32;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 1 => return at + 1,
            '}' => depth -= 1,
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// The code of all files below `src` without tests: the path below `src`, and the code.
pub fn library_code() -> Vec<(PathBuf, String)> {
    let src = crate::tool::root().join("src");
    let mut files = Vec::new();
    let mut only_tests = Vec::new();
    for file in files_below(&src, &["rs"]) {
        let path = file.strip_prefix(&src).unwrap().to_path_buf();
        let parts = SourceParts::from_rust(&fs::read_to_string(&file).unwrap());
        let (code, modules) = remove_test_items(&parts.code);
        let folder = if path.file_name().is_some_and(|name| name == "mod.rs" || name == "lib.rs") {
            path.parent().unwrap().to_path_buf()
        } else {
            path.with_extension("")
        };
        only_tests.extend(modules.iter().map(|module| folder.join(module)));
        files.push((path, code));
    }
    files.retain(|(path, _)| !only_tests.iter().any(|test| path.starts_with(test) || path.with_extension("") == *test));
    files
}

#[test]
fn rust_is_split_into_code_comments_and_strings() {
    let source = "//! First\n//! line.\nfn a<'a>() { f(\"x // y\", '\"', b'\\'', r#\"a \"b\"#); } // end\n/* block */ let s = \"a\\\"b\";\n";
    let parts = SourceParts::from_rust(source);
    assert_eq!(parts.code, "\n\nfn a<'a>() { f(\"\", ' ', b' ', \"\"); } \n let s = \"\";\n");
    let comments: Vec<_> = parts.comments.iter().map(|(line, text)| (*line, text.trim())).collect();
    assert_eq!(comments, [(1, "First\n line."), (3, "end"), (4, "block */")]);
    assert_eq!(parts.strings.iter().map(|(_, text)| text.as_str()).collect::<Vec<_>>(), ["x // y", "a \"b", "a\\\"b"]);
}

#[test]
fn scripts_are_split_too() {
    let parts =
        SourceParts::from_script("#!/bin/sh\n# a comment\necho \"a b c\" # more\nx=${y#z}\n\"\"\"One\ntwo.\"\"\"\n");
    let comments: Vec<_> = parts.comments.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(comments, ["/bin/sh\n a comment", " more"]);
    assert_eq!(parts.strings, [(3, "a b c".to_owned()), (5, "One\ntwo.".to_owned())]);
}

#[test]
fn test_items_are_removed() {
    let (code, modules) =
        remove_test_items("a\n#[cfg(test)]\nmod proof;\nb #[cfg(test)]\nmod tests { fn f() { } }\nc\n");
    assert_eq!((code.as_str(), &modules[..]), ("a\n\nb \nc\n", &["proof".to_owned()][..]));
}

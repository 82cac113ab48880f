//! The words and names of the project are plain: no idioms that a newcomer has to decode, one name for one type.
//!
//! `CONTRIBUTING.md` has the glossary. Text in backticks is not checked, so a page may quote a banned word.

use std::{collections::BTreeMap, fs, path::Path};

use crate::{
    source::{SourceParts, files_below, library_code},
    tool::{root, run},
};

/// Words and phrases that are not used; `*` stands for any word.
const BANNED: &[&str] = &[
    // Verbs and nouns with a plainer word: report, print, contain, know.
    "told",
    "tell",
    "tells",
    "telling",
    "said",
    "stand",
    "stands",
    "stood",
    "standing",
    "nobody",
    "let at",
    "gives up its",
    "has come",
    "have come",
    "is over",
    "are over",
    "was over",
    "it is said",
    "would not have",
    "calls of tools",
    "in one piece",
    // Name the thing again instead.
    "of which",
    "of whom",
    "of whose",
    "of those",
    "those of",
    "that of",
    "thereof",
    "as * has it",
    "as * have it",
    "as * * has it",
    "as * * have it",
    // Adverbs and conjunctions.
    "behind",
    "beside",
    "likewise",
    "meanwhile",
    "whatever",
    "whoever",
    "whichever",
    "so many",
    "so much",
    "round",
    "hence",
    "by itself",
    "by themselves",
    "once more",
    "from now on",
    "all the same",
    "as it were",
    "be it",
    "of its own",
    "of their own",
    "for want of",
    "without a word",
    // "It is not a number", "without a tokenizer".
    "is no",
    "is none",
    "are no",
    "are none",
    "was no",
    "was none",
    "were no",
    "were none",
];

/// Phrases with a banned word that are plain.
const ALLOWED: &[&str] = &[
    "behind a proxy",
    "behind a gateway",
    "behind a load balancer",
    "behind one load balancer",
    "stands for",
    "stand for",
    "standing for",
    "is no longer",
    "are no longer",
    "was no longer",
    "there is no",
    "there are no",
    "there was no",
    "there were no",
    "round trip",
    "round trips",
    "round robin",
    "round to",
    // A round of a comparison, in which each server or client has one run.
    "a round",
    "each round",
    "every round",
    "one round",
    "the round",
    "in round",
    // A number follows in a script or a format string.
    "round $",
    "round {",
    // jq's function.
    "| round",
];

/// Names that several public types may share, because their module makes them plain.
const SHARED_NAMES: &[&str] = &["Args", "Options", "Error"];

/// A text to check, with its place.
struct Prose {
    place: String,
    text: String,
}

impl Prose {
    /// The words in lower case. A mark of punctuation, a span in backticks and a value (`{name}`, `$name`) are words too, so that
    /// no phrase extends across them.
    fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut rest = self.text.as_str();
        while let Some(c) = rest.chars().next() {
            let end = match c {
                '`' => rest[1..].find('`').map_or(1, |end| end + 2),
                '{' => rest.find('}').map_or(1, |end| end + 1),
                '$' => rest[1..].find(|c: char| !c.is_alphanumeric() && c != '_').map_or(rest.len(), |end| end + 1),
                '\\' => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
                c if c.is_alphanumeric() => rest
                    .find(|c: char| !c.is_alphanumeric() && !matches!(c, '\'' | '’' | '-' | '_'))
                    .unwrap_or(rest.len()),
                c => c.len_utf8(),
            };
            if c.is_alphanumeric() {
                words.push(rest[..end].to_lowercase());
            } else if !c.is_whitespace() && c != '\\' {
                words.push(c.to_string());
            }
            rest = &rest[end..];
        }
        words
    }

    /// The banned phrases in the text, each with the words near it.
    fn banned_phrases(&self) -> Vec<String> {
        let words = self.words();
        let mut allowed = vec![false; words.len()];
        for phrase in ALLOWED {
            for at in find_phrase(&words, phrase) {
                allowed[at..at + phrase.split(' ').count()].fill(true);
            }
        }
        let mut found = Vec::new();
        for phrase in BANNED {
            let count = phrase.split(' ').count();
            for at in find_phrase(&words, phrase).filter(|at| !allowed[*at..at + count].iter().all(|a| *a)) {
                let near = words[at.saturating_sub(4)..(at + count + 4).min(words.len())].join(" ");
                found.push(format!("{}: `{phrase}` in: {near}", self.place));
            }
        }
        found
    }
}

/// Where `phrase` begins in `words`.
fn find_phrase<'a>(words: &'a [String], phrase: &'a str) -> impl Iterator<Item = usize> + 'a {
    let matches =
        |window: &[String]| phrase.split(' ').zip(window).all(|(wanted, word)| wanted == "*" || wanted == word);
    let windows = words.windows(phrase.split(' ').count());
    windows.enumerate().filter(move |(_, window)| matches(window)).map(|(at, _)| at)
}

/// Adds the comments of a source file, and its strings of at least three words.
fn add_parts(prose: &mut Vec<Prose>, path: &Path, parts: SourceParts) {
    let strings = parts.strings.into_iter().filter(|(_, text)| text.split_whitespace().count() >= 3);
    let texts = parts.comments.into_iter().chain(strings);
    prose.extend(texts.map(|(line, text)| Prose { place: format!("{}:{line}", path.display()), text }));
}

/// Everything that people read: comments, messages, pages and help.
fn all_prose() -> Vec<Prose> {
    let mut prose = Vec::new();
    let relative = |path: &Path| path.strip_prefix(root()).unwrap().to_path_buf();
    for file in ["src", "tests", "benches", "examples"].iter().flat_map(|name| files_below(&root().join(name), &["rs"]))
    {
        // This file has the list.
        if !file.ends_with("it/words.rs") {
            add_parts(&mut prose, &relative(&file), SourceParts::from_rust(&fs::read_to_string(&file).unwrap()));
        }
    }
    for file in files_below(&root().join("scripts"), &["sh", "py"]) {
        // It has a list too.
        if !file.ends_with("code_figures.py") {
            add_parts(&mut prose, &relative(&file), SourceParts::from_script(&fs::read_to_string(&file).unwrap()));
        }
    }
    let pages = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "config.yaml"].map(|name| root().join(name));
    for file in pages.into_iter().chain(files_below(&root().join("docs"), &["md"])) {
        if file.to_string_lossy().ends_with(".zh.md") {
            continue;
        }
        let mut line = 1;
        for paragraph in fs::read_to_string(&file).unwrap().split("\n\n") {
            prose.push(Prose { place: format!("{}:{line}", relative(&file).display()), text: paragraph.to_owned() });
            line += paragraph.matches('\n').count() + 2;
        }
    }
    for (tool, subcommand) in [
        ("vb-gen", None),
        ("vb-gen", Some("mix")),
        ("vb-fire", None),
        ("vb-stats", None),
        ("vb-diff", None),
        ("vb-agg", None),
        ("vb-sim", None),
        ("vb-selftest", None),
        ("vb", None),
        ("vb", Some("bench")),
    ] {
        let args: Vec<&str> = subcommand.into_iter().chain(["--help"]).collect();
        let help = run(tool, &args, "").stdout;
        prose.extend(help.split("\n\n").map(|text| Prose { place: format!("{tool} --help"), text: text.to_owned() }));
    }
    prose
}

#[test]
fn people_read_plain_words() {
    let found: Vec<String> = all_prose().iter().flat_map(Prose::banned_phrases).collect();
    assert!(found.is_empty(), "{} banned phrases:\n{}", found.len(), found.join("\n"));
}

#[test]
fn names_of_functions_are_plain() {
    let mut found = Vec::new();
    for file in ["src", "tests", "benches", "examples"].iter().flat_map(|name| files_below(&root().join(name), &["rs"]))
    {
        let code = SourceParts::from_rust(&fs::read_to_string(&file).unwrap()).code;
        for name in declared_names(&code, &["fn "]) {
            let place = format!("{}: fn {name}", file.strip_prefix(root()).unwrap().display());
            if name == "of" {
                found.push(place);
            } else {
                found.extend(Prose { place, text: name.replace('_', " ") }.banned_phrases());
            }
        }
    }
    assert!(found.is_empty(), "{} names:\n{}", found.len(), found.join("\n"));
}

#[test]
fn public_types_have_different_names() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (path, code) in library_code() {
        for name in declared_names(&code, &["pub struct ", "pub enum ", "pub trait ", "pub union ", "pub type "]) {
            places.entry(name).or_default().push(path.display().to_string());
        }
    }
    places.retain(|name, files| files.len() > 1 && !SHARED_NAMES.contains(&name.as_str()));
    assert!(places.is_empty(), "{places:#?}");
}

/// The names in `code` after one of `keywords`, which may also be `pub(crate)` and the like.
fn declared_names(code: &str, keywords: &[&str]) -> Vec<String> {
    let code = code.replace("pub(crate) ", "pub ").replace("pub(super) ", "pub ");
    let mut names = Vec::new();
    for keyword in keywords {
        for (at, _) in code.match_indices(keyword) {
            let starts_word = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            let name: String =
                code[at + keyword.len()..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if starts_word && !name.is_empty() {
                names.push(name);
            }
        }
    }
    names
}

#[test]
fn banned_phrases_are_found_and_allowed_ones_are_not() {
    let found = |text: &str| Prose { place: String::new(), text: text.to_owned() }.banned_phrases().len();
    for text in ["Those of\nthe server", "as vLLM has it", "It is no number.", "runs BEHIND it", "as `vllm` has it"] {
        assert_eq!(found(text), 1, "{text}");
    }
    for text in
        ["`told`", "a server behind a proxy", "there is no key", "that. Of course", "a round-trip", "no longer is"]
    {
        assert_eq!(found(text), 0, "{text}");
    }
}

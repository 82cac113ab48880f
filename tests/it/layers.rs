//! Data flows one way, and so do the modules: each uses only those in front of it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The layers, from the ground up. Modules of one layer do not use each other, but for those named together in `ALLOWED`.
const LAYERS: &[&[&str]] = &[
    &["error", "units"],
    &["rng", "clock"],
    &["record", "pacer"],
    &["ndjson", "statistics"],
    &["tokens", "data", "load", "http"],
    &["backend"],
    &["config", "cli"],
    &["recording"],
    &["generate", "fire", "stats", "diff", "agg", "sim", "selftest"],
    &["tools"],
];

/// What the order above does not hold, and why.
const ALLOWED: &[(&str, &str)] = &[
    ("diff", "sim"),    // its proof compares runs of the simulated engine, in virtual time
    ("agg", "stats"),   // it pools the results that vb-stats writes
    ("tokens", "http"), // TLS and the words of a server's error
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
        if entry.is_dir() {
            sources(&entry, found);
        } else if entry.extension().is_some_and(|e| e == "rs") {
            found.push(entry);
        }
    }
}

/// The modules that a source names behind `crate::`.
fn used(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]").next().unwrap();
    let mut names = BTreeSet::new();
    for piece in code.split("crate::").skip(1) {
        let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        let Some(list) = piece.strip_prefix('{') else {
            names.insert(word(piece));
            continue;
        };
        let mut depth = 1;
        let mut item = true;
        for (at, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => item = true,
                _ if item && c.is_alphabetic() => {
                    names.insert(word(&list[at..]));
                    item = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    names
}

#[test]
fn each_module_uses_only_those_below_it() {
    let src = crate::tool::root().join("src");
    let layer = |name: &str| LAYERS.iter().position(|l| l.contains(&name));
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let path = file.strip_prefix(&src).unwrap();
        let module = path.components().next().unwrap().as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned();
        let Some(own) = layer(&module) else {
            assert!(matches!(module.as_str(), "bin" | "lib"), "{module} is in no layer");
            continue;
        };
        for name in used(&fs::read_to_string(&file).unwrap()) {
            let Some(other) = layer(&name) else { continue };
            if name != module && other >= own && !ALLOWED.contains(&(&module, &name)) {
                wrong.push(format!("{} uses {name}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

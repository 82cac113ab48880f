//! Data flows one way, and so do dependencies: each module uses only modules of lower layers.

use std::collections::BTreeSet;

use crate::source::library_code;

/// The layers, from the lowest to the highest. Modules of one layer do not use each other, except as `ALLOWED` says.
const LAYERS: &[&[&str]] = &[
    &["error", "units", "json", "parallel", "printable", "secrets", "lang"],
    &["rng", "clock", "arrival", "fields", "text", "printout"],
    &["record", "pacer"],
    &["ndjson", "statistics", "summaries"],
    &["tokens", "data", "load", "http"],
    &["backend"],
    &["config", "cli"],
    &["recording"],
    &["steadiness"],
    &["generate", "fire", "stats", "diff", "agg", "sim", "selftest"],
    &["tools"],
];

/// Exceptions to the order, each with its reason.
const ALLOWED: &[(&str, &str)] = &[
    ("agg", "stats"),   // it pools the results that vb-stats writes
    ("tokens", "http"), // it shares TLS and the parser of a server's error message
];

/// The modules that `code` uses through `crate::`.
fn used_modules(code: &str) -> BTreeSet<String> {
    let leading_word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut names = BTreeSet::new();
    for path in code.split("crate::").skip(1) {
        let Some(list) = path.strip_prefix('{') else {
            names.insert(leading_word(path));
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
                    names.insert(leading_word(&list[at..]));
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
    let layer = |name: &str| LAYERS.iter().position(|l| l.contains(&name));
    let mut wrong = Vec::new();
    for (path, code) in library_code() {
        let module = path.components().next().unwrap().as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned();
        let Some(own) = layer(&module) else {
            assert!(matches!(module.as_str(), "bin" | "lib"), "{module} is in no layer");
            continue;
        };
        for name in used_modules(&code) {
            let Some(other) = layer(&name) else { continue };
            if name != module && other >= own && !ALLOWED.contains(&(&module, &name)) {
                wrong.push(format!("{} uses {name}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

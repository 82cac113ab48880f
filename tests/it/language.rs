//! Text for people has a translation, and tables in Chinese are aligned.

use std::{borrow::Cow, fs};

use vb::lang::Language;

use crate::{
    source::{SourceParts, remove_test_items},
    tool::{data, golden, root, run},
};

/// The files whose texts appear in tables, headlines and notes.
const FILES: &[&str] = &[
    "agg/table.rs",
    "diff/headline.rs",
    "diff/table.rs",
    "diff/warnings.rs",
    "fire/buffering.rs",
    "fire/stamp_error.rs",
    "fire/verdict.rs",
    "record/prompt_lengths.rs",
    "recording/metric.rs",
    "stats/arrivals.rs",
    "stats/cache.rs",
    "stats/client.rs",
    "stats/length.rs",
    "stats/server/mod.rs",
    "stats/server/reconcile.rs",
    "stats/table/full.rs",
    "stats/table/head.rs",
    "stats/table/line.rs",
    "stats/table/notes.rs",
    "stats/table/parts.rs",
    "stats/table/short.rs",
    "steadiness/signals.rs",
    "steadiness/verdict.rs",
];

/// Parts of longer texts, which have their translation as a whole; and an error about the key of a result.
const PARTS: &[&str] = &[
    "read lag p99",
    "send lag p99",
    "({} stalls, {} s in all)",
    "have no token count",
    "have at least as many tokens as counted, one for each chunk",
    "{} of {} responses {}",
    "{} of {} are {} than requested",
    ", asked for {}",
    ", {} at the peak",
    ", {} cancelled on purpose",
    ", {} never sent",
    "Good requests{}:",
    "Attainment{} (%):",
    "{} alone{} (%):",
    "Good tokens{} (tok/s):",
    "Inter-token Latency (per token{})",
    "Mean requests {}:",
    "Complete stream",
    "INCOMPLETE stream",
    ", gaps p {}",
    "no slot",
    "late input",
    "but {} are needed",
    "so it stamps late",
    "so it has no capacity left",
    "the busiest reader thread is {} busy, {}: use more --threads",
    ", use more --threads, or use --stamps packets",
    ", or use more --threads",
    "(its responses name `{}`)",
    "they have their unit, as all keys of the result",
    "about {} more",
    "{} too few successes: a P99 needs {}",
    "{}: fail if {}: {}",
    "{} {}{} (ms)",
    "{} tokens in each prompt, not {} as asked for{}",
    "{} lag p99 {} ms",
    "chunks are stamped by the kernel, so it is the network or the server's HTTP layer",
    "it is the network, the server's HTTP layer, or this client's own lag",
    "<= {}, 99 % sure",
    ", estimated",
    "{} streams received nothing for {} s at {} s{}",
    "{} requests/s{}",
    "{} output tokens/s{}",
    "{} successful requests were sent before the drain, {}",
    "{} {} by {} % within {} s (p = {})",
    "{} requests arrived per second and {} ended",
    "{}, but the client limited the load (see its verdict)",
    "{}; only a longer run shows whether that is overload or a busy time (p = {})",
    ", then",
    "{} chunks waited for the client and lost their own stamps (read lag p99 {}), so these are known only to lie within: {}: give the \
     client a free core{}",
];

/// The texts of a source file with `{}` for what is filled in: those with a space between words.
fn texts(source: &str) -> Vec<String> {
    let parts = SourceParts::from_rust(source);
    let (code, _) = remove_test_items(&parts.code);
    // The strings of the items that are left: each is `""` in the code.
    let kept = code.matches("\"\"").count();
    let text = |literal: &str| {
        let joined: Vec<&str> =
            literal.split("\\\n").enumerate().map(|(i, line)| if i == 0 { line } else { line.trim_start() }).collect();
        let mut filled = String::new();
        let mut depth = 0;
        for c in joined.concat().replace("\\\"", "\"").chars() {
            match c {
                '{' => depth += 1,
                '}' => {
                    depth -= 1;
                    filled.push_str("{}");
                }
                c if depth == 0 => filled.push(c),
                _ => {}
            }
        }
        filled.trim().to_owned()
    };
    let is_text = |text: &String| {
        // Names of metrics and units are the same in every language.
        let words =
            text.split([' ', '(', ')', ':']).filter(|word| word.len() > 2 && word.chars().all(char::is_alphabetic));
        let mut words = words.filter(|word| word.chars().any(char::is_lowercase));
        text.contains(' ') && words.next().is_some() && !text.contains('\n')
    };
    parts.strings[..kept.min(parts.strings.len())].iter().map(|(_, literal)| text(literal)).filter(is_text).collect()
}

#[test]
fn every_text_for_people_has_a_translation() {
    let mut missing = Vec::new();
    for file in FILES {
        for text in texts(&fs::read_to_string(root().join("src").join(file)).unwrap()) {
            let filled = text.replace("{}", "7");
            if !PARTS.contains(&text.as_str()) && matches!(Language::Zh.translate(&filled), Cow::Borrowed(_)) {
                missing.push(format!("{file}: {text}"));
            }
        }
    }
    assert!(missing.is_empty(), "src/lang/zh.txt has no translation of\n{}", missing.join("\n"));
}

/// Nothing but names of metrics, flags and keys stays in English.
#[test]
fn tables_are_in_chinese() {
    let input = fs::read_to_string(data("stats-run.ndjson")).unwrap();
    let goodput = ["--goodput", "ttft:100ms", "e2el:2s", "--lang", "zh", "--table"];
    for layout in ["short", "full", "line"] {
        let table = run("vb-stats", &[&goodput[..], &[layout]].concat(), &input);
        golden(&format!("stats-{layout}-zh.txt"), &table.stderr);
    }
    // The environment decides, and JSON does not change.
    let mut english = String::new();
    for (locale, chinese) in [("zh_CN.UTF-8", true), ("de_DE.UTF-8", false)] {
        let done =
            crate::tool::run_with("vb-stats", &["--table", "short"], &input, &[("LC_ALL", ""), ("LANG", locale)]);
        assert_eq!(done.stderr.starts_with("结论: "), chinese, "{}", done.stderr);
        if english.is_empty() {
            english.clone_from(&done.stdout);
        }
        assert_eq!(done.stdout, english);
    }
}

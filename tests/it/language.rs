//! Text for people has a translation, and tables in Chinese are aligned.

use std::{borrow::Cow, fs};

use vb::lang::Language;

use crate::{
    source::{SourceParts, files_below, remove_test_items},
    tool::{Sim, data, folder, golden, root, run, run_with},
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
    "selftest/table.rs",
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
    "; vb-sim did not keep that step either",
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
    "{} of {} streamed responses arrived at once or in bursts: a proxy{} or the server holds chunks back, so TTFT, TPOT and ITL are not \
     the model's: {}",
    "{} ms of the mean {} of {} ms are outside of the server's own count: {}",
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
    let is_text = |text: &String| {
        // Names of metrics and units are the same in every language.
        let words =
            text.split([' ', '(', ')', ':']).filter(|word| word.len() > 2 && word.chars().all(char::is_alphabetic));
        let mut words = words.filter(|word| word.chars().any(char::is_lowercase));
        text.contains(' ') && words.next().is_some() && !text.contains('\n')
    };
    texts_of(source).into_iter().filter(is_text).collect()
}

/// All texts of a source file.
fn texts_of(source: &str) -> Vec<String> {
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
    parts.strings[..kept.min(parts.strings.len())].iter().map(|(_, literal)| text(literal)).collect()
}

#[test]
fn every_text_for_people_has_a_translation() {
    let mut missing = Vec::new();
    for file in FILES {
        for text in texts(&fs::read_to_string(root().join("src").join(file)).unwrap()) {
            let filled = text.replace("{}", "7");
            let translated = Language::Zh.translate(&filled);
            let is_missing = matches!(translated, Cow::Borrowed(_)) || has_english_sentence(&translated);
            if !PARTS.contains(&text.as_str()) && is_missing {
                missing.push(format!("{file}: {text}"));
            }
        }
    }
    assert!(missing.is_empty(), "src/lang/zh.txt has no translation of\n{}", missing.join("\n"));
}

/// Whether some of the text is an English sentence: a part of it was translated, as a number with its unit.
fn has_english_sentence(text: &str) -> bool {
    let prose = text.split('`').step_by(2).flat_map(|prose| prose.split(|c: char| !c.is_ascii_lowercase() && c != ' '));
    prose.into_iter().any(|words| words.split_whitespace().count() > 3)
}

/// Where the words of others begin in the table of messages.
const FOREIGN: &str = "# Words of clap and of the system.";

/// Messages that are put together from words.
const JOINED: &[&str] = &[
    "{} and of {}",
    "no token for {}",
    "no response for {}",
    "use a chat backend with --extra-body '{}': the server renders the template",
];

/// A message that was reworded would be in English again.
#[test]
fn every_translated_message_is_in_the_source() {
    let files = files_below(&root().join("src"), &["rs"]);
    let all: Vec<String> = files.iter().flat_map(|file| texts_of(&fs::read_to_string(file).unwrap())).collect();
    let table = fs::read_to_string(root().join("src/lang/zh-messages.txt")).unwrap();
    let (ours, _) = table.split_once(FOREIGN).unwrap();
    let lines: Vec<&str> = ours.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let english = lines.chunks(2).map(|pair| pair[0]);
    let unknown: Vec<&str> =
        english.filter(|text| !JOINED.contains(text) && !all.iter().any(|known| known.contains(text))).collect();
    assert!(unknown.is_empty(), "no message in the source has\n{}", unknown.join("\n"));
}

/// What a person sees in the first hour: nothing but names and the words of others is in English.
#[test]
fn errors_are_in_chinese() {
    let missing = root().join("no-such-file");
    let missing = missing.to_str().unwrap();
    let sim = Sim::start(&["--api-key", "sk-planted", "--served-model-name", "m"]);
    let closed = "http://127.0.0.1:1";
    let request = "{\"prompt\":\"hi\"}\n";
    let cases: &[(&str, &[&str], &str)] = &[
        ("vb-fire", &["--max-concurency", "1"], "没有参数 --max-concurency；是不是 --max-concurrency？"),
        ("vb-fire", &["--dataset-name", "x"], "--dataset-name 是 vb-gen 的参数，vb-fire 没有它"),
        ("vb-fire", &["--goodput", "x"], "--goodput 是 vb-stats 的参数"),
        ("vb-fire", &["--save-result"], "没有参数 --save-result：请对 vb-stats 用 `> FILE`"),
        ("vb-fire", &["--profile"], "没有参数 --profile：请在之前运行 `curl"),
        ("vb-fire", &["--port", "1"], "没有参数 --port：`vb bench` 接受它。是 --base-url http://HOST:PORT 的一部分"),
        ("vb-fire", &["--hf-split", "x"], "没有参数 --hf-split：数据集是本地文件：请先下载"),
        ("vb-fire", &["--max-seconds", "x"], "错误: '--max-seconds <TIME>' 的值 'x' 无效：`x` 不是时间：请写成"),
        ("vb-fire", &["--backend", "server"], "[可选：openai, openai-chat,"),
        ("vb-fire", &["--max-seconds"], "错误: '--max-seconds <TIME>' 需要一个值"),
        ("vb-fire", &["--config", missing], "无法读取配置"),
        ("vb-fire", &["--base-url", closed], "连接 127.0.0.1:1 失败：连接被拒绝；服务在运行吗"),
        ("vb-fire", &["--base-url", &sim.url], "Unauthorized"),
        ("vb-fire", &["--base-url", &sim.url, "--model", "m"], "1 个请求中 1 个失败；最多的（1 次）是 http_status"),
        ("vb-fire", &["--base-url", &sim.url, "--model", "m"], "；请设 OPENAI_API_KEY，或用 --header"),
        ("vb-gen", &["--dataset-name", "custom"], "--dataset-name custom 需要文件：请加 --dataset-path FILE"),
        ("vb-gen", &["--dataset-name", "custom", "--dataset-path", missing], "没有这个文件或目录"),
        ("vb-gen", &["--num-prompts"], "需要一个值"),
        ("vb-stats", &[missing], "无法读取"),
        ("vb-diff", &[], "没有要比较的文件；请写 vb-diff A B"),
        ("vb", &["stat"], "没有程序 `stat`；是不是 `vb stats`？"),
        ("vb", &["bench", "--profile"], "没有参数 --profile：请在之前运行 `curl"),
    ];
    for (tool, args, want) in cases {
        let chinese = run_with(tool, args, request, &[("LC_ALL", "zh_CN.UTF-8"), ("OPENAI_API_KEY", "")]);
        let english = run_with(tool, args, request, &[("OPENAI_API_KEY", "")]);
        assert!(chinese.stderr.contains(want), "{tool} {args:?}: {}", chinese.stderr);
        assert!(english.stderr.is_ascii() && chinese.code == english.code, "{tool} {args:?}: {}", english.stderr);
    }
    // By the flag and by the config, and in a record nothing changes.
    let config = folder("language").join("config.yaml");
    fs::write(&config, "lang: zh\n").unwrap();
    for args in [&["--lang", "zh"][..], &["--config", config.to_str().unwrap()]] {
        let done = run("vb-fire", &[&["--base-url", &sim.url, "--model", "m"], args].concat(), request);
        assert!(done.stderr.contains("1 个请求中 1 个失败"), "{}", done.stderr);
        assert!(done.stdout.is_ascii() && done.stdout.contains("\"success\":false"), "{}", done.stdout);
    }
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
        let done = run_with("vb-stats", &["--table", "short"], &input, &[("LC_ALL", ""), ("LANG", locale)]);
        assert_eq!(done.stderr.starts_with("结论: "), chinese, "{}", done.stderr);
        if english.is_empty() {
            english.clone_from(&done.stdout);
        }
        assert_eq!(done.stdout, english);
    }
}

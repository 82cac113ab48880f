//! Runs every command of the README and of the cookbook, in their order, against the simulated server.

use std::{collections::HashSet, fs, path::Path};

use serde_json::Value;

use crate::tool::{self, Sim, data, root};

/// The shell blocks of a page.
fn blocks(page: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(page)).unwrap();
    text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn both_languages_show_the_same_commands_and_output() {
    let output = |page: &str| {
        let text = fs::read_to_string(root().join(page)).unwrap();
        text.split("```text\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    for (english, chinese) in
        [("README.md", "README.zh.md"), (COOKBOOK, "docs/COOKBOOK.zh.md"), (START, "docs/START.zh.md")]
    {
        assert_eq!(blocks(english), blocks(chinese), "{chinese}");
        // Tables may be in Chinese, with the same numbers.
        let numbers = |text: &str| {
            let mut numbers: Vec<String> =
                text.split(|c: char| !c.is_ascii_digit() && c != '.').map(|n| n.trim_matches('.').to_owned()).collect();
            numbers.sort_unstable();
            numbers.retain(|number| !number.is_empty());
            numbers
        };
        let (one, other) = (output(english), output(chinese));
        assert_eq!(one.len(), other.len(), "{chinese}");
        for (one, other) in one.iter().zip(&other) {
            assert!(one == other || numbers(one) == numbers(other), "{chinese}: {one}\n{other}");
        }
    }
}

/// Every link of a page to a file of the project, and to a heading there, leads somewhere.
#[test]
fn links_lead_somewhere() {
    let pages = ["README.md", "README.zh.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "docs/ACCURACY.md"];
    let tutorials = [COOKBOOK, "docs/COOKBOOK.zh.md", START, "docs/START.zh.md", FROM_VLLM_BENCH, "docs/TABLE.zh.md"];
    for page in pages.iter().chain(&tutorials).chain(&MANUALS) {
        let text = fs::read_to_string(root().join(page)).unwrap();
        for target in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if target.contains("://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { root().join(page) } else { root().join(page).with_file_name(file) };
            let linked = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{page}: {target}: {e}"));
            let found = anchor.is_empty() || linked.lines().any(|line| heading_anchor(line).as_deref() == Some(anchor));
            assert!(found, "{page}: no heading {target}");
        }
    }
}

/// The anchor that GitHub makes of a heading.
fn heading_anchor(line: &str) -> Option<String> {
    let title = line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#'))?;
    let kept = title.chars().filter(|c| c.is_alphanumeric() || ['-', '_', ' '].contains(c));
    Some(kept.collect::<String>().to_lowercase().replace(' ', "-"))
}

const COOKBOOK: &str = "docs/COOKBOOK.md";
const START: &str = "docs/START.md";
const FROM_VLLM_BENCH: &str = "docs/FROM-VLLM-BENCH.md";

const MANUALS: [&str; 8] = [
    "docs/BACKENDS.md",
    "docs/DATASETS.md",
    "docs/FORMAT.md",
    "docs/LOAD.md",
    "docs/METRICS.md",
    "docs/SELFTEST.md",
    "docs/SIM.md",
    "docs/TABLE.md",
];

/// What a flag does in one line is in `--help`; what it is for is in a manual.
#[test]
fn every_flag_is_in_a_manual() {
    let read = |page: &str| fs::read_to_string(tool::root().join(page)).unwrap();
    let manuals: String = MANUALS.iter().chain(&["README.md", COOKBOOK]).map(|page| read(page)).collect();
    let is_flag = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let documented: HashSet<&str> =
        manuals.split("--").skip(1).map(|rest| rest.split(|c| !is_flag(c)).next().unwrap()).collect();
    for tool in ["vb-gen", "vb-fire", "vb-stats", "vb-agg", "vb-diff", "vb-sim", "vb-selftest"] {
        let help = tool::run(tool, &["--help"], "").stdout;
        let flags = help.lines().filter_map(|line| {
            let line = line.trim_start();
            let line = line.get(4..).filter(|_| line.starts_with('-') && line[2..].starts_with(", ")).unwrap_or(line);
            line.strip_prefix("--")?.split(|c| !is_flag(c)).next()
        });
        let missing: Vec<&str> =
            flags.filter(|flag| !documented.contains(flag) && !["help", "version"].contains(flag)).collect();
        assert!(missing.is_empty(), "{tool}: no manual mentions {missing:?}");
    }
}

#[test]
fn the_commands_of_the_manuals_run() {
    // These two define records and numbers, and need no command.
    for page in MANUALS.iter().filter(|page| !["docs/FORMAT.md", "docs/METRICS.md"].contains(page)) {
        assert!(!blocks(page).is_empty(), "{page} shows no command");
    }
    for script in MANUALS.iter().chain(&[FROM_VLLM_BENCH]).flat_map(|page| blocks(page)) {
        // A server that outlived a failed command would keep its output open, and this test would wait for it.
        // `kill` fails for a server that has just exited.
        let script_with_trap = format!("trap 'jobs -p | xargs -r kill || true' EXIT\n{script}");
        let mut bash = tool::plain_command("bash");
        bash.args(["-euo", "pipefail", "-c", &script_with_trap]).current_dir(tool::folder("manuals"));
        let done = tool::done(bash.env("PATH", tool::search_path()).output().unwrap());
        assert_eq!(done.code, 0, "{script}\n{}{}", done.stdout, done.stderr);
    }
}

/// The whole page in one shell, with its simulated servers on free ports, and with fewer requests.
#[test]
fn the_start_page_runs() {
    let folder = tool::folder("start");
    let mut sims = Vec::new();
    let mut script = String::new();
    for block in blocks(START) {
        match block.trim().strip_prefix("vb-sim --port ").and_then(|flags| flags.strip_suffix(" &")) {
            Some(flags) => {
                let (port, flags) = flags.split_once(' ').unwrap_or((flags, ""));
                let flags: Vec<&str> = flags.split_whitespace().collect();
                sims.push((format!("http://127.0.0.1:{port}"), Sim::start(&flags)));
            }
            None => script += &block,
        }
    }
    assert_eq!(sims.len(), 2);
    for (url, sim) in &sims {
        script = script.replace(url, &sim.url);
    }
    script = script.replace("--num-prompts 600", "--num-prompts 60");
    let mut bash = tool::plain_command("bash");
    bash.args(["-euo", "pipefail", "-c", &script]).current_dir(&folder).env("PATH", tool::search_path());
    let done = tool::done(bash.output().unwrap());
    assert_eq!(done.code, 0, "{script}\n{}{}", done.stdout, done.stderr);
    let result: Value = serde_json::from_str(&fs::read_to_string(folder.join("old.json")).unwrap()).unwrap();
    assert_eq!((&result["completed"], &result["failed"]), (&60.into(), &0.into()));
    assert!(done.stdout.contains("old: old.ndjson (60 requests, 0 failed)"), "{}", done.stdout);
    assert!(done.stderr.contains("sweep: 3/3 io256x32_mc32_np320: "), "{}", done.stderr);
}

/// A program that a recipe needs and that may be missing: what is in such a recipe, and a command that succeeds if it is installed.
const PROGRAMS: [(&str, &str); 4] = [
    ("jq ", "jq --version"),
    ("parallel ", "parallel --version"),
    ("import pandas", "python3 -c 'import pandas'"),
    ("import duckdb", "python3 -c 'import duckdb'"),
];

/// `scripts/check_vllm.py` runs them, with a sweep.
const PLOTS: &str = "vllm bench sweep ";

#[test]
fn every_recipe_runs() {
    let is_missing = |check: &str| !tool::plain_command("bash").args(["-c", check]).output().unwrap().status.success();
    let missing: Vec<&str> = PROGRAMS.iter().filter(|(_, check)| is_missing(check)).map(|(what, _)| *what).collect();
    // `.ci/run` sets it; the tests need only Rust on other machines.
    let all_run = std::env::var_os("VB_ALL_RECIPES").is_some();
    assert!(missing.is_empty() || !all_run, "all recipes must run, but {missing:?} are missing");
    let folder = tool::folder("readme");
    fixtures(&folder);
    let sim = Sim::start(&[]);
    let tls = Sim::start_tls(&["--api-key", "sk-your-key", "--served-model-name", "my-model"]);

    let mut recipes = blocks("README.md");
    recipes.extend(blocks(COOKBOOK));
    assert_eq!(recipes[..2], ["scripts/sweep.sh\n", "cargo test\n"], "the two commands");
    assert!(recipes.len() >= 12);
    for recipe in &recipes[2..] {
        if recipe.starts_with(PLOTS) {
            continue;
        }
        if let Some(what) = missing.iter().find(|what| recipe.contains(*what)) {
            eprintln!("not run, {what} is missing:\n{recipe}");
            continue;
        }
        let script = recipe.replace("http://127.0.0.1:8000", &sim.url).replace("https://api.example.com", &tls.url);
        let done = tool::plain_command("bash")
            .args(["-euo", "pipefail", "-c", &script])
            .current_dir(&folder)
            .env("PATH", tool::search_path())
            .env("SSL_CERT_FILE", data("tls-ca.pem"))
            .output()
            .unwrap();
        let done = tool::done(done);
        assert_eq!(done.code, 0, "{script}\n{}{}", done.stdout, done.stderr);
        assert!(!done.stderr.contains("sk-your-key"), "{}", done.stderr);
        // No recipe sends prompts that another has sent, except for these two, which show just that.
        let again = ["again.json", "short.json"].iter().any(|result| recipe.contains(result));
        assert_eq!(done.stderr.contains("prefix cache, but"), again, "{script}\n{}", done.stderr);
        if recipe.starts_with("python3") {
            check_tenants(&folder, &done.stdout);
        }
    }
    for (name, completed) in [
        ("result", 100),
        ("server", 64),
        ("again", 40),
        ("open", 60),
        ("short", 20),
        ("shape", 40),
        ("merged", 60),
        ("tenants", 40),
        ("tenants.summary", 40),
        ("host2", 30),
        ("host2.summary", 30),
        ("sharegpt.result", 20),
        ("https", 10),
        ("run", 300),
        ("old", 200),
        ("talks", 24),
        ("trace", 14),
        ("ramp", 80),
        ("mix", 50),
        ("messages", 20),
        ("whole", 20),
        ("vectors", 20),
        ("ranks", 20),
        ("mine", 10),
    ] {
        let Ok(text) = fs::read_to_string(folder.join(format!("{name}.json"))) else {
            assert!(!missing.is_empty(), "{name}.json was not written");
            continue;
        };
        let result: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&result["completed"], &result["failed"]), (&completed.into(), &0.into()), "{name}");
    }
    let csv = fs::read_to_string(folder.join("old.csv")).unwrap();
    assert!(csv.lines().count() >= 3, "{csv}");
}

/// pandas and `DuckDB` compute what `vb-stats` does, to the two decimals that they print.
fn check_tenants(folder: &Path, printed: &str) {
    let tenants: Value = serde_json::from_str(&fs::read_to_string(folder.join("tenants.json")).unwrap()).unwrap();
    let numbers: Vec<f64> = printed.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let groups = tenants["vb"]["groups"].as_array().unwrap();
    for group in groups.iter().filter(|group| group["by"] == "tag:tenant") {
        let mean = group["ttft_ms"]["mean"].as_f64().unwrap();
        assert!(numbers.iter().any(|number| (number - mean).abs() < 0.006), "{group}\n{printed}");
    }
}

/// The files that recipes expect.
fn fixtures(folder: &Path) {
    let turn = |text: &str| format!(r#"{{"from":"human","value":"{text}"}}"#);
    let talk = |i: usize| {
        let question = format!("Please write about number {i} and what makes it special to people");
        format!(
            r#"{{"id":"{i}","conversations":[{},{}]}}"#,
            turn(&question),
            turn("It is a number like many others, I would say.")
        )
    };
    let talks: Vec<String> = (0..30).map(talk).collect();
    let whole = format!("[{}]", talks.join(","));
    fs::write(folder.join("sharegpt.json"), &whole[..whole.len() - 60]).unwrap();
    let prompts: Vec<String> =
        (0..40).map(|i| format!("{{\"prompt\":\"Say {i} in French\",\"output_tokens\":8}}\n")).collect();
    fs::write(folder.join("prompts.jsonl"), prompts.concat()).unwrap();
    let log: Vec<String> = (0..40).map(|i| format!("INFO Added request cmpl-vb-7-{i}-0-8f3a.\n")).collect();
    fs::write(folder.join("vllm.log"), log.concat()).unwrap();
    fs::copy(data("trace-mooncake.jsonl"), folder.join("conversation_trace.jsonl")).unwrap();
    let old = folder.join("old-results");
    fs::create_dir(&old).unwrap();
    fs::copy(data("stats-vllm-detailed.json"), old.join("detailed.json")).unwrap();
}

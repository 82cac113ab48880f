//! Runs every command of the README and of the cookbook, in their order, against the simulated server.

use std::{collections::HashSet, fs, path::Path};

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
    for (english, chinese) in [("README.md", "README.zh.md"), (COOKBOOK, "docs/COOKBOOK.zh.md")] {
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
    let cookbooks = [COOKBOOK, "docs/COOKBOOK.zh.md"];
    for page in pages.iter().chain(&cookbooks).chain(&MANUALS) {
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
    for script in MANUALS.iter().flat_map(|page| blocks(page)) {
        // A server that outlived a failed command would keep its output open, and this test would wait for it.
        // `kill` fails for a server that has just exited.
        let script_with_trap = format!("trap 'jobs -p | xargs -r kill || true' EXIT\n{script}");
        let mut bash = tool::plain_command("bash");
        bash.args(["-euo", "pipefail", "-c", &script_with_trap]).current_dir(tool::folder("manuals"));
        let done = tool::done(bash.env("PATH", tool::search_path()).output().unwrap());
        assert_eq!(done.code, 0, "{script}\n{}{}", done.stdout, done.stderr);
    }
}

#[test]
fn every_recipe_runs() {
    let has_jq = tool::plain_command("jq").arg("--version").output().is_ok();
    assert!(has_jq || std::env::var_os("CI").is_none(), "CI must have jq, so that all recipes are run");
    let folder = tool::folder("readme");
    fixtures(&folder);
    let sim = Sim::start(&[]);
    let tls = Sim::start_tls(&["--api-key", "sk-your-key", "--served-model-name", "my-model"]);

    let mut recipes = blocks("README.md");
    recipes.extend(blocks(COOKBOOK));
    assert_eq!(recipes[..2], ["scripts/sweep.sh\n", "cargo test\n"], "the two commands");
    assert!(recipes.len() >= 12);
    for recipe in &recipes[2..] {
        if !has_jq && recipe.contains("jq ") {
            eprintln!("not run, jq is missing:\n{recipe}");
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
        ("host2", 30),
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
            assert!(!has_jq, "{name}.json was not written");
            continue;
        };
        let result: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&result["completed"], &result["failed"]), (&completed.into(), &0.into()), "{name}");
    }
    let csv = fs::read_to_string(folder.join("old.csv")).unwrap();
    assert!(csv.lines().count() >= 3, "{csv}");
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

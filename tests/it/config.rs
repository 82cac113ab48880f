//! `config.yaml` through the tools: values, precedence, and errors.

use std::path::PathBuf;

use crate::tool::{folder, root, run};

fn config(name: &str, text: &str) -> PathBuf {
    let path = folder(name).join("config.yaml");
    std::fs::write(&path, text).unwrap();
    path
}

/// The exit code and the messages of `tool --config FILE`, without the folder's name.
fn run_with_config(tool: &str, name: &str, text: &str, args: &[&str]) -> (i32, String) {
    let path = config(name, text);
    let mut all = vec!["--config", path.to_str().unwrap()];
    all.extend(args);
    let done = run(tool, &all, "");
    (done.code, done.stderr.replace(&format!("{}/", path.parent().unwrap().display()), ""))
}

#[test]
fn a_byte_order_mark_is_skipped() {
    let text = "\u{feff}model: m\ninput_output: [[8, 4]]\nconcurrency_prompts: [[1, 2]]\n";
    let path = config("bom", text);
    let done = run("vb-gen", &["--config", path.to_str().unwrap(), "--grid"], "");
    assert_eq!((done.code, done.stdout.lines().count()), (0, 1), "{}", done.stderr);
}

#[test]
fn a_key_that_is_missing_has_no_line() {
    let (code, stderr) = run_with_config("vb-gen", "no-key", "model: m\n", &["--grid"]);
    assert_eq!(code, 2);
    assert!(stderr.starts_with("vb-gen: config.yaml: `input_output` needs"), "{stderr}");
}

#[test]
fn an_error_has_its_line_and_a_suggestion() {
    for (case, text, want) in [
        (
            "key",
            "model: m\nbase_ulr: http://h\n",
            "vb-fire: config.yaml:2: no tool knows the key `base_ulr`; did you mean `base_url`?\n",
        ),
        (
            "number",
            "model: m\n\nmax_concurrency: many\n",
            "vb-fire: config.yaml:3: invalid value 'many' for 'max-concurrency <N>': `many` is not a whole number: use 1000 or 2k\n",
        ),
        (
            "choice",
            "backend: grpc\n",
            "vb-fire: config.yaml:1: invalid value 'grpc' for 'backend <BACKEND>' [possible values: openai, openai-chat, ",
        ),
        ("flag", "ignore_eos: 3\n", "vb-fire: config.yaml:1: `ignore_eos` must be true or false\n"),
        ("yaml", "model: [\n", "vb-fire: config.yaml:2:1: "),
        ("list", "- a\n", "vb-fire: config.yaml: a config has lines of `key: value`"),
    ] {
        let (code, stderr) = run_with_config("vb-fire", &format!("config-{case}"), text, &[]);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.starts_with(want) && stderr.lines().count() == 1, "{want}\n{stderr}");
    }
    let (code, stderr) = run_with_config(
        "vb-gen",
        "config-grid-type",
        "model: m\ninput_output: [[128, x]]\nconcurrency_prompts: [[1, 1]]\n",
        &["--grid"],
    );
    assert!(code == 2 && stderr.contains("config.yaml:2:"), "{stderr}");
    let (code, stderr) =
        run_with_config("vb-gen", "config-grid-none", "model: m\ninput_output: [[128, 1]]\n", &["--grid"]);
    assert!(code == 2 && stderr.contains("`concurrency_prompts` needs at least one pair"), "{stderr}");
    let (code, stderr) = run_with_config(
        "vb-gen",
        "config-grid-zero",
        "input_output:\n- [0, 1]\nconcurrency_prompts: [[1, 1]]\n",
        &["--grid"],
    );
    assert!(code == 2 && stderr.contains("config.yaml:1: `input_output`: [0, 1] has a zero"), "{stderr}");
    let (code, stderr) = run_with_config(
        "vb-gen",
        "config-grid-flat",
        "model: m\ninput_output: [[8, 1]]\nconcurrency_prompts: [1, 8, 32]\n",
        &["--grid"],
    );
    let want = "vb-gen: config.yaml:3: `concurrency_prompts` is a list of pairs, each a concurrency and a number of prompts: \
                `[[1, 10], [8, 80]]`\n";
    assert_eq!((code, stderr.as_str()), (2, want));
    let missing = run("vb-fire", &["--config", "no/such/config.yaml"], "");
    assert!(missing.code == 2 && missing.stderr.contains("no/such/config.yaml"), "{}", missing.stderr);
}

#[test]
fn flags_win_over_the_config_and_keys_of_other_tools_are_ignored() {
    let text = "tokenizer: builtin\nnum_prompts: 2\ninput_len: 8\nseed: 5\nmax_concurrency: 4\ngoodput: [ttft:200ms]\n";
    let path = config("config-wins", text);
    let file = path.to_str().unwrap();
    let lines = |args: &[&str]| run("vb-gen", args, "").stdout.lines().count();
    assert_eq!(lines(&["--config", file]), 2);
    assert_eq!(lines(&["--config", file, "--num_prompts", "3"]), 3);
    let seed = |args: &[&str]| run("vb-gen", args, "").stdout;
    assert_eq!(seed(&["--config", file]), seed(&["--num-prompts=2", "--input-len=8", "--seed=5"]));
}

/// The shipped config is complete, and all of its keys are valid.
#[test]
fn the_shipped_config_is_a_grid() {
    let path = root().join("config.yaml");
    let done = run("vb-gen", &["--config", path.to_str().unwrap(), "--grid", "tsv", "--seed", "1"], "");
    assert_eq!((done.code, done.stdout.lines().count()), (0, 6), "{}", done.stderr);
}

/// Pipelines are built from several tools, so a flag easily ends up at the wrong one.
#[test]
fn a_flag_of_another_tool_is_sent_there() {
    for (tool, flags, want) in [
        ("vb-fire", ["--dataset-name", "random"], "vb-fire: --dataset-name is a flag of vb-gen, not of vb-fire\n"),
        (
            "vb-gen",
            ["--max-concurrency=4", "--seed=1"],
            "vb-gen: --max-concurrency is a flag of vb-fire, not of vb-gen\n",
        ),
        (
            "vb-gen",
            ["--input_len=8", "--request_rate=4"],
            "vb-gen: --request-rate is a flag of vb-fire, not of vb-gen\n",
        ),
        ("vb-fire", ["--max-concurency", "4"], "vb-fire: no flag --max-concurency; did you mean --max-concurrency?\n"),
        ("vb-stats", ["--num-promts", "4"], "vb-stats: no flag --num-promts; did you mean --num-prompts of vb-gen?\n"),
    ] {
        let done = run(tool, &flags, "");
        assert_eq!((done.code, done.stderr.as_str()), (2, want));
    }
    let done = run("vb-gen", &["--endpoint", "/x"], "");
    assert!(
        done.stderr.contains("--endpoint is a flag of vb-fire") && !done.stderr.contains("lenient"),
        "{}",
        done.stderr
    );
}

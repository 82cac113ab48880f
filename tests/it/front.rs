//! `vb`: all programs in one file, the pipe of `vb bench`, and the help of each program.

use std::{collections::BTreeSet, fs, io::Read, os::unix::fs::symlink, process::Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use unicode_width::UnicodeWidthStr;
use vb::tools::vllm_flags::{GROUPS, Here, RUST_CLIENT, VllmFlag};

use crate::tool::{self, Sim, command, folder, run, wait_until};

const PROGRAMS: [&str; 7] = ["gen", "fire", "stats", "agg", "diff", "sim", "selftest"];

/// A short load: its flags as `vllm bench serve` has them.
const SHORT: [&str; 6] = ["--num_prompts", "12", "--random-input-len", "32", "--random_output_len=8", "--disable-tqdm"];

#[test]
fn the_short_help_fits_a_screen_and_the_long_one_has_all_flags() {
    for program in PROGRAMS.iter().copied().chain(["bench"]) {
        let help = |flag: &str| tool::done(command("vb").args([program, flag]).env("COLUMNS", "80").output().unwrap());
        let (short, long) = (help("-h"), help("--help"));
        assert!(short.code == 0 && short.stdout.lines().count() < 40, "{program}:\n{}", short.stdout);
        assert!(long.stdout.lines().count() > short.stdout.lines().count(), "{program}");
        assert!(!long.stdout.contains('\u{a0}') && !short.stdout.contains('\u{a0}'), "{program}");
    }
}

/// In the language of the environment, or of `--lang`, in lines that an ordinary terminal shows as they are.
#[test]
fn the_short_help_is_in_chinese() {
    let help = |program: &str, args: &[&str], locale: &str| {
        let done = tool::run_with("vb", &[&[program][..], args].concat(), "", &[("LC_ALL", locale), ("COLUMNS", "80")]);
        assert_eq!(done.code, 0, "{program} {args:?}: {}", done.stderr);
        done.stdout
    };
    for program in PROGRAMS.iter().copied().chain(["bench"]) {
        let chinese = help(program, &["-h"], "zh_CN.UTF-8");
        for args in [&["--lang", "zh", "-h"][..], &["-h", "--lang=zh"]] {
            assert_eq!(help(program, args, "C"), chinese, "{program} {args:?}");
        }
        assert!(chinese.contains("用法: vb") && chinese.contains("完整说明（英文）"), "{chinese}");
        assert!(chinese.lines().count() < 40, "{program}:\n{chinese}");
        for line in chinese.lines() {
            assert!(line.width() <= 80, "{program}: {line}");
            let described = line.trim_start().split_once("  ").map_or("", |(_, text)| text.trim());
            assert!(described.is_empty() || !described.is_ascii(), "{program}: {line}");
        }
        let english = help(program, &["-h", "--lang", "en"], "zh_CN.UTF-8");
        assert!(english.is_ascii() && english.contains("Usage: vb"), "{english}");
        // `--help` has the headings only.
        assert!(help(program, &["--help"], "zh_CN.UTF-8").contains("\n参数:\n") || program == "bench");
    }
    assert!(help("-h", &[], "zh_CN.UTF-8").contains("\n  fire      向"));
    // What is generated does not depend on the machine.
    for args in [&["completions", "bash"][..], &["completions", "zsh"]] {
        assert_eq!(help(args[0], &args[1..], "zh_CN.UTF-8"), help(args[0], &args[1..], "C"));
    }
    let pages = folder("front-pages-zh");
    help("man", &[pages.to_str().unwrap()], "zh_CN.UTF-8");
    assert!(fs::read_to_string(pages.join("vb-fire.1")).unwrap().contains("Sends requests to an LLM server"));
}

/// A command that a terminal's width has cut in two cannot be pasted.
#[test]
fn examples_are_not_wrapped() {
    for program in PROGRAMS.iter().copied().chain(["bench"]) {
        let help = |columns: &str| {
            let done = tool::done(command("vb").args([program, "--help"]).env("COLUMNS", columns).output().unwrap());
            let at = done.stdout.find("Examples:").unwrap_or_else(|| panic!("{program}: {}", done.stdout));
            done.stdout[at..].to_owned()
        };
        let wide = help("200");
        assert_eq!(help("40"), wide, "{program}");
        let long: Vec<&str> = wide.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(long.is_empty(), "{program}: longer than 80: {long:#?}");
    }
}

#[test]
fn the_version_has_the_features() {
    for (program, args) in [("vb", &["--version"][..]), ("vb", &["fire", "-V"]), ("vb-gen", &["--version"])] {
        let version = run(program, args, "").stdout;
        assert!(version.contains(concat!(env!("CARGO_PKG_VERSION"), " (")), "{version}");
        assert!(version.contains("feature"), "{version}");
    }
}

/// As a program of its name, and as the first argument.
#[test]
fn one_file_is_every_program() {
    let home = folder("front-links");
    for program in PROGRAMS {
        let name = format!("vb-{program}");
        symlink(command("vb").get_program(), home.join(&name)).unwrap();
        let by_link = tool::done(tool::plain_command(home.join(&name)).arg("--help").output().unwrap());
        assert_eq!((by_link.code, &by_link.stdout), (0, &run(&name, &["--help"], "").stdout), "{name}");
        assert_eq!(by_link.stdout, run("vb", &[program, "--help"], "").stdout, "{name}");
    }
    let list = run("vb", &["--help"], "").stdout;
    for program in PROGRAMS.iter().chain(&["bench", "sweep", "ab"]) {
        assert!(list.contains(&format!("\n  {program} ")), "{list}");
    }
    let mixed = run("vb", &["gen", "--input-len", "3", "mix", "--seed", "3", "a.ndjson"], "");
    assert!(mixed.code == 2 && mixed.stderr.contains("--input-len has no effect with mix"), "{}", mixed.stderr);
    let wrong = run("vb", &["stat"], "");
    assert!(wrong.code == 2 && wrong.stderr.contains("did you mean `vb stats`?"), "{}", wrong.stderr);
    // The self-test starts two programs, which are this file too.
    let test = run("vb", &["selftest", "--seconds", "1", "--max-concurrency", "2", "--no-search"], "");
    assert_eq!(test.code, 0, "{}", test.stderr);
}

#[test]
fn a_foreign_flag_names_its_owner() {
    for (program, flag, want) in [
        ("vb-fire", "--dataset-name", "--dataset-name is a flag of vb-gen"),
        ("vb-stats", "--random_input_len=4", "--random-input-len is a flag of vb-gen"),
        ("vb-fire", "--save-result", "use `> FILE` on vb-stats"),
        ("vb-gen", "--port", "--base-url http://HOST:PORT"),
        ("vb-fire", "--profile", "/start_profile"),
        ("vb-gen", "--trust-remote-code", "not needed: no code"),
        ("vb-stats", "--plot-timeline", "no plots"),
        ("vb-gen", "--disable-tqdm", "it is --quiet here"),
        ("vb-fire", "--concurrency", "did you mean --max-concurrency?"),
        ("vb-stats", "--no-stream", "--no-stream is a flag of vb-fire"),
    ] {
        let done = run(program, &[flag, "x"], "");
        assert!(done.code == 2 && done.stderr.contains(want), "{program} {flag}: {}", done.stderr);
        assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
    }
}

#[test]
fn bench_runs_the_pipe_that_it_prints() {
    let sim = Sim::start(&[]);
    let port = sim.url.rsplit(':').next().unwrap();
    let home = folder("front-bench");
    let bench = |more: &[&str]| {
        let mut bench = command("vb");
        bench.args(["bench", "--host", "127.0.0.1", "--port", port]).args(SHORT).args(more).current_dir(&home);
        tool::done(bench.env("PATH", tool::search_path()).output().unwrap())
    };
    // With a value that needs quotes.
    let more = ["--max-concurrency", "4", "--metadata", "note=it's a $test", "--goodput", "ttft:500", "e2el:9000"];
    let ran = bench(&[&more[..], &["--save-result", "--result-dir", "out", "--result-filename", "a.json"]].concat());
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{}", ran.stderr);
    let result = |name: &str| -> Value { serde_json::from_str(&fs::read_to_string(home.join(name)).unwrap()).unwrap() };
    let first = result("out/a.json");
    assert_eq!((&first["completed"], &first["note"]), (&12.into(), &"it's a $test".into()));
    assert_eq!(first["max_concurrency"], 4);

    // The printed pipe is a command, and does the same.
    let printed = bench(&[&more[..], &["--print", "--save-result", "--result-filename", "b.json"]].concat());
    assert!(printed.code == 0 && !home.join("b.json").exists(), "{}", printed.stderr);
    assert!(printed.stdout.starts_with("vb-gen --base-url http://127.0.0.1:"), "{}", printed.stdout);
    let mut bash = tool::plain_command("bash");
    bash.args(["-c", &printed.stdout]).current_dir(&home).env("PATH", tool::search_path());
    let pasted = tool::done(bash.output().unwrap());
    assert_eq!(pasted.code, 0, "{}\n{}", printed.stdout, pasted.stderr);
    let second = result("b.json");
    for key in ["completed", "note", "max_concurrency", "total_input_tokens", "total_output_tokens", "backend"] {
        assert_eq!(first[key], second[key], "{key}");
    }
    // Lines of results, as vLLM appends them.
    for _ in 0..2 {
        assert_eq!(bench(&["--append-result", "--result-filename", "all.jsonl"]).code, 0);
    }
    assert_eq!(fs::read_to_string(home.join("all.jsonl")).unwrap().lines().count(), 2);
}

#[test]
fn bench_fails_as_its_programs_do() {
    let sim = Sim::start(&["--fault", "status_503:1"]);
    let home = folder("front-bench-fails");
    let bench = |more: &[&str]| {
        let mut bench = command("vb");
        bench.args(["bench", "--base-url", &sim.url]).args(SHORT).args(more).current_dir(&home);
        tool::done(bench.output().unwrap())
    };
    // Every request failed: vb-fire's exit code, and vb-stats' is the same.
    let failed = bench(&[]);
    assert_eq!(failed.code, 1, "{}", failed.stderr);
    // A program's error in its flags comes before anything is sent, and no file is written.
    let wrong = bench(&["--goodput", "ttft", "--save-result"]);
    assert!(wrong.code == 2 && wrong.stderr.contains("ttft"), "{}", wrong.stderr);
    assert!(!wrong.stderr.contains("requests failed"), "{}", wrong.stderr);
    // The input of the pipe fails first.
    let missing = bench(&["--dataset-name", "sharegpt", "--dataset-path", "none.json", "--save-result"]);
    assert!(missing.code != 0 && missing.stderr.contains("none.json"), "{}", missing.stderr);
    assert_eq!(fs::read_dir(&home).unwrap().count(), 0, "no empty result");
}

/// Other users of the machine can read command lines.
#[cfg(target_os = "linux")]
#[test]
fn a_key_is_on_no_command_line_of_a_child() {
    let sim = Sim::start(&["--api-key", "sk-planted-77", "--step-base", "200ms"]);
    // vb-gen needs the key too.
    let args = ["bench", "--base-url", &sim.url, "--tokenizer", "server", "--max-concurrency", "1"];
    let mut bench = command("vb")
        .args(args)
        .args(SHORT)
        .args(["--header", "Authorization=Bearer sk-planted-77", "x-team=red"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let children = || {
        let path = format!("/proc/{0}/task/{0}/children", bench.id());
        let ids = fs::read_to_string(path).unwrap_or_default();
        let lines = ids.split_whitespace().filter_map(|id| fs::read(format!("/proc/{id}/cmdline")).ok());
        lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).collect::<Vec<_>>()
    };
    wait_until("a request is running", || sim.metric("vllm:num_requests_running") > 0.0);
    let lines = children();
    assert!(lines.iter().any(|line| line.starts_with("vb fire")), "{lines:?}");
    assert!(lines.iter().all(|line| !line.contains("planted")), "{lines:?}");
    kill_process(Pid::from_child(&bench), Signal::TERM).unwrap();
    let mut stderr = String::new();
    bench.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    let mut stdout = String::new();
    bench.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    bench.wait().unwrap();
    assert!(!stderr.contains("planted") && stderr.contains("Authorization=Bearer ***"), "{stderr}");
    // vb-stats outlived the signal, and wrote the result of what had ended.
    let result: Value = serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{e}: {stdout}{stderr}"));
    assert!(!stdout.contains("planted") && result["vb"].is_object(), "{stdout}");
}

#[test]
fn the_scripts_are_a_part_of_the_file() {
    let home = folder("front-scripts");
    let config =
        "model: tiny\nbase_url: sim\ntokenizer: builtin\ninput_output: [[16, 4]]\nconcurrency_prompts: [[2, 6]]\n";
    fs::write(home.join("config.yaml"), config).unwrap();
    let alone = home.join("bin");
    fs::create_dir(&alone).unwrap();
    symlink(command("vb").get_program(), alone.join("vb")).unwrap();
    let vb = |args: &[&str]| {
        tool::done(tool::plain_command(alone.join("vb")).args(args).current_dir(&home).output().unwrap())
    };
    let done = vb(&["sweep", "config.yaml"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let results = fs::read_dir(home.join("results")).unwrap().count();
    assert_eq!(results, 1, "{}", done.stderr);
    let ab = vb(&["ab", "sim", "sim", "--rounds", "1", "--gen", "--num-prompts 6 --input-len 8 --output-len 4"]);
    assert!(ab.code == 0 || ab.code == 6, "{}", ab.stderr);
    let help = vb(&["sweep", "--help"]);
    assert!(help.code == 0 && help.stdout.contains("vb sweep [config.yaml]"), "{}", help.stdout);
}

#[test]
fn man_pages_and_completions_have_every_program() {
    let home = folder("front-pages");
    let done = run("vb", &["man", home.to_str().unwrap()], "");
    assert_eq!(done.code, 0, "{}", done.stderr);
    for program in PROGRAMS.iter().copied().chain(["bench"]) {
        let page = fs::read_to_string(home.join(format!("vb-{program}.1"))).unwrap();
        assert!(page.contains(".TH") && page.contains("EXAMPLES") && page.contains(".nf\nExamples:"), "{program}");
    }
    assert!(fs::read_to_string(home.join("vb-gen.1")).unwrap().contains(r"\-\-cache\-hit\-ratio"));
    for shell in ["bash", "zsh", "fish"] {
        let text = run("vb", &["completions", shell], "").stdout;
        for word in ["bench", "selftest", "max-concurrency", "result-dir", "cache-hit-ratio"] {
            assert!(text.contains(word), "{shell}: {word}");
        }
    }
    assert_eq!(run("vb", &["completions", "csh"], "").code, 2);
}

/// The table of `docs/FROM-VLLM-BENCH.md`.
#[test]
fn the_table_of_vllms_flags_is_in_the_docs() {
    let row = |flag: &VllmFlag| {
        let here = match flag.here {
            Here::Same => "=".to_owned(),
            Here::Renamed(name) => format!("`--{name}`"),
            Here::Bench => "bench".to_owned(),
            Here::Ignored => "ignored".to_owned(),
            Here::Missing => "no".to_owned(),
        };
        format!("| `--{}` | {here} | {} |\n", flag.name, flag.note.replace('|', "\\|"))
    };
    let table = |title: &str, flags: &[VllmFlag]| {
        let rows: String = flags.iter().map(row).collect();
        format!("\n### {title}\n\n| flag | here | |\n|---|---|---|\n{rows}")
    };
    let mut text: String = GROUPS.iter().map(|group| table(group.title, group.flags)).collect();
    text += &table("Only in vLLM's client in Rust", RUST_CLIENT);
    let count = |is: fn(Here) -> bool| GROUPS.iter().flat_map(|group| group.flags).filter(|flag| is(flag.here)).count();
    let taken = count(|here| matches!(here, Here::Same | Here::Renamed(_) | Here::Bench));
    let (ignored, missing) = (count(|here| here == Here::Ignored), count(|here| here == Here::Missing));
    let head = format!(
        "\nOf the 101 flags of the client in Python (`--no-self-timed` is a second form of one), {taken} do the same here, \
         {ignored} are not needed, and {missing} are refused.\n"
    );
    tool::golden_section("docs/FROM-VLLM-BENCH.md", "flags", &(head + &text + "\n"));
}

/// The names are those that both clients print; `scripts/check_vllm.py` compares them with the installed version.
#[test]
fn every_flag_of_both_clients_is_known() {
    let text = fs::read_to_string(tool::data("vllm-bench-serve-flags.txt")).unwrap();
    let lists: Vec<BTreeSet<&str>> =
        text.split("# ").skip(1).map(|list| list.lines().skip(1).filter(|line| !line.is_empty()).collect()).collect();
    let [python, rust] = &lists[..] else { panic!("{lists:?}") };
    let known: BTreeSet<&str> = GROUPS.iter().flat_map(|group| group.flags).map(|flag| flag.name).collect();
    assert_eq!(*python, known);
    let only_rust: BTreeSet<&str> = RUST_CLIENT.iter().map(|flag| flag.name).collect();
    assert_eq!(rust.difference(python).copied().collect::<BTreeSet<_>>(), only_rust);
}

/// The gate of `action.yml`: a limit that is kept, and one that is not.
#[test]
fn the_gate_of_a_pull_request_fails_by_its_rules() {
    let sim = Sim::start(&[]);
    let home = folder("front-gate");
    let gate = |rules: &str, baseline: &str| {
        let mut gate = tool::plain_command(tool::root().join("scripts/gate.sh"));
        gate.current_dir(&home).env("PATH", tool::search_path()).env("GITHUB_STEP_SUMMARY", home.join("summary.md"));
        gate.env("GATE_URL", &sim.url).env("GATE_BASELINE_URL", baseline).env("GATE_ROUNDS", "1");
        gate.env("GATE_GEN", "--input-len 16 --output-len 8 --num-prompts 20").env("GATE_FIRE", "--max-concurrency 4");
        tool::done(gate.env("GATE_FAIL_IF", rules).output().unwrap())
    };
    let kept = gate("success < 50%\n\nthroughput < 0.01\n", "");
    assert_eq!(kept.code, 0, "{}{}", kept.stdout, kept.stderr);
    assert!(kept.stdout.contains("TTFT"), "{}", kept.stdout);
    assert_eq!(gate("e2el.p50 > 1us", "").code, 1);
    let compared = gate("ttft.p50 > +100000%", &sim.url);
    assert!(compared.stdout.contains('|') && [0, 6].contains(&compared.code), "{}{}", compared.stdout, compared.stderr);
    assert_eq!(gate("", "").code, 2);
    // The other programs fail too then.
    assert_eq!(gate("ttft.p50 >> 1s", "").code, 2);
    // Flags have quotes and may be on several lines, and text of an input is never a command.
    let other = |key: &str, value: &str| {
        let mut gate = tool::plain_command(tool::root().join("scripts/gate.sh"));
        gate.current_dir(&home)
            .env("PATH", tool::search_path())
            .env("GATE_URL", &sim.url)
            .env("GATE_FAIL_IF", "success < 1%");
        gate.env("GATE_GEN", "--input-len 16\n--output-len 8\n--num-prompts 4\n")
            .env(key, value)
            .env("GITHUB_ACTIONS", "true");
        tool::done(gate.output().unwrap())
    };
    let quoted = other("GATE_FIRE", "--backend openai-chat\n--max-concurrency '2'");
    assert_eq!(quoted.code, 0, "{}{}", quoted.stdout, quoted.stderr);
    let result: Value = serde_json::from_str(&fs::read_to_string(home.join("result.json")).unwrap()).unwrap();
    assert_eq!(
        (&result["completed"], &result["backend"], &result["max_concurrency"]),
        (&4.into(), &"openai-chat".into(), &2.into())
    );
    let lines: Vec<&str> = quoted.stdout.lines().collect();
    let token = lines[0].strip_prefix("::stop-commands::").unwrap();
    assert!(token.len() == 32 && lines.last().is_some_and(|line| *line == format!("::{token}::")), "{}", quoted.stdout);
    for key in ["GATE_URL", "GATE_BASELINE_URL", "GATE_GEN", "GATE_FIRE", "GATE_DIFF", "GATE_ROUNDS", "GATE_FAIL_IF"] {
        for value in
            ["$(touch planted)", "; touch planted", "`touch planted`", "'; touch planted; '", "sim;touch planted"]
        {
            other(key, value);
            assert!(!home.join("planted").exists(), "{key}={value}");
        }
    }
    let summary = fs::read_to_string(home.join("summary.md")).unwrap();
    assert!(summary.contains("TTFT") && summary.contains('|'), "{summary}");
}

/// Installed programs come first; without them, a compiler that cannot build the project is named with the cure.
#[test]
fn the_scripts_find_installed_programs_or_name_the_compiler() {
    use std::os::unix::fs::PermissionsExt;
    let home = folder("front-cargo");
    let system = "/usr/bin:/bin";
    let fake = |folder: &str, text: &str| {
        let folder = home.join(folder);
        fs::create_dir_all(&folder).unwrap();
        for name in ["cargo", "rustc"] {
            fs::write(folder.join(name), format!("#!/bin/sh\n{}\n", text.replace("NAME", name))).unwrap();
            fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        format!("{}:{system}", folder.display())
    };
    // Through a link, and from another folder.
    let link = home.join("sweep");
    symlink(tool::root().join("scripts/sweep.sh"), &link).unwrap();
    let sweep = |path: &str| {
        let mut sweep = tool::plain_command(&link);
        sweep.args(["--dry-run", "--results"]).arg(&home).env_remove("VB_BIN").env("PATH", path).current_dir(&home);
        tool::done(sweep.output().unwrap())
    };
    let cure = "install Rust from https://rustup.rs";
    for (path, want) in [
        (fake("old", "echo 'NAME 1.85.1 (d73d2caf9 2024-12-31)'"), "and cargo is 1.85.1: "),
        (
            fake("empty", "echo 'rustup could not choose a version of NAME' >&2; exit 1"),
            "cargo does not run (rustup could not",
        ),
        (system.to_owned(), "there is no cargo: "),
    ] {
        let done = sweep(&path);
        assert!(done.code == 4 && done.stderr.contains(want) && done.stderr.contains(cure), "{}", done.stderr);
        assert_eq!(done.stderr.lines().count(), 1, "{}", done.stderr);
    }
    // The one file of a release, without its links.
    let alone = home.join("alone");
    fs::create_dir(&alone).unwrap();
    symlink(command("vb").get_program(), alone.join("vb")).unwrap();
    let one = sweep(&format!("{}:{system}", alone.display()));
    assert!(one.code == 0 && one.stdout.contains("vb-fire --config"), "{}", one.stderr);
    let installed = sweep(&format!("{}:{system}", tool::search_path().split(':').next().unwrap()));
    assert!(installed.code == 0 && installed.stdout.contains("vb-fire --config"), "{}", installed.stderr);
}

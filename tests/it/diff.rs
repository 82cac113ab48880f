//! `vb-diff` through its binary, and `scripts/ab.sh`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::{Value, json};

use crate::tool::{self, Done, Sim, command, folder, golden, root};

/// Times of a made-up run, the same on every machine: whole numbers of milliseconds in a scrambled order.
fn ttft_ms(i: u64) -> u64 {
    40 + tool::scramble(i) % 61
}

/// A stream of vb-fire in which each request takes `percent` of the times; every `failing`-th fails.
fn stream(n: u64, percent: u64, failing: Option<u64>) -> String {
    stream_with_waves(n, percent, failing, |_| 100)
}

/// The same, with the TTFT of each request at this percentage.
fn stream_with_waves(n: u64, percent: u64, failing: Option<u64>, wave: impl Fn(u64) -> u64) -> String {
    let start = 1_700_000_000_u64;
    let seconds = |ms: u64| ms as f64 / 1e3;
    let mut lines = vec![json!({"type": "run", "format": 1, "run_id": "r", "tool": "vb-fire", "host": "h",
        "model": "m", "backend": "openai", "max_concurrency": 2, "clock": {"start": start}})];
    for i in 0..n {
        let failed = failing.is_some_and(|every| i % every == 0);
        let gaps: Vec<f64> = (0..4).map(|k| seconds((8 + tool::scramble(i * 4 + k) % 9) * percent) / 100.0).collect();
        let ttft = seconds(ttft_ms(i) * wave(i) * percent) / 1e4;
        let latency = ttft + gaps.iter().sum::<f64>();
        let ms = i * 50 * percent / 100;
        let begun = start as f64 + seconds(ms);
        lines.push(json!({"type": "output", "run_id": "r", "request_id": i.to_string(), "success": !failed,
            "error": if failed { "HTTP 500" } else { "" }, "error_kind": if failed { Some("http_status") } else { None },
            "prompt_len": 64, "output_tokens": if failed { 0 } else { 5 }, "start_time": begun,
            "scheduled_time": begun, "queue_time": 0, "ttft": ttft, "latency": latency, "itl": gaps,
            "phases": {"done": latency}}));
    }
    lines.push(json!({"type": "end", "run_id": "r", "duration": seconds(n * 50 * percent / 100 + 200), "offered": n,
        "open_loop": false, "verdict": "clean"}));
    lines.iter().map(|line| format!("{line}\n")).collect::<Vec<_>>().concat()
}

/// Runs `vb-diff` in a folder with these files.
fn diff(name: &str, files: &[(&str, String)], args: &[&str]) -> Done {
    let home = folder(name);
    for (file, text) in files {
        fs::write(home.join(file), text).unwrap();
    }
    tool::done(command("vb-diff").args(args).current_dir(home).stdin(Stdio::null()).output().unwrap())
}

fn record(done: &Done) -> Value {
    assert_eq!(done.stdout.lines().count(), 1, "{}", done.stderr);
    serde_json::from_str(&done.stdout).unwrap()
}

fn row<'a>(record: &'a Value, metric: &str, statistic: &str) -> &'a Value {
    let rows = record["changes"].as_array().unwrap();
    rows.iter().find(|row| row["metric"] == metric && row["statistic"] == statistic).unwrap()
}

/// The warning of a comparison of two runs.
const SINGLE_RUNS: &str = "runs: 1 of A, 1 of B: how much runs of one server differ is unknown, and a difference may be no more than that; \
     make 3 of each (scripts/ab.sh)";

const PAIR: [&str; 2] = ["old.ndjson", "new.ndjson"];

fn pair() -> [(&'static str, String); 2] {
    [(PAIR[0], stream(700, 100, None)), (PAIR[1], stream(700, 112, None))]
}

#[test]
fn a_slower_server_gives_this_table_and_this_markdown_and_this_record() {
    let rules = ["--fail-if", "ttft.p90 > +5%", "throughput < -50%"];
    for (format, file) in [("table", "diff-table.txt"), ("markdown", "diff-markdown.md"), ("json", "diff.json")] {
        let done = diff("diff-golden", &pair(), &[&PAIR[..], &rules, &["--format", format]].concat());
        assert_eq!(done.code, 1, "{}", done.stderr);
        assert!(done.stderr.starts_with("vb-diff: ttft.p90 > +5%: +12.0 %, at least +"), "{}", done.stderr);
        let text =
            if format == "json" { serde_json::to_string_pretty(&record(&done)).unwrap() + "\n" } else { done.stdout };
        golden(file, &text);
    }
}

#[test]
fn a_run_is_the_same_as_itself() {
    let same = [(PAIR[0], stream(700, 100, None)), (PAIR[1], stream(700, 100, None))];
    let done = diff("diff-same", &same, &[&PAIR[..], &["--format", "json", "--fail-if", "ttft.p50 > 50%"]].concat());
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    let strict = diff("diff-same", &same, &[&PAIR[..], &["--fail-if", "ttft.p50 > 0%"]].concat());
    // No number of requests shows that two equal servers do not differ at all.
    let why = "undecided: ttft.p50 > 0%: +0.0 %, but at most +";
    assert!(strict.code == 6 && strict.stderr.contains(why), "{}", strict.stderr);
    assert!(strict.stderr.ends_with(": more requests would not decide it\n"), "{}", strict.stderr);
    let record = record(&done);
    assert_eq!(record["warnings"], json!([SINGLE_RUNS]));
    for row in record["changes"].as_array().unwrap() {
        assert!(row["verdict"] != "better" && row["verdict"] != "worse", "{row}");
        assert_eq!(row["difference"]["value"], 0.0, "{row}");
    }
    assert_eq!(row(&record, "itl", "p50")["verdict"], "same");
}

#[test]
fn too_few_requests_have_no_verdict_and_the_number_needed_is_reported() {
    let few = [(PAIR[0], stream(100, 100, None)), (PAIR[1], stream(100, 200, None))];
    let rule = [&PAIR[..], &["--format", "json", "--fail-if", "ttft.p99 > +5%"]].concat();
    let done = diff("diff-few", &few, &rule);
    let why = "undecided: ttft.p99 > +5%: +100.0 %, too few requests for a bound: about 200 more requests per side would decide it";
    assert!(done.code == 6 && done.stderr.contains(why), "{}", done.stderr);
    for (outcome, code) in [("pass", 0), ("fail", 1)] {
        let done = diff("diff-few", &few, &[&rule[..], &["--undecided", outcome]].concat());
        assert!(done.code == code && done.stderr.contains(why), "{outcome}: {} {}", done.code, done.stderr);
    }
    let record = record(&done);
    assert_eq!(
        (&record["checks"][0]["result"], &record["checks"][0]["needs_more"]),
        (&json!("undecided"), &json!(200))
    );
    let p99 = row(&record, "ttft", "p99");
    assert_eq!((&p99["verdict"], &p99["p"], &p99["needs_more"]), (&json!("too_few"), &Value::Null, &Value::Null));
    assert_eq!(p99["too_few"], json!({"needs": 662, "has": 100}));
    assert_eq!(row(&record, "ttft", "p50")["verdict"], "worse");
    let compared = record["changes"].as_array().unwrap().iter().filter(|row| !row["p"].is_null());
    assert_eq!(record["comparisons"], compared.count(), "only numbers with a p-value count in the correction");
}

/// A rule is one test that was named before the runs: the number of other comparisons does not matter to it, and neither does whether
/// there are enough values for a p99 with an interval on both sides.
/// Half of the chunks arrive together with the one before, so the interval of the median gap begins at 0, and its change has no ends.
#[test]
fn a_change_without_ends_is_undecided_and_has_no_lack_of_values() {
    let coalesced = |text: String| -> String {
        let halve = |line: &str| {
            let mut output: Value = serde_json::from_str(line).unwrap();
            let id = output["request_id"].as_str().and_then(|id| id.parse::<u64>().ok()).unwrap_or_default();
            for (k, gap) in output.get_mut("itl").and_then(Value::as_array_mut).into_iter().flatten().enumerate() {
                if tool::scramble(900 + id * 4 + k as u64) % 100 < 48 {
                    *gap = json!(0.0);
                }
            }
            format!("{output}\n")
        };
        text.lines().map(halve).collect()
    };
    let files = PAIR.map(|name| (name, coalesced(stream(60, 100, None))));
    let record = record(&diff("diff-no-ends", &files, &[&PAIR[..], &["--format", "json"]].concat()));
    let median = row(&record, "itl", "p50");
    assert_eq!(
        (&median["verdict"], &median["too_few"], &median["p"]),
        (&"undecided".into(), &Value::Null, &Value::Null)
    );
    for row in record["changes"].as_array().unwrap().iter().filter(|row| !row["too_few"].is_null()) {
        assert!(row["too_few"]["has"].as_u64() < row["too_few"]["needs"].as_u64(), "{row}");
    }
}

#[test]
fn a_doubled_p99_fails_its_rule_with_few_requests() {
    let files = [(PAIR[0], stream(400, 100, None)), (PAIR[1], stream(400, 200, None))];
    let done = diff("diff-doubled", &files, &[&PAIR[..], &["--fail-if", "ttft.p99 > +5%"]].concat());
    assert!(
        done.code == 1 && done.stderr.contains("ttft.p99 > +5%: +100.0 %, at least +100.0 % (95 % sure)"),
        "{}",
        done.stderr
    );
    // The same change is certainly within a wide limit, and certainly not within its own.
    for (rule, code) in
        [("ttft.p50 > +150%", 0), ("ttft.p50 > +100%", 6), ("ttft.p50 < +50%", 0), ("ttft.p50 < +150%", 1)]
    {
        let done = diff("diff-doubled", &files, &[&PAIR[..], &["--fail-if", rule]].concat());
        assert_eq!(done.code, code, "{rule}: {}", done.stderr);
    }
}

/// A server that fails every second request has a short queue.
#[test]
fn failures_are_reported_before_anything_else() {
    let failing = [(PAIR[0], stream(700, 100, None)), (PAIR[1], stream(700, 80, Some(2)))];
    let args = [&PAIR[..], &["--fail-if", "success < -1%"]].concat();
    let done = diff("diff-failures", &failing, &args);
    assert_eq!(done.code, 1);
    assert!(done.stderr.contains("success < -1%: -50.0 points, at most -4"), "{}", done.stderr);
    let first = done.stdout.lines().find(|line| line.starts_with('!')).unwrap();
    assert!(
        first.starts_with("! failed requests: 0.0 % of A, 50.0 % of B: ")
            && first.contains("before comparing anything"),
        "{first}"
    );
    let successes = done.stdout.lines().find(|line| line.starts_with("successes")).unwrap();
    assert!(successes.ends_with("worse"), "{successes}");
}

#[test]
fn runs_that_are_not_alike_are_compared_with_warnings() {
    let other = stream(300, 100, None)
        .replace("\"model\":\"m\"", "\"model\":\"other\"")
        .replace("\"max_concurrency\":2", "\"max_concurrency\":4")
        .replace("\"prompt_len\":64", "\"prompt_len\":128")
        .replace("\"verdict\":\"clean\"", "\"verdict\":\"client_bound\"");
    let whole = stream(300, 100, None);
    let cut = whole[..whole.len() - 300].to_owned();
    let done = diff("diff-unlike", &[(PAIR[0], cut), (PAIR[1], other)], &[&PAIR[..], &["--format", "json"]].concat());
    assert_eq!(done.code, 0, "{}", done.stderr);
    let warnings = record(&done)["warnings"].clone();
    let warnings: Vec<&str> = warnings.as_array().unwrap().iter().map(|w| w.as_str().unwrap()).collect();
    assert_eq!(
        warnings,
        [
            "A: old.ndjson: it is incomplete: part of the run is missing",
            "B: new.ndjson: its verdict is client_bound: the client set some of the numbers",
            "model: m in A, other in B",
            "concurrency: 2 in A, 4 in B",
            "prompt tokens: 64.0 in A, 128.0 in B on average",
            SINGLE_RUNS,
        ]
    );
}

#[test]
fn a_run_that_was_not_steady_is_named_before_anything_else() {
    let slower_later = |(i, line): (usize, &str)| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        if record["type"] == "output" && i > 350 {
            for key in ["ttft", "latency"] {
                record[key] = (record[key].as_f64().unwrap() + 0.1).into();
            }
        }
        format!("{record}\n")
    };
    let shifted: String = stream(700, 100, None).lines().enumerate().map(slower_later).collect();
    let done = diff("diff-shift", &[(PAIR[0], stream(700, 100, None)), (PAIR[1], shifted)], &PAIR);
    let warnings: Vec<&str> = done.stdout.lines().filter(|line| line.starts_with('!')).collect();
    assert!(
        warnings[0].starts_with("! B: new.ndjson: it was not steady: TTFT changes: 70 ms, then 170 ms"),
        "{warnings:?}"
    );
    assert!(!done.stdout.contains("A: old.ndjson: it was"), "{}", done.stdout);
}

/// Requests separate A's runs from B's by far, but runs of one side differ as much.
#[test]
fn repeats_that_differ_make_a_difference_of_two_runs_a_chance() {
    let names = ["a1", "a2", "a3", "b1", "b2", "b3"];
    let speeds = [100, 108, 116, 104, 112, 120];
    let files: Vec<(&str, String)> = names.into_iter().zip(speeds.map(|speed| stream(200, speed, None))).collect();
    let done = diff("diff-repeats", &files, &["a1", "a2", "a3", "--vs", "b1", "b2", "b3", "--format", "json"]);
    let of_three = record(&done);
    let mean = row(&of_three, "ttft", "mean");
    assert_eq!((&mean["a"]["basis"], &mean["verdict"]), (&json!("runs"), &json!("undecided")), "{mean}");
    assert_eq!(of_three["warnings"], json!([]));
    // One run of B: its runs are taken to differ as A's do.
    let of_one = record(&diff("diff-repeats", &files, &["a1", "a2", "a3", "--vs", "b3", "--format", "json"]));
    let mean = row(&of_one, "ttft", "mean");
    assert_eq!((&mean["b"]["basis"], &mean["verdict"]), (&json!("runs"), &json!("undecided")), "{mean}");
    assert!(of_one["warnings"][0].as_str().unwrap().starts_with("runs: 3 of A, 1 of B: the spread"), "{of_one}");
    let of_single = record(&diff("diff-repeats", &files, &["a1", "b3", "--format", "json"]));
    assert_eq!(row(&of_single, "ttft", "mean")["verdict"], "worse");
    assert!(of_single["warnings"][0].as_str().unwrap().ends_with("make 3 of each (scripts/ab.sh)"), "{of_single}");
}

/// Waves of 80 requests: a longer run may have another mean, so that a difference says nothing. Three runs of each know.
#[test]
fn a_run_as_short_as_its_waves_has_no_verdict_and_decides_no_rule() {
    let wave = |from: u64| move |i: u64| if ((i + from) / 40).is_multiple_of(2) { 100 } else { 140 };
    let run = |from: u64, percent: u64| stream_with_waves(400, percent, None, wave(from));
    let files = [
        ("a1", run(0, 100)),
        ("a2", run(10, 101)),
        ("a3", run(20, 102)),
        ("b1", run(5, 120)),
        ("b2", run(15, 121)),
        ("b3", run(25, 122)),
    ];
    let args = ["a1", "b1", "--format", "json", "--fail-if", "ttft.mean > +5%"];
    let single = diff("diff-waves", &files, &args);
    let report = record(&single);
    let mean = row(&report, "ttft", "mean");
    assert_eq!(
        (single.code, &mean["verdict"], &mean["doubt"], &mean["p"], &report["checks"][0]["result"]),
        (6, &json!("undecided"), &json!("too_short"), &Value::Null, &json!("undecided")),
        "{report}"
    );
    assert!(report["checks"][0]["why"].as_str().unwrap().contains("fewer than 30 correlation times"), "{report}");
    assert!(single.stdout.contains("there is no verdict: make longer runs, or 3 of each"), "{report}");
    let args = ["a1", "a2", "a3", "--vs", "b1", "b2", "b3", "--format", "json", "--fail-if", "ttft.mean > +5%"];
    let repeats = diff("diff-waves", &files, &args);
    let report = record(&repeats);
    let mean = row(&report, "ttft", "mean");
    assert_eq!(
        (repeats.code, &mean["verdict"], &mean["doubt"], &mean["a"]["basis"]),
        (1, &json!("worse"), &Value::Null, &json!("runs")),
        "{report}"
    );
}

#[test]
fn results_of_vllm_are_compared_too() {
    let vllm = include_str!("../data/stats-vllm-detailed.json");
    let files = [("v1.json", vllm.to_owned()), ("v2.json", vllm.to_owned()), ("v3.json", stream(100, 100, None))];
    let record = record(&diff("diff-vllm", &files, &["v1.json", "v2.json", "--format", "json"]));
    let warnings = record["warnings"].as_array().unwrap();
    assert_eq!((&warnings[warnings.len() - 1], &record["a"]["requests"]), (&json!(SINGLE_RUNS), &json!(200)));
    assert!(
        warnings[..warnings.len() - 1].iter().all(|w| ["was not steady", "fewer than 30 correlation times"]
            .iter()
            .any(|what| w.as_str().unwrap().contains(what))),
        "{warnings:?}"
    );
    // vLLM's own file against ours: what they have in common is compared, and differences are reported.
    let mixed = diff("diff-vllm", &files, &["v1.json", "v3.json"]);
    assert!(
        mixed.code == 0 && mixed.stdout.contains("! output tokens: 32.0 in A, 5.0 in B"),
        "{}{}",
        mixed.stdout,
        mixed.stderr
    );
}

#[test]
fn sides_that_cannot_be_compared_are_an_error_of_one_line() {
    let files =
        [("a", stream(20, 100, None)), ("empty", "\n".to_owned()), ("bad", "{\"type\":\"output\",\n{}\n".to_owned())];
    for (args, code, what) in [
        (&["a"][..], 2, "only one file; write vb-diff A B"),
        (&[], 2, "no files to compare"),
        (&["a", "a", "a"], 2, "it is not clear which files are A and which are B"),
        (&["-", "-"], 2, "only one file can be standard input (-)"),
        (&["a", "a", "--fail-if", "ttft > 5%"], 2, "which statistic"),
        (&["a", "a", "--margin", "5"], 2, "`5` is not a margin: write it as 5%"),
        (&["a", "empty"], 3, "empty: no output of any request"),
        (&["a", "bad"], 3, "bad:1:"),
        (&["a", "gone"], 4, "cannot read gone"),
    ] {
        let done = diff("diff-wrong", &files, args);
        assert!(done.code == code && done.stderr.contains(what), "{args:?}: {} {}", done.code, done.stderr);
        assert!(done.stdout.is_empty(), "{args:?}");
    }
    // Too few values are not an error: the output says how many are needed.
    let done = diff("diff-one", &[("a", stream(1, 100, None))], &["a", "a"]);
    assert!(done.code == 0 && done.stdout.contains("too few values"), "{}{}", done.stdout, done.stderr);
    let done = diff("diff-none", &[("a", stream(20, 100, Some(1)))], &["a", "a"]);
    assert!(done.code == 1 && done.stdout.contains("100.0 % of A"), "{}{}", done.stdout, done.stderr);
    assert!(done.stderr.contains("no request of A succeeded"), "{}", done.stderr);
    let one = stream(20, 100, None);
    let same = [("a", one.clone()), ("b", one)];
    let done = diff("diff-same-run", &same, &["a", "b", "--vs", "a"]);
    assert!(done.code == 2 && done.stderr.contains("a and b are the same run"), "{}", done.stderr);
}

#[test]
fn the_schema_describes_the_record() {
    let schema: Value = serde_json::from_str(&diff("diff-schema", &[], &["--schema"]).stdout).unwrap();
    let done = diff("diff-schema", &pair(), &[&PAIR[..], &["--format", "json"]].concat());
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&schema["properties"]), keys(&record(&done)));
    assert_eq!(keys(&schema["$defs"]["Row"]["properties"]), keys(&record(&done)["changes"][0]));
}

fn ab(home: &Path, args: &[&str]) -> Done {
    let bin = Path::new(env!("CARGO_BIN_EXE_vb-diff")).parent().unwrap();
    let mut script = tool::plain_command(root().join("scripts/ab.sh"));
    script.args(args).arg("--results").arg(home.join("results")).env("VB_BIN", bin).stdin(Stdio::null());
    tool::done(script.output().unwrap())
}

fn rounds(home: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(home.join("results")).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    all
}

const GEN: [&str; 2] = ["--gen", "--input-len 16 --output-len 4 --num-prompts 12"];

#[test]
fn two_servers_are_compared_in_turns() {
    let home = folder("ab-turns");
    let args =
        [&["sim", "sim --step-base '20ms'", "--rounds", "3"], &GEN[..], &["--fire", "--max-concurrency 4"]].concat();
    let done = ab(&home, &args);
    assert_eq!(done.code, 0, "{}{}", done.stdout, done.stderr);
    let order: Vec<&str> = done.stderr.lines().filter_map(|line| line.strip_prefix("ab: round ")).collect();
    assert_eq!(order, ["1/3, a", "1/3, b", "2/3, b", "2/3, a", "3/3, a", "3/3, b"]);
    let folders = rounds(&home);
    let text = fs::read_to_string(folders[0].join("diff.json")).unwrap();
    let record: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&record["a"]["requests"], &record["b"]["failed"]), (&json!(36), &json!(0)));
    assert_eq!(row(&record, "tpot", "p50")["verdict"], "worse", "{text}");
    // Each round has its own prompts.
    let requests = |round| fs::read_to_string(folders[0].join(format!("round{round}.requests.ndjson"))).unwrap();
    assert_ne!(requests(1), requests(2));
    // A rule given by the user sets the exit code.
    let rule = ["--diff", "--fail-if 'tpot.p50 > +5%' --format markdown"];
    let done = ab(&home, &[&args[..], &rule].concat());
    assert!(done.code == 1 && done.stdout.contains("| **worse** |"), "{}{}", done.stdout, done.stderr);
    assert_eq!(rounds(&home).len(), 2, "it was complete, so the same command is new rounds");
}

#[test]
fn rounds_that_were_cut_go_on() {
    let home = folder("ab-cut");
    let sim = Sim::start(&[]);
    let args = [&[sim.url.as_str(), sim.url.as_str(), "--rounds", "2"], &GEN[..]].concat();
    let done = ab(&home, &args);
    assert_eq!(done.code, 0, "{}", done.stderr);
    // As if it had been cut during the last of them.
    let folder = &rounds(&home)[0];
    fs::remove_file(folder.join("diff.json")).unwrap();
    fs::remove_file(folder.join("round2.a.outputs.ndjson")).unwrap();
    let before = fs::read_to_string(folder.join("round1.a.outputs.ndjson")).unwrap();
    let done = ab(&home, &args);
    assert!(done.code == 0 && done.stderr.contains("resuming"), "{}", done.stderr);
    assert_eq!(done.stderr.matches("already complete").count(), 3, "{}", done.stderr);
    assert_eq!((rounds(&home).len(), fs::read_to_string(folder.join("round1.a.outputs.ndjson")).unwrap()), (1, before));
}

#[test]
fn a_dry_run_of_ab_prints_what_it_would_run_and_errors_are_lines() {
    let home = folder("ab-dry");
    let done = ab(&home, &["sim", "sim", "--rounds", "2", "--dry-run", "--fire", "--max-concurrency 4"]);
    assert_eq!((done.code, done.stdout.lines().count()), (0, 2 + 2 * 3 + 1), "{}{}", done.stdout, done.stderr);
    assert!(!home.join("results").exists(), "nothing is written");
    for (args, what) in [
        (&["http://127.0.0.1:1"][..], "expected two servers"),
        (&["a", "b", "--rounds", "0"], "use a number of 1 or more"),
        (&["a", "b", "--nothing"], "unknown flag --nothing"),
        (&["a", "b", "--gen", "--input-len '16"], "the quotes of"),
    ] {
        let done = ab(&home, args);
        assert!(done.code == 2 && done.stderr.contains(what), "{args:?}: {} {}", done.code, done.stderr);
    }
}

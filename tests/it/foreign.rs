//! Results of other load generators, in `vb-diff` and `vb-agg`. The files in `tests/data/summaries` are real ones.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use crate::tool::{Done, data, folder, golden, run};

/// A file of `tests/data/summaries`.
fn file(name: &str) -> String {
    data("summaries").join(name).display().to_string()
}

fn text_of(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(file(name)).unwrap()).unwrap()
}

fn diff(a: &[String], b: &[String], args: &[&str]) -> Done {
    let files = a.iter().map(String::as_str).chain(["--vs"]).chain(b.iter().map(String::as_str));
    run("vb-diff", &files.chain(args.iter().copied()).collect::<Vec<_>>(), "")
}

fn diff_json(a: &[String], b: &[String]) -> Value {
    let done = diff(a, b, &["--format", "json"]);
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    serde_json::from_str(&done.stdout).unwrap()
}

fn repeats(prefix: &str) -> Vec<String> {
    (1..=3).map(|i| file(&format!("{prefix}-{i}.json"))).collect()
}

fn row<'r>(report: &'r Value, metric: &str, statistic: &str) -> &'r Value {
    let rows = report["changes"].as_array().unwrap();
    rows.iter()
        .find(|row| row["metric"] == metric && row["statistic"] == statistic)
        .unwrap_or_else(|| panic!("{metric} {statistic}: {report}"))
}

fn metrics(report: &Value) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for row in report["changes"].as_array().unwrap() {
        let name = row["metric"].as_str().unwrap().to_owned();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn near(value: &Value, want: f64) {
    let value = value.as_f64().unwrap();
    assert!((value / want - 1.0).abs() < 1e-9, "{value} is not {want}");
}

/// A folder with a file.
fn folder_with(name: &str, file: &str, text: &str) -> PathBuf {
    let folder = folder(name);
    fs::write(folder.join(file), text).unwrap();
    folder
}

/// Each number of each program, against what its file says, in our units.
#[test]
fn each_program_has_the_numbers_of_its_file_in_our_units() {
    let ours = repeats("vb-stats");
    let aiperf = text_of("aiperf-0.13.0-1.json");
    let guidellm = text_of("guidellm-0.8.1-1.json");
    let inference_perf = text_of("inference-perf-0.7.0-1.json");
    let lines = fs::read_to_string(file("sglang-0.5.9.jsonl")).unwrap();
    let line = lines.lines().next().unwrap();
    // Its rate is `Infinity`.
    let sglang: Value = serde_json::from_str(&line.replace("Infinity", "null")).unwrap();
    let home = folder_with("foreign-units", "sglang.jsonl", line);
    let sglang_file = home.join("sglang.jsonl").display().to_string();
    let guidellm_metrics = &guidellm["benchmarks"][0]["metrics"];
    let latency = &inference_perf["successes"]["latency"];
    for (path, expected) in [
        (
            file("aiperf-0.13.0-1.json"),
            vec![
                ("ttft", "mean", aiperf["time_to_first_token"]["avg"].clone(), 1.0),
                ("tpot", "p90", aiperf["inter_token_latency"]["p90"].clone(), 1.0),
                ("itl", "p99", aiperf["inter_chunk_latency"]["p99"].clone(), 1.0),
                ("e2el", "p50", aiperf["request_latency"]["p50"].clone(), 1.0),
                ("throughput", "rate", aiperf["output_token_throughput"]["avg"].clone(), 1.0),
            ],
        ),
        (
            file("guidellm-0.8.1-1.json"),
            vec![
                (
                    "ttft",
                    "p99",
                    guidellm_metrics["time_to_first_token_ms"]["successful"]["percentiles"]["p99"].clone(),
                    1.0,
                ),
                ("e2el", "p50", guidellm_metrics["request_latency"]["successful"]["median"].clone(), 1e3),
                (
                    "itl_per_token",
                    "mean",
                    guidellm_metrics["inter_token_latency_ms"]["successful"]["mean"].clone(),
                    1.0,
                ),
                (
                    "request_throughput",
                    "rate",
                    guidellm_metrics["requests_per_second"]["successful"]["mean"].clone(),
                    1.0,
                ),
            ],
        ),
        (
            file("inference-perf-0.7.0-1.json"),
            vec![
                ("ttft", "p50", latency["time_to_first_token"]["median"].clone(), 1e3),
                ("tpot", "p99", latency["time_per_output_token"]["p99"].clone(), 1e3),
                ("e2el", "mean", latency["request_latency"]["mean"].clone(), 1e3),
                ("itl_per_token", "mean", latency["inter_token_latency"]["mean"].clone(), 1e3),
            ],
        ),
        (
            sglang_file,
            vec![
                ("ttft", "p50", sglang["median_ttft_ms"].clone(), 1.0),
                ("e2el", "p99", sglang["p99_e2e_latency_ms"].clone(), 1.0),
                ("itl", "mean", sglang["mean_itl_ms"].clone(), 1.0),
                ("throughput", "rate", sglang["output_throughput"].clone(), 1.0),
            ],
        ),
    ] {
        let report = diff_json(&ours, std::slice::from_ref(&path));
        for (metric, statistic, value, factor) in expected {
            near(&row(&report, metric, statistic)["b"]["value"], value.as_f64().unwrap() * factor);
        }
        assert_eq!(report["b"]["requests"], 60, "{path}");
    }
}

/// TPOT of inference-perf and aiperf, and ITL per token of guidellm, are the numbers of the same load as ours: the step of the engine,
/// 10 ms. guidellm's own `time_per_output_token_ms`, which includes the first token, is 11 ms.
#[test]
fn metrics_of_the_same_name_and_another_definition_are_left_out() {
    let report = diff_json(&repeats("vb-stats"), &repeats("guidellm-0.8.1"));
    assert_eq!(metrics(&report), ["ttft", "e2el", "itl_per_token", "throughput", "request_throughput", "success"]);
    assert_eq!(row(&report, "itl_per_token", "mean")["verdict"], "same");
    let report = diff_json(&repeats("aiperf-0.13.0"), &repeats("inference-perf-0.7.0"));
    assert_eq!(metrics(&report), ["ttft", "tpot", "e2el", "throughput", "request_throughput", "success"]);
    for report in [report, diff_json(&repeats("vb-stats"), &repeats("aiperf-0.13.0"))] {
        let change = row(&report, "tpot", "mean")["relative"]["value"].as_f64().unwrap();
        assert!(change.abs() < 0.05, "{report}");
    }
}

/// Against `scipy.stats.ttest_ind(log(a), log(b), equal_var=False)` and its confidence interval.
#[test]
fn repeats_are_compared_with_welchs_test() {
    let home = folder("foreign-welch");
    let result = |name: &str, ttft: f64| {
        let text = json!({"duration": 1.0, "completed": 10, "failed": 0, "mean_ttft_ms": ttft});
        fs::write(home.join(name), text.to_string()).unwrap();
        home.join(name).display().to_string()
    };
    let a: Vec<String> = [("a1", 100.0), ("a2", 104.0), ("a3", 98.0)].map(|(name, ttft)| result(name, ttft)).to_vec();
    let b: Vec<String> = [("b1", 120.0), ("b2", 131.0)].map(|(name, ttft)| result(name, ttft)).to_vec();
    let report = diff_json(&a, &b);
    let ttft = row(&report, "ttft", "mean");
    near(&ttft["a"]["value"], (100.0_f64 * 104.0 * 98.0).cbrt());
    near(&ttft["b"]["value"], (120.0_f64 * 131.0).sqrt());
    assert_eq!((&ttft["a"]["n"], &ttft["b"]["n"], &ttft["b"]["basis"]), (&json!(3), &json!(2), &json!("runs")));
    let close =
        |value: &Value, want: f64| assert!((value.as_f64().unwrap() - want).abs() < 2e-4, "{value} is not {want}");
    close(&ttft["p"], WELCH_P);
    close(&ttft["relative"]["low"], WELCH_LOW);
    close(&ttft["relative"]["high"], WELCH_HIGH);
    assert_eq!(report["from_summaries"], true);
}

const WELCH_P: f64 = 0.088_691_034;
const WELCH_LOW: f64 = -0.115_833_536;
const WELCH_HIGH: f64 = 0.755_546_054;

#[test]
fn the_output_says_what_summaries_cannot_show() {
    let done = diff(&repeats("aiperf-0.13.0"), &repeats("guidellm-0.8.1"), &[]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let first = done.stdout.lines().find(|line| line.starts_with('!')).unwrap();
    assert!(first.starts_with("! summaries without their requests are weaker than outputs: "), "{first}");
    assert!(done.stdout.contains("! program: aiperf 0.13.0 in A, guidellm 0.8.1 in B"), "{}", done.stdout);
    assert!(done.stdout.contains("Welch's t-test") && !done.stdout.contains("(ms)*"), "{}", done.stdout);
    // One run of a side: numbers, and no interval.
    let single =
        diff(&repeats("aiperf-0.13.0")[..1], &repeats("guidellm-0.8.1")[..1], &["--fail-if", "ttft.mean > +5%"]);
    assert_eq!(single.code, 6, "{}", single.stderr);
    assert!(
        single.stderr.contains("too few runs for a bound: make two or more runs of each side"),
        "{}",
        single.stderr
    );
    assert!(
        single.stdout.contains("! runs: 1 of A, 1 of B: a summary without repeats has no interval"),
        "{}",
        single.stdout
    );
    let ttft = single.stdout.lines().find(|line| line.starts_with("TTFT mean")).unwrap();
    assert!(ttft.ends_with("-  no interval without repeats"), "{ttft}");
    assert!(!single.stdout.contains("correlation times"), "{}", single.stdout);
}

/// Outputs have all their requests, and are reduced to the numbers that a summary has.
#[test]
fn outputs_are_compared_with_summaries() {
    let outputs = data("stats-run.ndjson").display().to_string();
    let result = run("vb-stats", &["--percentile-metrics", "ttft,tpot,itl,e2el"], fs::read(&outputs).unwrap()).stdout;
    let home = folder_with("foreign-mixed", "result.json", &result);
    let report = diff_json(&[outputs], &[home.join("result.json").display().to_string()]);
    for row in report["changes"].as_array().unwrap() {
        let change = row["difference"]["value"].as_f64().unwrap();
        assert!(change.abs() < 1e-9, "the same run has another number: {row}");
    }
    assert!(metrics(&report).len() >= 6, "{report}");
    assert!(!report["warnings"].to_string().contains("program"), "{report}");
}

#[test]
fn runs_of_one_file_are_repeats_only_with_the_same_settings() {
    // sglang adds a line for each run.
    let report = diff_json(&[file("sglang-0.5.9.jsonl")], &repeats("vb-stats"));
    assert_eq!(report["a"]["files"].as_array().unwrap().len(), SGLANG_RUNS);
    assert_eq!(row(&report, "ttft", "mean")["a"]["n"], SGLANG_RUNS);
    // guidellm has a benchmark for each load.
    let mut sweep = text_of("guidellm-0.8.1-1.json");
    let mut other = sweep["benchmarks"][0].clone();
    other["config"]["strategy"]["max_concurrency"] = 16.into();
    sweep["benchmarks"].as_array_mut().unwrap().push(other);
    let home = folder_with("foreign-sweep", "sweep.json", &sweep.to_string());
    let done = diff(&[home.join("sweep.json").display().to_string()], &repeats("vb-stats"), &[]);
    assert_eq!((done.code, done.stdout.as_str()), (3, ""));
    assert!(
        done.stderr.contains("sweep.json: 2 runs, which are not repeats: max_concurrency is 4 and 16"),
        "{}",
        done.stderr
    );
    let csv = run("vb-agg", &[home.to_str().unwrap()], "");
    assert_eq!((csv.code, csv.stdout.lines().count()), (0, 3), "{}", csv.stderr);
}

const SGLANG_RUNS: usize = 2;

#[test]
fn odd_files_are_read_as_far_as_they_have_numbers() {
    let home = folder("foreign-odd");
    let put = |name: &str, text: &str| {
        fs::write(home.join(name), text).unwrap();
        home.join(name).display().to_string()
    };
    let good = put(
        "good.json",
        r#"{"duration":1.0,"completed":5,"failed":0,"mean_ttft_ms":10.0,"median_ttft_ms":9.0,"request_throughput":5.0}"#,
    );
    // NaN, null, a text and a missing number are left out; what is left is compared.
    let odd = put(
        "odd.json",
        r#"{"duration":1.0,"completed":5,"failed":1,"mean_ttft_ms":NaN,"median_ttft_ms":"9","request_throughput":4.0,"p99_ttft_ms":null}"#,
    );
    let report = diff_json(std::slice::from_ref(&good), &[odd]);
    assert_eq!(metrics(&report), ["request_throughput", "success"]);
    assert!(report["warnings"].to_string().contains("failed requests: 0.0 % of A, 16.7 % of B"), "{report}");
    // Zeros of a run without a success are not latencies.
    let failed =
        put("failed.json", r#"{"duration":1.0,"completed":0,"failed":5,"mean_ttft_ms":0.0,"request_throughput":0.0}"#);
    let done = diff(std::slice::from_ref(&good), &[failed], &[]);
    assert_eq!(done.code, 1, "{}", done.stdout);
    assert!(
        done.stderr.contains("no request of B succeeded") && !done.stdout.contains("TTFT"),
        "{}{}",
        done.stdout,
        done.stderr
    );
    let nothing = put("nothing.json", r#"{"duration":1.0,"completed":5}"#);
    let done = diff(std::slice::from_ref(&good), &[nothing], &[]);
    assert!(done.code == 1 && done.stderr.contains("the sides have no number in common"), "{}", done.stderr);
    assert!(done.stdout.contains("failures unknown"), "{}", done.stdout);
    for (name, text, what) in [
        (
            "other.json",
            r#"{"tool":"x","runs":3}"#,
            "no output of any request, and not a summary that is understood: it has the keys `tool`, `runs`",
        ),
        ("none.json", r#"{"benchmarks":[]}"#, "not a summary that is understood"),
        (
            "later.json",
            r#"{"schema_version":"2.0","aiperf_version":"9.0","input_config":{},"was_cancelled":false}"#,
            "aiperf 9.0 wrote it with layout 2.0 (`schema_version`); layout 1 is understood",
        ),
    ] {
        let path = put(name, text);
        let done = diff(std::slice::from_ref(&good), std::slice::from_ref(&path), &[]);
        assert!(
            done.code == 3 && done.stderr.contains(what) && done.stderr.lines().count() == 1,
            "{name}: {} {}",
            done.code,
            done.stderr
        );
    }
    // aiperf writes the number of failures only if there are some.
    let report = diff_json(&[file("aiperf-0.13.0-some-failed.json")], &[file("aiperf-0.13.0-1.json")]);
    assert_eq!((&report["a"]["failed"], &report["b"]["failed"]), (&json!(4), &json!(0)));
    let later = home.join("later.json").display().to_string();
    let done = run("vb-agg", &[&good, &later], "");
    assert!(done.code == 3 && done.stderr.contains("layout 1 is understood; skipped"), "{}", done.stderr);
    assert_eq!(done.stdout.lines().count(), 2);
    let twice = diff(&[good.clone(), good.clone()], std::slice::from_ref(&good), &[]);
    assert!(twice.code == 2 && twice.stderr.contains("are the same run"), "{}", twice.stderr);
    // vb-stats needs requests, and says where the file belongs.
    let done = run("vb-stats", &[&good], "");
    assert!(done.code == 3 && done.stderr.contains("pass it to vb-agg or vb-diff"), "{}", done.stderr);
}

#[test]
fn files_of_other_programs_become_this_csv() {
    let names = [
        "aiperf-0.13.0-1.json",
        "aiperf-0.13.0-some-failed.json",
        "guidellm-0.6.1.json",
        "guidellm-0.8.1-1.json",
        "inference-perf-0.7.0-1.json",
        "sglang-0.5.9.jsonl",
        "vb-stats-1.json",
    ];
    let files: Vec<String> = names.iter().map(|name| file(name)).collect();
    let done = run("vb-agg", &files.iter().map(String::as_str).collect::<Vec<_>>(), "");
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    golden("foreign.csv", &done.stdout);
    let again =
        run("vb-agg", &["--repeats", "long", &file("guidellm-0.8.1-1.json"), &file("guidellm-0.8.1-2.json")], "");
    let ttft = again.stdout.lines().find(|line| line.contains(",mean_ttft_ms,")).unwrap();
    assert!(ttft.starts_with("guidellm 0.8.1,"), "{ttft}");
}

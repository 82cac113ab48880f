//! `vb-stats` through its binary.
#![allow(clippy::unwrap_used)] // a panic here is a failed test

use std::{collections::BTreeSet, io::Write, process::Stdio};

use serde_json::Value;

use super::tool::{command, done, folder, golden, run};

const RUN: &str = include_str!("../data/stats-run.ndjson");
const VLLM: &str = include_str!("../data/stats-vllm-detailed.json");

fn result(args: &[&str], stdin: &str) -> Value {
    let done = run("vb-stats", args, stdin);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(done.stdout.lines().count(), 1);
    serde_json::from_str(&done.stdout).unwrap()
}

/// The file was written by vLLM 0.32's own client from a run against vLLM 0.32.
#[test]
fn every_key_of_vllms_own_result_is_computed_to_the_last_bit() {
    let want: Value = serde_json::from_str(VLLM).unwrap();
    let pretty = serde_json::to_string_pretty(&want).unwrap();
    for input in [VLLM, &pretty] {
        let mut got = result(&["--save-detailed"], input);
        got.as_object_mut().unwrap().shift_remove("vb").unwrap();
        assert!(got.as_object().unwrap().keys().eq(want.as_object().unwrap().keys()));
        for (key, value) in want.as_object().unwrap() {
            assert!(got[key] == *value, "{key}: {} is not {value}", got[key]);
        }
    }
}

#[test]
fn what_vllms_rust_client_leaves_out_is_made_up() {
    let mut rust: Value = serde_json::from_str(VLLM).unwrap();
    let keys = rust.as_object_mut().unwrap();
    keys.shift_remove("latencies").unwrap();
    keys.shift_remove("queue_times").unwrap();
    keys.insert("steady_state".into(), Value::Null);
    let got = result(&[], &rust.to_string());
    let (want, got_e2el) = (rust["mean_e2el_ms"].as_f64().unwrap(), got["mean_e2el_ms"].as_f64().unwrap());
    assert!((want - got_e2el).abs() < 1e-6, "{want} {got_e2el}");
    assert_eq!(got["vb"]["from_schedule"]["ttft_ms"]["n"], 0);
    assert_eq!(got["steady_state"], Value::Null);
    assert_eq!(got["duration"], rust["duration"]);
}

#[test]
fn a_run_gives_this_result() {
    let slos = ["--goodput", "ttft:100ms", "e2el:2s"];
    let args = [&slos[..], &["--metadata", "gpu=H100", "tp=2", "--metric-percentiles", "50,99.9"]].concat();
    let got = result(&args, RUN);
    golden("stats-run.json", &(serde_json::to_string_pretty(&got).unwrap() + "\n"));
}

#[test]
fn a_run_gives_this_table() {
    let args = ["--table", "always", "--goodput", "ttft:100ms", "e2el:2s", "--metadata", "gpu=H100"];
    golden("stats-table.txt", &run("vb-stats", &args, RUN).stderr);
    assert_eq!(run("vb-stats", &[], RUN).stderr, "");
}

#[test]
fn every_key_is_defined_in_the_manual() {
    let manual = include_str!("../../docs/METRICS.md");
    let metrics = "ttft,tpot,itl,e2el,client_queue_time,e2el_including_client_queue";
    let args = ["--save-detailed", "--percentile-metrics", metrics, "--goodput", "ttft:1"];
    let mut keys = BTreeSet::new();
    collect_keys(&result(&args, RUN), &mut keys);
    assert!(keys.len() > 80, "{keys:?}");
    for key in keys {
        // The manual names statistics by pattern: `p{P}_{metric}_ms`.
        let pattern = ["mean_", "median_", "std_", "p50", "p90", "p99"].iter().any(|start| key.starts_with(start));
        assert!(pattern || manual.contains(&format!("`{key}`")), "docs/METRICS.md does not define `{key}`");
    }
}

fn collect_keys(value: &Value, keys: &mut BTreeSet<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        keys.insert(key.clone());
        collect_keys(value, keys);
    }
    value.as_array().into_iter().flatten().for_each(|value| collect_keys(value, keys));
}

#[test]
fn the_order_of_lines_does_not_matter_to_totals() {
    let mut lines: Vec<&str> = RUN.lines().collect();
    lines.reverse();
    let (got, want) = (result(&[], &lines.join("\n")), result(&[], RUN));
    for key in ["duration", "completed", "total_output_tokens", "p99_ttft_ms", "p50_itl_ms", "max_concurrent_requests"]
    {
        assert_eq!(got[key], want[key], "{key}");
    }
    assert_eq!(got["vb"]["outcomes"], want["vb"]["outcomes"]);
    assert_eq!(got["vb"]["complete"], true);
}

#[test]
fn outputs_without_run_records_and_without_types_are_counted() {
    let outputs: Vec<String> = RUN
        .lines()
        .filter(|line| line.contains("\"type\":\"output\""))
        .map(|line| line.replacen("\"type\":\"output\",", "", 1))
        .collect();
    let got = result(&[], &outputs.join("\n"));
    assert_eq!(got["completed"], 5);
    assert_eq!(got["num_prompts"], 9);
    assert_eq!(got["request_rate"], "inf");
    assert_eq!(got["vb"]["complete"], false);
    // From the first that was due, at 0.25 s, to the last outcome, at 3.7501 s.
    assert_eq!(got["duration"], 3.5001);
    let least = result(&[], r#"{"success":true,"ttft":0.5,"itl":[0.25,0.25]}"#);
    assert_eq!((&least["mean_e2el_ms"], &least["total_output_tokens"]), (&1000.0.into(), &3.into()));
}

#[test]
fn a_run_that_was_cut_is_reported_as_such() {
    let whole: Vec<&str> = RUN.lines().collect();
    let cut = whole[..4].join("\n") + "\n" + &whole[4][..200];
    let done = run("vb-stats", &[], &cut);
    assert_eq!(done.code, 0);
    assert!(done.stderr.starts_with("vb-stats: stdin:5:200: EOF while parsing"), "{}", done.stderr);
    let got: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!((&got["completed"], &got["vb"]["complete"]), (&3.into(), &false.into()));

    let without_end = result(&[], &whole[..whole.len() - 1].join("\n"));
    assert_eq!(without_end["vb"]["complete"], false);
    let filtered: Vec<&str> = whole.iter().copied().filter(|line| !line.contains("429")).collect();
    assert_eq!(result(&[], &filtered.join("\n"))["vb"]["complete"], false);
}

#[test]
fn a_last_line_needs_no_newline() {
    assert_eq!(result(&[], RUN.trim_end()), result(&[], RUN));
}

#[test]
fn a_bad_line_is_named_and_nothing_is_reported() {
    let lines: Vec<&str> = RUN.lines().collect();
    let bad = [lines[0], lines[1], r#"{"type":"output","ttft":}"#, lines[2], lines[3]].join("\n");
    let done = run("vb-stats", &[], &bad);
    assert_eq!((done.code, done.stdout.as_str()), (3, ""));
    assert_eq!(done.stderr, "vb-stats: stdin:3:25: expected value\n");

    let got = result(&["--lenient"], &bad);
    assert_eq!((&got["completed"], &got["vb"]["bad_lines"]), (&3.into(), &1.into()));
    assert_eq!(got["vb"]["complete"], false);
}

#[test]
fn an_input_without_outputs_is_an_error() {
    for input in ["", "\n", RUN.lines().next().unwrap()] {
        let done = run("vb-stats", &[], input);
        assert_eq!((done.code, done.stdout.as_str()), (3, ""));
        assert!(done.stderr.contains("no output of any request"), "{}", done.stderr);
    }
}

#[test]
fn hosts_of_one_run_are_merged() {
    let other = RUN.replace("r-1", "r-2").replace("client-a", "client-b");
    let path = folder("stats-hosts").join("b.ndjson");
    std::fs::write(&path, other).unwrap();
    let got = result(&["-", path.to_str().unwrap()], RUN);
    let one = result(&[], RUN);
    assert_eq!(got["vb"]["hosts"], serde_json::json!(["client-a", "client-b"]));
    assert_eq!(got["vb"]["run_ids"], serde_json::json!(["r-1", "r-2"]));
    assert_eq!((&got["vb"]["complete"], &got["request_rate"]), (&true.into(), &8.0.into()));
    assert_eq!(got["duration"], one["duration"]);
    assert_eq!(got["completed"], 10);
    assert_eq!(got["output_throughput"], 2.0 * one["output_throughput"].as_f64().unwrap());
    assert_eq!(got["p50_ttft_ms"], one["p50_ttft_ms"]);
}

#[test]
fn a_detailed_result_can_be_read_again() {
    let detailed = run("vb-stats", &["--save-detailed"], RUN).stdout;
    let (again, first) = (result(&[], &detailed), result(&[], RUN));
    for (key, value) in first.as_object().unwrap() {
        if key != "vb" {
            assert_eq!(again[key], *value, "{key}");
        }
    }
    for key in ["from_start", "from_schedule", "itl_per_chunk_ms", "peak_tokens_per_s", "input_len"] {
        assert_eq!(again["vb"][key], first["vb"][key], "{key}");
    }
}

#[test]
fn a_result_without_its_requests_or_beside_others_is_refused() {
    let plain = run("vb-stats", &[], RUN).stdout;
    let done = run("vb-stats", &[], &plain);
    assert_eq!(done.code, 3);
    assert!(done.stderr.contains("--save-detailed"), "{}", done.stderr);
    let done = run("vb-stats", &[], RUN.to_owned() + VLLM);
    assert_eq!(done.code, 3);
    assert!(done.stderr.contains("cannot be merged"), "{}", done.stderr);
    let pretty_lines = "{\n  \"success\": true\n}\n{\n  \"success\": true\n}\n";
    let done = run("vb-stats", &[], pretty_lines);
    assert_eq!(done.code, 3);
    assert!(done.stderr.contains("jq -c"), "{}", done.stderr);
}

#[test]
fn wrong_options_are_named() {
    for (args, word) in [
        (&["--goodput", "ttft=3"][..], "ttft:200ms"),
        (&["--percentile-metrics", "latency"], "e2el"),
        (&["--metric-percentiles", "p99"], "50,90,99.9"),
        (&["--metadata", "gpu"], "KEY=VALUE"),
    ] {
        let done = run("vb-stats", args, RUN);
        assert_eq!(done.code, 2, "{}", done.stderr);
        assert!(done.stderr.contains(word), "{}", done.stderr);
    }
}

#[test]
fn the_schema_is_json_and_names_the_keys() {
    let schema: Value = serde_json::from_str(&run("vb-stats", &["--schema"], "").stdout).unwrap();
    assert!(schema["properties"]["vb"].is_object());
    assert!(schema["$defs"]["Vb"]["properties"]["peak_concurrency"].is_object());
}

#[test]
fn the_first_interrupt_does_not_stop_it() {
    let mut child =
        command("vb-stats").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // More than a pipe holds: when it is written, the tool is reading.
    let blank = " ".repeat(1 << 20) + "\n";
    stdin.write_all(blank.as_bytes()).unwrap();
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    stdin.write_all(RUN.as_bytes()).unwrap();
    drop(stdin);
    let done = done(child.wait_with_output().unwrap());
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(done.stdout.contains("\"completed\":5"));
}

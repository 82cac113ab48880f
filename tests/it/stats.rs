//! `vb-stats` through its binary.

use std::{collections::BTreeSet, io::Write, process::Stdio};

use serde_json::Value;

use crate::tool::{command, data, done, folder, golden, run, scramble};

const RUN: &str = include_str!("../data/stats-run.ndjson");
const VLLM: &str = include_str!("../data/stats-vllm-detailed.json");
/// Four requests, and three pages of a server with two engines.
const SERVER: &str = include_str!("../data/stats-server.ndjson");

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
fn what_vllms_rust_client_omits_is_computed() {
    let mut rust: Value = serde_json::from_str(VLLM).unwrap();
    let keys = rust.as_object_mut().unwrap();
    keys.shift_remove("latencies").unwrap();
    keys.shift_remove("queue_times").unwrap();
    keys.insert("steady_state".into(), Value::Null);
    let got = result(&[], &rust.to_string());
    let (want, got_e2el) = (rust["mean_e2el_ms"].as_f64().unwrap(), got["mean_e2el_ms"].as_f64().unwrap());
    assert!((want - got_e2el).abs() < 1e-6, "{want} {got_e2el}");
    assert_eq!(got["vb"]["from_schedule"], Value::Null);
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
    let args = ["--table", "full", "--goodput", "ttft:100ms", "e2el:2s", "--metadata", "gpu=H100"];
    golden("stats-table.txt", &run("vb-stats", &args, RUN).stderr);
    for (layout, file) in [("short", "stats-short.txt"), ("vllm", "stats-vllm-table.txt"), ("line", "stats-line.txt")] {
        golden(file, &run("vb-stats", &["--table", layout, "--goodput", "ttft:100ms", "e2el:2s"], RUN).stderr);
    }
    assert_eq!(run("vb-stats", &[], RUN).stderr, "");
    golden("stats-server-table.txt", &run("vb-stats", &["--table", "full"], SERVER).stderr);
}

/// vLLM has renamed some of its metrics.
#[test]
fn older_names_of_the_servers_numbers_are_known() {
    let mut old = SERVER.replace("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc");
    old = old.replace("vllm:prefix_cache_", "vllm:gpu_prefix_cache_");
    old = old.replace("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds");
    assert_ne!(old, SERVER);
    assert_eq!(result(&[], &old)["vb"]["server"], result(&[], SERVER)["vb"]["server"]);
}

#[test]
fn pages_that_do_not_span_the_load_are_noted() {
    let (whole, _) = SERVER.rsplit_once("{\"type\":\"scrape\"").unwrap();
    let server = &result(&[], whole)["vb"]["server"];
    let note = server["notes"][0].as_str().unwrap();
    assert!(
        note.starts_with("the pages do not span the load: the first was read 0 ns after its start, the last 820.0 ms"),
        "{note}"
    );
    assert_eq!((&server["scrapes"], &server["ttft_ms"]["p50"]), (&2.into(), &Value::Null), "the middle has no buckets");
    assert_eq!(server["finished"]["length"], 2);
}

/// As `jq` leaves them when it splits a run by its tags.
#[test]
fn pages_of_a_run_count_once_in_any_order() {
    let reversed: Vec<&str> = SERVER.lines().rev().collect();
    let pages: Vec<&str> = SERVER.lines().filter(|line| line.contains("\"type\":\"scrape\"")).collect();
    let twice = SERVER.to_owned() + &pages.join("\n");
    let want = &result(&[], SERVER)["vb"]["server"];
    assert_eq!(&result(&[], &reversed.join("\n"))["vb"]["server"], want);
    assert_eq!(&result(&[], &twice)["vb"]["server"], want);
}

/// `RUN` without its end record, and that record.
fn end_of_run() -> (String, String) {
    let (rest, end) = RUN.trim_end().rsplit_once('\n').unwrap();
    (rest.to_owned(), end.to_owned())
}

#[test]
fn a_stream_of_an_older_version_has_no_client() {
    let (rest, end) = end_of_run();
    let old = format!("{rest}\n{}}}\n", end.split(",\"send_lag\"").next().unwrap());
    let vb = &result(&[], &old)["vb"];
    assert_eq!((&vb["verdict"], &vb["reasons"], &vb["client"]), (&Value::Null, &Value::Null, &Value::Null));
    assert_eq!(vb["complete"], true);
    let table = run("vb-stats", &["--table", "full"], &old).stderr;
    assert!(table.starts_with("verdict: unknown") && table.contains(" | client: nothing is known\n"), "{table}");
}

#[test]
fn a_clean_client_has_its_lags_in_the_last_line_of_the_table() {
    let (rest, end) = end_of_run();
    let reasons = end.find("\"verdict\"").unwrap();
    let clean = |end: &str| format!("{rest}\n{}\"verdict\":\"clean\",\"reasons\":[]}}\n", &end[..reasons]);
    let last = |stream: &str| {
        run("vb-stats", &["--table", "full"], stream).stderr.lines().last().unwrap_or_default().to_owned()
    };
    let numbers = "read lag p99 0.41 ms; send lag p99 12.10 ms; 0.18 cores";
    let some = "1 of 26 chunks stamped in user space, the others by the kernel";
    assert_eq!(last(&clean(&end)), format!("client: {some}; {numbers}"));
    let all = end.replace("\"user\":1", "\"user\":0");
    assert_eq!(last(&clean(&all)), format!("client: chunks stamped by the kernel; {numbers}"));
}

#[test]
fn several_hosts_have_the_worst_verdict_and_the_reasons_of_all() {
    let (rest, end) = end_of_run();
    let (run_a, _) = rest.split_once('\n').unwrap();
    let run_b = run_a.replace("client-a", "client-b");
    let reasons = end.find("\"reasons\"").unwrap();
    let end_b = format!(
        "{}\"reasons\":[\"too slow\"]}}",
        end[..reasons].replace("suspect", "client_bound").replace("0.0121", "0.5").replace("0.18", "0.9")
    );
    let both = format!("{rest}\n{end}\n{run_b}\n{end_b}\n");
    let result = result(&[], &both);
    let vb = &result["vb"];
    assert_eq!(vb["verdict"], "client_bound");
    assert_eq!(vb["reasons"][0], "client-b: too slow");
    assert!(vb["reasons"][1].as_str().unwrap().starts_with("client-a: the client sent late"), "{vb}");
    let client = &vb["client"];
    assert_eq!(
        (&client["threads"], &client["retransmits"], &client["stamps"]["chunks"]),
        (&2.into(), &2.into(), &52.into())
    );
    assert!((client["cpu"].as_f64().unwrap() - 1.08).abs() < 1e-9);
    assert_eq!(client["send_lag_ms"]["p99"], 500.0);
    let table = run("vb-stats", &["--table", "full"], &both).stderr;
    assert!(
        table.starts_with("CLIENT BOUND: client-b: too slow\nverdict: client_bound, interrupted, incomplete | "),
        "{table}"
    );
    assert!(table.contains("\nclient: client-a: the client sent late"), "{table}");
}

#[test]
fn every_key_is_defined_in_the_manual() {
    let manual = include_str!("../../docs/METRICS.md");
    let metrics = "ttft,tpot,itl,e2el,client_queue_time,e2el_including_client_queue";
    let args = ["--save-detailed", "--percentile-metrics", metrics, "--goodput", "ttft:1"];
    let mut keys = BTreeSet::new();
    collect_keys(&result(&args, RUN), &mut keys);
    collect_keys(&result(&args, SERVER), &mut keys);
    assert!(keys.len() > 120, "{keys:?}");
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
fn a_truncated_run_is_reported_as_incomplete() {
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

/// As when a run is split by tenant: each part has the records of the run, and its own outputs.
#[test]
fn parts_of_a_run_make_the_run_again() {
    let part = |odd: bool| -> String {
        let output = |l: &str| l.contains("\"type\":\"output\"");
        let mine = |(i, l): &(usize, &str)| !output(l) || (i % 2 == 1) == odd;
        RUN.lines().enumerate().filter(mine).map(|(_, l)| l).collect::<Vec<_>>().join("\n") + "\n"
    };
    let (whole, parts) = (result(&[], RUN), result(&[], &(part(true) + &part(false))));
    for key in ["num_prompts", "completed", "duration", "max_concurrency", "request_throughput", "p99_ttft_ms"] {
        assert_eq!(parts[key], whole[key], "{key}");
    }
    assert_eq!(parts["vb"]["complete"], true);
    assert_eq!(parts["vb"]["not_sent"], whole["vb"]["not_sent"]);
}

#[test]
fn a_run_that_is_given_twice_is_an_error() {
    let (folder, shuffled) =
        (folder("stats-twice"), RUN.lines().rev().map(|line| format!("{line}\n")).collect::<Vec<_>>().concat());
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (a, b) = (file("a.ndjson", RUN), file("b.ndjson", &shuffled));
    // A stream that was cut has no end record to count by.
    let cut = file("cut.ndjson", &RUN[..RUN.len() * 2 / 3]);
    for (files, why) in [
        ([&a, &a], "a.ndjson:2: the outputs of this run have been read already"),
        ([&cut, &a], "a.ndjson:2: the outputs of this run have been read already"),
        ([&a, &b], "the run r-1 is in the input twice: it has 9 requests, and 18 outputs were read"),
    ] {
        for flags in [&[][..], &["--lenient"]] {
            let done = run("vb-stats", &[&files.map(String::as_str)[..], flags].concat(), "");
            assert_eq!((done.code, done.stdout.as_str()), (3, ""), "{}", done.stderr);
            assert!(done.stderr.contains(why), "{}", done.stderr);
        }
    }
    let done = run("vb-stats", &[], RUN.repeat(2));
    assert!(done.code == 3 && done.stderr.contains("stdin:14: the outputs of this run"), "{}", done.stderr);
    // The parts of one run may each have its run record.
    let lines: Vec<&str> = RUN.lines().collect();
    let part = |outputs: &[&str], end: &[&str]| [&lines[..1], outputs, end].concat().join("\n") + "\n";
    let parts = [part(&lines[1..5], &[]), part(&lines[5..], &[])];
    let (one, two) = (file("one.ndjson", &parts[0]), file("two.ndjson", &parts[1]));
    let done = run("vb-stats", &[&one, &two], "");
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
}

/// A gate after vb-stats would take the zeros for very good latencies.
#[test]
fn a_run_without_a_success_fails() {
    const FAILED: &str = r#""success":false,"error":"no model typo","error_kind":"http_status""#;
    let failed: String = RUN
        .lines()
        .map(|line| line.replace("\"success\":true,\"error\":\"\",\"error_kind\":null", FAILED) + "\n")
        .collect();
    assert!(failed.contains(FAILED), "{failed}");
    let done = run("vb-stats", &[], &failed);
    assert_eq!(done.code, 1, "{}", done.stderr);
    let result: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!((&result["completed"], &result["p99_ttft_ms"]), (&0.into(), &0.0.into()));
    let why = "no request succeeded (9 of 9 failed), so all latencies are 0; most often (5) http_status: no model typo";
    assert!(done.stderr.contains(why), "{}", done.stderr);
}

#[test]
fn limits_on_values_are_a_gate() {
    // 5 of 9 succeed, with TTFTs of 40 to 80 ms.
    for (rules, code, why) in [
        (&["ttft.mean > 100ms"][..], 0, ""),
        (&["ttft.mean > 50ms"], 1, "ttft.mean > 50ms: it is 56.00 ms"),
        (&["success < 99%"], 1, "success < 99%: it is 55.56 %"),
        (&["success < 50%", "ttft.max > 100ms"], 0, ""),
        (&["success < 99%", "ttft.max > 70ms"], 1, "it is 55.56 %; ttft.max > 70ms: it is 80.00 ms"),
        (&["ttft.p99 > 10s"], 1, "too few values for a P99: it needs 662, there are 5"),
        (&["throughput < 1000"], 1, "throughput < 1000: it is 9.33/s"),
        (&["ttft.p99 > +5%"], 2, "not a time (vb-diff has limits on changes)"),
        (&["goodput < 1"], 2, "needs the limits of --goodput"),
    ] {
        let flags: Vec<&str> = rules.iter().flat_map(|rule| ["--fail-if", rule]).collect();
        // The run was interrupted, which alone fails every gate.
        let whole = RUN.replace("\"interrupted\":true", "\"interrupted\":false");
        let done = run("vb-stats", &flags, &whole);
        assert_eq!(done.code, code, "{rules:?}: {}", done.stderr);
        assert!(done.stderr.contains(why), "{rules:?}: {}", done.stderr);
        assert_eq!(done.stdout.is_empty(), code == 2, "the result is written in any case");
    }
    let cut = RUN.trim_end().rsplit_once('\n').unwrap().0;
    for (text, why) in [(RUN, "it was interrupted"), (cut, "no end record of r-1")] {
        let done = run("vb-stats", &["--fail-if", "ttft.mean > 1h"], text);
        assert!(done.code == 1 && done.stderr.contains(why), "{}", done.stderr);
    }
}

#[test]
fn a_percentile_of_a_rule_is_computed() {
    let done = run("vb-stats", &["--fail-if", "ttft.p12.5 > 1h", "--metric-percentiles", "99,50"], RUN);
    let got: Value = serde_json::from_str(&done.stdout).unwrap();
    assert!(got["p12.5_ttft_ms"].is_number() && got["p90_ttft_ms"].is_null());
}

#[test]
fn what_the_input_lacks_is_reported() {
    let lines: Vec<&str> = RUN.lines().collect();
    let without = |skipped: usize| {
        let kept = lines.iter().enumerate().filter(|(i, _)| *i != skipped).map(|(_, line)| format!("{line}\n"));
        kept.collect::<String>()
    };
    for (text, why) in [
        (
            without(lines.len() - 1),
            "vb-stats: incomplete: no end record of r-1: vb-fire was killed, or the stream was cut",
        ),
        (without(3), "vb-stats: incomplete: 1 of 9 outputs are not in the input"),
        (RUN[..RUN.len() * 2 / 3].to_owned(), "vb-stats: incomplete: the last line is truncated"),
    ] {
        let done = run("vb-stats", &[], &text);
        assert_eq!(done.code, 0);
        assert!(done.stderr.contains(why), "{}", done.stderr);
    }
}

#[test]
fn runs_of_different_times_in_one_result_give_a_warning() {
    let later = RUN.replace("r-1", "r-2").replace("\"start\":17", "\"start\":18");
    let done = run("vb-stats", &[], &(RUN.to_owned() + &later));
    assert_eq!((done.code, done.stderr.lines().count()), (0, 1));
    assert!(done.stderr.contains("not at the same time"), "{}", done.stderr);
    assert_eq!(run("vb-stats", &[], &(RUN.to_owned() + &RUN.replace("r-1", "r-2"))).stderr, "");
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

/// Requests one after the other, each with two gaps; the TTFTs are in a scrambled order.
fn many(count: u64) -> String {
    let line = |i: u64| {
        let ttft = 0.1 + (scramble(i) % 1000) as f64 / 1e4;
        format!(r#"{{"type":"output","success":true,"start_time":{},"ttft":{ttft},"itl":[0.02,0.03]}}"#, 1000 + i)
            + "\n"
    };
    (0..count).map(line).collect()
}

#[test]
fn each_latency_has_intervals() {
    let got = result(&[], &many(1000));
    let ttft = &got["vb"]["from_start"]["ttft_ms"];
    for name in ["mean", "p50", "p90", "p99"] {
        let [low, high] = [0, 1].map(|end| ttft["intervals"][name][end].as_f64().unwrap());
        let value = ttft[name].as_f64().unwrap();
        assert!(low < value && value < high && high - low < 20.0, "{name}: {low} {value} {high}");
        assert_eq!(got[format!("{}_ttft_ms", if name == "p50" { "median" } else { name })], ttft[name]);
    }
    assert!(ttft["n_effective"].as_f64().unwrap() > 100.0 && ttft.get("too_few").is_none(), "{ttft}");
    // Two gaps per second, each pair like the previous one.
    assert_eq!(got["vb"]["itl_per_chunk_ms"]["intervals"]["p50"].as_array().unwrap().len(), 2);
}

/// In every second request the first chunk may have arrived 20 ms before its stamp; half of them are of the tenant a.
#[test]
fn stamps_known_to_an_interval_bound_any_percentile_of_any_group() {
    let line = |(i, line): (usize, &str)| {
        let error = if i % 2 == 0 { r#""stamp_error":[[0,0.02]],"# } else { "" };
        let tenant = ["a", "b", "a", "c"][i % 4];
        line.replace("\"success\"", &format!("\"tags\":{{\"tenant\":\"{tenant}\"}},{error}\"success\""))
    };
    let lines: Vec<String> = many(1000).lines().enumerate().map(line).collect();
    let args = ["--by", "tag:tenant", "--slice", "500s", "--metric-percentiles", "10,75,99.99"];
    let vb = &result(&args, &lines.join("\n"))["vb"];
    let bounds = |summary: &Value, name: &str| {
        let [low, high] = [0, 1].map(|end| summary["client_bounds"][name][end].as_f64().unwrap());
        let value = summary[name].as_f64().unwrap();
        assert!(low <= value && value <= high, "{name}: {summary}");
        high - low
    };
    let ttft = &vb["from_start"]["ttft_ms"];
    assert!((bounds(ttft, "mean") - 10.0).abs() < 1e-6, "{ttft}");
    assert!(bounds(ttft, "p10") > 2.0 && bounds(ttft, "p75") > 2.0, "{ttft}");
    assert_eq!(ttft["client_bounds"].get("p99.99"), None, "too few");
    let group = |key: &str| vb["groups"].as_array().unwrap().iter().find(|group| group["key"] == key).unwrap();
    assert!((bounds(&group("a")["ttft_ms"], "mean") - 20.0).abs() < 1e-6);
    assert!((bounds(&group("a")["ttft_ms"], "p75") - 20.0).abs() < 1e-6);
    // The gap of 20 ms after it may have been 40 ms, but it is not among the largest quarter then.
    assert!((bounds(&group("a")["itl_ms"], "mean") - 10.0).abs() < 1e-6);
    assert_eq!(
        (group("b").pointer("/ttft_ms/client_bounds"), group("c").pointer("/itl_ms/client_bounds")),
        (None, None)
    );
    assert!((bounds(&vb["slices"][1]["ttft_ms"], "mean") - 10.0).abs() < 1e-6);
    assert_eq!(vb["from_start"]["e2el_ms"].get("client_bounds"), None, "the last chunk has its own stamp");
    let bad = lines[0].replace("0.02]]", "-0.02]]");
    assert_eq!(run("vb-stats", &[], bad).code, 3);
}

#[test]
fn a_percentile_of_too_few_requests_is_a_bound() {
    let done = run("vb-stats", &["--table", "full"], many(400));
    let got: Value = serde_json::from_str(&done.stdout).unwrap();
    let ttft = &got["vb"]["from_start"]["ttft_ms"];
    assert!(ttft["p99"].is_null() && ttft["p90"].is_number(), "{ttft}");
    assert_eq!(ttft["too_few"], serde_json::json!({"p99": {"needs": 662, "has": 400}}));
    assert!(got["p99_ttft_ms"].is_number(), "vLLM's key keeps its value");
    let bound = ttft["intervals"]["p99"][0].as_f64().unwrap();
    let line = format!("P99 TTFT (ms):                           >= {bound:.2}  needs 662, has 400");
    assert!(done.stderr.lines().any(|l| l == line), "{line}\n{}", done.stderr);
}

#[test]
fn a_result_without_its_requests_or_with_others_is_refused() {
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
    let known = schema["$defs"]["Vb"]["properties"].as_object().unwrap();
    let flags = ["--by", "turn", "--slice", "1s", "--histograms", "--goodput", "ttft:1s", "tpot:1s"];
    let written = result(&flags, SERVER);
    let missing: Vec<&String> =
        written["vb"].as_object().unwrap().keys().filter(|key| !known.contains_key(*key)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn interrupts_do_not_stop_a_reader_of_a_pipe() {
    let mut child =
        command("vb-stats").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // More than a pipe holds: when it is written, the tool is reading.
    let blank = " ".repeat(1 << 20) + "\n";
    stdin.write_all(blank.as_bytes()).unwrap();
    let pid = child.id().to_string();
    for signal in ["-INT", "-HUP", "-INT", "-TERM"] {
        assert!(crate::tool::plain_command("kill").args([signal, &pid]).status().unwrap().success());
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    stdin.write_all(RUN.as_bytes()).unwrap();
    drop(stdin);
    let done = done(child.wait_with_output().unwrap());
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert!(done.stdout.contains("\"completed\":5"));
}

/// Each definition of `docs/METRICS.md` on the run in `tests/data/stats-run.ndjson`, with numbers computed by hand:
///
/// | request | due | waits | ttft | gaps | tokens | outcome |
/// |---|---|---|---|---|---|---|
/// | 0 | 0.25 | 0.0001 | 50 ms | 10 20 10 10 12 10 10 ms | 8 | ok |
/// | 1 | 0.5 | 0.0001 | 60 ms | 20 40 20 20 24 20 20 ms | 8 | ok |
/// | 2 | 0.75 | 0.2001 | 80 ms | 30 30 ms | 1 + 4 + 3 | ok |
/// | 3, 5 | 1.0, 1.5 | 0.0001 | | | | HTTP 429 |
/// | 4 | 1.25 | 0.0001 | 40 ms | 50 ms | 6, chunks unknown, 3 of them reasoning | ok |
/// | 6 | 1.75 | 0.0001 | | | | no token within 2 s |
/// | 7 | 2.0 | 0.3501 | 50 ms | 10 20 10 10 ms | 5 | ok |
/// | 8 | 2.25 | | | | | never sent |
mod definitions {
    use super::*;

    const METRICS: &str = "ttft,tpot,itl,e2el,client_queue_time,e2el_including_client_queue";

    fn run_result() -> Value {
        result(&["--percentile-metrics", METRICS, "--goodput", "ttft:55ms", "--save-detailed"], RUN)
    }

    /// Asserts numbers at paths such as `/vb/offered`, to a millionth.
    fn check(paths: &[(&str, f64)]) {
        let result = run_result();
        for (path, want) in paths {
            let got = result.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("no number at {path}"));
            assert!((got - want).abs() <= want.abs() * 1e-6, "{path} is {got} and not {want}");
        }
    }

    #[test]
    fn duration() {
        check(&[("/duration", 3.75)]);
    }

    /// Requests one after the other, with one token in each chunk, no reasoning and no failure; `wait` in seconds before each.
    fn plain_run(open_loop: bool, wait: f64) -> String {
        let mut lines = vec![r#"{"type":"run","run_id":"r","clock":{"start":1000}}"#.to_owned()];
        lines.extend((0..30).map(|i| {
            let (due, gap, start) = (1000 + i, f64::from(10 + i % 7) / 1e3, f64::from(1000 + i) + wait);
            format!(
                r#"{{"type":"output","run_id":"r","success":true,"output_tokens":3,"token_source":"usage","scheduled_time":{due},"#
            ) + &format!(
                r#""start_time":{start},"queue_time":{wait},"ttft":0.05,"ttft_answer":0.05,"latency":{},"itl":[{gap},0.02]}}"#,
                0.07 + gap
            )
        }));
        lines.push(format!(r#"{{"type":"end","run_id":"r","duration":31,"offered":30,"open_loop":{open_loop}}}"#));
        lines.join("\n")
    }

    /// Nothing is lost: `vb-agg --pool` reads what was left out.
    #[test]
    fn same() {
        let all = [
            ("from_schedule", "from_start"),
            ("itl_per_token_ms", "itl_per_chunk_ms"),
            ("ttft_answer_ms", "from_start.ttft_ms"),
            ("client_queue_time_ms", "schedule_lag_ms"),
            ("goodput.from_schedule", "goodput.from_start"),
        ];
        for (open_loop, wait, histograms, from_schedule) in [
            (true, 0.0, true, true),
            (true, 0.0005, false, false),
            (false, 0.0005, false, true),
            (false, 0.0005, true, false),
            (false, 0.005, false, false),
        ] {
            let histograms: &[&str] = if histograms { &["--histograms"] } else { &[] };
            let args = [&["--goodput", "ttft:60ms"], histograms].concat();
            let vb = &result(&args, &plain_run(open_loop, wait))["vb"];
            let want: serde_json::Map<String, Value> = all[usize::from(!from_schedule)..]
                .iter()
                .map(|(part, twin)| ((*part).to_owned(), (*twin).into()))
                .collect();
            assert_eq!(vb["same"], Value::Object(want), "{open_loop} {wait}");
            for (part, twin) in &all[usize::from(!from_schedule)..] {
                let at = |path: &str| vb.pointer(&format!("/{}", path.replace('.', "/"))).is_some();
                assert_eq!((at(part), at(twin)), (false, true), "{part}");
            }
        }
        let mut both = String::new();
        for (id, wait) in [("a", 0.0), ("b", 0.002)] {
            let run = plain_run(true, wait).replace("\"r\"", &format!("\"{id}\""));
            both += &(result(&["--histograms", "--goodput", "ttft:60ms"], &run).to_string() + "\n");
        }
        let pooled = run("vb-agg", &["--pool"], &both);
        assert_eq!((pooled.code, pooled.stderr.as_str()), (0, ""));
        let vb = &serde_json::from_str::<Value>(&pooled.stdout).unwrap()["vb"];
        assert_eq!(vb["from_schedule"]["ttft_ms"]["n"], 60, "{vb}");
        assert!((vb["from_schedule"]["ttft_ms"]["max"].as_f64().unwrap() - 52.0).abs() < 1e-9);
        assert_eq!(
            (&vb["same"]["itl_per_token_ms"], &vb["itl_per_chunk_ms"]["n"]),
            (&"itl_per_chunk_ms".into(), &120.into())
        );
    }

    /// From the end record.
    #[test]
    fn verdict() {
        let vb = &run_result()["vb"];
        assert_eq!(vb["verdict"], "suspect");
        assert!(vb["reasons"][0].as_str().unwrap().starts_with("the client sent late"), "{vb}");
    }

    #[test]
    fn arrivals() {
        check(&[
            ("/vb/arrivals/planned", 8.0),
            ("/vb/arrivals/distance", 0.25),
            ("/vb/arrivals/p", 0.9),
            ("/vb/arrivals/gaps/distance", 0.2),
            ("/vb/arrivals/gaps/p", 0.6),
            ("/vb/arrivals/late/no_slot", 1.0),
            ("/vb/arrivals/late/client", 2.0),
        ]);
    }

    #[test]
    fn client() {
        check(&[
            ("/vb/client/threads", 1.0),
            ("/vb/client/send_lag_ms/p99", 12.1),
            ("/vb/client/read_lag_ms/p99", 0.41),
            ("/vb/client/stamps/chunks", 26.0),
            ("/vb/client/cpu", 0.18),
            ("/vb/client/run_queue", 0.004),
            ("/vb/client/retransmits", 1.0),
        ]);
        assert_eq!(run_result()["vb"]["client"]["transport"], "stamped");
    }

    #[test]
    fn completed() {
        check(&[("/completed", 5.0)]);
    }

    #[test]
    fn failed() {
        check(&[("/failed", 4.0), ("/num_prompts", 9.0)]);
    }

    #[test]
    fn total_input_tokens() {
        check(&[("/total_input_tokens", 5.0 * 32.0)]);
    }

    #[test]
    fn total_output_tokens() {
        check(&[("/total_output_tokens", 8.0 + 8.0 + 8.0 + 6.0 + 5.0)]);
    }

    #[test]
    fn request_throughput() {
        check(&[("/request_throughput", 5.0 / 3.75)]);
    }

    #[test]
    fn request_goodput() {
        check(&[("/request_goodput", 3.0 / 3.75)]);
        assert_eq!(result(&[], RUN)["request_goodput"], Value::Null);
    }

    #[test]
    fn output_throughput() {
        check(&[("/output_throughput", 35.0 / 3.75)]);
    }

    #[test]
    fn total_token_throughput() {
        check(&[("/total_token_throughput", 195.0 / 3.75)]);
    }

    #[test]
    fn max_output_tokens_per_s() {
        // Buckets count from 0.2501. By 1.2501: 8 + 8 + 3 chunks; by 2.2501: 2; by 3.2501: 5.
        check(&[("/max_output_tokens_per_s", 19.0)]);
    }

    #[test]
    fn max_concurrent_requests() {
        // Requests 0, 1 and 2 share the first second.
        check(&[("/max_concurrent_requests", 3.0)]);
    }

    #[test]
    fn rtfx() {
        check(&[("/rtfx", 0.0)]);
    }

    #[test]
    fn ttft() {
        check(&[("/mean_ttft_ms", 56.0), ("/median_ttft_ms", 50.0), ("/p90_ttft_ms", 72.0)]);
    }

    #[test]
    fn tpot() {
        let sum = 82.0 / 7.0 + 164.0 / 7.0 + 60.0 / 7.0 + 50.0 / 5.0 + 50.0 / 4.0;
        check(&[("/mean_tpot_ms", sum / 5.0), ("/vb/tpot_ms/n", 5.0)]);
    }

    #[test]
    fn itl() {
        let sum = 82.0 + 164.0 + 60.0 + 50.0 + 50.0;
        check(&[("/mean_itl_ms", sum / 21.0), ("/median_itl_ms", 20.0)]);
    }

    #[test]
    fn e2el() {
        check(&[("/mean_e2el_ms", (132.0 + 224.0 + 140.0 + 90.0 + 100.0) / 5.0), ("/median_e2el_ms", 132.0)]);
    }

    #[test]
    fn client_queue_time() {
        check(&[("/mean_client_queue_time_ms", (3.0 * 0.1 + 200.1 + 350.1) / 5.0)]);
    }

    #[test]
    fn e2el_including_client_queue() {
        check(&[("/median_e2el_including_client_queue_ms", 224.1), ("/p99_e2el_including_client_queue_ms", 445.7)]);
    }

    #[test]
    fn outcomes() {
        let want = serde_json::json!({"ok": 5, "timeout_first_token": 1, "http_status": 2, "not_sent": 1});
        assert_eq!(run_result()["vb"]["outcomes"], want, "and no kind that there was not");
        check(&[("/vb/offered", 9.0), ("/vb/not_sent", 3.0)]);
    }

    /// Wilson's interval for 180 of 200 independent outcomes; nine are too few.
    #[test]
    fn success_interval() {
        assert_eq!(run_result()["vb"]["success_interval"], Value::Null);
        let line = |i: u64| {
            let success = !crate::tool::scramble(i).is_multiple_of(10);
            format!(
                r#"{{"type":"output","request_id":"{i}","success":{success},"start_time":{i},"ttft":0.1,"latency":0.2,"output_tokens":2}}"#
            )
        };
        let stream: String = (0..200).map(|i| line(i) + "\n").collect();
        let result = result(&[], &stream);
        let (n, hits) = (200.0, result["completed"].as_f64().unwrap());
        let (p, z2) = (hits / n, 1.959_964_f64.powi(2));
        let middle = (p + z2 / (2.0 * n)) / (1.0 + z2 / n);
        let half = (z2 * (p * (1.0 - p) / n + z2 / (4.0 * n * n))).sqrt() / (1.0 + z2 / n);
        for (which, want) in [(0, middle - half), (1, middle + half)] {
            let end = result["vb"]["success_interval"][which].as_f64().unwrap();
            assert!((end - want).abs() < 1e-5, "{end} is not {want} ({hits} of {n})");
        }
    }

    #[test]
    fn from_start() {
        check(&[("/vb/from_start/ttft_ms/mean", 56.0), ("/vb/from_start/e2el_ms/max", 224.0)]);
    }

    #[test]
    fn from_schedule() {
        // 50.1, 60.1, 280.1, 40.1 and 400.1.
        check(&[("/vb/from_schedule/ttft_ms/mean", 166.1), ("/vb/from_schedule/ttft_ms/max", 400.1)]);
        check(&[("/vb/from_schedule/e2el_ms/max", 450.1)]);
    }

    #[test]
    fn tpot_ms() {
        check(&[("/vb/tpot_ms/min", 60.0 / 7.0), ("/vb/tpot_ms/max", 164.0 / 7.0)]);
    }

    #[test]
    fn longest_stall_ms() {
        check(&[("/vb/longest_stall_ms/n", 5.0), ("/vb/longest_stall_ms/max", 50.0)]);
    }

    #[test]
    fn itl_per_chunk_ms() {
        check(&[("/vb/itl_per_chunk_ms/n", 21.0), ("/vb/itl_per_chunk_ms/max", 50.0)]);
    }

    #[test]
    fn itl_per_token_ms() {
        // Request 2: 4 of 7.5 ms and 3 of 10 ms; request 4: 3 + 3 tokens, so 3 of 50 / 3 ms.
        check(&[
            ("/vb/itl_per_token_ms/n", 7.0 + 7.0 + 7.0 + 3.0 + 4.0),
            ("/vb/itl_per_token_ms/mean", (82.0 + 164.0 + 60.0 + 50.0 + 50.0) / 28.0),
            ("/vb/itl_per_token_ms/min", 7.5),
        ]);
        assert_eq!(run_result()["vb"]["itl_per_token_estimated"], true);
    }

    #[test]
    fn ttft_answer_ms() {
        check(&[("/vb/ttft_answer_ms/mean", (50.0 + 60.0 + 80.0 + 90.0 + 50.0) / 5.0)]);
    }

    #[test]
    fn schedule_lag_ms() {
        check(&[
            ("/vb/schedule_lag_ms/n", 8.0),
            ("/vb/schedule_lag_ms/too_few/p50/has", 8.0),
            ("/vb/schedule_lag_ms/max", 350.1),
        ]);
    }

    #[test]
    fn run_length() {
        check(&[("/vb/run_length/correlation_times", 5.0)]);
        let advice = run_result()["vb"]["run_length"]["advice"].clone();
        assert!(advice.as_str().unwrap().starts_with("this run has 5 requests"), "{advice}");
        assert_eq!(result(&[], &many(1000))["vb"]["run_length"]["advice"], Value::Null);
    }

    #[test]
    fn read_lag_ms() {
        check(&[("/vb/read_lag_ms/n", 5.0), ("/vb/read_lag_ms/max", 0.02)]);
    }

    /// Tokens after the first come every 82/7, 164/7, 60/7, 10 and 12.5 ms.
    #[test]
    fn tokens_per_s_per_user() {
        let speeds = [7e3 / 82.0, 7e3 / 164.0, 7e3 / 60.0, 100.0, 80.0];
        check(&[
            ("/vb/tokens_per_s_per_user/n", 5.0),
            ("/vb/tokens_per_s_per_user/mean", speeds.iter().sum::<f64>() / 5.0),
        ]);
        let many = result(&["--metric-percentiles", "50,90"], &plain_run(false, 0.0));
        for (p, at_least) in many["vb"]["tokens_per_s_per_user"]["at_least"].as_object().unwrap() {
            let tpot = many["vb"]["tpot_ms"][p].as_f64().unwrap();
            assert!((at_least.as_f64().unwrap() - 1e3 / tpot).abs() < 1e-9, "{p}");
        }
        assert_eq!(
            many["vb"]["tokens_per_s_per_user"]["at_least"].as_object().unwrap().len(),
            1,
            "30 are too few for p90"
        );
        let none = r#"{"type":"output","success":true,"ttft":0.1,"latency":0.1,"output_tokens":1,"itl":[]}"#;
        assert_eq!(result(&[], none)["vb"]["tokens_per_s_per_user"], Value::Null);
    }

    #[test]
    fn per_gpu() {
        let got = result(&["--gpus", "4"], RUN);
        let per_gpu = &got["vb"]["per_gpu"];
        assert_eq!(per_gpu["gpus"], 4);
        for key in ["request_throughput", "output_throughput", "total_token_throughput"] {
            assert_eq!(Value::from(per_gpu[key].as_f64().unwrap() * 4.0), got[key], "{key}");
        }
        assert_eq!(run_result()["vb"]["per_gpu"], Value::Null);
        // 90 tokens in 31 s.
        let gate = |args: &[&str]| {
            run("vb-stats", &[args, &["--fail-if", "throughput_per_gpu < 0.9"]].concat(), plain_run(true, 0.0))
        };
        let (without, with) = (gate(&[]), gate(&["--gpus", "4"]));
        assert_eq!((without.code, with.code), (2, 1), "{} {}", without.stderr, with.stderr);
        assert!(with.stderr.contains("throughput_per_gpu < 0.9: it is 0.73/s"), "{}", with.stderr);
        assert_eq!(gate(&["--gpus", "3"]).code, 0);
    }

    /// 16 of the prompts' tokens came from the cache.
    #[test]
    fn uncached_prompt_tokens_per_s() {
        check(&[("/vb/uncached_prompt_tokens_per_s", (5.0 * 32.0 - 16.0) / 3.75)]);
        assert_eq!(result(&[], &plain_run(true, 0.0))["vb"]["uncached_prompt_tokens_per_s"], Value::Null);
    }

    /// Of 200 requests two take 5 s and the others 0.5 s; the first token takes a fifth of that.
    #[test]
    fn slowest_1_percent() {
        assert_eq!(run_result()["vb"]["slowest_1_percent"], Value::Null, "of five");
        let line = |i: u64| {
            let latency = if i.is_multiple_of(100) { 5.0 } else { 0.5 };
            let ttft = latency / 5.0;
            format!(
                r#"{{"type":"output","success":true,"start_time":{i},"ttft":{ttft},"latency":{latency},"itl":[{}]}}"#,
                latency - ttft
            )
        };
        let stream = (0..200).map(line).collect::<Vec<_>>().join("\n");
        let got = result(&[], &stream);
        for metric in ["ttft", "e2el"] {
            let slowest = &got["vb"]["slowest_1_percent"][metric];
            assert_eq!(slowest["requests"], 2);
            assert!((slowest["share_of_mean"].as_f64().unwrap() - 10.0 / 109.0).abs() < 1e-9, "{slowest}");
        }
    }

    /// By hand, to the end of each response or failure.
    #[test]
    fn mean_concurrency() {
        let records = RUN.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let outputs = records.filter(|record| record["type"] == "output" && record["start_time"].is_number());
        let lives: f64 = outputs.filter_map(|r| r["phases"]["done"].as_f64().or(r["latency"].as_f64())).sum();
        assert!(lives > 0.686, "the successes alone");
        check(&[("/vb/mean_concurrency", lives / 3.75)]);
        let gate = run("vb-stats", &["--fail-if", "mean_concurrency > 0.1"], RUN);
        assert_eq!(gate.code, 1, "{}", gate.stderr);
        let untimed = result(&[], r#"{"type":"output","success":true,"ttft":0.1,"latency":0.2}"#);
        assert_eq!(untimed["vb"]["mean_concurrency"], Value::Null);
    }

    #[test]
    fn peak_concurrency() {
        // Request 6 waits for its timeout while request 7 runs.
        check(&[("/vb/peak_concurrency", 2.0)]);
    }

    #[test]
    fn peak_tokens_per_s() {
        // Within the second up to 1.2501 + 0.04: all 8 + 8 + 8 of requests 0 to 2 (the first came at 0.3001), and 3 of 4.
        check(&[("/vb/peak_tokens_per_s", 27.0)]);
    }

    #[test]
    fn shortfall() {
        check(&[("/vb/shortfall/compared", 4.0), ("/vb/shortfall/short", 1.0), ("/vb/shortfall/missing_tokens", 2.0)]);
        check(&[("/vb/cached_tokens", 16.0), ("/vb/reasoning_tokens", 3.0), ("/vb/token_sources/usage", 4.0)]);
    }

    /// Lengths, hidden tokens and paces of outputs written by hand: a prompt that is longer than asked, hidden reasoning, one
    /// chunk, no count, a count of chunks, and an output beyond its limit.
    #[test]
    fn lengths_and_paces_of_odd_responses() {
        let output = |rest: &str| {
            format!(
                r#"{{"type":"output","success":true,"ttft":0.1,"expected_prompt_len":10,"expected_output_len":4,{rest}}}"#
            )
        };
        let lines = [
            r#""prompt_len":36,"output_tokens":103,"hidden_tokens":100,"token_source":"usage","latency":0.2,"itl":[0.05,0.05]"#,
            r#""prompt_len":36,"output_tokens":4,"token_source":"usage","latency":0.1,"itl":[],"chunk_tokens":[]"#,
            r#""prompt_len":36,"output_tokens":0,"token_source":null,"latency":0.1,"itl":[],"chunk_tokens":[]"#,
            r#""prompt_len":36,"output_tokens":2,"token_source":"chunks","latency":0.2,"itl":[0.1]"#,
        ]
        .map(output)
        .join("\n");
        let got = result(&["--goodput", "tpot:1s"], &lines);
        let number = |path: &str| got.pointer(path).and_then(Value::as_f64).unwrap_or_else(|| panic!("{path}: {got}"));
        for (path, want) in [
            ("/vb/hidden_tokens", 100.0),
            ("/vb/output_tokens/n", 3.0),
            ("/vb/tpot_ms/n", 2.0),
            ("/vb/tpot_ms/mean", 75.0),
            ("/vb/goodput/from_start/requests", 2.0),
            ("/vb/shortfall/compared", 2.0),
            ("/vb/shortfall/long", 1.0),
            ("/vb/shortfall/extra_tokens", 99.0),
            ("/vb/prompt_lengths/compared", 4.0),
            ("/vb/prompt_lengths/least_extra", 26.0),
            ("/vb/prompt_lengths/most_extra", 26.0),
        ] {
            assert!((number(path) - want).abs() < 1e-6, "{path} is {} and not {want}", number(path));
        }
        let two = result(
            &[],
            &output(r#""prompt_len":10,"output_tokens":7,"choices":2,"token_source":"usage","latency":0.1"#),
        );
        let shortfall = &two["vb"]["shortfall"];
        assert_eq!(
            (&shortfall["short"], &shortfall["long"], &shortfall["missing_tokens"]),
            (&1.into(), &Value::Null, &1.into())
        );
        let uncounted = result(&[], lines.lines().nth(2).unwrap());
        assert_eq!(uncounted["vb"]["output_tokens"], Value::Null);
        let table = run("vb-stats", &["--table", "full"], &lines).stderr;
        for line in [
            "tokens: 1 of 4 responses have at least as many tokens as counted, one for each chunk",
            "tokens: 100 hidden tokens, as reasoning that is not sent, are not in TPOT and ITL",
            "outputs: 1 of 4 are longer than requested",
            "prompts: the server counts 36.0 tokens in each prompt, not 10.0 as asked for (+260.0 %)",
        ] {
            assert!(table.contains(line), "{line}: {table}");
        }
    }

    #[test]
    fn goodput() {
        check(&[("/vb/goodput/from_start/requests", 3.0), ("/vb/goodput/from_start/attainment", 3.0 / 9.0)]);
        check(&[("/vb/goodput/from_schedule/requests", 2.0), ("/vb/goodput/from_schedule/per_s", 2.0 / 3.75)]);
    }

    /// Gaps of 10 to 16 ms and of 20 ms, after 50 ms.
    #[test]
    fn limits_on_the_gaps_of_a_request() {
        let own = |i: usize| f64::from(10 + u8::try_from(i % 7).unwrap()) / 1e3;
        // NumPy's percentile of two values.
        let p99 = |i: usize| own(i) + 0.99 * (0.02 - own(i));
        let good = |limit: &str, open_loop| {
            let got = result(&["--goodput", limit], &plain_run(open_loop, 0.5));
            let goodput = got["vb"]["goodput"].clone();
            let good = goodput["from_start"]["requests"].as_f64();
            assert!((good.unwrap() / 31.0 - got["request_goodput"].as_f64().unwrap()).abs() < 1e-9);
            assert_eq!(got["vb"]["same"]["goodput.from_schedule"], "goodput.from_start", "a wait is in no gap");
            (
                goodput["slos_ms"].as_object().unwrap().keys().next().unwrap().clone(),
                goodput["from_start"]["requests"].as_u64(),
            )
        };
        assert_eq!(good("longest_stall:20", true), ("longest_stall".into(), Some(30)));
        assert_eq!(good("stall:19.9ms", false), ("longest_stall".into(), Some(0)));
        let kept = (0..30).filter(|i| p99(*i) <= 0.01994).count() as u64;
        assert!(kept > 0 && kept < 30);
        assert_eq!(good("p99_itl:19.94ms", true), ("p99_itl".into(), Some(kept)));
        assert_eq!(good("itl_p99:19.94ms", true), ("p99_itl".into(), Some(kept)));
        // A single token has no gap; the gaps of several in one chunk are unknown; a response without streaming has none at all.
        let line = |tokens: u32, ttft: &str| {
            format!(
                r#"{{"type":"output","success":true,"output_tokens":{tokens},"token_source":"usage","ttft":{ttft},"latency":0.2,"itl":[],"chunk_tokens":[{tokens}]}}"#
            )
        };
        for (stream, attainment) in [
            (line(1, "0.1"), serde_json::json!(1.0)),
            (line(1, "0.1") + "\n" + &line(9, "0.1"), serde_json::json!(0.5)),
            (line(9, "null"), Value::Null),
        ] {
            for limit in ["longest_stall:1s", "p99_itl:1s"] {
                let got = result(&["--goodput", limit], &stream);
                assert_eq!(got["vb"]["goodput"]["from_start"]["attainment"], attainment, "{limit} {stream}");
            }
        }
    }

    /// Like `check`, for `SERVER`.
    fn check_server(paths: &[(&str, f64)]) {
        let result = result(&[], SERVER);
        for (path, want) in paths {
            let got = result.pointer(&format!("/vb{path}")).and_then(Value::as_f64);
            let got = got.unwrap_or_else(|| panic!("no number at {path}"));
            assert!((got - want).abs() <= want.abs() * 1e-6, "{path} is {got} and not {want}");
        }
    }

    #[test]
    fn server() {
        check_server(&[
            ("/server/scrapes", 3.0),
            ("/server/failed_scrapes", 0.0),
            ("/server/seconds", 3.0),
            ("/server/resets", 0.0),
            // Two of each engine.
            ("/server/finished/length", 4.0),
            ("/server/finished/stop", 0.0),
            ("/server/prompt_tokens", 400.0),
            ("/server/generation_tokens", 20.0),
            ("/server/prefix_cache/queries", 400.0),
            // 72, and 8 from outside, for each engine.
            ("/server/prefix_cache/hits", 160.0),
            ("/server/prefix_cache/hit_rate", 0.4),
            ("/server/prefix_cache/block_size", 16.0),
            ("/server/preemptions", 1.0),
            // 0.2 and 0.4 in the middle of three pages, 0 before and after.
            ("/server/kv_cache_usage/mean", 0.15),
            ("/server/kv_cache_usage/max", 0.3),
            ("/server/running/mean", 1.5),
            ("/server/running/max", 3.0),
            ("/server/waiting/max", 1.0),
            ("/server/spec_decode/acceptance_rate", 0.5),
            ("/server/spec_decode/mean_acceptance_length", 2.5),
            ("/server/spec_decode/acceptance_rate_of_position/1", 0.5),
        ]);
        check_server(&[
            ("/server/ttft_ms/n", 4.0),
            ("/server/ttft_ms/mean", 25.0),
            // One up to 20 ms, three up to 40 ms: the second is a third of the way.
            ("/server/ttft_ms/p50/value", 20.0 + 20.0 / 3.0),
            ("/server/ttft_ms/p50/above", 20.0),
            ("/server/ttft_ms/p50/upto", 40.0),
            ("/server/ttft_ms/p90/value", 20.0 + 20.0 * 2.6 / 3.0),
            ("/server/itl_ms/mean", 9.5),
            ("/server/tpot_ms/mean", 9.5),
            ("/server/e2el_ms/mean", 66.0),
            ("/server/queue_ms/mean", 2.0),
            ("/server/prefill_ms/mean", 20.0),
            ("/server/decode_ms/mean", 38.0),
            ("/server/inference_ms/mean", 58.0),
        ]);
    }

    #[test]
    fn server_queue_ms() {
        check_server(&[("/server_queue_ms/n", 4.0), ("/server_queue_ms/mean", 1.5), ("/server_queue_ms/max", 2.0)]);
        assert_eq!(run_result()["vb"]["server_queue_ms"], Value::Null);
    }

    #[test]
    fn server_ttft_ms() {
        check_server(&[("/server_ttft_ms/n", 4.0), ("/server_ttft_ms/too_few/p50/has", 4.0)]);
    }

    #[test]
    fn reconciled() {
        check_server(&[
            ("/server/reconciled/ttft_ms/client", 30.0),
            ("/server/reconciled/ttft_ms/server", 25.0),
            ("/server/reconciled/ttft_ms/queue", 2.0),
            ("/server/reconciled/ttft_ms/prefill", 20.0),
            ("/server/reconciled/ttft_ms/frontend", 3.0),
            ("/server/reconciled/ttft_ms/outside", 5.0),
            ("/server/reconciled/itl_ms/outside", 0.5),
            ("/server/reconciled/e2el_ms/client", 70.0),
            ("/server/reconciled/e2el_ms/decode", 38.0),
            ("/server/reconciled/e2el_ms/frontend", 6.0),
            ("/server/reconciled/e2el_ms/outside", 4.0),
        ]);
        assert_eq!(result(&[], SERVER)["vb"]["server"]["notes"], Value::Null);
    }

    #[test]
    fn cache() {
        check_server(&[
            ("/cache/requests", 4.0),
            ("/cache/meant_share", 3.0 * 64.0 / 400.0),
            ("/cache/cached_share", 0.4),
        ]);
        let cache = &result(&[], SERVER)["vb"]["cache"];
        assert_eq!((&cache["source"], &cache["note"]), (&"scrape".into(), &Value::Null));
    }

    #[test]
    fn client_queue_time_ms() {
        let result = run_result();
        assert_eq!(result["vb"]["client_queue_time_ms"]["mean"], result["mean_client_queue_time_ms"]);
    }

    #[test]
    fn requests_per_s() {
        check(&[("/vb/requests_per_s/per_s", 5.0 / 3.75)]);
        assert_eq!(run_result()["vb"]["requests_per_s"]["interval"], Value::Null, "of five requests");
    }

    #[test]
    fn output_tokens_per_s() {
        check(&[("/vb/output_tokens_per_s/per_s", 35.0 / 3.75)]);
        assert_eq!(run_result()["vb"]["output_tokens_per_s"]["interval"], Value::Null, "of responses that are rare");
        let of_server = &result(&[], SERVER)["vb"]["output_tokens_per_s"];
        let (interval, per_s) = (&of_server["interval"], of_server["per_s"].as_f64().unwrap());
        assert!(interval[0].as_f64().unwrap() < per_s && per_s < interval[1].as_f64().unwrap(), "{of_server}");
    }

    #[test]
    fn steady() {
        let steady = &run_result()["vb"]["steady"];
        assert_eq!((&steady["verdict"], &steady["numbers"]), (&"too_short".into(), &Value::Null));
        assert!(steady["why"].as_str().unwrap().contains("50 are needed"), "{steady}");
    }

    /// By hand: request 2 meets its first deadline only and misses 1 + 2 + 1 + 1 + 1 + 1 + 1; request 3 is 20 ms late (2), then
    /// 15 ms (2), and has six tokens in time; the others meet all.
    #[test]
    fn fluidity() {
        let result = result(&["--goodput", "ttft:60ms", "tpot:15ms"], RUN);
        let fluidity = &result["vb"]["goodput"]["fluidity"];
        let near = |path: &str, want: f64| {
            let got = fluidity.pointer(path).and_then(Value::as_f64).unwrap();
            assert!((got - want).abs() < 1e-9, "{path}: {fluidity}");
        };
        near("/index/mean", (1.0 + 1.0 / 9.0 + 0.6 + 1.0 + 1.0) / 5.0);
        near("/fluid", 3.0);
        near("/attainment", 3.0 / 9.0);
        assert_eq!(run_result()["vb"]["goodput"]["fluidity"], Value::Null, "without a limit of TPOT");
    }

    #[test]
    fn groups() {
        let result = result(&["--by", "input_len", "turn", "tag:a", "--goodput", "ttft:55ms"], RUN);
        let counts = |by: &str| {
            let groups = result["vb"]["groups"].as_array().unwrap().iter().filter(|group| group["by"] == by);
            groups.map(|g| (g["key"].as_str().unwrap().to_owned(), g["offered"].as_u64().unwrap())).collect::<Vec<_>>()
        };
        assert_eq!(counts("input_len"), [("32-63".to_owned(), 9)]);
        assert_eq!((counts("turn"), counts("tag:a")), (vec![("(none)".into(), 9)], vec![("(none)".into(), 9)]));
        let group = &result["vb"]["groups"][0];
        assert_eq!((&group["completed"], &group["failed"]), (&5.into(), &4.into()));
        assert_eq!(group["e2el_ms"]["mean"], result["vb"]["from_start"]["e2el_ms"]["mean"]);
        assert_eq!(group["itl_ms"]["mean"], result["vb"]["itl_per_chunk_ms"]["mean"]);
        let good = &result["vb"]["goodput"]["from_start"];
        assert_eq!((&group["attainment"], &group["attainment_of"]), (&good["attainment"], &good["attainment_of"]));
        assert_eq!(group["good_tokens"], good["tokens"]);
    }

    #[test]
    fn slices() {
        let result = result(&["--slice", "1s"], RUN);
        let slices = result["vb"]["slices"].as_array().unwrap();
        let rows = slices.iter().map(|s| [&s["from_s"], &s["to_s"], &s["offered"], &s["output_tokens"]]);
        let rows: Vec<Vec<f64>> = rows.map(|s| s.iter().map(|v| v.as_f64().unwrap()).collect()).collect();
        assert_eq!(rows, [[0.0, 1.0, 3.0, 24.0], [1.0, 2.0, 4.0, 6.0], [2.0, 3.0, 1.0, 5.0]]);
    }

    #[test]
    fn every_definition_has_a_test_with_its_name() {
        let headings = include_str!("../../docs/METRICS.md").lines().filter_map(|line| line.strip_prefix("### "));
        let names = headings.flat_map(|heading| heading.split(", ")).filter(|name| !name.contains(' '));
        let tests = include_str!("stats.rs");
        let missing: Vec<&str> = names.filter(|name| !tests.contains(&format!("fn {name}()"))).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}

#[test]
fn metadata_cannot_take_the_place_of_a_number() {
    let file = data("stats-run.ndjson");
    for key in ["completed=5", "duration=1", "vb=x"] {
        let done = run("vb-stats", &["--metadata", key, "gpu=H100", "--", file.to_str().unwrap()], "");
        assert_eq!((done.code, done.stdout.as_str()), (2, ""), "{key}");
        assert!(done.stderr.contains("the result has a key of that name"), "{}", done.stderr);
    }
}

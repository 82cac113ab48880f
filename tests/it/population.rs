//! Who counts: requests that the client cancelled on purpose are in no share, in no tool.

use std::{fmt::Write, fs, process::Stdio};

use serde_json::{Value, json};

use crate::tool::{command, done, folder, run};

/// A run of `n` requests, one each 50 ms with three tokens of 10 ms. The client cancels every `every`th on purpose, and the fourth
/// fails. Each has the tag `left` or `stayed`.
fn stream(id: &str, n: u64, every: u64) -> String {
    let start = 1_795_485_600.0;
    let mut text = format!(
        "{}\n",
        json!({"type": "run", "run_id": id, "host": id, "request_rate": 20, "clock": {"start": start}})
    );
    for i in 0..n {
        let (left, failed) = (i % every == 1, i == 3);
        let success = !left && !failed;
        let kind = [(left, "abandoned"), (failed, "reset")].into_iter().find(|(is, _)| *is).map(|(_, kind)| kind);
        let output = json!({"type": "output", "run_id": id, "request_id": i.to_string(), "success": success,
            "tags": {"user": if left { "left" } else { "stayed" }},
            "error": if success { "" } else { "gone" }, "error_kind": kind, "prompt_len": 8,
            "output_tokens": if success { 3 } else { 0 }, "start_time": start + i as f64 * 0.05,
            "scheduled_time": start + i as f64 * 0.05, "queue_time": 0, "ttft": if success { Some(0.01) } else { None },
            "latency": if success { Some(0.03) } else { None }, "itl": if success { vec![0.01, 0.01] } else { vec![] },
            "phases": {"done": 0.03}});
        let _ = writeln!(text, "{output}");
    }
    let end = json!({"type": "end", "run_id": id, "duration": n as f64 * 0.05, "offered": n, "open_loop": true});
    text + &format!("{end}\n")
}

fn result(args: &[&str], input: &str) -> Value {
    let done = run("vb-stats", args, input);
    assert_eq!(done.code, 0, "{}", done.stderr);
    serde_json::from_str(&done.stdout).unwrap()
}

/// Of 40 requests 13 leave and one fails: 26 of 27 succeed.
#[test]
fn a_result_has_no_share_of_requests_cancelled_on_purpose() {
    let run_of_40 = stream("r", 40, 3);
    let args =
        ["--goodput", "ttft:1s", "tpot:1s", "--by", "tag:user", "--fail-if", "success < 96%", "attainment < 96%"];
    let got = result(&args, &run_of_40);
    assert_eq!((&got["completed"], &got["failed"], &got["vb"]["offered"]), (&26.into(), &1.into(), &40.into()));
    let share = 26.0 / 27.0;
    let goodput = &got["vb"]["goodput"];
    assert_eq!(
        (&goodput["from_start"]["attainment"], &goodput["fluidity"]["attainment"]),
        (&share.into(), &share.into())
    );
    let groups = got["vb"]["groups"].as_array().unwrap();
    let of = |key: &str| groups.iter().find(|group| group["key"] == key).unwrap();
    assert_eq!((&of("left")["abandoned"], &of("left")["failed"]), (&13.into(), &0.into()));
    assert_eq!((of("stayed").get("abandoned"), &of("stayed")["failed"]), (None, &1.into()));
    assert!(got["vb"]["errors"].as_array().unwrap().iter().all(|error| error["kind"] == "reset"), "{got}");
    let table = run("vb-stats", &["--table", "full", "--goodput", "ttft:1s", "tpot:1s"], &run_of_40).stderr;
    for line in [
        "Failed requests:                         1",
        "Good requests:                           26 of 27",
        "26 of 27",
        "13 cancelled on purpose",
    ] {
        assert!(table.contains(line), "{line}: {table}");
    }
    assert!(!table.contains("abandoned"), "{table}");
}

#[test]
fn pooled_results_have_no_share_of_requests_cancelled_on_purpose() {
    let home = folder("population-pool");
    // One user in three leaves on one host, and one in two on the other.
    let paths: Vec<String> = [("a", 3), ("b", 2)]
        .map(|(id, every)| {
            let path = home.join(format!("{id}.json"));
            let args = ["--histograms", "--goodput", "ttft:1s", "tpot:1s", "--by", "tag:none"];
            fs::write(&path, result(&args, &stream(id, 40, every)).to_string()).unwrap();
            path.to_str().unwrap().to_owned()
        })
        .to_vec();
    let done = run("vb-agg", &["--pool", &paths[0], &paths[1]], "");
    assert_eq!((done.code, done.stderr.as_str()), (0, ""));
    let pooled: Value = serde_json::from_str(&done.stdout).unwrap();
    // The fourth request of the second host is one that leaves.
    assert_eq!((&pooled["completed"], &pooled["failed"]), (&46.into(), &1.into()));
    let goodput = &pooled["vb"]["goodput"];
    assert_eq!(pooled["vb"]["same"]["goodput.from_schedule"], "goodput.from_start");
    for path in ["/from_start/attainment", "/fluidity/attainment"] {
        let share = goodput.pointer(path).and_then(Value::as_f64).unwrap();
        assert!((share - 46.0 / 47.0).abs() < 1e-12, "{path}: {share}");
    }
    let group = &pooled["vb"]["groups"][0];
    assert_eq!((&group["abandoned"], &group["failed"]), (&33.into(), &1.into()));
    assert!((group["attainment"].as_f64().unwrap() - 46.0 / 47.0).abs() < 1e-12, "{group}");
}

#[test]
fn a_gate_on_successes_ignores_requests_cancelled_on_purpose() {
    let home = folder("population-diff");
    for (name, every) in [("a.ndjson", 1000), ("b.ndjson", 3)] {
        fs::write(home.join(name), stream("r", 400, every)).unwrap();
    }
    let args = ["a.ndjson", "b.ndjson", "--format", "json", "--fail-if", "success < -3%"];
    let done = done(command("vb-diff").args(args).current_dir(&home).stdin(Stdio::null()).output().unwrap());
    let report: Value = serde_json::from_str(&done.stdout).unwrap_or_else(|_| panic!("{done:?}"));
    assert_eq!((done.code, &report["b"]["requests"], &report["b"]["failed"]), (0, &400.into(), &1.into()), "{done:?}");
    let changes = report["changes"].as_array().unwrap();
    let of = |metric: &str| changes.iter().find(|row| row["metric"] == metric).unwrap_or_else(|| panic!("{report}"));
    assert!((of("success")["b"]["value"].as_f64().unwrap() - 266.0 / 267.0).abs() < 1e-12, "{report}");
    assert_eq!(of("request_throughput")["b"]["n"], 266);
}

/// Two requests of three end at the very end of a run of 0.3 s.
#[test]
fn a_short_run_loses_no_event_at_its_end_and_no_mean_exceeds_its_peak() {
    let output = |i: u32, done: f64| {
        json!({"type": "output", "run_id": "r", "request_id": i.to_string(), "success": true, "error": "",
            "output_tokens": 3, "start_time": 1_795_485_600.1 + f64::from(i) * 1e-9, "ttft": done - 0.03, "latency": done,
            "itl": [0.02, 0.01], "queue_time": 0, "scheduled_time": 1_795_485_600.1, "phases": {"done": done}})
    };
    let lines: Vec<String> = [(0, 0.3), (1, 0.3), (2, 0.2)].map(|(i, done)| output(i, done).to_string()).to_vec();
    let got = result(&[], &lines.join("\n"));
    let number = |path: &str| got.pointer(path).and_then(Value::as_f64).unwrap();
    let throughput = number("/request_throughput");
    assert!(
        (throughput - 10.0).abs() < 1e-6 && (number("/vb/requests_per_s/per_s") - throughput).abs() < 1e-9,
        "{got}"
    );
    assert!((number("/vb/output_tokens_per_s/per_s") - number("/output_throughput")).abs() < 1e-9, "{got}");
    assert!((number("/vb/peak_tokens_per_s") - 30.0).abs() < 0.1, "{got}");
}

#[test]
fn a_limit_on_the_first_token_says_nothing_without_streaming() {
    let lines =
        stream("r", 40, 1000).replace("\"ttft\":0.01", "\"ttft\":null").replace("\"itl\":[0.01,0.01]", "\"itl\":[]");
    let got = result(&["--goodput", "ttft:1s", "tpot:1s", "e2el:1s"], &lines);
    let good = &got["vb"]["goodput"]["from_start"];
    let unknown = ["requests", "per_s", "attainment", "tokens"].map(|key| &good[key]);
    assert!(got["request_goodput"].is_null() && unknown.iter().all(|value| value.is_null()), "{good}");
    assert_eq!((&good["attainment_of"]["ttft"], &good["attainment_of"]["e2el"]), (&Value::Null, &(38.0 / 39.0).into()));
    assert_eq!(got["vb"]["goodput"]["fluidity"]["attainment"], Value::Null);
    let table = run("vb-stats", &["--table", "full", "--goodput", "ttft:1s"], &lines).stderr;
    assert!(table.contains("Good requests:                           -"), "{table}");
    let gate = run("vb-stats", &["--goodput", "ttft:1s", "--fail-if", "attainment < 1%"], &lines);
    assert!(gate.code == 1 && gate.stderr.contains("no success has a value"), "{gate:?}");
}

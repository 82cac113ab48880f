//! Load shapes through `vb-fire`: planned as data, sent as planned, and reported if they were not.

use std::{fs, io::Write, process::Stdio, thread::sleep, time::Duration};

use rustix::process::{Pid, Signal, kill_process};

use serde_json::{Value, json};

use crate::{
    fire::{fire, records, requests},
    tool::{Sim, command, folder, run, truths},
};

/// The run record, the outputs and the end record of a load.
fn load(sim: &Sim, args: &[&str], stdin: &str) -> (Value, Vec<Value>, Value) {
    let done = fire(&sim.url, args, stdin);
    assert_eq!(done.code, 0, "{args:?}: {}", done.stderr);
    records(&done.stdout)
}

/// When requests were due, in seconds from the first one's, in order.
fn due(outputs: &[Value], start: &Value) -> Vec<f64> {
    let start = start["clock"]["start"].as_f64().unwrap();
    let mut due: Vec<f64> = outputs.iter().map(|o| o["scheduled_time"].as_f64().unwrap() - start).collect();
    due.sort_by(f64::total_cmp);
    due
}

#[test]
fn a_rate_over_time_is_kept_and_reported() {
    let sim = Sim::start(&["--step-base", "1ms"]);
    let args = ["--request-rate", "100:100ms,100-300:200ms,300", "--burstiness", "inf"];
    let (run, outputs, end) = load(&sim, &args, &requests(80, ""));
    let due = due(&outputs, &run);
    // 10 in the first 100 ms, 40 in the next 200 ms, and 300 a second after that.
    for (at, count) in [(0.1, 10), (0.3, 50), (0.4, 80)] {
        let came = due.iter().filter(|t| **t <= at + 1e-6).count();
        assert!(came.abs_diff(count) <= 1, "{at}: {came} of {count}");
    }
    assert_eq!((&run["request_rate"], &run["rate_profile"]), (&json!(null), &json!("100:100ms,100-300:200ms,300")));
    assert_eq!((&end["open_loop"], &end["arrivals"]["planned"]), (&json!(true), &json!(80)));
    assert!(end["arrivals"]["gaps"].is_null(), "{end}");
}

#[test]
fn the_ramp_of_vllm_goes_by_time() {
    let sim = Sim::start(&["--step-base", "1ms"]);
    let ramp = ["--ramp-up-strategy", "exponential", "--ramp-up-start-rps", "10", "--ramp-up-end-rps", "400"];
    let args = [&ramp[..], &["--ramp-up-time", "200ms"]].concat();
    let (run, outputs, _) = load(&sim, &args, &requests(30, ""));
    assert_eq!(run["rate_profile"], "10~400:0.2s,400");
    assert!(due(&outputs, &run)[0] > 0.0);
    for (args, want) in [
        (&ramp[..], "needs --ramp-up-time"),
        (&["--ramp-up-time", "1s"], "a ramp needs --ramp-up-strategy"),
        (&[&args[..], &["--request-rate", "1"]].concat(), "exclude each other"),
        (&["--burst-size", "4"], "--burst-size needs a --request-rate"),
        (&["--burst-size", "0", "--request-rate", "1"], "1 sends requests one by one"),
        (&["--max-seconds", "0"], "would send nothing"),
        (&["--request-rate", "5:10s,0"], "the last rate goes on for ever"),
    ] {
        let done = fire(&sim.url, args, &requests(1, ""));
        assert!(done.code == 2 && done.stderr.contains(want), "{args:?}: {done:?}");
    }
}

#[test]
fn a_table_of_rates_and_bursts_are_schedules_too() {
    let sim = Sim::start(&["--step-base", "1ms"]);
    let path = folder("shapes").join("rates.csv");
    fs::write(&path, "seconds,rate\n0,50\n0.2,350\n").unwrap();
    let (run, outputs, _) = load(&sim, &["--request-rate", &format!("@{}", path.display())], &requests(40, ""));
    assert!(run["rate_profile"].as_str().unwrap().ends_with("rates.csv") && outputs.len() == 40);

    let args = ["--request-rate", "200", "--burst-size", "5", "--burstiness", "inf"];
    let (run, outputs, end) = load(&sim, &args, &requests(20, ""));
    let ms: Vec<f64> = due(&outputs, &run).iter().map(|t| (t * 1e3).round()).collect();
    assert_eq!(ms, [[25.0; 5], [50.0; 5], [75.0; 5], [100.0; 5]].concat());
    assert_eq!((&run["burst_size"], &end["arrivals"]["planned"]), (&json!(5), &json!(20)));
}

#[test]
fn late_requests_are_reported_with_their_cause() {
    let sim = Sim::start(&["--step-base", "5ms"]);
    // One at a time, each taking about 40 ms, and 100 due within a second: most of the load is overdue.
    let args = ["--request-rate", "100", "--max-concurrency", "1"];
    let done = fire(&sim.url, &args, &requests(60, "\"body\":{\"ignore_eos\":true},"));
    let (_, _, end) = records(&done.stdout);
    let arrivals = &end["arrivals"];
    assert!(arrivals["distance"].as_f64() > Some(0.3) && arrivals["p"].as_f64() < Some(0.01), "{arrivals}");
    assert!(
        arrivals["gaps"]["p"].as_f64() < Some(0.01) && arrivals["late"]["no_slot"].as_u64() > Some(40),
        "{arrivals}"
    );
    let shown = run("vb-stats", &["--table", "full"], &done.stdout);
    assert!(
        shown.stderr.contains("arrivals: 60 planned, at most ") && shown.stderr.contains(" (no slot)"),
        "{}",
        shown.stderr
    );
    let result: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(&result["vb"]["arrivals"], arrivals);

    // Requests that the run did not reach were still planned.
    let args = ["--request-rate", "100", "--max-concurrency", "1", "--max-seconds", "300ms"];
    let (_, _, end) = records(&fire(&sim.url, &args, &requests(60, "\"body\":{\"ignore_eos\":true},")).stdout);
    let (planned, sent) = (end["arrivals"]["planned"].as_u64().unwrap(), end["outcomes"]["ok"].as_u64().unwrap());
    let never = end["outcomes"]["not_sent"].as_u64().unwrap();
    assert!(planned == sent + never && never > 5, "{end}");
}

/// Even gaps are an infinite burstiness, which JSON cannot express as a number.
#[test]
fn every_reader_takes_a_run_with_even_gaps() {
    let sim = Sim::start(&["--step-base", "1ms"]);
    let done = fire(&sim.url, &["--request-rate", "200", "--burstiness", "inf"], &requests(5, ""));
    let result = run("vb-stats", &[], &done.stdout);
    assert_eq!(result.code, 0, "{}", result.stderr);
    let result: Value = serde_json::from_str(&result.stdout).unwrap();
    assert_eq!((&result["burstiness"], &result["completed"]), (&Value::Null, &json!(5)));
    assert_eq!(run("vb-gen", &["--dataset-name", "replay", "--dataset-path", "-"], &done.stdout).code, 0);
}

/// Lines that come in a block after a pause are late because of the input, and not because of the client.
#[test]
fn a_producer_that_pauses_is_reported_as_late_input() {
    let sim = Sim::start(&["--step-base", "1ms"]);
    let mut child = crate::tool::start_fire(&sim.url, &["--request-rate", "200", "--burstiness", "inf"]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(requests(5, "").as_bytes()).unwrap();
    sleep(Duration::from_millis(700));
    stdin.write_all(requests(60, "").as_bytes()).unwrap();
    drop(stdin);
    let done = child.wait_with_output().unwrap();
    let (_, _, end) = records(&String::from_utf8(done.stdout).unwrap());
    let late = &end["arrivals"]["late"];
    assert!(late["input"].as_u64() > late["client"].as_u64() && late["input"].as_u64() > Some(30), "{late}");
}

#[test]
fn a_warm_up_ends_with_the_first_signal() {
    let log = folder("warm-up-signal").join("truth.ndjson");
    let sim = Sim::start(&["--step-base", "50ms", "--truth-log", log.to_str().unwrap()]);
    let args = ["--base-url", &sim.url, "--num-warmups", "1000", "--max-concurrency", "1", "--grace", "20s"];
    let mut child = command("vb-fire")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(requests(1, "").as_bytes()).unwrap();
    while !fs::read_to_string(&log).is_ok_and(|text| text.contains("request_id")) {
        sleep(Duration::from_millis(10));
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    child.wait().unwrap();
    sim.stop();
    assert!(truths(&log).len() < 500);
}

/// Requests with timestamps are an open loop, even if none of them was ever sent.
#[test]
fn timestamps_that_cannot_be_kept_are_still_a_plan() {
    let sim = Sim::start(&["--step-base", "20ms"]);
    let timed = "{\"prompt\":\"a\",\"timestamp\":0.1}\n".repeat(20);
    let lines = format!("{{\"prompt\":\"x\",\"expected_output_len\":400,\"body\":{{\"ignore_eos\":true}}}}\n{timed}");
    let done = fire(&sim.url, &["--max-concurrency", "1", "--max-seconds", "500ms", "--grace", "100ms"], &lines);
    let (_, outputs, end) = records(&done.stdout);
    assert_eq!((outputs.len(), &end["open_loop"], &end["outcomes"]["not_sent"]), (21, &json!(true), &json!(20)));
    assert_eq!(end["arrivals"]["planned"], 21);
    assert!(end["arrivals"]["distance"].as_f64().unwrap() > 0.9);
}

#[test]
fn a_closed_loop_has_no_plan() {
    let sim = Sim::start(&["--step-base", "1ms"]);
    let (_, _, end) = load(&sim, &["--max-concurrency", "4"], &requests(8, ""));
    assert!(end.get("arrivals").is_none(), "{end}");
    let timed = requests(3, "\"timestamp\":0.05,");
    let (_, _, end) = load(&sim, &[], &timed);
    assert!(end["arrivals"]["planned"] == 3 && end["arrivals"]["gaps"].is_null(), "{end}");
}

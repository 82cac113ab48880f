//! The verdict on a run through `vb-stats`: overload comes first in the table, and nothing is cut away that is not a warm-up.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::tool::run;

const START: f64 = 1_795_485_600.0;

/// A request: when it is due, when its chunks arrive, and how it ended.
struct Request {
    due: f64,
    chunks: Vec<f64>,
    kind: Option<&'static str>,
}

/// An open loop of these requests, sent when they were due, by a client with this verdict.
fn stream(requests: &[Request], client: &str) -> String {
    let mut text = format!(
        "{}\n",
        json!({"type": "run", "run_id": "r", "host": "h", "request_rate": 10, "clock": {"start": START}})
    );
    for (i, Request { due, chunks, kind }) in requests.iter().enumerate() {
        let ttft = chunks.first().map(|first| first - due);
        let latency = chunks.last().map(|last| last - due);
        let gaps: Vec<f64> = chunks.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let output = json!({"type": "output", "run_id": "r", "request_id": i.to_string(), "success": kind.is_none(),
            "error": kind.unwrap_or_default(), "error_kind": kind, "prompt_len": 8, "output_tokens": chunks.len(),
            "start_time": START + due, "scheduled_time": START + due, "queue_time": 0, "ttft": ttft, "latency": latency,
            "itl": gaps, "phases": {"done": latency.unwrap_or(0.1)}});
        let _ = writeln!(text, "{output}");
    }
    let end = json!({"type": "end", "run_id": "r", "duration": 100, "offered": requests.len(), "open_loop": true,
        "verdict": client, "reasons": []});
    text + &format!("{end}\n")
}

/// One request each 0.1 s to a server that takes `seconds` for each, one after the other, and 0.5 s for its chunks after that.
fn one_by_one(n: u32, seconds: f64) -> Vec<Request> {
    let mut free = 0.0_f64;
    let request = |i: u32| {
        let due = f64::from(i) * 0.1;
        // Without any variation there would be nothing to test.
        free = free.max(due) + seconds * (0.8 + 0.4 * f64::from(i * 7919 % 101) / 101.0);
        Request { due, chunks: (0..6).map(|k| free + f64::from(k) * 0.1).collect(), kind: None }
    };
    (0..n).map(request).collect()
}

fn result(input: &str) -> Value {
    let done = run("vb-stats", &[], input);
    assert_eq!(done.code, 0, "{}", done.stderr);
    serde_json::from_str(&done.stdout).unwrap()
}

fn table(input: &str) -> String {
    run("vb-stats", &["--table", "full"], input).stderr
}

#[test]
fn an_overloaded_server_comes_first_with_both_rates() {
    let input = stream(&one_by_one(600, 0.125), "clean");
    let steady = &result(&input)["vb"]["steady"];
    assert_eq!((&steady["verdict"], &steady["numbers"]), (&"overloaded".into(), &Value::Null), "{steady}");
    let overload = |key: &str| steady["overload"][key].as_f64().unwrap();
    assert!((overload("offered_per_s") - 10.0).abs() < 0.2 && (overload("served_per_s") - 8.0).abs() < 0.2, "{steady}");
    assert!((overload("backlog_growth") - 115.0).abs() < 15.0, "{steady}");
    let table = table(&input);
    assert!(table.starts_with("OVERLOADED: 10."), "{table}");
    assert!(table.lines().next().unwrap().contains(" ended"), "{table}");
    assert!(!table.contains("run longer"), "{table}");
}

#[test]
fn a_client_that_limits_the_load_does_not_make_a_server_overloaded() {
    let steady = &result(&stream(&one_by_one(600, 0.125), "client_bound"))["vb"]["steady"];
    assert_eq!((&steady["verdict"], &steady["overload"]), (&"drifting_up".into(), &Value::Null), "{steady}");
}

#[test]
fn a_server_that_keeps_up_is_steady() {
    let input = stream(&one_by_one(600, 0.08), "clean");
    let steady = &result(&input)["vb"]["steady"];
    assert_eq!((&steady["verdict"], &steady["stalls"]), (&"steady".into(), &Value::Null), "{steady}");
    assert!(table(&input).starts_with("verdict: clean | server: steady | "), "{}", table(&input));
}

/// All chunks that are due in 24 to 27 s arrive at 27 s.
#[test]
fn a_stall_is_reported_and_stays_in_the_window() {
    let mut requests = one_by_one(600, 0.05);
    for chunk in requests.iter_mut().flat_map(|request| &mut request.chunks) {
        if (24.0..27.0).contains(chunk) {
            *chunk = 27.0;
        }
    }
    let input = stream(&requests, "clean");
    let vb = &result(&input)["vb"];
    let steady = &vb["steady"];
    assert!(steady["from_s"].as_f64().unwrap() < 24.0, "{steady}");
    let stalls = &steady["stalls"];
    assert_eq!(stalls["count"], 1, "{stalls}");
    let stall = |key: &str| stalls["longest"][0][key].as_f64().unwrap();
    assert!((stall("at_s") - 24.0).abs() < 0.2 && (stall("seconds") - 3.0).abs() < 0.2, "{stalls}");
    assert!((4.0..=6.0).contains(&stall("streams")), "{stalls}");
    assert!(table(&input).contains("streams received nothing for "), "{}", table(&input));
    if !steady["numbers"].is_null() {
        let p99 = |numbers: &Value| numbers["percentiles"]["p99"].as_f64();
        assert_eq!(p99(&steady["numbers"]["ttft_ms"]).is_some(), p99(&vb["from_start"]["ttft_ms"]).is_some());
    }
}

#[test]
fn an_outage_makes_a_run_changing() {
    let mut requests = one_by_one(600, 0.05);
    for request in &mut requests[240..330] {
        (request.kind, request.chunks) = (Some("http_status"), Vec::new());
    }
    let steady = &result(&stream(&requests, "clean"))["vb"]["steady"];
    assert_eq!((&steady["verdict"], &steady["changing"]), (&"changing".into(), &"success".into()), "{steady}");
    let levels: Vec<f64> =
        steady["levels"].as_array().unwrap().iter().map(|level| level["value"].as_f64().unwrap()).collect();
    assert_eq!(levels, [1.0, 0.0, 1.0]);
    // Clients that leave are not an outage.
    requests[240..330].iter_mut().for_each(|request| request.kind = Some("abandoned"));
    let left = &result(&stream(&requests, "clean"))["vb"]["steady"];
    assert_ne!(left["changing"], "success", "{left}");
}

#[test]
fn a_doubled_rate_makes_a_run_changing() {
    let mut requests = one_by_one(600, 0.03);
    for request in &mut requests {
        let shift = (request.due - 30.0).max(0.0) / 2.0;
        request.due -= shift;
        request.chunks.iter_mut().for_each(|chunk| *chunk -= shift);
    }
    let steady = &result(&stream(&requests, "clean"))["vb"]["steady"];
    assert_eq!((&steady["verdict"], &steady["changing"]), (&"changing".into(), &"rate".into()), "{steady}");
}

/// Without streaming there is no TTFT to look at.
#[test]
fn a_run_without_streaming_is_judged_by_its_latency() {
    let mut requests = one_by_one(600, 0.05);
    for (i, request) in requests.iter_mut().enumerate() {
        let last = request.chunks.last().copied().unwrap_or_default();
        request.chunks = vec![last + i as f64 / 600.0];
    }
    let lines = stream(&requests, "clean");
    let input: Vec<String> = lines
        .lines()
        .map(|line| {
            let mut record: Value = serde_json::from_str(line).unwrap();
            if record["type"] == "output" {
                record["ttft"] = Value::Null;
            }
            record.to_string()
        })
        .collect();
    let steady = &result(&input.join("\n"))["vb"]["steady"];
    assert_eq!((&steady["verdict"], &steady["ttft"]), (&"drifting_up".into(), &Value::Null), "{steady}");
    assert!(steady["e2el"]["change"].as_f64().unwrap() > 0.5, "{steady}");
}

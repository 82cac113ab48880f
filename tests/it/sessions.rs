//! Conversations through `vb-fire` and `vb-sim`: one turn at a time, with the responses that the server really sent.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    fire::{fire, records, requests},
    tool::{Sim, folder, truths},
};

const CHAT: [&str; 2] = ["--backend", "openai-chat"];

/// The lines of a conversation with this number of turns.
fn conversation(id: &str, turns: usize, keys: &str) -> String {
    let mut messages: Vec<Value> = Vec::new();
    let mut lines = Vec::new();
    for turn in 0..turns {
        messages.push(json!({"role": "user", "content": format!("{id} asks {turn}")}));
        let chat = Value::from(messages.clone());
        let length = "\"expected_output_len\":6,\"body\":{\"ignore_eos\":true}";
        let names = format!("\"request_id\":\"{id}-{turn}\",\"session_id\":\"{id}\",\"turn\":{turn}");
        lines.push(format!("{{{names},\"messages\":{chat},{keys}{length}}}\n"));
        messages.push(json!({"role": "assistant", "content": null}));
    }
    lines.concat()
}

fn by_id(outputs: &[Value]) -> BTreeMap<&str, &Value> {
    outputs.iter().map(|output| (output["request_id"].as_str().unwrap(), output)).collect()
}

fn start(output: &Value) -> f64 {
    output["start_time"].as_f64().unwrap()
}

fn end(output: &Value) -> f64 {
    start(output) + output["latency"].as_f64().unwrap()
}

#[test]
fn each_turn_waits_for_the_response_before_it_and_holds_it() {
    let sim = Sim::start(&["--step-base", "2ms"]);
    let lines: String = ["a", "b", "c"].iter().map(|id| conversation(id, 3, "\"think_time\":0.05,")).collect();
    let args = [&CHAT[..], &["--max-concurrency", "2", "--session-header", "X-Session-ID"]].concat();
    let done = fire(&sim.url, &args, &lines);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let (_, outputs, end_record) = records(&done.stdout);
    let outputs = by_id(&outputs);
    assert_eq!((outputs.len(), &end_record["outcomes"]), (9, &json!({"ok": 9})));
    for id in ["a", "b", "c"] {
        let mut chat: Vec<Value> = Vec::new();
        for turn in 0..3 {
            let output = outputs[format!("{id}-{turn}").as_str()];
            chat.push(json!({"role": "user", "content": format!("{id} asks {turn}")}));
            // The prompt is as long as the same chat sent alone, so it holds the real responses.
            let alone = json!({"messages": chat, "expected_output_len": 1}).to_string();
            let (_, again, _) = records(&fire(&sim.url, &CHAT, &alone).stdout);
            assert_eq!(output["prompt_len"], again[0]["prompt_len"], "{id} {turn}");
            chat.push(json!({"role": "assistant", "content": output["generated_text"]}));
            if turn > 0 {
                let before = outputs[format!("{id}-{}", turn - 1).as_str()];
                let thought = output["scheduled_time"].as_f64().unwrap() - end(before);
                assert!((thought - 0.05).abs() < 1e-6, "{thought}");
                assert!(start(output) > end(before) + 0.0499);
            }
        }
    }
}

#[test]
fn a_turn_that_fails_ends_its_session_and_says_so() {
    let sim = Sim::start(&["--step-base", "1ms"]);
    let lines = conversation("a", 3, "") + &conversation("b", 2, "");
    let broken = lines.replacen("\"ignore_eos\":true", "\"ignore_eos\":true,\"vb_fault\":\"cut@2\"", 1);
    let done = fire(&sim.url, &[&CHAT[..], &["--fail-above", "1"]].concat(), &broken);
    let (_, outputs, end_record) = records(&done.stdout);
    let outputs = by_id(&outputs);
    for turn in ["a-1", "a-2"] {
        assert_eq!(outputs[turn]["error_kind"], "not_sent");
        assert_eq!(outputs[turn]["error"], "due, but never sent: an earlier turn of its session failed");
    }
    assert_eq!((&outputs["b-1"]["success"], &end_record["not_sent"]["count"]), (&json!(true), &json!(2)));
    assert_eq!(end_record["not_sent"]["why"], "an earlier turn of its session failed");
}

/// A user who cancels a response has read a part of it, and continues the conversation.
#[test]
fn a_turn_cancelled_on_purpose_does_not_end_its_session() {
    let sim = Sim::start(&["--step-base", "20ms"]);
    let lines = conversation("a", 3, "");
    let done = fire(&sim.url, &[&CHAT[..], &["--cancel-rate", "1", "--cancel-after", "30ms"]].concat(), &lines);
    let (_, outputs, end) = records(&done.stdout);
    assert_eq!((done.code, outputs.len(), &end["outcomes"]), (0, 3, &json!({"abandoned": 3})), "{done:?}");
}

#[test]
fn an_early_end_plans_no_later_turns() {
    let sim = Sim::start(&["--step-base", "20ms"]);
    let lines: String = (0..30).map(|i| conversation(&format!("s{i}"), 3, "")).collect();
    let rate = ["--request-rate", "50", "--burstiness", "inf", "--max-concurrency", "2", "--max-seconds", "500ms"];
    let (_, outputs, end) = records(&fire(&sim.url, &[&CHAT[..], &rate].concat(), &lines).stdout);
    let first = |output: &&Value| output["turn"] == 0;
    assert_eq!(end["arrivals"]["planned"], outputs.iter().filter(first).count(), "{end}");
}

#[test]
fn sessions_are_users_and_think_between_turns() {
    let sim = Sim::start(&["--step-base", "1ms"]);
    let lines: String = ["a", "b", "c"].iter().map(|id| conversation(id, 2, "")).collect();
    let args = [&CHAT[..], &["--max-sessions", "1", "--think-time", "30ms"]].concat();
    let done = fire(&sim.url, &args, &lines);
    let (_, outputs, end_record) = records(&done.stdout);
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(end_record["open_loop"], false);
    let mut order: Vec<&Value> = outputs.iter().collect();
    order.sort_by(|a, b| start(a).total_cmp(&start(b)));
    let ids: Vec<&str> = order.iter().map(|o| o["request_id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["a-0", "a-1", "b-0", "b-1", "c-0", "c-1"]);
    assert!(start(order[1]) - end(order[0]) > 0.0299, "{order:?}");
}

#[test]
fn users_of_plain_requests_think_too_and_keep_their_slot() {
    let sim = Sim::start(&["--step-base", "1ms"]);
    let done = fire(&sim.url, &["--max-concurrency", "1", "--think-time", "40ms"], &requests(4, ""));
    let (_, outputs, _) = records(&done.stdout);
    for pair in outputs.windows(2) {
        assert!(start(&pair[1]) - end(&pair[0]) > 0.039, "{pair:?}");
    }
    let done = fire(&sim.url, &["--think-time", "exp:1ms", "--max-concurrency", "1"], &requests(4, ""));
    assert_eq!(done.code, 0, "{}", done.stderr);
}

#[test]
fn invalid_sessions_are_reported_with_their_line() {
    let sim = Sim::start(&[]);
    let hole = "{\"messages\":[{\"role\":\"assistant\",\"content\":null}]}\n";
    let done = fire(&sim.url, &CHAT, hole);
    assert!(done.code == 3 && done.stderr.contains("stdin:1: `messages` has a place"), "{done:?}");
    let many = "{\"session_id\":\"s\",\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"expected_output_len\":2}\n"
        .to_owned()
        + "{\"session_id\":\"s\",\"messages\":[{\"role\":\"assistant\",\"content\":null},{\"role\":\"assistant\",\"content\":null}]}\n";
    let done = fire(&sim.url, &CHAT, &many);
    assert!(
        done.code == 1 && done.stderr.contains("placeholders for more responses than there were turns"),
        "{done:?}"
    );
    // Lines whose first turns are missing: they are recorded, and not sent.
    let whole = conversation("a", 3, "");
    let rest = whole.split_once('\n').unwrap().1.to_owned();
    let done = fire(
        &sim.url,
        &[&CHAT[..], &["--fail-above", "1", "--max-concurrency", "1"]].concat(),
        &(rest + &conversation("b", 1, "")),
    );
    let (_, outputs, _) = records(&done.stdout);
    let error_of = |id: &str| by_id(&outputs)[id]["error"].as_str().unwrap().to_owned();
    assert_eq!(outputs.len(), 3);
    assert!(
        error_of("a-1").contains("more responses than there were turns") && error_of("a-2").contains("an earlier turn"),
        "{outputs:?}"
    );
    assert_eq!(error_of("b-0"), "");
    for (args, want) in [
        (["--max-sessions", "0"], "would send nothing"),
        (["--max-prefill-concurrency", "0"], "would send nothing"),
        (["--session-header", "a b"], "not a valid header name"),
        (["--session-header", "Content-Length"], "already has a meaning"),
        (["--think-time", "exp:soon"], "soon"),
    ] {
        let done = fire(&sim.url, &args, &requests(1, ""));
        assert!(done.code == 2 && done.stderr.contains(want), "{args:?}: {done:?}");
    }
}

#[test]
fn adapters_are_mixed_and_recorded() {
    let sim = Sim::start(&["--served-model-name", "tiny", "one", "two", "--step-base", "1ms"]);
    let args = ["--lora-modules", "one", "two", "--lora-assignment", "round-robin", "--max-concurrency", "1"];
    let done = fire(&sim.url, &args, &requests(6, ""));
    assert_eq!(done.code, 0, "{}", done.stderr);
    let (_, outputs, _) = records(&done.stdout);
    let adapters: Vec<&str> = outputs.iter().map(|o| o["tags"]["lora"].as_str().unwrap()).collect();
    assert_eq!(adapters, ["one", "two", "one", "two", "one", "two"]);
    let done = fire(&sim.url, &["--lora-modules", "three"], &requests(1, ""));
    assert!(done.stderr.contains("`three` does not exist"), "{}", done.stderr);
}

#[test]
fn several_servers_share_the_load_and_each_output_says_which() {
    let sims = [Sim::start(&["--step-base", "1ms"]), Sim::start(&["--step-base", "1ms"])];
    let both = format!("{},{}", sims[0].url, sims[1].url);
    for (balance, transport) in [("round-robin", "stamped"), ("least-loaded", "stamped"), ("round-robin", "portable")] {
        let args = [
            "--base-url",
            &sims[0].url,
            &sims[1].url,
            "--balance",
            balance,
            "--transport",
            transport,
            "--max-concurrency",
            "4",
            "--num-warmups",
            "2",
            "--model",
            "tiny",
        ];
        let done = crate::tool::run("vb-fire", &args, requests(20, ""));
        assert_eq!(done.code, 0, "{balance} {transport}: {}", done.stderr);
        let (run, outputs, _) = records(&done.stdout);
        assert_eq!(run["base_url"], both.as_str());
        for sim in &sims {
            let here = outputs.iter().filter(|o| o["base_url"] == sim.url.as_str()).count();
            assert!(if balance == "round-robin" { here == 10 } else { here >= 5 }, "{balance}: {here}");
        }
    }
    // A session stays with its server.
    let lines: String = ["a", "b", "c", "d"].iter().map(|id| conversation(id, 3, "")).collect();
    let args = ["--base-url", &sims[0].url, &sims[1].url, "--model", "tiny", "--backend", "openai-chat"];
    let (_, outputs, _) = records(&crate::tool::run("vb-fire", &args, &lines).stdout);
    let mut servers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for output in &outputs {
        servers.entry(output["session_id"].as_str().unwrap()).or_default().push(output["base_url"].as_str().unwrap());
    }
    assert!(servers.values().all(|urls| urls.len() == 3 && urls.iter().all(|url| url == &urls[0])), "{servers:?}");
    let scrape = crate::tool::run("vb-fire", &["--base-url", &sims[0].url, &sims[1].url, "--scrape"], requests(1, ""));
    assert!(scrape.code == 2 && scrape.stderr.contains("use --scrape URL"), "{scrape:?}");
}

#[test]
fn requests_cancelled_on_purpose_are_not_failures() {
    let folder = folder("sessions-abandon");
    let log = folder.join("truth.ndjson");
    let sim = Sim::start(&["--step-base", "5ms", "--truth-log", log.to_str().unwrap()]);
    let lines = requests(40, "\"body\":{\"ignore_eos\":true},")
        .replace("\"expected_output_len\":8", "\"expected_output_len\":40");
    let args = ["--cancel-rate", "0.5", "--cancel-after", "60ms", "--max-concurrency", "8"];
    let done = fire(&sim.url, &args, &lines);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let (_, outputs, end) = records(&done.stdout);
    let left: Vec<&Value> = outputs.iter().filter(|o| o["error_kind"] == "abandoned").collect();
    assert!((10..=30).contains(&left.len()) && end["outcomes"]["abandoned"] == left.len(), "{end}");
    assert!(left[0]["error"].as_str().unwrap().contains("cancelled on purpose 60.0 ms after its start"), "{}", left[0]);
    sim.stop();
    // The server noticed and stopped generating for them.
    let cut = truths(&log).iter().filter(|truth| truth.finish_reason.is_none()).count();
    assert_eq!(cut, left.len());
    let stats = crate::tool::run("vb-stats", &["--goodput", "e2el:10s", "--table", "full"], &done.stdout);
    let result: Value = serde_json::from_str(&stats.stdout).unwrap();
    assert_eq!(result["vb"]["goodput"]["from_start"]["attainment"], 1.0, "{}", result["vb"]["goodput"]);
}

#[test]
fn few_wait_for_their_first_token_at_once() {
    let sim = Sim::start(&["--step-base", "10ms"]);
    let whole = fire(&sim.url, &["--max-prefill-concurrency", "1", "--no-stream"], &requests(1, ""));
    assert!(whole.code == 2 && whole.stderr.contains("needs streaming"), "{whole:?}");
    let done = fire(&sim.url, &["--max-prefill-concurrency", "1"], &requests(6, ""));
    assert_eq!(done.code, 0, "{}", done.stderr);
    let (_, outputs, _) = records(&done.stdout);
    let mut waits: Vec<(f64, f64)> =
        outputs.iter().map(|o| (start(o), start(o) + o["ttft"].as_f64().unwrap())).collect();
    waits.sort_by(|a, b| a.0.total_cmp(&b.0));
    assert!(waits.windows(2).all(|pair| pair[1].0 >= pair[0].1), "{waits:?}");
}

//! `vb-fire` through its binary, against the simulated server.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    process::{Child, ChildStdout, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use vb::{
    record::{RequestFuncOutput, RunRecord, Truth},
    units::{Nanos, UnixNanos},
};

use crate::tool::{self, Done, Sim, command, data, folder, run, truths};

/// `count` hand-written requests, each with these keys.
pub fn requests(count: usize, keys: &str) -> String {
    let line = |i| {
        let prompt = format!("\"request_id\":\"r{i}\",\"prompt\":\"This is prompt {i}\"");
        format!("{{{prompt},\"expected_output_len\":8,{keys}\"tags\":{{\"i\":{i}}}}}\n")
    };
    (0..count).map(line).collect::<Vec<_>>().concat()
}

/// Each response has its full length.
pub const FULL: &str = "\"body\":{\"ignore_eos\":true},";

pub fn fire(url: &str, args: &[&str], stdin: &str) -> Done {
    let mut all = vec!["--base-url", url];
    all.extend(args);
    run("vb-fire", &all, stdin)
}

/// The records of a stream: run, outputs, end.
pub fn records(stdout: &str) -> (Value, Vec<Value>, Value) {
    let mut lines: Vec<Value> = stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let end = lines.pop().unwrap();
    let run = lines.remove(0);
    assert_eq!((&run["type"], &end["type"]), (&"run".into(), &"end".into()));
    assert!(lines.iter().all(|l| l["type"] == "output" && l["run_id"] == run["run_id"]));
    (run, lines, end)
}

fn seconds(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

/// The outputs of a stream as their type, whose times keep every nanosecond.
pub fn outputs(stdout: &str) -> (RunRecord, Vec<RequestFuncOutput>) {
    let mut lines = stdout.lines();
    let run = serde_json::from_str(lines.next().unwrap()).unwrap();
    let outputs =
        lines.filter(|l| l.contains("\"type\":\"output\"")).map(|l| serde_json::from_str(l).unwrap()).collect();
    (run, outputs)
}

/// The maximum number of requests in flight at one instant.
pub fn most_in_flight(outputs: &[RequestFuncOutput]) -> i32 {
    let events = |output: &RequestFuncOutput| {
        let start = output.start_time.unwrap();
        [(start, 1), (start + output.latency.unwrap(), -1)]
    };
    let mut events: Vec<(UnixNanos, i32)> = outputs.iter().flat_map(events).collect();
    events.sort_unstable();
    let mut running = 0;
    let counts = events.into_iter().map(|(_, change)| {
        running += change;
        running
    });
    counts.max().unwrap()
}

#[test]
fn a_closed_loop_keeps_exactly_its_number_in_flight() {
    let sim = Sim::start(&[]);
    let done = fire(&sim.url, &["--max-concurrency", "4"], &requests(40, FULL));
    assert_eq!(done.code, 0, "{}", done.stderr);
    // Other tests run at the same time, so the client may be late.
    let is_verdict =
        |line: &str| ["suspect", "client_bound"].iter().any(|v| line.starts_with(&format!("vb-fire: {v}:")));
    let warning = done.stderr.lines().find(|line| !is_verdict(line));
    assert_eq!(warning, None, "silent without a terminal");
    let (run, outputs, end) = records(&done.stdout);
    assert_eq!(
        (&run["model"], &run["max_concurrency"], &run["request_rate"]),
        (&"tiny".into(), &4.into(), &Value::Null)
    );
    assert_eq!((&end["offered"], &end["outcomes"]["ok"], &end["interrupted"]), (&40.into(), &40.into(), &false.into()));
    assert_eq!(end["open_loop"], false);
    for output in &outputs {
        assert_eq!(
            (&output["output_tokens"], &output["success"], &output["finish_reason"]),
            (&8.into(), &true.into(), &"length".into())
        );
        assert_eq!(output["itl"].as_array().unwrap().len(), 7);
        assert_eq!(output["tags"]["i"].to_string(), output["request_id"].as_str().unwrap()[1..]);
    }
    assert_eq!(most_in_flight(&self::outputs(&done.stdout).1), 4);
    let fresh = fire(&sim.url, &["--no-keep-alive", "--max-concurrency", "4"], &requests(8, FULL));
    assert!(records(&fresh.stdout).1.iter().all(|o| o["reused"] == false));
    let reused = outputs.iter().filter(|o| o["reused"] == true).count();
    assert_eq!(reused, 36, "each of the four connections is opened once");
}

#[test]
fn what_the_client_saw_is_what_the_server_sent() {
    let folder = folder("fire-truth");
    let log = folder.join("truth.ndjson");
    let sim = Sim::start(&["--truth-log", log.to_str().unwrap()]);
    let done = fire(&sim.url, &["--max-concurrency", "8"], &requests(40, FULL));
    let (_, outputs) = outputs(&done.stdout);
    sim.stop();
    let truth = truths(&log);
    let by_id: BTreeMap<&str, &Truth> = truth.iter().map(|t| (t.request_id.as_str(), t)).collect();
    assert_eq!(outputs.len(), 40);
    for output in outputs {
        let truth = by_id[output.request_id.as_str()];
        assert_eq!((output.prompt_len, output.output_tokens), (truth.prompt_tokens, truth.output_tokens));
        assert_eq!(truth.sent.len(), output.itl.len() + 1);
        let start = output.start_time.unwrap();
        // One clock read by two programs, each with its own anchor: these may differ by 50 µs on a busy machine.
        let anchors = Nanos(50_000);
        let arrived = truth.arrived.unwrap_or(truth.received);
        assert!(start < arrived + anchors && arrived <= truth.received, "it is sent before it arrives, and then read");
        assert!(output.ttft.unwrap() + anchors > truth.sent[0].since(arrived), "TTFT is at least the server's");
        assert!(start + output.ttft.unwrap() + anchors > truth.sent[0], "nothing arrives before it is sent");
    }
}

#[test]
fn an_open_loop_keeps_the_schedule_of_its_seed() {
    let sim = Sim::start(&[]);
    let due = |seed: &str| {
        let done = fire(&sim.url, &["--request-rate", "400", "--seed", seed], &requests(60, FULL));
        let (run, outputs) = outputs(&done.stdout);
        assert!(outputs.iter().all(|o| o.start_time.unwrap() >= o.scheduled_time));
        let mut due: Vec<Nanos> = outputs.iter().map(|o| o.scheduled_time.since(run.clock.start)).collect();
        due.sort_unstable();
        due
    };
    let first = due("7");
    assert_eq!(first, due("7"));
    assert_ne!(first, due("8"));
    let mut schedule = vb::load::Schedule::new(Some(&vb::load::RequestRate::from_constant(400.0)), 1.0, 1, 7);
    let planned: Vec<Nanos> = (0..60).filter_map(|_| schedule.next_due(None)).collect();
    assert_eq!(first, planned);
}

#[test]
fn the_requests_own_times_are_obeyed_and_a_limit_shows_the_wait() {
    let sim = Sim::start(&["--step-base", "5ms"]);
    let line = |i: u32| {
        format!("{{\"prompt\":\"p{i}\",\"expected_output_len\":8,\"timestamp\":0.0{i},{FULL}\"tags\":{{}}}}\n")
    };
    let lines = (0..6).map(line).collect::<Vec<_>>().concat();
    let done = fire(&sim.url, &["--max-concurrency", "1"], &lines);
    let (run, limited) = outputs(&done.stdout);
    for (i, output) in limited.iter().enumerate() {
        assert_eq!(output.scheduled_time.since(run.clock.start), Nanos(i as u64 * 10_000_000));
    }
    // One at a time, each takes 40 ms and one is due every 10 ms: the last waits for five others.
    assert!(limited[5].queue_time.unwrap() > Nanos(100_000_000), "{:?}", limited[5]);
    let (_, _, end) = records(&done.stdout);
    assert!(end["schedule_lag"]["max"].as_f64().unwrap() > 0.100);
    assert_eq!(end["open_loop"], true, "although there is a limit");
    let (run, free) = outputs(&fire(&sim.url, &["--request-rate", "inf"], &lines).stdout);
    let own = |i: usize| UnixNanos(run.clock.start.0) + Nanos(i as u64 * 10_000_000);
    let obeyed = (1..6).any(|i| free[i].scheduled_time == own(i));
    assert!(free.len() == 6 && !obeyed, "`inf` sends at once and ignores the timestamps of requests");
}

/// The error of each fault: with `/v1/completions`, and with a chat if it differs.
const FAULTS: &[(&str, &str)] = &[
    ("close_before_headers", "reset"),
    ("reset_before_headers", "reset"),
    ("never_answer", "timeout_first_token"),
    ("slow_headers@20", "ok"),
    ("status_400", "http_status"),
    ("status_401", "http_status"),
    ("status_404", "http_status"),
    ("status_429", "http_status"),
    ("status_500", "http_status"),
    ("status_503", "http_status"),
    ("html_500", "http_status"),
    ("html_200", "protocol"),
    ("stall@3", "timeout_stall"),
    ("stall@0", "timeout_first_token"),
    ("reset@3", "reset"),
    ("cut@3", "truncated"),
    ("end_early@3", "truncated"),
    ("error_in_stream@3", "stream_error"),
    ("error_in_stream@0", "stream_error"),
    ("abort@3", "stream_error"),
    ("bad_json@3", "protocol"),
    ("bad_chunking@3", "protocol"),
    ("crlf", "ok"),
    ("split@1", "ok"),
    ("split@11", "ok"),
    ("coalesce@4", "ok"),
    ("multi_token@4", "ok"),
    ("empty_chunks", "ok"),
    ("finish_empty", "ok"),
    ("no_usage", "ok"),
    ("double_usage", "ok"),
    ("usage_in_choices", "ok"),
    ("no_done", "ok"),
    ("done_only", "ok"),
    ("empty", "empty"),
    ("role_early", "ok"),
    ("reasoning", "ok"),
    ("reasoning_content", "ok"),
    ("tool_calls", "ok"),
];

#[test]
fn every_fault_of_the_server_is_recognized() {
    let sim = Sim::start(&["--step-base", "1ms"]);
    for (backend, transport) in [("openai", "stamped"), ("openai-chat", "stamped"), ("openai", "portable")] {
        let line = |fault: &str| {
            let body = format!("{{\"ignore_eos\":true,\"vb_fault\":\"{fault}\"}}");
            format!("{{\"request_id\":\"{fault}\",\"prompt\":\"hello\",\"expected_output_len\":12,\"body\":{body}}}\n")
        };
        let lines = FAULTS.iter().map(|(fault, _)| line(fault)).collect::<Vec<_>>().concat();
        let limits = ["--timeout-first-token", "1s", "--timeout-stall", "500ms", "--max-concurrency", "8"];
        let done = fire(&sim.url, &[&limits[..], &["--backend", backend, "--transport", transport]].concat(), &lines);
        assert_eq!(done.code, 1, "{}", done.stderr);
        let (_, outputs, _) = records(&done.stdout);
        let by_id: BTreeMap<&str, &Value> = outputs.iter().map(|o| (o["request_id"].as_str().unwrap(), o)).collect();
        assert_eq!(by_id.len(), FAULTS.len());
        for (fault, want) in FAULTS {
            let output = by_id[fault];
            let kind = output["error_kind"].as_str().unwrap_or("ok");
            println!("{backend:12} {transport:9} {fault:22} {kind:20} {}", output["error"].as_str().unwrap());
            assert_eq!(kind, *want, "{backend} {fault}: {output}");
            assert_eq!(output["success"], *want == "ok");
            assert_eq!(output["error"] == "", *want == "ok");
            if *want == "ok" {
                assert_eq!(output["output_tokens"], 12, "{backend} {fault}: {output}");
            }
        }
        let multi = by_id["multi_token@4"];
        assert_eq!(multi["chunk_tokens"], serde_json::json!([]), "chunks are not tokens");
        assert_eq!(by_id["no_usage"]["token_source"], "chunks");
        assert_eq!(by_id["usage_in_choices"]["token_source"], "usage");
        assert_eq!(by_id["finish_empty"]["itl"].as_array().unwrap().len(), 11, "the empty end is not a token");
        assert!(by_id["status_429"]["error"].as_str().unwrap().starts_with("HTTP 429 Too Many Requests: "));
        if backend == "openai-chat" {
            let thinks = by_id["reasoning"];
            // The answer begins with the seventh chunk.
            for thinks in [thinks, by_id["reasoning_content"]] {
                let gaps: f64 = thinks["itl"].as_array().unwrap()[..6].iter().map(seconds).sum();
                assert!((seconds(&thinks["ttft"]) + gaps - seconds(&thinks["ttft_answer"])).abs() < 1e-7, "{thinks}");
            }
            assert_eq!(thinks["reasoning_tokens"], 6);
        }
    }
}

#[test]
fn the_most_frequent_error_is_reported_with_its_cure() {
    let sim = Sim::start(&["--served-model-name", "llama"]);
    let done = fire(&sim.url, &["--model", "lama"], &requests(3, ""));
    assert_eq!(done.code, 1);
    assert!(
        done.stderr.contains("3 of 3 requests failed")
            && done.stderr.contains("the server has no model lama; use --model with one of: llama"),
        "{}",
        done.stderr
    );
    assert_eq!(done.stderr.lines().count(), 1);
    for (fault, cure) in [
        ("status_401", "OPENAI_API_KEY"),
        ("status_429", "lower --request-rate"),
        ("status_500", "server's log"),
        ("html_200", "the API of --backend openai,"),
    ] {
        let done = fire(&sim.url, &[], &requests(2, &format!("\"body\":{{\"vb_fault\":\"{fault}\"}},")));
        assert!(
            done.code == 1 && done.stderr.contains(cure) && done.stderr.lines().count() == 1,
            "{fault}: {}",
            done.stderr
        );
    }
    // By default, at most one in a hundred may fail.
    let one = |count: usize| requests(count, FULL) + &requests(1, "\"body\":{\"vb_fault\":\"status_500\"},");
    assert_eq!(fire(&sim.url, &[], &one(99)).code, 0);
    assert_eq!(fire(&sim.url, &[], &one(98)).code, 1);
    assert_eq!(fire(&sim.url, &["--fail-above", "0.5"], &one(98)).code, 0);
}

#[test]
fn an_unreachable_server_is_reported_once() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let done = fire(&format!("http://{free}"), &[], &requests(9, ""));
    assert_eq!((done.code, done.stdout.as_str(), done.stderr.lines().count()), (4, "", 1), "{}", done.stderr);
    assert!(
        done.stderr.contains("Connection refused") && done.stderr.contains("is the server running"),
        "{}",
        done.stderr
    );
    let late = fire(&format!("http://{free}"), &["--ready-check", "600ms"], &requests(9, ""));
    assert!(late.code == 4 && late.stderr.contains("not ready within 600.0 ms"), "{}", late.stderr);
    // It accepts the connection but never sends anything: the handshake cannot end.
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", deaf.local_addr().unwrap());
    let done = fire(&url, &["--timeout-connect", "300ms"], &requests(1, ""));
    assert!(done.code == 4 && done.stderr.contains("no TLS handshake"), "{}", done.stderr);
    let url = format!("http://{}", deaf.local_addr().unwrap());
    let done = fire(&url, &["--timeout-first-token", "300ms", "--model", "m"], &requests(1, ""));
    assert!(done.code == 1 && done.stderr.contains("timeout_first_token"), "{}", done.stderr);
    let done = fire("http://no.such.host.invalid", &[], &requests(1, ""));
    assert!(done.code == 4 && done.stderr.contains("no.such.host.invalid has no address"), "{}", done.stderr);
}

/// A server that sends these bytes for every request and closes.
pub fn server_that_says(response: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            if stream.read(&mut [0; 1 << 14]).is_ok_and(|n| n > 0) {
                let _ = stream.write_all(response.as_bytes());
            }
        }
    });
    url
}

#[test]
fn the_received_part_of_an_error_s_text_is_reported() {
    let head = |length: usize| format!("HTTP/1.1 500 Internal Server Error\r\ncontent-length: {length}\r\n\r\n");
    for (response, want) in [
        (head(100_000) + "over capacity " + &"x".repeat(99_986), "HTTP 500 Internal Server Error: over capacity xx"),
        (head(1000) + "over capacity", "HTTP 500 Internal Server Error: over capacity"),
        (head(0), "HTTP 500 Internal Server Error"),
    ] {
        let done = fire(&server_that_says(response), &["--model", "m"], &requests(1, ""));
        let (_, outputs, _) = records(&done.stdout);
        let error = outputs[0]["error"].as_str().unwrap();
        assert!(error.starts_with(want) && !error.ends_with(": "), "{error}");
        assert_eq!(outputs[0]["error_kind"], "http_status");
    }
}

#[test]
fn too_many_open_files_are_the_client_s_own_fault() {
    let sim = Sim::start(&[]);
    let limited = format!("ulimit -n 24; exec {} --base-url {}", env!("CARGO_BIN_EXE_vb-fire"), sim.url);
    let mut child = tool::plain_command("bash")
        .args(["-c", &limited])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(requests(60, "").as_bytes()).unwrap();
    let done = tool::done(child.wait_with_output().unwrap());
    assert!(done.code == 1 && done.stderr.contains("raise `ulimit -n`"), "{}", done.stderr);
    assert!(!done.stderr.contains("is the server running"), "{}", done.stderr);
}

#[test]
fn a_bad_line_is_named_and_those_before_it_are_reported() {
    let sim = Sim::start(&[]);
    let done = fire(&sim.url, &[], &(requests(3, FULL) + "{\"prompt\":3}\n" + &requests(2, "")));
    let (_, outputs, end) = records(&done.stdout);
    assert_eq!((done.code, outputs.len()), (3, 3));
    // Not at the start: a busy machine may be reported before it.
    assert!(done.stderr.contains("vb-fire: stdin:4:11: `prompt`: invalid type: integer `3`"), "{}", done.stderr);
    assert!(end["not_sent"]["why"].as_str().unwrap().starts_with("stdin:4:11"));
    for (line, want) in [
        ("{\"messages\":[]}", "stdin:1: the request has `messages`, not `prompt`: use --backend openai-chat"),
        ("{\"prompt\":\"a\",\"request_id\":\"é\"}", "cannot be sent as a header"),
        ("not json", "stdin:1: not a JSON object, which each line must be: not json"),
        ("", "no requests"),
    ] {
        let done = fire(&sim.url, &[], line);
        assert!(done.code == 3 && done.stderr.contains(want), "{line}: {}", done.stderr);
    }
    // A last line without its newline counts.
    let done = fire(&sim.url, &[], "{\"prompt\":\"a\"}\n{\"prompt\":\"b\"}");
    assert_eq!(records(&done.stdout).1.len(), 2);
}

#[test]
fn secrets_are_sent_and_never_shown() {
    let sim = Sim::start(&["--api-key", "sk-very-secret"]);
    let with = |args: &[&str], key: Option<&str>| {
        let mut vb = command("vb-fire");
        vb.args(["--base-url", &sim.url, "--model", "tiny"]).args(args);
        key.map(|key| vb.env("OPENAI_API_KEY", key));
        let mut child = vb.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(requests(2, FULL).as_bytes()).unwrap();
        tool::done(child.wait_with_output().unwrap())
    };
    let header = ["--header", "Authorization=Bearer sk-very-secret", "x-team=red"];
    for (done, cure) in [
        (with(&[], Some("sk-very-secret")), None),
        (with(&header, None), None),
        (with(&header, Some("sk-wrong-key")), None),
        (with(&[], Some("sk-wrong-key")), Some("the server refuses the key that was sent: check OPENAI_API_KEY")),
        (with(&[], None), Some("set OPENAI_API_KEY")),
    ] {
        assert_eq!(done.code, i32::from(cure.is_some()), "{}", done.stderr);
        for secret in ["sk-very-secret", "sk-wrong-key"] {
            assert!(!done.stdout.contains(secret) && !done.stderr.contains(secret), "{}{}", done.stdout, done.stderr);
        }
        assert!(cure.is_none_or(|cure| done.stderr.contains(cure)), "{}", done.stderr);
    }
}

/// A server that repeats the request in its error, with the keys in its URL and body.
#[test]
fn keys_in_addresses_and_bodies_are_never_shown() {
    let error = "{\"error\":{\"message\":\"no such key: sk-of-body, and none of /x?key=sk-of-query\"}}";
    let head = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: ";
    let url = server_that_says(format!("{head}{}\r\n\r\n{error}", error.len()));
    let line = requests(2, "\"body\":{\"auth\":{\"api_key\":\"sk-of-body\"}},");
    for endpoint in [&["--endpoint", "/x?key=sk-of-query&a=b"][..], &["--endpoint=/x?key=sk-of-query&a=b"]] {
        let done = fire(&url, &[endpoint, &["--model", "m", "--num-warmups", "1"]].concat(), &line);
        let (run, outputs, _) = records(&done.stdout);
        assert_eq!(run["endpoint"], "/x?key=***&a=b");
        assert!(outputs[0]["error"].as_str().unwrap().ends_with("no such key: ***, and none of /x?key=***"));
        let shown = done.stdout + &done.stderr;
        assert!(done.code == 1 && !shown.contains("sk-of"), "{shown}");
    }
    let done = fire(&url, &["--model", "m", "--endpoint", "/x y?key=sk-of-query"], &line);
    assert!(done.code == 2 && done.stderr.contains("key=***") && !done.stderr.contains("sk-of"), "{}", done.stderr);
}

#[test]
fn certificates_are_checked_unless_insecure_is_given() {
    let sim = Sim::start_tls(&[]);
    let with = |args: &[&str], ca: &str| {
        let mut vb = command("vb-fire");
        vb.args(["--base-url", &sim.url]).args(args).env("SSL_CERT_FILE", data(ca));
        let mut child = vb.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // The client may close the connection before it reads.
        let _ = child.stdin.take().unwrap().write_all(requests(2, FULL).as_bytes());
        tool::done(child.wait_with_output().unwrap())
    };
    let trusted = with(&[], "tls-ca.pem");
    assert_eq!(trusted.code, 0, "{}", trusted.stderr);
    let (_, outputs, _) = records(&trusted.stdout);
    assert!(outputs.iter().all(|o| seconds(&o["phases"]["tls"]) > 0.0 && seconds(&o["phases"]["connect"]) > 0.0));
    let unknown = with(&[], "tls-key.pem");
    assert!(unknown.code == 4 && unknown.stderr.contains("--insecure"), "{}", unknown.stderr);
    assert_eq!(with(&["--insecure"], "tls-key.pem").code, 0);
}

/// A running `vb-fire`, whose output is read as it arrives.
struct Running {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Running {
    fn start(url: &str, args: &[&str], stdin: &str) -> Self {
        let mut child = command("vb-fire")
            .args(["--base-url", url, "--model", "tiny"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut pipe, input) = (child.stdin.take().unwrap(), stdin.to_owned());
        // It reads no further ahead than necessary, and may exit before the end.
        std::thread::spawn(move || drop(pipe.write_all(input.as_bytes())));
        let out = BufReader::new(child.stdout.take().unwrap());
        Running { child, out }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.read_line(&mut line).unwrap();
        line
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn end(mut self) -> (String, Done) {
        let mut rest = String::new();
        self.out.read_to_string(&mut rest).unwrap();
        (rest, tool::done(self.child.wait_with_output().unwrap()))
    }
}

#[test]
fn an_interrupt_drains_and_a_second_cancels() {
    let sim = Sim::start(&["--step-base", "2ms"]);
    // Two short requests, then two long ones.
    let long = "{\"prompt\":\"long\",\"expected_output_len\":300,\"body\":{\"ignore_eos\":true}}\n";
    let lines = requests(2, FULL) + long + long + &requests(50, FULL);
    for (signals, outcome) in [(1, "ok"), (2, "cancelled")] {
        let mut running = Running::start(&sim.url, &["--max-concurrency", "2"], &lines);
        let head: String = (0..3).map(|_| running.line()).collect();
        for _ in 0..signals {
            running.signal(Signal::INT);
            // Two pending signals would be merged into one.
            std::thread::sleep(std::time::Duration::from_millis(30));
        }
        let (rest, done) = running.end();
        assert_eq!(done.code, 130, "{}", done.stderr);
        let (_, outputs, end) = records(&(head + &rest));
        assert_eq!(end["interrupted"], true);
        assert_eq!(end["not_sent"]["why"], "interrupted by a signal");
        assert!(outputs.len() < 10 && end["not_sent"]["count"].as_u64().unwrap() > 40, "{end}");
        let kinds: Vec<&str> = outputs.iter().map(|o| o["error_kind"].as_str().unwrap_or("ok")).collect();
        assert_eq!(kinds.last(), Some(&outcome), "{kinds:?}");
        assert_eq!(end["offered"], outputs.len());
    }
}

#[test]
fn the_grace_ends_a_drain() {
    let sim = Sim::start(&["--step-base", "2ms"]);
    let long = "{\"prompt\":\"long\",\"expected_output_len\":1500,\"body\":{\"ignore_eos\":true}}\n".repeat(3);
    let done = fire(&sim.url, &["--max-concurrency", "2", "--max-seconds", "100ms", "--grace", "100ms"], &long);
    let (_, outputs, end) = records(&done.stdout);
    assert!(outputs.len() == 2 && outputs.iter().all(|o| o["error_kind"] == "cancelled"));
    assert_eq!((&end["interrupted"], &end["not_sent"]["why"]), (&false.into(), &"reached --max-seconds".into()));
    assert_eq!((done.code, &end["not_sent"]["count"]), (1, &1.into()));
}

#[test]
fn what_was_due_before_the_end_was_offered() {
    let sim = Sim::start(&["--step-base", "2ms"]);
    let args = ["--max-concurrency", "1", "--request-rate", "100", "--burstiness", "inf", "--max-seconds", "200ms"];
    let slow = requests(60, FULL).replace("\"expected_output_len\":8", "\"expected_output_len\":60");
    let (_, outputs, end) = records(&fire(&sim.url, &args, &slow).stdout);
    let never = outputs.iter().filter(|o| o["error_kind"] == "not_sent").count();
    assert!((17..=25).contains(&outputs.len()), "twenty were due by then: {}", outputs.len());
    assert!(never >= 14 && outputs.iter().all(|o| o["error_kind"] != "not_sent" || o["start_time"].is_null()));
    assert_eq!(end["outcomes"]["not_sent"], never);
}

#[test]
fn a_killed_run_keeps_what_was_finished() {
    let sim = Sim::start(&["--step-base", "2ms"]);
    let mut running = Running::start(&sim.url, &["--max-concurrency", "2"], &requests(500, FULL));
    let head: String = (0..20).map(|_| running.line()).collect();
    running.signal(Signal::KILL);
    let (rest, _) = running.end();
    let text = head + &rest;
    assert!(text.ends_with('\n'), "no line is cut");
    assert!(text.lines().count() >= 20 && text.lines().all(|l| serde_json::from_str::<Value>(l).is_ok()));
}

#[test]
fn waiting_for_input_at_the_end_does_not_count_as_duration() {
    let sim = Sim::start(&[]);
    let mut child = crate::tool::start_fire(&sim.url, &[]);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(requests(3, FULL).as_bytes()).unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut stream: Vec<String> = lines.by_ref().take(4).collect();
    std::thread::sleep(std::time::Duration::from_millis(50));
    drop(stdin);
    stream.extend(lines);
    assert!(child.wait().unwrap().success());
    let (run, outputs, end) = records(&stream.join("\n"));
    let ends = outputs.iter().map(|o| seconds(&o["start_time"]) + seconds(&o["phases"]["done"]));
    let last = ends.fold(0.0, f64::max) - seconds(&run["clock"]["start"]);
    assert!((seconds(&end["duration"]) - last).abs() < 0.05, "{last} {end}");
}

/// Requests are handed over in batches, but none waits for a line that has not come.
#[test]
fn a_request_is_sent_when_its_line_is_read() {
    let sim = Sim::start(&[]);
    let mut child = crate::tool::start_fire(&sim.url, &["--max-concurrency", "8"]);
    let mut stdin = child.stdin.take().unwrap();
    let out = child.stdout.take().unwrap();
    let (send, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || BufReader::new(out).lines().map_while(Result::ok).all(|line| send.send(line).is_ok()));
    let next = || lines.recv_timeout(std::time::Duration::from_secs(30)).unwrap_or_default();
    stdin.write_all(br#"{"prompt":"#).unwrap();
    for number in 0..4 {
        // With the beginning of the next one.
        let text = format!("\"a\",\"request_id\":{number}}}\n{{\"prompt\":");
        stdin.write_all(text.as_bytes()).unwrap();
        let mut line = next();
        if line.contains("\"type\":\"run\"") {
            line = next();
        }
        assert!(line.contains(&format!("\"request_id\":\"{number}\"")), "{number}: {line}");
    }
    stdin.write_all(b"\"b\"}\n").unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

#[test]
fn long_prompts_among_short_ones_are_all_sent_as_they_are() {
    let prefill = ["--step-base", "1ms", "--step-per-prefill-token", "0ms", "--max-num-batched-tokens", "1000000"];
    let room = ["--max-model-len", "1000000", "--num-gpu-blocks", "200000"];
    let sim = Sim::start(&[&prefill[..], &room].concat());
    let long = "word ".repeat(200_000);
    let prompt = |n| if n % 30 == 4 { &long } else { "short" };
    let line = |n| format!("{{\"prompt\":\"{}\",\"expected_output_len\":1}}\n", prompt(n));
    let lines = (0..90).map(line).collect::<Vec<String>>().concat();
    let done = run("vb-fire", &["--base-url", &sim.url, "--max-concurrency", "4", "--backend", "openai-chat"], lines);
    let (_, outputs, end) = records(&done.stdout);
    let sent = |output: &&Value| output["success"] == true;
    assert_eq!((outputs.iter().filter(sent).count(), &end["offered"]), (90, &90.into()), "{}", done.stderr);
}

#[test]
fn a_reader_that_closes_its_end_stops_the_load() {
    let sim = Sim::start(&["--step-base", "2ms"]);
    let mut running = Running::start(&sim.url, &["--max-concurrency", "1"], &requests(5000, FULL));
    running.line();
    let Running { child, out } = running;
    drop(out);
    let done = tool::done(child.wait_with_output().unwrap());
    assert!(done.code == 4 && done.stderr.contains("the reader of the records closed its end"), "{}", done.stderr);
}

#[test]
fn a_full_disk_is_reported() {
    let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") else { return };
    let sim = Sim::start(&[]);
    let mut child = command("vb-fire")
        .args(["--base-url", &sim.url])
        .stdin(Stdio::piped())
        .stdout(full)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(requests(3, FULL).as_bytes()).unwrap();
    let done = tool::done(child.wait_with_output().unwrap());
    assert!(done.code == 4 && done.stderr.contains("No space left on device"), "{}", done.stderr);
}

#[test]
fn warm_ups_have_separate_prompts_and_are_not_recorded() {
    let folder = folder("fire-warmup");
    let log = folder.join("truth.ndjson");
    let sim = Sim::start(&["--truth-log", log.to_str().unwrap()]);
    let words: Vec<String> = (0..200).map(|i| format!("word{i}")).collect();
    let line = format!("{{\"request_id\":\"m\",\"prompt\":\"{}\",\"expected_output_len\":4}}\n", words.join(" "));
    let (run, outputs, end) = records(&fire(&sim.url, &["--num-warmups", "3", "--max-concurrency", "2"], &line).stdout);
    assert_eq!((&run["num_warmups"], outputs.len(), &end["offered"]), (&3.into(), 1, &1.into()));
    sim.stop();
    let truth = truths(&log);
    let ids: Vec<&str> = truth.iter().map(|t| t.request_id.as_str()).collect();
    assert_eq!((ids.len(), ids.iter().filter(|id| id.starts_with("warmup-")).count(), ids[3]), (4, 3, "m"));
    assert!(truth.iter().all(|t| t.cached_tokens == 0), "no prompt primes the cache for another");
}

#[test]
fn a_tokenizer_counts_where_the_server_does_not() {
    let sim = Sim::start(&["--fault", "no_usage"]);
    let (run, outputs, _) = records(&fire(&sim.url, &["--tokenizer", "builtin"], &requests(3, FULL)).stdout);
    assert_eq!(run["tokenizer"], "builtin");
    assert!(outputs.iter().all(|o| o["token_source"] == "tokenizer" && o["output_tokens"].as_u64().unwrap() > 0));
    let (_, outputs, _) =
        records(&fire(&sim.url, &["--extra-body", "{\"return_token_ids\":true}"], &requests(3, FULL)).stdout);
    assert!(outputs.iter().all(|o| o["token_source"] == "token_ids" && o["output_tokens"] == 8), "{}", outputs[0]);
}

#[test]
fn flags_reach_the_body_and_the_schema_is_json() {
    let sim = Sim::start(&[]);
    let done = fire(&sim.url, &["--no-text", "--ignore-eos", "--temperature", "0.5"], &requests(1, ""));
    let (_, outputs, _) = records(&done.stdout);
    assert!(outputs[0].get("generated_text").is_none() && outputs[0]["output_tokens"] == 8);
    let schema: Value = serde_json::from_str(&run("vb-fire", &["--schema"], "").stdout).unwrap();
    assert!(schema.to_string().contains("RequestFuncOutput"));
    for args in [
        ["--burstiness", "0"],
        ["--fail-above", "2"],
        ["--base-url", "ftp://x"],
        ["--max-concurrency", "0"],
        ["--extra-body", "[1]"],
    ] {
        let done = run("vb-fire", &[&args[..], &["--request-rate", "1"]].concat(), "");
        assert_eq!(done.code, 2, "{args:?}: {}", done.stderr);
    }
}

//! `--stamps packets`: the arrival of each chunk by its packet. Linux only, and only where the right to capture is there.
#![cfg(target_os = "linux")]

use std::{collections::BTreeMap, io::Write, process::Stdio, thread::sleep, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use vb::{
    record::{RequestFuncOutput, Stamp, Truth},
    units::Nanos,
};

use crate::{
    fire::{FULL, fire, outputs, records, requests},
    tool::{self, Done, Sim, command, folder, truths},
    verdict::{held_run, stopped_run},
};

/// What the system's refusal reads like: the tests of a packet capture are then skipped.
const REFUSED: &str = "the system does not allow it";

fn may_capture(done: &Done) -> bool {
    let refused = done.stderr.contains(REFUSED);
    if refused {
        eprintln!("skipped: {}", done.stderr);
    }
    !refused
}

/// How often a run is tried in which each chunk must have its packet.
const ATTEMPTS: usize = 4;

/// Runs until each chunk has its packet; `None`: the system allows no capture. On a virtual machine whose processors are paused, a few
/// chunks of a run may keep the stamps of their reads.
fn run_with_all_packets(run: impl Fn() -> Done) -> Option<Done> {
    let mut attempt = 0;
    loop {
        attempt += 1;
        let done = run();
        if !may_capture(&done) {
            return None;
        }
        let stamps = &records(&done.stdout).2["stamps"];
        let [chunks, packets] = ["chunks", "packets"].map(|key| stamps[key].as_u64().unwrap());
        if packets == chunks {
            return Some(done);
        }
        assert!(attempt < ATTEMPTS && packets * 2 > chunks, "{packets} of {chunks}: {}", done.stderr);
    }
}

/// For each chunk, how long after it was sent it arrived, and how long after that it was read.
fn delays(outputs: &[RequestFuncOutput], truth: &[Truth]) -> Vec<(Nanos, Nanos)> {
    // The two programs convert the clock with different anchors.
    let anchors = Nanos(50_000);
    let by_id: BTreeMap<&str, &Truth> = truth.iter().map(|t| (t.request_id.as_str(), t)).collect();
    let mut delays = Vec::new();
    for output in outputs {
        let (sent, lags) = (&by_id[output.request_id.as_str()].sent, output.read_lag.as_ref().unwrap());
        assert_eq!((sent.len(), lags.len()), (output.itl.len() + 1, output.itl.len() + 1));
        let mut arrival = output.start_time.unwrap() + output.ttft.unwrap();
        for (at, gap) in output.itl.iter().map(Some).chain([None]).enumerate() {
            assert!(arrival + anchors > sent[at], "{}: chunk {at} arrives before it is sent", output.request_id);
            delays.push((arrival.since(sent[at]), lags[at]));
            arrival = arrival + gap.copied().unwrap_or_default();
        }
    }
    delays
}

#[test]
fn a_client_that_was_stopped_knows_when_each_chunk_arrived() {
    check_stopped_client("packets-stopped", Sim::start);
}

#[test]
fn a_client_that_was_stopped_knows_when_each_chunk_arrived_under_tls() {
    check_stopped_client("packets-stopped-tls", Sim::start_tls);
}

fn check_stopped_client(name: &str, start: fn(&[&str]) -> Sim) {
    let log = folder(name).join("truth.ndjson");
    let run = || {
        let sim = start(&["--truth-log", log.to_str().unwrap(), "--step-base", "10ms"]);
        let done = run_stopped_client(&sim.url);
        sim.stop();
        done
    };
    let Some(done) = run_with_all_packets(run) else { return };
    assert_eq!(done.code, 0, "{}", done.stderr);
    let (run, _, end) = records(&done.stdout);
    assert_eq!(run["stamps"], "packets");
    let stamps = &end["stamps"];
    assert_eq!((&stamps["chunks"], &stamps["coalesced"], &end["bounds"]), (&576.into(), &0.into(), &Value::Null));
    let outputs = outputs(&done.stdout).1;
    // What the client read late had not been late on its way.
    let late = delays(&outputs, &truths(&log)).into_iter().filter(|(_, lag)| *lag > Nanos(20_000_000));
    let (on_the_way, waited) = late.fold((0, 0), |sum, (way, lag)| (sum.0 + way.0, sum.1 + lag.0));
    assert!(waited > 0 && on_the_way < waited / 2, "{on_the_way} ns on the way, {waited} ns in the socket");
    for output in outputs {
        assert_eq!((output.stamp, output.coalesced), (Stamp::Packet, 0));
        assert!(output.stamp_error.is_none());
        // Nothing of a response is later than its chunks.
        assert!(output.phases.first_byte <= output.phases.headers && output.phases.headers <= output.ttft);
        let lags = output.read_lag.unwrap();
        assert_eq!(lags.iter().max().copied(), output.read_lag_max);
    }
}

/// Runs a client that is stopped for 60 of each 100 ms.
fn run_stopped_client(url: &str) -> Done {
    let mut client = command("vb-fire")
        .args(["--base-url", url, "--stamps", "packets", "--max-concurrency", "8", "--read-lags", "--insecure"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = requests(24, FULL).replace("\"expected_output_len\":8", "\"expected_output_len\":24");
    client.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let pid = Pid::from_child(&client);
    // To its end, because a busy machine may start it late.
    while client.try_wait().unwrap().is_none() {
        sleep(Duration::from_millis(40));
        let _ = kill_process(pid, Signal::STOP);
        sleep(Duration::from_millis(60));
        let _ = kill_process(pid, Signal::CONT);
    }
    tool::done(client.wait_with_output().unwrap())
}

#[test]
fn a_late_reader_with_packets_distorts_the_load_at_most() {
    // Answers of 150 tokens: their ends are noticed late, but that is little of their time. Chunks had waited for the client.
    let held = || held_run("packets", &["--stamps", "packets"]);
    let Some(done) = run_with_all_packets(held) else { return };
    let end = records(&done.stdout).2;
    assert!(end["client"]["away"].as_f64() > Some(0.2) && end["stamps"]["late"].as_u64() > Some(100), "{end}");
    assert_ne!(end["verdict"], "client_bound", "{end}");
    for about_stamps in ["was away", "no core", "waited for the client"] {
        assert!(!done.stderr.contains(about_stamps), "{}", done.stderr);
    }
    // With short answers the slot was empty for half of the run.
    let stopped = |limit: &str, value: &str| {
        run_with_all_packets(|| stopped_run("packets", &["--stamps", "packets", limit, value])).unwrap()
    };
    let done = stopped("--max-concurrency", "1");
    assert_eq!(records(&done.stdout).2["verdict"], "client_bound");
    assert!(done.stderr.contains("(the latencies are right)"), "{}", done.stderr);
    // In an open loop requests were sent late.
    let done = stopped("--request-rate", "50");
    assert_eq!(records(&done.stdout).2["verdict"], "client_bound");
    assert!(done.stderr.contains("sent late against the schedule"), "{}", done.stderr);
}

#[test]
fn packets_are_found_by_any_way_to_the_server() {
    // IPv6, a name with several addresses, two servers, a new connection for each request, whole responses.
    for (start, host, url, flags) in [
        (Sim::start as fn(&[&str]) -> Sim, "::1", "http://[::1]", &["--threads", "2"][..]),
        (Sim::start, "127.0.0.1", "http://localhost", &["--no-keep-alive"]),
        (Sim::start, "127.0.0.1", "http://127.0.0.1", &["--no-stream"]),
        (Sim::start, "127.0.0.1", "http://[::ffff:127.0.0.1]", &["--stamps", "auto"]),
        // The warm-up uses the same connections with another clock.
        (Sim::start, "127.0.0.1", "http://127.0.0.1", &["--num-warmups", "6"]),
        (Sim::start_tls, "127.0.0.1", "https://127.0.0.1", &["--insecure"]),
        (Sim::start_tls, "127.0.0.1", "https://127.0.0.1", &["--insecure", "--no-stream", "--no-keep-alive"]),
    ] {
        let servers = [(); 2].map(|()| start(&["--step-base", "1ms", "--host", host]));
        let urls = servers.each_ref().map(|sim| format!("{url}:{}", sim.url.rsplit(':').next().unwrap()));
        let flags = [&["--base-url", &urls[1], "--max-concurrency", "6"], flags].concat();
        let flags = if flags.contains(&"auto") { flags } else { [&flags[..], &["--stamps", "packets"]].concat() };
        let Some(done) = run_with_all_packets(|| fire(&urls[0], &flags, &requests(30, FULL))) else { return };
        assert_eq!(done.code, 0, "{}", done.stderr);
        assert!(outputs(&done.stdout).1.iter().all(|output| output.stamp == Stamp::Packet), "{url}");
    }
}

/// Runs `vb-fire` with these flags and without the right to capture, which root loses with its bounding set; `None`: the system has no
/// `setpriv`, or does not let it.
fn fire_without_right(url: &str, flags: &[&str]) -> Option<Done> {
    let mut child = tool::plain_command("setpriv")
        .args(["--bounding-set", "-net_raw", "--inh-caps", "-net_raw"])
        .args([env!("CARGO_BIN_EXE_vb-fire"), "--base-url", url])
        .args(flags)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    let _ = child.stdin.take().unwrap().write_all(requests(1, FULL).as_bytes());
    Some(tool::done(child.wait_with_output().unwrap())).filter(|done| !done.stderr.starts_with("setpriv"))
}

#[test]
fn a_capture_that_cannot_work_is_an_error_with_its_cure() {
    let sim = Sim::start(&[]);
    let done = fire(&sim.url, &["--stamps", "packets", "--transport", "portable"], &requests(1, FULL));
    assert_eq!(done.code, 2);
    assert!(done.stderr.contains("leave --transport portable out"), "{}", done.stderr);
    if let Some(done) = fire_without_right(&sim.url, &["--stamps", "packets"]) {
        assert_eq!(done.code, 4, "{}", done.stderr);
        assert!(done.stderr.contains(REFUSED) && done.stderr.contains("cap_net_raw"), "{}", done.stderr);
    }
}

#[test]
fn automatic_stamps_need_no_right() {
    let sim = Sim::start(&["--step-base", "1ms"]);
    if let Some(done) = fire_without_right(&sim.url, &["--stamps", "auto"]) {
        assert_eq!(done.code, 0, "{}", done.stderr);
        assert_eq!(
            done.stderr.matches("--stamps auto: the kernel's stamps, not packets").count(),
            1,
            "{}",
            done.stderr
        );
        assert!(!done.stderr.contains("stamps by packets"), "{}", done.stderr);
        let (run, _, end) = records(&done.stdout);
        assert_eq!((&run["stamps"], &end["stamps"]["packets"]), (&"kernel".into(), &Value::Null));
    }
    let done = fire(&sim.url, &["--stamps", "auto", "--transport", "portable"], &requests(1, FULL));
    assert_eq!((done.code, done.stderr.contains("--stamps")), (0, false), "{}", done.stderr);
    assert_eq!(records(&done.stdout).0["stamps"], Value::Null);
}

//! `vb-selftest` with its real children, and its result attached to a run.

use std::{fs, path::Path, process::Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::tool::{self, Sim, command, folder, run};

/// The smallest measurement that has all parts.
const SMALL: [&str; 9] =
    ["--max-concurrency", "4", "--step", "2ms", "--output-len", "5", "--seconds", "60ms", "--no-search"];

fn small(more: &[&str]) -> (Value, String) {
    let done = run("vb-selftest", &[&SMALL, more].concat(), "");
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(done.stdout.lines().count(), 1);
    (serde_json::from_str(&done.stdout).unwrap(), done.stderr)
}

#[test]
fn every_request_of_a_selftest_is_joined() {
    let (record, stderr) = small(&[]);
    assert_eq!(stderr, "");
    assert_eq!((&record["type"], &record["search"]), (&"selftest".into(), &Value::Null));
    // Five rounds of 12 ms, four streams, five chunks per response.
    assert_eq!((&record["requests"], &record["joined"], &record["failed"]), (&20.into(), &20.into(), &0.into()));
    assert_eq!(record["chunks"], 100);
    assert_eq!(record["settings"]["step"], 0.002);
    assert!(!record["host"].as_str().unwrap().is_empty());
    for metric in ["ttft", "itl", "e2el"] {
        for stamps in ["kernel", "user"] {
            // Only Linux has kernel stamps.
            let error = &record["errors"][stamps][metric];
            assert!(error.is_object() || stamps == "kernel" && cfg!(not(target_os = "linux")), "{record}");
            let values = ["p50", "p99", "max"].map(|name| error[name].as_f64());
            assert!(values.is_sorted() && values[2] > Some(0.0) || error.is_null(), "{metric}: {error}");
        }
    }
    assert!(record["rate"]["asked"].is_null() && record["rate"]["realised"].as_f64().unwrap() > 0.0);
}

#[test]
fn the_requested_and_the_realised_rate_are_reported() {
    let (record, table) = small(&["--request-rate", "300", "--table", "always"]);
    assert_eq!((&record["requests"], &record["joined"]), (&18.into(), &18.into()));
    assert_eq!(record["rate"]["asked"], 300.0);
    assert!(record["rate"]["scheduled"].as_f64().unwrap() > 0.0);
    assert!(table.contains("18 of 18 requests joined") && table.contains("300.00/s requested"), "{table}");
    assert!(table.contains("E2EL error, user stamps"), "{table}");
}

#[test]
fn the_schema_has_every_key_of_the_record() {
    let (record, _) = small(&[]);
    let schema: Value = serde_json::from_str(&run("vb-selftest", &["--schema"], "").stdout).unwrap();
    for key in record.as_object().unwrap().keys() {
        assert!(schema["properties"].get(key).is_some(), "{key}");
    }
}

#[test]
fn the_config_of_a_run_also_configures_its_selftest() {
    let config = folder("selftest-config").join("config.yaml");
    // `output_len` is a key for vb-gen.
    fs::write(&config, "max_concurrency: 3\noutput_len: 1000\nstep: 2ms\nseconds: 60ms\nno_search: true\n").unwrap();
    let done = run("vb-selftest", &["--config", config.to_str().unwrap()], "");
    let record: Value = serde_json::from_str(&done.stdout).unwrap();
    let settings = &record["settings"];
    assert_eq!((&settings["max_concurrency"], &settings["output_len"]), (&3.into(), &29.into()), "{settings}");
}

#[test]
fn a_flag_of_zero_is_rejected() {
    for flag in ["--max-concurrency", "--output-len", "--step", "--seconds"] {
        let done = run("vb-selftest", &[flag, "0"], "");
        assert!(done.code == 2 && done.stderr.contains("must be more than 0"), "{}", done.stderr);
    }
}

/// The program in a folder without the others.
#[test]
fn without_the_other_programs_the_error_names_their_folder() {
    let home = folder("selftest-alone");
    let alone = home.join("vb-selftest");
    fs::hard_link(command("vb-selftest").get_program(), &alone).unwrap();
    let done = tool::done(tool::plain_command(&alone).output().unwrap());
    assert_eq!((done.code, done.stdout.as_str()), (4, ""));
    assert!(done.stderr.contains("vb-sim must be in the folder of vb-selftest"), "{}", done.stderr);
}

/// Counts the children whose command lines contain the folder of the truth log.
fn count_children(scratch: &Path) -> usize {
    let name = scratch.to_str().unwrap();
    let command_line = |entry: fs::DirEntry| fs::read(entry.path().join("cmdline")).ok();
    let lines = fs::read_dir("/proc").unwrap().filter_map(|entry| command_line(entry.ok()?));
    lines.filter(|line| String::from_utf8_lossy(line).contains(name)).count()
}

#[test]
fn an_interrupt_leaves_neither_children_nor_files() {
    if !Path::new("/proc/self/cmdline").exists() {
        return; // only on Linux
    }
    let scratch = folder("selftest-interrupt");
    let child = command("vb-selftest")
        .args(["--max-concurrency", "2", "--seconds", "20s"])
        .env("TMPDIR", &scratch)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    tool::wait_until("its programs run", || count_children(&scratch) > 0);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let done = tool::done(child.wait_with_output().unwrap());
    assert_eq!((done.code, done.stdout.as_str()), (130, ""), "{}", done.stderr);
    assert_eq!(count_children(&scratch), 0);
    assert_eq!(fs::read_dir(&scratch).unwrap().count(), 0);
}

#[test]
fn an_attached_selftest_is_in_the_result() {
    let home = folder("selftest-attach");
    let (record, _) = small(&[]);
    let file = home.join("selftest.json");
    fs::write(&file, serde_json::to_string_pretty(&record).unwrap()).unwrap();
    let sim = Sim::start(&[]);
    let args = ["--base-url", &sim.url, "--attach-selftest", file.to_str().unwrap()];
    let stream = run("vb-fire", &args, "{\"prompt\":\"hi\"}\n");
    assert_eq!(stream.code, 0, "{}", stream.stderr);
    let first: Value = serde_json::from_str(stream.stdout.lines().next().unwrap()).unwrap();
    assert_eq!(first["selftest"], record);
    let result: Value = serde_json::from_str(&run("vb-stats", &[], stream.stdout).stdout).unwrap();
    assert_eq!(result["vb"]["selftest"], record);
}

#[test]
fn only_a_selftest_can_be_attached() {
    let home = folder("selftest-wrong");
    for (name, text) in
        [("list", "[1]"), ("cut", "{\"type\":\"selftest\""), ("run", "{\"type\":\"run\"}"), ("none", "{}")]
    {
        let file = home.join(name);
        fs::write(&file, text).unwrap();
        let done = run("vb-fire", &["--attach-selftest", file.to_str().unwrap()], "{\"prompt\":\"hi\"}\n");
        assert!(done.code == 2 && done.stderr.contains("must be the output of `vb-selftest`"), "{}", done.stderr);
        assert_eq!(done.stderr.lines().count(), 1);
    }
    let done = run("vb-fire", &["--attach-selftest", "no/such/file"], "");
    assert!(done.code == 2 && done.stderr.contains("no/such/file: cannot read it"), "{}", done.stderr);
}

//! The tools as a pipeline: full disks, closed pipes, and Ctrl-C, which reaches all of them at once.

use std::{
    fs::{self, OpenOptions},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

use crate::tool::{self, Sim, command, data, folder, search_path};

#[test]
fn every_tool_reports_a_full_disk() {
    if !std::path::Path::new("/dev/full").exists() {
        return; // only on Linux
    }
    let (run, result) = (data("stats-run.ndjson"), data("stats-vllm-detailed.json"));
    for (tool, args) in [
        ("vb-gen", vec!["--num-prompts", "5"]),
        ("vb-stats", vec![run.to_str().unwrap()]),
        ("vb-agg", vec![result.to_str().unwrap()]),
    ] {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let done = command(tool).args(args).stdin(Stdio::null()).stdout(full).output().unwrap();
        let done = tool::done(done);
        assert_eq!(done.code, 4, "{}", done.stderr);
        assert_eq!(done.stderr, format!("{tool}: cannot write stdout: No space left on device (os error 28)\n"));
    }
}

#[test]
fn a_filter_whose_reader_exits_ends_silently() {
    let script =
        "vb-gen --num-prompts 100000 --input-len 16 | head -n 1 | vb-stats --lenient; echo \"${PIPESTATUS[0]}\"";
    let done = Command::new("bash").args(["-c", script]).env("PATH", search_path()).output().unwrap();
    let done = tool::done(done);
    assert_eq!(done.stdout, "0\n", "{}", done.stderr);
    assert!(!done.stderr.contains("vb-gen"), "{}", done.stderr);
}

#[test]
fn an_interrupted_pipeline_still_gives_its_result() {
    let sim = Sim::start(&["--step-base", "2ms"]);
    let home = folder("pipe-interrupt");
    let result = home.join("result.json");
    let script = format!(
        "vb-gen --input-len 16 --output-len 20 --num-prompts 5000 | vb-fire --base-url {} --max-concurrency 4 | vb-stats > {}",
        sim.url,
        result.display()
    );
    let mut shell = Command::new("bash")
        .args(["-c", &script])
        .env("PATH", search_path())
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(600));
    kill_process_group(Pid::from_child(&shell), Signal::INT).unwrap();
    shell.wait().unwrap();
    // The shell may exit before the last program of the pipeline.
    let parsed = (0..200).find_map(|_| {
        std::thread::sleep(Duration::from_millis(50));
        serde_json::from_str::<Value>(&fs::read_to_string(&result).unwrap()).ok()
    });
    let parsed = parsed.unwrap();
    assert_eq!(
        (&parsed["vb"]["interrupted"], &parsed["vb"]["complete"], &parsed["failed"]),
        (&true.into(), &true.into(), &0.into())
    );
    let completed = parsed["completed"].as_u64().unwrap();
    assert!((4..5000).contains(&completed), "{completed}");
}

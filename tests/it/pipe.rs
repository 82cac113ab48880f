//! The tools as a pipeline: full disks, closed pipes, and Ctrl-C, which reaches all of them at once.

use std::{
    fs::{self, OpenOptions},
    os::unix::process::CommandExt,
    process::Stdio,
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

/// Rust's runtime opens /dev/null instead, and everything written would be lost without an error.
#[test]
fn every_tool_reports_a_closed_output() {
    if !cfg!(target_os = "linux") {
        return;
    }
    let (run, result) = (data("stats-run.ndjson"), data("stats-vllm-detailed.json"));
    let (run, result) = (run.display(), result.display());
    for tool in
        ["vb-gen --num-prompts 5".to_owned(), format!("vb-stats {run}"), format!("vb-agg {result}"), "vb-sim".into()]
    {
        let script = |output: &str| {
            let mut bash = tool::plain_command("bash");
            bash.args(["-c", &format!("exec {tool} {output}")]);
            tool::done(bash.env("PATH", search_path()).stdin(Stdio::null()).output().unwrap())
        };
        let done = script(">&-");
        assert_eq!(done.code, 4, "{tool}: {}", done.stderr);
        assert!(done.stderr.contains("standard output is closed"), "{}", done.stderr);
        if !tool.starts_with("vb-sim") {
            assert_eq!(script(">/dev/null").code, 0);
        }
    }
}

#[test]
fn a_filter_whose_reader_exits_ends_silently() {
    let script =
        "vb-gen --num-prompts 100000 --input-len 16 | head -n 1 | vb-stats --lenient; echo \"${PIPESTATUS[0]}\"";
    let done = tool::plain_command("bash").args(["-c", script]).env("PATH", search_path()).output().unwrap();
    let done = tool::done(done);
    assert_eq!(done.stdout, "0\n", "{}", done.stderr);
    assert!(!done.stderr.contains("vb-gen"), "{}", done.stderr);
}

/// A pipeline in its own process group, as a shell starts it on a terminal, and the file of its result.
struct Pipeline {
    shell: std::process::Child,
    result: std::path::PathBuf,
    stderr: std::path::PathBuf,
}

impl Pipeline {
    /// Starts it, and waits until the server has finished `count` requests.
    fn start(name: &str, source: &str, fire_flags: &str, sim: &Sim, count: f64) -> Self {
        let home = folder(name);
        let (result, stderr) = (home.join("result.json"), home.join("stderr"));
        let script =
            format!("{source} | vb-fire --base-url {} {fire_flags} | vb-stats > {}", sim.url, result.display());
        let finished = || sim.metric("vllm:request_success_total{");
        let before = finished();
        let shell = tool::plain_command("bash")
            .args(["-c", &script])
            .env("PATH", search_path())
            .stdin(Stdio::null())
            .stderr(fs::File::create(&stderr).unwrap())
            .process_group(0)
            .spawn()
            .unwrap();
        tool::wait_until("the first responses end", || finished() >= before + count);
        Pipeline { shell, result, stderr }
    }

    /// Sends a signal to every program at once.
    fn signal(&self, signal: Signal) {
        kill_process_group(Pid::from_child(&self.shell), signal).unwrap();
    }

    /// The result, and what was printed.
    fn finish(mut self) -> (Value, String) {
        self.shell.wait().unwrap();
        // The shell may exit before the last program of the pipeline.
        let read = || serde_json::from_str(&fs::read_to_string(&self.result).unwrap());
        tool::wait_until("the pipeline writes its result", || read().is_ok());
        (read().unwrap(), fs::read_to_string(&self.stderr).unwrap())
    }
}

#[test]
fn an_interrupted_pipeline_still_gives_its_result() {
    let sim = Sim::start(&["--step-base", "2ms"]);
    let source = "vb-gen --input-len 16 --output-len 20 --num-prompts 5000";
    for signal in [Signal::INT, Signal::HUP, Signal::TERM] {
        if signal == Signal::HUP && !vb::cli::handles_hangup() {
            // As under `nohup`, which the programs inherit.
            continue;
        }
        let pipeline = Pipeline::start("pipe-interrupt", source, "--max-concurrency 4", &sim, 8.0);
        pipeline.signal(signal);
        let (result, stderr) = pipeline.finish();
        assert_eq!(
            (&result["vb"]["interrupted"], &result["vb"]["complete"], &result["failed"]),
            (&true.into(), &true.into(), &0.into()),
            "{signal:?}: {stderr}"
        );
        let completed = result["completed"].as_u64().unwrap();
        assert!((4..5000).contains(&completed), "{completed}");
        assert!(stderr.contains("vb-fire: stopping: "), "{stderr}");
    }
}

#[test]
fn a_pipeline_that_is_interrupted_twice_still_gives_its_result() {
    let sim = Sim::start(&["--step-base", "2ms"]);
    // Short ones, and then some that take minutes.
    let requests = folder("pipe-twice-requests").join("requests.ndjson");
    let short = tool::run("vb-gen", &["--input-len", "16", "--output-len", "4", "--num-prompts", "20"], "").stdout;
    let long = tool::run("vb-gen", &["--input-len", "16", "--output-len", "30000", "--num-prompts", "20"], "").stdout;
    fs::write(&requests, short + &long).unwrap();
    let source = format!("cat {}", requests.display());
    let pipeline = Pipeline::start("pipe-twice", &source, "--max-concurrency 4 --ignore-eos", &sim, 20.0);
    pipeline.signal(Signal::INT);
    // Two pending signals would be merged into one.
    tool::wait_until("vb-fire stops", || fs::read_to_string(&pipeline.stderr).unwrap().contains("vb-fire: stopping: "));
    pipeline.signal(Signal::INT);
    let (result, stderr) = pipeline.finish();
    let vb = &result["vb"];
    assert_eq!((&vb["interrupted"], &vb["complete"]), (&true.into(), &true.into()), "{result} {stderr}");
    assert_eq!(result["completed"], 20, "{stderr}");
    assert_eq!(vb["outcomes"]["cancelled"], 4, "{stderr}");
    assert!(stderr.contains("stopping: 4 in flight, up to 30 s; Ctrl-C again ends now"), "{stderr}");
    assert!(stderr.contains("ending now: requests in flight are cancelled"), "{stderr}");
}

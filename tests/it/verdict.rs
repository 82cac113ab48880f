//! Whether `vb-fire` notices that it was too slow. (`scripts/check-verdict.sh` checks that an idle one is clean: here other tests run
//! at the same time.)

use std::{
    process::{Child, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::tool::{Done, Sim, command, done, folder, run};

/// Lets a process run for a tenth of the time, until it ends.
fn held(mut child: Child) -> Done {
    let pid = Pid::from_child(&child);
    while child.try_wait().unwrap().is_none() {
        for (signal, ms) in [(Signal::STOP, 45), (Signal::CONT, 5)] {
            // Not reaped yet, so the id is still its own.
            let _ = kill_process(pid, signal);
            thread::sleep(Duration::from_millis(ms));
        }
    }
    done(child.wait_with_output().unwrap())
}

/// A closed loop with 8 slots and answers of 150 tokens, whose client has a tenth of the time.
pub fn held_run(name: &str, flags: &[&str]) -> Done {
    let sim = Sim::start(&["--step-base", "10ms"]);
    let folder = folder(&format!("verdict-{name}"));
    let requests = folder.join("requests");
    let generated = run("vb-gen", &["--num-prompts", "8", "--input-len", "8", "--output-len", "150"], "");
    std::fs::write(&requests, generated.stdout).unwrap();
    let child = command("vb-fire")
        .args(["--base-url", &sim.url, "--max-concurrency", "8", "--ignore-eos", "--no-text"])
        .args(flags)
        .stdin(std::fs::File::open(&requests).unwrap())
        // To files, because pipes are not read while it is held.
        .stdout(std::fs::File::create(folder.join("outputs")).unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let done = held(child);
    Done { stdout: std::fs::read_to_string(folder.join("outputs")).unwrap(), ..done }
}

#[test]
fn a_client_held_to_a_tenth_of_the_time_is_client_bound_on_both_transports() {
    let runs = [
        ("stamped-strict", &["--strict"][..], 5),
        ("portable-strict", &["--strict", "--transport", "portable"], 5),
        ("stamped", &[], 0),
    ];
    let threads = runs.map(|(name, flags, code)| thread::spawn(move || (held_run(name, flags), code)));
    for thread in threads {
        let (done, code) = thread.join().unwrap();
        assert_eq!(done.code, code, "{}", done.stderr);
        let end: Value = serde_json::from_str(done.stdout.lines().last().unwrap()).unwrap();
        assert_eq!(end["verdict"], "client_bound", "{end}");
        let lines: Vec<&str> = done.stderr.lines().collect();
        assert!(lines[0].starts_with("vb-fire: client_bound: ") && lines[0].contains("free core"), "{}", done.stderr);
        assert_eq!(lines.last().unwrap().contains("(--strict)"), code == 5, "{}", done.stderr);
        let table = run("vb-stats", &["--table", "full"], &done.stdout).stderr;
        assert!(table.starts_with("CLIENT BOUND: ") && table.contains("\nverdict: client_bound | "), "{table}");
    }
}

/// A client with one slot and short answers, which is stopped for half of its 4 s.
pub fn stopped_run(name: &str, flags: &[&str]) -> Done {
    let sim = Sim::start(&["--step-base", "1ms"]);
    let requests = run("vb-gen", &["--num-prompts", "20000", "--input-len", "8", "--output-len", "2"], "").stdout;
    let requests_file = folder(&format!("verdict-stopped-{name}")).join("requests");
    std::fs::write(&requests_file, requests).unwrap();
    let child = command("vb-fire")
        .args(["--base-url", &sim.url, "--no-text", "--max-seconds", "4"])
        .args(flags)
        .stdin(std::fs::File::open(&requests_file).unwrap())
        .stdout(std::fs::File::create(requests_file.with_extension("out")).unwrap())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_child(&child);
    thread::sleep(Duration::from_secs(1));
    // It may have ended, if the system refuses what it is to do.
    let _ = kill_process(pid, Signal::STOP);
    thread::sleep(Duration::from_secs(2));
    let _ = kill_process(pid, Signal::CONT);
    let ended = done(child.wait_with_output().unwrap());
    Done { stdout: std::fs::read_to_string(requests_file.with_extension("out")).unwrap(), ..ended }
}

/// With short answers no chunk is distorted, and no median shows the pause.
#[test]
fn a_client_that_was_stopped_for_a_part_of_the_run_is_not_clean() {
    for transport in ["stamped", "portable"] {
        let ended = stopped_run(transport, &["--max-concurrency", "1", "--transport", transport]);
        let end: Value = serde_json::from_str(ended.stdout.lines().last().unwrap()).unwrap();
        assert_eq!(end["verdict"], "client_bound", "{transport}: {end}");
        assert!(ended.stderr.contains("the client was away for"), "{transport}: {}", ended.stderr);
        let result: Value = serde_json::from_str(&run("vb-stats", &[], &ended.stdout).stdout).unwrap();
        assert!(result["vb"]["client"]["away"].as_f64() > Some(0.2), "{transport}: {}", result["vb"]["client"]);
    }
}

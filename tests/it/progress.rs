//! What programs show of their progress.

use std::{fs::File, process::Stdio};

use crate::{
    fire::{FULL, requests},
    terminal::Terminal,
    tool::{Sim, command, folder, run},
};

#[test]
fn a_terminal_shows_how_the_run_goes_in_one_line() {
    // A response lasts 0.4 s, so that the run takes two seconds.
    let sim = Sim::start(&["--step-base", "50ms"]);
    let requests = requests(40, FULL);
    let folder = folder("progress");
    let input = folder.join("requests.ndjson");
    std::fs::write(&input, requests).unwrap();
    for columns in [100, 40] {
        let terminal = Terminal::open(columns);
        let mut fire = command("vb-fire");
        fire.args(["--base-url", &sim.url, "--max-concurrency", "8"]);
        fire.stdin(File::open(&input).unwrap()).stdout(Stdio::null()).stderr(terminal.end.try_clone().unwrap());
        assert!(fire.status().unwrap().success());
        // The command holds the terminal open.
        drop(fire);
        let lines = terminal.lines();
        let bars: Vec<&String> = lines.iter().filter(|line| line.starts_with("vb-fire [")).collect();
        assert!(!bars.is_empty() && bars.iter().all(|bar| bar.chars().count() < columns.into()), "{lines:#?}");
        assert!(bars.iter().all(|bar| bar.contains(" of 40")), "{lines:#?}");
        if columns == 100 {
            assert!(bars.iter().any(|bar| bar.contains("8 running") && bar.contains(" tokens/s")), "{lines:#?}");
        }
        let end = lines.iter().find(|line| line.starts_with("vb-fire: 40 done in ")).unwrap();
        assert!(end.contains(" requests/s, ") && !end.contains("failed"), "{end}");
    }
}

#[test]
fn nothing_is_shown_if_that_is_asked_for_or_into_a_file() {
    let sim = Sim::start(&["--step-base", "1s"]);
    let terminal = Terminal::open(100);
    let mut fire = command("vb-fire");
    fire.args(["--base-url", &sim.url, "--quiet"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = fire.stderr(terminal.end.try_clone().unwrap()).spawn().unwrap();
    drop(fire);
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), requests(2, "").as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
    let lines = terminal.lines();
    assert!(!lines.iter().any(|line| line.contains("done") || line.contains("running")), "{lines:#?}");
    // A run shorter than the time between two lines writes none into a file.
    let done = run("vb-fire", &["--base-url", &sim.url], requests(2, ""));
    assert!(!done.stderr.contains("done"), "{}", done.stderr);
}

#[test]
fn requests_that_take_long_to_write_are_counted() {
    let folder = folder("progress-gen");
    let terminal = Terminal::open(80);
    let mut generate = command("vb-gen");
    // Long enough for a bar on any machine: an unoptimized build takes seconds for it.
    generate.args(["--num-prompts", "12000", "--input-len", "200"]);
    generate.stdout(File::create(folder.join("requests.ndjson")).unwrap());
    generate.stderr(terminal.end.try_clone().unwrap());
    assert!(generate.status().unwrap().success());
    drop(generate);
    let lines = terminal.lines();
    assert!(
        lines.iter().any(|line| line.starts_with("vb-gen [") && line.contains(" of 12000 requests written")),
        "{lines:#?}"
    );
}

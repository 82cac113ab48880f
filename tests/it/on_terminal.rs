//! What the programs print on a terminal.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::OwnedFd,
    process::Stdio,
    thread,
};

use rustix::{
    fs::{Mode, OFlags, open},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use crate::tool::{command, data};

/// Runs a tool whose standard output and error are a terminal of this width. Returns what the terminal shows.
fn on_terminal(tool: &str, args: &[&str], stdin: &str, columns: u16, environment: &[(&str, &str)]) -> String {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs: OwnedFd = open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    tcsetwinsize(&theirs, Winsize { ws_row: 40, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let mut child = command(tool)
        .args(args)
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::from(theirs.try_clone().unwrap()))
        .stderr(Stdio::from(theirs))
        .spawn()
        .unwrap();
    let reader = thread::spawn(move || {
        let (mut terminal, mut shown, mut block) = (File::from(ours), Vec::new(), [0; 4096]);
        // The read fails when the program has ended.
        while let Ok(n @ 1..) = terminal.read(&mut block) {
            shown.extend_from_slice(&block[..n]);
        }
        String::from_utf8(shown).unwrap()
    });
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(stdin.as_bytes()).unwrap();
    drop(pipe);
    child.wait().unwrap();
    reader.join().unwrap().replace("\r\n", "\n")
}

#[test]
fn a_terminal_gets_the_table_and_json_on_request() {
    let input = std::fs::read_to_string(data("stats-run.ndjson")).unwrap();
    let plain = |args: &[&str], columns| on_terminal("vb-stats", args, &input, columns, &[("NO_COLOR", "1")]);
    let narrow = plain(&[], 80);
    assert!(narrow.starts_with("verdict: suspect, interrupted | server: "), "{narrow}");
    assert!(!narrow.contains('{') && !narrow.contains('\u{1b}') && narrow.contains("--json"), "{narrow}");
    assert!(narrow.lines().count() < 45 && narrow.lines().all(|line| line.chars().count() <= 80), "{narrow}");
    // The intervals are next to the values if there is room.
    assert!(plain(&[], 160).lines().count() < narrow.lines().count());
    assert!(plain(&["--json"], 80).contains("\n{\"date\"") || plain(&["--json"], 80).starts_with("{\"date\""));
    let json = plain(&["--table", "none"], 80);
    assert!(json.starts_with("{\"date\"") && !json.contains("verdict: "), "{json}");
    assert!(plain(&["--table", "vllm"], 80).starts_with("============ Serving Benchmark Result"));
}

#[test]
fn a_terminal_gets_rows_or_csv_of_many_results() {
    let result = crate::tool::run("vb-stats", &[], std::fs::read_to_string(data("stats-run.ndjson")).unwrap()).stdout;
    let shown = |args: &[&str]| on_terminal("vb-agg", args, &result, 120, &[("NO_COLOR", "1")]);
    let table = shown(&[]);
    assert!(table.starts_with("model ") && table.contains("the CSV: > results.csv"), "{table}");
    assert!(shown(&["--table", "never"]).starts_with("date,"));
}

#[test]
fn colours_are_for_terminals_that_want_them() {
    let input = std::fs::read_to_string(data("stats-run.ndjson")).unwrap();
    let shown = |args: &[&str], environment| on_terminal("vb-stats", args, &input, 80, environment).contains('\u{1b}');
    assert!(shown(&[], &[]));
    assert!(!shown(&[], &[("NO_COLOR", "1")]) && !shown(&[], &[("TERM", "dumb")]));
    assert!(!shown(&["--color", "never"], &[]) && shown(&["--color", "always"], &[("NO_COLOR", "1")]));
    let in_file = |color| crate::tool::run("vb-stats", &["--table", "short", "--color", color], &input).stderr;
    assert!(!in_file("auto").contains('\u{1b}') && in_file("always").contains("\u{1b}[33msuspect\u{1b}[0m"));
}

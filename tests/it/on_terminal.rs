//! What the programs print on a terminal: tables without JSON and CSV, in colours.

use std::{io::Write, process::Stdio};

use crate::{
    terminal::Terminal,
    tool::{command, data},
};

/// Runs a tool whose standard output and error are a terminal of this width. Returns what the terminal shows.
fn on_terminal(tool: &str, args: &[&str], stdin: &str, columns: u16, environment: &[(&str, &str)]) -> String {
    let terminal = Terminal::open(columns);
    let mut command = command(tool);
    command.args(args).envs(environment.iter().copied());
    command.stdin(Stdio::piped()).stdout(terminal.end.try_clone().unwrap()).stderr(terminal.end.try_clone().unwrap());
    let mut child = command.spawn().unwrap();
    // Its clones of the terminal would keep it open.
    drop(command);
    let mut pipe = child.stdin.take().unwrap();
    pipe.write_all(stdin.as_bytes()).unwrap();
    drop(pipe);
    child.wait().unwrap();
    terminal.text()
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

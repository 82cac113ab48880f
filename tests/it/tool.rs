//! Runs the project's binaries.

use std::{
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

/// A command for one of the project's binaries, as `vb-gen`.
pub fn command(tool: &str) -> Command {
    let path = match tool {
        "vb-gen" => env!("CARGO_BIN_EXE_vb-gen"),
        "vb-fire" => env!("CARGO_BIN_EXE_vb-fire"),
        "vb-stats" => env!("CARGO_BIN_EXE_vb-stats"),
        "vb-agg" => env!("CARGO_BIN_EXE_vb-agg"),
        "vb-sim" => env!("CARGO_BIN_EXE_vb-sim"),
        other => panic!("no binary {other}"),
    };
    Command::new(path)
}

/// What a finished tool left.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a tool to its end with `stdin` as its input.
pub fn run(tool: &str, args: &[&str], stdin: impl AsRef<[u8]>) -> Done {
    let mut child =
        command(tool).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let input = stdin.as_ref().to_vec();
    let mut pipe = child.stdin.take().unwrap();
    // A tool may leave before it has read everything.
    let feeder = std::thread::spawn(move || drop(pipe.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    done(output)
}

/// The parts of an output that tests look at.
pub fn done(output: Output) -> Done {
    Done {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A fresh folder for one test.
pub fn folder(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// Compares `got` with the file `tests/data/NAME`; `VB_UPDATE=1` rewrites the file instead.
pub fn golden(name: &str, got: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name);
    if std::env::var_os("VB_UPDATE").is_some() {
        std::fs::write(&path, got).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(got == want, "{name} differs (VB_UPDATE=1 rewrites it)\n--- want\n{want}\n--- got\n{got}");
}

//! Runs the project's binaries.

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use vb::record::Truth;

/// A command for one of the project's binaries, as `vb-gen`.
pub fn command(tool: &str) -> Command {
    let path = match tool {
        "vb" => env!("CARGO_BIN_EXE_vb"),
        "vb-gen" => env!("CARGO_BIN_EXE_vb-gen"),
        "vb-fire" => env!("CARGO_BIN_EXE_vb-fire"),
        "vb-stats" => env!("CARGO_BIN_EXE_vb-stats"),
        "vb-diff" => env!("CARGO_BIN_EXE_vb-diff"),
        "vb-agg" => env!("CARGO_BIN_EXE_vb-agg"),
        "vb-sim" => env!("CARGO_BIN_EXE_vb-sim"),
        "vb-selftest" => env!("CARGO_BIN_EXE_vb-selftest"),
        other => panic!("no binary {other}"),
    };
    plain_command(path)
}

/// A command for any program, with the same environment wherever the tests run: on a person's terminal, or in a CI that sets `CI`
/// (which means that even a dumb terminal has colours) and a proxy (which would get the requests for the servers of the tests).
pub fn plain_command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let lower = name.to_lowercase();
        let from_outside = lower.starts_with("vb_")
            || lower.ends_with("_proxy")
            || lower.ends_with("_api_key")
            || lower.starts_with("lc_");
        if from_outside
            || ["ci", "no_color", "clicolor", "clicolor_force", "columns", "lines", "lang", "hf_token"]
                .contains(&&*lower)
        {
            command.env_remove(&*name);
        }
    }
    // Tables are compared, so they are in English.
    command.env("LC_ALL", "C").env("TERM", "xterm");
    command
}

/// The outcome of a finished tool.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Starts `vb-fire` with pipes for its requests and records.
pub fn start_fire(url: &str, args: &[&str]) -> Child {
    let mut fire = command("vb-fire");
    fire.args(["--base-url", url]).args(args);
    fire.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// Runs a tool to its end with `stdin` as its input.
pub fn run(tool: &str, args: &[&str], stdin: impl AsRef<[u8]>) -> Done {
    run_with(tool, args, stdin, &[])
}

/// Runs a tool to its end with these variables in its environment.
pub fn run_with(tool: &str, args: &[&str], stdin: impl AsRef<[u8]>, environment: &[(&str, &str)]) -> Done {
    let mut command = command(tool);
    command.args(args).envs(environment.iter().copied());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let input = stdin.as_ref().to_vec();
    let mut pipe = child.stdin.take().unwrap();
    // A tool may exit before it has read everything.
    let feeder = std::thread::spawn(move || drop(pipe.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    done(output)
}

/// The parts of an output that tests check.
pub fn done(output: Output) -> Done {
    Done {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Waits until `happened` says so: for two minutes, as a busy machine may need a while for anything.
pub fn wait_until(what: &str, mut happened: impl FnMut() -> bool) {
    for _ in 0..2400 {
        if happened() {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("not within two minutes: {what}");
}

/// A simulated server on a free port, killed on drop.
pub struct Sim {
    /// The base URL.
    pub url: String,
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Sim {
    /// Starts a server and waits until it is ready.
    pub fn start(args: &[&str]) -> Sim {
        Sim::start_at(0, args)
    }

    /// Like [`Sim::start`], on the port of a server that has just ended.
    pub fn start_at(port: u16, args: &[&str]) -> Sim {
        let mut child = command("vb-sim")
            .args(["--port", &port.to_string()])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "vb-sim did not start: {:?}", child.wait_with_output().map(done));
        Sim { url: line.trim_end().to_owned(), child, stdout }
    }

    /// Starts a server for HTTPS with the certificate of the tests, which `tests/data/tls-ca.pem` has signed.
    pub fn start_tls(args: &[&str]) -> Sim {
        let [cert, key] = ["tls-cert.pem", "tls-key.pem"].map(data);
        let tls = ["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
        Sim::start(&[&tls, args].concat())
    }

    /// The sum of the samples of its `/metrics` whose names begin with `name`.
    pub fn metric(&self, name: &str) -> f64 {
        let mut stream = TcpStream::connect(self.url.trim_start_matches("http://")).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: sim\r\nconnection: close\r\n\r\n").unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).unwrap();
        let samples = page.lines().filter(|line| line.starts_with(name));
        samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Stops it with SIGTERM, and returns its output after the URL. The truth log is then complete.
    pub fn stop(mut self) -> Done {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.stdout.read_to_string(&mut stdout).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        Done { code, stdout, stderr }
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        // It may have already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The records of a truth log.
pub fn truths(path: &Path) -> Vec<Truth> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

/// The folder of the project.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The file `tests/data/NAME`.
pub fn data(name: &str) -> PathBuf {
    root().join("tests/data").join(name)
}

/// A `PATH` on which a shell finds the project's binaries first.
pub fn search_path() -> String {
    let bin = Path::new(env!("CARGO_BIN_EXE_vb-gen")).parent().unwrap();
    format!("{}:{}", bin.display(), std::env::var("PATH").unwrap())
}

/// A new folder for one test.
pub fn folder(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// Compares `got` with the file `tests/data/NAME`; `VB_UPDATE=1` rewrites the file instead.
pub fn golden(name: &str, got: &str) {
    let path = data(name);
    if std::env::var_os("VB_UPDATE").is_some() {
        std::fs::write(&path, got).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(got == want, "{name} differs (VB_UPDATE=1 rewrites it)\n--- want\n{want}\n--- got\n{got}");
}

/// Compares `got` with what `page` has between `<!-- NAME: … -->` and `<!-- /NAME -->`; `VB_UPDATE=1` rewrites it instead.
pub fn golden_section(page: &str, name: &str, got: &str) {
    let path = root().join(page);
    let text = std::fs::read_to_string(&path).unwrap();
    let parts = || {
        let (before, rest) = text.split_once(&format!("<!-- {name}: "))?;
        let (how, rest) = rest.split_once("-->\n")?;
        let (want, after) = rest.split_once(&format!("<!-- /{name} -->"))?;
        Some((format!("{before}<!-- {name}: {how}-->\n"), want, format!("<!-- /{name} -->{after}")))
    };
    let (before, want, after) = parts().unwrap_or_else(|| panic!("{page} has no section {name}"));
    if std::env::var_os("VB_UPDATE").is_some() {
        std::fs::write(&path, format!("{before}{got}{after}")).unwrap();
    } else {
        assert!(got == want, "{page}: {name} differs (VB_UPDATE=1 rewrites it)\n--- want\n{want}\n--- got\n{got}");
    }
}

/// A number that depends on `i` without order.
pub fn scramble(i: u64) -> u64 {
    let mixed = (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 31)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed >> 32
}

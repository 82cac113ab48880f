//! The programs that a self-test starts. They end with it.

use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    process::{self, Child, ChildStdin, ChildStdout, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
};

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::{
    cli::{self, parent},
    clock::Clock,
    error::Error,
    units::{Nanos, SECOND},
};

/// Time between two checks whether a program has ended.
const POLL_INTERVAL: Nanos = Nanos(SECOND / 200);

/// Starts programs, and has whether the user asked to stop.
#[derive(Debug, Clone)]
pub struct Programs {
    stopped: Arc<AtomicBool>,
}

/// A running program, which is killed on drop.
#[derive(Debug)]
pub struct Program {
    name: &'static str,
    child: Child,
    stderr: Option<JoinHandle<String>>,
    stopped: Arc<AtomicBool>,
}

impl Programs {
    /// Installs handlers for signals.
    pub fn new() -> Result<Self, Error> {
        let stopped = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&stopped))
                .map_err(|e| Error::Setup(format!("cannot install the handler for signals: {e}")))?;
        }
        Ok(Programs { stopped })
    }

    /// Starts a program, as `fire`.
    pub fn start(&self, name: &'static str, args: Vec<OsString>) -> Result<Program, Error> {
        let mut command = cli::program_command(name)?;
        let mut child = command
            .args(args)
            // Keys for real servers: vb-sim would require the first, and vb-fire would send the second.
            .env_remove("VLLM_API_KEY")
            .env_remove("OPENAI_API_KEY")
            .env(parent::VARIABLE, process::id().to_string())
            // Ctrl-C reaches only this program, which then ends the others.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| {
                let path = command.get_program().to_string_lossy();
                Error::Setup(format!("cannot start {path}: {e}; vb-{name} must be in the folder of vb-selftest"))
            })?;
        let stderr = child.stderr.take();
        let stderr = stderr.map(|mut stderr| {
            thread::spawn(move || {
                let mut bytes = Vec::new();
                let _ = stderr.read_to_end(&mut bytes);
                String::from_utf8_lossy(&bytes).into_owned()
            })
        });
        Ok(Program { name, child, stderr, stopped: Arc::clone(&self.stopped) })
    }
}

impl Program {
    /// Takes the standard input; `None` after the first call.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Takes the standard output; `None` after the first call.
    pub fn take_stdout(&mut self) -> Option<BufReader<ChildStdout>> {
        self.child.stdout.take().map(BufReader::new)
    }

    /// Reads the first line, which the program writes when it is ready.
    pub fn first_line(&mut self) -> Result<String, Error> {
        let mut line = String::new();
        let read = self.take_stdout().map(|mut stdout| stdout.read_line(&mut line));
        match read {
            Some(Ok(n)) if n > 0 => Ok(line.trim_end().to_owned()),
            _ => Err(self.fail_with("did not start")),
        }
    }

    /// Waits at most `limit` for the program to end. A signal to this process ends the wait.
    pub fn wait(&mut self, limit: Nanos) -> Result<ExitStatus, Error> {
        let clock = Clock::start();
        loop {
            let status =
                self.child.try_wait().map_err(|e| Error::Setup(format!("cannot wait for vb-{}: {e}", self.name)));
            if let Some(status) = status? {
                return Ok(status);
            }
            if self.stopped.load(Relaxed) {
                return Err(Error::Interrupted);
            }
            if clock.now() > limit {
                return Err(self.fail_with(&format!("did not end within {limit}")));
            }
            thread::sleep(POLL_INTERVAL.to_duration());
        }
    }

    /// Asks the program to end and waits for it.
    pub fn stop_within(&mut self, limit: Nanos) -> Result<ExitStatus, Error> {
        // Ignore the error for a program that has already ended: it is still waited for.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        self.wait(limit)
    }

    /// Kills the program and returns an error with the program's last message.
    pub fn fail_with(&mut self, what: &str) -> Error {
        self.kill();
        let stderr = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        Error::Setup(format!("vb-{} {what}{}", self.name, error_line(&stderr)))
    }

    fn kill(&mut self) {
        // The program may have already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The line of standard error that gives the cause: clap's error, or the last line.
fn error_line(stderr: &str) -> String {
    let mut lines = stderr.lines().filter(|line| !line.trim().is_empty());
    let flags = lines.clone().find(|line| line.starts_with("error: "));
    flags.or_else(|| lines.next_back()).map_or_else(String::new, |line| format!(": {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_with_the_cause_is_found() {
        assert_eq!(error_line("vb-fire: slow\nvb-fire: no server\n\n"), ": vb-fire: no server");
        assert_eq!(error_line("error: no flag\n\nFor more information, try '--help'.\n"), ": error: no flag");
        assert_eq!(error_line(""), "");
    }
}

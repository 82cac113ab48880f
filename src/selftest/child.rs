//! The programs that a self-test starts. None of them outlives it.

use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
};

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::{
    clock::Clock,
    error::Error,
    units::{Nanos, SECOND},
};

/// Between two looks at whether a program has ended.
const PAUSE: Nanos = Nanos(SECOND / 200);

/// Where the programs are, and whether the user wants to stop.
#[derive(Debug, Clone)]
pub struct Programs {
    folder: PathBuf,
    stopped: Arc<AtomicBool>,
}

/// A program that runs; it is killed when this is dropped.
#[derive(Debug)]
pub struct Program {
    name: &'static str,
    child: Child,
    said: Option<JoinHandle<String>>,
    stopped: Arc<AtomicBool>,
}

impl Programs {
    /// Those beside this executable. From now on signals are looked at while a program runs.
    pub fn beside() -> Result<Self, Error> {
        let own = std::env::current_exe()
            .map_err(|e| Error::Setup(format!("cannot tell where this program is, and with it vb-sim: {e}")))?;
        let stopped = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&stopped))
                .map_err(|e| Error::Setup(format!("cannot install the handler for signals: {e}")))?;
        }
        Ok(Programs { folder: own.parent().unwrap_or(Path::new(".")).to_path_buf(), stopped })
    }

    /// Starts one.
    pub fn start(&self, name: &'static str, args: Vec<OsString>) -> Result<Program, Error> {
        let path = self.folder.join(name);
        let mut child = Command::new(&path)
            .args(args)
            // Keys for real servers: one would make vb-sim ask for it, the other would be sent for nothing.
            .env_remove("VLLM_API_KEY")
            .env_remove("OPENAI_API_KEY")
            // Ctrl-C is for this program, which then ends the others.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| {
                Error::Setup(format!("cannot start {}: {e}; {name} belongs beside vb-selftest", path.display()))
            })?;
        let stderr = child.stderr.take();
        let said = stderr.map(|mut stderr| {
            thread::spawn(move || {
                let mut bytes = Vec::new();
                let _ = stderr.read_to_end(&mut bytes);
                String::from_utf8_lossy(&bytes).into_owned()
            })
        });
        Ok(Program { name, child, said, stopped: Arc::clone(&self.stopped) })
    }
}

impl Program {
    /// Its standard input, once.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Its standard output, once.
    pub fn stdout(&mut self) -> Option<BufReader<ChildStdout>> {
        self.child.stdout.take().map(BufReader::new)
    }

    /// The first line that it writes, which it does when it is ready.
    pub fn first_line(&mut self) -> Result<String, Error> {
        let mut line = String::new();
        let read = self.stdout().map(|mut stdout| stdout.read_line(&mut line));
        match read {
            Some(Ok(n)) if n > 0 => Ok(line.trim_end().to_owned()),
            _ => Err(self.failed("did not start")),
        }
    }

    /// Waits for its end, for at most `limit`. A signal to this program ends the wait.
    pub fn wait(&mut self, limit: Nanos) -> Result<ExitStatus, Error> {
        let clock = Clock::start();
        loop {
            let status = self.child.try_wait().map_err(|e| Error::Setup(format!("cannot wait for {}: {e}", self.name)));
            if let Some(status) = status? {
                return Ok(status);
            }
            if self.stopped.load(Relaxed) {
                return Err(Error::Interrupted);
            }
            if clock.now() > limit {
                return Err(self.failed(&format!("did not end within {limit}")));
            }
            thread::sleep(PAUSE.to_duration());
        }
    }

    /// Asks it to end, and waits until it has.
    pub fn stop(&mut self, limit: Nanos) -> Result<ExitStatus, Error> {
        // One that has ended already is waited for all the same.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        self.wait(limit)
    }

    /// The error that says so, with the program's own words.
    pub fn failed(&mut self, what: &str) -> Error {
        self.end();
        let said = self.said.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        Error::Setup(format!("{} {what}{}", self.name, words(&said)))
    }

    fn end(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a program said of its failure: the line with the error of its flags, else its last.
fn words(said: &str) -> String {
    let mut lines = said.lines().filter(|line| !line.trim().is_empty());
    let flags = lines.clone().find(|line| line.starts_with("error: "));
    flags.or_else(|| lines.next_back()).map_or_else(String::new, |line| format!(": {line}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_says_why_is_told() {
        assert_eq!(words("vb-fire: slow\nvb-fire: no server\n\n"), ": vb-fire: no server");
        assert_eq!(words("error: no flag\n\nFor more information, try '--help'.\n"), ": error: no flag");
        assert_eq!(words(""), "");
    }
}

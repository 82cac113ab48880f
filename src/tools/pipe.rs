//! A pipe of programs: printed as a shell would read it, and run as a shell would run it.

use std::{
    ffi::OsString,
    fmt::Write as _,
    fs::File,
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    cli::{self, parent},
    error::Error,
    secrets::Secrets,
};

/// A program of the pipe and its flags.
#[derive(Debug)]
pub struct Stage {
    /// The program, as `gen`.
    pub program: &'static str,
    /// Each flag with its values.
    pub flags: Vec<Vec<String>>,
}

impl Stage {
    /// The flags in a row.
    pub fn words(&self) -> impl Iterator<Item = &String> {
        self.flags.iter().flatten()
    }
}

/// Where the last program of the pipe writes.
#[derive(Debug)]
pub struct ResultFile {
    /// The file.
    pub path: PathBuf,
    /// Whether to keep what it has.
    pub append: bool,
}

impl ResultFile {
    fn open(&self) -> Result<File, Error> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
        }
        let mut options = File::options();
        let options = if self.append { options.append(true) } else { options.write(true).truncate(true) };
        options.create(true).open(&self.path).map_err(|e| Error::write(&self.path, e))
    }
}

/// The pipe as a command for a shell, on a line for each program.
#[must_use]
pub fn shell_text(stages: &[Stage], target: Option<&ResultFile>) -> String {
    let mut text = String::new();
    if let Some(folder) = target.and_then(|target| target.path.parent()).filter(|folder| !folder.as_os_str().is_empty())
        && !folder.exists()
    {
        let _ = writeln!(text, "mkdir -p {} &&", quoted(&folder.to_string_lossy()));
    }
    for (i, stage) in stages.iter().enumerate() {
        text += if i == 0 { "" } else { " |\n  " };
        text += &cli::program_name(stage.program);
        for word in stage.words() {
            text.push(' ');
            text += &quoted(word);
        }
    }
    if let Some(target) = target {
        let _ = write!(text, " {} {}", if target.append { ">>" } else { ">" }, quoted(&target.path.to_string_lossy()));
    }
    text + "\n"
}

/// A word in the quotes that a shell needs.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Runs the pipe, and returns the exit code of the first program in it that failed.
///
/// The programs are joined by pipes of the system, and write their messages themselves. A key stays out of their command lines.
pub fn run(stages: &[Stage], target: Option<&ResultFile>) -> Result<u8, Error> {
    // Opened before a request is sent.
    let mut output = target.map(ResultFile::open).transpose()?;
    let is_new = !target.is_some_and(|target| target.append);
    let terminated = outlive_signals()?;
    let mut children: Vec<Child> = Vec::new();
    let mut input = None;
    for (i, stage) in stages.iter().enumerate() {
        let mut command = cli::program_command(stage.program)?;
        add_flags(&mut command, stage);
        command.env(parent::VARIABLE, process::id().to_string());
        let last = i + 1 == stages.len();
        if let Some(input) = input.take() {
            command.stdin(input);
        }
        match output.take_if(|_| last) {
            Some(file) => command.stdout(file),
            None if last => command.stdout(Stdio::inherit()),
            None => command.stdout(Stdio::piped()),
        };
        let mut child = command.spawn().map_err(|e| Error::Setup(format!("cannot start vb-{}: {e}", stage.program)))?;
        input = child.stdout.take().map(Stdio::from);
        children.push(child);
    }
    let codes = wait_for_all(&mut children, &terminated)?;
    // A shell would leave the empty file of a pipe that failed.
    if let Some(target) = target.filter(|_| is_new)
        && is_empty(&target.path)
    {
        let _ = std::fs::remove_file(&target.path);
    }
    Ok(codes.into_iter().find(|code| *code != 0).unwrap_or(0))
}

fn is_empty(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|data| data.is_file() && data.len() == 0)
}

/// Adds the flags: those with a key in the environment, where other users of the machine cannot read them.
fn add_flags(command: &mut Command, stage: &Stage) {
    let (secret, open): (Vec<_>, Vec<_>) = stage.flags.iter().partition(|flag| has_secret(flag));
    command.args(open.into_iter().flatten());
    if !secret.is_empty() {
        let words: Vec<&String> = secret.into_iter().flatten().collect();
        command.env(cli::SECRET_FLAGS_VARIABLE, serde_json::to_string(&words).unwrap_or_default());
    }
}

/// Whether a flag with its values has a key.
fn has_secret(flag: &[String]) -> bool {
    !Secrets::from_command_line(flag.iter().cloned()).is_empty()
}

/// Leaves Ctrl-C and the end of the terminal to the programs, which both reach too, and which end in their own time. Returns whether
/// SIGTERM was received, which reaches only this process.
pub fn outlive_signals() -> Result<Arc<AtomicBool>, Error> {
    let terminated = Arc::default();
    cli::leave_signals_to_others(&terminated)?;
    Ok(terminated)
}

/// The exit codes, in the order of the pipe. SIGTERM to this process ends the programs.
pub fn wait_for_all(children: &mut [Child], terminated: &AtomicBool) -> Result<Vec<u8>, Error> {
    let mut codes = vec![None; children.len()];
    let mut asked_before = false;
    while codes.contains(&None) {
        if terminated.swap(false, Relaxed) {
            // The last program ends with its input, after what is in flight; a second signal is for it too.
            let count = if asked_before { children.len() } else { (children.len() - 1).max(1) };
            asked_before = true;
            for (child, _) in children.iter().zip(&codes).take(count).filter(|(_, code)| code.is_none()) {
                let _ = kill_process(Pid::from_child(child), Signal::TERM);
            }
        }
        for (child, code) in children.iter_mut().zip(&mut codes).filter(|(_, code)| code.is_none()) {
            let ended = child.try_wait().map_err(|e| Error::Setup(format!("cannot wait for a program: {e}")))?;
            *code = ended.map(exit_code);
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Ok(codes.into_iter().flatten().collect())
}

/// The exit code as a shell reports it: 128 and its number for a signal.
fn exit_code(status: process::ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let signal = || status.signal().map_or(1, |signal| 128 + signal);
    u8::try_from(status.code().unwrap_or_else(signal)).unwrap_or(1)
}

/// The words of a stage as a command line, for a check.
#[must_use]
pub fn command_line(stage: &Stage) -> Vec<OsString> {
    let name = OsString::from(format!("vb-{}", stage.program));
    std::iter::once(name).chain(stage.words().map(OsString::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        for (word, want) in [
            ("--base-url", "--base-url"),
            ("http://h:1/x", "http://h:1/x"),
            ("", "''"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            (r#"{"a":1}"#, r#"'{"a":1}'"#),
            ("$HOME", "'$HOME'"),
            ("~", "'~'"),
        ] {
            assert_eq!(quoted(word), want);
        }
    }

    #[test]
    fn only_a_flag_with_a_key_stays_out_of_command_lines() {
        let flag = |words: &[&str]| has_secret(&words.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert!(flag(&["--header", "Authorization=Bearer sk-planted"]));
        assert!(flag(&["--header=x-api-key=sk-planted"]));
        assert!(flag(&["--base-url", "http://user:planted1@h"]));
        assert!(!flag(&["--model", "sk"]) && !flag(&["--base-url", "http://127.0.0.1:8000"]));
    }
}

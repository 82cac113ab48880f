//! What all tools share: input and output files, messages, exit codes, the rules for pipes and signals.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, IsTerminal, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use schemars::JsonSchema;

use crate::error::Error;

/// The command line, with hyphens in the names of flags.
#[must_use]
pub fn hyphenated_args() -> Vec<OsString> {
    std::env::args_os().map(hyphenate_flag).collect()
}

/// Prints the error, if there is one, and returns the exit code.
///
/// A filter whose reader closed the pipe has done its job: it ends silently with 0.
#[must_use]
pub fn report_result(tool: &str, result: Result<(), Error>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if e.is_broken_pipe() => ExitCode::SUCCESS,
        Err(e) => {
            warn(tool, &e);
            ExitCode::from(e.exit_code())
        }
    }
}

/// One line on standard error: `tool: what`.
pub fn warn(tool: &str, what: impl std::fmt::Display) {
    // Nothing is to be done about a standard error that is closed or full.
    let _ = writeln!(io::stderr(), "{tool}: {what}");
}

/// A line of progress on the terminal, over the one before; the `last` one stays.
pub fn progress(tool: &str, line: &str, last: bool) {
    let end = if last { "\n" } else { "" };
    let _ = write!(io::stderr(), "\r\x1b[2K{tool}: {line}{end}").and_then(|()| io::stderr().flush());
}

/// `--max_concurrency` is `--max-concurrency`; values are left alone.
fn hyphenate_flag(arg: OsString) -> OsString {
    match arg.to_str() {
        Some(text) if text.starts_with("--") => {
            let (name, value) = text.split_at(text.find('=').unwrap_or(text.len()));
            (name.replace('_', "-") + value).into()
        }
        _ => arg,
    }
}

/// Standard output, buffered; whoever writes flushes at the end.
#[must_use]
pub fn stdout() -> BufWriter<io::StdoutLock<'static>> {
    BufWriter::with_capacity(1 << 16, io::stdout().lock())
}

/// A file to read, or standard input for `-`, and its name for messages.
pub fn open(path: &Path) -> Result<(Box<dyn BufRead + Send>, String), Error> {
    if path == Path::new("-") {
        return Ok((Box::new(BufReader::with_capacity(1 << 16, io::stdin())), "stdin".into()));
    }
    let file = File::open(path).map_err(|e| Error::read(path, e))?;
    Ok((Box::new(BufReader::with_capacity(1 << 16, file)), path.display().to_string()))
}

/// The environment's `OPENAI_API_KEY`, unless it is empty.
#[must_use]
pub fn api_key() -> Option<String> {
    std::env::var("OPENAI_API_KEY").ok().filter(|key| !key.is_empty())
}

/// The inputs that were named, or standard input. A terminal there is a mistake worth a word.
#[must_use]
pub fn inputs(tool: &str, named: &[PathBuf]) -> Vec<PathBuf> {
    if named.is_empty() {
        if io::stdin().is_terminal() {
            warn(tool, "reading records from the terminal; name a file or pipe something in (Ctrl-D ends)");
        }
        return vec![PathBuf::from("-")];
    }
    named.to_vec()
}

/// A text for people on standard error, beside the records on standard output.
pub fn show(text: &str) {
    // As with a warning, nothing is to be done if nobody takes it.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// The name of this host.
#[must_use]
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// `KEY=VALUE` as it is typed in a flag.
pub fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("write it as KEY=VALUE".into()),
    }
}

/// A choice for something that suits a terminal: `--table`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum When {
    /// Even into a file.
    Always,
    /// Not even on a terminal.
    Never,
    /// On a terminal only.
    Auto,
}

impl When {
    /// Whether to do it on standard error.
    #[must_use]
    pub fn applies(self) -> bool {
        match self {
            When::Always => true,
            When::Never => false,
            When::Auto => io::stderr().is_terminal(),
        }
    }
}

/// Writes the JSON Schema of a record, for `--schema`.
pub fn print_schema<T: JsonSchema>() -> Result<(), Error> {
    let mut out = stdout();
    serde_json::to_writer_pretty(&mut out, &schemars::schema_for!(T)).map_err(|e| Error::stdout(e.into()))?;
    out.write_all(b"\n").and_then(|()| out.flush()).map_err(Error::stdout)
}

/// Writes a text to standard output, for flags that print a table and exit.
pub fn print_text(text: &str) -> Result<(), Error> {
    let mut out = stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Error::stdout)
}

/// Raises the limit of open files as far as the system lets us, since a thousand connections need a thousand files and
/// the usual limit is 1,024. Gives how many are allowed now.
#[must_use]
pub fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // Where this is forbidden the limit stays as it is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// For the tools behind `vb-fire`: the first Ctrl-C does not stop them, the second does.
///
/// Ctrl-C reaches every program of a pipeline at once, and `vb-fire` still writes the outcomes of what was in flight:
/// whoever reads them must stay to the end of its input.
pub fn outlive_first_interrupt() -> Result<(), Error> {
    let seen = Arc::new(AtomicBool::new(false));
    let failed = |e| Error::Setup(format!("cannot install the handler for Ctrl-C: {e}"));
    // The order matters: the second signal must find `seen` set before this registration sets it again.
    signal_hook::flag::register_conditional_default(signal_hook::consts::SIGINT, Arc::clone(&seen)).map_err(failed)?;
    signal_hook::flag::register(signal_hook::consts::SIGINT, seen).map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_has_a_key() {
        assert_eq!(parse_pair("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(parse_pair("a="), Ok(("a".into(), String::new())));
        assert!(parse_pair("=b").is_err() && parse_pair("a").is_err());
    }

    #[test]
    fn underscores_in_names_of_flags_only() {
        for (typed, meant) in
            [("--num_prompts=a_b", "--num-prompts=a_b"), ("a_b", "a_b"), ("--max_concurrency", "--max-concurrency")]
        {
            assert_eq!(hyphenate_flag(typed.into()), OsString::from(meant));
        }
    }
}

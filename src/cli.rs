//! What all tools share: input and output files, messages, exit codes, the rules for pipes and signals.

pub mod look;
pub mod parent;
pub mod progress;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    ffi::OsString,
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, IsTerminal, Write},
    os::unix::{fs::FileTypeExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::builder::StyledStr;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use schemars::JsonSchema;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag,
};

use self::look::LookFlags;
use crate::{
    error::Error,
    printable::{clean_line, clean_text},
    printout::{Cell, Printout, Tone},
    secrets::hide_remembered,
    text::TextReader,
};

/// The environment variable with further flags as a JSON list: flags with a key, which the command line would show to other users
/// of the machine.
pub const SECRET_FLAGS_VARIABLE: &str = "VB_SECRET_FLAGS";

/// The command line of the program: its name, its arguments with hyphens in the names of flags, and the flags in
/// [`SECRET_FLAGS_VARIABLE`].
#[must_use]
pub fn command_line() -> Vec<OsString> {
    let mut argv: Vec<OsString> = std::env::args_os().collect();
    // `vb gen …` is `vb-gen …`.
    if let Some(program) = MULTI_CALL.get() {
        if !is_named(argv.first(), program) && !argv.is_empty() {
            argv.remove(0);
        }
        argv.first_mut().into_iter().for_each(|name| *name = program.into());
    }
    let secret = std::env::var(SECRET_FLAGS_VARIABLE).unwrap_or_default();
    let secret: Vec<String> = serde_json::from_str(&secret).unwrap_or_default();
    argv.into_iter().chain(secret.into_iter().map(OsString::from)).map(hyphenate_flag).collect()
}

/// Whether the executable was called by this name, as `vb-gen`.
#[must_use]
pub fn is_named(called: Option<&OsString>, name: &str) -> bool {
    called.is_some_and(|called| Path::new(called).file_name().is_some_and(|file| file == name))
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
            print_warning(tool, &e);
            ExitCode::from(e.exit_code())
        }
    }
}

/// Prints what clap has to say, which is `--help` or an error in the flags, and returns the exit code.
#[must_use]
pub fn report_flags(e: &clap::Error) -> ExitCode {
    if e.use_stderr() {
        let mut out = Printout::new(LookFlags::of_messages().on_stderr());
        e.render().to_string().lines().for_each(|line| add_flag_error(&mut out, line));
        show_on_stderr(&out);
    } else {
        // As with a warning, a failure cannot be reported.
        let _ = print_help(&e.render());
    }
    ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2))
}

/// Adds a line of clap's message about a flag, which may begin with what it is: `error: …`.
fn add_flag_error(out: &mut Printout, line: &str) {
    let tone = |head: &str| match head.trim() {
        "error" => Some(Tone::Bad),
        "tip" => Some(Tone::Good),
        "Usage" => Some(Tone::Strong),
        _ => None,
    };
    match line.split_once(": ").and_then(|(head, text)| Some((head, tone(head)?, text))) {
        Some((head, tone, text)) => out.add_cells(&[Cell::left(head).toned(tone), Cell::left(": "), Cell::left(text)]),
        None => out.add_line(line),
    }
}

/// Prints `--help` on standard output.
pub fn print_help(text: &StyledStr) -> Result<(), Error> {
    let colored = LookFlags::of_messages().on_stdout().colored;
    let text = if colored { text.ansi().to_string() } else { text.to_string() };
    io::stdout().write_all(text.replace(UNBROKEN_SPACE, " ").as_bytes()).map_err(Error::write_stdout)
}

/// Takes the place of a space in a line of `--help` that must not be wrapped: a wrapped command cannot be pasted.
/// [`print_help`] prints a space.
pub const UNBROKEN_SPACE: char = '\u{a0}';

/// Prints one line on standard error in the language of the user: `tool: what`.
pub fn print_warning(tool: &str, what: impl std::fmt::Display) {
    let text = hide_remembered(&what.to_string()).into_owned();
    let text = LookFlags::of_messages().language().translate(&text).into_owned();
    write_stderr(&format!("{tool}: {}\n", clean_line(&text)));
}

/// The environment variable with the cell of a sweep, as `2/6`. `scripts/sweep.sh` sets it, and prints a line for each cell.
const CELL: &str = "VB_CELL";

/// The cell of a sweep that this program works for; `None` if a person runs it.
#[must_use]
pub fn sweep_cell() -> Option<String> {
    std::env::var(CELL).ok().filter(|cell| !cell.is_empty())
}

/// Writes to standard error. All programs do it here, after secrets and what a terminal acts on were replaced.
fn write_stderr(text: &str) {
    progress::print_above_bar(text);
}

/// Prints the message of a panic like any other, since it may quote a server. A panic is a bug.
pub fn print_panics(tool: &str) {
    let tool = tool.to_owned();
    std::panic::set_hook(Box::new(move |panic| {
        print_warning(&tool, format_args!("a bug, please report it: {panic}"));
        let trace = Backtrace::capture();
        if trace.status() == BacktraceStatus::Captured {
            print_to_stderr(&format!("{trace}"));
        }
    }));
}

/// Turns `--max_concurrency` into `--max-concurrency`; values do not change.
#[must_use]
pub fn hyphenate_flag(arg: OsString) -> OsString {
    match arg.to_str() {
        Some(text) if text.starts_with("--") => {
            let (name, value) = text.split_at(text.find('=').unwrap_or(text.len()));
            (name.replace('_', "-") + value).into()
        }
        _ => arg,
    }
}

/// Standard output with a buffer; the caller must flush it at the end.
#[must_use]
pub fn buffered_stdout() -> BufWriter<io::StdoutLock<'static>> {
    BufWriter::with_capacity(1 << 16, io::stdout().lock())
}

/// Opens a text file, or standard input for `-`; UTF-16 becomes UTF-8. Also returns its name for messages.
pub fn open_input(path: &Path) -> Result<(Box<dyn BufRead + Send>, String), Error> {
    if path == Path::new("-") {
        return Ok((Box::new(TextReader::new(BufReader::with_capacity(1 << 16, io::stdin()))), "stdin".into()));
    }
    let file = File::open(path).map_err(|e| Error::read(path, e))?;
    Ok((Box::new(TextReader::new(BufReader::with_capacity(1 << 16, file))), path.display().to_string()))
}

/// The value of the environment variable `OPENAI_API_KEY`, unless it is empty.
#[must_use]
pub fn api_key() -> Option<String> {
    std::env::var("OPENAI_API_KEY").ok().filter(|key| !key.is_empty())
}

/// Whether standard output was open when the process began.
static HAD_STDOUT: AtomicBool = AtomicBool::new(true);

/// Runs before the runtime of Rust, which opens `/dev/null` in place of a closed stream: what is written would be lost without
/// an error.
#[cfg(target_os = "linux")]
#[used]
#[allow(unsafe_code, reason = "the section holds functions that run before main, and this is one")]
#[unsafe(link_section = ".init_array")]
static LOOK_AT_STDOUT: extern "C" fn() = {
    extern "C" fn look() {
        let open = rustix::io::fcntl_getfd(io::stdout()).is_ok();
        HAD_STDOUT.store(open, Ordering::Relaxed);
    }
    look
};

/// Fails if standard output was closed from the start, as by `>&-`.
pub fn check_stdout() -> Result<(), Error> {
    if HAD_STDOUT.load(Ordering::Relaxed) {
        return Ok(());
    }
    Err(Error::Setup("standard output is closed; to discard what it gets, use >/dev/null".into()))
}

/// The given inputs, by default standard input. Warns if standard input is a terminal.
#[must_use]
pub fn input_paths(tool: &str, given: &[PathBuf]) -> Vec<PathBuf> {
    if given.is_empty() {
        if io::stdin().is_terminal() {
            print_warning(tool, "reading records from the terminal; name a file or pipe something in (Ctrl-D ends)");
        }
        return vec![PathBuf::from("-")];
    }
    given.to_vec()
}

/// Prints text for people on standard error, on several lines. Standard output has only records.
pub fn print_to_stderr(text: &str) {
    write_stderr(&clean_text(&hide_remembered(text)));
}

/// Prints text for people on standard error; it is clean already, and may have colours.
pub fn show_on_stderr(out: &Printout) {
    write_stderr(out.as_str());
}

/// Prints text for people on standard output, in the same way.
pub fn show_on_stdout(text: &Printout) -> Result<(), Error> {
    let mut out = buffered_stdout();
    out.write_all(text.as_str().as_bytes()).and_then(|()| out.flush()).map_err(Error::write_stdout)
}

/// The program that this process runs, as `vb-gen`, if the executable has all of them.
static MULTI_CALL: OnceLock<&'static str> = OnceLock::new();

/// Notes that this executable has all programs, and which one this process runs.
pub fn set_multi_call(program: &'static str) {
    // It is set once, when the process begins.
    let _ = MULTI_CALL.set(program);
}

/// The path of this executable. The system knows it from `/proc`, which a chroot may lack; the path by which it was called is then used.
pub fn own_path() -> io::Result<PathBuf> {
    let called = || std::env::args_os().next().map(PathBuf::from).filter(|path| path.components().count() > 1);
    std::env::current_exe().or_else(|e| called().ok_or(e))
}

/// A command for another program of the project, as `fire`: this executable if it has all of them, else the file in its folder.
pub fn program_command(name: &str) -> Result<Command, Error> {
    let own = own_path().map_err(|e| Error::Setup(format!("cannot find this executable, to start vb-{name}: {e}")))?;
    if MULTI_CALL.get().is_some() {
        let mut command = Command::new(own);
        // Its own name may be a program's, which would come before the first argument.
        command.arg0("vb").arg(name);
        return Ok(command);
    }
    Ok(Command::new(own.with_file_name(format!("vb-{name}"))))
}

/// What to type for a program, as `fire`: `vb-fire` if the shell would find it, else `vb fire`.
#[must_use]
pub fn program_name(name: &str) -> String {
    let file = format!("vb-{name}");
    let folders = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&folders).any(|folder| folder.join(&file).is_file()) { file } else { format!("vb {name}") }
}

/// Whether one terminal shows standard output and standard error: a person who sees a table there has no use for a long line of JSON or
/// rows of CSV above it.
#[must_use]
pub fn terminal_has_both_outputs() -> bool {
    io::stdout().is_terminal() && io::stderr().is_terminal()
}

/// The name of this host.
#[must_use]
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Parses `KEY=VALUE` from a flag.
pub fn parse_key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err("use KEY=VALUE".into()),
    }
}

/// When to print what is meant for a terminal: `--table`. A config may have the value for `vb-stats`, which has layouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum When {
    /// Even into a file.
    #[value(aliases = ["short", "full", "vllm"])]
    Always,
    /// Not even on a terminal.
    #[value(alias = "none")]
    Never,
    /// On a terminal only.
    Auto,
}

impl When {
    /// Whether to print to standard error.
    #[must_use]
    pub fn applies_to_stderr(self) -> bool {
        match self {
            When::Always => true,
            When::Never => false,
            When::Auto => io::stderr().is_terminal(),
        }
    }
}

/// Prints the JSON Schema of a record, for `--schema`.
pub fn print_schema<T: JsonSchema>() -> Result<(), Error> {
    let mut out = buffered_stdout();
    serde_json::to_writer_pretty(&mut out, &schemars::schema_for!(T)).map_err(|e| Error::write_stdout(e.into()))?;
    out.write_all(b"\n").and_then(|()| out.flush()).map_err(Error::write_stdout)
}

/// Writes text for people to standard output, such as a table.
pub fn print_to_stdout(text: &str) -> Result<(), Error> {
    let mut out = buffered_stdout();
    let text = hide_remembered(text);
    out.write_all(clean_text(&text).as_bytes()).and_then(|()| out.flush()).map_err(Error::write_stdout)
}

/// Raises the limit of open files as far as the system allows, since a thousand connections need a thousand files and
/// the usual limit is 1,024. Returns the new limit.
#[must_use]
pub fn raise_open_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    // If the system refuses, the limit does not change.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Lets a program that reads a pipe outlive the signals that end the programs before it: Ctrl-C and a closed terminal reach
/// every program of a pipeline at once, and `vb-fire` then still writes the outcomes of the requests in flight. The end of the
/// input ends the reader, so Ctrl-C and SIGHUP are ignored; SIGTERM stops it the second time. Without a pipe among the inputs
/// nothing changes.
pub fn outlive_writers(inputs: &[PathBuf]) -> Result<(), Error> {
    if !inputs.iter().any(|path| is_pipe(path)) {
        return Ok(());
    }
    let terminated = Arc::new(AtomicBool::new(false));
    // The order matters: the second signal must find the flag set before this registration sets it again.
    flag::register_conditional_default(SIGTERM, Arc::clone(&terminated)).map_err(|e| handler_error(&e))?;
    leave_signals_to_others(&terminated)
}

/// Outlives Ctrl-C and the end of the terminal, which reach the other programs too, and notes SIGTERM in `terminated`.
pub fn leave_signals_to_others(terminated: &Arc<AtomicBool>) -> Result<(), Error> {
    flag::register(SIGTERM, Arc::clone(terminated)).map_err(|e| handler_error(&e))?;
    for signal in [SIGINT, SIGHUP] {
        // A handler that does nothing of interest: an ignored signal would be ignored by children too.
        flag::register(signal, Arc::new(AtomicBool::new(false))).map_err(|e| handler_error(&e))?;
    }
    Ok(())
}

fn handler_error(e: &io::Error) -> Error {
    Error::Setup(format!("cannot install a handler for signals: {e}"))
}

/// Whether an input has a program at its other end: a pipe, a named one, or a socket as some shells use.
fn is_pipe(path: &Path) -> bool {
    let path = if path == Path::new("-") { Path::new("/dev/stdin") } else { path };
    std::fs::metadata(path).is_ok_and(|data| data.file_type().is_fifo() || data.file_type().is_socket())
}

/// Whether standard output is a file, as by `> requests.ndjson`.
#[must_use]
pub fn writes_to_file() -> bool {
    std::fs::metadata("/dev/stdout").is_ok_and(|data| data.is_file())
}

/// Whether the terminal's end may be handled: not if SIGHUP was ignored from the start, as `nohup` does, and not where that is
/// unknown.
#[must_use]
pub fn handles_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask & 1 << (SIGHUP - 1) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_has_a_key() {
        assert_eq!(parse_key_value("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert_eq!(parse_key_value("a="), Ok(("a".into(), String::new())));
        assert!(parse_key_value("=b").is_err() && parse_key_value("a").is_err());
    }

    #[test]
    fn only_the_names_of_flags_get_hyphens() {
        for (typed, meant) in
            [("--num_prompts=a_b", "--num-prompts=a_b"), ("a_b", "a_b"), ("--max_concurrency", "--max-concurrency")]
        {
            assert_eq!(hyphenate_flag(typed.into()), OsString::from(meant));
        }
    }
}

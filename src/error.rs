//! Why a tool stopped, and the exit code that says so to the shell.

use std::{
    fmt, io,
    panic::{self, AssertUnwindSafe},
    path::Path,
};

/// Why a tool stopped. A failed *request* is never an `Error`: it is an outcome in the output.
///
/// | exit code | meaning |
/// |---|---|
/// | 0 | done |
/// | 1 | a check that the user requested failed, or no request succeeded |
/// | 2 | usage or config |
/// | 3 | a bad line, or a bad file among several |
/// | 4 | reading, writing or setting up the network failed |
/// | 5 | the measurement is invalid: the client, not the server, determined some of the numbers (`--strict`) |
/// | 6 | a check that the user requested is undecided: more requests are needed |
/// | 130 | interrupted (Ctrl-C); everything that finished was written |
#[derive(Debug)]
pub enum Error {
    /// A check that the user requested failed: the message. Exit code 1.
    Check(String),
    /// The options or the config are wrong. Exit code 2.
    Usage(String),
    /// Invalid input: the file, the line (and column) or the byte, and the remedy. Exit code 3.
    Input(String),
    /// Reading failed. Exit code 4.
    Read {
        /// What was read: a path, or `stdin`.
        from: String,
        /// The system's error.
        source: io::Error,
    },
    /// Writing failed. Exit code 4; for a closed pipe 0 and no message.
    Write {
        /// What was written: a path, or `stdout`.
        to: String,
        /// The system's error.
        source: io::Error,
    },
    /// The server or the network could not be set up. Exit code 4.
    Setup(String),
    /// The numbers do not describe the server: the message. Exit code 5.
    Invalid(String),
    /// The data cannot decide a check that the user requested: the message. Exit code 6.
    Undecided(String),
    /// The user interrupted the tool. Exit code 130, as the shell expects after Ctrl-C.
    Interrupted,
}

impl Error {
    /// The exit code of the process.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Check(_) => 1,
            Error::Usage(_) => 2,
            Error::Input(_) => 3,
            Error::Read { .. } | Error::Write { .. } | Error::Setup(_) => 4,
            Error::Invalid(_) => 5,
            Error::Undecided(_) => 6,
            Error::Interrupted => 130,
        }
    }

    /// Whether the reader of our output closed the pipe, which ends a filter without an error.
    #[must_use]
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Error::Write { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
    }

    /// A failed read of `path`.
    pub fn read(path: impl AsRef<Path>, source: io::Error) -> Self {
        Error::Read { from: path.as_ref().display().to_string(), source }
    }

    /// A failed write to `path`.
    pub fn write(path: impl AsRef<Path>, source: io::Error) -> Self {
        Error::Write { to: path.as_ref().display().to_string(), source }
    }

    /// A failed write to standard output.
    #[must_use]
    pub fn write_stdout(source: io::Error) -> Self {
        Error::Write { to: "stdout".into(), source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Check(text)
            | Error::Usage(text)
            | Error::Input(text)
            | Error::Setup(text)
            | Error::Invalid(text)
            | Error::Undecided(text) => f.write_str(text),
            Error::Read { from, source } => write!(f, "cannot read {from}: {source}"),
            Error::Write { to, source } => write!(f, "cannot write {to}: {source}"),
            Error::Interrupted => f.write_str("interrupted; everything that finished was written"),
        }
    }
}

impl std::error::Error for Error {}

/// The message of a parser without its ` at line 1 column 17`: our messages name the file and its line.
#[must_use]
pub fn strip_location(e: &impl fmt::Display) -> String {
    let mut text = e.to_string();
    text.truncate(text.rfind(" at line ").unwrap_or(text.len()));
    // The message ends with what was expected, so keep both ends.
    if text.chars().count() > 2 * MAX_QUOTE_CHARS {
        let end = text.char_indices().rev().nth(MAX_QUOTE_CHARS - 1).map_or(0, |(at, _)| at);
        text = format!("{} {}", truncate_quote(&text), &text[end..]);
    }
    text
}

/// The most characters that a message quotes from input.
const MAX_QUOTE_CHARS: usize = 80;

/// What a message quotes, with `…` for what is too much of it. Line ends become spaces: a message is one line.
#[must_use]
pub fn truncate_quote(text: &str) -> String {
    let end = text.char_indices().nth(MAX_QUOTE_CHARS).map(|(at, _)| at);
    let quoted = text[..end.unwrap_or(text.len())].replace(['\n', '\r'], " ");
    if end.is_some() { quoted + "…" } else { quoted }
}

/// Runs a parser of another crate that may panic on a damaged file; `None` if it does. Nothing is printed.
pub fn catch_panic<T>(work: impl FnOnce() -> T) -> Option<T> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let done = panic::catch_unwind(AssertUnwindSafe(work));
    panic::set_hook(hook);
    done.ok()
}

/// The innermost cause of an error, which is the most specific one, on one line and without the system's error number.
#[must_use]
pub fn root_cause(e: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = e;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    let text = cause.to_string();
    text.split(" (os error").next().unwrap_or_default().replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_location_is_stripped_from_a_parsers_message() {
        let error = serde_json::from_str::<u8>("{").unwrap_err();
        assert!(error.to_string().contains(" at line 1"));
        assert!(!strip_location(&error).contains(" at line "));
        assert_eq!(strip_location(&"no place"), "no place");
    }

    #[test]
    fn long_quotes_are_cut() {
        assert_eq!(truncate_quote("short\n"), "short ");
        assert_eq!(
            (truncate_quote("a.wav"), truncate_quote(&"é".repeat(81))),
            ("a.wav".to_owned(), "é".repeat(80) + "…")
        );
        assert_eq!(truncate_quote(&"é".repeat(100)), "é".repeat(80) + "…");
        let long = serde_json::to_string(&"x".repeat(10_000)).unwrap();
        let message = strip_location(&serde_json::from_str::<Vec<u8>>(&long).unwrap_err());
        assert!(
            message.starts_with("invalid type: string \"xxx") && message.ends_with("expected a sequence"),
            "{message}"
        );
        assert!(message.chars().count() < 200, "{message}");
    }

    #[test]
    fn the_innermost_cause_has_no_error_number() {
        let refused = io::Error::from_raw_os_error(111);
        assert!(refused.to_string().contains("(os error 111)"));
        let message = root_cause(&io::Error::other(Nested(refused)));
        assert!(!message.is_empty() && !message.contains("os error") && !message.contains("outside"), "{message}");
    }

    #[derive(Debug)]
    struct Nested(io::Error);

    impl fmt::Display for Nested {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("outside")
        }
    }

    impl std::error::Error for Nested {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.0)
        }
    }
}

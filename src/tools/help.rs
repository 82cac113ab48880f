//! The short help, the version, and examples that can be pasted.

use std::{ffi::OsString, sync::LazyLock};

use clap::Command;

use crate::cli::UNBROKEN_SPACE;

/// Flags that `-h` shows, each with a description of one line; an empty one keeps the description of `--help`.
pub type ShortHelp = &'static [(&'static str, &'static str)];

/// The flags that `vb-gen -h` shows.
pub const GEN: ShortHelp = &[
    ("dataset-name", "Where prompts come from"),
    ("dataset-path", "The dataset's file; `-` is standard input"),
    ("num-prompts", "Number of requests [default: 1000]"),
    ("input-len", "Prompt tokens [default: 1024]"),
    ("output-len", "Tokens to generate [default: 128]"),
    ("range-ratio", "Vary lengths by up to this ratio"),
    ("prefix-len", "Tokens of a prefix that all prompts share"),
    ("seed", "Another seed gives other prompts"),
    ("multi-turn", "Send whole conversations"),
    ("tokenizer", "`builtin`, a file, a model id, or `server`"),
    ("backend", "The API that the requests are for"),
    ("base-url", "URL of the server that counts tokens"),
    ("model", "Name of the model at the server"),
    ("list-datasets", "Print the datasets with what they need"),
    ("config", ""),
];

/// The flags that `vb-fire -h` shows.
pub const FIRE: ShortHelp = &[
    ("base-url", "URL of the server [default: http://127.0.0.1:8000]"),
    ("backend", ""),
    ("model", "Name of the model [default: the server's first]"),
    ("endpoint", "Path of the API [default: the backend's]"),
    ("header", "Headers; OPENAI_API_KEY is sent anyway"),
    ("max-concurrency", "Most requests in flight [default: no limit]"),
    ("request-rate", "Requests per second, or `inf`"),
    ("num-warmups", "Requests to send before the clock starts"),
    ("max-seconds", "Send no new requests after this time"),
    ("temperature", ""),
    ("ignore-eos", "Generate to the full length"),
    ("extra-body", "More keys for every request's body"),
    ("scrape", "Record the server's own metrics too"),
    ("fail-above", "Share of failed requests for exit code 1"),
    ("list-backends", "Print the APIs with what they support"),
    ("config", ""),
];

/// The flags that `vb-stats -h` shows.
pub const STATS: ShortHelp = &[
    ("goodput", "Limits of good requests, as ttft:200ms"),
    ("fail-if", "Exit with 1 if so, as 'ttft.p99 > 500ms'"),
    ("by", "Also report groups, as tag:NAME or turn"),
    ("slice", "Also report slices of the run, as 10s"),
    ("metric-percentiles", ""),
    ("save-detailed", "Add lists with an entry per request"),
    ("label", ""),
    ("metadata", ""),
    ("table", "The table on standard error"),
    ("config", ""),
];

/// The flags that `vb-agg -h` shows.
pub const AGG: ShortHelp = &[
    ("repeats", "Combine runs with the same settings"),
    ("pool", "Pool results of `vb-stats --histograms`"),
    ("header", "Language of the column names"),
    ("table", ""),
    ("config", ""),
];

/// The flags that `vb-diff -h` shows.
pub const DIFF: ShortHelp = &[
    ("vs", "The files of B, if a side has several runs"),
    ("metric-percentiles", ""),
    ("margin", ""),
    ("fail-if", "Exit with 1 if so, as 'ttft.p99 > +5%'"),
    ("undecided", "Exit code of an undecided rule: pass or fail"),
    ("format", "table, json or markdown"),
    ("config", ""),
];

/// The flags that `vb-sim -h` shows.
pub const SIM: ShortHelp = &[
    ("host", ""),
    ("port", ""),
    ("profile", ""),
    ("served-model-name", ""),
    ("max-num-seqs", ""),
    ("max-model-len", ""),
    ("step-base", ""),
    ("tokens-per-chunk", ""),
    ("fault", "A failure on demand, as stall:0.01@5"),
    ("truth-log", ""),
    ("api-key", ""),
    ("config", ""),
];

/// The flags that `vb bench -h` shows.
pub const BENCH: ShortHelp = &[
    ("base-url", "URL of the server; or --host and --port"),
    ("backend", "The API of the server"),
    ("model", "Name of the model [default: the server's first]"),
    ("tokenizer", "Tokenizer [default: asks the server]"),
    ("dataset-name", "Where prompts come from [default: random]"),
    ("dataset-path", "The dataset's file"),
    ("num-prompts", "Number of requests [default: 1000]"),
    ("input-len", "Prompt tokens [default: 1024]"),
    ("output-len", "Tokens to generate [default: 128]"),
    ("request-rate", "Requests per second, or `inf`"),
    ("max-concurrency", "Most requests in flight [default: no limit]"),
    ("num-warmups", "Requests to send before the clock starts"),
    ("ignore-eos", "Generate to the full length"),
    ("extra-body", "More keys for every request's body"),
    ("goodput", "Limits of good requests, as ttft:200 (ms)"),
    ("save-result", "Write the result to a file with vLLM's name"),
    ("result-dir", "The folder of the file"),
    ("result-filename", "The name of the file"),
    ("print", "Print the pipe without running it"),
];

/// The program with its version, with examples that are not wrapped, and for `-h` with the common flags only.
pub fn arrange(command: Command, common_flags: ShortHelp, argv: &[OsString]) -> Command {
    let command = command.version(version());
    let wants_short = argv.iter().any(|word| word == "-h");
    let command = if wants_short && !common_flags.is_empty() { shorten(command, common_flags) } else { command };
    keep_examples(command)
}

/// Shows only the common flags, in their order and under one heading, without lists of values.
fn shorten(command: Command, common_flags: ShortHelp) -> Command {
    let name = command.get_bin_name().unwrap_or(command.get_name()).to_owned();
    let count = command.get_arguments().filter(|arg| arg.get_long().is_some()).count();
    let command = command.mut_args(|arg| {
        if arg.is_positional() {
            return arg;
        }
        let place = common_flags.iter().position(|(flag, _)| arg.get_long() == Some(*flag));
        let Some(place) = place else { return arg.hide(true) };
        let (takes_value, about) = (arg.get_action().takes_values(), common_flags[place].1);
        let arg = arg.help_heading(None::<&str>).display_order(place);
        let arg = if takes_value { arg.hide_possible_values(true) } else { arg };
        if about.is_empty() { arg } else { arg.hide_default_value(about.contains("[default")).help(about) }
    });
    command.after_help(format!("`{name} --help` shows all {count} flags, with examples."))
}

/// Keeps the lines of the examples as they are, at any width of the terminal.
fn keep_examples(command: Command) -> Command {
    let Some(text) = command.get_after_help().map(ToString::to_string) else { return command };
    command.after_help(unbroken(&text))
}

/// A text whose lines are not wrapped.
pub fn unbroken(text: &str) -> String {
    text.replace(' ', &UNBROKEN_SPACE.to_string())
}

/// The version, the commit of a release build, and the features.
pub fn version() -> &'static str {
    &VERSION
}

static VERSION: LazyLock<String> = LazyLock::new(|| {
    let features = if cfg!(feature = "parquet") { "feature parquet" } else { "no features" };
    let commit = option_env!("VB_COMMIT").filter(|commit| !commit.is_empty());
    let commit = commit.map(|commit| format!("commit {commit}, ")).unwrap_or_default();
    format!("{} ({commit}{features})", env!("CARGO_PKG_VERSION"))
});

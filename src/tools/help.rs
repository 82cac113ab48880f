//! The short help, the version, and examples that can be pasted.

use std::{ffi::OsString, sync::LazyLock};

use clap::{Arg, ArgAction, Command, builder::PossibleValue};

use crate::{
    cli::{UNBROKEN_SPACE, look::LookFlags},
    lang::Language,
};

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
    ("port", "The port; 0 chooses a free one"),
    ("profile", "Model and GPU, as llama3.1-8b-h100"),
    ("served-model-name", "Names of the model for clients"),
    ("max-num-seqs", "Most requests in a step"),
    ("max-model-len", "Most tokens of prompt and output"),
    ("step-base", ""),
    ("tokens-per-chunk", "Tokens in a chunk after the first"),
    ("fault", "A failure on demand, as stall:0.01@5"),
    ("truth-log", "File for the true times of all tokens"),
    ("api-key", "The key that clients must send"),
    ("config", ""),
];

/// The flags that `vb-selftest -h` shows.
pub const SELFTEST: ShortHelp = &[
    ("max-concurrency", "Most requests in flight [default: 64]"),
    ("request-rate", ""),
    ("threads", "Threads of vb-fire that read responses"),
    ("transport", "How vb-fire transfers and stamps bytes"),
    ("step", "Time between two tokens of a stream"),
    ("output-len", "Tokens in each response"),
    ("seconds", "How long it starts new requests"),
    ("no-search", "Skip the search for the highest clean rate"),
    ("table", "The table on standard error"),
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

/// The program with its version, with examples that are not wrapped, and for `-h` with the common flags only, in the language of the user.
pub fn arrange(command: Command, common_flags: ShortHelp, argv: &[OsString]) -> Command {
    let command = command.version(version());
    let wants_short = argv.iter().any(|word| word == "-h");
    let language = LookFlags::of_messages().language();
    let command = if wants_short {
        translate(shorten(command, common_flags), language)
    } else {
        translate_headings(command, language)
    };
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

/// Translates the texts of the short help. Names of flags and of their values are the same in every language.
pub fn translate(command: Command, language: Language) -> Command {
    if language == Language::En {
        return command;
    }
    let text = |english: String| language.translate(&english).into_owned();
    let about = command.get_about().map(|about| text(about.to_string()));
    let after = command.get_after_help().map(|after| after.to_string().lines().map(|line| text(line.into())).collect());
    let after: Option<Vec<String>> = after;
    let command =
        command.mut_args(|arg| translate_flag(arg, language)).mut_subcommands(|inner| translate(inner, language));
    let command = about.into_iter().fold(command, Command::about);
    let command = after.into_iter().fold(command, |command, lines| command.after_help(lines.join("\n")));
    translate_headings(command, language)
}

/// Translates the description of a flag, with what clap adds to it.
fn translate_flag(arg: Arg, language: Language) -> Arg {
    let mut help = arg.get_help().map(|help| language.translate(&help.to_string()).into_owned()).unwrap_or_default();
    let takes_value = arg.get_action().takes_values();
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if takes_value && !arg.is_hide_default_value_set() && !defaults.is_empty() {
        help += &language.translate(&format!(" [default: {}]", defaults.join(" ")));
    }
    let possible = arg.get_possible_values();
    let possible: Vec<&str> = possible.iter().filter(|v| !v.is_hide_set()).map(PossibleValue::get_name).collect();
    if takes_value && !arg.is_hide_possible_values_set() && !possible.is_empty() {
        help += &language.translate(&format!(" [possible values: {}]", possible.join(", ")));
    }
    let arg = arg.help(help);
    if takes_value { arg.hide_default_value(true).hide_possible_values(true) } else { arg }
}

/// Translates the headings: clap's groups without a name get one.
fn translate_headings(command: Command, language: Language) -> Command {
    if language == Language::En {
        return command;
    }
    // Clap adds the flags of this kind after everything else, in English.
    let made = |name: &'static str, short, action, about: &str| {
        let arg = Arg::new(name).short(short).long(name).action(action).help_heading(None::<&str>);
        arg.help(language.translate(about).into_owned()).display_order(usize::MAX)
    };
    let is_program = command.get_version().is_some();
    let command = command
        .disable_help_flag(true)
        .disable_version_flag(true)
        .arg(made("help", 'h', ArgAction::Help, "Print help (see more with '--help')"))
        .args(is_program.then(|| made("version", 'V', ArgAction::Version, "Print version")));
    let style = command.get_styles().get_usage();
    let usage = format!("{style}{}:{style:#}", language.translate("Usage"));
    let command =
        command.help_template(format!("{{about-with-newline}}\n{usage} {{usage}}\n\n{{all-args}}{{after-help}}"));
    let command = match language.find_text("Commands") {
        Some(heading) => command.subcommand_help_heading(heading),
        None => command,
    };
    command.mut_args(|arg| {
        let clap_heading = if arg.is_positional() { "Arguments" } else { "Options" };
        match language.find_text(arg.get_help_heading().unwrap_or(clap_heading)) {
            Some(heading) => arg.help_heading(heading),
            None => arg,
        }
    })
}

/// Keeps the lines of the examples as they are, at any width of the terminal.
pub fn keep_examples(command: Command) -> Command {
    let Some(text) = command.get_after_help().map(ToString::to_string) else { return command };
    command.after_help(unbroken(&text))
}

/// A text whose lines are not wrapped.
pub fn unbroken(text: &str) -> String {
    text.replace(' ', &UNBROKEN_SPACE.to_string())
}

/// The version, the commit of an optimized build (`scripts/commit.rs`), and the features.
pub fn version() -> &'static str {
    &VERSION
}

static VERSION: LazyLock<String> = LazyLock::new(|| {
    let features = if cfg!(feature = "parquet") { "feature parquet" } else { "no features" };
    let commit = option_env!("VB_COMMIT").filter(|commit| !commit.is_empty());
    let commit = commit.map(|commit| format!("commit {commit}, ")).unwrap_or_default();
    format!("{} ({commit}{features})", env!("CARGO_PKG_VERSION"))
});

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::tools::{bench, front, programs::PROGRAMS};

    /// The texts of a command that `-h` shows, and its headings.
    fn texts(command: &Command) -> BTreeSet<String> {
        let lines = |text: Option<&clap::builder::StyledStr>| -> Vec<String> {
            text.map(ToString::to_string)
                .unwrap_or_default()
                .lines()
                .map(|line| line.replace(UNBROKEN_SPACE, " ").trim().to_owned())
                .collect()
        };
        let mut texts: BTreeSet<String> = lines(command.get_about()).into_iter().collect();
        texts.extend(lines(command.get_after_help()));
        for arg in command.get_arguments() {
            texts.extend(arg.get_help_heading().map(str::to_owned));
            texts.extend(if arg.is_hide_set() { Vec::new() } else { lines(arg.get_help()) });
        }
        texts.extend(command.get_subcommands().flat_map(self::texts));
        texts.retain(|text| !text.is_empty());
        texts
    }

    #[test]
    fn every_text_of_the_short_help_has_a_translation() {
        let is_chinese = |text: &String| text.chars().any(|c| ('\u{4e00}'..'\u{a000}').contains(&c));
        let short = [GEN, FIRE, STATS, AGG, DIFF, SIM, SELFTEST].into_iter().zip(&PROGRAMS);
        let mut commands: Vec<Command> = short.map(|(flags, program)| shorten((program.command)(), flags)).collect();
        // The headings of `--help`.
        commands
            .extend(PROGRAMS.iter().map(|program| (program.command)().mut_args(|arg| arg.hide(true)).after_help("")));
        commands.push(shorten(bench::command(), BENCH));
        let mut commands: Vec<Command> = commands.into_iter().map(|command| translate(command, Language::Zh)).collect();
        commands.push(front::command(Language::Zh));
        let mut missing: BTreeSet<String> = commands.iter().flat_map(texts).collect();
        missing.retain(|text| !is_chinese(text) && !text.starts_with("vb bench -") && !text.starts_with("vb gen -"));
        let missing: Vec<String> = missing.into_iter().collect();
        assert!(missing.is_empty(), "src/lang/zh-help.txt has no translation of\n{}", missing.join("\n"));
    }
}

//! The program `vb`: all programs in one file, `vb bench` and the scripts.

use std::{ffi::OsString, process::ExitCode};

use clap::Command;
use jiff::Timestamp;

use super::{
    bench, help, pages, pipe,
    programs::{NamedTool, PROGRAMS},
    scripts::{self, SCRIPTS},
};
use crate::{
    cli::{self, UNBROKEN_SPACE, look::LookFlags},
    clock,
    error::Error,
    lang::Language,
    secrets::{self, Secrets},
};

const NAME: &str = "vb";

/// Runs the program that the name of the executable or the first argument names.
#[must_use]
pub fn main() -> ExitCode {
    let line: Vec<OsString> = std::env::args_os().collect();
    LookFlags::from_words(&line).use_for_messages();
    let first = line.get(1).and_then(|word| word.to_str()).unwrap_or_default().to_owned();
    let by_name = PROGRAMS.iter().find(|program| cli::is_named(line.first(), program.file_name));
    // People may type the name of the file too: `vb vb-gen`.
    let program = by_name.or_else(|| NamedTool::find(first.strip_prefix("vb-").unwrap_or(&first)));
    cli::set_multi_call(program.map_or(NAME, |program| program.file_name));
    if let Some(program) = program {
        return (program.run)();
    }
    cli::print_panics(NAME);
    secrets::remember(&Secrets::from_environment());
    let args: Vec<OsString> = line.into_iter().skip(2).collect();
    let done = match first.as_str() {
        "bench" => run_bench(args),
        "man" => pages::write_man_pages(&args).map(|()| 0),
        "completions" => pages::print_completions(&args).map(|()| 0),
        "help" => match args.first().and_then(|word| word.to_str()).and_then(NamedTool::find) {
            Some(program) => return ExitCode::from(print_help(help::arrange((program.command)(), &[], &[]), false)),
            None => return report_usage("--help"),
        },
        _ => match SCRIPTS.iter().find(|script| script.name == first) {
            Some(script) => scripts::run(script, &args),
            None => return report_usage(&first),
        },
    };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(e) => cli::report_result(NAME, Err(e)),
    }
}

/// `vb bench`.
fn run_bench(args: Vec<OsString>) -> Result<u8, Error> {
    let words: Vec<String> =
        args.into_iter().map(cli::hyphenate_flag).map(|word| word.to_string_lossy().into_owned()).collect();
    secrets::remember(&Secrets::from_command_line(words.iter().cloned()));
    if let Some(flag) = words.iter().find(|word| matches!(word.as_str(), "-h" | "--help")) {
        let line = [OsString::from("vb bench"), flag.into()];
        let command = help::arrange(bench::command().bin_name("vb bench"), help::BENCH, &line);
        return Ok(print_help(command, flag == "-h"));
    }
    let asked = bench::parse(&words, &date())?;
    for note in &asked.notes {
        cli::print_warning(NAME, note);
    }
    // Before anything is sent, so that the first program does not run for the last one's error.
    for stage in &asked.stages {
        if let Some(program) = NamedTool::find(stage.program)
            && program.check(pipe::command_line(stage)).is_err()
        {
            return Ok(2);
        }
    }
    let text = pipe::shell_text(&asked.stages, asked.target.as_ref());
    if asked.print_only {
        return cli::print_to_stdout(&text).map(|()| 0);
    }
    cli::check_stdout()?;
    cli::print_to_stderr(&text);
    let code = pipe::run(&asked.stages, asked.target.as_ref())?;
    if let Some(target) = asked.target.filter(|target| target.path.exists()) {
        cli::print_warning(NAME, format_args!("wrote {}", target.path.display()));
    }
    Ok(code)
}

/// The time as in vLLM's file names, in UTC.
fn date() -> String {
    let now = Timestamp::from_nanosecond(i128::from(clock::unix_now().0)).unwrap_or(Timestamp::UNIX_EPOCH);
    now.strftime("%Y%m%d-%H%M%S").to_string()
}

/// What `vb` prints without a program: its help, its version, or an error.
fn report_usage(first: &str) -> ExitCode {
    match first {
        "" => {
            cli::print_to_stderr(&list_text().replace(UNBROKEN_SPACE, " "));
            ExitCode::from(2)
        }
        "-h" | "--help" => ExitCode::from(print_help(command(LookFlags::of_messages().language()), true)),
        "-V" | "--version" => match cli::print_to_stdout(&format!("{NAME} {}\n", help::version())) {
            Ok(()) => ExitCode::SUCCESS,
            e => cli::report_result(NAME, e),
        },
        other => {
            let names: Vec<&str> = list().into_iter().map(|(name, _)| name).collect();
            let near = crate::config::nearest_flag(other, &names).map(|near| format!("; did you mean `vb {near}`?"));
            let cure = near.unwrap_or_else(|| "; `vb --help` lists the programs".into());
            cli::report_result(NAME, Err(Error::Usage(format!("no program `{other}`{cure}"))))
        }
    }
}

fn print_help(mut command: Command, short: bool) -> u8 {
    let text = if short { command.render_help() } else { command.render_long_help() };
    u8::from(cli::print_help(&text).is_err())
}

/// What follows `vb`, with what it does.
fn list() -> Vec<(&'static str, String)> {
    let bench = bench::command().get_about().map(ToString::to_string).unwrap_or_default();
    let programs = PROGRAMS.iter().map(|program| (program.name, program.about()));
    let scripts = SCRIPTS.iter().map(|script| (script.name, script.about.to_owned()));
    std::iter::once(("bench", bench)).chain(programs).chain(scripts).collect()
}

fn list_text() -> String {
    let mut command = command(LookFlags::of_messages().language());
    command.render_help().to_string()
}

/// `vb` with the list of its programs.
pub fn command(language: Language) -> Command {
    let list = list().into_iter().map(|(name, about)| format!("  {name:<10}{}", language.translate(&about)));
    let after = format!("Programs:\n{}\n\n{AFTER}", list.collect::<Vec<String>>().join("\n"));
    let command = Command::new(NAME)
        .about("Load tests for LLM inference servers")
        .version(help::version())
        .override_usage("vb PROGRAM [FLAGS]")
        .after_help(after);
    help::keep_examples(help::translate(command, language))
}

const AFTER: &str = "\
`vb gen` is vb-gen, and so on. Each program has -h with the common flags,
and --help with all flags and examples.

  vb bench --base-url http://127.0.0.1:8000 --max-concurrency 16
  vb gen --num-prompts 100 | vb fire --max-concurrency 16 | vb stats

  vb completions bash|zsh|fish    prints completions for a shell
  vb man FOLDER                   writes man pages";

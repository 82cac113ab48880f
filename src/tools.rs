//! The seven programs. This is the top of the crate: no other module uses it.

use std::process::ExitCode;

use clap::{Command, CommandFactory, FromArgMatches};

use crate::{agg, cli, config, diff, error::Error, fire, generate, selftest, sim, stats};

/// A program: its arguments `A`, which define its name and its flags, and the function that runs it.
pub struct Tool<A> {
    run: fn(A) -> Result<(), Error>,
}

/// `vb-gen`.
pub const GEN: Tool<generate::Args> = Tool { run: generate::run };
/// `vb-fire`.
pub const FIRE: Tool<fire::Args> = Tool { run: |args| fire::run(&args) };
/// `vb-stats`.
pub const STATS: Tool<stats::Args> = Tool { run: stats::run };
/// `vb-diff`.
pub const DIFF: Tool<diff::Args> = Tool { run: diff::run };
/// `vb-agg`.
pub const AGG: Tool<agg::Args> = Tool { run: agg::run };
/// `vb-sim`.
pub const SIM: Tool<sim::Args> = Tool { run: sim::run };
/// `vb-selftest`.
pub const SELFTEST: Tool<selftest::Args> = Tool { run: |args| selftest::run(&args) };

/// The command lines of all programs. Their flags are the keys that a config may have.
fn commands() -> Vec<Command> {
    vec![
        generate::Args::command(),
        fire::Args::command(),
        stats::Args::command(),
        diff::Args::command(),
        agg::Args::command(),
        sim::Args::command(),
        selftest::Args::command(),
    ]
}

/// Parses the command line, adds the values of `--config` for flags that were not given, and runs the program.
///
/// Flags may be spelled with underscores, as in vLLM's parser.
pub fn main<A: CommandFactory + FromArgMatches>(tool: &Tool<A>) -> ExitCode {
    let command = A::command();
    let name = command.get_name().to_owned();
    let result = config::parse_with_config(command, cli::hyphenated_args(), commands).and_then(|matches| {
        let args = A::from_arg_matches(&matches).map_err(|e| Error::Usage(e.to_string()))?;
        (tool.run)(args)
    });
    cli::report_result(&name, result)
}

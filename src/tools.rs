//! The seven programs, and `vb`, which has them all. This is the top of the crate: no other module uses it.

mod bench;
mod front;
mod help;
mod pages;
mod pipe;
mod programs;
mod scripts;
pub mod vllm_flags;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

pub use self::front::main as front_main;
use crate::{
    agg,
    cli::{self, look::LookFlags},
    config::{self, ConfigError, FlagTable},
    diff,
    error::Error,
    fire, generate,
    secrets::{self, Secrets},
    selftest, sim, stats,
};

/// A program: its arguments `A`, which define its name and its flags, and the function that runs it.
pub struct Tool<A> {
    run: fn(A) -> Result<(), Error>,
    /// The flags that `-h` shows, in this order; `--help` shows all.
    common_flags: help::ShortHelp,
}

/// `vb-gen`.
pub const GEN: Tool<generate::Args> = Tool { run: |args| generate::run(&args), common_flags: help::GEN };
/// `vb-fire`.
pub const FIRE: Tool<fire::Args> = Tool { run: |args| fire::run(&args), common_flags: help::FIRE };
/// `vb-stats`.
pub const STATS: Tool<stats::Args> = Tool { run: stats::run, common_flags: help::STATS };
/// `vb-diff`.
pub const DIFF: Tool<diff::Args> = Tool { run: diff::run, common_flags: help::DIFF };
/// `vb-agg`.
pub const AGG: Tool<agg::Args> = Tool { run: agg::run, common_flags: help::AGG };
/// `vb-sim`.
pub const SIM: Tool<sim::Args> = Tool { run: sim::run, common_flags: help::SIM };
/// `vb-selftest`.
pub const SELFTEST: Tool<selftest::Args> = Tool { run: |args| selftest::run(&args), common_flags: help::SELFTEST };

/// The flags of all programs with underscores, which are the keys that a config may have, one per line and each with the
/// programs that have it. `VB_UPDATE=1 cargo test --lib tools` writes the file.
///
/// It is a file because a list of the programs' commands would link the code of all of them into each binary.
const FLAGS: FlagTable =
    FlagTable { keys: include_str!("tools/config_keys.txt"), explain_foreign: vllm_flags::explain_flag };

/// Parses the command line, adds the values of `--config` for flags that were not given, and runs the program.
///
/// Flags may be spelled with underscores, as in vLLM's parser.
#[must_use]
pub fn main<A: CommandFactory + FromArgMatches>(tool: &Tool<A>) -> ExitCode {
    let line = cli::command_line();
    LookFlags::from_words(&line).use_for_messages();
    let command = help::arrange(A::command(), tool.common_flags, &line);
    let name = command.get_name().to_owned();
    cli::print_panics(&name);
    cli::parent::end_with_parent();
    secrets::remember(&Secrets::from_environment());
    let result = match config::parse_with_config(command, line, FLAGS) {
        Ok(matches) => {
            // A config may have them.
            LookFlags::from_arg_matches(&matches).into_iter().for_each(LookFlags::use_for_messages);
            let args = A::from_arg_matches(&matches).map_err(|e| Error::Usage(e.to_string()));
            cli::check_stdout().and(args).and_then(tool.run)
        }
        Err(ConfigError::Flags(e)) => return cli::report_flags(&e),
        Err(ConfigError::Config(e)) => Err(e),
    };
    cli::report_result(&name, result)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, path::Path};

    use super::*;

    #[test]
    fn the_keys_of_a_config_are_the_flags_of_all_programs() {
        let mut keys: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        let order = ["gen", "fire", "stats", "diff", "agg", "sim", "selftest"];
        let commands: Vec<_> = order.iter().map(|name| (programs::NamedTool::find(name).unwrap().command)()).collect();
        for command in &commands {
            let flags = command.get_arguments().flat_map(config::names_of_flag);
            for flag in flags.filter(|flag| !matches!(*flag, "config" | "help" | "version" | "schema")) {
                keys.entry(flag.replace('-', "_")).or_default().push(command.get_name());
            }
        }
        let lines: Vec<String> = keys.iter().map(|(key, tools)| format!("{key} {}", tools.join(" "))).collect();
        let keys = lines.join("\n") + "\n";
        if std::env::var_os("VB_UPDATE").is_some() {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tools/config_keys.txt");
            return fs::write(path, keys).unwrap();
        }
        assert_eq!(FLAGS.keys, keys, "VB_UPDATE=1 rewrites src/tools/config_keys.txt");
    }
}

//! The list of the programs, for `vb`, which has them all. Naming it links the code of all of them.

use std::{ffi::OsString, process::ExitCode};

use clap::{Command, CommandFactory};

use super::{AGG, DIFF, FIRE, FLAGS, GEN, SELFTEST, SIM, STATS, main};
use crate::{
    agg, cli,
    config::{self, ConfigError},
    diff, fire, generate, selftest, sim, stats,
};

/// A program.
pub struct NamedTool {
    /// Its name after `vb `, as `gen`.
    pub name: &'static str,
    /// The name of its file, as `vb-gen`.
    pub file_name: &'static str,
    /// Its flags.
    pub command: fn() -> Command,
    /// Runs it with the command line of the process.
    pub run: fn() -> ExitCode,
}

/// The programs, in the order of the pipe.
pub const PROGRAMS: [NamedTool; 7] = [
    NamedTool { name: "gen", file_name: "vb-gen", command: generate::Args::command, run: || main(&GEN) },
    NamedTool { name: "fire", file_name: "vb-fire", command: fire::Args::command, run: || main(&FIRE) },
    NamedTool { name: "stats", file_name: "vb-stats", command: stats::Args::command, run: || main(&STATS) },
    NamedTool { name: "agg", file_name: "vb-agg", command: agg::Args::command, run: || main(&AGG) },
    NamedTool { name: "diff", file_name: "vb-diff", command: diff::Args::command, run: || main(&DIFF) },
    NamedTool { name: "sim", file_name: "vb-sim", command: sim::Args::command, run: || main(&SIM) },
    NamedTool { name: "selftest", file_name: "vb-selftest", command: selftest::Args::command, run: || main(&SELFTEST) },
];

impl NamedTool {
    /// The program of this name.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static NamedTool> {
        PROGRAMS.iter().find(|program| program.name == name)
    }

    /// What it does, for a list of the programs.
    #[must_use]
    pub fn about(&self) -> String {
        let about = (self.command)().get_about().map(ToString::to_string).unwrap_or_default();
        // What follows a colon is detail.
        about.split(": ").next().unwrap_or_default().to_owned()
    }

    /// Checks a command line without running it. The error names the program, as its own would.
    ///
    /// # Errors
    /// The exit code, after the message was printed.
    pub fn check(&self, argv: Vec<OsString>) -> Result<(), ExitCode> {
        match config::parse_with_config((self.command)(), argv, FLAGS) {
            Ok(_) => Ok(()),
            Err(ConfigError::Flags(e)) => Err(cli::report_flags(&e)),
            Err(ConfigError::Config(e)) => Err(cli::report_result(self.file_name, Err(e))),
        }
    }
}

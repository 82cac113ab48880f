//! Man pages and completions, made from the definitions of the flags.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
};

use clap::{Arg, Command, ValueHint};
use clap_complete::Shell;

use super::{bench, help, programs::PROGRAMS, scripts::SCRIPTS};
use crate::{cli, error::Error};

/// `vb man FOLDER`: a page for each program.
pub fn write_man_pages(args: &[OsString]) -> Result<(), Error> {
    let [folder] = args else { return Err(Error::Usage("use `vb man FOLDER`".into())) };
    let folder = PathBuf::from(folder);
    fs::create_dir_all(&folder).map_err(|e| Error::write(&folder, e))?;
    for program in &PROGRAMS {
        write_page(&folder, (program.command)(), program.file_name)?;
    }
    write_page(&folder, bench::command(), "vb-bench")?;
    write_page(&folder, whole_command(), "vb")
}

/// Writes the page of a command. Its examples keep their lines.
fn write_page(folder: &Path, command: Command, name: &'static str) -> Result<(), Error> {
    let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let command = command.name(name).bin_name(name).version(help::version());
    // Made again from what is left, since the text at the end cannot be taken out.
    let page = clap_mangen::Man::new(command.after_help("")).manual("vb");
    let path = folder.join(format!("{name}.1"));
    let mut text = Vec::new();
    page.render(&mut text).map_err(|e| Error::write(&path, e))?;
    if !examples.is_empty() {
        text.extend_from_slice(b".SH EXAMPLES\n.nf\n");
        text.extend_from_slice(roff_text(&examples).as_bytes());
        text.extend_from_slice(b".fi\n");
    }
    fs::write(&path, text).map_err(|e| Error::write(&path, e))
}

/// Text as roff reads it: a backslash is doubled, and a line may not begin with a control character.
fn roff_text(text: &str) -> String {
    let lines = text.lines().map(|line| {
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        if line.starts_with(['.', '\'']) { format!("\\&{line}\n") } else { line + "\n" }
    });
    lines.collect()
}

/// `vb completions SHELL`, for `vb` and for the program's own names.
pub fn print_completions(args: &[OsString]) -> Result<(), Error> {
    let shell = match args {
        [shell] => shell.to_str().and_then(|name| name.parse::<Shell>().ok()),
        _ => None,
    };
    let Some(shell) = shell else {
        return Err(Error::Usage("use `vb completions SHELL`, for bash, zsh, fish, elvish or powershell".into()));
    };
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut whole_command(), "vb", &mut text);
    // One file of zsh is for one command.
    if shell != Shell::Zsh {
        for program in &PROGRAMS {
            clap_complete::generate(shell, &mut (program.command)(), program.file_name, &mut text);
        }
    }
    cli::print_to_stdout(&String::from_utf8_lossy(&text))
}

/// `vb` with all programs as subcommands.
fn whole_command() -> Command {
    let mut whole = Command::new("vb").about("Load tests for LLM inference servers").version(help::version());
    whole = whole.subcommand(bench::command());
    for program in &PROGRAMS {
        whole = whole.subcommand((program.command)().name(program.name));
    }
    for script in &SCRIPTS {
        let path = Arg::new("path").value_hint(ValueHint::AnyPath).num_args(0..);
        whole = whole.subcommand(Command::new(script.name).about(script.about).arg(path));
    }
    whole
}

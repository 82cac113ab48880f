//! `vb sweep` and `vb ab`: the scripts of the project, which are a part of the executable.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::{DirBuilderExt, symlink},
    path::{Path, PathBuf},
    process::{self, Command},
};

use super::{pipe, programs::PROGRAMS};
use crate::{cli, error::Error};

/// What both scripts begin with.
const BASE: &str = include_str!("../../scripts/base.sh");

/// A script.
#[derive(Debug)]
pub struct ShellScript {
    /// Its name after `vb `.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
    text: &'static str,
}

/// The scripts.
pub const SCRIPTS: [ShellScript; 2] = [
    ShellScript {
        name: "sweep",
        about: "Runs a sweep: every cell of the grid of a config, resumable",
        text: include_str!("../../scripts/sweep.sh"),
    },
    ShellScript {
        name: "ab",
        about: "Compares two servers in alternating rounds of the same requests",
        text: include_str!("../../scripts/ab.sh"),
    },
];

/// A private folder with the script and a link for each program, removed on drop.
struct Folder(PathBuf);

impl Folder {
    /// Creates it for `script`. The links lead to this executable.
    fn new(script: &ShellScript) -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("vb-{}-{}", script.name, process::id()));
        // Of an earlier process with the same id, which was killed.
        let _ = fs::remove_dir_all(&path);
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        let folder = Folder(path);
        let own = cli::own_path()?;
        fs::create_dir(folder.scripts())?;
        fs::create_dir(folder.programs())?;
        // People know it by its name here.
        let by_name = |text: &str| text.replace(&format!("scripts/{}.sh", script.name), &format!("vb {}", script.name));
        fs::write(folder.scripts().join("base.sh"), BASE)?;
        fs::write(folder.script(script), by_name(script.text))?;
        for program in &PROGRAMS {
            symlink(&own, folder.programs().join(program.file_name))?;
        }
        Ok(folder)
    }

    fn scripts(&self) -> PathBuf {
        self.0.join("scripts")
    }

    fn script(&self, script: &ShellScript) -> PathBuf {
        self.scripts().join(format!("{}.sh", script.name))
    }

    fn programs(&self) -> PathBuf {
        self.0.join("bin")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A few small files may stay in the folder for temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs the script, and returns its exit code. Results and the default config are in the working folder.
pub fn run(script: &ShellScript, args: &[OsString]) -> Result<u8, Error> {
    let folder = Folder::new(script)
        .map_err(|e| Error::Setup(format!("cannot write the script to {}: {e}", std::env::temp_dir().display())))?;
    // The script ends its programs on a signal, which reaches it too; this process waits for it.
    let terminated = pipe::outlive_signals()?;
    let here = std::env::current_dir().unwrap_or_else(|_| Path::new(".").to_path_buf());
    let child = Command::new("bash")
        .arg(folder.script(script))
        .args(args)
        .env("VB_BIN", folder.programs())
        .env("VB_HOME", here)
        .spawn()
        .map_err(|e| Error::Setup(format!("cannot start bash, which runs `vb {}`: {e}", script.name)))?;
    let codes = pipe::wait_for_all(&mut [child], &terminated)?;
    Ok(codes.first().copied().unwrap_or(0))
}

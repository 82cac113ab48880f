//! The build script: gives optimized builds the commit that `--version` names.

#![allow(clippy::print_stdout)] // cargo reads it.

use std::{env, process::Command};

/// The variable that `--version` reads. `scripts/release.sh` sets it, for sources without a repository too.
const VARIABLE: &str = "VB_COMMIT";

fn main() {
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    // Other builds would compile the library again after each commit.
    let is_optimized = env::var("PROFILE").is_ok_and(|profile| profile == "release");
    if !is_optimized || env::var_os(VARIABLE).is_some() {
        return;
    }
    // Sources may have been unpacked inside another repository.
    if run_git(&["rev-parse", "--show-prefix"]).is_none_or(|prefix| !prefix.is_empty()) {
        return;
    }
    // A checkout changes HEAD, and a commit its log. If there is no such file, cargo runs this before each build.
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = run_git(&["rev-parse", "--git-path", file]) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    if let Some(commit) = run_git(&["rev-parse", "--short=12", "HEAD"]) {
        println!("cargo::rustc-env={VARIABLE}={commit}");
    }
}

/// What git prints; `None`: there is no git, or no repository.
fn run_git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

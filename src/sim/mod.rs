//! `vb-sim`.

mod blocks;
mod engine;
mod fault;
mod profile;
mod vocabulary;

use crate::{config::ConfigFlag, error::Error};

/// `vb-sim`.
#[derive(Debug, clap::Parser)]
#[command(name = "vb-sim", version)]
pub struct Args {
    #[command(flatten)]
    config: ConfigFlag,
}

/// Runs the tool.
pub fn run(args: Args) -> Result<(), Error> {
    let _ = args;
    Ok(())
}

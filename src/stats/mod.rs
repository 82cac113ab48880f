//! `vb-stats`.

use crate::{config::ConfigFlag, error::Error};

/// `vb-stats`.
#[derive(Debug, clap::Parser)]
#[command(name = "vb-stats", version)]
pub struct Args {
    #[command(flatten)]
    config: ConfigFlag,
}

/// Runs the tool.
pub fn run(args: Args) -> Result<(), Error> {
    let _ = args;
    Ok(())
}

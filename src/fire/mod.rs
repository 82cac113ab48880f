//! `vb-fire`.

use crate::{config::ConfigFlag, error::Error};

/// `vb-fire`.
#[derive(Debug, clap::Parser)]
#[command(name = "vb-fire", version)]
pub struct Args {
    #[command(flatten)]
    config: ConfigFlag,
}

/// Runs the tool.
pub fn run(args: Args) -> Result<(), Error> {
    let _ = args;
    Ok(())
}

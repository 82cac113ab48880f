//! `vb-gen`.

use crate::{config::ConfigFlag, error::Error};

/// `vb-gen`.
#[derive(Debug, clap::Parser)]
#[command(name = "vb-gen", version)]
pub struct Args {
    #[command(flatten)]
    config: ConfigFlag,
}

/// Runs the tool.
pub fn run(args: Args) -> Result<(), Error> {
    let _ = args;
    Ok(())
}

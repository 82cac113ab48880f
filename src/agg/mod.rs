//! `vb-agg`.

use crate::{config::ConfigFlag, error::Error};

/// `vb-agg`.
#[derive(Debug, clap::Parser)]
#[command(name = "vb-agg", version)]
pub struct Args {
    #[command(flatten)]
    config: ConfigFlag,
}

/// Runs the tool.
pub fn run(args: Args) -> Result<(), Error> {
    let _ = args;
    Ok(())
}

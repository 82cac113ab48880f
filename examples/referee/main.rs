//! A server that knows when it sent each token, and shares no code with `vb-sim`: a second opinion on what a client reports.
//!
//! `referee [--port N] [--step 20ms] --log FILE` prints its URL and answers `POST /v1/completions` with a stream of `max_tokens` tokens.
//! One clock drives all streams: at each step, every request gets its next token. The time of each token is read right before it is
//! handed to the socket; nothing is allocated in a step. SIGTERM or Ctrl-C ends it, and then it writes the log, a line per request in the
//! format of `vb-sim --truth-log`. One thread, Linux only.

#[cfg(target_os = "linux")]
mod server;

use std::{error::Error, path::PathBuf};

use clap::Parser;
use vb::units::{Nanos, parse_duration};

/// A server of streams that logs when it sent each token.
#[derive(Debug, Parser)]
#[command(name = "referee")]
pub struct Args {
    /// Port to listen on; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Time between two tokens of a stream.
    #[arg(long, default_value = "20ms", value_parser = parse_duration)]
    step: Nanos,
    /// File for the log.
    #[arg(long)]
    log: PathBuf,
}

#[cfg(target_os = "linux")]
fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let mut server = server::Server::bind(args.port, args.step.0)?;
    {
        use std::io::Write;
        writeln!(std::io::stdout(), "{}", server.url()?)?;
    }
    server.serve()?;
    server.write_log(&args.log)?;
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn main() -> Result<(), Box<dyn Error>> {
    let _ = Args::parse();
    Err("the referee needs Linux".into())
}

//! `vb-stats`: arguments, then one call.

fn main() -> std::process::ExitCode {
    vb::cli::main("vb-stats", vb::stats::run)
}

//! `vb-sim`: arguments, then one call.

fn main() -> std::process::ExitCode {
    vb::cli::main("vb-sim", vb::sim::run)
}

//! `vb-agg`: arguments, then one call.

fn main() -> std::process::ExitCode {
    vb::cli::main("vb-agg", vb::agg::run)
}

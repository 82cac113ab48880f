//! `vb-diff`: arguments, then one call.

fn main() -> std::process::ExitCode {
    vb::cli::main("vb-diff", vb::diff::run)
}

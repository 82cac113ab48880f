//! `vb-gen`: arguments, then one call.

fn main() -> std::process::ExitCode {
    vb::cli::main("vb-gen", vb::generate::run)
}

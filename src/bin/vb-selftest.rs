//! `vb-selftest`: arguments, then one call.

fn main() -> std::process::ExitCode {
    vb::cli::main("vb-selftest", |args| vb::selftest::run(&args))
}

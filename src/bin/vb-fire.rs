//! `vb-fire`: arguments, then one call.

fn main() -> std::process::ExitCode {
    vb::cli::main("vb-fire", |args| vb::fire::run(&args))
}

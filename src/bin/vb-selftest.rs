//! `vb-selftest`.

fn main() -> std::process::ExitCode {
    vb::tools::main(&vb::tools::SELFTEST)
}

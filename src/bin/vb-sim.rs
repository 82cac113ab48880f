//! `vb-sim`.

fn main() -> std::process::ExitCode {
    vb::tools::main(&vb::tools::SIM)
}

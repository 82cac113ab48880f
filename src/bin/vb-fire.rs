//! `vb-fire`.

fn main() -> std::process::ExitCode {
    vb::tools::main(&vb::tools::FIRE)
}

//! `vb-gen`.

fn main() -> std::process::ExitCode {
    vb::tools::main(&vb::tools::GEN)
}

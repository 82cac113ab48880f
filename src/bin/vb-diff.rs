//! `vb-diff`.

fn main() -> std::process::ExitCode {
    vb::tools::main(&vb::tools::DIFF)
}

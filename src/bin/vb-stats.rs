//! `vb-stats`.

fn main() -> std::process::ExitCode {
    vb::tools::main(&vb::tools::STATS)
}

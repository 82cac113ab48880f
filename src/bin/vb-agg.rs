//! `vb-agg`.

fn main() -> std::process::ExitCode {
    vb::tools::main(&vb::tools::AGG)
}

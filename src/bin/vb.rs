//! `vb`: all programs in one file.

fn main() -> std::process::ExitCode {
    vb::tools::front_main()
}

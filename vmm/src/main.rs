//! The `ftvm` program.

fn main() -> std::process::ExitCode {
    vmm::cli::main()
}

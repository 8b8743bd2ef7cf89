//! The command `loopwright-check`.

fn main() -> std::process::ExitCode {
    loopwright_check::cli::main()
}

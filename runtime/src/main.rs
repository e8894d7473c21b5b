//! The `runtime` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    runtime::cli::main()
}

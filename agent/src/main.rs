//! The `agent` binary: the daemon on each host (`agent run`) and the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    agent::cli::main()
}

//! The `agent` binary: the daemon on each host (`agent run`) and the command line.

use std::process::ExitCode;

use agent::daemon::{self, RunOptions};
use clap::{Parser, Subcommand};

/// Container runtime, node agent and cluster manager in one binary.
#[derive(Debug, Parser)]
#[command(name = "agent", version, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the daemon of this host in the foreground
    Run(RunOptions),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match arguments.verb {
        Verb::Run(options) => daemon::run(options),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

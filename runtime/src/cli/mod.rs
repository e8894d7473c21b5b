//! The command line of the `runtime` binary: runc's verbs and flags, parsed here and answered by [`crate::container`].

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::container::{ContainerId, StateDir};
use crate::shim;

/// OCI runtime of Shoal.
#[derive(Debug, Parser)]
#[command(name = "runtime", version)]
struct Args {
    /// Directory for the state of containers; a tmpfs.
    #[arg(long, value_name = "DIR", default_value = "/run/shoal/runtime")]
    root: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Hold the stdio of one container for the agent and reap it.
    Shim {
        /// Directory with config.json and shim.json.
        #[arg(long, value_name = "DIR")]
        bundle: PathBuf,
        /// The container.
        id: ContainerId,
    },
}

/// Parses the arguments of the process and runs the command; the process exits with the answer.
pub fn main() -> ExitCode {
    let args = Args::parse();
    let state = StateDir(args.root);
    match args.command {
        Command::Shim { bundle, id } => shim::main(&state, &bundle, &id),
    }
}

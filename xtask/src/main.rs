//! Developer commands: `cargo xtask <command>`.
//!
//! - `test`: every test, as root; the one command that the README names and CI runs
//! - `lint`: formatting, clippy, licences, and the arrows between the crates
//! - `bench`: figures side by side with what is installed of the peers

mod bench;
mod lint;
mod test;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Developer commands of Shoal")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run every test, as root; words that follow are passed to the test programs as filters
    Test {
        /// Only tests whose names contain this
        filter: Option<String>,
    },
    /// Check formatting, clippy, licences and the arrows between the crates
    Lint,
    /// Print figures side by side with the peers that are installed
    Bench(bench::Options),
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        Task::Test { filter } => test::run(filter.as_deref()),
        Task::Lint => lint::run(),
        Task::Bench(options) => bench::run(&options),
    }
}

/// The folder of the workspace.
fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(PathBuf::from)
        .unwrap_or_default()
}

/// The cargo that runs this, in the workspace's folder.
fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace());
    command
}

/// Runs a command to its end; an exit code other than 0 is an error that names it.
fn run(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", describe(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", describe(command));
    }
    Ok(())
}

fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

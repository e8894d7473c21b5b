//! `cargo xtask bench`: figures side by side with the peers that are installed, printed as ratios.

use anyhow::Result;
use clap::Args;

use crate::{cargo, run as run_command, workspace};

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Rounds per figure
    #[arg(long, default_value_t = 15)]
    rounds: u32,
}

/// Builds for release and runs the script that anyone can run by hand.
pub(crate) fn run(options: &Options) -> Result<()> {
    run_command(cargo().args([
        "build",
        "--release",
        "--package",
        "runtime",
        "--package",
        "agent",
        "--bins",
    ]))?;
    run_command(
        std::process::Command::new(workspace().join("benches/engine.sh"))
            .current_dir(workspace())
            .env("ROUNDS", options.rounds.to_string()),
    )
}

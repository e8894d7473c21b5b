//! `cargo xtask bench`: figures side by side with the peers that are installed, printed as ratios.

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::{cargo, run as run_command, workspace};

/// What to measure: without a word, one node.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    /// Rounds per figure
    #[arg(long, default_value_t = 15)]
    rounds: u32,
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Several nodes: what is lost and made good, memory, false alarms, a thousand simulated nodes
    Cluster {
        /// Passed on; `--help` after `--` lists them
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

/// Builds for release and runs what measures.
pub(crate) fn run(options: &Options) -> Result<()> {
    build(&["--package", "runtime", "--package", "agent", "--bins"])?;
    match &options.what {
        None => run_command(
            std::process::Command::new(workspace().join("benches/engine.sh"))
                .current_dir(workspace())
                .env("ROUNDS", options.rounds.to_string()),
        ),
        Some(What::Cluster { words }) => cluster(words),
    }
}

/// The programs of the cluster's figures are examples: nobody who installs Shoal needs them.
fn cluster(words: &[String]) -> Result<()> {
    build(&["--package", "manager", "--example", "simulated_nodes"])?;
    build(&["--package", "integration", "--example", "netload"])?;
    let mut figures = cargo();
    figures.args([
        "run",
        "--release",
        "--package",
        "integration",
        "--example",
        "cluster_figures",
        "--",
    ]);
    run_command(figures.args(words))
}

fn build(words: &[&str]) -> Result<()> {
    run_command(cargo().args(["build", "--release"]).args(words))
}

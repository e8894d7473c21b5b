//! `state`, `list` and `ps`.

use std::fs;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::json;

use crate::container::{self, ContainerId, StateDir};

/// Form of a listing.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// `list`.
#[derive(Debug, Args)]
pub(super) struct List {
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Only the ids.
    #[arg(short, long)]
    quiet: bool,
}

/// `ps`.
#[derive(Debug, Args)]
pub(super) struct Ps {
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// The container.
    id: ContainerId,
}

/// Prints the state, indented as runc does.
pub(super) fn state(dir: &StateDir, id: &ContainerId) -> anyhow::Result<ExitCode> {
    println!("{}", serde_json::to_string_pretty(&container::state(dir, id)?)?);
    Ok(ExitCode::SUCCESS)
}

impl List {
    pub(super) fn execute(&self, dir: &StateDir) -> anyhow::Result<ExitCode> {
        let states = container::list(dir)?;
        match self.format {
            _ if self.quiet => states.iter().for_each(|state| println!("{}", state.id())),
            Format::Json => println!("{}", serde_json::to_string(&states)?),
            Format::Table => {
                println!("{:<24} {:<8} {:<9} BUNDLE", "ID", "PID", "STATUS");
                for state in &states {
                    let (pid, status) = (state.pid().unwrap_or(0), state.status().to_string());
                    println!(
                        "{:<24} {pid:<8} {status:<9} {}",
                        state.id(),
                        state.bundle().display()
                    );
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Ps {
    pub(super) fn execute(&self, dir: &StateDir) -> anyhow::Result<ExitCode> {
        let pids: Vec<i32> = container::pids(dir, &self.id)?
            .iter()
            .map(|pid| pid.as_raw())
            .collect();
        match self.format {
            Format::Json => println!("{}", json!(pids)),
            Format::Table => {
                println!("{:<8} COMMAND", "PID");
                for pid in pids {
                    // Gone since the list was made: without a command.
                    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                    println!("{pid:<8} {}", command.replace('\0', " ").trim_end());
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

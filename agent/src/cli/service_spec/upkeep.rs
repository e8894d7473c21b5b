//! Flags of ours that become labels of the service: see [`proto::upkeep`].

use anyhow::Result;
use clap::Args;
use proto::spec::Labels;
use proto::upkeep::{self, Upkeep};

/// Flags that create and update share. `none` takes a setting back.
#[derive(Debug, Args)]
pub(super) struct UpkeepFlags {
    /// Let the delay between restarts double up to this (ns|us|ms|s|m|h, "none")
    #[arg(long)]
    restart_max_delay: Option<String>,
    /// Count a new task of an update as failed if it does not run after this time (ns|us|ms|s|m|h, "none")
    #[arg(long)]
    update_progress_deadline: Option<String>,
    /// Order on a drained node ("start-first", "stop-first", "none" to decide by the service)
    #[arg(long)]
    drain_order: Option<String>,
    /// How long a task of a drained node waits for its replacement (ns|us|ms|s|m|h, "none" for 60s)
    #[arg(long)]
    drain_deadline: Option<String>,
    /// Move tasks to nodes that have come ("on", "off")
    #[arg(long)]
    rebalance: Option<String>,
    /// Stop tasks on a node that is cut off from the managers for longer than this, and replace them only then
    /// (ns|us|ms|s|m|h, "none")
    #[arg(long)]
    fencing: Option<String>,
}

impl UpkeepFlags {
    pub(super) fn apply(&self, labels: &mut Labels) -> Result<()> {
        let said = [
            (upkeep::RESTART_MAX_DELAY, &self.restart_max_delay),
            (upkeep::PROGRESS_DEADLINE, &self.update_progress_deadline),
            (upkeep::DRAIN_ORDER, &self.drain_order),
            (upkeep::DRAIN_DEADLINE, &self.drain_deadline),
            (upkeep::REBALANCE, &self.rebalance),
            (upkeep::FENCING, &self.fencing),
        ];
        for (label, value) in said {
            match value.as_deref() {
                None => {}
                Some("none") => drop(labels.remove(label)),
                Some(value) => drop(labels.insert(label.to_owned(), value.to_owned())),
            }
        }
        Upkeep::read(labels)?;
        Ok(())
    }
}

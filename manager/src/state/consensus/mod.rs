//! Consensus behind [`Proposer`]: openraft agrees on change sets, a journal and a snapshot keep them.
//!
//! One manager is a group of one and takes the same path as many. Nothing ticks here: elections and heartbeats will be
//! triggered by a timer of our own when there are several managers (openraft 0.9 draws its election timeout once per
//! process and can split votes for ever); a group of one elects itself when it is opened.
//!
//! ```text
//! propose → openraft → Log (journal, fsync) → Machine → Replica
//!                        └ grown by 1 MiB ──→ compact: snapshot file, then openraft purges the journal
//! ```
//! Files in the directory: `journal` ([`journal`]), `snapshot` ([`snapshot`]).

mod journal;
mod log;
mod machine;
mod network;
mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::BoxFuture;
use openraft::error::{ClientWriteError, RaftError};
use openraft::{BasicNode, Raft, ServerState, SnapshotPolicy};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::object::StoreAction;
use super::proposer::{ProposeError, Proposer};
use super::replica::Replica;
use crate::files::{self, FileError};
use crate::vault::AtRest;
use log::Log;
use machine::Machine;

openraft::declare_raft_types!(
    /// What consensus is about.
    pub Types:
        D = ChangeSet,
        R = (),
        NodeId = u64,
        Node = BasicNode,
);

/// Bytes of JSON that one transaction may have.
const MAX_BYTES: usize = 3 << 19;
/// Room in the journal beside the change set itself: framing, votes, membership.
const HEADROOM: u64 = 64 << 10;
/// Journal entries kept behind a snapshot, for followers that are a little late.
const KEPT_ENTRIES: u64 = 100;

/// One transaction, as it is agreed upon.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChangeSet(Vec<StoreAction>);

/// Consensus could not be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ConsensusError {
    /// A file could not be worked with.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file is damaged in a place that no interrupted write explains.
    #[error("{path} is damaged at byte {offset}; restore the directory from a backup")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where.
        offset: u64,
    },
    /// The directory has a group already, or none.
    #[error("{path} {}", if *.exists { "already holds a cluster's state" } else { "holds no cluster's state" })]
    Directory {
        /// Which directory.
        path: PathBuf,
        /// Whether it has one.
        exists: bool,
    },
    /// openraft gave up.
    #[error("consensus stopped: {reason}")]
    Stopped {
        /// Why.
        reason: String,
    },
}

/// Who takes part, and where its files are.
#[derive(Debug, Clone)]
pub struct ConsensusConfig {
    /// The directory of journal and snapshot; made if missing.
    pub dir: PathBuf,
    /// This manager's number within the group. Never used again after it was removed.
    pub member: u64,
    /// `host:port` at which the other managers reach this one.
    pub address: String,
    /// Seals what is written to the directory.
    pub at_rest: AtRest,
}

/// One manager's part in consensus. It writes to the replica that it was opened with, and nobody else may.
pub struct Consensus {
    raft: Raft<Types>,
    log: Log,
    compaction: JoinHandle<()>,
}

impl Consensus {
    /// Begins a new group of one.
    ///
    /// # Errors
    /// [`ConsensusError::Directory`] if the directory has a group already, and those of the files.
    pub async fn create(config: &ConsensusConfig, replica: Replica) -> Result<Self, ConsensusError> {
        if Self::exists(&config.dir) {
            return Err(ConsensusError::Directory {
                path: config.dir.clone(),
                exists: true,
            });
        }
        let this = Self::start(config, replica).await?;
        let members = BTreeMap::from([(config.member, BasicNode::new(&config.address))]);
        this.raft.initialize(members).await.map_err(stopped)?;
        this.lead().await?;
        Ok(this)
    }

    /// Goes on with the group that the directory holds, up to the last change that was agreed upon.
    ///
    /// # Errors
    /// [`ConsensusError::Directory`] if the directory has no group, [`ConsensusError::Damaged`], and those of the files.
    pub async fn open(config: &ConsensusConfig, replica: Replica) -> Result<Self, ConsensusError> {
        if !Self::exists(&config.dir) {
            return Err(ConsensusError::Directory {
                path: config.dir.clone(),
                exists: false,
            });
        }
        let this = Self::start(config, replica).await?;
        this.lead().await?;
        Ok(this)
    }

    /// Whether the directory holds a group.
    pub fn exists(dir: &Path) -> bool {
        journal::path(dir).exists()
    }

    /// Stops. What was agreed upon stays on the disk.
    pub async fn shutdown(&self) {
        self.compaction.abort();
        // The only error is that the core has panicked: it is stopped all the same.
        let _ = self.raft.shutdown().await;
    }

    async fn start(config: &ConsensusConfig, replica: Replica) -> Result<Self, ConsensusError> {
        let (dir, at_rest) = (config.dir.clone(), config.at_rest.clone());
        let opened = tokio::task::spawn_blocking(move || {
            files::make_dir(&dir)?;
            let machine = Machine::open(&dir, &at_rest, replica)?;
            Ok::<_, ConsensusError>((Log::open(&dir, &at_rest)?, machine))
        });
        let (log, machine) = opened.await.map_err(stopped)??;
        let raft = Raft::new(
            config.member,
            raft_config()?,
            network::Nobody,
            log.clone(),
            machine.clone(),
        );
        let raft = raft.await.map_err(stopped)?;
        let compaction = tokio::spawn(compact_when_asked(raft.clone(), machine, log.grown()));
        Ok(Self {
            raft,
            log,
            compaction,
        })
    }

    /// Waits until this group of one leads and has applied all that it holds.
    async fn lead(&self) -> Result<(), ConsensusError> {
        let mut metrics = self.raft.metrics();
        if metrics.borrow_and_update().state == ServerState::Follower {
            self.raft.trigger().elect().await.map_err(stopped)?;
        }
        let ready = metrics.wait_for(|now| {
            let applied = now.last_applied.map(|id| id.index);
            now.running_state.is_err() || (now.state == ServerState::Leader && applied == now.last_log_index)
        });
        let state = ready.await.map_err(stopped)?.running_state.clone();
        state.map_err(stopped)
    }

    async fn write(&self, actions: Vec<StoreAction>) -> Result<u64, ProposeError> {
        let size = super::batch::size_of_json(&actions);
        if size > MAX_BYTES {
            return Err(ProposeError::TooLarge {
                size,
                limit: MAX_BYTES,
            });
        }
        // A full disk must be found out before openraft has the entry: it stops for good when it cannot write.
        self.log.reserve(size as u64 + HEADROOM).await?;
        let written = self.raft.client_write(ChangeSet(actions)).await;
        written
            .map(|response| response.log_id.index)
            .map_err(|error| match error {
                RaftError::APIError(ClientWriteError::ForwardToLeader(_)) => ProposeError::NotLeader,
                other => ProposeError::Stopped {
                    reason: other.to_string(),
                },
            })
    }
}

impl Proposer for Consensus {
    fn propose(&self, actions: Vec<StoreAction>) -> BoxFuture<'_, Result<u64, ProposeError>> {
        Box::pin(self.write(actions))
    }
}

impl std::fmt::Debug for Consensus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consensus").finish_non_exhaustive()
    }
}

/// The times are out of the way: nothing of openraft ticks.
fn raft_config() -> Result<Arc<openraft::Config>, ConsensusError> {
    let config = openraft::Config {
        cluster_name: "shoal".to_owned(),
        enable_tick: false,
        heartbeat_interval: 600_000,
        election_timeout_min: 1_800_000,
        election_timeout_max: 3_600_000,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: KEPT_ENTRIES,
        ..openraft::Config::default()
    };
    config.validate().map(Arc::new).map_err(stopped)
}

/// Writes a snapshot each time the journal has grown; then openraft takes it over and purges the journal.
async fn compact_when_asked(raft: Raft<Types>, machine: Machine, grown: Arc<Notify>) {
    loop {
        grown.notified().await;
        match machine.write_snapshot().await {
            Ok(()) => drop(raft.trigger().snapshot().await),
            // Nothing is lost: the journal still has it all, and asks again when it has grown further.
            Err(error) => tracing::warn!(error = files::chain(&error), "no snapshot of the cluster's state"),
        }
    }
}

fn stopped(error: impl std::fmt::Display) -> ConsensusError {
    ConsensusError::Stopped {
        reason: error.to_string(),
    }
}

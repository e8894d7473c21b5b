//! Consensus behind [`Proposer`]: openraft agrees on change sets, a journal and a snapshot keep them.
//!
//! One manager is a group of one and takes the same path as many. openraft's own timers are off: `election` keeps the time,
//! and says why.
//!
//! ```text
//! propose → openraft → Log (journal, fsync) → Machine → Replica
//!             │          └ grown by 1 MiB, or by the last snapshot ──→ compact: snapshot file, then openraft purges the journal
//!             └ Network → Transport ═══ another member's handle()
//! ```
//! - [`Consensus`]: one member; [`Leadership`]: who leads, to watch
//! - `election`, `peers`, `leadership`: signs of life, and who may lead
//! - `membership`: members come and go
//! - [`message`], `network`: what members say to each other, over a [`Transport`] that somebody else makes
//! - `rescue`: one member goes on alone with what it has
//! - `log`, `machine`: openraft's storage; files in the directory: `journal` ([`journal`]), `snapshot` ([`snapshot`])

mod change;
mod election;
#[cfg(test)]
mod group_tests;
mod journal;
mod leadership;
mod log;
mod machine;
mod member;
mod membership;
pub mod message;
mod network;
mod peers;
mod rescue;
mod snapshot;
#[cfg(test)]
mod tests;
mod timing;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use openraft::error::{ClientWriteError, RaftError};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use openraft::{Raft, ServerState, Snapshot, SnapshotPolicy};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::{Mutex, Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::object::StoreAction;
use super::proposer::{ProposeError, Proposer};
use super::replica::Replica;
use crate::disk;
use crate::files::{self, FileError};
use crate::vault::AtRest;
pub use change::{ChangeSet, Verdict};
use election::Driver;
pub use leadership::Leadership;
use log::Log;
use machine::Machine;
pub use member::Member;
pub use membership::{MemberState, MembershipError};
use message::{Ping, PreVote, Request, Response, SnapshotTransfer, Transport};
use network::Network;
use peers::Peers;
pub use timing::Timing;

openraft::declare_raft_types!(
    /// What consensus is about.
    pub Types:
        D = ChangeSet,
        R = Verdict,
        NodeId = u64,
        Node = Member,
);

/// Bytes of JSON that one transaction may have.
const MAX_BYTES: usize = 3 << 19;
/// Who has less room than this on its disk does not want to lead.
const ROOM: u64 = MAX_BYTES as u64 + HEADROOM;
/// Room in the journal beside the change set itself: framing, votes, membership.
const HEADROOM: u64 = 64 << 10;
/// Journal entries kept behind a snapshot, for followers that are a little late.
const KEPT_ENTRIES: u64 = 100;

/// How long a read waits until most members confirm that the leader still leads.
const CONFIRMATION: Duration = Duration::from_secs(3);
/// Between two attempts of that.
const BETWEEN_CONFIRMATIONS: Duration = Duration::from_millis(100);

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
#[derive(Clone)]
pub struct ConsensusConfig {
    /// The directory of journal and snapshot; made if missing.
    pub dir: PathBuf,
    /// This manager's number within the group. Never used again after it was removed.
    pub id: u64,
    /// Who it is.
    pub member: Member,
    /// The way to the other members.
    pub transport: Arc<dyn Transport>,
    /// How long members wait for each other.
    pub timing: Timing,
    /// Where the random numbers of elections begin; by chance where there is none.
    pub seed: Option<u64>,
    /// Seals what is written to the directory.
    pub at_rest: AtRest,
}

impl ConsensusConfig {
    /// A group that will never have other members.
    pub fn alone(dir: PathBuf, at_rest: AtRest) -> Self {
        Self {
            dir,
            id: 1,
            member: Member::default(),
            transport: Arc::new(message::Nowhere),
            timing: Timing::default(),
            seed: None,
            at_rest,
        }
    }
}

/// When the journal becomes a snapshot, and what is kept of those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compaction {
    /// Log entries between two snapshots; a journal that has grown much makes one earlier.
    pub interval: u64,
    /// Snapshots kept beside the last one.
    pub keep: u64,
}

impl Default for Compaction {
    /// As SwarmKit has it.
    fn default() -> Self {
        Self {
            interval: 10_000,
            keep: 0,
        }
    }
}

/// One manager's part in consensus. It writes to the replica that it was opened with, and nobody else may.
pub struct Consensus {
    raft: Raft<Types>,
    log: Log,
    peers: Arc<Peers>,
    timing: Timing,
    leadership: watch::Receiver<Leadership>,
    reachable: watch::Receiver<BTreeSet<u64>>,
    dismissed: watch::Receiver<bool>,
    /// One change of the membership at a time.
    changing: Mutex<()>,
    tasks: Vec<JoinHandle<()>>,
    machine: Machine,
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
        let members = BTreeMap::from([(config.id, config.member.clone())]);
        this.raft.initialize(members).await.map_err(stopped)?;
        this.lead().await?;
        Ok(this)
    }

    /// Goes on with the group that the directory holds. A group of one has then applied all that was agreed upon; a
    /// member of a larger one finds the others in its own time: see [`Consensus::leadership`].
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
        // The metrics say nothing before openraft has begun to work.
        let voters = this.raft.with_raft_state(|state| {
            let membership = state.membership_state.effective().membership();
            membership.voter_ids().collect::<Vec<_>>()
        });
        if voters.await.map_err(stopped)? == [config.id] {
            this.lead().await?;
        }
        Ok(this)
    }

    /// Makes ready to be added to a group by its leader. What an earlier attempt has received is kept.
    ///
    /// # Errors
    /// [`ConsensusError::Damaged`], and those of the files.
    pub async fn join(config: &ConsensusConfig, replica: Replica) -> Result<Self, ConsensusError> {
        Self::start(config, replica).await
    }

    /// Whether the directory holds a group.
    pub fn exists(dir: &Path) -> bool {
        journal::path(dir).exists()
    }

    /// Who leads.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// Changes when members come, go, or begin or cease to answer this leader.
    pub fn reachable(&self) -> watch::Receiver<BTreeSet<u64>> {
        self.reachable.clone()
    }

    /// Waits until this member takes part in decisions, and has applied the entry that says so.
    ///
    /// # Errors
    /// [`ConsensusError::Stopped`].
    pub async fn takes_part(&self) -> Result<(), ConsensusError> {
        let mut metrics = self.raft.metrics();
        let added = metrics.wait_for(|now| {
            let config = &now.membership_config;
            let votes = config.membership().voter_ids().any(|id| id == now.id);
            now.running_state.is_err() || (votes && now.last_applied >= *config.log_id())
        });
        let state = added.await.map_err(stopped)?.running_state.clone();
        state.map_err(stopped)
    }

    /// Waits until the group goes on without this member. To be asked once the member takes part.
    pub async fn is_left_out(&self) {
        let (mut metrics, mut dismissed) = (self.raft.metrics(), self.dismissed.clone());
        let agreed = metrics.wait_for(|now| {
            let config = &now.membership_config;
            config.log_id().is_some() && config.nodes().all(|(&id, _)| id != now.id)
        });
        let out = tokio::select! {
            out = agreed => out.is_ok(),
            out = dismissed.wait_for(|dismissed| *dismissed) => out.is_ok(),
        };
        // Without a sender consensus has stopped; nobody has said that the member is out.
        if !out {
            std::future::pending().await
        }
    }

    /// Returns when this member leads and a majority has just confirmed it: what is read afterwards holds everything that
    /// was agreed upon before the call.
    ///
    /// # Errors
    /// [`ProposeError::NotLeader`].
    pub async fn confirm(&self) -> Result<(), ProposeError> {
        let confirmed = timeout(CONFIRMATION, self.confirm_while_leading()).await;
        confirmed.unwrap_or(Err(ProposeError::NotLeader))
    }

    /// openraft asks the others once, and waits for less than its lease: that a busy machine was slower does not depose a
    /// leader.
    async fn confirm_while_leading(&self) -> Result<(), ProposeError> {
        let mut leadership = self.leadership.clone();
        while leadership.borrow_and_update().term().is_some() {
            if self.raft.ensure_linearizable().await.is_ok() {
                return Ok(());
            }
            // At once, if it does not lead any more.
            let _ = timeout(BETWEEN_CONFIRMATIONS, leadership.changed()).await;
        }
        Err(ProposeError::NotLeader)
    }

    /// Answers another member. Who asks must be one: that is for the caller to know.
    ///
    /// # Errors
    /// [`ConsensusError::Stopped`].
    pub async fn handle(&self, request: Request) -> Result<Response, ConsensusError> {
        Ok(match request {
            Request::Append(entries) => {
                self.make_room(&entries).await?;
                let answer = self.raft.append_entries(entries).await.map_err(stopped)?;
                if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
                    self.peers.leader_spoke();
                }
                Response::Append(answer)
            }
            Request::Vote(vote) => Response::Vote(self.raft.vote(vote).await.map_err(stopped)?),
            Request::PreVote(question) => Response::PreVote(self.would_vote(question)),
            Request::Ping(ping) => Response::Ping(self.hear(ping)),
            Request::Snapshot(transfer) => self.receive(transfer).await?,
        })
    }

    /// From the next entry on, and the next snapshot.
    pub fn compact_as(&self, compaction: Compaction) {
        self.log.set_interval(compaction.interval);
        self.machine.set_keep(compaction.keep);
    }

    /// Stops. What was agreed upon stays on the disk.
    pub async fn shutdown(&self) {
        // The only error is that the core has panicked: it is stopped all the same.
        let _ = self.raft.shutdown().await;
        for task in &self.tasks {
            task.abort();
        }
    }

    async fn start(config: &ConsensusConfig, replica: Replica) -> Result<Self, ConsensusError> {
        let (dir, at_rest) = (config.dir.clone(), config.at_rest.clone());
        let opened = disk::work(&config.dir, move || {
            files::make_dir(&dir)?;
            let machine = Machine::open(&dir, &at_rest, replica)?;
            Ok::<_, ConsensusError>((Log::open(&dir, &at_rest, machine.kept())?, machine))
        });
        let (log, machine) = opened.await.map_err(stopped)??;
        let peers = Arc::new(Peers::new());
        let network = Network {
            transport: config.transport.clone(),
            peers: peers.clone(),
        };
        let settings = raft_config(&config.timing)?;
        let raft = Raft::new(config.id, settings, network, log.clone(), machine.clone());
        let raft = raft.await.map_err(stopped)?;
        let (published, leadership) = watch::channel(Leadership::Unknown);
        let (dismiss, dismissed) = watch::channel(false);
        let (told, reachable) = watch::channel(BTreeSet::new());
        let driver = Driver {
            raft: raft.clone(),
            peers: peers.clone(),
            transport: config.transport.clone(),
            log: log.clone(),
            timing: config.timing.clone(),
            rng: config
                .seed
                .map_or_else(StdRng::from_os_rng, StdRng::seed_from_u64),
            leadership: published,
            reachable: told,
            dismissed: dismiss,
        };
        let compaction = compact_when_asked(raft.clone(), machine.clone(), log.grown());
        Ok(Self {
            raft,
            log,
            peers,
            timing: config.timing.clone(),
            leadership,
            reachable,
            dismissed,
            changing: Mutex::default(),
            tasks: vec![tokio::spawn(driver.run()), tokio::spawn(compaction)],
            machine,
        })
    }

    /// Waits until this group of one leads and has applied all that it holds.
    async fn lead(&self) -> Result<(), ConsensusError> {
        let mut metrics = self.raft.metrics();
        let mut leadership = self.leadership.clone();
        tokio::select! {
            biased;
            led = leadership.wait_for(|seen| seen.term().is_some()) => led.map(drop).map_err(stopped),
            failed = metrics.wait_for(|now| now.running_state.is_err()) => {
                let state = failed.map_err(stopped)?.running_state.clone();
                state.map_err(stopped)
            }
        }
    }

    /// openraft stops for good when it cannot write: what there is no room for is not taken.
    async fn make_room(&self, request: &AppendEntriesRequest<Types>) -> Result<(), ConsensusError> {
        if request.entries.is_empty() {
            return Ok(());
        }
        let size = super::batch::size_of_json(&request.entries) as u64;
        self.log.reserve(size + HEADROOM).await.map_err(stopped)
    }

    /// Whether a candidate would get this member's vote. Who follows a leader that lives, or is one, helps nobody else.
    fn would_vote(&self, question: PreVote) -> bool {
        let metrics = self.raft.metrics().borrow().clone();
        let leads = metrics.state == ServerState::Leader && !self.peers.is_muted();
        let membership = metrics.membership_config.membership();
        let mut voters = membership.voter_ids();
        if leads || self.peers.has_leader(self.timing.lease) || voters.all(|id| id != question.candidate) {
            return false;
        }
        question.last_log_id >= self.log.last()
    }

    /// Whether the ping's leader is this member's, too.
    fn hear(&self, ping: Ping) -> bool {
        let term = self.raft.metrics().borrow().current_term;
        // A leader of a later term has been elected, even if this member does not know yet.
        let is_leader = ping.term > 0 && ping.term >= term && ping.leader != self.raft.metrics().borrow().id;
        if is_leader {
            self.peers.leader_spoke();
        }
        is_leader
    }

    async fn receive(&self, transfer: SnapshotTransfer) -> Result<Response, ConsensusError> {
        self.peers.leader_spoke();
        let data = Arc::unwrap_or_clone(transfer.data);
        let snapshot = Snapshot {
            meta: transfer.meta,
            snapshot: Box::new(Cursor::new(data)),
        };
        let answer = self.raft.install_full_snapshot(transfer.vote, snapshot).await;
        Ok(Response::Snapshot(answer.map_err(stopped)?))
    }

    async fn write(&self, term: u64, actions: Vec<StoreAction>) -> Result<u64, ProposeError> {
        let size = super::batch::size_of_json(&actions);
        if size > MAX_BYTES {
            return Err(ProposeError::TooLarge {
                size,
                limit: MAX_BYTES,
            });
        }
        let mut leadership = self.leadership.clone();
        if leadership.borrow().term().is_none() {
            return Err(ProposeError::NotLeader);
        }
        // A full disk must be found out before openraft has the entry: it stops for good when it cannot write.
        let room = self.log.reserve(size as u64 + HEADROOM).await;
        if let Err(ProposeError::DiskFull { .. }) = &room {
            self.peers.give_up();
        }
        room?;
        // Whether it counts is for the state machine to say: the term may be another at any moment until it gets there.
        let change = ChangeSet::new(term, actions);
        tokio::select! {
            biased;
            written = self.raft.client_write(change) => settle(written),
            // The entry is in the log of a leader that is none any more: others decide what becomes of it.
            _ = leadership.wait_for(|seen| seen.term() != Some(term)) => Err(ProposeError::Unknown),
        }
    }
}

type Written =
    Result<openraft::raft::ClientWriteResponse<Types>, RaftError<u64, ClientWriteError<u64, Member>>>;

fn settle(written: Written) -> Result<u64, ProposeError> {
    match written {
        Ok(response) if response.data == Verdict::Applied => Ok(response.log_id.index),
        Ok(_) => Err(ProposeError::NotLeader),
        // It is said of an entry that was taken out of this log, too; another member may still have it.
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Err(ProposeError::Unknown),
        Err(other) => Err(ProposeError::Stopped {
            reason: other.to_string(),
        }),
    }
}

impl Drop for Consensus {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Proposer for Consensus {
    fn term(&self) -> Option<u64> {
        self.leadership.borrow().term()
    }

    fn propose(&self, term: u64, actions: Vec<StoreAction>) -> BoxFuture<'_, Result<u64, ProposeError>> {
        Box::pin(self.write(term, actions))
    }

    fn confirmed_ago(&self) -> Option<Duration> {
        leadership::confirmed_ago(&self.raft.metrics().borrow(), &self.peers)
    }
}

impl std::fmt::Debug for ConsensusConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ConsensusConfig")
            .field("dir", &self.dir)
            .field("id", &self.id)
            .field("member", &self.member)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Consensus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consensus").finish_non_exhaustive()
    }
}

/// openraft's timers are off, but it takes its time limits from their settings: an append may take one heartbeat interval,
/// and who has heard of a leader does not vote for another within the largest election timeout.
fn raft_config(timing: &Timing) -> Result<Arc<openraft::Config>, ConsensusError> {
    let lease = u64::try_from(timing.lease.as_millis())
        .unwrap_or(u64::MAX)
        .max(20);
    let config = openraft::Config {
        cluster_name: "shoal".to_owned(),
        enable_tick: false,
        heartbeat_interval: lease - 10,
        election_timeout_min: lease - 5,
        election_timeout_max: lease,
        install_snapshot_timeout: 60_000,
        max_payload_entries: 1000,
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
            Ok(_) => drop(raft.trigger().snapshot().await),
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

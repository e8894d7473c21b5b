//! openraft 0.9 as a member: its storage on a disk that forgets, its network over the world's links, and our own timer.

mod storage;
mod timer;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use openraft::error::{
    ClientWriteError, InstallSnapshotError, RPCError, RaftError, RemoteError, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{AnyError, BasicNode, LogId, Raft, ServerState, SnapshotPolicy};
use tokio::time::{Instant, sleep};

use crate::cluster::{Engine, Node, Status, Written};
use crate::world::{Id, Life, World};
use storage::{Disk, Log, Machine};

openraft::declare_raft_types!(
    pub Types:
        D = u64,
        R = (),
        NodeId = u64,
        Node = BasicNode,
);

pub(crate) const HEARTBEAT: u64 = 150;
/// openraft's leader lease is the longest election timeout.
pub(crate) const LEASE: u64 = 500;

/// How openraft is driven.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Elections and heartbeats by a timer of ours.
    pub own_timer: bool,
    pub pre_vote: bool,
    /// A leader that hears nothing from a quorum gives up.
    pub quorum: bool,
    /// openraft's ticks run, without elections: they let a removed leader step down.
    pub ticks: bool,
    /// The log is purged only when the snapshot is safe.
    pub patient_purge: bool,
}

impl Rules {
    pub const GOOD: Self = Self {
        own_timer: true,
        pre_vote: true,
        quorum: true,
        ticks: true,
        patient_purge: true,
    };
    pub const STOCK: Self = Self {
        own_timer: false,
        pre_vote: false,
        quorum: false,
        ..Self::GOOD
    };
    pub const NO_PREVOTE: Self = Self {
        pre_vote: false,
        ..Self::GOOD
    };
    pub const NO_QUORUM_CHECK: Self = Self {
        quorum: false,
        ..Self::GOOD
    };
    pub const NO_TICKS: Self = Self {
        ticks: false,
        ..Self::GOOD
    };
    pub const HASTY_PURGE: Self = Self {
        patient_purge: false,
        ..Self::GOOD
    };
}

type Members = Arc<Mutex<BTreeMap<Id, Arc<Member>>>>;

pub struct OpenRaft {
    rules: Rules,
    disks: Mutex<BTreeMap<Id, Disk>>,
    members: Members,
}

impl OpenRaft {
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            disks: Mutex::default(),
            members: Arc::default(),
        }
    }
}

impl Engine for OpenRaft {
    fn start(&self, world: &World, life: Life, founder: bool) -> BoxFuture<'static, Arc<dyn Node>> {
        let disk = self.disks.lock().unwrap().entry(life.id).or_default().clone();
        let (rules, world, members) = (self.rules, world.clone(), self.members.clone());
        async move {
            let empty = disk.is_empty();
            let log = Log::open(&world, life, &disk, rules.patient_purge);
            let machine = Machine::open(&world, life, &disk);
            let network = Network {
                world: world.clone(),
                life,
                members: members.clone(),
            };
            let config = Arc::new(config(rules).validate().expect("a good configuration"));
            let started = Raft::new(life.id, config, network, log, machine.clone()).await;
            let (raft, dead) = match started {
                Ok(raft) => (Some(raft), None),
                Err(fatal) => (None, Some(fatal.to_string())),
            };
            if let (true, true, Some(raft)) = (founder, empty, &raft) {
                let _ = raft
                    .initialize(BTreeMap::from([(life.id, BasicNode::default())]))
                    .await;
            }
            let member = Arc::new(Member {
                world,
                life,
                raft,
                dead,
                machine,
                heard: Mutex::new(None),
                stopped: AtomicBool::new(false),
                elections: AtomicU64::new(0),
            });
            members.lock().unwrap().insert(life.id, member.clone());
            timer::begin(member.clone(), rules, members);
            member as Arc<dyn Node>
        }
        .boxed()
    }
}

#[allow(deprecated)]
fn config(rules: Rules) -> openraft::Config {
    let (min, max) = if rules.own_timer {
        (LEASE - 100, LEASE)
    } else {
        (600, 1200)
    };
    openraft::Config {
        cluster_name: "engines".into(),
        heartbeat_interval: HEARTBEAT,
        election_timeout_min: min,
        election_timeout_max: max,
        install_snapshot_timeout: 10_000,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: 5,
        snapshot_max_chunk_size: 256,
        enable_tick: rules.ticks,
        enable_heartbeat: !rules.own_timer,
        enable_elect: !rules.own_timer,
        ..openraft::Config::default()
    }
}

/// One life of one member.
pub(crate) struct Member {
    pub(crate) world: World,
    pub(crate) life: Life,
    pub(crate) raft: Option<Raft<Types>>,
    dead: Option<String>,
    machine: Machine,
    /// When a leader was last heard.
    pub(crate) heard: Mutex<Option<Instant>>,
    pub(crate) stopped: AtomicBool,
    pub(crate) elections: AtomicU64,
}

impl Member {
    pub(crate) fn metrics(&self) -> Option<openraft::RaftMetrics<u64, BasicNode>> {
        Some(self.raft.as_ref()?.metrics().borrow().clone())
    }

    /// Whether this member would vote for a candidate with such a log, without changing anything.
    pub(crate) fn would_vote(&self, last: Option<LogId<u64>>) -> bool {
        let Some(metrics) = self.metrics() else {
            return false;
        };
        let heard = *self.heard.lock().unwrap();
        let fresh = heard.is_some_and(|at| at.elapsed() < Duration::from_millis(LEASE));
        let leads = metrics.state == ServerState::Leader;
        !fresh && !leads && last >= self.machine.last_log()
    }

    fn hears(&self) {
        *self.heard.lock().unwrap() = Some(Instant::now());
    }
}

impl Node for Member {
    fn status(&self) -> Status {
        let Some(metrics) = self.metrics() else {
            return Status {
                dead: self.dead.clone(),
                ..Status::default()
            };
        };
        Status {
            term: metrics.current_term,
            leads: metrics.state == ServerState::Leader,
            applied: metrics.last_applied.map_or(0, |id| id.index),
            voters: metrics.membership_config.voter_ids().collect(),
            dead: metrics.running_state.err().map(|fatal| fatal.to_string()),
        }
    }

    fn write(&self, value: u64) -> BoxFuture<'static, Written> {
        let raft = self.raft.clone();
        async move {
            let Some(raft) = raft else { return Written::Refused };
            match raft.client_write(value).await {
                Ok(_) => Written::Acked,
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => Written::Refused,
                Err(_) => Written::Unknown,
            }
        }
        .boxed()
    }

    fn change(&self, voters: BTreeSet<Id>) -> BoxFuture<'static, bool> {
        let raft = self.raft.clone();
        async move {
            let Some(raft) = raft else { return false };
            let known: BTreeSet<Id> = raft
                .metrics()
                .borrow()
                .membership_config
                .nodes()
                .map(|(id, _)| *id)
                .collect();
            for id in voters.difference(&known) {
                if raft.add_learner(*id, BasicNode::default(), false).await.is_err() {
                    return false;
                }
                caught_up(&raft, *id).await;
            }
            raft.change_membership(voters, false).await.is_ok()
        }
        .boxed()
    }

    fn compact(&self) {
        if let Some(raft) = self.raft.clone() {
            tokio::spawn(async move { raft.trigger().snapshot().await });
        }
    }

    fn state(&self) -> Vec<u64> {
        self.machine.values()
    }

    fn kill(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        if let Some(raft) = self.raft.clone() {
            tokio::spawn(async move { raft.shutdown().await });
        }
    }
}

/// Waits until a learner has almost all that the leader has; at most two seconds.
async fn caught_up(raft: &Raft<Types>, id: Id) {
    for _ in 0..40 {
        let metrics = raft.metrics().borrow().clone();
        let theirs = metrics.replication.as_ref().and_then(|all| *all.get(&id)?);
        if theirs.map_or(0, |id| id.index) + 5 >= metrics.last_log_index.unwrap_or(0) {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// The links of one member.
#[derive(Clone)]
struct Network {
    world: World,
    life: Life,
    members: Members,
}

struct Link {
    network: Network,
    to: Id,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, to: u64, _node: &BasicNode) -> Link {
        Link {
            network: self.clone(),
            to,
        }
    }
}

type Answer<T, E = RaftError<u64>> = Result<T, RPCError<u64, BasicNode, E>>;

impl Link {
    async fn call<T, E, F>(&self, serve: impl Fn(Arc<Member>, Raft<Types>) -> F + Clone) -> Answer<T, E>
    where
        T: Send + 'static,
        E: std::error::Error + Send + 'static,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let (members, to) = (self.network.members.clone(), self.to);
        let serve = move || {
            let member = members.lock().unwrap().get(&to).cloned();
            let called = member.and_then(|member| Some(serve(member.clone(), member.raft.clone()?)));
            async move { Some(called?.await) }
        };
        match self.network.world.call(self.network.life, to, serve).await {
            Ok(Some(Ok(answer))) => Ok(answer),
            Ok(Some(Err(error))) => Err(RPCError::RemoteError(RemoteError::new(to, error))),
            Ok(None) | Err(_) => Err(RPCError::Unreachable(Unreachable::new(&AnyError::error(
                "refused",
            )))),
        }
    }
}

impl RaftNetwork<Types> for Link {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Answer<AppendEntriesResponse<u64>> {
        self.call(move |member, raft| {
            let request = request.clone();
            async move {
                let answer = raft.append_entries(request).await?;
                if !matches!(answer, AppendEntriesResponse::HigherVote(_)) {
                    member.hears();
                }
                Ok(answer)
            }
        })
        .await
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<Types>,
        _option: RPCOption,
    ) -> Answer<InstallSnapshotResponse<u64>, RaftError<u64, InstallSnapshotError>> {
        self.call(move |member, raft| {
            let request = request.clone();
            async move {
                let vote = request.vote;
                let answer = raft.install_snapshot(request).await?;
                if answer.vote <= vote {
                    member.hears();
                }
                Ok(answer)
            }
        })
        .await
    }

    async fn vote(&mut self, request: VoteRequest<u64>, _option: RPCOption) -> Answer<VoteResponse<u64>> {
        self.call(move |_, raft| {
            let request = request.clone();
            async move { raft.vote(request).await }
        })
        .await
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(Duration::from_millis(HEARTBEAT)))
    }
}

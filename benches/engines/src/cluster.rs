//! What the harness wants of an engine, and the group of members that the cases play with.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::{sleep, timeout};

use crate::world::{Id, Life, World};

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    Acked,
    /// It was not taken.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// What a member says of itself.
#[derive(Debug, Clone, Default)]
pub struct Status {
    pub term: u64,
    pub leads: bool,
    pub applied: u64,
    pub voters: BTreeSet<Id>,
    /// It has given up for good.
    pub dead: Option<String>,
}

/// One life of one member.
pub trait Node: Send + Sync {
    fn status(&self) -> Status;
    fn write(&self, value: u64) -> BoxFuture<'static, Written>;
    /// Makes these the voters. True once it is agreed upon; may be asked again after a failure.
    fn change(&self, voters: BTreeSet<Id>) -> BoxFuture<'static, bool>;
    /// Makes a snapshot and forgets most of the log.
    fn compact(&self);
    fn state(&self) -> Vec<u64>;
    /// The process is gone from one instant to the next.
    fn kill(&self);
}

/// Starts members. What survives a crash is kept inside, by member.
pub trait Engine: Send + Sync {
    /// Starts a process on the member's disk; the founder of an empty disk begins the group.
    fn start(&self, world: &World, life: Life, founder: bool) -> BoxFuture<'static, Arc<dyn Node>>;
}

/// The members that run.
#[derive(Clone)]
pub struct Cluster {
    pub world: World,
    engine: Arc<dyn Engine>,
    nodes: Arc<Mutex<BTreeMap<Id, Arc<dyn Node>>>>,
}

impl Cluster {
    pub fn new(world: World, engine: Box<dyn Engine>) -> Self {
        Self {
            world,
            engine: engine.into(),
            nodes: Arc::default(),
        }
    }

    pub async fn start(&self, id: Id) {
        let life = self.world.born(id);
        self.world.note(format_args!("start {id}"));
        let node = self.engine.start(&self.world, life, id == 1).await;
        self.nodes.lock().unwrap().insert(id, node);
    }

    pub fn kill(&self, id: Id) {
        self.world.note(format_args!("kill {id}"));
        self.world.die(id);
        if let Some(node) = self.nodes.lock().unwrap().remove(&id) {
            node.kill();
        }
    }

    pub fn nodes(&self) -> Vec<(Id, Arc<dyn Node>)> {
        self.nodes
            .lock()
            .unwrap()
            .iter()
            .map(|(id, node)| (*id, node.clone()))
            .collect()
    }

    pub fn node(&self, id: Id) -> Option<Arc<dyn Node>> {
        self.nodes.lock().unwrap().get(&id).cloned()
    }

    /// Who leads, by the highest term.
    pub fn leader(&self) -> Option<Id> {
        let leading = self.nodes().into_iter().map(|(id, node)| (node.status(), id));
        let leading = leading.filter(|(status, _)| status.leads);
        leading.max_by_key(|(status, _)| status.term).map(|(_, id)| id)
    }

    /// Waits for a leader; none after 20 s is a violation.
    pub async fn wait_leader(&self) -> Option<Id> {
        for _ in 0..400 {
            if let Some(id) = self.leader() {
                return Some(id);
            }
            sleep(Duration::from_millis(50)).await;
        }
        self.world
            .violation("no leader: for 20 s while nothing was wrong".into());
        None
    }

    /// Asks leaders until these are the voters. False after `within` seconds.
    pub async fn become_voters(&self, voters: &[Id], within: u64) -> bool {
        let voters: BTreeSet<Id> = voters.iter().copied().collect();
        self.world.note(format_args!("voters shall be {voters:?}"));
        let attempt = async {
            loop {
                if let Some(node) = self.leader().and_then(|id| self.node(id)) {
                    let changed = timeout(Duration::from_secs(5), node.change(voters.clone())).await;
                    if changed == Ok(true) {
                        return;
                    }
                }
                sleep(Duration::from_millis(200)).await;
            }
        };
        let done = timeout(Duration::from_secs(within), attempt).await.is_ok();
        self.world.note(format_args!("voters {voters:?}: {done}"));
        done
    }

    /// One write, tried at whoever leads. True if it was acknowledged.
    pub async fn write(&self, value: u64) -> Written {
        let Some((id, node)) = self.leader().and_then(|id| Some((id, self.node(id)?))) else {
            return Written::Refused;
        };
        let written = timeout(Duration::from_secs(2), node.write(value))
            .await
            .unwrap_or(Written::Unknown);
        self.world
            .note(format_args!("write {value} at {id}: {written:?}"));
        if written == Written::Acked {
            self.world.oracle().acknowledged(value, self.world.now());
        }
        written
    }

    /// Writes without end, some at a time.
    pub async fn keep_writing(self, first: u64, pause: u64) {
        for value in first.. {
            if self.write(value).await != Written::Acked {
                sleep(Duration::from_millis(100)).await;
            }
            sleep(Duration::from_millis(self.world.draw(1..pause + 1))).await;
        }
    }
}

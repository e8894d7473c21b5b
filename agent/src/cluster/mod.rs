//! This node's part in a cluster: none, or a manager with a worker beside it.
//!
//! Owns the manager's and the worker's lifetimes: both start together (at start of the daemon, or by `swarm init`) and end
//! together (`swarm leave`, or the end of the daemon, which stops no container).

mod address;
mod description;
mod events;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use manager::{Control, InitRequest, Manager, ManagerConfig, ManagerError};
use netd::Netd;
use proto::NodeId;
use tokio::sync::{Mutex, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::engine::Engine;
use crate::host::HostFacts;
use crate::worker::{self, Worker, WorkerConfig};

pub use address::{AddressError, advertise};

/// How long a task that was taken out of its service may still answer what had been sent to it.
const DRAIN: Duration = Duration::from_millis(250);

/// What a cluster membership is made of.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// Where the manager keeps its state.
    pub state_dir: PathBuf,
    /// Facts about the machine.
    pub host: HostFacts,
    /// Makes and runs containers.
    pub engine: Arc<Engine>,
    /// The node's network.
    pub netd: Arc<Netd>,
}

/// This node's part in a cluster.
#[derive(Debug)]
pub struct Cluster {
    config: ClusterConfig,
    /// One change of membership at a time; holds what ends with it.
    membership: Mutex<Option<Membership>>,
    /// The manager while there is one, for readers.
    manager: watch::Sender<Option<Arc<Manager>>>,
}

#[derive(Debug)]
struct Membership {
    worker: Worker,
    events: AbortOnDropHandle<()>,
}

/// Why the membership could not change.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// There is a cluster already.
    #[error(
        "This node is already part of a swarm. Use \"docker swarm leave\" to leave this swarm and join another one."
    )]
    AlreadyMember,
    /// There is no cluster to leave.
    #[error("This node is not part of a swarm")]
    NotMember,
    /// The manager refused or failed.
    #[error(transparent)]
    Manager(#[from] ManagerError),
}

impl Cluster {
    /// Takes up the membership that an earlier process of this agent had, if any.
    pub async fn open(config: ClusterConfig) -> Result<Arc<Self>, ClusterError> {
        let cluster = Arc::new(Self {
            config,
            membership: Mutex::default(),
            manager: watch::Sender::new(None),
        });
        if Manager::exists(&cluster.config.state_dir) {
            let manager = Manager::open(cluster.manager_config().await).await?;
            cluster.begin(manager).await;
        } else {
            worker::clean_up(cluster.config.engine.clone(), cluster.config.netd.clone()).await;
        }
        Ok(cluster)
    }

    /// The manager on this node, if there is one.
    pub fn manager(&self) -> Option<Arc<Manager>> {
        self.manager.borrow().clone()
    }

    /// Operations on the cluster's objects, if this node is a manager.
    pub fn control(&self) -> Option<Control> {
        self.manager().map(|manager| manager.control())
    }

    /// Makes a new cluster of this one node.
    pub async fn init(&self, request: InitRequest) -> Result<NodeId, ClusterError> {
        let mut membership = self.membership.lock().await;
        if membership.is_some() {
            return Err(ClusterError::AlreadyMember);
        }
        let manager = Manager::init(self.manager_config().await, request).await?;
        let node_id = manager.node_id().clone();
        *membership = Some(self.start(&manager));
        self.manager.send_replace(Some(manager));
        Ok(node_id)
    }

    /// Leaves the cluster: every task, service and cluster network of this node goes with it. Volumes stay.
    pub async fn leave(&self, force: bool) -> Result<(), ClusterError> {
        let mut membership = self.membership.lock().await;
        let manager = self.manager().ok_or(ClusterError::NotMember)?;
        manager.leave(force).await?;
        self.manager.send_replace(None);
        if let Some(Membership { worker, events }) = membership.take() {
            drop(events);
            worker.leave().await;
        }
        Ok(())
    }

    /// The daemon ends: the manager closes its files, containers keep running.
    pub async fn shut_down(&self) {
        self.membership.lock().await.take();
        let manager = self.manager.send_replace(None);
        if let Some(manager) = manager {
            manager.shutdown().await;
        }
    }

    async fn begin(&self, manager: Arc<Manager>) {
        *self.membership.lock().await = Some(self.start(&manager));
        self.manager.send_replace(Some(manager));
    }

    fn start(&self, manager: &Arc<Manager>) -> Membership {
        let ClusterConfig { engine, netd, .. } = &self.config;
        let worker = Worker::start(WorkerConfig {
            node_id: manager.node_id().clone(),
            description: manager.description().clone(),
            engine: engine.clone(),
            netd: netd.clone(),
            dispatcher: manager.dispatcher(),
            drain: DRAIN,
        });
        let events = events::forward(manager.store().clone(), engine.clone());
        let events = AbortOnDropHandle::new(tokio::spawn(events));
        Membership { worker, events }
    }

    async fn manager_config(&self) -> ManagerConfig {
        ManagerConfig {
            state_dir: self.config.state_dir.clone(),
            description: description::of(&self.config.host, &self.config.netd).await,
        }
    }
}

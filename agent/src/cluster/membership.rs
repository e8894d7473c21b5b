//! What begins and ends together with this node's part in a cluster.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use manager::Manager;
use manager::remote::{self, Joined, NodeChannel, RemoteManager, Remotes};
use proto::NodeId;
use proto::object::{DataPath, NodeDescription};
use proto::spec::NodeRole;
use proto::wire::dispatcher_client::DispatcherClient;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::{ClusterConfig, ClusterError, Named, data_path, events, subnets};
use crate::api::error::chain;
use crate::peer;
use crate::worker::{Worker, WorkerConfig};

/// How long a task that was taken out of its service may still answer what had been sent to it.
const DRAIN: Duration = Duration::from_millis(250);

/// This node's part in a cluster, for readers.
#[derive(Debug, Clone, Default)]
pub enum Part {
    /// None.
    #[default]
    None,
    /// A manager, with a worker beside it.
    Manager(Arc<Manager>),
    /// A worker of managers elsewhere.
    Worker(Arc<WorkerPart>),
    /// A manager whose keys are not here: its containers run on, and nothing else of it does.
    Locked,
}

/// A worker's view of its cluster.
#[derive(Debug)]
pub struct WorkerPart {
    joined: Joined,
    address: IpAddr,
    remotes: Remotes,
    trouble: watch::Receiver<String>,
    role: watch::Receiver<Option<NodeRole>>,
}

impl WorkerPart {
    /// Waits until the managers want this node to be one of them.
    pub(super) async fn is_promoted(&self) {
        let mut role = self.role.clone();
        // Without a sender the worker has ended.
        if role
            .wait_for(|role| *role == Some(NodeRole::Manager))
            .await
            .is_err()
        {
            std::future::pending().await
        }
    }

    /// The node that this is.
    pub fn node(&self) -> &NodeId {
        &self.joined.node
    }

    /// The managers that are known.
    pub fn managers(&self) -> Vec<RemoteManager> {
        self.remotes.managers()
    }

    /// The address that its user has named, or from which it reached its manager.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Why there is no session with a manager at the moment; empty while there is one.
    pub fn trouble(&self) -> String {
        self.trouble.borrow().clone()
    }
}

/// What lives as long as this node's part in a cluster. Dropping it stops no container.
#[derive(Debug)]
pub(super) struct Membership {
    part: Part,
    worker: Worker,
    _following: Following,
    /// A manager's events.
    _events: Option<AbortOnDropHandle<()>>,
    /// The port between nodes.
    port: peer::Membership,
}

impl Membership {
    /// A worker beside a manager.
    pub(super) async fn manager(config: &ClusterConfig, manager: Arc<Manager>, port: peer::Bound) -> Self {
        let port = config.peers.begin(port, manager.credentials());
        let description = manager.description().clone();
        let seen = manager
            .advertise_addr()
            .parse()
            .ok()
            .map(|address: SocketAddr| address.ip());
        let named = Named::load(&config.state_dir);
        let (facts, following) = follow(config, named, seen).await;
        let dispatcher = manager.dispatcher();
        let worker = work(config, manager.node_id(), description, facts, dispatcher);
        let events = events::forward(manager.store().clone(), config.engine.clone());
        Self {
            part: Part::Manager(manager),
            worker,
            _following: following,
            _events: Some(AbortOnDropHandle::new(tokio::spawn(events))),
            port,
        }
    }

    /// A worker alone. It need not reach a manager now.
    pub(super) async fn worker(
        config: &ClusterConfig,
        joined: Joined,
        description: NodeDescription,
        port: peer::Bound,
    ) -> Result<Self, ClusterError> {
        let (dispatcher, remotes) = remote::dispatcher(&config.state_dir)?;
        let port = config.peers.begin(port, remotes.credentials());
        let named = Named::load(&config.state_dir);
        let address = named.advertised.unwrap_or(joined.address);
        let (facts, following) = follow(config, named, Some(address)).await;
        let worker = work(config, &joined.node, description, facts, dispatcher);
        let part = WorkerPart {
            joined,
            address,
            remotes,
            trouble: worker.trouble(),
            role: worker.role(),
        };
        Ok(Self {
            part: Part::Worker(Arc::new(part)),
            worker,
            _following: following,
            _events: None,
            port,
        })
    }

    /// The part for readers.
    pub(super) fn part(&self) -> Part {
        self.part.clone()
    }

    /// The cluster is told that this node goes, and what makes it a part of the cluster is removed.
    pub(super) async fn resign(&self, state_dir: &Path, force: bool) -> Result<(), ClusterError> {
        if let Part::Manager(manager) = &self.part {
            return Ok(manager.leave(force).await?);
        }
        // Registering once more would make the node ready again.
        self.worker.fall_silent();
        if let Err(error) = remote::leave(state_dir).await {
            tracing::info!(
                "the managers were not told that this node leaves: {}",
                chain(&error)
            );
        }
        Ok(remote::forget(state_dir)?)
    }

    /// Ends without removing anything: another membership of the same node follows.
    pub(super) async fn give_way(self) {
        let Self {
            worker,
            part,
            _following,
            _events,
            port,
        } = self;
        drop((worker, part, _following, _events));
        port.end().await;
    }

    /// Removes every task with its container, service and network.
    pub(super) async fn clear(self) {
        let Self {
            worker,
            part,
            _following,
            _events,
            port,
        } = self;
        drop((part, _following, _events));
        port.end().await;
        worker.leave().await;
    }
}

/// What keeps facts about this host up to date.
type Following = [AbortOnDropHandle<()>; 2];

/// What may change about this host while it is a node.
struct Facts {
    data_path: watch::Receiver<DataPath>,
    subnets: watch::Receiver<Vec<String>>,
    advertised: Option<IpAddr>,
}

async fn follow(config: &ClusterConfig, named: Named, seen: Option<IpAddr>) -> (Facts, Following) {
    let (data_path, one) = data_path::follow(config.netd.clone(), named.data_path, seen).await;
    let (subnets, two) = subnets::follow(config.netd.clone()).await;
    let facts = Facts {
        data_path,
        subnets,
        advertised: named.advertised,
    };
    (facts, [one, two])
}

fn work(
    config: &ClusterConfig,
    node_id: &NodeId,
    description: NodeDescription,
    facts: Facts,
    dispatcher: DispatcherClient<NodeChannel>,
) -> Worker {
    Worker::start(WorkerConfig {
        node_id: node_id.clone(),
        description,
        engine: config.engine.clone(),
        netd: config.netd.clone(),
        dispatcher,
        data_path: facts.data_path,
        subnets: facts.subnets,
        advertised: facts.advertised,
        drain: DRAIN,
        peers: config.peers.clone(),
    })
}

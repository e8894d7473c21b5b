//! This node's part in a cluster: none, a manager with a worker beside it, or a worker of managers elsewhere.
//!
//! Owns the manager's and the worker's lifetimes: they start together (at start of the daemon, by `swarm init` or by
//! `swarm join`) and end together (`swarm leave`, or the end of the daemon, which stops no container).

mod address;
mod data_path;
mod description;
mod events;
pub mod generic;
mod interface;
mod membership;
mod named;
mod subnets;
mod succession;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use manager::remote::{self, Joined, RemoteError};
use manager::vault::VaultError;
use manager::{Control, InitRequest, JoinManagers, Manager, ManagerConfig, ManagerError};
use netd::Netd;
use proto::NodeId;
use proto::object::NodeDescription;
use proto::spec::{Availability, GenericResource, NodeRole};
use tokio::sync::{Mutex, watch};
use tokio_util::task::AbortOnDropHandle;

use crate::api::error::chain;
use crate::engine::Engine;
use crate::host::HostFacts;
use crate::peer::{ListenError, Peers};
use crate::worker;
use membership::Membership;

pub use address::{AddressError, advertise, manager_address};
pub use data_path::resolve as resolve_data_path;
pub use interface::resolve;
pub use membership::{Part, WorkerPart};
pub use named::Named;

/// What a cluster membership is made of.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    /// Where the manager, or what makes this node a worker, is kept.
    pub state_dir: PathBuf,
    /// Facts about the machine.
    pub host: HostFacts,
    /// Things that the node's operator counts or names.
    pub generic_resources: Vec<GenericResource>,
    /// Makes and runs containers.
    pub engine: Arc<Engine>,
    /// The node's network.
    pub netd: Arc<Netd>,
    /// The port between nodes.
    pub peers: Arc<Peers>,
}

/// What a node needs to become part of a cluster that is there.
#[derive(Debug, Clone)]
pub struct JoinRequest {
    /// Managers, asked in turn.
    pub remotes: Vec<SocketAddr>,
    /// Addresses of this node, where it was said under which it shall be known.
    pub named: Named,
    /// Lets the node in and says as what.
    pub token: String,
    /// Whether it runs tasks.
    pub availability: Availability,
    /// Where a manager listens, and is reached by the others; by default everywhere, and where it comes from.
    pub manager: JoinManagers,
}

/// This node's part in a cluster.
#[derive(Debug)]
pub struct Cluster {
    config: ClusterConfig,
    succession: OnceLock<AbortOnDropHandle<()>>,
    /// One change of membership at a time; holds what ends with it.
    membership: Mutex<Option<Membership>>,
    /// The same for readers.
    part: watch::Sender<Part>,
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
    /// Leaving would lose the cluster's state unread.
    #[error("Swarm is encrypted and locked. Please unlock it first or use `--force` to ignore this message.")]
    Locked,
    /// There is nothing to unlock.
    #[error("swarm is not locked")]
    NotLocked,
    /// The key is none, or another manager's or another time's.
    #[error("swarm could not be unlocked: invalid key provided")]
    UnlockKey,
    /// Nobody would reach it there.
    #[error("advertise address {0} is no address of this host")]
    Advertised(IpAddr),
    /// The manager on this node refused or failed.
    #[error(transparent)]
    Manager(#[from] ManagerError),
    /// A manager elsewhere refused, or could not be spoken with.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The port between nodes is not to be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// What this node is to know after a restart could not be kept.
    #[error("keep the addresses that were named")]
    Named(#[source] std::io::Error),
}

impl Cluster {
    /// Takes up the membership that an earlier process of this agent had, if any.
    pub async fn open(config: ClusterConfig) -> Result<Arc<Self>, ClusterError> {
        let cluster = Arc::new(Self {
            config,
            succession: OnceLock::new(),
            membership: Mutex::default(),
            part: watch::Sender::default(),
        });
        let follow = succession::follow(Arc::downgrade(&cluster), cluster.part.subscribe());
        cluster
            .succession
            .get_or_init(|| AbortOnDropHandle::new(tokio::spawn(follow)));
        if Manager::is_locked(&cluster.config.state_dir)? {
            tracing::warn!("the manager is locked; its containers run on until somebody unlocks it");
            cluster.part.send_replace(Part::Locked);
            return Ok(cluster);
        }
        let found = cluster.found().await?;
        if found.is_none() {
            let ClusterConfig { engine, netd, .. } = &cluster.config;
            worker::clean_up(engine.clone(), netd.clone()).await;
        }
        cluster.take_up(&mut *cluster.membership.lock().await, found);
        Ok(cluster)
    }

    /// This node's part.
    pub fn part(&self) -> Part {
        self.part.borrow().clone()
    }

    /// The manager on this node, if there is one.
    pub fn manager(&self) -> Option<Arc<Manager>> {
        match self.part() {
            Part::Manager(manager) => Some(manager),
            Part::None | Part::Worker(_) | Part::Locked => None,
        }
    }

    /// Things that the node's operator counts or names.
    pub fn generic_resources(&self) -> &[GenericResource] {
        &self.config.generic_resources
    }

    /// The port between nodes.
    pub fn peers(&self) -> &Arc<Peers> {
        &self.config.peers
    }

    /// Operations on the cluster's objects, if this node is a manager.
    pub fn control(&self) -> Option<Control> {
        self.manager().map(|manager| manager.control())
    }

    /// Makes a new cluster of this one node. With `force`, of what this manager has kept of a cluster that is lost.
    pub async fn init(
        &self,
        request: InitRequest,
        named: Named,
        force: bool,
    ) -> Result<NodeId, ClusterError> {
        let mut membership = self.membership.lock().await;
        if force && let Part::Manager(manager) = self.part() {
            self.keep(named.or(self.named()))?;
            return self.rescue(&mut membership, &manager, &request).await;
        }
        if membership.is_some() {
            return Err(ClusterError::AlreadyMember);
        }
        let port = self.config.peers.bind(request.listen_ip()?).await?;
        // Before the record, so that a crash in between leaves no node that has forgotten it.
        self.keep(named)?;
        let manager = Manager::init(self.manager_config().await, request).await;
        let manager = manager.inspect_err(|_| self.forget_named())?;
        let node_id = manager.node_id().clone();
        let member = Membership::manager(&self.config, manager, port).await;
        self.take_up(&mut membership, Some(member));
        Ok(node_id)
    }

    async fn rescue(
        &self,
        membership: &mut Option<Membership>,
        manager: &Manager,
        request: &InitRequest,
    ) -> Result<NodeId, ClusterError> {
        manager.shutdown().await;
        self.part.send_replace(Part::None);
        if let Some(member) = membership.take() {
            member.give_way().await;
        }
        let manager = Manager::rescue(self.manager_config().await, request).await?;
        let node_id = manager.node_id().clone();
        let member = self.beside(manager).await?;
        self.take_up(membership, Some(member));
        Ok(node_id)
    }

    /// Becomes a worker or, as the token says, a manager of a cluster that is there.
    pub async fn join(&self, request: JoinRequest) -> Result<(), ClusterError> {
        let mut membership = self.membership.lock().await;
        if membership.is_some() {
            return Err(ClusterError::AlreadyMember);
        }
        let description = self.description().await;
        let remotes: Vec<String> = request.remotes.iter().map(ToString::to_string).collect();
        let state_dir = &self.config.state_dir;
        self.keep(request.named)?;
        let joined = remote::join(
            state_dir,
            &remotes,
            &request.token,
            &description,
            request.availability,
        )
        .await;
        let joined = joined.inspect_err(|_| self.forget_named())?;
        let member = match joined.role {
            NodeRole::Worker => self.join_workers(&request, joined, description).await,
            NodeRole::Manager => self.join_managers(&request).await,
        };
        if member.is_err() {
            self.forget_named();
            // The managers have a node of it: nobody shall wait for that one.
            if let Err(error) = remote::leave(state_dir).await {
                tracing::info!(
                    "the managers were not told that this node does not come: {}",
                    chain(&error)
                );
            }
            remote::forget(state_dir)?;
        }
        self.take_up(&mut membership, Some(member?));
        Ok(())
    }

    async fn join_workers(
        &self,
        request: &JoinRequest,
        joined: Joined,
        description: NodeDescription,
    ) -> Result<Membership, ClusterError> {
        self.check_advertised(request).await?;
        let port = self.config.peers.bind(Ipv4Addr::UNSPECIFIED.into()).await?;
        Membership::worker(&self.config, joined, description, port).await
    }

    async fn join_managers(&self, request: &JoinRequest) -> Result<Membership, ClusterError> {
        let manager = Manager::join(self.manager_config().await, request.manager.clone()).await?;
        self.beside(manager).await
    }

    /// Takes up a locked manager's membership again.
    pub async fn unlock(&self, key: &str) -> Result<(), ClusterError> {
        let mut membership = self.membership.lock().await;
        match self.part() {
            Part::Locked => {}
            Part::None => return Err(ClusterError::NotMember),
            Part::Manager(_) | Part::Worker(_) => return Err(ClusterError::NotLocked),
        }
        let key = key.trim().parse().map_err(|_| ClusterError::UnlockKey)?;
        let manager = Manager::unlock(self.manager_config().await, &key).await;
        let manager = manager.map_err(|error| match error {
            ManagerError::Vault(VaultError::WrongKey) => ClusterError::UnlockKey,
            other => other.into(),
        })?;
        let member = self.beside(manager).await?;
        self.take_up(&mut membership, Some(member));
        Ok(())
    }

    /// Leaves the cluster: every task, service and cluster network of this node goes with it. Volumes stay. A manager
    /// has to be told so by force.
    pub async fn leave(&self, force: bool) -> Result<(), ClusterError> {
        let mut membership = self.membership.lock().await;
        if matches!(self.part(), Part::Locked) {
            return self.abandon(force).await;
        }
        let member = membership.as_ref().ok_or(ClusterError::NotMember)?;
        member.resign(&self.config.state_dir, force).await?;
        self.forget_named();
        self.part.send_replace(Part::None);
        if let Some(member) = membership.take() {
            member.clear().await;
        }
        Ok(())
    }

    /// Leaves a cluster whose keys are not here.
    async fn abandon(&self, force: bool) -> Result<(), ClusterError> {
        if !force {
            return Err(ClusterError::Locked);
        }
        Manager::forget(&self.config.state_dir)?;
        self.forget_named();
        self.part.send_replace(Part::None);
        let ClusterConfig { engine, netd, .. } = &self.config;
        worker::clean_up(engine.clone(), netd.clone()).await;
        Ok(())
    }

    /// The daemon ends: the manager closes its files, containers keep running.
    pub async fn shut_down(&self) {
        self.membership.lock().await.take();
        if let Part::Manager(manager) = self.part.send_replace(Part::None) {
            manager.shutdown().await;
        }
    }

    /// What the state directory says that this node is.
    async fn found(&self) -> Result<Option<Membership>, ClusterError> {
        if Manager::exists(&self.config.state_dir) {
            let manager = Manager::open(self.manager_config().await).await?;
            return Ok(Some(self.beside(manager).await?));
        }
        let Some(joined) = remote::read(&self.config.state_dir)? else {
            return Ok(None);
        };
        Ok(Some(self.as_worker(joined).await?))
    }

    /// The membership of a node that has joined.
    async fn as_worker(&self, joined: Joined) -> Result<Membership, ClusterError> {
        let description = self.description().await;
        let port = self.config.peers.bind(Ipv4Addr::UNSPECIFIED.into()).await?;
        Membership::worker(&self.config, joined, description, port).await
    }

    /// The membership of a manager that has been opened.
    async fn beside(&self, manager: Arc<Manager>) -> Result<Membership, ClusterError> {
        let port = self.config.peers.bind(manager.listen_addr().ip()).await?;
        Ok(Membership::manager(&self.config, manager, port).await)
    }

    /// What other nodes are told of a worker must lead to it. A manager that is not reached is refused by the others.
    async fn check_advertised(&self, request: &JoinRequest) -> Result<(), ClusterError> {
        let Some(asked) = request.named.advertised else {
            return Ok(());
        };
        match self.config.netd.underlay_facts(asked).await {
            Ok(None) => Err(ClusterError::Advertised(asked)),
            // What cannot be asked is not held against it.
            Ok(Some(_)) | Err(_) => Ok(()),
        }
    }

    fn named(&self) -> Named {
        Named::load(&self.config.state_dir)
    }

    fn keep(&self, named: Named) -> Result<(), ClusterError> {
        named.save(&self.config.state_dir).map_err(ClusterError::Named)
    }

    /// What is left of it is written over, or taken away, when this node becomes part of another cluster.
    fn forget_named(&self) {
        if let Err(error) = self.keep(Named::default()) {
            tracing::warn!("the named addresses stay on disk: {}", chain(&error));
        }
    }

    fn take_up(&self, membership: &mut Option<Membership>, new: Option<Membership>) {
        self.part
            .send_replace(new.as_ref().map(Membership::part).unwrap_or_default());
        *membership = new;
    }

    async fn manager_config(&self) -> ManagerConfig {
        ManagerConfig {
            state_dir: self.config.state_dir.clone(),
            description: self.description().await,
        }
    }

    async fn description(&self) -> NodeDescription {
        description::of(&self.config).await
    }
}

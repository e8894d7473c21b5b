//! A manager from its birth to its end: consensus and the store, the loops and the services over it.
//!
//! ```text
//! <state_dir>/manager.json    who this is; written last by init, removed first by leave
//! <state_dir>/raft/           journal and snapshot, and the keys that seal them
//! <state_dir>/certificates/   root certificate; this node's certificate and key
//! ```

mod birth;
mod certification;
#[cfg(test)]
mod group_tests;
mod join;
mod leave;
mod record;
mod reign;
mod roles;
mod route;
mod settings;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::object::NodeDescription;
use proto::spec::{Availability, ClusterSpec, NodeRole};
use proto::wire::dispatcher_client::DispatcherClient;
use proto::{Node, NodeId};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::ca::CaError;
use crate::control::{Control, ControlError};
use crate::dispatcher::Dispatcher;
use crate::files::FileError;
use crate::listen::listen;
use crate::peer::Credentials;
use crate::remote::{NodeChannel, RemoteError};
use crate::rpc::{RpcServer, Services, Wire};
use crate::seat::Seat;
use crate::state::consensus::{Consensus, ConsensusConfig, ConsensusError, Member, Timing};
use crate::state::{Event, Filter, Kind, Reader, Replica, Store, StoreError};
use crate::tls::TlsError;
use crate::vault::{UnlockKey, Vault, VaultError};
use certification::Certification;
pub(crate) use certification::{AbortOnDrop, until};
pub use join::JoinManagers;
use record::Record;
use reign::Realm;

/// How long a manager that is alone may take to begin its work.
const BEGIN: Duration = Duration::from_secs(30);

/// Where a manager lives and how its node is called.
#[derive(Debug, Clone)]
pub struct ManagerConfig {
    /// Directory of everything that the manager keeps; made if missing, mode 0700.
    pub state_dir: PathBuf,
    /// What the node says about itself, as its worker will say it too.
    pub description: NodeDescription,
}

/// What a new cluster shall be.
#[derive(Debug, Clone, Default)]
pub struct InitRequest {
    /// `IP` or `IP:port` at which other nodes will reach this manager; port 2377 where it is not said, this host alone
    /// where it is empty.
    pub advertise_addr: String,
    /// `IP`, `IP:port` or `:port` on which this manager listens for other nodes; `0.0.0.0:2377` where it is empty,
    /// which means IPv6 too.
    pub listen_addr: String,
    /// Settings.
    pub spec: ClusterSpec,
    /// Pools from which networks get their subnets; `10.0.0.0/8` where there are none.
    pub default_addr_pool: Vec<String>,
    /// Prefix length of those subnets; 24 where it is 0.
    pub subnet_size: u32,
    /// UDP port of VXLAN; 4789 where it is 0.
    pub data_path_port: u32,
    /// Whether this node runs tasks.
    pub availability: Availability,
}

impl InitRequest {
    /// The address of this host on which the manager shall listen, without the port.
    ///
    /// # Errors
    /// [`ManagerError::Invalid`].
    pub fn listen_ip(&self) -> Result<IpAddr, ManagerError> {
        Ok(birth::listen_address(&self.listen_addr)?.ip())
    }
}

/// A manager could not be made, opened or ended.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// The directory already holds a manager.
    #[error("This node is already part of a swarm. Use \"leave\" to leave this swarm and join another one.")]
    Exists,
    /// The directory holds no manager.
    #[error("this node is not a swarm manager")]
    Missing,
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Leaving needs force. The text says what it would do to the cluster.
    #[error("You are attempting to leave the swarm on a node that is participating as a manager. {0}")]
    Leaving(String),
    /// There is no leader that is known.
    #[error(
        "rpc error: code = Unknown desc = The swarm does not have a leader. It's possible that too few managers are \
         online. Make sure more than half of the managers are online. If the swarm has removed this manager meanwhile, \
         leave it with `swarm leave --force`; if the others are lost for good, go on alone with \
         `swarm init --force-new-cluster`."
    )]
    NoLeader,
    /// The managers that are there did not take this one in.
    #[error("join the managers: {0}")]
    NotTaken(String),
    /// What makes this node one of the cluster could not be had or kept.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The record of this manager makes no sense.
    #[error("{} is damaged; restore the directory from a backup", .0.display())]
    Damaged(PathBuf),
    /// The settings were refused.
    #[error(transparent)]
    Refused(#[from] ControlError),
    /// Consensus could not be started.
    #[error("start consensus")]
    Consensus(#[from] ConsensusError),
    /// The state could not be changed.
    #[error("change the cluster's state")]
    Store(#[from] StoreError),
    /// The port for other nodes is not to be had.
    #[error("listen on {address} for other nodes")]
    Listen {
        /// Which one.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Certificates could not be made.
    #[error("prepare the certificates")]
    Ca(#[from] CaError),
    /// Certificates could not be used.
    #[error("prepare TLS")]
    Tls(#[from] TlsError),
    /// The keys at rest could not be had.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// A file could not be worked with.
    #[error(transparent)]
    File(#[from] FileError),
}

/// A manager at work. Dropping it stops its loops; [`Manager::shutdown`] also waits for consensus to end.
#[derive(Debug)]
pub struct Manager {
    config: Arc<ManagerConfig>,
    record: Record,
    vault: Arc<Vault>,
    store: Store,
    seat: Seat,
    client: DispatcherClient<NodeChannel>,
    rpc: RpcServer,
    wire: Arc<Wire>,
    credentials: Credentials,
    _renewal: AbortOnDrop,
    _settings: AbortOnDrop,
    reign: Mutex<Option<JoinHandle<()>>>,
}

/// What consensus and the store are made of, before anything is served.
struct Ground {
    config: ManagerConfig,
    record: Record,
    vault: Vault,
    wire: Arc<Wire>,
    listener: TcpListener,
}

impl Manager {
    /// Whether the directory holds a manager.
    pub fn exists(state_dir: &Path) -> bool {
        Record::path(state_dir).exists()
    }

    /// Makes a new cluster of one node and starts its manager.
    ///
    /// # Errors
    /// [`ManagerError::Exists`], [`ManagerError::Invalid`], [`ManagerError::Refused`], and those of the files.
    pub async fn init(config: ManagerConfig, request: InitRequest) -> Result<Arc<Self>, ManagerError> {
        let node = crate::remote::read(&config.state_dir);
        if Self::exists(&config.state_dir) || !matches!(node, Ok(None)) {
            return Err(ManagerError::Exists);
        }
        let (listener, listen) = bind(birth::listen_address(&request.listen_addr)?).await?;
        let plan = birth::plan(&config.description, request, listen)?;
        // What a crash left of an earlier attempt has never been a cluster.
        record::erase(&config.state_dir)?;
        let ground = Ground {
            vault: Vault::create(&raft_dir(&config.state_dir), false)?,
            record: plan.record.clone(),
            wire: Arc::default(),
            config,
            listener,
        };
        let replica = Replica::default();
        let consensus = Arc::new(Consensus::create(&ground.consensus(), replica.clone()).await?);
        let store = Store::new(replica, consensus.clone());
        birth::populate(&store, plan).await?;
        let manager = Self::start(ground, consensus, store).await?;
        manager.record.save(&manager.config.state_dir)?;
        Ok(Arc::new(manager))
    }

    /// Whether the directory holds a manager that opens with an unlock key only.
    ///
    /// # Errors
    /// [`ManagerError::Vault`].
    pub fn is_locked(state_dir: &Path) -> Result<bool, ManagerError> {
        Ok(Self::exists(state_dir) && Vault::is_locked(&raft_dir(state_dir))?)
    }

    /// Removes everything that is kept of a manager that does not run.
    ///
    /// # Errors
    /// [`ManagerError::File`].
    pub fn forget(state_dir: &Path) -> Result<(), ManagerError> {
        Ok(record::erase(state_dir)?)
    }

    /// Starts the manager that the directory holds.
    ///
    /// # Errors
    /// [`ManagerError::Missing`], [`ManagerError::Damaged`], [`ManagerError::Vault`], and those of the files.
    pub async fn open(config: ManagerConfig) -> Result<Arc<Self>, ManagerError> {
        Self::open_with(config, None).await
    }

    /// Starts the manager that the directory holds, locked or not.
    ///
    /// # Errors
    /// As for [`Manager::open`].
    pub async fn unlock(config: ManagerConfig, key: &UnlockKey) -> Result<Arc<Self>, ManagerError> {
        Self::open_with(config, Some(key)).await
    }

    async fn open_with(config: ManagerConfig, key: Option<&UnlockKey>) -> Result<Arc<Self>, ManagerError> {
        let record = Record::load(&config.state_dir)?.ok_or(ManagerError::Missing)?;
        let vault = Vault::open(&raft_dir(&config.state_dir), key)?;
        let (listener, _) = bind(record.listen).await?;
        let ground = Ground {
            config,
            record,
            vault,
            wire: Arc::default(),
            listener,
        };
        let replica = Replica::default();
        let consensus = Consensus::open(&ground.consensus(), replica.clone()).await?;
        // Whatever was not sealed yet is so now.
        ground.vault.sealed()?;
        let consensus = Arc::new(consensus);
        let store = Store::new(replica, consensus.clone());
        Ok(Arc::new(Self::start(ground, consensus, store).await?))
    }

    /// What users may do with the cluster's objects.
    pub fn control(&self) -> Control {
        Control::new(self.store.clone())
    }

    /// The state, to watch.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The node that this manager runs on.
    pub fn node_id(&self) -> &NodeId {
        &self.record.node_id
    }

    /// `IP:port` at which other nodes reach this manager.
    pub fn advertise_addr(&self) -> &str {
        &self.record.address
    }

    /// Where this manager listens for other nodes.
    pub fn listen_addr(&self) -> SocketAddr {
        self.record.listen
    }

    /// As whom this node speaks to the others.
    pub fn credentials(&self) -> Credentials {
        self.credentials.clone()
    }

    /// What the node says about itself.
    pub fn description(&self) -> &NodeDescription {
        &self.config.description
    }

    /// Whether this manager leads, or which one does: what users ask of the cluster is for the leader to answer.
    pub fn leader(&self) -> Leader {
        match self.seat.leader() {
            Some(leader) if leader == *self.seat.own() => Leader::This,
            Some(leader) => Leader::Other(leader.node),
            None => Leader::Unknown,
        }
    }

    /// Waits until [`Manager::leader`] is known.
    pub async fn await_leader(&self) -> Leader {
        self.seat.await_leader().await;
        self.leader()
    }

    /// Returns when most managers have just confirmed that this one leads: what is read afterwards is not old.
    ///
    /// # Errors
    /// [`ManagerError::NoLeader`].
    pub async fn confirm(&self) -> Result<(), ManagerError> {
        let confirmed = self.seat.consensus().confirm().await;
        confirmed.map_err(|_| ManagerError::NoLeader)
    }

    /// Waits until this manager is none any more: the others go on without it, or its node is to be a worker.
    pub async fn is_dismissed(&self) {
        let is_this = {
            let own = self.record.node_id.clone();
            move |event: &Event| matches!(event, Event::Node(change) if change.object().id == own)
        };
        let is_worker = || {
            let node = self.store.view(|tx| tx.get::<Node>(&self.record.node_id));
            node.is_some_and(|node| node.spec.role == NodeRole::Worker)
        };
        let mut events = self.store.watch(Filter::kinds(&[Kind::Node]).only(is_this));
        let demoted = async { while !is_worker() && events.next().await.is_some() {} };
        tokio::select! {
            () = demoted => {}
            () = self.seat.consensus().is_left_out() => {}
        }
    }

    /// A client of the dispatcher, for the worker on this node.
    pub fn dispatcher(&self) -> DispatcherClient<NodeChannel> {
        self.client.clone()
    }

    /// Stops the loops and consensus; the cluster goes on when it is opened again.
    pub async fn shutdown(&self) {
        let reign = self.reign.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(reign) = reign {
            reign.abort();
            // It was aborted: there is nothing to learn from how it ended.
            let _ = reign.await;
        }
        self.seat.set_reign(false);
        self.rpc.shutdown().await;
        self.seat.consensus().shutdown().await;
    }

    async fn start(ground: Ground, consensus: Arc<Consensus>, store: Store) -> Result<Self, ManagerError> {
        let Ground {
            config,
            record,
            vault,
            wire,
            listener,
        } = ground;
        let vault = Arc::new(vault);
        let identity = Certification::new(&config, &record, &store, vault.clone())?;
        wire.arm(identity.trust.clone(), &identity.cluster, identity.shown.clone());
        let seat = Seat::new(member(&record), consensus);
        let dispatcher = Dispatcher::new(store.clone());
        let services = Services {
            store: store.clone(),
            dispatcher: dispatcher.clone(),
            cluster: identity.cluster.clone(),
            seat: seat.clone(),
            transport: wire.clone(),
        };
        let rpc = RpcServer::start(listener, identity.trust.clone(), identity.shown.clone(), services)?;
        let credentials = Credentials::follow(&identity.speaker);
        let settings = settings::follow(store.clone(), seat.consensus().clone());
        let client = route::client(seat.clone(), dispatcher.door(), wire.clone());
        let config = Arc::new(config);
        let realm = Realm {
            config: config.clone(),
            record: record.clone(),
            store: store.clone(),
            seat: seat.clone(),
            dispatcher,
        };
        let reign = tokio::spawn(realm.reign_when_leading());
        if seat.consensus().leadership().borrow().term().is_some() {
            // Alone: whoever opens it finds it at work.
            let begun = tokio::time::timeout(BEGIN, seat.await_leader()).await;
            begun.map_err(|_| ManagerError::NoLeader)?;
        }
        let renewal = identity.keep_up(seat.clone(), wire.clone());
        Ok(Self {
            config,
            record,
            vault,
            store,
            seat,
            client,
            rpc,
            wire,
            credentials,
            _renewal: AbortOnDrop(tokio::spawn(renewal)),
            _settings: AbortOnDrop(tokio::spawn(settings)),
            reign: Mutex::new(Some(reign)),
        })
    }
}

/// Who answers for the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leader {
    /// This manager.
    This,
    /// The manager on another node.
    Other(NodeId),
    /// Nobody that is known.
    Unknown,
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Some(reign) = self.reign.lock().unwrap_or_else(PoisonError::into_inner).take() {
            reign.abort();
        }
    }
}

impl Ground {
    fn consensus(&self) -> ConsensusConfig {
        ConsensusConfig {
            dir: raft_dir(&self.config.state_dir),
            id: self.record.member,
            member: member(&self.record),
            transport: self.wire.clone(),
            timing: Timing::default(),
            seed: None,
            at_rest: self.vault.at_rest(),
        }
    }
}

fn member(record: &Record) -> Member {
    Member {
        address: record.address.clone(),
        node: record.node_id.clone(),
    }
}

/// Journal, snapshot, and the keys that seal them.
fn raft_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("raft")
}

/// Takes the port; with port 0 any that is free. Returns what it is.
async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ManagerError> {
    let failed = |source| ManagerError::Listen { address, source };
    let listener = listen(address).await.map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    Ok((listener, SocketAddr::new(address.ip(), port)))
}

//! A manager from its birth to its end: consensus and the store, the loops and the services over it.
//!
//! ```text
//! <state_dir>/manager.json    who this is; written last by init, removed first by leave
//! <state_dir>/raft/           journal and snapshot, and the keys that seal them
//! <state_dir>/certificates/   root certificate; this node's certificate and key
//! ```

mod birth;
mod certification;
mod record;
mod settings;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use proto::object::{ManagerStatus, NodeDescription, Reachability};
use proto::spec::{Availability, ClusterSpec};
use proto::wire::dispatcher_client::DispatcherClient;
use proto::{Node, NodeId};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

use crate::ca::CaError;
use crate::control::{Control, ControlError};
use crate::dispatcher::Dispatcher;
use crate::files::FileError;
use crate::orchestration::Orchestration;
use crate::peer::Credentials;
use crate::rpc::{RpcServer, Services};
use crate::state::consensus::message::Nowhere;
use crate::state::consensus::{Consensus, ConsensusConfig, ConsensusError, Member, Timing};
use crate::state::{Kind, Reader, Replica, Store, StoreError};
use crate::tls::TlsError;
use crate::vault::{UnlockKey, Vault, VaultError};
use certification::Certification;
pub(crate) use certification::{AbortOnDrop, until};
use record::Record;

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
    /// `IP`, `IP:port` or `:port` on which this manager listens for other nodes; `0.0.0.0:2377` where it is empty.
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
    /// Leaving would lose the cluster.
    #[error(
        "You are attempting to leave the swarm on a node that is participating as a manager. \
         Removing the last manager erases all current state of the swarm. Use `--force` to ignore this message."
    )]
    LastManager,
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
    config: ManagerConfig,
    record: Record,
    store: Store,
    consensus: Arc<Consensus>,
    dispatcher: Dispatcher,
    client: DispatcherClient<Channel>,
    rpc: RpcServer,
    credentials: Credentials,
    _renewal: AbortOnDrop,
    _settings: AbortOnDrop,
    loops: Mutex<Option<JoinHandle<()>>>,
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
        let vault = Vault::create(&raft_dir(&config.state_dir), false)?;
        let (consensus, store) = begin(&config, &plan.record, &vault).await?;
        let record = plan.record.clone();
        birth::populate(&store, plan).await?;
        let manager = Self::start(config, record, vault, consensus, store, listener).await?;
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
        let replica = Replica::default();
        let consensus = Consensus::open(&consensus_config(&config, &record, &vault), replica.clone()).await?;
        // Whatever was not sealed yet is so now.
        vault.sealed()?;
        let consensus = Arc::new(consensus);
        let store = Store::new(replica, consensus.clone());
        Ok(Arc::new(
            Self::start(config, record, vault, consensus, store, listener).await?,
        ))
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

    /// A client of the dispatcher, for the worker on this node.
    pub fn dispatcher(&self) -> DispatcherClient<Channel> {
        self.client.clone()
    }

    /// Stops the loops and consensus; the cluster goes on when it is opened again.
    pub async fn shutdown(&self) {
        let loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(loops) = loops {
            loops.abort();
            // It was aborted: there is nothing to learn from how it ended.
            let _ = loops.await;
        }
        self.rpc.shutdown().await;
        self.dispatcher.end_sessions();
        self.consensus.shutdown().await;
    }

    /// Leaves the cluster and removes everything that was kept of it.
    ///
    /// # Errors
    /// [`ManagerError::LastManager`] without `force`, and those of the files.
    pub async fn leave(&self, force: bool) -> Result<(), ManagerError> {
        if !force {
            return Err(ManagerError::LastManager);
        }
        self.shutdown().await;
        Ok(record::erase(&self.config.state_dir)?)
    }

    async fn start(
        config: ManagerConfig,
        record: Record,
        vault: Vault,
        consensus: Arc<Consensus>,
        store: Store,
        listener: TcpListener,
    ) -> Result<Self, ManagerError> {
        let identity = Certification::new(&config, &record, &store, vault)?;
        lead(&store, &config, &record).await?;
        let dispatcher = Dispatcher::start(store.clone()).await?;
        let client = dispatcher.serve_in_process();
        let services = Services {
            store: store.clone(),
            dispatcher: dispatcher.clone(),
            cluster: identity.cluster.clone(),
        };
        let rpc = RpcServer::start(listener, &identity.root, identity.shown.clone(), services)?;
        let credentials = Credentials::follow(&identity.speaker);
        let renewal = AbortOnDrop(tokio::spawn(identity.keep_up()));
        let loops = Orchestration::run_with_loads(store.clone(), dispatcher.loads(), std::future::pending());
        let loops = tokio::spawn(loops);
        let settings = AbortOnDrop(tokio::spawn(settings::follow(store.clone(), consensus.clone())));
        let loops = Mutex::new(Some(loops));
        Ok(Self {
            config,
            record,
            store,
            consensus,
            dispatcher,
            client,
            rpc,
            credentials,
            _renewal: renewal,
            _settings: settings,
            loops,
        })
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if let Some(loops) = self.loops.lock().unwrap_or_else(PoisonError::into_inner).take() {
            loops.abort();
        }
    }
}

async fn begin(
    config: &ManagerConfig,
    record: &Record,
    vault: &Vault,
) -> Result<(Arc<Consensus>, Store), ManagerError> {
    let replica = Replica::default();
    let consensus = Consensus::create(&consensus_config(config, record, vault), replica.clone()).await?;
    let consensus = Arc::new(consensus);
    let store = Store::new(replica, consensus.clone());
    Ok((consensus, store))
}

fn consensus_config(config: &ManagerConfig, record: &Record, vault: &Vault) -> ConsensusConfig {
    ConsensusConfig {
        dir: raft_dir(&config.state_dir),
        id: record.member,
        member: Member {
            address: record.address.clone(),
            node: record.node_id.clone(),
        },
        transport: Arc::new(Nowhere),
        timing: Timing::default(),
        seed: None,
        at_rest: vault.at_rest(),
    }
}

/// Journal, snapshot, and the keys that seal them.
fn raft_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("raft")
}

/// Takes the port; with port 0 any that is free. Returns what it is.
async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ManagerError> {
    let failed = |source| ManagerError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// This manager leads, and says so on its node. The node's description is brought up to date before the loops read it.
async fn lead(store: &Store, config: &ManagerConfig, record: &Record) -> Result<(), ManagerError> {
    let status = ManagerStatus {
        leader: true,
        reachability: Reachability::Reachable,
        addr: record.address.clone(),
    };
    let update = store.update(|tx| {
        let Some(node) = tx.get::<Node>(&record.node_id) else {
            return Err(StoreError::NotFound {
                kind: Kind::Node,
                id: record.node_id.to_string(),
            });
        };
        let mut now = Node::clone(&node);
        now.manager_status = Some(status);
        now.description = NodeDescription {
            tls_info: now.description.tls_info,
            ..config.description.clone()
        };
        if now == *node { Ok(()) } else { tx.update(now) }
    });
    Ok(update.await?)
}

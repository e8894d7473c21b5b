//! A manager from its birth to its end: the store, the loops and the services over it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use proto::NodeId;
use proto::spec::{Availability, ClusterSpec};
use proto::wire::dispatcher_client::DispatcherClient;
use tonic::transport::Channel;

use crate::control::Control;
use crate::state::Store;

/// Where a manager lives and how its node is called.
#[derive(Debug, Clone)]
pub struct ManagerConfig {
    /// Directory of everything that the manager keeps; made if missing, mode 0700.
    pub state_dir: PathBuf,
    /// The node's hostname.
    pub hostname: String,
}

/// What a new cluster shall be.
#[derive(Debug, Clone, Default)]
pub struct InitRequest {
    /// `host` or `host:port` at which other nodes will reach this manager; port 2377 where it is not said.
    pub advertise_addr: String,
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

/// A manager could not be made, opened or ended.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// The directory already holds a manager.
    #[error("this node is already part of a swarm; use leave first")]
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
         Removing the last manager erases all current state of the swarm. Use --force to ignore this message."
    )]
    LastManager,
}

/// A manager at work. Dropping it stops its loops; [`Manager::shutdown`] also waits for its files to be closed.
#[derive(Debug)]
pub struct Manager {
    store: Store,
    node_id: NodeId,
    dispatcher: DispatcherClient<Channel>,
}

impl Manager {
    /// Whether the directory holds a manager.
    pub fn exists(state_dir: &Path) -> bool {
        state_dir.join("manager.json").exists()
    }

    /// Makes a new cluster of one node and starts its manager.
    ///
    /// # Errors
    /// [`ManagerError::Exists`], [`ManagerError::Invalid`], and those of the files.
    pub async fn init(config: ManagerConfig, request: InitRequest) -> Result<Arc<Self>, ManagerError> {
        let _ = (config, request);
        Err(ManagerError::Invalid("not built yet".to_owned()))
    }

    /// Starts the manager that the directory holds.
    ///
    /// # Errors
    /// [`ManagerError::Missing`], and those of the files.
    pub async fn open(config: ManagerConfig) -> Result<Arc<Self>, ManagerError> {
        let _ = config;
        Err(ManagerError::Missing)
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
        &self.node_id
    }

    /// A client of the dispatcher, for the worker on this node.
    pub fn dispatcher(&self) -> DispatcherClient<Channel> {
        self.dispatcher.clone()
    }

    /// Stops the loops and closes the files; the cluster goes on when it is opened again.
    pub async fn shutdown(&self) {}

    /// Leaves the cluster and removes everything that was kept of it.
    ///
    /// # Errors
    /// [`ManagerError::LastManager`] without `force`, and those of the files.
    pub async fn leave(&self, force: bool) -> Result<(), ManagerError> {
        if !force {
            return Err(ManagerError::LastManager);
        }
        self.shutdown().await;
        Ok(())
    }
}

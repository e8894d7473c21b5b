//! What every handler can reach.

use std::path::PathBuf;
use std::sync::Arc;

use manager::{Control, Manager};
use netd::Netd;
use storage::Storage;

use super::error::{ApiError, ApiResult};
use crate::cluster::{Cluster, Part};
use crate::engine::Engine;
use crate::host::HostFacts;
use crate::peer::Client;

/// Shared state of the API, extracted by handlers with `State<App>`.
pub type App = Arc<AppState>;

/// The rooms of the daemon, as the API sees them.
#[derive(Debug)]
pub struct AppState {
    /// Where everything durable lives.
    pub root: PathBuf,
    /// Where everything that ends with the boot lives.
    pub run_dir: PathBuf,
    /// Images, layers, volumes.
    pub storage: Storage,
    /// Networks, addresses, names, published ports.
    pub netd: Arc<Netd>,
    /// Containers.
    pub engine: Arc<Engine>,
    /// This node's part in a cluster.
    pub cluster: Arc<Cluster>,
    /// Facts about the machine.
    pub host: HostFacts,
}

/// Docker's answer to cluster operations on a node that is no manager.
const NOT_A_MANAGER: &str = "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to \
                             connect this node to swarm and try again.";
/// Docker's answer to cluster operations on a worker.
const A_WORKER: &str = "This node is not a swarm manager. Worker nodes can't be used to view or modify cluster state. \
                        Please run this command on a manager node or promote the current node to a manager.";
/// Docker's answer to cluster operations on a manager that is locked.
const LOCKED: &str = "Swarm is encrypted and needs to be unlocked before it can be used. Please use \"docker swarm \
                      unlock\" to unlock it.";

impl AppState {
    /// Operations on the cluster's objects.
    ///
    /// # Errors
    /// 503 with Docker's words on a node that is no manager.
    pub fn control(&self) -> ApiResult<Control> {
        match self.cluster.part() {
            Part::Manager(manager) => Ok(manager.control()),
            Part::Worker(_) => Err(ApiError::unavailable(A_WORKER)),
            Part::None => Err(ApiError::unavailable(NOT_A_MANAGER)),
            Part::Locked => Err(ApiError::unavailable(LOCKED)),
        }
    }

    /// The manager on this node, and the way to the other nodes.
    ///
    /// # Errors
    /// As [`AppState::control`].
    pub fn manager(&self) -> ApiResult<(Arc<Manager>, Client)> {
        self.control()?;
        let parts = self.cluster.manager().zip(self.cluster.peers().client());
        parts.ok_or_else(|| ApiError::unavailable(NOT_A_MANAGER))
    }

    /// Identity of this engine in `/info`: stable per root.
    pub fn node_key(&self) -> String {
        crate::local_network::word_id(&self.root, &self.host.machine_id)
    }

    /// State of the swarm as the `Swarm` header of `/_ping` words it.
    pub fn swarm_header(&self) -> &'static str {
        match self.cluster.part() {
            Part::Manager(_) => "active/manager",
            Part::Worker(_) => "active/worker",
            Part::None => "inactive",
            Part::Locked => "locked",
        }
    }
}

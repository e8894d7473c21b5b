//! What every handler can reach.

use std::path::PathBuf;
use std::sync::Arc;

use netd::Netd;
use storage::Storage;

use crate::engine::Engine;
use crate::host::HostFacts;

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
    /// Facts about the machine.
    pub host: HostFacts,
}

impl AppState {
    /// State of the swarm as the `Swarm` header of `/_ping` words it.
    pub fn swarm_header(&self) -> &'static str {
        "inactive"
    }
}

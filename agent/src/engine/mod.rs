//! The container engine: owns every container of this node, from record to exit code.
//!
//! In: requests of the Docker API and of the worker. Out: container records under `<root>/containers`, one `runtime`
//! shim process per running container under `<run-dir>/containers`, a state watch per container, and an event bus.
//! Containers outlive the engine: [`Engine::open`] finds them again by their shims.

mod attach;
mod bundle;
pub mod caps;
pub mod check;
mod container;
mod create;
mod ended;
pub mod error;
pub mod etc_files;
mod events;
mod exec;
pub mod health;
pub mod id;
mod inspect;
mod kill;
mod lease;
mod leave;
mod list;
mod logs;
mod memory;
pub mod merge;
pub mod mounts;
pub mod names;
pub mod network;
mod probe;
pub mod record;
mod recover;
mod registry;
mod remove;
pub mod request;
pub mod restart;
pub mod seccomp_default;
mod shim;
pub mod signals;
pub mod spec;
mod start;
pub mod state;
pub mod sysctls;
mod top;
pub mod users;
mod wait;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use netd::{Netd, NetworkConfig};
use storage::Storage;
use tokio::sync::{broadcast, watch};

use crate::api::types::event::EventMessage;
use events::EventBus;
use exec::Execs;
use logs::LogWatcher;
use network::places::ClusterNetworks;
use record::{ContainerRecord, Paths};
use registry::Registry;

pub(crate) use create::preview;
pub use error::{EngineError, Result};
pub use id::{ContainerId, ExecId};
pub use lease::BootTime;
pub use list::FILTERS as LIST_FILTERS;
pub use network::places;
pub use request::*;
pub use state::{ContainerState, ExitStatus, Health, HealthStatus, Status};

/// Where the engine lives and what it works with.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Durable state; the engine owns `containers/` in it.
    pub root: PathBuf,
    /// State that ends with the boot; the engine owns `containers/`, `runtime/` and `files/` in it.
    pub run_dir: PathBuf,
    /// The `runtime` binary.
    pub runtime_bin: PathBuf,
    /// First component of every container's cgroup path, for example `shoal`.
    pub cgroup_parent: String,
    pub storage: Storage,
    pub netd: Arc<Netd>,
}

/// The container engine of this node.
///
/// Containers are named by id, unambiguous id prefix, or name, wherever a `&str` names one.
#[derive(Debug)]
pub struct Engine {
    pub(crate) config: EngineConfig,
    pub(crate) registry: Registry,
    events: EventBus,
    execs: Execs,
    log_watcher: LogWatcher,
    /// Who gives containers their places on the cluster's networks.
    cluster_networks: watch::Sender<Option<Arc<dyn ClusterNetworks>>>,
    /// The machine's, for containers that share its UTS namespace.
    host_name: String,
}

impl Engine {
    /// Opens the engine and takes back the containers that are still running.
    ///
    /// # Errors
    /// The state directories cannot be used.
    pub async fn open(config: EngineConfig) -> Result<Arc<Self>> {
        let host_name = nix::unistd::gethostname()
            .ok()
            .and_then(|name| name.into_string().ok())
            .unwrap_or_default();
        let engine = Arc::new(Self {
            config,
            registry: Registry::default(),
            events: EventBus::new(),
            execs: Execs::default(),
            log_watcher: LogWatcher::start()?,
            cluster_networks: watch::Sender::default(),
            host_name,
        });
        engine.make_directories()?;
        engine.recover().await?;
        Ok(engine)
    }

    /// Where the engine lives.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    fn make_directories(&self) -> Result<()> {
        use std::os::unix::fs::DirBuilderExt;
        let Self {
            config: EngineConfig { root, run_dir, .. },
            ..
        } = self;
        for dir in [
            root.join("containers"),
            run_dir.join("containers"),
            run_dir.join("runtime"),
        ] {
            let created = std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir);
            created.map_err(EngineError::file("create", dir))?;
        }
        memory::mount_files(&run_dir.join("files"))
    }

    /// Tells its terminal a new size.
    ///
    /// # Errors
    /// It does not run, or has no terminal.
    pub async fn resize(&self, name: &str, rows: u16, cols: u16) -> Result<()> {
        let container = self.registry.find(name)?;
        if container.state().status != Status::Running {
            return Err(EngineError::Conflict(format!(
                "container {} is not running",
                container.id
            )));
        }
        container.shim().resize(None, rows, cols).await?;
        let size = [("height", rows.to_string()), ("width", cols.to_string())];
        self.announce(&container.record(), "resize", &size);
        Ok(())
    }

    /// Ids of the containers that run a swarm task, with it. The worker reconciles with this after a restart.
    pub fn tasks(&self) -> Vec<(ContainerId, TaskRef)> {
        let task = |container: Arc<container::Container>| {
            Some((container.id.clone(), container.record().task.clone()?))
        };
        self.registry.all().into_iter().filter_map(task).collect()
    }

    /// Whether the container runs.
    pub fn is_running(&self, id: &ContainerId) -> bool {
        let found = self.registry.find(id.as_str());
        found.is_ok_and(|container| container.state().status == Status::Running)
    }

    /// Every event from now on.
    pub fn events(&self) -> broadcast::Receiver<EventMessage> {
        self.events.subscribe()
    }

    /// The remembered events from `since` on (Unix ns) and every one from now on, without gap or overlap.
    pub fn events_since(&self, since: i64) -> (Vec<EventMessage>, broadcast::Receiver<EventMessage>) {
        self.events.since(since)
    }

    /// Publishes an event of another room: `kind` is `image`, `volume`, `network`, `service`…, `scope` is `local` or `swarm`.
    pub fn publish_event(
        &self,
        scope: &str,
        kind: &str,
        action: &str,
        id: &str,
        attributes: BTreeMap<String, String>,
    ) {
        self.events
            .publish(events::message(scope, kind, action, id, attributes));
    }

    /// Ids of the containers made from this image (`sha256:…`); for refusing to delete it.
    pub fn image_users(&self, image: &str) -> Vec<ContainerId> {
        list::users(&self.registry.all(), |record| record.image_id == image)
    }

    /// Ids of the containers that mount this volume.
    pub fn volume_users(&self, volume: &str) -> Vec<ContainerId> {
        list::users(&self.registry.all(), |record| {
            record.mounts.iter().any(|mount| mount.volume() == Some(volume))
        })
    }

    /// Ids of the containers attached, or to be attached at start, to this network (id or name).
    pub fn network_users(&self, network: &str) -> Vec<ContainerId> {
        let known = self.known_networks();
        let is = |name: &str| {
            name == network || network::find(&known, name).is_ok_and(|n| n.id == network || n.name == network)
        };
        list::users(&self.registry.all(), |record| {
            record.networks.keys().any(|name| is(name))
        })
    }

    pub(crate) fn known_networks(&self) -> Vec<NetworkConfig> {
        self.config
            .netd
            .networks()
            .into_iter()
            .map(|(config, _)| config)
            .collect()
    }

    pub(crate) fn paths(&self, id: &ContainerId) -> Paths {
        Paths::new(&self.config.root, &self.config.run_dir, id)
    }

    /// Publishes an event about a container.
    pub(crate) fn announce(&self, record: &ContainerRecord, action: &str, extra: &[(&str, String)]) {
        self.events.publish(events::of_container(record, action, extra));
    }
}

/// Runs work that blocks (files, the store) beside the event loop.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(cancelled) => Err(EngineError::file("run", "(work of the engine)")(cancelled.into())),
        },
    }
}

//! The container engine: owns every container of this node, from record to exit code.
//!
//! In: requests of the Docker API and of the worker. Out: container records under `<root>/containers`, one `runtime`
//! shim process per running container under `<run-dir>/containers`, a state watch per container, and an event bus.
//! Containers outlive the engine: [`Engine::open`] finds them again by their shims.

pub mod caps;
pub mod check;
pub mod error;
pub mod health;
pub mod id;
pub mod merge;
pub mod mounts;
pub mod names;
pub mod record;
pub mod request;
pub mod restart;
pub mod seccomp_default;
pub mod signals;
pub mod spec;
pub mod state;
pub mod sysctls;
pub mod users;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{broadcast, watch};

use crate::api::types::container::{ContainerSummary, TopResponse};
use crate::api::types::event::EventMessage;
use crate::api::types::exec::{ExecConfig, ExecInspect, ExecStart};
use crate::api::types::inspect::ContainerInspect;
use crate::api::types::network_settings::EndpointSettings;

pub use error::{EngineError, Result};
pub use id::{ContainerId, ExecId};
pub use request::*;
pub use state::{ContainerState, ExitStatus, Health, HealthStatus, Status};

/// Where the engine lives and what it works with.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Durable state; the engine owns `containers/` in it.
    pub root: PathBuf,
    /// State that ends with the boot.
    pub run_dir: PathBuf,
    /// The `runtime` binary.
    pub runtime_bin: PathBuf,
    /// First component of every container's cgroup path, for example `shoal`.
    pub cgroup_parent: String,
}

/// The container engine of this node.
///
/// Containers are named by id, unambiguous id prefix, or name, wherever a `&str` names one.
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    events: broadcast::Sender<EventMessage>,
}

fn not_built<T>(what: &str) -> Result<T> {
    Err(EngineError::Unsupported(format!("{what} is not built yet")))
}

impl Engine {
    /// Opens the engine and takes back the containers that are still running.
    pub async fn open(config: EngineConfig) -> Result<Arc<Self>> {
        let (events, _) = broadcast::channel(1024);
        Ok(Arc::new(Self { config, events }))
    }

    /// Where the engine lives.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Makes a container; nothing runs yet.
    pub async fn create(self: &Arc<Self>, _request: CreateContainer) -> Result<Created> {
        not_built("container create")
    }

    /// Starts it; [`EngineError::Unchanged`] if it runs.
    pub async fn start(self: &Arc<Self>, _name: &str) -> Result<()> {
        not_built("container start")
    }

    /// Signals it, waits `timeout` seconds (`None`: the container's own, else 10; negative: for ever), then kills.
    /// [`EngineError::Unchanged`] if it does not run.
    pub async fn stop(&self, _name: &str, _timeout: Option<i64>, _signal: Option<&str>) -> Result<()> {
        not_built("container stop")
    }

    /// [`Self::stop`] if it runs, then [`Self::start`].
    pub async fn restart(
        self: &Arc<Self>,
        _name: &str,
        _timeout: Option<i64>,
        _signal: Option<&str>,
    ) -> Result<()> {
        not_built("container restart")
    }

    /// Sends a signal (`KILL`, `SIGTERM`, `9`; empty: KILL).
    pub async fn kill(&self, _name: &str, _signal: &str) -> Result<()> {
        not_built("container kill")
    }

    /// Removes it with everything it owns.
    pub async fn remove(&self, _name: &str, _options: RemoveOptions) -> Result<()> {
        not_built("container remove")
    }

    /// Subscribes to an exit; the returned future can be polled later without missing it.
    pub fn wait(&self, _name: &str, _condition: WaitCondition) -> Result<Waiter> {
        not_built("container wait")
    }

    /// Everything about one container; `size` also measures its filesystem.
    pub async fn inspect(&self, _name: &str, _size: bool) -> Result<ContainerInspect> {
        not_built("container inspect")
    }

    /// Containers, newest first.
    pub async fn list(&self, _options: &ListOptions) -> Result<Vec<ContainerSummary>> {
        Ok(Vec::new())
    }

    /// Gives it another name.
    pub async fn rename(&self, _name: &str, _new_name: &str) -> Result<()> {
        not_built("container rename")
    }

    /// Tells its terminal a new size.
    pub async fn resize(&self, _name: &str, _rows: u16, _cols: u16) -> Result<()> {
        not_built("container resize")
    }

    /// Its processes as `ps` shows them.
    pub async fn top(&self, _name: &str, _ps_args: &str) -> Result<TopResponse> {
        not_built("container top")
    }

    /// Its log lines; following ends when the container does.
    pub async fn logs(&self, _name: &str, _options: LogOptions) -> Result<LogStream> {
        not_built("container logs")
    }

    /// The live ends of its process. Works on a created container too: output starts with the start.
    pub async fn attach(&self, _name: &str, _options: AttachOptions) -> Result<AttachStream> {
        not_built("container attach")
    }

    /// Prepares a process in a running container.
    pub async fn exec_create(&self, _name: &str, _config: ExecConfig) -> Result<ExecId> {
        not_built("exec")
    }

    /// Runs a prepared process; `None` when detached.
    pub async fn exec_start(&self, _exec: &str, _start: ExecStart) -> Result<Option<AttachStream>> {
        not_built("exec")
    }

    /// Everything about one exec.
    pub async fn exec_inspect(&self, _exec: &str) -> Result<ExecInspect> {
        not_built("exec")
    }

    /// Tells an exec's terminal a new size.
    pub async fn exec_resize(&self, _exec: &str, _rows: u16, _cols: u16) -> Result<()> {
        not_built("exec")
    }

    /// The state of one container, at every change.
    pub fn watch(&self, _name: &str) -> Result<watch::Receiver<ContainerState>> {
        not_built("container watch")
    }

    /// Ids of the containers that run a swarm task, with it. The worker reconciles with this after a restart.
    pub fn tasks(&self) -> Vec<(ContainerId, TaskRef)> {
        Vec::new()
    }

    /// Every event from now on.
    pub fn events(&self) -> broadcast::Receiver<EventMessage> {
        self.events.subscribe()
    }

    /// The remembered events from `since` on (Unix ns) and every one from now on, without gap or overlap.
    pub fn events_since(&self, _since: i64) -> (Vec<EventMessage>, broadcast::Receiver<EventMessage>) {
        (Vec::new(), self.events.subscribe())
    }

    /// Publishes an event of another room: `kind` is `image`, `volume`, `network`, `service`…, `scope` is `local` or `swarm`.
    pub fn publish_event(
        &self,
        _scope: &str,
        _kind: &str,
        _action: &str,
        _id: &str,
        _attributes: BTreeMap<String, String>,
    ) {
    }

    /// Connects a container to a network; takes effect at once if it runs.
    pub async fn connect_network(
        &self,
        _name: &str,
        _network: &str,
        _endpoint: EndpointSettings,
    ) -> Result<()> {
        not_built("network connect")
    }

    /// Disconnects a container from a network.
    pub async fn disconnect_network(&self, _name: &str, _network: &str, _force: bool) -> Result<()> {
        not_built("network disconnect")
    }

    /// Short ids of the containers made from this image (`sha256:…`); for refusing to delete it.
    pub fn image_users(&self, _image: &str) -> Vec<ContainerId> {
        Vec::new()
    }

    /// Ids of the containers that mount this volume.
    pub fn volume_users(&self, _volume: &str) -> Vec<ContainerId> {
        Vec::new()
    }

    /// Ids of the containers attached, or to be attached at start, to this network (id or name).
    pub fn network_users(&self, _network: &str) -> Vec<ContainerId> {
        Vec::new()
    }

    /// Counts for `GET /info`.
    pub fn info(&self) -> EngineInfo {
        EngineInfo::default()
    }
}

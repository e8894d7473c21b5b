//! Bringing a container up: identity, network, bundle, shim, payload. Whatever fails, [`Engine::put_away`] leaves nothing.

use std::fs::DirBuilder;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

use netd::{Endpoint, NetworkConfig, Sandbox};
use serde_json::Value;
use storage::OverlayPaths;
use time::OffsetDateTime;
use tokio::sync::MutexGuard;

use super::container::{Container, Lifecycle};
use super::error::{EngineError, Result};
use super::etc_files::{self, Resolver};
use super::health::Probe;
use super::lease::{self, BootTime};
use super::network::{self, NetworkMode};
use super::record::ContainerRecord;
use super::restart::Backoff;
use super::shim::{self, ExitWait};
use super::spec::{self, HostDevice, NetworkNamespace, SpecInput};
use super::state::{Health, Status};
use super::users::{Accounts, Identity};
use super::{Engine, blocking, bundle};

/// Docker's exit code for a container that could not be started, when the runtime names none.
const COULD_NOT_START: i32 = 128;

impl Engine {
    /// Starts it; [`EngineError::Unchanged`] if it runs.
    ///
    /// # Errors
    /// Whatever keeps it from running; the container then is as before, with the error in its state.
    pub async fn start(self: &Arc<Self>, name: &str) -> Result<()> {
        self.start_until(name, None).await
    }

    /// As [`Self::start`]; with a lease that lasts until then, if the container has one.
    pub(super) async fn start_until(self: &Arc<Self>, name: &str, until: Option<BootTime>) -> Result<()> {
        let container = self.registry.find(name)?;
        let mut lifecycle = container.lifecycle.lock().await;
        check_startable(&container, &lifecycle)?;
        let has_lease = container
            .record()
            .task
            .as_ref()
            .is_some_and(|task| task.lease.is_some());
        lease::check(name, has_lease, until)?;
        container.set_lease(until);
        container.cancel_delay();
        lifecycle.backoff = Backoff::default();
        let state = container.state();
        if state.stopped_by_hand || state.restart_count > 0 {
            container
                .update(|record| {
                    record.state.stopped_by_hand = false;
                    record.state.restart_count = 0;
                })
                .await?;
        }
        self.launch(&container, &mut lifecycle).await
    }

    /// Brings it up and supervises it, or records why not. The caller holds the lifecycle lock.
    pub(crate) async fn launch(
        self: &Arc<Self>,
        container: &Arc<Container>,
        lifecycle: &mut MutexGuard<'_, Lifecycle>,
    ) -> Result<()> {
        match self.bring_up(container).await {
            Ok(exit) => {
                self.supervise(container.clone(), exit);
                self.start_probing(container);
                let record = container.record();
                self.announce_networks("connect", &record);
                self.announce(&record, "start", &[]);
                Ok(())
            }
            Err(error) => {
                self.put_away(container).await;
                self.forget_task_files(container).await;
                Err(self.could_not_start(container, lifecycle, error).await)
            }
        }
    }

    async fn could_not_start(
        self: &Arc<Self>,
        container: &Arc<Container>,
        lifecycle: &mut MutexGuard<'_, Lifecycle>,
        error: EngineError,
    ) -> EngineError {
        let code = shim::refusal(&error).and_then(|refusal| refusal.code);
        let message = crate::api::error::chain(&error);
        container
            .update_regardless(|record| {
                let state = &mut record.state;
                state.error.clone_from(&message);
                state.end(code.unwrap_or(COULD_NOT_START));
                if state.status != Status::Created {
                    state.status = Status::Exited;
                }
                record.attached.clear();
                record.ports.clear();
            })
            .await;
        drop(container.take_pending());
        if container.record().host_config.auto_remove {
            self.remove_after_end(container, lifecycle).await;
        }
        match (shim::refusal(&error), code) {
            (Some(refusal), Some(code)) => EngineError::StartFailed {
                container: container.id.to_string(),
                message: refusal.message.clone(),
                code,
            },
            _ => error,
        }
    }

    async fn bring_up(&self, container: &Arc<Container>) -> Result<ExitWait> {
        let record = container.record();
        let joined = self.joined_namespaces(&record)?;
        // Side by side, and both to their end: whatever was made is then known, and can be put away.
        let (prepared, sandbox) =
            tokio::join!(self.prepare(&record, container), self.attach_network(&record));
        let (prepared, (sandbox, resolver)) = (prepared?, sandbox?.unzip());
        let config = self.configure(&record, container, &prepared, joined, sandbox.as_ref())?;
        let shim_config =
            bundle::shim_config(&record, &container.paths, &prepared.overlay, container.lease())?;
        bundle::write(&container.paths.bundle, &config, &shim_config)?;
        let shim = container.shim();
        let (runtime, state) = (&self.config.runtime_bin, self.config.run_dir.join("runtime"));
        // Names that are asked for while no agent runs are answered by the next one.
        let pid = shim.spawn(runtime, &state, resolver.flatten()).await?;
        // Both before the payload runs, so that neither its end nor its first byte is missed.
        let exit = shim.wait(None).await?;
        for pending in container.take_pending() {
            pending.connect(&shim).await;
        }
        shim.start().await?;
        let known = self.known_networks();
        container
            .update_regardless(|record| running(record, pid, sandbox.as_ref(), &known))
            .await;
        Ok(exit)
    }

    /// What has to be read from the image and the host before anything is made.
    async fn prepare(&self, record: &Arc<ContainerRecord>, container: &Container) -> Result<Prepared> {
        let (record, storage, bundle) = (
            record.clone(),
            self.config.storage.clone(),
            container.paths.bundle.clone(),
        );
        blocking(move || {
            let (snapshots, key) = (storage.snapshots(), record.id.as_str());
            let overlay = snapshots
                .mounts(key)
                .map_err(EngineError::storage("find the root file system"))?;
            let view = snapshots
                .view(key)
                .map_err(EngineError::storage("open the root file system"))?;
            let accounts = Accounts::read(&view)?;
            let identity = accounts.resolve(&record.config.user, &record.host_config.group_add)?;
            let devices = match record.host_config.privileged {
                true => spec::privileged_devices()?,
                false => spec::host_devices(&record.host_config.devices)?,
            };
            let rootfs = bundle.join("rootfs");
            let created = DirBuilder::new().recursive(true).mode(0o700).create(&rootfs);
            created.map_err(EngineError::file("create", &rootfs))?;
            Ok(Prepared {
                identity,
                devices,
                overlay,
            })
        })
        .await
    }

    /// Namespaces of other containers that this one shares: network, pid.
    fn joined_namespaces(&self, record: &ContainerRecord) -> Result<Joined> {
        let of = |name: &str, kind: &str| -> Result<PathBuf> {
            let other = self.registry.find(name)?;
            match other.state() {
                state if state.status == Status::Running => {
                    Ok(format!("/proc/{}/ns/{kind}", state.pid).into())
                }
                _ => Err(EngineError::Conflict(format!(
                    "cannot join the {kind} namespace of container {name}: it is not running"
                ))),
            }
        };
        Ok(Joined {
            network: match NetworkMode::of(&record.config, &record.host_config) {
                NetworkMode::Container(name) => Some(of(&name, "net")?),
                _ => None,
            },
            pid: record
                .host_config
                .pid_mode
                .strip_prefix("container:")
                .map(|name| of(name, "pid"))
                .transpose()?,
        })
    }

    /// Asks netd for a sandbox and its resolver's socket; `None` if the container lives in a namespace that is not its own.
    async fn attach_network(&self, record: &ContainerRecord) -> Result<Option<(Sandbox, Option<OwnedFd>)>> {
        match NetworkMode::of(&record.config, &record.host_config) {
            NetworkMode::Host | NetworkMode::Container(_) => return Ok(None),
            NetworkMode::None | NetworkMode::Network(_) => {}
        }
        let hostname = spec::hostname(record, &self.host_name);
        let places = self.take_places(record).await?;
        let request = network::request(record, &hostname, &self.known_networks(), &places)?;
        let attached = self.config.netd.attach_to_keep(request).await;
        attached
            .map(Some)
            .map_err(EngineError::network("connect the container's networks"))
    }

    fn configure(
        &self,
        record: &Arc<ContainerRecord>,
        container: &Container,
        prepared: &Prepared,
        joined: Joined,
        sandbox: Option<&Sandbox>,
    ) -> Result<Value> {
        let hostname = spec::hostname(record, &self.host_name);
        let own = sandbox
            .map(|s| {
                s.endpoints
                    .iter()
                    .flat_map(Endpoint::addresses)
                    .collect::<Vec<_>>()
            })
            .unwrap_or_default();
        let extra = record
            .host_config
            .extra_hosts
            .iter()
            .map(|e| etc_files::extra_host(e))
            .collect::<Result<Vec<_>>>()?;
        let gateway = self.config.netd.host_gateway();
        let hosts = etc_files::hosts(&extra, gateway, &own, &hostname, &record.config.domainname);
        let resolver = resolver(record, sandbox).render();
        let etc_files = etc_files::write(&container.paths.dir, &hostname, &hosts, &resolver)?;
        let injected = record.files.iter().enumerate();
        spec::build(&SpecInput {
            record,
            identity: &prepared.identity,
            hostname: &hostname,
            cgroup: self.cgroup(record),
            network: match (joined.network, sandbox) {
                (Some(path), _) => NetworkNamespace::Path(path),
                (None, Some(sandbox)) => NetworkNamespace::Path(sandbox.netns.clone()),
                (None, None) => NetworkNamespace::Host,
            },
            pid_namespace: joined.pid,
            etc_files,
            injected: injected
                .map(|(n, f)| (container.paths.files.join(n.to_string()), f.target.clone()))
                .collect(),
            devices: prepared.devices.clone(),
        })
    }

    /// `/<parent>/<id>` below each hierarchy.
    pub(crate) fn cgroup(&self, record: &ContainerRecord) -> String {
        let parent = match record.host_config.cgroup_parent.trim_matches('/') {
            "" => &self.config.cgroup_parent,
            given => given,
        };
        format!("/{parent}/{}", record.id)
    }
}

struct Prepared {
    identity: Identity,
    devices: Vec<HostDevice>,
    overlay: OverlayPaths,
}

struct Joined {
    network: Option<PathBuf>,
    pid: Option<PathBuf>,
}

fn check_startable(container: &Container, lifecycle: &Lifecycle) -> Result<()> {
    let state = container.state();
    match state.status {
        _ if lifecycle.gone => Err(EngineError::NoSuchContainer(container.id.to_string())),
        Status::Running => Err(EngineError::Unchanged(container.id.to_string())),
        Status::Removing | Status::Dead => Err(EngineError::Conflict(
            "container is marked for removal and cannot be started".into(),
        )),
        Status::Created | Status::Exited | Status::Restarting => Ok(()),
    }
}

/// The record of a container whose payload has just been executed.
pub(crate) fn running(
    record: &mut ContainerRecord,
    pid: i32,
    sandbox: Option<&Sandbox>,
    known: &[NetworkConfig],
) {
    if let Some(sandbox) = sandbox {
        record.attached = network::attached(record, sandbox, known);
        record.ports = network::published(&sandbox.published);
    }
    let probed = Probe::from_config(record.config.healthcheck.as_ref()).is_some();
    let state = &mut record.state;
    state.status = Status::Running;
    state.pid = pid;
    state.exit_code = 0;
    state.error.clear();
    state.oom_killed = false;
    state.started_at = Some(OffsetDateTime::now_utc());
    state.health = probed.then(Health::default);
}

/// On a network, netd's server; else what the host has.
fn resolver(record: &ContainerRecord, sandbox: Option<&Sandbox>) -> Resolver {
    let base = match sandbox.filter(|sandbox| !sandbox.endpoints.is_empty()) {
        Some(sandbox) => Resolver {
            nameservers: vec![sandbox.nameserver.to_string()],
            search: sandbox.search.clone(),
            options: sandbox.options.clone(),
        },
        None => Resolver::parse(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()),
    };
    base.overridden(&record.host_config)
}

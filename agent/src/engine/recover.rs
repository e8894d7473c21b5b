//! What an engine finds when it opens: containers that still run are taken back with their shims, ends that nobody saw are
//! collected, half-made things are removed, and restart policies are applied.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use netd::KeptSockets;

use super::container::Container;
use super::create::remove_tree;
use super::ended::lost;
use super::error::{EngineError, Result};
use super::id::ContainerId;
use super::record::{ContainerRecord, Paths};
use super::restart::RestartPolicy;
use super::shim::{self, Shim};
use super::start;
use super::state::Status;
use super::{Engine, blocking};
use crate::api::error::chain;

/// How long a shim may take to say how its container is.
const ANSWER_TIME: std::time::Duration = std::time::Duration::from_secs(5);

impl Engine {
    /// The resolver sockets of the containers that still run: each shim has kept its container's.
    pub(crate) fn kept_sockets(root: &Path, run_dir: &Path) -> KeptSockets {
        let (root, run_dir) = (root.to_owned(), run_dir.to_owned());
        KeptSockets::new(move |sandbox| {
            let id = ContainerId::parse(sandbox)?;
            Shim::new(&Paths::new(&root, &run_dir, &id).bundle, &id).kept()
        })
    }

    /// Takes stock. What cannot be put right is logged and left: it must not keep the agent from starting.
    pub(crate) async fn recover(self: &Arc<Self>) -> Result<()> {
        let Found { records, known } = self.load_records().await?;
        for record in records {
            let paths = self.paths(&record.id);
            if let Err(error) = self.registry.reserve(&record.name, &record.id) {
                tracing::warn!(container.id = %record.id, "found without its name: {error}");
            }
            self.registry.insert(Arc::new(Container::new(record, paths)));
        }
        self.remove_strays(&known).await;
        let containers = self.registry.all();
        let taken =
            futures::future::join_all(containers.iter().map(|container| self.take_back(container))).await;
        let living: Vec<String> = taken.into_iter().flatten().collect();
        if let Err(error) = self.config.netd.retain(&living).await {
            tracing::warn!(
                "sandboxes of ended containers could not be removed: {}",
                chain(&error)
            );
        }
        for container in containers {
            self.apply_policy(container);
        }
        Ok(())
    }

    async fn load_records(&self) -> Result<Found> {
        let root = self.config.root.join("containers");
        blocking(move || {
            std::fs::create_dir_all(&root).map_err(EngineError::file("create", &root))?;
            let mut found = Found::default();
            for id in ids_in(&root) {
                let dir = root.join(id.as_str());
                match ContainerRecord::load(&dir) {
                    Ok(Some(record)) => found.records.push(record),
                    // Half-made: a stray.
                    Ok(None) => continue,
                    Err(error) => tracing::error!(container.id = %id, "left alone: {}", chain(&error)),
                }
                found.known.insert(id);
            }
            Ok(found)
        })
        .await
    }

    /// Removes what belongs to containers that have no record.
    async fn remove_strays(&self, known: &HashSet<ContainerId>) {
        let config = &self.config;
        let stray = |dir: &Path| {
            ids_in(dir)
                .into_iter()
                .filter(|id| !known.contains(id))
                .collect::<Vec<_>>()
        };
        for id in stray(&config.run_dir.join("runtime")) {
            self.report(&id, self.runtime_delete(id.as_str()).await);
        }
        let dirs = [
            config.run_dir.join("containers"),
            config.run_dir.join("files"),
            config.root.join("containers"),
        ];
        for dir in &dirs {
            for id in stray(dir) {
                let path = dir.join(id.as_str());
                self.report(&id, blocking(move || remove_tree(&path)).await);
            }
        }
        let snapshots = config.storage.snapshots();
        let listed = blocking(move || snapshots.list().map_err(EngineError::storage("list snapshots"))).await;
        let keys = listed
            .unwrap_or_default()
            .into_iter()
            .filter_map(|snapshot| ContainerId::parse(&snapshot.key));
        for id in keys.filter(|id| !known.contains(id)) {
            let (snapshots, key) = (config.storage.snapshots(), id.clone());
            let removed = blocking(move || {
                snapshots
                    .remove(key.as_str())
                    .map_err(EngineError::storage("remove the root file system"))
            });
            self.report(&id, removed.await);
        }
    }

    fn report(&self, id: &ContainerId, removed: Result<()>) {
        match removed {
            Ok(()) => {
                tracing::info!(container.id = %id, "removed what was left of a container without record")
            }
            Err(error) => tracing::warn!(container.id = %id, "a leftover stays: {}", chain(&error)),
        }
    }

    /// Finds out what became of a container. `Some`: it lives, and keeps its sandbox.
    async fn take_back(self: &Arc<Self>, container: &Arc<Container>) -> Option<String> {
        let state = container.state();
        if matches!(state.status, Status::Removing | Status::Dead) {
            let mut lifecycle = container.lifecycle.lock().await;
            if let Err(error) = self.remove_locked(container, &mut lifecycle, false).await {
                tracing::warn!(container.id = %container.id, "still cannot be removed: {}", chain(&error));
            }
            return None;
        }
        if container.paths.socket().exists() && self.reconnect(container).await {
            return Some(container.id.to_string());
        }
        let report = shim::read_exit(&container.paths.exit());
        match (report, state.status) {
            (Some(report), _) => self.ended(container.clone(), Some(report)).await,
            (None, Status::Running) => self.ended(container.clone(), Some(lost())).await,
            // A start that was interrupted, or nothing at all.
            (None, _) => self.put_away(container).await,
        }
        None
    }

    /// Goes on with a container whose shim lives; false if it does not, or its container was never started.
    async fn reconnect(self: &Arc<Self>, container: &Arc<Container>) -> bool {
        let shim = container.shim();
        // A shim answers at once or never.
        let Ok(Ok(found)) = tokio::time::timeout(ANSWER_TIME, shim.state()).await else {
            return false;
        };
        if found.status == "created" {
            return false;
        }
        let Ok(exit) = shim.wait(None).await else {
            return false;
        };
        if container.state().status != Status::Running {
            // The agent ended between the start and the record of it.
            let (sandbox, known) = (
                self.config.netd.sandbox(container.id.as_str()),
                self.known_networks(),
            );
            container
                .update_regardless(|record| start::running(record, found.pid, sandbox.as_ref(), &known))
                .await;
        }
        tracing::info!(container.id = %container.id, pid = found.pid, "taken back");
        self.supervise(container.clone(), exit);
        self.start_probing(container);
        true
    }

    /// Starts, in the background, what its restart policy wants to run with the agent.
    fn apply_policy(self: &Arc<Self>, container: Arc<Container>) {
        let record = container.record();
        let policy = RestartPolicy::parse(&record.host_config.restart_policy).unwrap_or(RestartPolicy::No);
        let state = &record.state;
        let ran = state.status == Status::Exited && state.started_at.is_some();
        let wanted =
            policy.wants_start_with_daemon(state.exit_code, state.restart_count, state.stopped_by_hand);
        // An earlier agent ended during the delay of a restart. One that has only now been scheduled starts itself.
        let interrupted = state.status == Status::Restarting && !container.has_delay();
        if record.task.is_some() || !(interrupted || ran && wanted) {
            return;
        }
        let engine = self.clone();
        tokio::spawn(async move {
            // Places are the managers' to give, and nobody speaks to them yet when the agent begins.
            if engine.needs_places(&record) {
                engine.cluster_reachable().await;
            }
            match engine.start(container.id.as_str()).await {
                Ok(()) | Err(EngineError::Unchanged(_)) => {}
                Err(error) => {
                    tracing::warn!(container.id = %container.id, "could not be started again: {}", chain(&error));
                }
            }
        });
    }
}

#[derive(Default)]
struct Found {
    records: Vec<ContainerRecord>,
    /// Every container with a record, readable or not.
    known: HashSet<ContainerId>,
}

/// The entries of a directory that are container ids; none if it cannot be read.
fn ids_in(dir: &Path) -> Vec<ContainerId> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| ContainerId::parse(entry.file_name().to_str()?))
        .collect()
}

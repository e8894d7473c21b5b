//! Removing a container with all it owns. A removal that fails half-way leaves it `dead`, to be removed again.

use std::path::Path;
use std::sync::Arc;

use super::container::Container;
use super::create::remove_tree;
use super::ended::Locked;
use super::error::{EngineError, Result};
use super::mounts::MountSource;
use super::names;
use super::record::FILE;
use super::request::RemoveOptions;
use super::state::Status;
use super::{Engine, blocking};
use crate::api::error::chain;

impl Engine {
    /// Removes it with everything it owns.
    ///
    /// # Errors
    /// It runs and `force` was not given, or storage fails; then it stays, `dead`.
    pub async fn remove(&self, name: &str, options: RemoveOptions) -> Result<()> {
        let container = self.registry.find(name)?;
        if container.state().status.is_active() {
            if !options.force {
                let advice = "stop the container before removing or force remove";
                let name = &container.record().name;
                return Err(EngineError::Conflict(format!(
                    "cannot remove container \"/{name}\": container is {}: {advice}",
                    container.state().status
                )));
            }
            match self.kill_and_wait(&container).await {
                Ok(()) | Err(EngineError::Unchanged(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let mut lifecycle = container.lifecycle.lock().await;
        if lifecycle.gone {
            // It was removed after its end (`--rm`) while we waited: what was asked for has happened.
            return Ok(());
        }
        self.remove_locked(&container, &mut lifecycle, options.volumes)
            .await
    }

    /// `--rm`: takes the anonymous volumes too; a failure can only be logged.
    pub(crate) async fn remove_after_end(&self, container: &Arc<Container>, lifecycle: Locked<'_, '_>) {
        if let Err(error) = self.remove_locked(container, lifecycle, true).await {
            tracing::warn!(container.id = %container.id, "could not be removed after its end: {}", chain(&error));
        }
    }

    pub(crate) async fn remove_locked(
        &self,
        container: &Container,
        lifecycle: Locked<'_, '_>,
        volumes: bool,
    ) -> Result<()> {
        container.cancel_delay();
        container
            .update_regardless(|record| record.state.status = Status::Removing)
            .await;
        let record = container.record();
        self.put_away(container).await;
        if let Err(error) = self.remove_stored(container).await {
            let message = chain(&error);
            container
                .update_regardless(|record| {
                    record.state.status = Status::Dead;
                    record.state.error = message;
                })
                .await;
            return Err(error);
        }
        lifecycle.gone = true;
        self.registry.remove(&container.id);
        self.forget_execs(&container.id);
        if volumes {
            self.remove_anonymous_volumes(container).await;
        }
        self.announce(&record, "destroy", &[]);
        container
            .update_in_memory(|record| record.state.removed = true)
            .await;
        Ok(())
    }

    async fn remove_stored(&self, container: &Container) -> Result<()> {
        let (storage, paths) = (self.config.storage.clone(), container.paths.clone());
        blocking(move || {
            // The record goes first: from then on the next agent removes the rest as what has no record.
            remove_record(&paths.dir)?;
            let removed = storage.snapshots().remove(paths.id().as_str());
            removed.map_err(EngineError::storage("remove the root file system"))?;
            remove_tree(&paths.files)?;
            remove_tree(&paths.dir)
        })
        .await
    }

    async fn remove_anonymous_volumes(&self, container: &Container) {
        for mount in &container.record().mounts {
            let MountSource::Volume {
                name,
                anonymous: true,
                ..
            } = &mount.source
            else {
                continue;
            };
            if !self.volume_users(name).is_empty() {
                continue;
            }
            let (storage, volume) = (self.config.storage.clone(), name.clone());
            let removed = blocking(move || {
                let removed = storage.volumes().remove(&volume, true, &|_| Vec::new());
                removed.map_err(EngineError::storage(format!("remove volume {volume}")))
            })
            .await;
            match removed {
                Ok(()) => self.publish_event(
                    "local",
                    "volume",
                    "destroy",
                    name,
                    [("driver".into(), "local".into())].into(),
                ),
                Err(error) => {
                    tracing::warn!(container.id = %container.id, "left a volume behind: {}", chain(&error))
                }
            }
        }
    }

    /// Gives it another name.
    ///
    /// # Errors
    /// An invalid name, its own name, or another container's.
    pub async fn rename(&self, name: &str, new_name: &str) -> Result<()> {
        let container = self.registry.find(name)?;
        let new_name = names::validate(new_name)?.to_owned();
        let _lifecycle = container.lifecycle.lock().await;
        let old = container.record().name.clone();
        if old == new_name {
            return Err(EngineError::Invalid(
                "Renaming a container with the same name as its current name".into(),
            ));
        }
        self.registry.reserve(&new_name, &container.id)?;
        let wanted = new_name.clone();
        if let Err(error) = container.update(|record| record.name = wanted).await {
            self.registry.release(&new_name, &container.id);
            return Err(error);
        }
        self.registry.release(&old, &container.id);
        self.announce(&container.record(), "rename", &[("oldName", format!("/{old}"))]);
        Ok(())
    }
}

fn remove_record(dir: &Path) -> Result<()> {
    let record = dir.join(FILE);
    match std::fs::remove_file(&record) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(EngineError::file("remove", record)(error))
        }
        _ => Ok(()),
    }
}

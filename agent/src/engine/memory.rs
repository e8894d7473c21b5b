//! The place for secrets and configs: a file system in memory, so that nothing of them is ever on a disk, wherever the run
//! directory lies.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::container::Container;
use super::create::remove_tree;
use super::error::{EngineError, Result};
use super::{Engine, blocking};

/// In order of preference: a kernel older than 6.4 cannot keep a single tmpfs out of the swap.
const OPTIONS: &[&str] = &["mode=0700,noswap", "mode=0700"];

impl Engine {
    /// Removes a task's secrets and configs: a task's container never starts a second time.
    pub(super) async fn forget_task_files(&self, container: &Container) {
        if container.record().task.is_none() {
            return;
        }
        let files = container.paths.files.clone();
        if let Err(error) = blocking(move || remove_tree(&files)).await {
            let error = crate::api::error::chain(&error);
            tracing::warn!(container.id = %container.id, "its secrets and configs stay: {error}");
        }
    }

    /// Gives the memory back when the engine ends, unless containers still have files in it.
    pub fn unmount_files(&self) {
        let dir = self.config.run_dir.join("files");
        let empty = fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_none());
        if !empty || !is_mount_point(&dir) {
            return;
        }
        if let Err(error) = umount2(&dir, MntFlags::MNT_DETACH) {
            tracing::warn!("unmount {}: {error}", dir.display());
        }
    }
}

/// Makes the directory a file system in memory, unless it is one. Files of an engine that did not do so stay where they are.
pub(super) fn mount_files(dir: &Path) -> Result<()> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    created.map_err(EngineError::file("create", dir))?;
    let mut entries = fs::read_dir(dir).map_err(EngineError::file("read", dir))?;
    if is_mount_point(dir) || entries.next().is_some() {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let mut mounted = Err(Errno::EINVAL);
    for options in OPTIONS {
        mounted = mount(Some("shoal"), dir, Some("tmpfs"), flags, Some(*options));
        if mounted != Err(Errno::EINVAL) {
            break;
        }
    }
    mounted.map_err(|error| EngineError::file("mount memory at", dir)(error.into()))
}

fn is_mount_point(dir: &Path) -> bool {
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev()).ok();
    device(dir) != dir.parent().and_then(device)
}

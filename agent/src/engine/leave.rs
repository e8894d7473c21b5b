//! What the engine takes along when it ends: the cgroup that its containers were below, if none is left.

use std::io;

use super::Engine;
use crate::cgroup::hierarchies;

impl Engine {
    /// Removes the engine's own cgroup from every hierarchy; while a container is in it the kernel refuses (EBUSY),
    /// and it stays for the next agent.
    pub fn remove_empty_cgroup(&self) {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for (hierarchy, _) in hierarchies(&mounts) {
            let directory = hierarchy.join(&self.config.cgroup_parent);
            match std::fs::remove_dir(&directory) {
                Err(error) if !is_expected(&error) => {
                    tracing::warn!("remove the cgroup {}: {error}", directory.display());
                }
                _ => {}
            }
        }
    }
}

fn is_expected(error: &io::Error) -> bool {
    use io::ErrorKind::{DirectoryNotEmpty, NotFound, ReadOnlyFilesystem, ResourceBusy};
    matches!(
        error.kind(),
        NotFound | ResourceBusy | DirectoryNotEmpty | ReadOnlyFilesystem
    )
}

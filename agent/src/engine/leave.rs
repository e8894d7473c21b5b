//! What the engine takes along when it ends: the cgroup that its containers were below, if none is left.

use std::io;
use std::path::PathBuf;

use super::Engine;

impl Engine {
    /// Removes the engine's own cgroup from every hierarchy; while a container is in it the kernel refuses (EBUSY),
    /// and it stays for the next agent.
    pub fn remove_empty_cgroup(&self) {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        for hierarchy in hierarchies(&mounts) {
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

/// Mount points of the cgroup hierarchies, v1 and v2 (proc_pid_mounts(5)).
fn hierarchies(mounts: &str) -> impl Iterator<Item = PathBuf> + '_ {
    mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (point, kind) = (words.next()?, words.next()?);
        matches!(kind, "cgroup" | "cgroup2").then(|| PathBuf::from(point))
    })
}

fn is_expected(error: &io::Error) -> bool {
    use io::ErrorKind::{DirectoryNotEmpty, NotFound, ReadOnlyFilesystem, ResourceBusy};
    matches!(
        error.kind(),
        NotFound | ResourceBusy | DirectoryNotEmpty | ReadOnlyFilesystem
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_hierarchy_are_found() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let found: Vec<_> = hierarchies(mounts).collect();
        assert_eq!(
            found,
            [
                PathBuf::from("/sys/fs/cgroup/cpu,cpuacct"),
                "/sys/fs/cgroup/unified".into()
            ]
        );
    }
}

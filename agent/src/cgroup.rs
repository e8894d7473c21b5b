//! Where the cgroups of this agent's containers are.

use std::path::PathBuf;

/// The directory above all containers' own in the unified hierarchy, which a hybrid machine has beside the others; `None`
/// if there is none.
pub fn unified(parent: &str) -> Option<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let unified = hierarchies(&mounts).find(|(_, kind)| *kind == "cgroup2");
    unified.map(|(point, _)| point.join(parent))
}

/// Mount points and kinds of the cgroup hierarchies, v1 and v2 (proc_pid_mounts(5)).
pub(crate) fn hierarchies(mounts: &str) -> impl Iterator<Item = (PathBuf, &str)> + '_ {
    mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (point, kind) = (words.next()?, words.next()?);
        matches!(kind, "cgroup" | "cgroup2").then(|| (PathBuf::from(point), kind))
    })
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
                (PathBuf::from("/sys/fs/cgroup/cpu,cpuacct"), "cgroup"),
                ("/sys/fs/cgroup/unified".into(), "cgroup2")
            ]
        );
    }
}

//! Which cgroup hierarchies this machine has, and where.

use std::fs;
use std::path::PathBuf;

use super::{Error, Version};

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Interface.
    pub(crate) version: Version,
    /// Mount point.
    pub(crate) mount: PathBuf,
    /// Name of the mount point's last component; empty if it is /sys/fs/cgroup itself.
    pub(crate) name: String,
    /// v1 controllers attached to it, `name=…` of named hierarchies included. Empty on v2.
    pub(crate) controllers: Vec<String>,
}

/// All hierarchies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// In the order they were mounted.
    pub(crate) hierarchies: Vec<Hierarchy>,
}

impl Layout {
    /// The layout of this machine.
    pub(crate) fn detect() -> Result<Self, Error> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(Error::Layout)?;
        let layout = Self::parse(&mounts);
        if layout.hierarchies.is_empty() {
            return Err(Error::None);
        }
        Ok(layout)
    }

    /// Reads the cgroup mounts out of mountinfo (proc_pid_mountinfo(5)); of two mounts of one hierarchy the first counts.
    pub(crate) fn parse(mountinfo: &str) -> Self {
        let mut devices = Vec::new();
        let mut hierarchies = Vec::new();
        for (device, hierarchy) in mountinfo.lines().filter_map(hierarchy) {
            if !devices.contains(&device) {
                devices.push(device);
                hierarchies.push(hierarchy);
            }
        }
        Self { hierarchies }
    }

    /// The v1 hierarchy that `controller` is attached to.
    pub(crate) fn v1(&self, controller: &str) -> Option<usize> {
        self.hierarchies
            .iter()
            .position(|hierarchy| hierarchy.controllers.iter().any(|name| name == controller))
    }

    /// Whether resources are controlled through the unified hierarchy: it is the only one.
    pub(crate) fn unified(&self) -> Option<usize> {
        let v2 = self
            .hierarchies
            .iter()
            .position(|hierarchy| hierarchy.version == Version::V2);
        v2.filter(|_| {
            self.hierarchies
                .iter()
                .all(|hierarchy| hierarchy.version == Version::V2)
        })
    }
}

/// A line's device number and hierarchy, if it is a cgroup mount of the hierarchy's root.
fn hierarchy(line: &str) -> Option<(&str, Hierarchy)> {
    let (before, after) = line.split_once(" - ")?;
    let mut after = after.split(' ');
    let version = match after.next()? {
        "cgroup" => Version::V1,
        "cgroup2" => Version::V2,
        _ => return None,
    };
    let options = after.nth(1).unwrap_or_default();
    let mut fields = before.split(' ');
    let device = fields.nth(2)?;
    let (_root, mount) = (fields.next()?, PathBuf::from(fields.next()?));
    let name = mount.file_name()?.to_str()?.to_owned();
    Some((
        device,
        Hierarchy {
            version,
            name: if mount == std::path::Path::new("/sys/fs/cgroup") {
                String::new()
            } else {
                name
            },
            controllers: if version == Version::V1 {
                controllers(options)
            } else {
                Vec::new()
            },
            mount,
        },
    ))
}

/// What of the super options is a controller: everything that is no flag of the filesystem.
fn controllers(options: &str) -> Vec<String> {
    let flags = [
        "rw",
        "ro",
        "none",
        "clone_children",
        "cpuset_v2_mode",
        "noprefix",
        "xattr",
        "favordynmods",
    ];
    options
        .split(',')
        .filter(|option| !flags.contains(option) && !option.starts_with("release_agent="))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A hybrid machine: controllers on v1, and an unified hierarchy for tracking.
    pub(crate) const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:3 - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset,clone_children
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices
38 31 0:35 / /sys/fs/cgroup/blkio rw,relatime - cgroup cgroup rw,blkio
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    /// A machine with the unified hierarchy alone, bound a second time elsewhere.
    pub(crate) const UNIFIED: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate
50 23 0:28 / /srv/cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate
";

    #[test]
    fn a_hybrid_machine_controls_by_v1() {
        let layout = Layout::parse(HYBRID);
        assert_eq!(layout.hierarchies.len(), 8);
        assert_eq!(layout.unified(), None);
        let cpu = &layout.hierarchies[layout.v1("cpu").unwrap()];
        assert_eq!(cpu.name, "cpu,cpuacct");
        assert_eq!(layout.v1("cpu"), layout.v1("cpuacct"));
        assert_eq!(
            layout.hierarchies[layout.v1("cpuset").unwrap()].controllers,
            ["cpuset"]
        );
        assert!(layout.v1("name=systemd").is_some());
    }

    #[test]
    fn a_unified_machine_has_one_hierarchy() {
        let layout = Layout::parse(UNIFIED);
        assert_eq!(layout.hierarchies.len(), 1);
        assert_eq!(layout.unified(), Some(0));
        assert_eq!(layout.hierarchies[0].name, "");
    }

    #[test]
    fn a_machine_without_cgroups_has_none() {
        assert!(
            Layout::parse("1 0 8:1 / / rw - ext4 /dev/sda1 rw\n")
                .hierarchies
                .is_empty()
        );
    }
}

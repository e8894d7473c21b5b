//! Facts about this machine that the API and the node description report. Read once, at start.

use std::fs;
use std::path::Path;

use nix::sys::utsname::{UtsName, uname};

/// What the kernel and the distribution say about the machine.
#[derive(Debug, Clone)]
pub struct HostFacts {
    /// Node name of the UTS namespace.
    pub hostname: String,
    /// `uname -r`
    pub kernel: String,
    /// `uname -m`, as Docker's `Architecture` in `/info`.
    pub machine: String,
    /// Go's name of the architecture, as Docker's `Arch` in `/version`.
    pub architecture: &'static str,
    /// `PRETTY_NAME` of os-release.
    pub operating_system: String,
    /// `VERSION_ID` of os-release.
    pub os_version: String,
    /// Usable processors.
    pub cpus: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// "2" on a unified hierarchy, "1" otherwise (also on hybrid ones).
    pub cgroup_version: &'static str,
    /// Boot-independent identity of this host, if it has one (`/etc/machine-id`).
    pub machine_id: String,
}

impl HostFacts {
    /// Reads the facts. What cannot be read stays empty: no request fails for it.
    pub fn read() -> Self {
        let uts = uname().ok();
        let os_release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        Self {
            hostname: word(uts.as_ref(), UtsName::nodename),
            kernel: word(uts.as_ref(), UtsName::release),
            machine: word(uts.as_ref(), UtsName::machine),
            architecture: go_architecture(),
            operating_system: os_release_value(&os_release, "PRETTY_NAME").unwrap_or_else(|| "Linux".into()),
            os_version: os_release_value(&os_release, "VERSION_ID").unwrap_or_default(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory: memory_total(&fs::read_to_string("/proc/meminfo").unwrap_or_default()),
            cgroup_version: if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
                "2"
            } else {
                "1"
            },
            machine_id: fs::read_to_string("/etc/machine-id")
                .unwrap_or_default()
                .trim()
                .to_owned(),
        }
    }
}

fn word<'a>(uts: Option<&'a UtsName>, field: impl Fn(&'a UtsName) -> &'a std::ffi::OsStr) -> String {
    uts.map(|uts| field(uts).to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Kind of file system that holds `path`, as Docker names them in `/info`; statfs(2).
pub fn filesystem(path: &Path) -> &'static str {
    use nix::sys::statfs::{
        BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC, statfs,
    };
    let known = [
        (EXT4_SUPER_MAGIC, "extfs"),
        (XFS_SUPER_MAGIC, "xfs"),
        (BTRFS_SUPER_MAGIC, "btrfs"),
        (TMPFS_MAGIC, "tmpfs"),
        (OVERLAYFS_SUPER_MAGIC, "overlayfs"),
    ];
    let kind = statfs(path).map(|stat| stat.filesystem_type());
    known
        .iter()
        .find(|(magic, _)| kind == Ok(*magic))
        .map_or("unknown", |(_, name)| name)
}

/// The architecture as Go and the image specification name it.
pub fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn os_release_value(text: &str, key: &str) -> Option<String> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(line.trim().trim_matches('"').to_owned())
}

fn memory_total(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_of_the_kernel_and_the_distribution() {
        assert_eq!(
            memory_total("MemTotal:       16384 kB\nMemFree: 1 kB\n"),
            16384 * 1024
        );
        let text = "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 13\"\nVERSION_ID=13\n";
        assert_eq!(
            os_release_value(text, "PRETTY_NAME").unwrap(),
            "Debian GNU/Linux 13"
        );
        assert_eq!(os_release_value(text, "VERSION_ID").unwrap(), "13");
        assert_eq!(os_release_value(text, "NOTHING"), None);
    }
}

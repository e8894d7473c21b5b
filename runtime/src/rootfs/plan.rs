//! The plan of a root filesystem: what config.json asks for, as data, checked as far as that needs no kernel.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, LinuxNamespaceType, Mount, Spec};

use super::options::{self, Options};
use super::path::{Links, names};
use crate::spec::{Error, has};

/// What to do to the root filesystem, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Mounts, in the order of config.json.
    pub(crate) mounts: Vec<MountStep>,
    /// Device nodes and the links of /dev; empty if /dev is a bind mount, which is left as it is.
    pub(crate) devices: Vec<Device>,
    /// Nodes cannot be made in a user namespace: the host's are bound instead.
    pub(crate) bind_devices: bool,
    /// Paths to hide.
    pub(crate) masked: Vec<PathBuf>,
    /// Paths to make read-only.
    pub(crate) read_only_paths: Vec<PathBuf>,
    /// Whether the root itself becomes read-only at the end.
    pub(crate) read_only: bool,
    /// Propagation of the root and, where a mount says nothing, of the mounts (`MS_*`).
    pub(crate) propagation: u64,
    /// Working directory to make if it is missing.
    pub(crate) cwd: PathBuf,
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MountStep {
    /// Where, absolute and without `..`.
    pub(crate) destination: PathBuf,
    /// What.
    pub(crate) kind: MountKind,
    /// How.
    pub(crate) options: Options,
    /// Whether symbolic links on the way to the destination may be followed.
    pub(crate) links: Links,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum MountKind {
    /// A file or directory of the host.
    Bind {
        /// Its path there.
        source: PathBuf,
        /// With the mounts below it.
        recursive: bool,
    },
    /// A new filesystem.
    Filesystem {
        /// Its type.
        fstype: String,
        /// What the filesystem is told as its source.
        source: String,
    },
    /// The container's own cgroups.
    Cgroup,
}

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    /// Where.
    pub(crate) path: PathBuf,
    /// Block, character or FIFO.
    pub(crate) kind: rustix::fs::FileType,
    /// Device number.
    pub(crate) number: (u32, u32),
    /// Permission bits.
    pub(crate) mode: u32,
    /// Owner.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
}

/// The devices that every container has (runtime-spec, config-linux.md, "Default Devices"), all character devices.
const DEFAULT_DEVICES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Files of a procfs that a bind mount may cover: what lxcfs and its kin provide.
const COVERABLE: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// Plans the root of `spec`.
pub(crate) fn plan(spec: &Spec) -> Result<Plan, Error> {
    let linux = spec.linux().as_ref();
    let mounts = spec
        .mounts()
        .iter()
        .flatten()
        .enumerate()
        .map(|(index, mount)| mount_step(index, mount))
        .collect::<Result<Vec<_>, _>>()?;
    let paths = |list: Option<&Vec<String>>| {
        list.into_iter()
            .flatten()
            .map(|path| absolute(Path::new(path)))
            .collect()
    };
    let own_dev = !mounts
        .iter()
        .any(|step| step.destination == Path::new("/dev") && matches!(step.kind, MountKind::Bind { .. }));
    Ok(Plan {
        devices: if own_dev { devices(spec)? } else { Vec::new() },
        bind_devices: has(spec, LinuxNamespaceType::User),
        masked: paths(linux.and_then(|linux| linux.masked_paths().as_ref())),
        read_only_paths: paths(linux.and_then(|linux| linux.readonly_paths().as_ref())),
        read_only: spec
            .root()
            .as_ref()
            .and_then(|root| root.readonly())
            .unwrap_or(false),
        propagation: propagation(spec)?,
        cwd: spec
            .process()
            .as_ref()
            .map_or_else(|| "/".into(), |process| process.cwd().clone()),
        mounts,
    })
}

/// `/` and the names of `path`.
fn absolute(path: &Path) -> PathBuf {
    Path::new("/").join(names(path).iter().collect::<PathBuf>())
}

fn propagation(spec: &Spec) -> Result<u64, Error> {
    let wanted = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.rootfs_propagation().as_deref());
    match wanted.filter(|text| !text.is_empty()) {
        None => Ok(libc::MS_PRIVATE),
        Some(text) => options::propagation(text).map(|(kind, _)| kind).ok_or_else(|| {
            Error::invalid(
                "linux.rootfsPropagation",
                format!("{text:?} is no propagation type"),
            )
        }),
    }
}

fn mount_step(index: usize, mount: &Mount) -> Result<MountStep, Error> {
    let field = |name: &str| format!("mounts[{index}].{name}");
    let options = options::parse(mount.options().as_deref().unwrap_or_default())
        .map_err(|option| Error::Unsupported(format!("{} {option:?}", field("options"))))?;
    let destination = absolute(mount.destination());
    if destination == Path::new("/") {
        return Err(Error::invalid(
            field("destination"),
            "the root cannot be mounted over",
        ));
    }
    let fstype = mount.typ().as_deref().filter(|text| !text.is_empty());
    let kind = match (options.bind, fstype) {
        (Some(recursive), _) => bind(index, mount, recursive, &options)?,
        (None, Some("cgroup" | "cgroup2")) => MountKind::Cgroup,
        (None, Some(fstype @ ("bind" | "none"))) => {
            return Err(Error::invalid(
                field("type"),
                format!("{fstype:?} without the option bind"),
            ));
        }
        (None, Some(fstype)) => MountKind::Filesystem {
            fstype: fstype.to_owned(),
            source: mount
                .source()
                .as_ref()
                .map_or_else(|| fstype.to_owned(), |path| path.to_string_lossy().into_owned()),
        },
        (None, None) => return Err(Error::Missing("mounts.type")),
    };
    check_proc(index, &destination, &kind)?;
    let guarded =
        destination == Path::new("/proc") || ["/sys", "/dev"].iter().any(|top| destination.starts_with(top));
    Ok(MountStep {
        links: if guarded { Links::Refuse } else { Links::Follow },
        destination,
        kind,
        options,
    })
}

fn bind(index: usize, mount: &Mount, recursive: bool, options: &Options) -> Result<MountKind, Error> {
    if let Some((name, _)) = options.data.first() {
        let reason = format!("{name:?} has no meaning for a bind mount");
        return Err(Error::invalid(format!("mounts[{index}].options"), reason));
    }
    let source = mount.source().clone().ok_or(Error::Missing("mounts.source"))?;
    Ok(MountKind::Bind { source, recursive })
}

/// Nothing but a procfs may be where masks, sysctls and labels expect one (CVE-2019-16884, CVE-2023-27561). A bind
/// mount on /proc itself is checked to be a procfs when its source is opened.
fn check_proc(index: usize, destination: &Path, kind: &MountKind) -> Result<(), Error> {
    let below = destination.starts_with("/proc") && destination != Path::new("/proc");
    let coverable = COVERABLE.iter().any(|path| destination == Path::new(path));
    let proper = match kind {
        MountKind::Bind { .. } => !below || coverable,
        MountKind::Filesystem { fstype, .. } if fstype == "proc" => true,
        MountKind::Filesystem { .. } | MountKind::Cgroup => !destination.starts_with("/proc"),
    };
    if proper {
        return Ok(());
    }
    let reason = format!("{destination:?} is inside /proc, which only a procfs may fill");
    Err(Error::invalid(format!("mounts[{index}].destination"), reason))
}

fn devices(spec: &Spec) -> Result<Vec<Device>, Error> {
    let configured = spec.linux().as_ref().and_then(|linux| linux.devices().as_ref());
    let mut devices = configured
        .into_iter()
        .flatten()
        .enumerate()
        .map(|(index, device)| configured_device(index, device))
        .collect::<Result<Vec<_>, _>>()?;
    for (path, major, minor) in DEFAULT_DEVICES {
        if !devices.iter().any(|device| device.path == Path::new(path)) {
            devices.push(Device {
                path: path.into(),
                kind: rustix::fs::FileType::CharacterDevice,
                number: (major, minor),
                mode: 0o666,
                uid: 0,
                gid: 0,
            });
        }
    }
    Ok(devices)
}

fn configured_device(index: usize, device: &LinuxDevice) -> Result<Device, Error> {
    let field = format!("linux.devices[{index}]");
    let number = |value: i64| {
        u32::try_from(value).map_err(|_| Error::invalid(field.as_str(), "device number out of range"))
    };
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => rustix::fs::FileType::CharacterDevice,
        LinuxDeviceType::B => rustix::fs::FileType::BlockDevice,
        LinuxDeviceType::P => rustix::fs::FileType::Fifo,
        LinuxDeviceType::A => return Err(Error::invalid(field, "type \"a\" names no device")),
    };
    let fifo = kind == rustix::fs::FileType::Fifo;
    Ok(Device {
        path: absolute(device.path()),
        kind,
        number: if fifo {
            (0, 0)
        } else {
            (number(device.major())?, number(device.minor())?)
        },
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::spec_with;
    use serde_json::{Value, json};

    fn planned(change: Value) -> Result<Plan, Error> {
        plan(&spec_with(change).unwrap())
    }

    fn one(mount: Value) -> Result<MountStep, Error> {
        Ok(planned(json!({ "mounts": [mount] }))?.mounts.remove(0))
    }

    #[test]
    fn kinds_of_mounts_are_told_apart() {
        let bind =
            one(json!({"destination": "/data", "type": "bind", "source": "/srv", "options": ["rbind"]}))
                .unwrap();
        assert!(matches!(bind.kind, MountKind::Bind { recursive: true, .. }));
        assert_eq!(bind.links, Links::Follow);
        let proc = one(json!({"destination": "/proc", "type": "proc", "source": "proc"})).unwrap();
        assert_eq!(proc.links, Links::Refuse);
        let cgroup =
            one(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"})).unwrap();
        assert_eq!(cgroup.kind, MountKind::Cgroup);
    }

    #[test]
    fn destinations_are_normalised_and_the_root_is_not_one() {
        let step = one(json!({"destination": "a/../b//./c", "type": "tmpfs"})).unwrap();
        assert_eq!(step.destination, Path::new("/b/c"));
        assert!(one(json!({"destination": "/x/..", "type": "tmpfs"})).is_err());
    }

    /// CVE-2019-16884, CVE-2019-19921, CVE-2023-27561.
    #[test]
    fn only_a_procfs_is_mounted_inside_proc() {
        assert!(one(json!({"destination": "/proc", "type": "tmpfs"})).is_err());
        assert!(
            one(json!({"destination": "/proc/sys", "type": "bind", "source": "/srv", "options": ["bind"]}))
                .is_err()
        );
        assert!(one(json!({"destination": "/x/../proc/self", "type": "tmpfs"})).is_err());
        assert!(
            one(
                json!({"destination": "/proc/meminfo", "type": "bind", "source": "/srv", "options": ["bind"]})
            )
            .is_ok()
        );
    }

    #[test]
    fn default_devices_are_added_once_and_not_to_a_bound_dev() {
        assert_eq!(planned(json!({})).unwrap().devices.len(), 6);
        let own = planned(
            json!({"linux": {"devices": [{"path": "/dev/null", "type": "c", "major": 1, "minor": 3}]}}),
        );
        assert_eq!(own.unwrap().devices.len(), 6);
        let bound =
            planned(json!({"mounts": [{"destination": "/dev", "source": "/dev", "options": ["rbind"]}]}));
        assert!(bound.unwrap().devices.is_empty());
    }

    #[test]
    fn options_that_nothing_acts_on_are_refused() {
        assert!(one(json!({"destination": "/x", "source": "/y", "options": ["bind", "size=1"]})).is_err());
        assert!(one(json!({"destination": "/x", "type": "tmpfs", "options": ["tmpcopyup"]})).is_err());
        assert!(one(json!({"destination": "/x", "type": "bind", "source": "/y"})).is_err());
    }
}

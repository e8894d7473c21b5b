//! Devices: `--device`, all of the host's for `--privileged`, and the access rules that go with them.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use serde_json::{Value, json};

use crate::api::types::host_config::DeviceMapping;
use crate::engine::error::{EngineError, Result};

/// A device node of the host that appears in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostDevice {
    /// Path in the container.
    pub path: String,
    /// `c` or `b`.
    pub kind: char,
    pub major: u64,
    pub minor: u64,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Some of `rwm`.
    pub access: String,
}

impl HostDevice {
    /// As an entry of `linux.devices`.
    pub(super) fn node(&self) -> Value {
        json!({
            "path": self.path, "type": self.kind.to_string(), "major": self.major, "minor": self.minor,
            "fileMode": self.mode, "uid": self.uid, "gid": self.gid,
        })
    }

    /// As an entry of `linux.resources.devices`.
    pub(super) fn rule(&self) -> Value {
        json!({
            "allow": true, "type": self.kind.to_string(), "major": self.major, "minor": self.minor,
            "access": self.access,
        })
    }

    fn read(host: &Path, path: String, access: &str) -> Result<Option<Self>> {
        // stat follows links: /dev/cdrom means what it points to.
        let meta =
            std::fs::metadata(host).map_err(EngineError::file("gather device information of", host))?;
        let kind = match meta.file_type() {
            t if t.is_char_device() => 'c',
            t if t.is_block_device() => 'b',
            _ => return Ok(None),
        };
        Ok(Some(Self {
            path,
            kind,
            major: nix::sys::stat::major(meta.rdev()),
            minor: nix::sys::stat::minor(meta.rdev()),
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            access: access.to_owned(),
        }))
    }
}

/// The devices of `--device`; a directory stands for all devices in it.
///
/// # Errors
/// A path that is absent or no device, or letters other than `rwm`.
pub fn host_devices(mappings: &[DeviceMapping]) -> Result<Vec<HostDevice>> {
    let mut devices = Vec::new();
    for mapping in mappings {
        let host = Path::new(&mapping.path_on_host);
        let inside = if mapping.path_in_container.is_empty() {
            &mapping.path_on_host
        } else {
            &mapping.path_in_container
        };
        let access = if mapping.cgroup_permissions.is_empty() {
            "rwm"
        } else {
            &mapping.cgroup_permissions
        };
        if access.chars().any(|c| !"rwm".contains(c)) {
            return Err(EngineError::Invalid(format!(
                "invalid device mode {access:?} of {}",
                mapping.path_on_host
            )));
        }
        if host.is_dir() {
            collect(host, inside, access, &mut devices)?;
        } else {
            let device = HostDevice::read(host, inside.clone(), access)?;
            devices.push(
                device.ok_or_else(|| {
                    EngineError::Invalid(format!("{} is not a device node", host.display()))
                })?,
            );
        }
    }
    Ok(devices)
}

/// Every device of the host, for `--privileged`.
///
/// # Errors
/// `/dev` cannot be read.
pub fn privileged_devices() -> Result<Vec<HostDevice>> {
    let mut devices = Vec::new();
    collect(Path::new("/dev"), "/dev", "rwm", &mut devices)?;
    Ok(devices)
}

/// Directories of /dev that are file systems of their own, or made by the runtime.
const SKIPPED: [&str; 6] = ["pts", "shm", "fd", "mqueue", "console", "ptmx"];

fn collect(host: &Path, inside: &str, access: &str, devices: &mut Vec<HostDevice>) -> Result<()> {
    let entries = std::fs::read_dir(host).map_err(EngineError::file("read", host))?;
    for entry in entries {
        let entry = entry.map_err(EngineError::file("read", host))?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else {
            continue;
        };
        // Links are skipped (they are not devices), and so is what vanishes while we look.
        let Ok(kind) = entry.file_type() else { continue };
        let path = format!("{inside}/{name}");
        if SKIPPED.contains(&name.as_str()) {
            continue;
        }
        if kind.is_dir() {
            collect(&entry.path(), &path, access, devices)?;
        } else if kind.is_char_device() || kind.is_block_device() {
            devices.extend(HostDevice::read(&entry.path(), path, access).ok().flatten());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(host: &str, inside: &str, access: &str) -> DeviceMapping {
        DeviceMapping {
            path_on_host: host.into(),
            path_in_container: inside.into(),
            cgroup_permissions: access.into(),
        }
    }

    #[test]
    fn a_device_is_found_by_its_numbers() {
        let devices = host_devices(&[mapping("/dev/null", "/dev/nothing", "rw")]).unwrap();
        let device = &devices[0];
        assert_eq!(
            (device.kind, device.major, device.minor, device.access.as_str()),
            ('c', 1, 3, "rw")
        );
        assert_eq!(device.node()["path"], "/dev/nothing");
    }

    #[test]
    fn what_is_no_device_is_refused() {
        assert!(host_devices(&[mapping("/nonexistent", "", "")]).is_err());
        assert!(host_devices(&[mapping("/etc/passwd", "", "")]).is_err());
        assert!(host_devices(&[mapping("/dev/null", "", "rx")]).is_err());
    }
}

//! The OCI configuration (`config.json`) of a container, with Docker's defaults. Pure: record in, document out.
//!
//! The document is written as JSON in the words of the OCI runtime specification; a test reads it back through the
//! specification's types.

mod devices;
mod filesystem;
mod process;
mod resources;

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::caps::CapabilitySet;
use super::check::SecurityOptions;
use super::record::ContainerRecord;
use super::users::Identity;
use super::{caps, check, seccomp_default};
use crate::engine::error::Result;

pub use devices::{HostDevice, host_devices, privileged_devices};
pub use process::{exec_process, hostname, rlimit_name};
pub use resources::check_devices;

const OCI_VERSION: &str = "1.2.0";

/// Docker's masked paths. The runtime hides each behind an empty file or directory of its own making.
#[rustfmt::skip]
const MASKED: [&str; 12] = [
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
    "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Docker's read-only paths.
#[rustfmt::skip]
const READ_ONLY: [&str; 5] = [
    "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
];

/// What the specification of a container is made from.
#[derive(Debug)]
pub struct SpecInput<'a> {
    pub record: &'a ContainerRecord,
    pub identity: &'a Identity,
    /// Effective hostname.
    pub hostname: &'a str,
    /// Absolute cgroup path below each hierarchy.
    pub cgroup: String,
    pub network: NetworkNamespace,
    /// The namespace of another container's init, for `--pid container:x`.
    pub pid_namespace: Option<PathBuf>,
    /// Files bound over `/etc/hosts` and the like: source, destination.
    pub etc_files: Vec<(PathBuf, &'static str)>,
    /// Secrets and configs: source, destination.
    pub injected: Vec<(PathBuf, String)>,
    pub devices: Vec<HostDevice>,
}

/// Which network namespace a container lives in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkNamespace {
    /// This one, prepared by netd or owned by another container.
    Path(PathBuf),
    /// The host's.
    Host,
}

/// The whole configuration.
///
/// # Errors
/// A setting that the checks of creation would have refused too.
pub fn build(input: &SpecInput<'_>) -> Result<Value> {
    let host = &input.record.host_config;
    let caps = caps::resolve(host.privileged, &host.cap_add, &host.cap_drop)?;
    let security = check::security_options(&host.security_opt)?;
    let mut spec = json!({
        "ociVersion": OCI_VERSION,
        "root": { "path": "rootfs", "readonly": host.readonly_rootfs },
        "process": process::init_process(input, &caps, &security),
        "mounts": filesystem::mounts(input),
        "linux": linux(input, &caps, &security),
    });
    if host.uts_mode != "host" {
        spec["hostname"] = json!(input.hostname);
        if !input.record.config.domainname.is_empty() {
            spec["domainname"] = json!(input.record.config.domainname);
        }
    }
    if !host.annotations.is_empty() {
        spec["annotations"] = json!(host.annotations);
    }
    Ok(spec)
}

fn linux(input: &SpecInput<'_>, caps: &CapabilitySet, security: &SecurityOptions) -> Value {
    let host = &input.record.host_config;
    let mut linux = json!({
        "cgroupsPath": input.cgroup,
        "namespaces": namespaces(input),
        "devices": input.devices.iter().map(HostDevice::node).collect::<Vec<_>>(),
        "resources": resources::resources(host, &input.devices),
        "maskedPaths": paths(host.masked_paths.as_deref(), &MASKED, host.privileged),
        "readonlyPaths": paths(host.readonly_paths.as_deref(), &READ_ONLY, host.privileged),
    });
    if !host.sysctls.is_empty() {
        linux["sysctl"] = json!(host.sysctls);
    }
    if let Some(propagation) = filesystem::root_propagation(&input.record.mounts) {
        linux["rootfsPropagation"] = json!(propagation);
    }
    if !host.privileged && !security.seccomp_unconfined {
        linux["seccomp"] = seccomp_default::profile(caps);
    }
    linux
}

fn paths(wanted: Option<&[String]>, default: &[&str], privileged: bool) -> Value {
    match wanted {
        _ if privileged => json!([]),
        Some(wanted) => json!(wanted),
        None => json!(default),
    }
}

fn namespaces(input: &SpecInput<'_>) -> Vec<Value> {
    let host = &input.record.host_config;
    let mut namespaces = vec![json!({ "type": "mount" })];
    if host.uts_mode != "host" {
        namespaces.push(json!({ "type": "uts" }));
    }
    if host.ipc_mode != "host" {
        namespaces.push(json!({ "type": "ipc" }));
    }
    if host.cgroupns_mode != "host" {
        namespaces.push(json!({ "type": "cgroup" }));
    }
    match &input.pid_namespace {
        Some(path) => namespaces.push(namespace_at("pid", path)),
        None if host.pid_mode == "host" => {}
        None => namespaces.push(json!({ "type": "pid" })),
    }
    if let NetworkNamespace::Path(path) = &input.network {
        namespaces.push(namespace_at("network", path));
    }
    namespaces
}

fn namespace_at(kind: &str, path: &Path) -> Value {
    json!({ "type": kind, "path": path })
}

/// An object from pairs, leaving out those without a value.
fn object(pairs: impl IntoIterator<Item = (&'static str, Option<Value>)>) -> Map<String, Value> {
    pairs
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .collect()
}

#[cfg(test)]
mod tests;

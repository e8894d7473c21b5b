//! `mounts`: Docker's default file systems, then the container's own mounts, parents first.

use serde_json::{Value, json};

use super::SpecInput;
use crate::engine::mounts::{MountSource, ResolvedMount};

/// Every mount in the order in which the runtime makes them.
pub(super) fn mounts(input: &SpecInput<'_>) -> Vec<Value> {
    let own = &input.record.mounts;
    let mut mounts = defaults(input);
    mounts.retain(|mount| !own.iter().any(|m| mount["destination"] == m.destination.as_str()));
    for (source, destination) in &input.etc_files {
        if !own.iter().any(|mount| mount.destination == *destination) {
            let mode = if input.record.host_config.readonly_rootfs {
                "ro"
            } else {
                "rw"
            };
            mounts.push(bind(json!(source), destination, vec!["rbind", "rprivate", mode]));
        }
    }
    mounts.extend(own.iter().map(own_mount));
    for (source, destination) in &input.injected {
        mounts.push(bind(json!(source), destination, vec!["bind", "rprivate", "ro"]));
    }
    mounts
}

/// The least propagation of the root that lets the bind mounts have theirs, as Docker computes it.
pub(super) fn root_propagation(mounts: &[ResolvedMount]) -> Option<&'static str> {
    let of = |mount: &ResolvedMount| match &mount.source {
        MountSource::Bind { propagation, .. } => propagation.trim_start_matches('r').to_owned(),
        _ => String::new(),
    };
    // "rslave" and "rshared" lose their r here; "rprivate" becomes "private", which asks for nothing.
    if mounts.iter().any(|m| of(m) == "shared") {
        Some("shared")
    } else if mounts.iter().any(|m| of(m) == "slave") {
        Some("rslave")
    } else {
        None
    }
}

fn defaults(input: &SpecInput<'_>) -> Vec<Value> {
    let host = &input.record.host_config;
    let access = if host.privileged { "rw" } else { "ro" };
    let mut mounts = vec![
        mount("/proc", "proc", "proc", vec!["nosuid", "noexec", "nodev"]),
        mount(
            "/dev",
            "tmpfs",
            "tmpfs",
            vec!["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            vec![
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        mount(
            "/sys",
            "sysfs",
            "sysfs",
            vec!["nosuid", "noexec", "nodev", access],
        ),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            vec![access, "nosuid", "noexec", "nodev"],
        ),
    ];
    // A queue file system shows the queues of the IPC namespace it is mounted in, the host's too, wherever (and whether)
    // the host has mounted its own.
    mounts.push(mount(
        "/dev/mqueue",
        "mqueue",
        "mqueue",
        vec!["nosuid", "noexec", "nodev"],
    ));
    if host.ipc_mode == "host" {
        mounts.push(bind(json!("/dev/shm"), "/dev/shm", vec!["rbind", "rprivate"]));
    } else if host.ipc_mode != "none" {
        let size = format!("size={}", host.shm_size);
        mounts.push(mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            vec!["nosuid", "noexec", "nodev", "mode=1777", &size],
        ));
    }
    mounts
}

fn own_mount(own: &ResolvedMount) -> Value {
    let mode = if own.read_only { "ro" } else { "rw" };
    match &own.source {
        MountSource::Bind {
            path,
            propagation,
            recursive,
        } => {
            let kind = if *recursive { "rbind" } else { "bind" };
            bind(json!(path), &own.destination, vec![kind, propagation, mode])
        }
        MountSource::Volume { path, .. } => {
            bind(json!(path), &own.destination, vec!["rbind", "rprivate", mode])
        }
        MountSource::Tmpfs { options } => mount(
            &own.destination,
            "tmpfs",
            "tmpfs",
            options.iter().map(String::as_str).collect(),
        ),
    }
}

fn mount(destination: &str, kind: &str, source: &str, options: Vec<&str>) -> Value {
    json!({ "destination": destination, "type": kind, "source": source, "options": options })
}

fn bind(source: Value, destination: &str, options: Vec<&str>) -> Value {
    json!({ "destination": destination, "type": "bind", "source": source, "options": options })
}

//! `--sysctl`: only keys that belong to a namespace of the container, and values that cannot smuggle more
//! (CVE-2022-0811).

use super::error::{EngineError, Result};
use crate::api::types::host_config::HostConfig;

/// Keys of the IPC namespace, ipc_namespaces(7) and mq_overview(7).
#[rustfmt::skip]
const IPC_KEYS: [&str; 8] = [
    "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax",
    "kernel.shmmni", "kernel.shm_rmid_forced",
];

/// Checks every sysctl of a container.
///
/// # Errors
/// The first that is not namespaced, or whose namespace is shared with the host, or whose value is suspect.
pub fn check(host: &HostConfig) -> Result<()> {
    host.sysctls
        .iter()
        .try_for_each(|(key, value)| check_one(host, key, value))
}

fn check_one(host: &HostConfig, key: &str, value: &str) -> Result<()> {
    let refuse = |why: &str| {
        Err(EngineError::Invalid(format!(
            "sysctl \"{key}\" is not allowed: {why}"
        )))
    };
    if !key
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/'))
        || key.contains("..")
    {
        return refuse("its name has characters that no sysctl has");
    }
    if value.chars().any(|c| c.is_control() && c != '\t' || c == '+') {
        return refuse("its value has a '+' or a control character");
    }
    if IPC_KEYS.contains(&key) || key.starts_with("fs.mqueue.") {
        return if host.ipc_mode == "host" {
            refuse("the IPC namespace is the host's")
        } else {
            Ok(())
        };
    }
    if key.starts_with("net.") {
        let shared = host.network_mode == "host" || host.network_mode.starts_with("container:");
        return if shared {
            refuse("the network namespace is not the container's own")
        } else {
            Ok(())
        };
    }
    match key {
        "kernel.domainname" if host.uts_mode != "host" => Ok(()),
        _ => refuse("it belongs to no namespace of the container"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(network: &str, key: &str, value: &str) -> bool {
        let host = HostConfig {
            network_mode: network.into(),
            sysctls: [(key.to_owned(), value.to_owned())].into(),
            ..Default::default()
        };
        check(&host).is_ok()
    }

    #[test]
    fn only_namespaced_keys_with_plain_values() {
        assert!(allowed("bridge", "net.ipv4.ip_unprivileged_port_start", "0"));
        assert!(allowed("bridge", "net.ipv4.ip_local_port_range", "1024 2000"));
        assert!(allowed("bridge", "kernel.shmmax", "5"));
        for (network, key, value) in [
            ("host", "net.core.somaxconn", "1"),
            ("bridge", "kernel.core_pattern", "|/x"),
            ("bridge", "kernel.shmmax", "1+kernel.core_pattern=|/x"),
            ("bridge", "kernel.shmmax", "1\n2"),
            ("bridge", "net.ipv4.a b", "1"),
            ("bridge", "net/../kernel/core_pattern", "1"),
        ] {
            assert!(!allowed(network, key, value), "{network} {key} {value:?}");
        }
    }
}

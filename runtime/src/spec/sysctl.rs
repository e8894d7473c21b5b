//! Sysctls: which may be set, and where they are under /proc/sys.
//!
//! Only settings that belong to a namespace of the container's own are accepted (Linux,
//! Documentation/admin-guide/sysctl); anything else would be the host's.

use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::{Error, has};

/// One setting to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sysctl {
    /// Path below the root of a procfs: `sys/net/ipv4/ip_forward`.
    pub(crate) path: String,
    /// Value to write.
    pub(crate) value: String,
}

/// Settings of the IPC namespace outside `fs.mqueue.` (ipc/ipc_sysctl.c).
const IPC: [&str; 9] = [
    "kernel/auto_msgmni",
    "kernel/msgmax",
    "kernel/msgmnb",
    "kernel/msgmni",
    "kernel/sem",
    "kernel/shmall",
    "kernel/shmmax",
    "kernel/shmmni",
    "kernel/shm_rmid_forced",
];

/// The settings of `linux.sysctl` in the order of their names, each checked against the container's namespaces.
pub(crate) fn sysctls(spec: &Spec) -> Result<Vec<Sysctl>, Error> {
    let Some(wanted) = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref()) else {
        return Ok(Vec::new());
    };
    let mut settings = wanted
        .iter()
        .map(|(key, value)| setting(spec, key, value))
        .collect::<Result<Vec<_>, _>>()?;
    settings.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(settings)
}

fn setting(spec: &Spec, key: &str, value: &str) -> Result<Sysctl, Error> {
    let refuse = |reason: &str| Error::invalid(format!("linux.sysctl[{key:?}]"), reason);
    let path = path_of(key).ok_or_else(|| refuse("is no sysctl name"))?;
    if value.contains(|c: char| c.is_control() && c != '\t') || value.contains('+') {
        return Err(refuse("a value holds no line break, control character or '+'"));
    }
    let owner = owner(&path).ok_or_else(|| refuse("is not a setting of a namespace"))?;
    if !has(spec, owner) {
        return Err(refuse(&format!(
            "needs a {owner} namespace of the container's own"
        )));
    }
    Ok(Sysctl {
        path: format!("sys/{path}"),
        value: value.to_owned(),
    })
}

/// `net.ipv4.conf.eth0/1.x` as `sysctl(8)` reads it: the first separator found is the separator, the other one is
/// part of a name.
fn path_of(key: &str) -> Option<String> {
    let path: String = if key.find('.') < key.find('/') && key.contains('.') || !key.contains('/') {
        key.chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect()
    } else {
        key.to_owned()
    };
    let sound = path.bytes().all(|b| b.is_ascii_graphic())
        && path
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..");
    sound.then_some(path)
}

fn owner(path: &str) -> Option<LinuxNamespaceType> {
    match path {
        path if path.starts_with("net/") => Some(LinuxNamespaceType::Network),
        path if path.starts_with("fs/mqueue/") || IPC.contains(&path) => Some(LinuxNamespaceType::Ipc),
        "kernel/domainname" => Some(LinuxNamespaceType::Uts),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::tests::spec_with;
    use serde_json::json;

    fn plan(key: &str, value: &str) -> Result<Vec<Sysctl>, Error> {
        let spec = spec_with(json!({"linux": {
            "namespaces": [{"type": "mount"}, {"type": "network"}],
            "sysctl": {key: value},
        }}));
        sysctls(&spec.unwrap())
    }

    #[test]
    fn a_setting_of_an_own_namespace_is_accepted() {
        assert_eq!(
            plan("net.ipv4.ip_forward", "1").unwrap()[0].path,
            "sys/net/ipv4/ip_forward"
        );
        assert_eq!(
            plan("net.ipv4.conf.eth0/1.forwarding", "1").unwrap()[0].path,
            "sys/net/ipv4/conf/eth0.1/forwarding"
        );
    }

    /// CVE-2022-0811: a value that smuggles a second setting; and settings of the host.
    #[test]
    fn the_hosts_settings_and_smuggled_values_are_refused() {
        for key in [
            "kernel.core_pattern",
            "vm.overcommit_memory",
            "kernel.msgmax",
            "net/../kernel/core_pattern",
            "",
        ] {
            assert!(plan(key, "1").is_err(), "{key}");
        }
        for value in ["1\n2", "1+kernel.core_pattern=x"] {
            assert!(plan("net.ipv4.ip_forward", value).is_err(), "{value:?}");
        }
    }
}

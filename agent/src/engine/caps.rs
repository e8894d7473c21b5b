//! Linux capabilities of a container: Docker's default fourteen, `--cap-add`, `--cap-drop`, `--privileged`.
//!
//! Only bounding, effective and permitted sets are ever filled: inheritable and ambient stay empty (CVE-2022-29162).

use std::collections::BTreeSet;

use super::error::{EngineError, Result};

/// Every capability of Linux 5.9 and later, by number (capabilities(7)).
#[rustfmt::skip]
pub const ALL: [&str; 41] = [
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL",
    "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ",
    "PERFMON", "BPF", "CHECKPOINT_RESTORE",
];

/// Docker's default set.
#[rustfmt::skip]
pub const DEFAULT: [&str; 14] = [
    "CHOWN", "DAC_OVERRIDE", "FSETID", "FOWNER", "MKNOD", "NET_RAW", "SETGID", "SETUID", "SETFCAP",
    "SETPCAP", "NET_BIND_SERVICE", "SYS_CHROOT", "KILL", "AUDIT_WRITE",
];

/// A set of capabilities, names without `CAP_`.
pub type CapabilitySet = BTreeSet<&'static str>;

/// The capabilities of a container. `ALL` in `add` starts from all, `ALL` in `drop` from none, as Docker does.
///
/// # Errors
/// [`EngineError::Invalid`] naming an unknown capability.
pub fn resolve(privileged: bool, add: &[String], drop: &[String]) -> Result<CapabilitySet> {
    let (add_all, add) = names(add)?;
    let (drop_all, drop) = names(drop)?;
    if privileged {
        return Ok(ALL.into());
    }
    let base: CapabilitySet = match (add_all, drop_all) {
        (true, _) => ALL.into(),
        (false, true) => CapabilitySet::new(),
        (false, false) => DEFAULT.into(),
    };
    // With ALL dropped, only what is added by name remains; with ALL added, only what is dropped by name goes.
    let dropped = if drop_all && !add_all {
        CapabilitySet::new()
    } else {
        drop
    };
    Ok(base
        .difference(&dropped)
        .copied()
        .chain(add.iter().copied().filter(|c| !dropped.contains(c)))
        .collect())
}

fn names(words: &[String]) -> Result<(bool, CapabilitySet)> {
    let mut all = false;
    let mut set = CapabilitySet::new();
    for word in words {
        let upper = word.trim().to_ascii_uppercase();
        let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
        match ALL.iter().find(|known| **known == bare) {
            Some(known) => drop(set.insert(known)),
            None if bare == "ALL" => all = true,
            None => {
                return Err(EngineError::Invalid(format!(
                    "invalid capability: unknown capability: \"{word}\""
                )));
            }
        }
    }
    Ok((all, set))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|w| (*w).to_owned()).collect()
    }

    /// `CapEff` as /proc/<pid>/status shows it.
    fn mask(set: &CapabilitySet) -> u64 {
        ALL.iter()
            .enumerate()
            .filter(|(_, c)| set.contains(**c))
            .map(|(bit, _)| 1u64 << bit)
            .sum()
    }

    #[test]
    fn default_is_dockers_mask() {
        assert_eq!(mask(&resolve(false, &[], &[]).unwrap()), 0xa804_25fb);
    }

    #[test]
    fn add_and_drop() {
        let set = resolve(false, &words(&["cap_net_admin"]), &words(&["MKNOD"])).unwrap();
        assert!(set.contains("NET_ADMIN") && !set.contains("MKNOD") && set.len() == 14);
        assert_eq!(
            resolve(false, &words(&["CHOWN"]), &words(&["ALL"])).unwrap(),
            CapabilitySet::from(["CHOWN"])
        );
        let set = resolve(false, &words(&["ALL"]), &words(&["SYS_ADMIN"])).unwrap();
        assert!(set.len() == 40 && !set.contains("SYS_ADMIN"));
        assert!(resolve(false, &[], &words(&["all"])).unwrap().is_empty());
        assert_eq!(
            mask(&resolve(true, &[], &words(&["ALL"])).unwrap()),
            0x1ff_ffff_ffff
        );
    }

    #[test]
    fn unknown_capability_is_named() {
        let error = resolve(false, &words(&["CAP_FLY"]), &[]).unwrap_err().to_string();
        assert!(error.contains("CAP_FLY"), "{error}");
    }
}

//! Linux capabilities of a container: Docker's default fourteen, `--cap-add`, `--cap-drop`, `--privileged`.
//!
//! Only bounding, effective and permitted sets are ever filled: inheritable and ambient stay empty (CVE-2022-29162).

use std::collections::BTreeSet;
use std::sync::LazyLock;

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

/// What this daemon may hand on: as in Docker, "all" is all that the engine has itself, which on a machine that is a
/// container or a restricted virtual one is less than the kernel knows.
static HELD: LazyLock<CapabilitySet> = LazyLock::new(|| {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    held(&status).unwrap_or_else(|| ALL.into())
});

/// The bounding and permitted set of a /proc/<pid>/status.
fn held(status: &str) -> Option<CapabilitySet> {
    let mask = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    let mask = mask("CapBnd:")? & mask("CapPrm:")?;
    let names = ALL.iter().enumerate();
    Some(
        names
            .filter(|(bit, _)| mask & (1 << bit) != 0)
            .map(|(_, name)| *name)
            .collect(),
    )
}

/// The capabilities of a container. `ALL` in `add` starts from all, `ALL` in `drop` from none, as Docker does.
///
/// # Errors
/// [`EngineError::Invalid`] naming an unknown capability.
pub fn resolve(privileged: bool, add: &[String], drop: &[String]) -> Result<CapabilitySet> {
    let (add_all, add) = names(add)?;
    let (drop_all, drop) = names(drop)?;
    if privileged {
        return Ok(HELD.clone());
    }
    let base: CapabilitySet = match (add_all, drop_all) {
        (true, _) => HELD.clone(),
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
        assert!(
            set.len() == HELD.len() - usize::from(HELD.contains("SYS_ADMIN")) && !set.contains("SYS_ADMIN")
        );
        assert!(resolve(false, &[], &words(&["all"])).unwrap().is_empty());
        assert_eq!(resolve(true, &[], &words(&["ALL"])).unwrap(), *HELD);
    }

    #[test]
    fn all_is_what_the_daemon_has() {
        let all = held("CapPrm:\t000001ffffffffff\nCapBnd:\t000001ffffffffff\n").unwrap();
        assert_eq!(mask(&all), 0x1ff_ffff_ffff);
        let less = held("CapPrm:\t000001ffffffffff\nCapBnd:\t000001fffeffffff\n").unwrap();
        assert!(less.len() == 40 && !less.contains("SYS_RESOURCE"));
        assert_eq!(held("Name:\tx\n"), None);
    }

    #[test]
    fn unknown_capability_is_named() {
        let error = resolve(false, &words(&["CAP_FLY"]), &[]).unwrap_err().to_string();
        assert!(error.contains("CAP_FLY"), "{error}");
    }
}

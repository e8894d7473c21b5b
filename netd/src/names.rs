//! Names that are computed, not stored: the same input always gives the same link, table or namespace file, so a restarted
//! agent recognises its own.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// The uplink's end inside the fabric.
pub(crate) const UPLINK: &str = "uplink";
/// The WireGuard device, inside the fabric.
pub(crate) const TUNNELS: &str = "wg";
/// The device inside the fabric that leads to the other nodes' fabrics.
pub(crate) const TRANSIT: &str = "transit";
/// Beginning of the bridge ports of containers.
pub(crate) const PORT_PREFIX: &str = "ve";
/// Beginning of bridges.
pub(crate) const BRIDGE_PREFIX: &str = "br-";
/// Beginning of VXLAN devices.
pub(crate) const VXLAN_PREFIX: &str = "vx-";

/// First eight hexadecimal digits that stand for the instance in the host's namespace.
fn short(text: &str) -> String {
    hash(text, 4)
}

fn hash(text: &str, bytes: usize) -> String {
    hex::encode(&Sha256::digest(text.as_bytes())[..bytes])
}

/// The uplink's end in the host's namespace.
pub(crate) fn host_uplink(instance: &str) -> String {
    format!("shoal-{}", short(instance))
}

/// The nftables table in the host's namespace.
pub(crate) fn host_table(instance: &str) -> String {
    format!("shoal_{}", short(instance))
}

/// The nftables table beside it that guards the data path.
pub(crate) fn underlay_table(instance: &str) -> String {
    format!("{}_underlay", host_table(instance))
}

/// The alias that says whose link it is.
pub(crate) fn alias(instance: &str) -> String {
    format!("shoal:{instance}")
}

/// The bridge of a network: `br-` and the beginning of the id, as Docker names it; a hash if that would be ambiguous or no
/// good as a name.
pub(crate) fn bridge(network: &str) -> String {
    format!("{BRIDGE_PREFIX}{}", tail(network))
}

/// The VXLAN device of a network.
pub(crate) fn vxlan(network: &str) -> String {
    format!("{VXLAN_PREFIX}{}", tail(network))
}

fn tail(network: &str) -> String {
    match network.get(..12) {
        Some(head) if head.bytes().all(|b| b.is_ascii_alphanumeric()) => head.to_owned(),
        _ => hash(network, 6),
    }
}

/// The bridge port of one sandbox on one network.
pub(crate) fn port(sandbox: &str, network: &str) -> String {
    format!("{PORT_PREFIX}{}", hash(&format!("{sandbox}/{network}"), 6))
}

/// Ids become file names.
pub(crate) fn check_id(id: &str) -> Result<()> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if id.is_empty() || id.len() > 128 || id.starts_with('.') || id == "fabric" || !id.bytes().all(good) {
        return Err(Error::InvalidId(id.to_owned()));
    }
    Ok(())
}

/// `<run-dir>/netns`: one file per namespace.
pub(crate) fn netns_dir(run_dir: &Path) -> PathBuf {
    run_dir.join("netns")
}

pub(crate) fn netns(run_dir: &Path, id: &str) -> PathBuf {
    netns_dir(run_dir).join(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_names_fit_the_kernel_and_do_not_collide() {
        let long = "a".repeat(64);
        for name in [
            host_uplink(&long),
            bridge(&long),
            bridge("x"),
            vxlan(&long),
            port(&long, &long),
            UPLINK.into(),
        ] {
            assert!(name.len() < 16, "{name}");
        }
        assert_ne!(port("a", "bc"), port("ab", "c"));
        assert_eq!(bridge("0123456789abcdef"), "br-0123456789ab");
    }

    #[test]
    fn an_id_cannot_leave_its_directory() {
        for bad in ["", ".", "..", "../x", "a/b", "fabric", "a\0b"] {
            assert!(check_id(bad).is_err(), "{bad}");
        }
        check_id("web.1.abc-DEF_9").unwrap();
    }
}

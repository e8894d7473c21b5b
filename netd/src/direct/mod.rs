//! Packets between nodes without encapsulation, where that works.
//!
//! A container of another node is then one route away: fabric → host → that node's address → its host → its fabric. No
//! header, no second checksum, no second lookup; but what lies between must carry packets with containers' addresses, and
//! clouds, switches with port security and other firewalls often do not. So it is tried, over the whole way and both
//! directions, again and again: each node has a *probe address* in its fabric that follows from its underlay address, and
//! asks those of the others. A node that answers is reached directly, one that stops to is reached by VXLAN again, which
//! always stays set up.
//!
//! - `judge`: who is reached directly, from what was asked and answered; plain data
//! - `prober`: asks and answers

mod judge;
mod prober;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use sha2::{Digest, Sha256};

pub(crate) use prober::Prober;

/// UDP port of probes, in fabrics only.
pub(crate) const PORT: u16 = 7946;

/// Whom to ask, and as whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// Our probe address; `None`: nobody is asked.
    pub(crate) own: Option<Ipv4Addr>,
    /// Probe addresses of the nodes that might be reached directly.
    pub(crate) nodes: BTreeMap<String, Ipv4Addr>,
}

impl View {
    /// Nodes of which two have one probe address cannot be told apart: both are left out.
    pub(crate) fn new(own: Ipv4Addr, nodes: impl IntoIterator<Item = (String, Ipv4Addr)>) -> Self {
        let own = probe_address(own);
        let nodes: Vec<_> = nodes
            .into_iter()
            .map(|(node, underlay)| (node, probe_address(underlay)))
            .collect();
        let mut seen = BTreeSet::from([own]);
        let twice: BTreeSet<_> = nodes
            .iter()
            .filter(|(_, address)| !seen.insert(*address))
            .map(|(_, address)| *address)
            .collect();
        Self {
            own: Some(own),
            nodes: nodes
                .into_iter()
                .filter(|(_, address)| !twice.contains(address))
                .collect(),
        }
    }
}

/// The probe address of the node at this underlay address: 28 bits of a hash in 240.0.0.0/4, which is reserved (RFC 1112),
/// so no network has it, and which Linux forwards like any other.
pub(crate) fn probe_address(underlay: Ipv4Addr) -> Ipv4Addr {
    let digest = Sha256::digest(underlay.octets());
    let hash = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]) & 0x0fff_ffff;
    // 255.255.255.255 is taken.
    Ipv4Addr::from(0xf000_0000 | hash.min(0x0fff_fffe))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_be_told_apart_is_not_asked() {
        let address = |last| Ipv4Addr::new(192, 0, 2, last);
        let view = View::new(
            address(1),
            [
                ("a".to_owned(), address(2)),
                ("b".to_owned(), address(3)),
                ("c".to_owned(), address(3)),
                ("me".to_owned(), address(1)),
            ],
        );
        assert_eq!(view.nodes.keys().collect::<Vec<_>>(), ["a"]);
        assert!(view.nodes["a"].octets()[0] >= 240);
        assert_ne!(view.own, view.nodes.get("a").copied());
    }
}

//! Packets between nodes without encapsulation, where that works.
//!
//! A container of another node is then one route away: fabric → host → that node's address → its host → its fabric. No
//! header, no second checksum, no second lookup; but what lies between must carry packets with containers' addresses, and
//! clouds, switches with port security and other firewalls often do not. So it is tried, over the whole way and both
//! directions, again and again: each node has a *probe address* in its fabric that follows from its underlay address, and
//! asks those of the others. A node that answers is reached directly, one that stops to is reached by VXLAN again, which
//! always stays set up.
//!
//! IPv4 and IPv6 are two ways, each tried by itself: one may be open and the other closed.
//!
//! - `judge`: who is reached directly, from what was asked and answered; plain data
//! - `prober`: asks and answers
//! - `routes`: which routes and addresses that takes; plain data

mod judge;
mod prober;
mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sha2::{Digest, Sha256};

use crate::nft::Ip;

pub(crate) use prober::Prober;
pub(crate) use routes::{Container, Hop, Near, Routes, Situation, difference};

/// UDP port of probes, in fabrics only.
pub(crate) const PORT: u16 = 7946;
/// Of IPv6 probe addresses: a unique local one of 40 bits that stand for themselves (RFC 4193), and a subnet.
const PREFIX6: u64 = 0xfd53_686f_616c_0000;

/// Whom to ask, and as whom, over one IP version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// Our probe address; `None`: nobody is asked.
    pub(crate) own: Option<IpAddr>,
    /// Probe addresses of the nodes that might be reached directly.
    pub(crate) nodes: BTreeMap<String, IpAddr>,
}

impl View {
    /// Nodes are given by their underlay addresses. Those of which two have one probe address cannot be told apart: both are
    /// left out.
    pub(crate) fn new(ip: Ip, own: IpAddr, nodes: impl IntoIterator<Item = (String, IpAddr)>) -> Self {
        let own = probe_address(ip, own);
        let nodes: Vec<_> = nodes
            .into_iter()
            .map(|(node, underlay)| (node, probe_address(ip, underlay)))
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

/// The probe address, of either IP version, of the node at this underlay address. Linux forwards both like any other, and
/// no network has them: of IPv4 28 bits of a hash in 240.0.0.0/4, which is reserved (RFC 1112), of IPv6 64 bits in a prefix
/// of our own.
fn probe_address(ip: Ip, underlay: IpAddr) -> IpAddr {
    let digest = match underlay {
        IpAddr::V4(address) => Sha256::digest(address.octets()),
        IpAddr::V6(address) => Sha256::digest(address.octets()),
    };
    let hash = digest
        .iter()
        .take(8)
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    match ip {
        Ip::V4 => {
            // 255.255.255.255 is taken.
            let hash = (hash >> 32) as u32 & 0x0fff_ffff;
            Ipv4Addr::from(0xf000_0000 | hash.min(0x0fff_fffe)).into()
        }
        Ip::V6 => Ipv6Addr::from(u128::from(PREFIX6) << 64 | u128::from(hash)).into(),
    }
}

/// Whether an address is of the kind that [`View`]s have.
pub(crate) fn is_probe_address(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[0] >= 240,
        IpAddr::V6(address) => u128::from(address) >> 64 == u128::from(PREFIX6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_be_told_apart_is_not_asked() {
        let address = |last| Ipv4Addr::new(192, 0, 2, last).into();
        for ip in Ip::BOTH {
            let view = View::new(
                ip,
                address(1),
                [
                    ("a".to_owned(), address(2)),
                    ("b".to_owned(), address(3)),
                    ("c".to_owned(), address(3)),
                    ("me".to_owned(), address(1)),
                ],
            );
            assert_eq!(view.nodes.keys().collect::<Vec<_>>(), ["a"]);
            assert_eq!(Ip::of(view.nodes["a"]), ip);
            assert!(is_probe_address(view.nodes["a"]));
            assert_ne!(view.own, view.nodes.get("a").copied());
        }
    }

    #[test]
    fn a_probe_address_follows_from_an_underlay_address_of_either_version() {
        let of = |ip, underlay: &str| probe_address(ip, underlay.parse().unwrap()).to_string();
        // What nodes of other versions compute must be the same for ever.
        assert_eq!(of(Ip::V4, "192.0.2.2"), "251.199.222.5");
        assert_eq!(of(Ip::V4, "2001:db8::2"), "249.68.234.35");
        assert_eq!(of(Ip::V6, "192.0.2.2"), "fd53:686f:616c:0:bc7:de05:ae97:1a10");
        assert!(!is_probe_address("10.0.0.1".parse().unwrap()));
        assert!(!is_probe_address("fd00::1".parse().unwrap()));
    }
}

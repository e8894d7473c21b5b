//! How large a packet of a network may be, so that it fits the underlay on every way.

use std::net::IpAddr;

/// Outer Ethernet is not counted; inner Ethernet, VXLAN, UDP and IP are.
const VXLAN_OVER_IPV4: u32 = 14 + 8 + 8 + 20;
const VXLAN_OVER_IPV6: u32 = 14 + 8 + 8 + 40;
/// WireGuard's header and tag, UDP, and the larger IP header, as its own tools reckon.
pub(crate) const WIREGUARD: u32 = 80;
/// Every IPv4 host takes this much (RFC 1122).
const LEAST: u32 = 576;
const USUAL: u32 = 1500;

/// What limits packets between this node and the others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Of this node's link, and of its routes to the others.
    pub(crate) here: Vec<u32>,
    /// Of the others' links, as they say; 0: not known.
    pub(crate) there: Vec<u32>,
}

impl Limits {
    /// Bytes of an outer packet.
    pub(crate) fn underlay(&self) -> u32 {
        let known = self.here.iter().chain(&self.there).copied();
        known.filter(|mtu| *mtu >= LEAST).min().unwrap_or(USUAL)
    }
}

/// Bytes of a packet inside, of a network whose outer packets may have `underlay`.
pub(crate) fn fitting_mtu(underlay: u32, address: IpAddr, encrypted: bool) -> u32 {
    let overhead = match (encrypted, address) {
        // Tunnels' addresses are IPv6, whatever the underlay is.
        (true, _) => WIREGUARD + VXLAN_OVER_IPV6,
        (false, IpAddr::V4(_)) => VXLAN_OVER_IPV4,
        (false, IpAddr::V6(_)) => VXLAN_OVER_IPV6,
    };
    underlay.saturating_sub(overhead).clamp(LEAST, 65_535 - overhead)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_way_decides() {
        let limits = |here: &[u32], there: &[u32]| Limits {
            here: here.to_vec(),
            there: there.to_vec(),
        };
        assert_eq!(limits(&[9000, 1400], &[9000]).underlay(), 1400);
        assert_eq!(limits(&[9000], &[0, 1500]).underlay(), 1500, "0: not known");
        assert_eq!(limits(&[], &[]).underlay(), 1500);
    }

    #[test]
    fn headers_are_subtracted() {
        let (v4, v6) = ("192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        assert_eq!(fitting_mtu(1500, v4, false), 1450);
        assert_eq!(fitting_mtu(1500, v6, false), 1430);
        assert_eq!(fitting_mtu(1500, v4, true), 1350);
        assert_eq!(fitting_mtu(9000, v4, false), 8950);
        assert_eq!(fitting_mtu(65536, v4, false), 65485, "loopback");
    }
}

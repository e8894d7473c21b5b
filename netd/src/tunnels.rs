//! Encryption between nodes, as plain data: who is at the other end of which tunnel.
//!
//! Each node has one WireGuard device. The VXLAN devices of encrypted networks are made inside the fabric and send to the
//! tunnels' addresses, so that nothing of theirs can leave in clear: without a tunnel there is no route. A tunnel's address
//! follows from the public key of the node, so nobody has to hand out or agree upon addresses, and WireGuard lets a peer
//! speak from that address alone (cryptokey routing).

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnet::Ipv6Net;
use sha2::{Digest, Sha256};

use crate::netlink::{PublicKey, WireGuardPeer};
use crate::types::{Underlay, UnderlayPeer};

/// All tunnels' addresses: a prefix of unique local addresses (RFC 4193) of our own.
const PREFIX: [u8; 4] = [0xfd, 0x5e, 0x0a, 0x1e];
/// WireGuard beside VXLAN: its UDP port is the next one.
const PORT_OFFSET: u16 = 1;
/// The network of all tunnels' addresses.
pub(crate) fn prefix() -> Ipv6Net {
    let mut octets = [0; 16];
    octets[..PREFIX.len()].copy_from_slice(&PREFIX);
    Ipv6Net::new_assert(octets.into(), 32)
}

/// The address of the node with this key.
pub(crate) fn address(key: &PublicKey) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets[..PREFIX.len()].copy_from_slice(&PREFIX);
    octets[PREFIX.len()..].copy_from_slice(&Sha256::digest(key.0)[..12]);
    octets.into()
}

/// The UDP port of tunnels.
pub(crate) fn port(underlay: &Underlay) -> u16 {
    underlay.port.saturating_add(PORT_OFFSET)
}

/// The key of another node, if it has one.
pub(crate) fn key_of(peer: &UnderlayPeer) -> Option<PublicKey> {
    let bytes = STANDARD.decode(peer.public_key.as_ref()?).ok()?;
    bytes.try_into().ok().map(PublicKey)
}

/// As it is told to others.
pub(crate) fn write_key(key: &PublicKey) -> String {
    STANDARD.encode(key.0)
}

/// The tunnels to all nodes that can encrypt.
pub(crate) fn wanted(underlay: &Underlay) -> BTreeMap<PublicKey, WireGuardPeer> {
    let port = port(underlay);
    let tunnel = |peer: &UnderlayPeer| {
        let public_key = key_of(peer)?;
        let tunnel = WireGuardPeer {
            public_key,
            endpoint: Some(SocketAddr::new(peer.address, port)),
            address: Some(address(&public_key)),
        };
        Some((public_key, tunnel))
    };
    underlay.peers.iter().filter_map(tunnel).collect()
}

/// What is to be put, and which tunnels are to go.
pub(crate) fn difference(
    wanted: &BTreeMap<PublicKey, WireGuardPeer>,
    present: &[WireGuardPeer],
) -> (Vec<WireGuardPeer>, Vec<PublicKey>) {
    let put = wanted.values().filter(|peer| !present.contains(peer)).cloned();
    let keys = present.iter().map(|peer| peer.public_key);
    (
        put.collect(),
        keys.filter(|key| !wanted.contains_key(key)).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn underlay(keys: &[Option<u8>]) -> Underlay {
        let peers = keys.iter().enumerate().map(|(number, key)| UnderlayPeer {
            node: number.to_string(),
            address: [192, 0, 2, number as u8].into(),
            mtu: 1500,
            forwards: true,
            next_hop6: None,
            public_key: key.map(|byte| write_key(&PublicKey([byte; 32]))),
        });
        Underlay {
            address: [192, 0, 2, 100].into(),
            port: 4789,
            peers: peers.collect(),
        }
    }

    #[test]
    fn a_node_without_a_key_gets_no_tunnel() {
        let wanted = wanted(&underlay(&[Some(1), None]));
        assert_eq!(wanted.len(), 1);
        let tunnel = &wanted[&PublicKey([1; 32])];
        assert_eq!(tunnel.endpoint, Some("192.0.2.0:4790".parse().unwrap()));
        assert!(prefix().contains(&tunnel.address.unwrap()));
    }

    #[test]
    fn only_what_differs_is_touched() {
        let before: Vec<_> = wanted(&underlay(&[Some(1), Some(2)])).into_values().collect();
        let after = wanted(&underlay(&[Some(1), Some(3)]));
        let (put, gone) = difference(&after, &before);
        assert_eq!(put, [after[&PublicKey([3; 32])].clone()]);
        assert_eq!(gone, [PublicKey([2; 32])]);
        // A peer that roamed is led back to where the managers say that it is.
        let mut roamed = before.clone();
        roamed[0].endpoint = Some("198.51.100.1:9".parse().unwrap());
        let (put, gone) = difference(&wanted(&underlay(&[Some(1), Some(2)])), &roamed);
        assert_eq!((put.len(), gone.len()), (1, 0));
    }

    #[test]
    fn addresses_follow_from_keys() {
        let one = address(&PublicKey([1; 32]));
        assert_eq!(one, address(&PublicKey([1; 32])));
        assert_ne!(one, address(&PublicKey([2; 32])));
    }
}

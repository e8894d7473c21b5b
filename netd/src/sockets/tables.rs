//! What the programs and this process share: six maps, and the bytes of their keys and values.
//!
//! Addresses are sixteen bytes, IPv4 as `::ffff:a.b.c.d`; ports are as on the wire. A map of a new meaning gets a new name:
//! one of the same name and sizes is taken over from an earlier process.

use std::io;
use std::net::{IpAddr, Ipv6Addr};

use sha2::{Digest, Sha256};
use sys::bpf::map::{Layout, Map, MapKind};

/// Length of an address.
pub(super) const ADDRESS: usize = 16;
const SERVICES: u32 = 16 * 1024;
const BACKENDS: u32 = 64 * 1024;
const SANDBOXES: u32 = 8 * 1024;
/// Sockets that are remembered; beyond it those that said nothing for longest are forgotten.
const SOCKETS: u32 = 16 * 1024;

/// The maps.
#[derive(Debug)]
pub(super) struct Tables {
    /// Virtual address → network, set of backends, how many there are.
    pub(super) vips: Map,
    /// Network namespace, network → 1: who may use a network's virtual addresses.
    pub(super) members: Map,
    /// Set, number → backend.
    pub(super) slots: Map,
    /// Virtual address, backend → 1: who may go on with a backend that was chosen earlier.
    pub(super) backends: Map,
    /// Datagram sockets: socket, virtual address, port → backend, and socket, backend, port → virtual address.
    pub(super) flows: Map,
    /// Stream sockets: socket, backend, port → virtual address.
    pub(super) peers: Map,
}

/// What a virtual address leads to, as the programs see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) network: u64,
    /// Names the backends; never used again for others, so an exchange is one step.
    pub(super) set: u32,
    pub(super) count: u32,
}

impl Tables {
    /// Those of `old` that fit, and new ones for the rest.
    pub(super) fn open(mut old: Vec<Map>) -> io::Result<Self> {
        let mut take = |layout: Layout| match old.iter().position(|map| *map.layout() == layout) {
            Some(at) => Ok(old.swap_remove(at)),
            None => Map::create(layout),
        };
        Ok(Self {
            vips: take(layout("shoal_vips", ADDRESS, 16, SERVICES))?,
            members: take(layout("shoal_members", 16, 4, SANDBOXES))?,
            slots: take(layout("shoal_slots", 8, ADDRESS, BACKENDS))?,
            backends: take(layout("shoal_backends", 2 * ADDRESS, 4, BACKENDS))?,
            flows: take(remembered("shoal_flows"))?,
            peers: take(remembered("shoal_peers"))?,
        })
    }
}

impl Target {
    pub(super) fn bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.network.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.set.to_ne_bytes());
        bytes[12..].copy_from_slice(&self.count.to_ne_bytes());
        bytes
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            network: u64::from_ne_bytes(bytes.get(..8)?.try_into().ok()?),
            set: u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?),
            count: u32::from_ne_bytes(bytes.get(12..16)?.try_into().ok()?),
        })
    }
}

/// Sixteen bytes of any address.
pub(crate) fn address(ip: IpAddr) -> [u8; ADDRESS] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// The address of sixteen bytes.
pub(super) fn parse_address(bytes: &[u8]) -> Option<IpAddr> {
    let bytes: [u8; ADDRESS] = bytes.try_into().ok()?;
    Some(Ipv6Addr::from(bytes).to_canonical())
}

pub(super) fn slot(set: u32, index: u32) -> [u8; 8] {
    let mut key = [0; 8];
    key[..4].copy_from_slice(&set.to_ne_bytes());
    key[4..].copy_from_slice(&index.to_ne_bytes());
    key
}

pub(super) fn parse_slot(bytes: &[u8]) -> Option<(u32, u32)> {
    let set = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
    Some((set, u32::from_ne_bytes(bytes.get(4..8)?.try_into().ok()?)))
}

pub(super) fn pair(vip: IpAddr, backend: IpAddr) -> [u8; 2 * ADDRESS] {
    let mut key = [0; 2 * ADDRESS];
    key[..ADDRESS].copy_from_slice(&address(vip));
    key[ADDRESS..].copy_from_slice(&address(backend));
    key
}

pub(super) fn member(cookie: u64, network: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&cookie.to_ne_bytes());
    key[8..].copy_from_slice(&network.to_ne_bytes());
    key
}

/// Key of a remembered socket.
pub(super) fn flow(cookie: u64, peer: IpAddr, port: u16) -> [u8; 32] {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&cookie.to_ne_bytes());
    key[8..24].copy_from_slice(&address(peer));
    key[24..26].copy_from_slice(&port.to_be_bytes());
    key
}

/// A network's number: the same in every process.
pub(super) fn network(id: &str) -> u64 {
    let digest = Sha256::digest(id.as_bytes());
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    u64::from_ne_bytes(bytes)
}

fn layout(name: &str, key: usize, value: usize, entries: u32) -> Layout {
    Layout {
        name: name.into(),
        kind: MapKind::Hash,
        key: key as u32,
        value: value as u32,
        entries,
    }
}

fn remembered(name: &str) -> Layout {
    Layout {
        kind: MapKind::LruHash,
        ..layout(name, 32, ADDRESS, SOCKETS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let target = Target {
            network: network("front"),
            set: 7,
            count: 3,
        };
        assert_eq!(Target::parse(&target.bytes()), Some(target));
        assert_eq!(parse_slot(&slot(9, 2)), Some((9, 2)));
        for ip in ["10.0.1.200", "fd00::5"] {
            let ip: IpAddr = ip.parse().unwrap();
            assert_eq!(parse_address(&address(ip)), Some(ip));
        }
        assert_ne!(network("front"), network("back"));
        let key = flow(1, "10.0.0.1".parse().unwrap(), 0x1234);
        assert_eq!(key[18..26], [0xff, 0xff, 10, 0, 0, 1, 0x12, 0x34]);
    }
}

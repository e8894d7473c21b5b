//! What the programs and this process share: two maps, and the bytes of their keys and values.

use std::io;
use std::net::IpAddr;

use sys::bpf::map::{Layout, Map, MapKind};

use crate::sockets::address;
use crate::types::Mac;

const FAR: u32 = 64 * 1024;
const NEAR: u32 = 16 * 1024;
/// Bytes of a key of `far`: a link's index and an address.
pub(super) const FAR_KEY: i16 = 20;
/// Bytes of an address.
pub(super) const ADDRESS: i16 = 16;
/// Within a value of `near`: the port, the bridge, and the two addresses of an Ethernet header.
pub(super) const PORT: i16 = 0;
pub(super) const BRIDGE: i16 = 4;
pub(super) const HEADER: i16 = 8;

/// The maps. Their entries are of one agent's life: there are no programs without one.
#[derive(Debug)]
pub(super) struct Tables {
    /// Bridge, address of a container of another node on its network → the link that leads there; 0: it may send to us.
    pub(super) far: Map,
    /// Address of a container of this node → where it is.
    pub(super) near: Map,
}

/// Where a container of this node is on a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Index of the bridge's port.
    pub(crate) port: u32,
    /// Index of the bridge.
    pub(crate) bridge: u32,
    /// The container's hardware address.
    pub(crate) mac: Mac,
    /// That of its gateway.
    pub(crate) gateway: Mac,
}

impl Tables {
    pub(super) fn create() -> io::Result<Self> {
        let map = |name: &str, key: i16, value: u32, entries| {
            Map::create(Layout {
                name: name.into(),
                kind: MapKind::Hash,
                key: key.unsigned_abs().into(),
                value,
                entries,
            })
        };
        Ok(Self {
            far: map("shoal_far", FAR_KEY, 4, FAR)?,
            near: map("shoal_near", ADDRESS, 20, NEAR)?,
        })
    }
}

impl Place {
    pub(super) fn bytes(&self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&self.port.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.bridge.to_ne_bytes());
        bytes[8..14].copy_from_slice(&self.mac.0);
        bytes[14..].copy_from_slice(&self.gateway.0);
        bytes
    }
}

pub(super) fn far(bridge: u32, container: IpAddr) -> [u8; 20] {
    let mut key = [0; 20];
    key[..4].copy_from_slice(&bridge.to_ne_bytes());
    key[4..].copy_from_slice(&address(container));
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_where_programs_look_for_them() {
        let place = Place {
            port: 7,
            bridge: 3,
            mac: Mac([1, 2, 3, 4, 5, 6]),
            gateway: Mac([7; 6]),
        };
        let bytes = place.bytes();
        let at = |offset: i16| usize::try_from(offset).unwrap();
        assert_eq!(bytes[at(PORT)..at(PORT) + 4], 7u32.to_ne_bytes());
        assert_eq!(bytes[at(BRIDGE)..at(BRIDGE) + 4], 3u32.to_ne_bytes());
        assert_eq!(bytes[at(HEADER)..], [1, 2, 3, 4, 5, 6, 7, 7, 7, 7, 7, 7]);
        let key = far(3, "10.0.0.1".parse().unwrap());
        assert_eq!(key[..4], 3u32.to_ne_bytes());
        assert_eq!(key[14..], [0xff, 0xff, 10, 0, 0, 1]);
    }
}

//! The frame by which everybody on a bridge hears that an address is at a hardware address: who has asked for it takes it for
//! the answer and sends what waits, and nobody else notes it (RFC 5227, section 3; RFC 4861, section 7.2.6).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::types::Mac;

const EVERYBODY: Mac = Mac([0xff; 6]);
/// All nodes on the link, and where Ethernet sends to them (RFC 2464).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = Mac([0x33, 0x33, 0, 0, 0, 1]);
const ARP: [u8; 2] = [0x08, 0x06];
const IPV6: [u8; 2] = [0x86, 0xdd];
const ICMPV6: u8 = 58;

/// The address is at `at`, says the bridge.
pub(crate) fn announcement(bridge: Mac, address: IpAddr, at: Mac) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp(bridge, address, at),
        IpAddr::V6(address) => advertisement(bridge, address, at),
    }
}

/// An answer that nobody in particular has asked for.
fn arp(bridge: Mac, address: Ipv4Addr, at: Mac) -> Vec<u8> {
    let reply = [0, 1, 0x08, 0, 6, 4, 0, 2];
    let said = [&at.0[..], &address.octets()].concat();
    [&EVERYBODY.0[..], &bridge.0, &ARP, &reply, &said, &said].concat()
}

fn advertisement(bridge: Mac, address: Ipv6Addr, at: Mac) -> Vec<u8> {
    // It overrides what was known; the option is the target's hardware address.
    let message = |checksum: [u8; 2]| {
        let (begin, flags) = ([136, 0], [0x20, 0, 0, 0]);
        [&begin[..], &checksum, &flags, &address.octets(), &[2, 1], &at.0].concat()
    };
    let length = message([0; 2]).len() as u8;
    let ends = [address.octets(), ALL_NODES.octets()].concat();
    let pseudo = [&ends[..], &[0, 0, 0, length, 0, 0, 0, ICMPV6], &message([0; 2])].concat();
    let header = [0x60, 0, 0, 0, 0, length, ICMPV6, 255];
    let frame = [&ALL_NODES_MAC.0[..], &bridge.0, &IPV6, &header, &ends];
    [frame.concat(), message(checksum(&pseudo))].concat()
}

/// Of the internet (RFC 1071); the bytes are even in number.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes
        .chunks_exact(2)
        .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    (!(sum as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRIDGE: Mac = Mac([2, 0x42, 10, 0, 0, 1]);
    const AT: Mac = Mac([2, 0x42, 10, 0, 0, 5]);

    #[test]
    fn an_ipv4_address_is_said_twice_so_that_it_overrides() {
        let frame = announcement(BRIDGE, "10.0.0.5".parse().unwrap(), AT);
        assert_eq!(frame.len(), 42);
        assert_eq!(frame[..6], [0xff; 6]);
        assert_eq!(frame[6..12], BRIDGE.0);
        assert_eq!(frame[12..22], [8, 6, 0, 1, 8, 0, 6, 4, 0, 2]);
        assert_eq!(frame[22..32], [2, 0x42, 10, 0, 0, 5, 10, 0, 0, 5]);
        assert_eq!(frame[22..32], frame[32..42]);
    }

    #[test]
    fn an_ipv6_advertisement_has_the_checksum_that_its_receiver_computes() {
        let frame = announcement(BRIDGE, "fd00::5".parse().unwrap(), AT);
        assert_eq!(frame.len(), 14 + 40 + 32);
        assert_eq!(frame[12..22], [0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
        assert_eq!(frame[54..56], [136, 0]);
        let pseudo = [&frame[22..54], &[0, 0, 0, 32, 0, 0, 0, 58], &frame[54..]].concat();
        assert_eq!(checksum(&pseudo), [0, 0]);
    }
}

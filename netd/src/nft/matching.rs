//! The phrases of our rules. Unless a register is given each loads register 0 upwards.

use std::net::{IpAddr, Ipv6Addr};

use super::expr::{Base, Ct, Expr, Meta};
use super::ip::Ip;
use super::key::interface_name;

pub(crate) const ETHER_TYPE_IPV4: [u8; 2] = [0x08, 0x00];
pub(crate) const ETHER_TYPE_ARP: [u8; 2] = [0x08, 0x06];
pub(crate) const ETHER_TYPE_IPV6: [u8; 2] = [0x86, 0xdd];

pub(crate) fn in_name(reg: u32) -> Expr {
    Expr::Meta {
        key: Meta::InName,
        reg,
    }
}

pub(crate) fn l4_protocol(reg: u32) -> Expr {
    Expr::Meta {
        key: Meta::L4Protocol,
        reg,
    }
}

pub(crate) fn destination_port(reg: u32) -> Expr {
    Expr::Payload {
        base: Base::Transport,
        offset: 2,
        len: 2,
        reg,
    }
}

pub(crate) fn source_port(reg: u32) -> Expr {
    Expr::Payload {
        base: Base::Transport,
        offset: 0,
        len: 2,
        reg,
    }
}

pub(crate) fn ether_source(reg: u32) -> Expr {
    Expr::Payload {
        base: Base::Link,
        offset: 6,
        len: 6,
        reg,
    }
}

/// Sender address of an ARP packet.
pub(crate) fn arp_sender(reg: u32) -> Expr {
    Expr::Payload {
        base: Base::Network,
        offset: 14,
        len: 4,
        reg,
    }
}

/// Hardware address that an ARP packet claims for its sender.
pub(crate) fn arp_sender_mac(reg: u32) -> Expr {
    Expr::Payload {
        base: Base::Network,
        offset: 8,
        len: 6,
        reg,
    }
}

/// `len` bytes of the ICMP message.
pub(crate) fn icmp(offset: u32, len: u32, reg: u32) -> Expr {
    Expr::Payload {
        base: Base::Transport,
        offset,
        len,
        reg,
    }
}

/// ICMPv6 follows the IPv6 header at once and has this many bytes.
pub(crate) fn plain_icmpv6(len: u16) -> Vec<Expr> {
    let [high, low] = len.to_be_bytes();
    // Payload length, and next header.
    let field = Expr::Payload {
        base: Base::Network,
        offset: 4,
        len: 3,
        reg: 0,
    };
    vec![field, equal(vec![high, low, Ip::V6.icmp()])]
}

pub(crate) fn from(interface: &str) -> Vec<Expr> {
    vec![in_name(0), equal(interface_name(interface).to_vec())]
}

pub(crate) fn not_from(interface: &str) -> Vec<Expr> {
    let other = Expr::Compare {
        reg: 0,
        equal: false,
        value: interface_name(interface).to_vec(),
    };
    vec![in_name(0), other]
}

/// Interface names that begin with `prefix`.
pub(crate) fn from_any(prefix: &str) -> Vec<Expr> {
    vec![in_name(0), equal(prefix.as_bytes().to_vec())]
}

pub(crate) fn to(interface: &str) -> Vec<Expr> {
    leaves_by(interface, true)
}

pub(crate) fn not_to(interface: &str) -> Vec<Expr> {
    leaves_by(interface, false)
}

fn leaves_by(interface: &str, equal: bool) -> Vec<Expr> {
    let name = Expr::Meta {
        key: Meta::OutName,
        reg: 0,
    };
    let value = interface_name(interface).to_vec();
    vec![name, Expr::Compare { reg: 0, equal, value }]
}

pub(crate) fn to_member(set: &str) -> Vec<Expr> {
    vec![
        Expr::Meta {
            key: Meta::OutName,
            reg: 0,
        },
        Expr::Member {
            set: set.into(),
            reg: 0,
            not: false,
        },
    ]
}

/// The names of the interfaces of arrival and departure are a pair of the set.
pub(crate) fn between_members(set: &str) -> Vec<Expr> {
    let out = Expr::Meta {
        key: Meta::OutName,
        reg: 4,
    };
    let member = Expr::Member {
        set: set.into(),
        reg: 0,
        not: false,
    };
    vec![in_name(0), out, member]
}

pub(crate) fn from_member(set: &str) -> Vec<Expr> {
    vec![
        in_name(0),
        Expr::Member {
            set: set.into(),
            reg: 0,
            not: false,
        },
    ]
}

pub(crate) fn addressed_to(address: impl Into<IpAddr>) -> Vec<Expr> {
    let address = address.into();
    vec![Ip::of(address).destination(0), equal(octets(address))]
}

pub(crate) fn coming_from(address: impl Into<IpAddr>) -> Vec<Expr> {
    let address = address.into();
    vec![Ip::of(address).source(0), equal(octets(address))]
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Source in 127.0.0.0/8, or ::1.
pub(crate) fn from_loopback(ip: Ip) -> Vec<Expr> {
    match ip {
        Ip::V4 => vec![
            Expr::Payload {
                base: Base::Network,
                offset: 12,
                len: 1,
                reg: 0,
            },
            equal(vec![127]),
        ],
        Ip::V6 => coming_from(Ipv6Addr::LOCALHOST),
    }
}

pub(crate) fn ether_type(kind: [u8; 2]) -> Vec<Expr> {
    vec![
        Expr::Meta {
            key: Meta::Protocol,
            reg: 0,
        },
        equal(kind.to_vec()),
    ]
}

pub(crate) fn protocol(number: u8) -> Vec<Expr> {
    vec![l4_protocol(0), equal(vec![number])]
}

/// The destination is an address of this namespace (RTN_LOCAL).
pub(crate) fn to_this_host() -> Vec<Expr> {
    vec![
        Expr::FibDestination { reg: 0 },
        equal(2u32.to_ne_bytes().to_vec()),
    ]
}

/// The first packet of a connection.
pub(crate) fn new_connection() -> Vec<Expr> {
    has_bits(Ct::State, 8)
}

/// Established or related.
pub(crate) fn known_connection() -> Vec<Expr> {
    has_bits(Ct::State, 2 | 4)
}

/// Connection tracking was told not to look at the packet.
pub(crate) fn untracked() -> Vec<Expr> {
    has_bits(Ct::State, 64)
}

/// The connection's destination was rewritten (IPS_DST_NAT).
pub(crate) fn redirected() -> Vec<Expr> {
    has_bits(Ct::Status, 1 << 5)
}

fn has_bits(key: Ct, bits: u32) -> Vec<Expr> {
    vec![
        Expr::Ct { key, reg: 0 },
        Expr::Mask {
            reg: 0,
            mask: bits.to_ne_bytes().to_vec(),
        },
        Expr::Compare {
            reg: 0,
            equal: false,
            value: vec![0; 4],
        },
    ]
}

pub(crate) fn equal(value: Vec<u8>) -> Expr {
    Expr::Compare {
        reg: 0,
        equal: true,
        value,
    }
}

//! `bridge shoal`, the table of the fabric namespace by which a port of a bridge may speak only in its own name: IPv4, ARP
//! and IPv6 with the MAC and addresses that it was given. What IPv6 says about neighbours is held to the same, and nobody
//! but the gateway is a router: no advertisements, no redirects (CVE-2020-10749).

use std::net::IpAddr;

use super::{FILTER_BRIDGED, own_table};
use crate::nft::{
    Chain, Data, Element, Expr, Family, Field, Hook, Ip, Key, Kind, Set, Table, Transaction, Verdict,
    matching,
};
use crate::types::Mac;

/// Who may speak on which bridge port.
const BOUND: Set = Set {
    name: "bound",
    key: &[Field::Interface, Field::Ether, Field::Ipv4],
    data: Data::None,
};
const BOUND6: Set = Set {
    name: "bound6",
    key: &[Field::Interface, Field::Ether, Field::Ipv6],
    data: Data::None,
};
/// Chain for what a port says over IPv6.
const IPV6: &str = "ipv6";
/// Types of ICMPv6 messages (RFC 4861).
const ADVERTISED_ROUTER: u8 = 134;
const SOLICITED: u8 = 135;
const ADVERTISED: u8 = 136;
const REDIRECT: u8 = 137;
/// Type and length of the option with the sender's or the target's hardware address.
const SENDER_OPTION: [u8; 2] = [1, 1];
const TARGET_OPTION: [u8; 2] = [2, 1];
/// Bytes of a solicitation or advertisement, and of the one option.
const MESSAGE: u16 = 24;
const OPTION: u16 = 8;

/// The identity of one bridge port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Binding {
    pub(crate) port: String,
    pub(crate) mac: Mac,
    pub(crate) addresses: Vec<IpAddr>,
}

impl Binding {
    fn elements(&self, ip: Ip) -> impl Iterator<Item = Element> {
        let own = self.addresses.iter().filter(move |a| Ip::of(**a) == ip);
        own.map(|address| Element::Key(Key::default().interface(&self.port).mac(self.mac).ip(*address)))
    }
}

pub(super) fn bind(t: &mut Transaction, bindings: &[Binding]) {
    for ip in Ip::BOTH {
        let elements: Vec<_> = bindings.iter().flat_map(|b| b.elements(ip)).collect();
        t.add(&own_table(Family::Bridge), bound_set(ip), &elements);
    }
}

pub(super) fn unbind(t: &mut Transaction, bindings: &[Binding]) {
    for ip in Ip::BOTH {
        let elements: Vec<_> = bindings.iter().flat_map(|b| b.elements(ip)).collect();
        t.remove(&own_table(Family::Bridge), bound_set(ip), &elements);
    }
}

/// The table without elements. Names of container ports begin with `prefix`.
pub(super) fn ruleset(t: &mut Transaction, prefix: &str) {
    let table = own_table(Family::Bridge);
    t.reset_table(&table);
    t.set(&table, &BOUND);
    t.set(&table, &BOUND6);
    let base = Some((Kind::Filter, Hook::Prerouting, FILTER_BRIDGED, false));
    for (name, base) in [(IPV6, None), ("prerouting", base)] {
        let name = name.into();
        t.chain(&table, &Chain { name, base });
    }
    neighbours(t, &table);
    let container = || matching::from_any(prefix);
    let sender = |ip: Ip| bound(ip, matching::ether_source(4), ip.source(6));
    let arp = bound(Ip::V4, matching::ether_source(4), matching::arp_sender(6));
    let claimed = bound(Ip::V4, matching::arp_sender_mac(4), matching::arp_sender(6));
    let of_type = matching::ether_type;
    let rules = [
        [
            container(),
            of_type(matching::ETHER_TYPE_IPV4),
            sender(Ip::V4),
            accept(),
        ]
        .concat(),
        [
            container(),
            of_type(matching::ETHER_TYPE_ARP),
            arp,
            claimed,
            accept(),
        ]
        .concat(),
        [
            container(),
            of_type(matching::ETHER_TYPE_IPV6),
            sender(Ip::V6),
            vec![Expr::Verdict(Verdict::Goto(IPV6.into()))],
        ]
        .concat(),
        [container(), vec![Expr::Verdict(Verdict::Drop)]].concat(),
    ];
    for expressions in &rules {
        t.rule(&table, "prerouting", expressions);
    }
}

/// A message about a neighbour has no option or just the one, and both its address and its hardware address are the port's.
fn neighbours(t: &mut Transaction, table: &Table) {
    let target = || matching::icmp(8, 16, 6);
    let about = [
        (SOLICITED, SENDER_OPTION, Ip::V6.source(6)),
        (ADVERTISED, TARGET_OPTION, target()),
    ];
    for (kind, option, address) in about {
        let plain = [
            matching::plain_icmpv6(MESSAGE),
            of_kind(kind),
            bound(Ip::V6, matching::ether_source(4), address.clone()),
        ];
        let with_option = [
            matching::plain_icmpv6(MESSAGE + OPTION),
            of_kind(kind),
            vec![
                matching::icmp(MESSAGE.into(), 2, 0),
                matching::equal(option.to_vec()),
            ],
            bound(Ip::V6, matching::icmp(u32::from(MESSAGE) + 2, 6, 4), address),
        ];
        t.rule(table, IPV6, &[plain.concat(), accept()].concat());
        t.rule(table, IPV6, &[with_option.concat(), accept()].concat());
    }
    for kind in [ADVERTISED_ROUTER, SOLICITED, ADVERTISED, REDIRECT] {
        let refuse = vec![Expr::Verdict(Verdict::Drop)];
        t.rule(table, IPV6, &[of_kind(kind), refuse].concat());
    }
    t.rule(table, IPV6, &accept());
}

fn of_kind(kind: u8) -> Vec<Expr> {
    let mut phrase = matching::protocol(Ip::V6.icmp());
    phrase.extend([matching::icmp(0, 1, 0), matching::equal(vec![kind])]);
    phrase
}

/// The port has this hardware address (register 4) and address (register 6).
fn bound(ip: Ip, mac: Expr, address: Expr) -> Vec<Expr> {
    let member = Expr::Member {
        set: bound_set(ip).name.into(),
        reg: 0,
        not: false,
    };
    vec![matching::in_name(0), mac, address, member]
}

const fn bound_set(ip: Ip) -> &'static Set {
    match ip {
        Ip::V4 => &BOUND,
        Ip::V6 => &BOUND6,
    }
}

fn accept() -> Vec<Expr> {
    vec![Expr::Verdict(Verdict::Accept)]
}

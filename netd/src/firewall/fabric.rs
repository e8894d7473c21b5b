//! The tables of the fabric namespace.
//!
//! `ip shoal`: published ports to backends; forwarding only between a network and the uplink, never between networks, and
//! for `internal` networks not at all; a gateway address (DNS) answers only its own network. The way to and from tasks of
//! other nodes is in `transit`.
//! `bridge shoal`: a port of a bridge may send only IPv4 and ARP with the MAC and address that it was given.

use std::net::Ipv4Addr;

use super::{Balancer, DESTINATION, Direct, FILTER, own_table, transit};
use crate::direct;
use crate::names;
use crate::netlink::Flow;
use crate::nft::{
    Chain, Data, Element, Expr, Family, Field, Hook, Key, Kind, Set, Transaction, Verdict, matching,
};
use crate::types::{Mac, Protocol};

const FRONTENDS: Set = Set {
    name: "ports",
    key: &[Field::Protocol, Field::Port],
    data: Data::Verdict,
};
const BACKENDS: Set = Set {
    name: "backends",
    key: &[Field::Protocol, Field::Port, Field::Slot],
    data: Data::Fields(&[Field::Ipv4, Field::Port]),
};
/// Bridges with a way out.
const UPLINKED: Set = Set {
    name: "uplinked",
    key: &[Field::Interface],
    data: Data::None,
};
/// Which gateway address or virtual IP may be spoken to from which bridge.
const GATEWAYS: Set = Set {
    name: "gateways",
    key: &[Field::Interface, Field::Ipv4],
    data: Data::None,
};
/// Who may speak on which bridge port.
const BOUND: Set = Set {
    name: "bound",
    key: &[Field::Interface, Field::Ether, Field::Ipv4],
    data: Data::None,
};
const ICMP: u8 = 1;
/// Before the bridge's own filters (NF_BR_PRI_FILTER_BRIDGED).
const BRIDGE_FILTER: i32 = -200;

/// The identity of one bridge port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Binding {
    pub(crate) port: String,
    pub(crate) mac: Mac,
    pub(crate) address: Ipv4Addr,
}

/// Plans for the fabric's tables.
#[derive(Debug, Clone)]
pub(crate) struct FabricFirewall {
    /// Name of the uplink inside the fabric, and its address there.
    pub(crate) uplink: &'static str,
    pub(crate) address: Ipv4Addr,
    /// Names of container ports begin so.
    pub(crate) port_prefix: &'static str,
}

impl FabricFirewall {
    pub(crate) fn balancer() -> Balancer {
        Balancer::new(own_table(Family::Ipv4), &FRONTENDS, &BACKENDS, spread, None)
    }

    /// Key of a published port, as the uplink sees it.
    pub(crate) fn frontend(protocol: Protocol, port: u16) -> Key {
        Key::default().protocol(protocol.number()).port(port)
    }

    pub(crate) fn backend(address: Ipv4Addr, port: u16) -> Key {
        Key::default().ipv4(address).port(port)
    }

    /// The UDP flows that go on to a backend which their frontend has lost.
    pub(crate) fn is_stale(flow: &Flow, lost: &[(Key, Key)]) -> bool {
        let front = Self::frontend(Protocol::Udp, flow.wanted.1);
        let back = Self::backend(flow.answering.0, flow.answering.1);
        flow.protocol == Protocol::Udp.number() && lost.contains(&(front, back))
    }

    /// Both tables without elements.
    pub(crate) fn ruleset(&self) -> Transaction {
        let mut t = Transaction::default();
        self.routed(&mut t);
        self.bridged(&mut t);
        t
    }

    pub(crate) fn add_network(t: &mut Transaction, bridge: &str, gateway: Ipv4Addr, internal: bool) {
        let table = own_table(Family::Ipv4);
        let (uplinked, gateways) = network(bridge, gateway, internal);
        t.add(&table, &UPLINKED, &uplinked);
        t.add(&table, &GATEWAYS, &gateways);
    }

    pub(crate) fn remove_network(t: &mut Transaction, bridge: &str, gateway: Ipv4Addr, internal: bool) {
        let table = own_table(Family::Ipv4);
        let (uplinked, gateways) = network(bridge, gateway, internal);
        t.remove(&table, &UPLINKED, &uplinked);
        t.remove(&table, &GATEWAYS, &gateways);
    }

    /// These addresses may be spoken to from these bridges.
    pub(crate) fn admit(t: &mut Transaction, spoken: &[(String, Ipv4Addr)]) {
        t.add(&own_table(Family::Ipv4), &GATEWAYS, &addressed(spoken));
    }

    pub(crate) fn dismiss(t: &mut Transaction, spoken: &[(String, Ipv4Addr)]) {
        t.remove(&own_table(Family::Ipv4), &GATEWAYS, &addressed(spoken));
    }

    pub(crate) fn bind(t: &mut Transaction, bindings: &[Binding]) {
        let elements: Vec<_> = bindings.iter().map(Binding::element).collect();
        t.add(&own_table(Family::Bridge), &BOUND, &elements);
    }

    pub(crate) fn unbind(t: &mut Transaction, bindings: &[Binding]) {
        let elements: Vec<_> = bindings.iter().map(Binding::element).collect();
        t.remove(&own_table(Family::Bridge), &BOUND, &elements);
    }

    fn routed(&self, t: &mut Transaction) {
        let table = own_table(Family::Ipv4);
        t.reset_table(&table);
        for set in [&FRONTENDS, &BACKENDS, &UPLINKED, &GATEWAYS] {
            t.set(&table, set);
        }
        Direct::prepare(t, &table);
        let base = |kind, hook, priority, drop| Some((kind, hook, priority, drop));
        for (name, base) in [
            (
                "prerouting",
                base(Kind::Nat, Hook::Prerouting, DESTINATION, false),
            ),
            ("forward", base(Kind::Filter, Hook::Forward, FILTER, true)),
            ("input", base(Kind::Filter, Hook::Input, FILTER, true)),
        ] {
            t.chain(
                &table,
                &Chain {
                    name: name.into(),
                    base,
                },
            );
        }
        let accept = || Expr::Verdict(Verdict::Accept);
        let published = [
            matching::l4_protocol(0),
            matching::destination_port(1),
            Expr::VerdictMap {
                set: FRONTENDS.name.into(),
                reg: 0,
            },
        ];
        let own_gateway = [
            matching::in_name(0),
            matching::destination(4),
            Expr::Member {
                set: GATEWAYS.name.into(),
                reg: 0,
                not: false,
            },
            accept(),
        ];
        let from_uplink = [matching::from(self.uplink), matching::addressed_to(self.address)].concat();
        let rules: [(&str, Vec<Expr>); 7] = [
            ("prerouting", [from_uplink.clone(), published.to_vec()].concat()),
            (
                "forward",
                [
                    matching::from_member(UPLINKED.name),
                    matching::to(self.uplink),
                    vec![accept()],
                ]
                .concat(),
            ),
            (
                "forward",
                [
                    matching::from(self.uplink),
                    matching::to_member(UPLINKED.name),
                    vec![accept()],
                ]
                .concat(),
            ),
            ("input", [matching::from("lo"), vec![accept()]].concat()),
            ("input", [matching::protocol(ICMP), vec![accept()]].concat()),
            ("input", own_gateway.to_vec()),
            // A published port without backends: nobody listens, so the client is refused at once.
            ("input", [from_uplink, vec![accept()]].concat()),
        ];
        for (chain, expressions) in &rules {
            t.rule(&table, chain, expressions);
        }
        transit::write(t, names::TRANSIT, self.uplink);
        t.rule(&table, "input", &Direct::probes(self.uplink, direct::PORT));
    }

    fn bridged(&self, t: &mut Transaction) {
        let table = own_table(Family::Bridge);
        t.reset_table(&table);
        t.set(&table, &BOUND);
        let base = Some((Kind::Filter, Hook::Prerouting, BRIDGE_FILTER, false));
        t.chain(
            &table,
            &Chain {
                name: "prerouting".into(),
                base,
            },
        );
        let container = || matching::from_any(self.port_prefix);
        let bound = |mac: Expr, address: Expr| {
            vec![
                matching::in_name(0),
                mac,
                address,
                Expr::Member {
                    set: BOUND.name.into(),
                    reg: 0,
                    not: false,
                },
            ]
        };
        let accept = || vec![Expr::Verdict(Verdict::Accept)];
        let ipv4 = bound(matching::ether_source(4), matching::source(6));
        let arp = bound(matching::ether_source(4), matching::arp_sender(6));
        let claimed = bound(matching::arp_sender_mac(4), matching::arp_sender(6));
        let rules = [
            [
                container(),
                matching::ether_type(matching::ETHER_TYPE_IPV4),
                ipv4,
                accept(),
            ]
            .concat(),
            [
                container(),
                matching::ether_type(matching::ETHER_TYPE_ARP),
                arp,
                claimed,
                accept(),
            ]
            .concat(),
            [container(), vec![Expr::Verdict(Verdict::Drop)]].concat(),
        ];
        for expressions in &rules {
            t.rule(&table, "prerouting", expressions);
        }
    }
}

impl Binding {
    fn element(&self) -> Element {
        Element::Key(
            Key::default()
                .interface(&self.port)
                .mac(self.mac)
                .ipv4(self.address),
        )
    }
}

fn addressed(spoken: &[(String, Ipv4Addr)]) -> Vec<Element> {
    let key = |(bridge, address): &(String, Ipv4Addr)| Key::default().interface(bridge).ipv4(*address);
    spoken.iter().map(|one| Element::Key(key(one))).collect()
}

fn network(bridge: &str, gateway: Ipv4Addr, internal: bool) -> (Vec<Element>, Vec<Element>) {
    let uplinked = Element::Key(Key::default().interface(bridge));
    let gateway = Element::Key(Key::default().interface(bridge).ipv4(gateway));
    (if internal { vec![] } else { vec![uplinked] }, vec![gateway])
}

fn spread(modulus: u32) -> Vec<Expr> {
    vec![
        matching::l4_protocol(0),
        matching::destination_port(1),
        Expr::Random { modulus, reg: 2 },
        Expr::Map {
            set: BACKENDS.name.into(),
            reg: 0,
            into: 4,
        },
        Expr::Dnat {
            address: 4,
            port: Some(5),
        },
    ]
}

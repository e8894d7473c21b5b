//! The tables of the fabric namespace.
//!
//! `ip shoal` and `ip6 shoal`: published ports to backends; forwarding only between a network and the uplink, never
//! between networks, and for `internal` networks not at all; a gateway address (DNS) answers only its own network. The way
//! to and from tasks of other nodes is in `transit`.
//! `bridge shoal`: see [`super::identity`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::identity::{self, Binding};
use super::{Balancer, DESTINATION, Direct, FILTER, own_table, transit};
use crate::direct;
use crate::names;
use crate::netlink::Flow;
use crate::nft::{
    Chain, Data, Element, Expr, Field, Hook, Ip, Key, Kind, Set, Table, Transaction, Verdict, matching,
};
use crate::types::Protocol;

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
const BACKENDS6: Set = Set {
    data: Data::Fields(&[Field::Ipv6, Field::Port]),
    ..BACKENDS
};
/// Bridges with a way out.
const UPLINKED: Set = Set {
    name: "uplinked",
    key: &[Field::Interface],
    data: Data::None,
};
/// Bridges, each with itself: what was led to the fabric while it went to another node directly, and does not any more, goes
/// back to the network that it came from. Until then its sender need not notice.
const RETURNED: Set = Set {
    name: "returned",
    key: &[Field::Interface, Field::Interface],
    data: Data::None,
};
/// Which gateway address or virtual IP may be spoken to from which bridge.
const GATEWAYS: Set = Set {
    name: "gateways",
    key: &[Field::Interface, Field::Ipv4],
    data: Data::None,
};
const GATEWAYS6: Set = Set {
    key: &[Field::Interface, Field::Ipv6],
    ..GATEWAYS
};

/// Plans for the fabric's tables.
#[derive(Debug, Clone)]
pub(crate) struct FabricFirewall {
    /// Name of the uplink inside the fabric, and its address there.
    pub(crate) uplink: &'static str,
    pub(crate) address: Ipv4Addr,
    /// `None`: no network has IPv6 and a way out, or the host has no IPv6.
    pub(crate) address6: Option<Ipv6Addr>,
    /// Names of container ports begin so.
    pub(crate) port_prefix: &'static str,
}

impl FabricFirewall {
    pub(crate) fn balancers() -> [Balancer; 2] {
        let of = |ip: Ip, backends, spread| {
            Balancer::new(own_table(ip.family()), &FRONTENDS, backends, spread, None)
        };
        [
            of(Ip::V4, &BACKENDS, |modulus| spread(Ip::V4, modulus)),
            of(Ip::V6, &BACKENDS6, |modulus| spread(Ip::V6, modulus)),
        ]
    }

    /// Key of a published port, as the uplink sees it.
    pub(crate) fn frontend(protocol: Protocol, port: u16) -> Key {
        Key::default().protocol(protocol.number()).port(port)
    }

    pub(crate) fn backend(address: impl Into<IpAddr>, port: u16) -> Key {
        Key::default().ip(address.into()).port(port)
    }

    /// Whether it is a port of UDP.
    pub(crate) fn is_udp(frontend: &Key) -> bool {
        frontend.0.first() == Some(&Protocol::Udp.number())
    }

    /// The UDP flows that go on to a backend which their frontend has lost.
    pub(crate) fn is_stale(flow: &Flow, lost: &[(Key, Key)]) -> bool {
        let front = Self::frontend(Protocol::Udp, flow.wanted.1);
        let back = Self::backend(flow.answering.0, flow.answering.1);
        flow.protocol == Protocol::Udp.number() && lost.contains(&(front, back))
    }

    /// All tables without elements.
    pub(crate) fn ruleset(&self) -> Transaction {
        let mut t = Transaction::default();
        self.routed(&mut t, Ip::V4, Some(self.address.into()));
        self.routed(&mut t, Ip::V6, self.address6.map(Into::into));
        identity::ruleset(&mut t, self.port_prefix);
        t
    }

    pub(crate) fn add_network(t: &mut Transaction, bridge: &str, gateways: &[IpAddr], internal: bool) {
        for (table, uplinked, own) in gateways.iter().map(|g| network(bridge, *g, internal)) {
            t.add(&table, &UPLINKED, &uplinked);
            t.add(&table, own.0, &[own.1]);
            t.add(&table, &RETURNED, &[returned(bridge)]);
        }
    }

    pub(crate) fn remove_network(t: &mut Transaction, bridge: &str, gateways: &[IpAddr], internal: bool) {
        for (table, uplinked, own) in gateways.iter().map(|g| network(bridge, *g, internal)) {
            t.remove(&table, &UPLINKED, &uplinked);
            t.remove(&table, own.0, &[own.1]);
            t.remove(&table, &RETURNED, &[returned(bridge)]);
        }
    }

    /// These addresses may be spoken to from these bridges.
    pub(crate) fn admit(t: &mut Transaction, spoken: &[(String, IpAddr)]) {
        for ip in Ip::BOTH {
            t.add(&own_table(ip.family()), sets(ip).1, &addressed(ip, spoken));
        }
    }

    pub(crate) fn dismiss(t: &mut Transaction, spoken: &[(String, IpAddr)]) {
        for ip in Ip::BOTH {
            t.remove(&own_table(ip.family()), sets(ip).1, &addressed(ip, spoken));
        }
    }

    pub(crate) fn bind(t: &mut Transaction, bindings: &[Binding]) {
        identity::bind(t, bindings);
    }

    pub(crate) fn unbind(t: &mut Transaction, bindings: &[Binding]) {
        identity::unbind(t, bindings);
    }

    /// `address`: ours on the uplink.
    fn routed(&self, t: &mut Transaction, ip: Ip, address: Option<IpAddr>) {
        let table = own_table(ip.family());
        t.reset_table(&table);
        let (backends, gateways) = sets(ip);
        for set in [&FRONTENDS, backends, &UPLINKED, &RETURNED, gateways] {
            t.set(&table, set);
        }
        Direct::prepare(ip, t, &table);
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
        Direct::isolate(ip, t, &table);
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
            ip.destination(4),
            Expr::Member {
                set: gateways.name.into(),
                reg: 0,
                not: false,
            },
            accept(),
        ];
        let mut rules: Vec<(&str, Vec<Expr>)> = vec![
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
            (
                "forward",
                [matching::between_members(RETURNED.name), vec![accept()]].concat(),
            ),
            ("input", [matching::from("lo"), vec![accept()]].concat()),
            ("input", [matching::protocol(ip.icmp()), vec![accept()]].concat()),
            ("input", own_gateway.to_vec()),
            // Encrypted networks: what comes out of a tunnel was sent by a node of the cluster.
            ("input", [matching::from(names::TUNNELS), vec![accept()]].concat()),
        ];
        if let Some(address) = address {
            let from_uplink = [matching::from(self.uplink), matching::addressed_to(address)].concat();
            rules.push(("prerouting", [from_uplink.clone(), published.to_vec()].concat()));
            // A published port without backends: nobody listens, so the client is refused at once.
            rules.push(("input", [from_uplink, vec![accept()]].concat()));
        }
        for (chain, expressions) in &rules {
            t.rule(&table, chain, expressions);
        }
        transit::write(t, ip, names::TRANSIT, self.uplink);
        t.rule(&table, "input", &Direct::probes(ip, self.uplink, direct::PORT));
    }
}

/// The sets whose addresses are of this version: backends and gateways.
const fn sets(ip: Ip) -> (&'static Set, &'static Set) {
    match ip {
        Ip::V4 => (&BACKENDS, &GATEWAYS),
        Ip::V6 => (&BACKENDS6, &GATEWAYS6),
    }
}

fn returned(bridge: &str) -> Element {
    Element::Key(Key::default().interface(bridge).interface(bridge))
}

fn addressed(ip: Ip, spoken: &[(String, IpAddr)]) -> Vec<Element> {
    let of_version = spoken.iter().filter(|(_, address)| Ip::of(*address) == ip);
    let key = |(bridge, address): &(String, IpAddr)| Key::default().interface(bridge).ip(*address);
    of_version.map(|one| Element::Key(key(one))).collect()
}

/// The table, the elements of a bridge with a way out, and the gateway's set and element.
fn network(bridge: &str, gateway: IpAddr, internal: bool) -> (Table, Vec<Element>, (&'static Set, Element)) {
    let ip = Ip::of(gateway);
    let uplinked = Element::Key(Key::default().interface(bridge));
    let own = Element::Key(Key::default().interface(bridge).ip(gateway));
    let uplinked = if internal { vec![] } else { vec![uplinked] };
    (own_table(ip.family()), uplinked, (sets(ip).1, own))
}

fn spread(ip: Ip, modulus: u32) -> Vec<Expr> {
    vec![
        matching::l4_protocol(0),
        matching::destination_port(1),
        Expr::Random { modulus, reg: 2 },
        Expr::Map {
            set: sets(ip).0.name.into(),
            reg: 0,
            into: 4,
        },
        ip.dnat(4, Some(4 + ip.registers())),
    ]
}

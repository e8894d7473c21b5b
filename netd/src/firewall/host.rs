//! The tables in the host's namespace, one for each IP version: the only rules outside of namespaces that are ours.
//!
//! Published ports go to the fabric's uplink address, whether the client is remote (prerouting) or local (output). Only
//! packets to the host's own addresses are touched (CVE-2025-54410 and kin: never steal forwarded traffic). Clients keep
//! their address; only 127.0.0.0/8 and ::1 must be hidden, because nothing outside this namespace can answer to them. Without
//! an IPv6 address on the uplink there is no IPv6 table.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::{DESTINATION, Direct, FILTER, SOURCE};
use crate::nft::{
    Chain, Data, Element, Expr, Field, Hook, Ip, Key, Kind, Set, Table, Transaction, Verdict, matching,
};
use crate::types::Protocol;

const ANYWHERE: Set = Set {
    name: "ports",
    key: &[Field::Protocol, Field::Port],
    data: Data::Fields(&[Field::Ipv4, Field::Port]),
};
const ON_ADDRESS: Set = Set {
    name: "address_ports",
    key: &[Field::Ipv4, Field::Protocol, Field::Port],
    data: Data::Fields(&[Field::Ipv4, Field::Port]),
};

const ANYWHERE6: Set = Set {
    data: Data::Fields(&[Field::Ipv6, Field::Port]),
    ..ANYWHERE
};
const ON_ADDRESS6: Set = Set {
    key: &[Field::Ipv6, Field::Protocol, Field::Port],
    data: ANYWHERE6.data,
    ..ON_ADDRESS
};

/// A port of the host that leads to a port of the fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Frontend {
    /// `None`: every IPv4 address of the host; unspecified (`::`): every IPv6 address.
    pub(crate) address: Option<IpAddr>,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    /// Port at the fabric's uplink; differs from `port` where two addresses of the host share one number.
    pub(crate) fabric_port: u16,
}

/// Plans for the host's table.
#[derive(Debug, Clone)]
pub(crate) struct HostFirewall {
    pub(crate) table: String,
    /// Name of the uplink in the host's namespace.
    pub(crate) uplink: String,
    /// The fabric's address on the uplink.
    pub(crate) fabric: Ipv4Addr,
    /// The same for IPv6, once it has one.
    pub(crate) fabric6: Option<Ipv6Addr>,
}

impl Frontend {
    pub(crate) fn ip(&self) -> Ip {
        self.address.map_or(Ip::V4, Ip::of)
    }
}

impl HostFirewall {
    pub(crate) fn table(&self, ip: Ip) -> Table {
        Table {
            family: ip.family(),
            name: self.table.clone(),
        }
    }

    /// IP versions that the uplink has, each with the fabric's address.
    fn versions(&self) -> impl Iterator<Item = (Ip, IpAddr)> {
        let v6 = self.fabric6.map(|address| (Ip::V6, address.into()));
        [(Ip::V4, self.fabric.into())].into_iter().chain(v6)
    }

    /// The tables with these ports.
    pub(crate) fn ruleset(&self, frontends: &[Frontend]) -> Transaction {
        let mut t = Transaction::default();
        for (ip, _) in self.versions() {
            self.empty(&mut t, ip);
        }
        self.add(&mut t, frontends);
        t
    }

    fn empty(&self, t: &mut Transaction, ip: Ip) {
        let table = self.table(ip);
        let (anywhere, on_address) = sets(ip);
        t.reset_table(&table);
        t.set(&table, anywhere);
        t.set(&table, on_address);
        Direct::prepare(ip, t, &table);
        for (name, kind, hook, priority) in [
            ("prerouting", Kind::Nat, Hook::Prerouting, DESTINATION),
            ("output", Kind::Nat, Hook::Output, DESTINATION),
            ("postrouting", Kind::Nat, Hook::Postrouting, SOURCE),
            ("forward", Kind::Filter, Hook::Forward, FILTER),
        ] {
            t.chain(
                &table,
                &Chain {
                    name: name.into(),
                    base: Some((kind, hook, priority, false)),
                },
            );
        }
        for (chain, expressions) in self.rules(ip) {
            t.rule(&table, chain, &expressions);
        }
    }

    pub(crate) fn add(&self, t: &mut Transaction, frontends: &[Frontend]) {
        for (ip, fabric) in self.versions() {
            let (anywhere, on_address) = elements(ip, fabric, frontends);
            t.add(&self.table(ip), sets(ip).0, &anywhere);
            t.add(&self.table(ip), sets(ip).1, &on_address);
        }
    }

    pub(crate) fn remove(&self, t: &mut Transaction, frontends: &[Frontend]) {
        for (ip, fabric) in self.versions() {
            let (anywhere, on_address) = elements(ip, fabric, frontends);
            t.remove(&self.table(ip), sets(ip).0, &anywhere);
            t.remove(&self.table(ip), sets(ip).1, &on_address);
        }
    }

    pub(crate) fn delete(&self) -> Transaction {
        let mut t = Transaction::default();
        for (ip, _) in self.versions() {
            t.delete_table(&self.table(ip));
        }
        t
    }

    fn rules(&self, ip: Ip) -> Vec<(&'static str, Vec<Expr>)> {
        let accept = || vec![Expr::Verdict(Verdict::Accept)];
        vec![
            ("prerouting", on_address(ip)),
            ("prerouting", anywhere(ip)),
            ("output", on_address(ip)),
            ("output", anywhere(ip)),
            // Out of the fabric means from a container: to the world, or back in through a published port.
            (
                "postrouting",
                [matching::from(&self.uplink), vec![Expr::Masquerade]].concat(),
            ),
            (
                "postrouting",
                [
                    matching::to(&self.uplink),
                    matching::from_loopback(ip),
                    vec![Expr::Masquerade],
                ]
                .concat(),
            ),
            // Others may reach containers directly or through published ports only, however they route.
            ("forward", [matching::not_to(&self.uplink), accept()].concat()),
            ("forward", Direct::admitted(ip)),
            ("forward", [matching::redirected(), accept()].concat()),
            ("forward", [matching::known_connection(), accept()].concat()),
            ("forward", vec![Expr::Verdict(Verdict::Drop)]),
        ]
    }
}

/// Ports of every address, and of one.
const fn sets(ip: Ip) -> (&'static Set, &'static Set) {
    match ip {
        Ip::V4 => (&ANYWHERE, &ON_ADDRESS),
        Ip::V6 => (&ANYWHERE6, &ON_ADDRESS6),
    }
}

fn elements(ip: Ip, fabric: IpAddr, frontends: &[Frontend]) -> (Vec<Element>, Vec<Element>) {
    let (mut anywhere, mut on_address) = (Vec::new(), Vec::new());
    for f in frontends.iter().filter(|f| f.ip() == ip) {
        let value = Key::default().ip(fabric).port(f.fabric_port);
        let port = |key: Key| key.protocol(f.protocol.number()).port(f.port);
        match f.address.filter(|address| !address.is_unspecified()) {
            None => anywhere.push(Element::Value(port(Key::default()), value)),
            Some(address) => on_address.push(Element::Value(port(Key::default().ip(address)), value)),
        }
    }
    (anywhere, on_address)
}

fn anywhere(ip: Ip) -> Vec<Expr> {
    let mut rule = matching::to_this_host();
    rule.extend([matching::l4_protocol(0), matching::destination_port(1)]);
    rule.extend(redirect(ip, ANYWHERE.name));
    rule
}

fn on_address(ip: Ip) -> Vec<Expr> {
    let mut rule = matching::to_this_host();
    let after = ip.registers();
    rule.extend([
        ip.destination(0),
        matching::l4_protocol(after),
        matching::destination_port(after + 1),
    ]);
    rule.extend(redirect(ip, ON_ADDRESS.name));
    rule
}

fn redirect(ip: Ip, map: &str) -> [Expr; 2] {
    let map = Expr::Map {
        set: map.into(),
        reg: 0,
        into: 8,
    };
    [map, ip.dnat(8, Some(8 + ip.registers()))]
}

//! The table in the host's namespace: the only rules outside of namespaces that are ours.
//!
//! Published ports go to the fabric's uplink address, whether the client is remote (prerouting) or local (output). Only
//! packets to the host's own addresses are touched (CVE-2025-54410 and kin: never steal forwarded traffic). Clients keep
//! their address; only 127.0.0.0/8 must be hidden, because nothing outside this namespace can answer to it.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::{DESTINATION, Direct, FILTER, SOURCE};
use crate::nft::{
    Chain, Data, Element, Expr, Family, Field, Hook, Key, Kind, Set, Table, Transaction, Verdict, matching,
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

/// A port of the host that leads to a port of the fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Frontend {
    /// `None`: every address of the host.
    pub(crate) address: Option<Ipv4Addr>,
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
}

impl HostFirewall {
    pub(crate) fn table(&self) -> Table {
        Table {
            family: Family::Ipv4,
            name: self.table.clone(),
        }
    }

    /// The table with these ports.
    pub(crate) fn ruleset(&self, frontends: &[Frontend]) -> Transaction {
        let mut t = Transaction::default();
        let table = self.table();
        t.reset_table(&table);
        t.set(&table, &ANYWHERE);
        t.set(&table, &ON_ADDRESS);
        Direct::prepare(&mut t, &table);
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
        for (chain, expressions) in self.rules() {
            t.rule(&table, chain, &expressions);
        }
        self.add(&mut t, frontends);
        t
    }

    pub(crate) fn add(&self, t: &mut Transaction, frontends: &[Frontend]) {
        let (anywhere, on_address) = self.elements(frontends);
        t.add(&self.table(), &ANYWHERE, &anywhere);
        t.add(&self.table(), &ON_ADDRESS, &on_address);
    }

    pub(crate) fn remove(&self, t: &mut Transaction, frontends: &[Frontend]) {
        let (anywhere, on_address) = self.elements(frontends);
        t.remove(&self.table(), &ANYWHERE, &anywhere);
        t.remove(&self.table(), &ON_ADDRESS, &on_address);
    }

    pub(crate) fn delete(&self) -> Transaction {
        let mut t = Transaction::default();
        t.delete_table(&self.table());
        t
    }

    fn rules(&self) -> Vec<(&'static str, Vec<Expr>)> {
        let accept = || vec![Expr::Verdict(Verdict::Accept)];
        let to_uplink = || matching::to(&self.uplink);
        vec![
            ("prerouting", on_address()),
            ("prerouting", anywhere()),
            ("output", on_address()),
            ("output", anywhere()),
            // Out of the fabric means from a container: to the world, or back in through a published port.
            (
                "postrouting",
                [matching::from(&self.uplink), vec![Expr::Masquerade]].concat(),
            ),
            (
                "postrouting",
                [to_uplink(), matching::from_loopback(), vec![Expr::Masquerade]].concat(),
            ),
            // Others may reach containers through published ports only, however they route.
            (
                "forward",
                [to_uplink(), matching::redirected(), accept()].concat(),
            ),
            (
                "forward",
                [to_uplink(), matching::known_connection(), accept()].concat(),
            ),
            ("forward", Direct::admitted(&self.uplink)),
            (
                "forward",
                [to_uplink(), vec![Expr::Verdict(Verdict::Drop)]].concat(),
            ),
        ]
    }

    fn elements(&self, frontends: &[Frontend]) -> (Vec<Element>, Vec<Element>) {
        let (mut anywhere, mut on_address) = (Vec::new(), Vec::new());
        for f in frontends {
            let value = Key::default().ipv4(self.fabric).port(f.fabric_port);
            let port = |key: Key| key.protocol(f.protocol.number()).port(f.port);
            match f.address {
                None => anywhere.push(Element::Value(port(Key::default()), value)),
                Some(address) => on_address.push(Element::Value(port(Key::default().ipv4(address)), value)),
            }
        }
        (anywhere, on_address)
    }
}

fn anywhere() -> Vec<Expr> {
    let mut rule = matching::to_this_host();
    rule.extend([matching::l4_protocol(0), matching::destination_port(1)]);
    rule.extend(redirect(ANYWHERE.name));
    rule
}

fn on_address() -> Vec<Expr> {
    let mut rule = matching::to_this_host();
    rule.extend([
        matching::destination(0),
        matching::l4_protocol(1),
        matching::destination_port(2),
    ]);
    rule.extend(redirect(ON_ADDRESS.name));
    rule
}

fn redirect(map: &str) -> [Expr; 2] {
    [
        Expr::Map {
            set: map.into(),
            reg: 0,
            into: 4,
        },
        Expr::Dnat {
            address: 4,
            port: Some(5),
        },
    ]
}

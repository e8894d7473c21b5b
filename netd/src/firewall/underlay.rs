//! The table in the host's namespace that guards the data path. VXLAN proves nothing about who sent a packet, so only other
//! nodes may send to its port, only to the address that they know, and a container may not: its packets leave with this
//! node's address, which the others trust. These flows are not tracked, whose answers come with other ports anyway.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::nft::{
    Chain, Data, Element, Expr, Family, Field, Hook, Ip, Key, Kind, Set, Table, Transaction, Verdict,
    matching,
};
use crate::types::Protocol;

const NODES: Set = Set {
    name: "nodes",
    key: &[Field::Ipv4],
    data: Data::None,
};
const NODES6: Set = Set {
    name: "nodes",
    key: &[Field::Ipv6],
    data: Data::None,
};
/// Before connection tracking (NF_IP_PRI_RAW).
const RAW: i32 = -300;

/// Plan for the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UnderlayFirewall {
    pub(crate) table: String,
    /// Name of the uplink in the host's namespace.
    pub(crate) uplink: String,
    /// This node's address of the data path.
    pub(crate) address: IpAddr,
    /// Whether the host has that address itself, and not something before it that translates addresses.
    pub(crate) own: bool,
    /// UDP port of VXLAN.
    pub(crate) port: u16,
    /// Addresses of the other nodes.
    pub(crate) nodes: BTreeSet<IpAddr>,
}

impl UnderlayFirewall {
    /// Put it in force, whatever was there before.
    pub(crate) fn ruleset(&self) -> Transaction {
        let mut t = Transaction::default();
        let (table, set) = (self.table(), self.set());
        t.reset_table(&table);
        t.set(&table, set);
        for (name, hook) in [
            ("prerouting", Hook::Prerouting),
            ("input", Hook::Input),
            ("output", Hook::Output),
        ] {
            t.chain(
                &table,
                &Chain {
                    name: name.into(),
                    base: Some((Kind::Filter, hook, RAW, false)),
                },
            );
        }
        for (chain, expressions) in self.rules() {
            t.rule(&table, chain, &expressions);
        }
        t.add(&table, set, &self.elements());
        t
    }

    /// No table of this family any more.
    pub(crate) fn delete(table: &str, family: Family) -> Transaction {
        let mut t = Transaction::default();
        t.delete_table(&Table {
            family,
            name: table.to_owned(),
        });
        t
    }

    /// Of the table.
    pub(crate) fn family(&self) -> Family {
        Ip::of(self.address).family()
    }

    fn rules(&self) -> Vec<(&'static str, Vec<Expr>)> {
        let from_node = || [vec![self.source()], self.is_node()].concat();
        let to_node = || [vec![self.destination()], self.is_node()].concat();
        let drop = || vec![Expr::Verdict(Verdict::Drop)];
        let untracked = || vec![Expr::Untracked];
        let to_us = if self.own {
            vec![self.destination(), self.equal(self.address)]
        } else {
            Vec::new()
        };
        vec![
            // All that the host receives comes by here: numbers are compared sooner than names.
            (
                "prerouting",
                [self.vxlan(), matching::from(&self.uplink), to_node(), drop()].concat(),
            ),
            (
                "prerouting",
                [self.vxlan(), to_us.clone(), from_node(), untracked()].concat(),
            ),
            ("output", [self.vxlan(), to_node(), untracked()].concat()),
            (
                "input",
                [
                    self.vxlan(),
                    to_us,
                    from_node(),
                    vec![Expr::Verdict(Verdict::Accept)],
                ]
                .concat(),
            ),
            ("input", [self.vxlan(), drop()].concat()),
        ]
    }

    fn vxlan(&self) -> Vec<Expr> {
        [
            matching::protocol(Protocol::Udp.number()),
            vec![
                matching::destination_port(0),
                matching::equal(self.port.to_be_bytes().to_vec()),
            ],
        ]
        .concat()
    }

    fn is_node(&self) -> Vec<Expr> {
        vec![Expr::Member {
            set: NODES.name.into(),
            reg: 0,
            not: false,
        }]
    }

    fn source(&self) -> Expr {
        Ip::of(self.address).source(0)
    }

    fn destination(&self) -> Expr {
        Ip::of(self.address).destination(0)
    }

    fn equal(&self, address: IpAddr) -> Expr {
        matching::equal(match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        })
    }

    fn elements(&self) -> Vec<Element> {
        let key = |address: &IpAddr| match (address, self.address) {
            (IpAddr::V4(address), IpAddr::V4(_)) => Some(Key::default().ipv4(*address)),
            (IpAddr::V6(address), IpAddr::V6(_)) => Some(Key::default().ipv6(*address)),
            _ => None,
        };
        self.nodes.iter().filter_map(key).map(Element::Key).collect()
    }

    fn set(&self) -> &'static Set {
        match self.address {
            IpAddr::V4(_) => &NODES,
            IpAddr::V6(_) => &NODES6,
        }
    }

    fn table(&self) -> Table {
        Table {
            family: self.family(),
            name: self.table.clone(),
        }
    }
}

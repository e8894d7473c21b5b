//! Packets of other nodes' containers that come and go without encapsulation: the same set and the same rules in the host's
//! tables and in the fabric's, for each IP version. Connection tracking does not see them, so nothing translates their addresses, and each node
//! may choose its own way to answer.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::RAW;
use crate::nft::{
    Chain, Data, Element, Expr, Field, Hook, Ip, Key, Kind, Set, Table, Transaction, Verdict, matching,
};

/// Addresses of other nodes' containers, and probe addresses.
const DIRECT: Set = Set {
    name: "direct",
    key: &[Field::Ipv4],
    data: Data::None,
};
const DIRECT6: Set = Set {
    key: &[Field::Ipv6],
    ..DIRECT
};
const UNTRACKED: &str = "untracked";
/// UDP.
const DATAGRAMS: u8 = 17;

/// What is reached directly, in one table.
#[derive(Debug)]
pub(crate) struct Direct;

impl Direct {
    /// The set, and the chain that keeps connection tracking away. Before the table's other rules.
    pub(super) fn prepare(ip: Ip, t: &mut Transaction, table: &Table) {
        t.set(table, set(ip));
        let base = Some((Kind::Filter, Hook::Prerouting, RAW, false));
        t.chain(
            table,
            &Chain {
                name: UNTRACKED.into(),
                base,
            },
        );
        for address in [ip.source(0), ip.destination(0)] {
            let rule = [&[address, member()][..], &[Expr::Untracked]].concat();
            t.rule(table, UNTRACKED, &rule);
        }
    }

    /// Out of this link may go what comes from there.
    pub(super) fn admitted(ip: Ip, link: &str) -> Vec<Expr> {
        let accept = Expr::Verdict(Verdict::Accept);
        [matching::to(link), vec![ip.source(0), member(), accept]].concat()
    }

    /// Probes from this link.
    pub(super) fn probes(ip: Ip, link: &str, port: u16) -> Vec<Expr> {
        let accept = Expr::Verdict(Verdict::Accept);
        [
            matching::from(link),
            vec![ip.source(0), member()],
            matching::protocol(DATAGRAMS),
            vec![
                matching::destination_port(0),
                matching::equal(port.to_be_bytes().to_vec()),
                accept,
            ],
        ]
        .concat()
    }

    /// Bring the set from one state to another.
    pub(crate) fn change(
        ip: Ip,
        t: &mut Transaction,
        table: &Table,
        old: &BTreeSet<IpAddr>,
        new: &BTreeSet<IpAddr>,
    ) {
        let elements = |addresses: std::collections::btree_set::Difference<'_, IpAddr>| -> Vec<Element> {
            addresses
                .map(|address| Element::Key(Key::default().ip(*address)))
                .collect()
        };
        t.remove(table, set(ip), &elements(old.difference(new)));
        t.add(table, set(ip), &elements(new.difference(old)));
    }
}

const fn set(ip: Ip) -> &'static Set {
    match ip {
        Ip::V4 => &DIRECT,
        Ip::V6 => &DIRECT6,
    }
}

fn member() -> Expr {
    Expr::Member {
        set: DIRECT.name.into(),
        reg: 0,
        not: false,
    }
}

//! Packets of other nodes' containers that come and go without encapsulation: the same set and the same rules in the host's
//! table and in the fabric's. Connection tracking does not see them, so nothing translates their addresses, and each node
//! may choose its own way to answer.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

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
const UNTRACKED: &str = "untracked";
/// UDP.
const DATAGRAMS: u8 = 17;

/// What is reached directly, in one table.
#[derive(Debug)]
pub(crate) struct Direct;

impl Direct {
    /// The set, and the chain that keeps connection tracking away. Before the table's other rules.
    pub(super) fn prepare(t: &mut Transaction, table: &Table) {
        t.set(table, &DIRECT);
        let base = Some((Kind::Filter, Hook::Prerouting, RAW, false));
        t.chain(
            table,
            &Chain {
                name: UNTRACKED.into(),
                base,
            },
        );
        for address in [Ip::V4.source(0), Ip::V4.destination(0)] {
            let rule = [&[address, member()][..], &[Expr::Untracked]].concat();
            t.rule(table, UNTRACKED, &rule);
        }
    }

    /// Out of this link may go what comes from there.
    pub(super) fn admitted(link: &str) -> Vec<Expr> {
        let accept = Expr::Verdict(Verdict::Accept);
        [matching::to(link), vec![Ip::V4.source(0), member(), accept]].concat()
    }

    /// Probes from this link.
    pub(super) fn probes(link: &str, port: u16) -> Vec<Expr> {
        let accept = Expr::Verdict(Verdict::Accept);
        [
            matching::from(link),
            vec![Ip::V4.source(0), member()],
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
        t: &mut Transaction,
        table: &Table,
        old: &BTreeSet<Ipv4Addr>,
        new: &BTreeSet<Ipv4Addr>,
    ) {
        let elements = |addresses: std::collections::btree_set::Difference<'_, Ipv4Addr>| -> Vec<Element> {
            addresses
                .map(|address| Element::Key(Key::default().ipv4(*address)))
                .collect()
        };
        t.remove(table, &DIRECT, &elements(old.difference(new)));
        t.add(table, &DIRECT, &elements(new.difference(old)));
    }
}

fn member() -> Expr {
    Expr::Member {
        set: DIRECT.name.into(),
        reg: 0,
        not: false,
    }
}

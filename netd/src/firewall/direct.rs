//! Packets of other nodes' containers that come and go without encapsulation: the same set and the same rules in the host's
//! tables and in the fabric's, for each IP version. Connection tracking does not see them, so nothing translates their addresses, and each node
//! may choose its own way to answer. The fabric, where all networks meet, lets each such container speak with its own network only.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{RAW, own_table};
use crate::direct::difference;
use crate::nft::{
    Chain, Data, Element, Expr, Field, Hook, Ip, Key, Kind, Meta, Set, Table, Transaction, Verdict, matching,
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
/// A bridge, and an address of another node's container on its network.
const NETWORKS: Set = Set {
    name: "networks",
    key: &[Field::Link, Field::Ipv4],
    data: Data::None,
};
const NETWORKS6: Set = Set {
    key: &[Field::Link, Field::Ipv6],
    ..NETWORKS
};
const UNTRACKED: &str = "untracked";
const DIRECTLY: &str = "directly";
/// UDP.
const DATAGRAMS: u8 = 17;

/// Addresses that are let in: of containers, with the index of their network's bridge in the fabric, and of probes.
pub(crate) type Admitted = BTreeMap<IpAddr, Option<u32>>;

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
        for address in [ip.destination(0), ip.source(0)] {
            let rule = [address, member(), Expr::Untracked, Expr::Verdict(Verdict::Accept)];
            t.rule(table, UNTRACKED, &rule);
        }
    }

    /// In the fabric, before the other rules of the chain `forward`, which is there: what is not tracked passes between a container
    /// and its own network, and nowhere else.
    pub(super) fn isolate(ip: Ip, t: &mut Transaction, table: &Table) {
        t.set(table, networks(ip));
        t.chain(
            table,
            &Chain {
                name: DIRECTLY.into(),
                base: None,
            },
        );
        for (link, address) in [(Meta::InIndex, ip.destination(1)), (Meta::OutIndex, ip.source(1))] {
            let member = Expr::Member {
                set: NETWORKS.name.into(),
                reg: 0,
                not: false,
            };
            let accept = Expr::Verdict(Verdict::Accept);
            t.rule(
                table,
                DIRECTLY,
                &[Expr::Meta { key: link, reg: 0 }, address, member, accept],
            );
        }
        t.rule(table, DIRECTLY, &[Expr::Verdict(Verdict::Drop)]);
        let directly = Expr::Verdict(Verdict::Goto(DIRECTLY.into()));
        t.rule(
            table,
            "forward",
            &[matching::untracked(), vec![directly]].concat(),
        );
    }

    /// What comes from there may pass.
    pub(super) fn admitted(ip: Ip) -> Vec<Expr> {
        vec![ip.source(0), member(), Expr::Verdict(Verdict::Accept)]
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

    /// Bring the set in the host's table from one state to another.
    pub(crate) fn change(ip: Ip, t: &mut Transaction, table: &Table, old: &Admitted, new: &Admitted) {
        let missing = |from: &Admitted, all: &Admitted| -> Vec<Element> {
            let missing = all.keys().filter(|address| !from.contains_key(*address));
            missing
                .map(|address| Element::Key(Key::default().ip(*address)))
                .collect()
        };
        t.remove(table, set(ip), &missing(new, old));
        t.add(table, set(ip), &missing(old, new));
    }

    /// The same in the fabric's, with the networks.
    pub(crate) fn change_fabric(ip: Ip, t: &mut Transaction, old: &Admitted, new: &Admitted) {
        let table = own_table(ip.family());
        Self::change(ip, t, &table, old, new);
        let element = |(address, bridge): (&IpAddr, &Option<u32>)| {
            Some(Element::Key(Key::default().link((*bridge)?).ip(*address)))
        };
        let (gone, fresh) = difference(old, new);
        t.remove(
            &table,
            networks(ip),
            &gone.filter_map(element).collect::<Vec<_>>(),
        );
        t.add(
            &table,
            networks(ip),
            &fresh.filter_map(element).collect::<Vec<_>>(),
        );
    }
}

const fn set(ip: Ip) -> &'static Set {
    match ip {
        Ip::V4 => &DIRECT,
        Ip::V6 => &DIRECT6,
    }
}

const fn networks(ip: Ip) -> &'static Set {
    match ip {
        Ip::V4 => &NETWORKS,
        Ip::V6 => &NETWORKS6,
    }
}

fn member() -> Expr {
    Expr::Member {
        set: DIRECT.name.into(),
        reg: 0,
        not: false,
    }
}

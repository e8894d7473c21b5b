//! The part of the fabric's tables, of either IP version, that belongs to the routing mesh.
//!
//! A packet for a published port whose task runs on another node crosses the device `transit` with the client's address
//! in it. The task's node marks the connection with its sender, which only the hardware address tells, and answers are
//! routed by that mark: back through the node at which the client knocked, which alone can translate them. Two nodes may
//! bring connections that look the same (one client, the same port, two doors), so each sender's have a zone of their own;
//! answers are in one zone, and the kernel gives the second of such twins another port.

use super::own_table;
use crate::nft::{
    Base, Chain, Ct, Data, Element, Expr, Field, Hook, Ip, Key, Kind, Meta, Set, Transaction, Verdict,
    matching,
};
use crate::types::Mac;

/// Before connections are tracked, and after (NF_IP_PRI_RAW, NF_IP_PRI_MANGLE).
const BEFORE_TRACKING: i32 = -300;
const MARKING: i32 = -150;

/// Hardware addresses of the nodes that may send.
const PEERS: Set = Set {
    name: "peers",
    key: &[Field::Ether],
    data: Data::None,
};
/// Bridge of the network on which tasks are reached from other nodes.
const INGRESS: Set = Set {
    name: "ingress",
    key: &[Field::Interface],
    data: Data::None,
};

/// Elements of the mesh's sets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TransitSets {
    pub(crate) peers: Vec<Mac>,
    pub(crate) bridge: Option<String>,
}

impl TransitSets {
    /// Into empty sets.
    pub(crate) fn add(&self, t: &mut Transaction) {
        for table in Ip::BOTH.map(|ip| own_table(ip.family())) {
            t.add(&table, &PEERS, &self.peer_elements());
            t.add(&table, &INGRESS, &self.bridge_elements());
        }
    }

    /// What makes these of `before`.
    pub(crate) fn replace(&self, before: &Self, t: &mut Transaction) {
        for table in Ip::BOTH.map(|ip| own_table(ip.family())) {
            t.remove(&table, &PEERS, &before.peer_elements());
            t.remove(&table, &INGRESS, &before.bridge_elements());
        }
        self.add(t);
    }

    fn peer_elements(&self) -> Vec<Element> {
        let element = |mac: &Mac| Element::Key(Key::default().mac(*mac));
        self.peers.iter().map(element).collect()
    }

    fn bridge_elements(&self) -> Vec<Element> {
        let element = |bridge: &String| Element::Key(Key::default().interface(bridge));
        self.bridge.iter().map(element).collect()
    }
}

/// Sets, chains and rules of one IP version's table; the chain `forward` must be there.
pub(super) fn write(t: &mut Transaction, ip: Ip, transit: &str, uplink: &str) {
    let table = own_table(ip.family());
    t.set(&table, &PEERS);
    t.set(&table, &INGRESS);
    for (name, priority) in [("transit_zone", BEFORE_TRACKING), ("transit_mark", MARKING)] {
        let base = Some((Kind::Filter, Hook::Prerouting, priority, false));
        t.chain(
            &table,
            &Chain {
                name: name.into(),
                base,
            },
        );
    }
    for (chain, rule) in rules(transit, uplink) {
        t.rule(&table, chain, &rule);
    }
}

fn rules(transit: &str, uplink: &str) -> Vec<(&'static str, Vec<Expr>)> {
    let from_transit = || matching::from(transit);
    let to_transit = || matching::to(transit);
    let verdict = |verdict| vec![Expr::Verdict(verdict)];
    vec![
        // Most packets have nothing to do with the mesh: they shall find that out soon, and comparing names is slow.
        (
            "transit_zone",
            [matching::not_from(transit), verdict(Verdict::Accept)].concat(),
        ),
        ("transit_zone", [strangers(), verdict(Verdict::Drop)].concat()),
        ("transit_zone", zone()),
        (
            "transit_mark",
            [matching::new_connection(), from_transit(), note_sender()].concat(),
        ),
        (
            "transit_mark",
            [marked(), matching::not_from(transit), follow_mark()].concat(),
        ),
        // The mark has done its work: the way of the outer packet is none of its business.
        ("forward", [to_transit(), clear_mark()].concat()),
        (
            "forward",
            [
                matching::from(uplink),
                to_transit(),
                matching::redirected(),
                verdict(Verdict::Accept),
            ]
            .concat(),
        ),
        (
            "forward",
            [
                from_transit(),
                matching::to(uplink),
                matching::known_connection(),
                verdict(Verdict::Accept),
            ]
            .concat(),
        ),
        (
            "forward",
            [
                from_transit(),
                matching::to_member(INGRESS.name),
                marked(),
                verdict(Verdict::Accept),
            ]
            .concat(),
        ),
        (
            "forward",
            [
                matching::from_member(INGRESS.name),
                to_transit(),
                matching::known_connection(),
                marked(),
                verdict(Verdict::Accept),
            ]
            .concat(),
        ),
    ]
}

/// Not from a node of the cluster.
fn strangers() -> Vec<Expr> {
    let unknown = Expr::Member {
        set: PEERS.name.into(),
        reg: 0,
        not: true,
    };
    vec![matching::ether_source(0), unknown]
}

/// The last two octets of the sender's hardware address.
fn zone() -> Vec<Expr> {
    vec![
        sender(10, 2),
        Expr::SetCt {
            key: Ct::Zone,
            reg: 0,
            original: true,
        },
    ]
}

/// The last four, which are the sender's [`crate::mesh::Tag`].
fn note_sender() -> Vec<Expr> {
    vec![
        sender(8, 4),
        Expr::SetCt {
            key: Ct::Mark,
            reg: 0,
            original: false,
        },
    ]
}

fn sender(offset: u32, len: u32) -> Expr {
    Expr::Payload {
        base: Base::Link,
        offset,
        len,
        reg: 0,
    }
}

/// The connection has come from another node.
fn marked() -> Vec<Expr> {
    vec![
        Expr::Ct {
            key: Ct::Mark,
            reg: 0,
        },
        Expr::Compare {
            reg: 0,
            equal: false,
            value: vec![0; 4],
        },
    ]
}

/// The packet is routed as the connection's mark says.
fn follow_mark() -> Vec<Expr> {
    let mark = Expr::Ct {
        key: Ct::Mark,
        reg: 0,
    };
    vec![mark, set_mark()]
}

fn set_mark() -> Expr {
    Expr::SetMeta {
        key: Meta::Mark,
        reg: 0,
    }
}

fn clear_mark() -> Vec<Expr> {
    let nothing = Expr::Load {
        reg: 0,
        value: vec![0; 4],
    };
    vec![nothing, set_mark()]
}

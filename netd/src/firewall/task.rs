//! The table inside a sandbox: virtual IPs are rewritten where the connection begins, so the fabric sees only tasks'
//! addresses and connection tracking happens only in sandboxes that can see a service.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use super::{Balancer, DESTINATION, own_table};
use crate::netlink::Flow;
use crate::nft::{Chain, Data, Expr, Family, Field, Hook, Ip, Key, Kind, Set, Transaction};
use crate::types::Protocol;

const FRONTENDS: Set = Set {
    name: "vips",
    key: &[Field::Ipv4],
    data: Data::Verdict,
};
const BACKENDS: Set = Set {
    name: "backends",
    key: &[Field::Ipv4, Field::Slot],
    data: Data::Fields(&[Field::Ipv4]),
};
const REFUSE: &str = "refuse";

/// Every virtual IP that the sandbox can see, with the addresses behind it.
pub(crate) type VirtualIps = BTreeMap<Ipv4Addr, Vec<Ipv4Addr>>;

#[derive(Debug)]
pub(crate) struct TaskFirewall;

impl TaskFirewall {
    pub(crate) fn balancer() -> Balancer {
        Balancer::new(
            own_table(Family::Ipv4),
            &FRONTENDS,
            &BACKENDS,
            spread,
            Some(REFUSE),
        )
    }

    /// The table without elements, where there is none.
    pub(crate) fn ruleset() -> Transaction {
        let mut t = Transaction::default();
        t.create_table(&own_table(Family::Ipv4));
        Self::content(&mut t);
        t
    }

    /// The table without elements, whatever is there.
    pub(crate) fn replacement() -> Transaction {
        let mut t = Transaction::default();
        t.reset_table(&own_table(Family::Ipv4));
        Self::content(&mut t);
        t
    }

    fn content(t: &mut Transaction) {
        let table = own_table(Family::Ipv4);
        t.set(&table, &FRONTENDS);
        t.set(&table, &BACKENDS);
        t.chain(
            &table,
            &Chain {
                name: REFUSE.into(),
                base: None,
            },
        );
        t.rule(&table, REFUSE, &[Expr::Refuse(Ip::V4)]);
        let base = Some((Kind::Nat, Hook::Output, DESTINATION, false));
        t.chain(
            &table,
            &Chain {
                name: "output".into(),
                base,
            },
        );
        let lookup = Expr::VerdictMap {
            set: FRONTENDS.name.into(),
            reg: 0,
        };
        t.rule(&table, "output", &[Ip::V4.destination(0), lookup]);
    }

    pub(crate) fn elements(vips: &VirtualIps) -> BTreeMap<Key, Vec<Key>> {
        vips.iter()
            .map(|(vip, backends)| (Self::address(vip), backends.iter().map(Self::address).collect()))
            .collect()
    }

    /// A virtual IP, or what is behind one.
    pub(crate) fn address(address: &Ipv4Addr) -> Key {
        Key::default().ipv4(*address)
    }

    /// The UDP flows that go on to a backend which their virtual IP has lost.
    pub(crate) fn is_stale(flow: &Flow, lost: &[(Key, Key)]) -> bool {
        let pair = (
            Key::default().ip(flow.wanted.0),
            Key::default().ip(flow.answering.0),
        );
        flow.protocol == Protocol::Udp.number() && lost.contains(&pair)
    }

    /// Remove the table: with no virtual IP in sight, connection tracking is switched off again.
    pub(crate) fn remove() -> Transaction {
        let mut t = Transaction::default();
        t.delete_table(&own_table(Family::Ipv4));
        t
    }
}

fn spread(modulus: u32) -> Vec<Expr> {
    vec![
        Ip::V4.destination(0),
        Expr::Random { modulus, reg: 1 },
        Expr::Map {
            set: BACKENDS.name.into(),
            reg: 0,
            into: 2,
        },
        Ip::V4.dnat(2, None),
    ]
}

//! The tables inside a sandbox, one of each IP version that it has virtual IPs of: virtual IPs are rewritten where the connection begins, so the fabric sees only tasks'
//! addresses and connection tracking happens only in sandboxes that can see a service.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Balancer, DESTINATION, own_table};
use crate::netlink::Flow;
use crate::nft::{Chain, Data, Expr, Field, Hook, Ip, Key, Kind, Set, Transaction};
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
const FRONTENDS6: Set = Set {
    key: &[Field::Ipv6],
    ..FRONTENDS
};
const BACKENDS6: Set = Set {
    key: &[Field::Ipv6, Field::Slot],
    data: Data::Fields(&[Field::Ipv6]),
    ..BACKENDS
};
const REFUSE: &str = "refuse";

/// Every virtual IP of one IP version that the sandbox can see, with the addresses behind it.
pub(crate) type VirtualIps = BTreeMap<IpAddr, Vec<IpAddr>>;

#[derive(Debug)]
pub(crate) struct TaskFirewall;

impl TaskFirewall {
    pub(crate) fn balancer(ip: Ip) -> Balancer {
        let (frontends, backends) = sets(ip);
        let spread = match ip {
            Ip::V4 => |modulus| spread(Ip::V4, modulus),
            Ip::V6 => |modulus| spread(Ip::V6, modulus),
        };
        Balancer::new(own_table(ip.family()), frontends, backends, spread, Some(REFUSE))
    }

    /// The table without elements, where there is none.
    pub(crate) fn ruleset(ip: Ip) -> Transaction {
        let mut t = Transaction::default();
        t.create_table(&own_table(ip.family()));
        Self::content(&mut t, ip);
        t
    }

    /// The table without elements, whatever is there.
    pub(crate) fn replacement(ip: Ip) -> Transaction {
        let mut t = Transaction::default();
        t.reset_table(&own_table(ip.family()));
        Self::content(&mut t, ip);
        t
    }

    fn content(t: &mut Transaction, ip: Ip) {
        let table = own_table(ip.family());
        let (frontends, backends) = sets(ip);
        t.set(&table, frontends);
        t.set(&table, backends);
        t.chain(
            &table,
            &Chain {
                name: REFUSE.into(),
                base: None,
            },
        );
        t.rule(&table, REFUSE, &[Expr::Refuse(ip)]);
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
        t.rule(&table, "output", &[ip.destination(0), lookup]);
    }

    pub(crate) fn elements(vips: &VirtualIps) -> BTreeMap<Key, Vec<Key>> {
        vips.iter()
            .map(|(vip, backends)| (Self::address(vip), backends.iter().map(Self::address).collect()))
            .collect()
    }

    /// A virtual IP, or what is behind one.
    pub(crate) fn address(address: &IpAddr) -> Key {
        Key::default().ip(*address)
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
    pub(crate) fn remove(ip: Ip) -> Transaction {
        let mut t = Transaction::default();
        t.delete_table(&own_table(ip.family()));
        t
    }
}

const fn sets(ip: Ip) -> (&'static Set, &'static Set) {
    match ip {
        Ip::V4 => (&FRONTENDS, &BACKENDS),
        Ip::V6 => (&FRONTENDS6, &BACKENDS6),
    }
}

fn spread(ip: Ip, modulus: u32) -> Vec<Expr> {
    let slot = ip.registers();
    let backend = slot + 1;
    vec![
        ip.destination(0),
        Expr::Random { modulus, reg: slot },
        Expr::Map {
            set: BACKENDS.name.into(),
            reg: 0,
            into: backend,
        },
        ip.dnat(backend, None),
    ]
}

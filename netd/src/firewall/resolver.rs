//! The table inside a sandbox that makes 127.0.0.11 answer on port 53 although our sockets are bound to other ports, so that
//! a container may run a DNS server of its own on 0.0.0.0:53.
//!
//! Only the port number is rewritten, in both directions and without state: no address changes, so no routing, no NAT and
//! no connection tracking. Where a container does track connections, both rewrites are on the far side of the tracker
//! (after it for questions, before it for answers), which therefore sees one conversation with port 53.

use std::net::Ipv4Addr;

use crate::nft::{Chain, Expr, Family, Hook, Kind, Table, Transaction, matching};
use crate::types::Protocol;

const DNS: u16 = 53;
/// On either side of the connection tracker (NF_IP_PRI_CONNTRACK, -200).
const AFTER_TRACKING: i32 = -150;
const BEFORE_TRACKING: i32 = -300;

/// Plan for one sandbox.
#[derive(Debug)]
pub(crate) struct ResolverFirewall {
    pub(crate) address: Ipv4Addr,
    /// The ports that our sockets are bound to.
    pub(crate) udp: u16,
    pub(crate) tcp: u16,
}

impl ResolverFirewall {
    /// The table; `fresh` if there cannot be one yet.
    pub(crate) fn ruleset(&self, fresh: bool) -> Transaction {
        let table = Table {
            family: Family::Ipv4,
            name: "shoal_dns".into(),
        };
        let mut t = Transaction::default();
        if fresh {
            t.create_table(&table);
        } else {
            t.reset_table(&table);
        }
        for (name, priority) in [("questions", AFTER_TRACKING), ("answers", BEFORE_TRACKING)] {
            t.chain(
                &table,
                &Chain {
                    name: name.into(),
                    base: Some((Kind::Filter, Hook::Output, priority, false)),
                },
            );
        }
        // Offsets of the checksum in the UDP and TCP header.
        for (protocol, port, checksum) in [(Protocol::Udp, self.udp, 6), (Protocol::Tcp, self.tcp, 16)] {
            let of_protocol = matching::protocol(protocol.number());
            let question = [
                matching::addressed_to(self.address),
                of_protocol.clone(),
                vec![
                    matching::destination_port(0),
                    matching::equal(DNS.to_be_bytes().to_vec()),
                ],
                rewrite(2, port, checksum),
            ];
            let answer = [
                matching::coming_from(self.address),
                of_protocol,
                vec![
                    matching::source_port(0),
                    matching::equal(port.to_be_bytes().to_vec()),
                ],
                rewrite(0, DNS, checksum),
            ];
            t.rule(&table, "questions", &question.concat());
            t.rule(&table, "answers", &answer.concat());
        }
        t
    }
}

fn rewrite(offset: u32, port: u16, checksum: u32) -> Vec<Expr> {
    vec![
        Expr::Load {
            reg: 0,
            value: port.to_be_bytes().to_vec(),
        },
        Expr::Rewrite {
            offset,
            len: 2,
            reg: 0,
            checksum,
        },
    ]
}

//! Changes of our tables by somebody else (NFNLGRP_NFTABLES).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, Weak};

use netlink_packet_core::NlasIterator;
use netlink_sys::TokioSocket;
use netlink_sys::protocols::NETLINK_NETFILTER;

use super::{PATIENCE, SETTLE, listen, mend, next};
use crate::error::Result;
use crate::node::Node;

/// linux/netfilter/nfnetlink.h
const NFNLGRP_NFTABLES: u32 = 7;
const NLMSGHDR: usize = 16;
const NFGENMSG: usize = 4;
/// Name of the table, in the messages about tables, chains, rules, sets and elements alike.
const TABLE: u16 = 1;

/// A socket that hears about every change of nftables in one namespace.
pub(crate) struct RuleWatch {
    socket: TokioSocket,
    tables: Vec<String>,
    /// Our own changes come from this netlink port.
    own: u32,
    restore: fn(&mut Node) -> Result<()>,
}

impl RuleWatch {
    /// Over these tables; `restore` writes them anew. Must be called where a runtime is at hand.
    pub(crate) fn new(
        netns: &OwnedFd,
        tables: Vec<String>,
        own: u32,
        restore: fn(&mut Node) -> Result<()>,
    ) -> io::Result<Self> {
        Ok(Self {
            socket: listen(netns, NETLINK_NETFILTER, &[NFNLGRP_NFTABLES])?,
            tables,
            own,
            restore,
        })
    }

    /// Write the tables anew whenever somebody else has changed one; ends with the node.
    pub(crate) async fn run(mut self, node: Weak<Mutex<Node>>) {
        loop {
            if !self.touched().await {
                continue;
            }
            for _ in 0..PATIENCE {
                if tokio::time::timeout(SETTLE, self.touched()).await.is_err() {
                    break;
                }
            }
            tracing::warn!(
                tables = ?self.tables,
                "somebody changed our packet filter; writing it anew"
            );
            if !mend(&node, "packet filter", self.restore).await {
                return;
            }
        }
    }

    /// Wait for news: has somebody else touched a table? If the kernel lost messages, perhaps.
    async fn touched(&mut self) -> bool {
        let news = next(&mut self.socket).await;
        news.is_none_or(|news| self.tables.iter().any(|table| concerns(&news, table, self.own)))
    }
}

fn concerns(datagram: &[u8], table: &str, own: u32) -> bool {
    let mut rest = datagram;
    while let Some(header) = rest.get(..NLMSGHDR) {
        let word =
            |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (length, port) = (word(0) as usize, word(12));
        let Some(attributes) = rest.get(NLMSGHDR + NFGENMSG..length) else {
            return false;
        };
        let about = |nla: netlink_packet_core::NlaBuffer<&[u8]>| {
            nla.kind() == TABLE && nla.value().strip_suffix(&[0]) == Some(table.as_bytes())
        };
        if port != own && NlasIterator::new(attributes).flatten().any(about) {
            return true;
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_others_changes_of_our_table_count() {
        let mut message = vec![32, 0, 0, 0, 2, 10, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 2, 0, 0, 0];
        message.extend([9, 0, 1, 0, b'o', b'u', b'r', b's', 0, 0, 0, 0]);
        assert!(concerns(&message, "ours", 8));
        assert!(!concerns(&message, "ours", 7), "our own doing");
        assert!(!concerns(&message, "theirs", 8));
        assert!(!concerns(&message[..30], "ours", 8));
        assert!(concerns(&[message.clone(), message].concat(), "ours", 8));
    }
}

//! Watch over our table in the host's namespace: `nft flush ruleset`, a firewall's reload or an administrator's mistake
//! must not leave published ports dead or networks open. The kernel tells us (NFNLGRP_NFTABLES); nothing polls.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError, Weak};
use std::time::Duration;

use netlink_packet_core::NlasIterator;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use tokio::runtime::Handle;

use crate::node::Node;

/// linux/netfilter/nfnetlink.h
const NFNLGRP_NFTABLES: u32 = 7;
const NLMSGHDR: usize = 16;
const NFGENMSG: usize = 4;
/// Name of the table, in the messages about tables, chains, rules, sets and elements alike.
const TABLE: u16 = 1;
/// A flush comes as many messages, and whoever reloads a firewall has more to do: let it finish.
const SETTLE: Duration = Duration::from_millis(200);

/// A socket that hears about every change of nftables in the host's namespace.
pub(crate) struct Watch {
    socket: TokioSocket,
    table: String,
    /// Our own changes come from this netlink port.
    own: u32,
}

impl Watch {
    /// Must be called where a runtime is at hand.
    pub(crate) fn new(host: &OwnedFd, table: String, own: u32) -> io::Result<Self> {
        let runtime = Handle::current();
        let open = || -> io::Result<TokioSocket> {
            let _inside = runtime.enter();
            let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
            socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
            socket.socket_mut().add_membership(NFNLGRP_NFTABLES)?;
            Ok(socket)
        };
        Ok(Self {
            socket: sys::netns::run_in(host, open)??,
            table,
            own,
        })
    }

    /// Write the table anew whenever somebody else has changed it; ends with the node.
    pub(crate) async fn run(mut self, node: Weak<Mutex<Node>>) {
        loop {
            if !self.touched().await {
                continue;
            }
            // Until it has been quiet for a while, but not for ever.
            for _ in 0..10 {
                if tokio::time::timeout(SETTLE, self.touched()).await.is_err() {
                    break;
                }
            }
            let Some(node) = node.upgrade() else { return };
            tracing::warn!(
                table = self.table,
                "somebody changed our packet filter; writing it anew"
            );
            let restore = move || node.lock().unwrap_or_else(PoisonError::into_inner).restore_host();
            if let Ok(Err(error)) = tokio::task::spawn_blocking(restore).await {
                tracing::error!(table = self.table, %error, "packet filter not restored");
            }
        }
    }

    /// Wait for news: has somebody else touched the table? If the kernel lost messages, perhaps.
    async fn touched(&mut self) -> bool {
        match self.socket.recv_from_full().await {
            Ok((news, _)) => concerns(&news, &self.table, self.own),
            Err(_) => {
                tokio::time::sleep(SETTLE).await; // whatever it is, it must not spin
                true
            }
        }
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

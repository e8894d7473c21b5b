//! News of the host's links, addresses, routes and forwarding: what a node has said about itself may be different then. The kernel
//! tells (NETLINK_ROUTE); nothing polls.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};

/// linux/rtnetlink.h: links; IPv4 and IPv6 addresses; IPv4 and IPv6 routes; and the settings of both, of which forwarding is
/// one. Routes that go with their link or address are not told one by one.
const GROUPS: [u32; 7] = [1, 5, 9, 7, 11, 24, 25];
/// A link that comes up comes with many messages.
const SETTLE: Duration = Duration::from_millis(100);

/// Hears of every change.
pub struct HostChanges {
    socket: TokioSocket,
}

impl HostChanges {
    /// Must be called where a runtime is at hand.
    pub(crate) fn open(host: &OwnedFd) -> io::Result<Self> {
        let runtime = tokio::runtime::Handle::current();
        let open = || -> io::Result<TokioSocket> {
            let _inside = runtime.enter();
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
            for group in GROUPS {
                socket.socket_mut().add_membership(group)?;
            }
            Ok(socket)
        };
        Ok(Self {
            socket: sys::netns::run_in(host, open)??,
        })
    }

    /// Returns when something has changed, and has been quiet since.
    pub async fn next(&mut self) {
        // An error says that messages were lost: perhaps just that one.
        let mut lost = self.socket.recv_from_full().await.is_err();
        // Until it is quiet, but not for ever.
        for _ in 0..10 {
            if lost {
                tokio::time::sleep(SETTLE).await; // whatever it is, it must not spin
            }
            match tokio::time::timeout(SETTLE, self.socket.recv_from_full()).await {
                Ok(news) => lost = news.is_err(),
                Err(_) => break,
            }
        }
    }
}

impl std::fmt::Debug for HostChanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostChanges").finish_non_exhaustive()
    }
}

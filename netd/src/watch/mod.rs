//! Watch over what is ours in the kernel: `nft flush ruleset`, `ip link del`, a firewall's reload or an administrator's
//! mistake must not leave published ports dead, networks open or containers unreachable. The kernel tells us; nothing polls,
//! but a look every half a minute finds what the kernel did not tell.

mod links;
mod rules;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError, Weak};
use std::time::Duration;

use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use tokio::runtime::Handle;

use crate::error::Result;
use crate::node::Node;

pub(crate) use links::{LinkWatch, Loss};
pub(crate) use rules::RuleWatch;

/// One mistake comes as many messages, and whoever makes it has more to do: let it finish.
const SETTLE: Duration = Duration::from_millis(200);
/// Until it has been quiet for that long, but not for ever.
const PATIENCE: usize = 10;
/// Changes of our own by the thousand come back as messages.
const RECEIVE: usize = 4 << 20;

/// A socket that hears of these groups' messages in that namespace. Must be called where a runtime is at hand.
fn listen(netns: &OwnedFd, protocol: isize, groups: &[u32]) -> io::Result<TokioSocket> {
    let runtime = Handle::current();
    let open = || -> io::Result<TokioSocket> {
        let _inside = runtime.enter();
        let mut socket = TokioSocket::new(protocol)?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        // Best effort: with less room messages get lost sooner, which we are told.
        let _ = nix::sys::socket::setsockopt(
            socket.socket_ref(),
            nix::sys::socket::sockopt::RcvBufForce,
            &RECEIVE,
        );
        for group in groups {
            socket.socket_mut().add_membership(*group)?;
        }
        Ok(socket)
    };
    sys::netns::run_in(netns, open)?
}

/// The next datagram; `None` if the kernel has lost some.
async fn next(socket: &mut TokioSocket) -> Option<Vec<u8>> {
    match socket.recv_from_full().await {
        Ok((news, _)) => Some(news),
        Err(_) => {
            tokio::time::sleep(SETTLE).await; // whatever it is, it must not spin
            None
        }
    }
}

/// Have the node mended, on a thread that may block. `false` once the node is no more.
async fn mend(
    node: &Weak<Mutex<Node>>,
    what: &str,
    work: impl FnOnce(&mut Node) -> Result<()> + Send + 'static,
) -> bool {
    let Some(node) = node.upgrade() else {
        return false;
    };
    let work = move || work(&mut node.lock().unwrap_or_else(PoisonError::into_inner));
    if let Ok(Err(error)) = tokio::task::spawn_blocking(work).await {
        tracing::error!(what, error = crate::error::chain(&error), "not mended");
    }
    true
}

//! When an IPv6 address is in use. The kernel lets others find a new address, and takes what they send to it, a little after
//! it was given, from a queue that all namespaces of the machine share: on a busy machine that is seconds. It tells when it
//! has come so far by the route that leads to the address itself.

use std::io;
use std::net::Ipv6Addr;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use netlink_sys::SocketAddr;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::path::Path;
use super::socket::{RECEIVE, Socket};

/// linux/rtnetlink.h
const RTNLGRP_IPV6_ROUTE: u32 = 11;
/// Whoever sends meanwhile has to send again, so nobody waits for ever.
const PATIENCE: Duration = Duration::from_secs(3);

/// Waits until all of the addresses, of the calling thread's namespace, are in use; `false` if that takes too long.
pub(crate) fn until_usable(addresses: &[Ipv6Addr]) -> io::Result<bool> {
    let mut socket = Socket::route()?;
    if are_usable(&mut socket, addresses) {
        return Ok(true);
    }
    let mut news = News::of(RTNLGRP_IPV6_ROUTE)?;
    let end = Instant::now() + PATIENCE;
    while !are_usable(&mut socket, addresses) {
        if !news.come_before(end)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// An address to which there is no way at all is none.
fn are_usable(socket: &mut Socket, addresses: &[Ipv6Addr]) -> bool {
    let mut all = addresses.iter();
    all.all(|address| Path::find(socket, (*address).into()).is_ok_and(|path| path.local))
}

/// What the kernel tells of changes. They say when to look, not what is there.
struct News {
    socket: netlink_sys::Socket,
    buffer: Vec<u8>,
}

impl News {
    fn of(group: u32) -> io::Result<Self> {
        let mut socket = netlink_sys::Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.add_membership(group)?;
        socket.set_non_blocking(true)?;
        let buffer = vec![0; RECEIVE];
        Ok(Self { socket, buffer })
    }

    /// Waits for the next; `false` if there is none until then.
    fn come_before(&mut self, end: Instant) -> io::Result<bool> {
        let left = end.saturating_duration_since(Instant::now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let mut waiting = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waiting, left) {
            Ok(0) => return Ok(false),
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        // Also when some were lost (ENOBUFS) it is time to look.
        let _ = nix::unistd::read(self.socket.as_fd(), &mut self.buffer);
        Ok(true)
    }
}

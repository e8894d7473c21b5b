//! Sockets that hold on to a backend which is none any more. A stream ends with its task; a connected datagram socket would
//! send into the void for as long as it lives (cilium#12859), so it is connected anew: by this process, through a duplicate
//! of the descriptor, to the same virtual address, and its owner notices nothing. Where that cannot be it is destroyed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::tables::{self, Tables};
use crate::netlink::{Connected, Socket};
use crate::types::Protocol;

/// Where a socket should be led that is connected to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pin {
    pub(crate) vip: IpAddr,
    /// The virtual address does not lead anywhere any more.
    pub(crate) gone: bool,
}

/// Work to be done after a change, by whoever may block.
#[derive(Debug)]
pub(crate) struct Pinned {
    pub(super) tables: Arc<Tables>,
    /// Above the cgroups of all that may own such a socket.
    pub(super) cgroup: PathBuf,
    /// By the address that a socket is connected to: a lost backend, or the virtual address itself.
    pub(super) pins: BTreeMap<IpAddr, Pin>,
}

impl Pinned {
    /// Let go the sockets of one namespace, given a way to look into it.
    pub(crate) fn release(&self, diagnostic: &mut Socket) -> io::Result<usize> {
        let mut found = Vec::new();
        for socket in Connected::list(diagnostic, Protocol::Udp.number())? {
            if let Some(pin) = self.pin(&socket)? {
                found.push((socket, pin));
            }
        }
        let count = found.len();
        let steered =
            |(socket, pin): &(Connected, Pin)| !pin.gone && self.steer(socket, pin.vip).unwrap_or(false);
        found.retain(|one| !steered(one));
        found
            .iter()
            .try_for_each(|(socket, _)| socket.destroy(diagnostic))?;
        Ok(count)
    }

    /// One that was connected to the address of a task is left where its owner wanted it.
    fn pin(&self, socket: &Connected) -> io::Result<Option<Pin>> {
        let (peer, port) = socket.peer;
        let Some(pin) = self.pins.get(&peer) else {
            return Ok(None);
        };
        let key = tables::flow(socket.cookie, peer, port);
        let led = peer == pin.vip || self.tables.flows.get(&key)? == Some(tables::address(pin.vip).to_vec());
        Ok(led.then_some(*pin))
    }

    /// Connect it anew; whether it was found.
    fn steer(&self, socket: &Connected, vip: IpAddr) -> io::Result<bool> {
        let target = SocketAddr::new(vip, socket.peer.1);
        for process in processes(&self.cgroup)? {
            for descriptor in holders(process, socket.inode) {
                let Ok(duplicate) = sys::process::duplicate_of(process, descriptor) else {
                    continue; // gone meanwhile
                };
                if sys::socket::cookie(&duplicate)? == socket.cookie {
                    return reconnect(duplicate, target).map(|()| true);
                }
            }
        }
        Ok(false)
    }
}

fn reconnect(socket: OwnedFd, target: SocketAddr) -> io::Result<()> {
    let socket = UdpSocket::from(socket);
    let target = match target {
        SocketAddr::V4(v4) if socket.local_addr()?.is_ipv6() => {
            SocketAddr::new(v4.ip().to_ipv6_mapped().into(), v4.port())
        }
        other => other,
    };
    // Its owner may just have led it elsewhere; the hook shows the virtual address.
    if socket.peer_addr()? == target {
        socket.connect(target)?;
    }
    Ok(())
}

/// The processes of a cgroup and of those below it.
fn processes(cgroup: &Path) -> io::Result<Vec<i32>> {
    let mut found = match fs::read_to_string(cgroup.join("cgroup.procs")) {
        Ok(text) => text.lines().filter_map(|line| line.parse().ok()).collect(),
        // In a threaded cgroup only threads can be listed (cgroups(7)).
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            let text = fs::read_to_string(cgroup.join("cgroup.threads"))?;
            text.lines().filter_map(process_of).collect()
        }
        // A container may end at any moment, and its cgroup with it.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Vec::new(),
        Err(error) => return Err(error),
    };
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(processes(&entry.path())?);
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn process_of(thread: &str) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    line.trim().parse().ok()
}

/// The descriptors by which a process holds a socket.
fn holders(process: i32, inode: u32) -> Vec<RawFd> {
    let link = format!("socket:[{inode}]");
    let entries = fs::read_dir(format!("/proc/{process}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    let holds =
        |entry: &fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str() == link.as_str());
    entries
        .filter(holds)
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn the_holder_of_a_socket_is_found_among_the_processes_of_a_cgroup() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let inode: String = link
            .to_string_lossy()
            .chars()
            .filter(char::is_ascii_digit)
            .collect();
        let own = std::process::id().cast_signed();
        assert_eq!(holders(own, inode.parse().unwrap()), [socket.as_raw_fd()]);
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let unified = mounts.lines().find(|line| line.contains(" cgroup2 ")).unwrap();
        let all = processes(Path::new(unified.split(' ').nth(1).unwrap())).unwrap();
        assert!(all.contains(&own), "the whole hierarchy has this process, too");
        assert_eq!(processes(Path::new("/nowhere")).unwrap(), Vec::<i32>::new());
        let duplicate = sys::process::duplicate_of(own, socket.as_raw_fd()).unwrap();
        assert_eq!(
            sys::socket::cookie(&duplicate).unwrap(),
            sys::socket::cookie(&socket).unwrap()
        );
    }
}

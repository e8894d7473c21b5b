//! Ports of the host that we hold. Each is kept by a bound socket in the host's namespace, so that another program cannot
//! take it and we notice one that has; packets never reach that socket, because nftables redirects them first.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    self, AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, setsockopt,
    sockopt,
};

use crate::error::{Error, Result};
use crate::firewall::Frontend;
use crate::nft::Ip;
use crate::types::Protocol;

/// Where a port's number at the fabric is taken from if its own is in use there by another address of the host.
const SPARE: std::ops::RangeInclusive<u16> = 20000..=32767;

/// A wanted port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// `None`: every IPv4 address of the host; unspecified (`::`): every IPv6 address.
    pub(crate) address: Option<IpAddr>,
    /// `None`: any free one.
    pub(crate) port: Option<u16>,
    /// The same number as the wanted port before this one, at another address.
    pub(crate) same: bool,
    pub(crate) protocol: Protocol,
}

#[derive(Debug)]
enum Socket {
    Tcp(#[allow(dead_code, reason = "held, not used")] TcpListener),
    Udp(#[allow(dead_code, reason = "held, not used")] UdpSocket),
}

#[derive(Debug)]
struct Held {
    owner: String,
    frontend: Frontend,
    /// `None`: another program took the port while we were not running.
    #[allow(dead_code, reason = "held, not used")]
    socket: Option<Socket>,
}

/// All ports held on one node.
#[derive(Debug, Default)]
pub(crate) struct Ports(Vec<Held>);

impl Ports {
    /// Hold all the wanted ports for `owner`, or none.
    pub(crate) fn reserve(
        &mut self,
        host: &OwnedFd,
        owner: &str,
        wanted: &[Wanted],
    ) -> Result<Vec<Frontend>> {
        let before = self.0.len();
        let mut last = None;
        let mut reserve = |wanted: &Wanted| {
            let port = if wanted.same { last } else { wanted.port };
            let held = self.reserve_one(host, owner, Wanted { port, ..*wanted })?;
            last = Some(held.port);
            Ok(held)
        };
        let result: Result<Vec<_>> = wanted.iter().map(&mut reserve).collect();
        if result.is_err() {
            self.0.truncate(before);
        }
        result
    }

    /// Hold a port that was held before a restart. If that fails the port goes on being redirected; the error says who
    /// has it.
    pub(crate) fn adopt(&mut self, host: &OwnedFd, owner: &str, frontend: Frontend) -> Result<()> {
        let bound = bind(host, frontend.address, frontend.port, frontend.protocol);
        let (socket, result) = match bound {
            Ok((socket, _)) => (Some(socket), Ok(())),
            Err(e) => (
                None,
                Err(refused(
                    host,
                    frontend.address,
                    frontend.port,
                    frontend.protocol,
                    e,
                )),
            ),
        };
        self.0.push(Held {
            owner: owner.to_owned(),
            frontend,
            socket,
        });
        result
    }

    pub(crate) fn release(&mut self, owner: &str, frontends: &[Frontend]) {
        self.0
            .retain(|held| held.owner != owner || !frontends.contains(&held.frontend));
    }

    pub(crate) fn release_all(&mut self) {
        self.0.clear();
    }

    /// Who holds the port on any address: one of ours, or another program.
    pub(crate) fn holder(&self, host: &OwnedFd, port: u16, protocol: Protocol) -> Option<String> {
        let ours = self
            .0
            .iter()
            .find(|h| h.frontend.port == port && h.frontend.protocol == protocol);
        ours.map(|held| held.owner.clone())
            .or_else(|| foreign_holder(host, port, protocol, &["", "6"]))
    }

    /// Who keeps the port of one IP version from us, on any address: one of ours, or another program.
    pub(crate) fn blocker(&self, host: &OwnedFd, ip: Ip, port: u16, protocol: Protocol) -> Option<String> {
        let any = match ip {
            Ip::V4 => None,
            Ip::V6 => Some(Ipv6Addr::UNSPECIFIED.into()),
        };
        let ours = self.conflict(any, port, protocol);
        // A socket for both versions is in the table of IPv6.
        let tables: &[&str] = if ip == Ip::V4 { &["", "6"] } else { &["6"] };
        ours.or_else(|| foreign_holder(host, port, protocol, tables))
    }

    fn reserve_one(&mut self, host: &OwnedFd, owner: &str, wanted: Wanted) -> Result<Frontend> {
        let Wanted {
            address, protocol, ..
        } = wanted;
        if let Some(port) = wanted.port
            && let Some(holder) = self.conflict(address, port, protocol)
        {
            let address = at(address);
            return Err(Error::PortInUse {
                address,
                port,
                protocol,
                holder,
            });
        }
        let number = wanted.port.unwrap_or(0);
        let (socket, port) =
            bind(host, address, number, protocol).map_err(|e| refused(host, address, number, protocol, e))?;
        let fabric_port = self
            .fabric_port(address, port, protocol)
            .ok_or(Error::NoFreePort(protocol))?;
        let frontend = Frontend {
            address,
            protocol,
            port,
            fabric_port,
        };
        self.0.push(Held {
            owner: owner.to_owned(),
            frontend,
            socket: Some(socket),
        });
        Ok(frontend)
    }

    fn conflict(&self, address: Option<IpAddr>, port: u16, protocol: Protocol) -> Option<String> {
        let wanted = at(address);
        let overlaps = |other: Option<IpAddr>| {
            let other = at(other);
            let any = wanted.is_unspecified() || other.is_unspecified();
            wanted.is_ipv4() == other.is_ipv4() && (any || wanted == other)
        };
        let mut same = self
            .0
            .iter()
            .filter(|h| h.frontend.port == port && h.frontend.protocol == protocol);
        same.find(|held| overlaps(held.frontend.address))
            .map(|held| held.owner.clone())
    }

    /// IPv4 and IPv6 do not meet there.
    fn fabric_port(&self, address: Option<IpAddr>, port: u16, protocol: Protocol) -> Option<u16> {
        let taken: BTreeSet<u16> = self
            .0
            .iter()
            .filter(|h| h.frontend.protocol == protocol)
            .filter(|h| at(h.frontend.address).is_ipv4() == at(address).is_ipv4())
            .map(|h| h.frontend.fabric_port)
            .collect();
        std::iter::once(port)
            .chain(SPARE)
            .find(|candidate| !taken.contains(candidate))
    }
}

fn bind(host: &OwnedFd, address: Option<IpAddr>, port: u16, protocol: Protocol) -> io::Result<(Socket, u16)> {
    let at = SocketAddr::new(at(address), port);
    sys::netns::run_in(host, || {
        let socket = bind_alone(at, protocol)?;
        match protocol {
            Protocol::Tcp => {
                let socket = TcpListener::from(socket);
                let port = socket.local_addr()?.port();
                Ok((Socket::Tcp(socket), port))
            }
            Protocol::Udp => {
                let socket = UdpSocket::from(socket);
                let port = socket.local_addr()?.port();
                Ok((Socket::Udp(socket), port))
            }
        }
    })?
}

/// A bound socket, listening if it is one that can; an IPv6 one leaves IPv4 alone, which the standard library's does not.
fn bind_alone(at: SocketAddr, protocol: Protocol) -> io::Result<OwnedFd> {
    let (family, address): (_, Box<dyn SockaddrLike>) = match at {
        SocketAddr::V4(at) => (AddressFamily::Inet, Box::new(SockaddrIn::from(at))),
        SocketAddr::V6(at) => (AddressFamily::Inet6, Box::new(SockaddrIn6::from(at))),
    };
    let kind = match protocol {
        Protocol::Tcp => SockType::Stream,
        Protocol::Udp => SockType::Datagram,
    };
    let socket = socket::socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if at.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &true)?;
    }
    if protocol == Protocol::Tcp {
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    socket::bind(socket.as_raw_fd(), &*address)?;
    if protocol == Protocol::Tcp {
        socket::listen(&socket, Backlog::MAXCONN)?;
    }
    Ok(socket)
}

/// The address that a port is held at.
fn at(address: Option<IpAddr>) -> IpAddr {
    address.unwrap_or(Ipv4Addr::UNSPECIFIED.into())
}

fn refused(
    host: &OwnedFd,
    address: Option<IpAddr>,
    port: u16,
    protocol: Protocol,
    source: io::Error,
) -> Error {
    let address = at(address);
    if source.kind() == io::ErrorKind::AddrInUse {
        let tables: &[&str] = if address.is_ipv4() { &["", "6"] } else { &["6"] };
        let holder = foreign_holder(host, port, protocol, tables).unwrap_or_else(|| "another program".into());
        return Error::PortInUse {
            address,
            port,
            protocol,
            holder,
        };
    }
    Error::PortBind {
        address,
        port,
        protocol,
        source,
    }
}

/// The program that has a socket on the port: `nginx (pid 42)`, by the kernel's tables of sockets of these versions. Only
/// asked after a refusal, so it may look around.
fn foreign_holder(host: &OwnedFd, port: u16, protocol: Protocol, versions: &[&str]) -> Option<String> {
    let table =
        |v: &&str| fs::read_to_string(format!("/proc/thread-self/net/{protocol}{v}")).unwrap_or_default();
    let tables = sys::netns::run_in(host, || versions.iter().map(table).collect::<Vec<_>>());
    let inodes: BTreeSet<String> = tables
        .ok()?
        .iter()
        .flat_map(|table| listeners(table, port, protocol))
        .collect();
    if inodes.is_empty() {
        return None;
    }
    let named = processes().find(|pid| holds(*pid, &inodes)).map(|pid| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        format!("{} (pid {pid})", name.trim())
    });
    Some(named.unwrap_or_else(|| "another program".into()))
}

/// Inodes of the sockets that wait on the port, from a table of proc_net(5): address in column 1, state in 3, inode in 9.
fn listeners(table: &str, port: u16, protocol: Protocol) -> Vec<String> {
    let waiting = if protocol == Protocol::Tcp { "0A" } else { "07" };
    let suffix = format!(":{port:04X}");
    let fields = table
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields
        .filter(|f| f.len() > 9 && f[1].ends_with(&suffix) && f[3] == waiting)
        .map(|f| format!("socket:[{}]", f[9]))
        .collect()
}

fn processes() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
}

fn holds(pid: u32, inodes: &BTreeSet<String>) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten();
    descriptors
        .filter_map(|e| fs::read_link(e.path()).ok())
        .any(|to| inodes.contains(&*to.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));

    fn netns() -> OwnedFd {
        let raise = || {
            let up = crate::netlink::LinkChange {
                up: true,
                ..Default::default()
            };
            let request = crate::netlink::Link::change("lo", &up);
            crate::netlink::Socket::route().unwrap().request(request).unwrap();
        };
        sys::netns::create(raise).unwrap().0
    }

    fn wanted(address: Option<IpAddr>, port: Option<u16>) -> Wanted {
        Wanted {
            address,
            port,
            same: false,
            protocol: Protocol::Tcp,
        }
    }

    #[test]
    fn a_port_is_held_once_and_the_error_names_the_holder() {
        let (host, mut ports) = (netns(), Ports::default());
        let first = ports.reserve(&host, "web", &[wanted(None, Some(8080))]).unwrap();
        assert_eq!(first[0].fabric_port, 8080);
        let error = ports
            .reserve(&host, "other", &[wanted(None, None), wanted(LOCAL, Some(8080))])
            .unwrap_err();
        assert!(
            error.to_string().contains("8080/tcp") && error.to_string().contains("web"),
            "{error}"
        );
        assert_eq!(ports.0.len(), 1, "the free port of the failed request is let go");
        ports.release("web", &first);
        ports
            .reserve(&host, "other", &[wanted(LOCAL, Some(8080))])
            .unwrap();
    }

    #[test]
    fn two_addresses_share_a_number_and_differ_at_the_fabric() {
        let (host, mut ports) = (netns(), Ports::default());
        let second = Some(IpAddr::from([127, 0, 0, 2]));
        let got = ports
            .reserve(&host, "web", &[wanted(LOCAL, Some(80)), wanted(second, Some(80))])
            .unwrap();
        assert_eq!((got[0].fabric_port, got[1].fabric_port), (80, 20000));
    }

    #[test]
    fn both_ip_versions_share_a_number() {
        let (host, mut ports) = (netns(), Ports::default());
        let any6 = Some("::".parse().unwrap());
        let also = Wanted {
            same: true,
            ..wanted(any6, None)
        };
        let got = ports.reserve(&host, "web", &[wanted(None, None), also]).unwrap();
        assert_eq!(
            (got[0].port, got[0].fabric_port),
            (got[1].port, got[1].fabric_port)
        );
        let one = wanted(Some("::1".parse().unwrap()), Some(got[0].port));
        assert!(ports.reserve(&host, "other", &[one]).is_err());
    }

    #[test]
    fn another_programs_port_is_noticed_and_the_program_named() {
        let (host, mut ports) = (netns(), Ports::default());
        let theirs = sys::netns::run_in(&host, || TcpListener::bind("127.0.0.1:9090").unwrap()).unwrap();
        let error = ports
            .reserve(&host, "web", &[wanted(None, Some(9090))])
            .unwrap_err();
        assert!(
            error.to_string().contains(&format!("pid {}", std::process::id())),
            "{error}"
        );
        assert!(ports.holder(&host, 9090, Protocol::Tcp).is_some());
        drop(theirs);
        assert_eq!(ports.holder(&host, 9090, Protocol::Tcp), None);
        ports.reserve(&host, "web", &[wanted(None, Some(9090))]).unwrap();
    }

    #[test]
    fn a_free_port_is_found_for_both_protocols() {
        let (host, mut ports) = (netns(), Ports::default());
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let got = ports
                .reserve(
                    &host,
                    "web",
                    &[Wanted {
                        address: None,
                        port: None,
                        same: false,
                        protocol,
                    }],
                )
                .unwrap();
            assert!(got[0].port >= 1024);
        }
    }
}

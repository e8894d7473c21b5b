//! Connected sockets of a namespace, as `NETLINK_SOCK_DIAG` lists them (sock_diag(7)), and their destruction.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::socket::{Request, Socket, errno};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// Length of `struct inet_diag_sockid`, which begins four bytes into `struct inet_diag_msg`.
const ID: usize = 48;
const INODE: usize = 68;
/// Bits of the states in which a socket still waits for its peer.
const UNDER_WAY: u32 = 1 << 1 | 1 << 2 | 1 << 4; // ESTABLISHED, SYN_SENT, FIN_WAIT1

/// One connected socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connected {
    family: u8,
    /// IANA number.
    protocol: u8,
    pub(crate) local: (IpAddr, u16),
    pub(crate) peer: (IpAddr, u16),
    /// The kernel's number of the socket, never given twice.
    pub(crate) cookie: u64,
    /// As in the links of /proc/PID/fd.
    pub(crate) inode: u32,
    id: [u8; ID],
}

impl Connected {
    /// The sockets of the diagnostic socket's namespace that wait for a peer, IPv4 and IPv6.
    pub(crate) fn list(socket: &mut Socket, protocol: u8) -> io::Result<Vec<Self>> {
        let mut found = Vec::new();
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            let request = Request {
                kind: SOCK_DIAG_BY_FAMILY,
                flags: 0,
                body: words(family, protocol, UNDER_WAY, &[0; ID]),
            };
            found.extend(socket.dump(&request, |_, body| Self::parse(protocol, body))?);
        }
        Ok(found)
    }

    /// End the socket: its owner gets `ECONNABORTED`. One that is gone is fine.
    pub(crate) fn destroy(&self, socket: &mut Socket) -> io::Result<()> {
        let request = Request {
            kind: SOCK_DESTROY,
            flags: 0,
            body: words(self.family, self.protocol, 0, &self.id),
        };
        match socket.request(request) {
            Err(error) if errno(&error) == Some(libc::ENOENT) => Ok(()),
            done => done,
        }
    }

    fn parse(protocol: u8, body: &[u8]) -> Option<Self> {
        let family = *body.first()?;
        let id: [u8; ID] = body.get(4..4 + ID)?.try_into().ok()?;
        let number = |at: usize| {
            let bytes = body.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_ne_bytes(bytes))
        };
        let address = |from: usize| -> Option<IpAddr> {
            let octets: [u8; 16] = id[from..from + 16].try_into().ok()?;
            Some(match i32::from(family) {
                libc::AF_INET => Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]).into(),
                _ => Ipv6Addr::from(octets).to_canonical(),
            })
        };
        Some(Self {
            family,
            protocol,
            local: (address(4)?, u16::from_be_bytes([id[0], id[1]])),
            peer: (address(20)?, u16::from_be_bytes([id[2], id[3]])),
            cookie: u64::from(number(4 + 40)?) | u64::from(number(4 + 44)?) << 32,
            inode: number(INODE)?,
            id,
        })
    }
}

/// `struct inet_diag_req_v2`.
fn words(family: u8, protocol: u8, states: u32, id: &[u8; ID]) -> Vec<u8> {
    let mut body = vec![family, protocol, 0, 0];
    body.extend_from_slice(&states.to_ne_bytes());
    body.extend_from_slice(id);
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};

    #[test]
    fn a_connected_socket_is_found_and_destroyed() {
        let world = || {
            let mut route = Socket::route().unwrap();
            let up = super::super::LinkChange {
                up: true,
                ..super::super::LinkChange::default()
            };
            route.request(super::super::Link::change("lo", &up)).unwrap();
            let mut socket = Socket::diagnostic().unwrap();
            let listener = TcpListener::bind("127.0.0.1:81").unwrap();
            let stream = TcpStream::connect("127.0.0.1:81").unwrap();
            let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
            datagrams.connect("127.0.0.1:82").unwrap();
            for (protocol, port) in [(6, 81), (17, 82)] {
                let found = Connected::list(&mut socket, protocol).unwrap();
                let one = found.iter().find(|one| one.peer.1 == port).unwrap();
                assert_eq!(one.peer.0, IpAddr::from([127, 0, 0, 1]));
                assert_eq!(one.local.0, IpAddr::from([127, 0, 0, 1]));
                assert_ne!(one.local.1, 0);
                one.destroy(&mut socket).unwrap();
                one.destroy(&mut socket).unwrap();
            }
            assert_eq!(
                stream.take_error().unwrap().unwrap().raw_os_error(),
                Some(libc::ECONNABORTED)
            );
            assert_eq!(
                datagrams.take_error().unwrap().unwrap().raw_os_error(),
                Some(libc::ECONNABORTED)
            );
            drop(listener);
        };
        sys::netns::create(world).expect("tests of netd need root");
    }
}

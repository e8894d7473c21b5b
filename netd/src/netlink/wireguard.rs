//! WireGuard devices (linux/wireguard.h): made as links, set up over generic netlink.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use netlink_packet_core::NlasIterator;

use super::attribute::Attributes;
use super::generic::{self, GENLMSGHDR};
use super::socket::Socket;

const FAMILY: &str = "wireguard";
const VERSION: u8 = 1;
const WG_CMD_GET_DEVICE: u8 = 0;
const WG_CMD_SET_DEVICE: u8 = 1;
const WGDEVICE_A_IFNAME: u16 = 2;
const WGDEVICE_A_PRIVATE_KEY: u16 = 3;
const WGDEVICE_A_PUBLIC_KEY: u16 = 4;
const WGDEVICE_A_LISTEN_PORT: u16 = 6;
const WGDEVICE_A_PEERS: u16 = 8;
const WGPEER_A_PUBLIC_KEY: u16 = 1;
const WGPEER_A_PRESHARED_KEY: u16 = 2;
const WGPEER_A_FLAGS: u16 = 3;
const WGPEER_A_ENDPOINT: u16 = 4;
const WGPEER_A_ALLOWEDIPS: u16 = 9;
const WGPEER_F_REMOVE_ME: u32 = 1;
const WGPEER_F_REPLACE_ALLOWEDIPS: u32 = 2;
const WGALLOWEDIP_A_FAMILY: u16 = 1;
const WGALLOWEDIP_A_IPADDR: u16 = 2;
const WGALLOWEDIP_A_CIDR_MASK: u16 = 3;
/// Peers in one message: an attribute, and so their list, is at most 64 KiB.
const AT_ONCE: usize = 200;

/// The public half of a Curve25519 key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PublicKey(pub(crate) [u8; 32]);

/// The private half of a key, or a secret that both ends mix into their handshakes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct SecretKey(pub(crate) [u8; 32]);

/// A device as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WireGuard {
    pub(crate) public_key: PublicKey,
    /// UDP.
    pub(crate) port: u16,
    pub(crate) peers: Vec<WireGuardPeer>,
}

/// The other end of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WireGuardPeer {
    pub(crate) public_key: PublicKey,
    pub(crate) endpoint: Option<SocketAddr>,
    /// The one address that it may send from, and that leads to it.
    pub(crate) address: Option<Ipv6Addr>,
}

impl WireGuard {
    /// The device of this name in the socket's namespace. The key is not read back.
    pub(crate) fn get(socket: &mut Socket, name: &str) -> io::Result<Self> {
        let mut attributes = Attributes::default();
        attributes.text(WGDEVICE_A_IFNAME, name);
        let request = generic::request(family(socket)?, WG_CMD_GET_DEVICE, VERSION, &attributes);
        // Many peers come in several messages, each of which names the device again.
        let parts = socket.dump(&request, |_, body| Self::parse(body))?;
        let merged = parts.into_iter().reduce(|mut whole, part| {
            whole.peers.extend(part.peers);
            whole
        });
        merged.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Give the device its private key and UDP port.
    pub(crate) fn set_identity(
        socket: &mut Socket,
        name: &str,
        private_key: SecretKey,
        port: u16,
    ) -> io::Result<()> {
        let mut attributes = Attributes::default();
        attributes
            .text(WGDEVICE_A_IFNAME, name)
            .put(WGDEVICE_A_PRIVATE_KEY, &private_key.0)
            .put(WGDEVICE_A_LISTEN_PORT, &port.to_ne_bytes());
        Self::set(socket, &attributes)
    }

    /// Add peers or bring them in line, and remove others. Tunnels to peers that stay as they are go on.
    pub(crate) fn change_peers(
        socket: &mut Socket,
        name: &str,
        put: &[WireGuardPeer],
        preshared: Option<SecretKey>,
        remove: &[PublicKey],
    ) -> io::Result<()> {
        let puts = put.iter().map(|peer| encode(peer, preshared));
        let removals = remove.iter().map(encode_removal);
        let all: Vec<Attributes> = puts.chain(removals).collect();
        for some in all.chunks(AT_ONCE) {
            let mut attributes = Attributes::default();
            attributes.text(WGDEVICE_A_IFNAME, name);
            attributes.nest(WGDEVICE_A_PEERS, |list| {
                for peer in some {
                    list.nest(0, |one| one.append(peer));
                }
            });
            Self::set(socket, &attributes)?;
        }
        Ok(())
    }

    fn set(socket: &mut Socket, attributes: &Attributes) -> io::Result<()> {
        let request = generic::request(family(socket)?, WG_CMD_SET_DEVICE, VERSION, attributes);
        socket.request(request)
    }

    fn parse(body: &[u8]) -> Option<Self> {
        let mut device = Self {
            public_key: PublicKey([0; 32]),
            port: 0,
            peers: Vec::new(),
        };
        for nla in NlasIterator::new(body.get(GENLMSGHDR..)?).flatten() {
            match nla.kind() {
                WGDEVICE_A_PUBLIC_KEY => device.public_key = PublicKey(nla.value().try_into().ok()?),
                WGDEVICE_A_LISTEN_PORT => device.port = u16::from_ne_bytes(nla.value().try_into().ok()?),
                WGDEVICE_A_PEERS => device.peers.extend(
                    NlasIterator::new(nla.value())
                        .flatten()
                        .filter_map(|peer| WireGuardPeer::parse(peer.value())),
                ),
                _ => {}
            }
        }
        Some(device)
    }
}

impl WireGuardPeer {
    fn parse(attributes: &[u8]) -> Option<Self> {
        let (mut public_key, mut endpoint, mut address) = (None, None, None);
        for nla in NlasIterator::new(attributes).flatten() {
            match nla.kind() {
                WGPEER_A_PUBLIC_KEY => public_key = nla.value().try_into().ok().map(PublicKey),
                WGPEER_A_ENDPOINT => endpoint = read_endpoint(nla.value()),
                WGPEER_A_ALLOWEDIPS => {
                    let mut all = NlasIterator::new(nla.value()).flatten();
                    address = all.find_map(|one| read_address(one.value()));
                }
                _ => {}
            }
        }
        Some(Self {
            public_key: public_key?,
            endpoint,
            address,
        })
    }
}

/// The family is there once the module is, and that comes with the first device.
fn family(socket: &mut Socket) -> io::Result<u16> {
    generic::family(socket, FAMILY)?
        .ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "the kernel has no WireGuard"))
}

fn encode(peer: &WireGuardPeer, preshared: Option<SecretKey>) -> Attributes {
    let mut one = Attributes::default();
    one.put(WGPEER_A_PUBLIC_KEY, &peer.public_key.0);
    one.put(WGPEER_A_FLAGS, &WGPEER_F_REPLACE_ALLOWEDIPS.to_ne_bytes());
    if let Some(key) = preshared {
        one.put(WGPEER_A_PRESHARED_KEY, &key.0);
    }
    if let Some(endpoint) = peer.endpoint {
        one.put(WGPEER_A_ENDPOINT, &write_endpoint(endpoint));
    }
    if let Some(address) = peer.address {
        one.nest(WGPEER_A_ALLOWEDIPS, |list| {
            list.nest(0, |allowed| {
                allowed
                    .put(WGALLOWEDIP_A_FAMILY, &(libc::AF_INET6 as u16).to_ne_bytes())
                    .put(WGALLOWEDIP_A_IPADDR, &address.octets())
                    .put(WGALLOWEDIP_A_CIDR_MASK, &[128]);
            });
        });
    }
    one
}

fn encode_removal(key: &PublicKey) -> Attributes {
    let mut one = Attributes::default();
    one.put(WGPEER_A_PUBLIC_KEY, &key.0);
    one.put(WGPEER_A_FLAGS, &WGPEER_F_REMOVE_ME.to_ne_bytes());
    one
}

/// `struct sockaddr_in` or `sockaddr_in6` (ip(7), ipv6(7)): family in the host's order, the rest in the network's.
fn write_endpoint(endpoint: SocketAddr) -> Vec<u8> {
    let port = endpoint.port().to_be_bytes();
    match endpoint.ip() {
        IpAddr::V4(ip) => [
            &(libc::AF_INET as u16).to_ne_bytes()[..],
            &port,
            &ip.octets(),
            &[0; 8],
        ]
        .concat(),
        IpAddr::V6(ip) => {
            let family = (libc::AF_INET6 as u16).to_ne_bytes();
            [&family[..], &port, &[0; 4], &ip.octets(), &[0; 4]].concat()
        }
    }
}

fn read_endpoint(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    let ip: IpAddr = match i32::from(family) {
        libc::AF_INET => <[u8; 4]>::try_from(bytes.get(4..8)?).ok()?.into(),
        libc::AF_INET6 => <[u8; 16]>::try_from(bytes.get(8..24)?).ok()?.into(),
        _ => return None,
    };
    Some((ip, port).into())
}

fn read_address(attributes: &[u8]) -> Option<Ipv6Addr> {
    let mut all = NlasIterator::new(attributes).flatten();
    let found = all.find(|nla| nla.kind() == WGALLOWEDIP_A_IPADDR)?;
    Some(<[u8; 16]>::try_from(found.value()).ok()?.into())
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", hex::encode(&self.0[..4]))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_read_as_it_was_written() {
        for endpoint in ["192.0.2.7:4790", "[2001:db8::7]:4790"] {
            let peer = WireGuardPeer {
                public_key: PublicKey([7; 32]),
                endpoint: Some(endpoint.parse().unwrap()),
                address: Some("fd00::7".parse().unwrap()),
            };
            let written = encode(&peer, Some(SecretKey([9; 32])));
            assert_eq!(WireGuardPeer::parse(written.bytes()), Some(peer));
        }
    }

    #[test]
    fn what_is_not_understood_is_left_out_and_nothing_panics() {
        assert_eq!(read_endpoint(&[]), None);
        assert_eq!(read_endpoint(&[9; 30]), None);
        let mut nothing = Attributes::default();
        nothing.put(99, &[1, 2, 3]);
        assert_eq!(WireGuardPeer::parse(nothing.bytes()), None);
        assert_eq!(WireGuard::parse(&[]), None);
    }

    #[test]
    fn keys_are_not_printed() {
        assert_eq!(format!("{:?}", SecretKey([9; 32])), "SecretKey(…)");
        assert_eq!(format!("{:?}", PublicKey([0xab; 32])), "abababab…");
    }
}

//! Addresses of nodes: the one at which others will reach this node, and those at which it reaches managers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Port of the cluster's services.
const PORT: u16 = 2377;
/// Addresses of documentation (RFC 5737, RFC 3849) that a route lookup may ask for: nothing is ever sent to them.
const SOMEWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// An address that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Where others shall reach this node.
    #[error(
        "advertise address {0:?} must be an IP address or the name of an interface, with an optional port"
    )]
    Advertise(String),
    /// The way of containers' packets; Docker's words.
    #[error(
        "data path address must be a non-zero IP address or network interface (without a port number): {0:?}"
    )]
    DataPath(String),
    /// An address of another host.
    #[error("data path address {0} is no address of this host")]
    Elsewhere(IpAddr),
    /// An interface was named.
    #[error("interface {name}: {why}")]
    Interface {
        /// Which one.
        name: String,
        /// Why it has no address to go by.
        why: String,
    },
    /// Where a manager is.
    #[error("manager address {0:?} must be an IP address with an optional port: names are not looked up")]
    Remote(String),
}

/// What was asked for, or the source address of the default route. Where no port was asked for it is the one at which
/// this node listens, as with Docker.
pub fn advertise(asked: &str, listen: &str) -> Result<SocketAddr, AddressError> {
    let port = listen_port(listen);
    if asked.is_empty() {
        return Ok((default_source(), port).into());
    }
    parse(asked, port).ok_or_else(|| AddressError::Advertise(asked.to_owned()))
}

/// The port of a listen address such as `IP:port` or `:port`; what else is wrong with it others say.
fn listen_port(listen: &str) -> u16 {
    let bare = listen.strip_prefix(':').and_then(|port| port.parse().ok());
    bare.or_else(|| parse(listen, PORT).map(|address| address.port()))
        .unwrap_or(PORT)
}

/// Where a manager is, with its port.
pub fn manager_address(text: &str) -> Result<SocketAddr, AddressError> {
    parse(text, PORT).ok_or_else(|| AddressError::Remote(text.to_owned()))
}

/// The address of this host that others see when it speaks to `other`; `None` without a route.
pub(super) fn towards(other: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match other {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    // Connecting a datagram socket only looks up a route.
    socket.connect(other).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn parse(text: &str, port: u16) -> Option<SocketAddr> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(address);
    }
    let host = text.trim_start_matches('[').trim_end_matches(']');
    host.parse::<IpAddr>().ok().map(|address| (address, port).into())
}

/// The address that this host shows to others; loopback on a host without a default route.
fn default_source() -> IpAddr {
    let mut routed = SOMEWHERE
        .into_iter()
        .filter_map(|address| towards((address, PORT).into()));
    routed.next().unwrap_or(Ipv4Addr::LOCALHOST.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_a_port() {
        let text = |asked: &str, listen: &str| advertise(asked, listen).unwrap().to_string();
        assert_eq!(text("10.0.0.1", ""), "10.0.0.1:2377");
        assert_eq!(text("10.0.0.1:99", ""), "10.0.0.1:99");
        assert_eq!(text("[fd00::1]", "0.0.0.0:2377"), "[fd00::1]:2377");
        assert_eq!(advertise("", "").unwrap().port(), PORT);
        assert!(advertise("eth0", "").unwrap_err().to_string().contains("eth0"));
    }

    #[test]
    fn the_port_that_is_listened_at_is_advertised() {
        let text = |asked: &str, listen: &str| advertise(asked, listen).unwrap().to_string();
        assert_eq!(text("10.0.0.1", "0.0.0.0:2378"), "10.0.0.1:2378");
        assert_eq!(text("10.0.0.1", ":2378"), "10.0.0.1:2378");
        assert_eq!(text("fd00::1", "[::]:2378"), "[fd00::1]:2378");
        assert_eq!(text("10.0.0.1:99", "0.0.0.0:2378"), "10.0.0.1:99");
        assert_eq!(text("10.0.0.1", "10.0.0.1"), "10.0.0.1:2377");
        assert_eq!(advertise("", ":2378").unwrap().port(), 2378);
    }
}

//! The address at which other nodes will reach this one.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

/// Port of the cluster's services.
const PORT: u16 = 2377;
/// An address of documentation (RFC 5737) that a route lookup may ask for: nothing is ever sent to it.
const SOMEWHERE: (Ipv4Addr, u16) = (Ipv4Addr::new(192, 0, 2, 1), 9);

/// An address that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "advertise address {0:?} must be an IP address with an optional port: give the address of the interface"
)]
pub struct AddressError(String);

/// What was asked for with its port; when nothing was asked for, the source address of the default route.
pub fn advertise(asked: &str) -> Result<SocketAddr, AddressError> {
    if asked.is_empty() {
        return Ok((default_source(), PORT).into());
    }
    if let Ok(address) = asked.parse::<SocketAddr>() {
        return Ok(address);
    }
    let host = asked.trim_start_matches('[').trim_end_matches(']');
    host.parse::<IpAddr>()
        .map(|address| (address, PORT).into())
        .map_err(|_| AddressError(asked.to_owned()))
}

/// The address that this host shows to others; loopback on a host without a default route.
fn default_source() -> IpAddr {
    let probe = || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        // Connecting a datagram socket only looks up a route.
        socket.connect(SOMEWHERE)?;
        socket.local_addr()
    };
    probe().map_or(Ipv4Addr::LOCALHOST.into(), |address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_get_a_port() {
        assert_eq!(advertise("10.0.0.1").unwrap().to_string(), "10.0.0.1:2377");
        assert_eq!(advertise("10.0.0.1:99").unwrap().to_string(), "10.0.0.1:99");
        assert_eq!(advertise("[fd00::1]").unwrap().to_string(), "[fd00::1]:2377");
        assert_eq!(advertise("").unwrap().port(), PORT);
        assert!(advertise("eth0").unwrap_err().to_string().contains("eth0"));
    }
}

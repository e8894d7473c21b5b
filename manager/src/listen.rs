//! TCP ports that other nodes reach, over IPv4 and IPv6.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use rustix::io::Errno;
use rustix::net::sockopt::set_ipv6_v6only;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// Listens on an address of this host. An unspecified one, of either version, means every address of both (RFC 3493, 5.3),
/// as it does for Docker; of IPv4 alone where the kernel has no IPv6.
///
/// # Errors
/// Those of socket(2), bind(2) and listen(2).
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    if !address.ip().is_unspecified() {
        return TcpListener::bind(address).await;
    }
    let socket = match TcpSocket::new_v6() {
        Ok(socket) => socket,
        Err(error) if error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error()) => {
            return TcpListener::bind(address).await;
        }
        Err(error) => return Err(error),
    };
    // What net.ipv6.bindv6only says is for others.
    set_ipv6_v6only(&socket, false)?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv6Addr::UNSPECIFIED, address.port()).into())?;
    socket.listen(BACKLOG)
}

/// The next connection, and who opened it: one over IPv4 under its IPv4 address, whatever the socket is.
///
/// # Errors
/// Those of accept(2).
pub async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (stream, address) = listener.accept().await?;
    Ok((stream, canonical(address)))
}

fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test]
    async fn every_address_is_of_both_versions_and_callers_keep_theirs() {
        let listener = listen((Ipv4Addr::UNSPECIFIED, 0).into()).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for own in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            IpAddr::from(Ipv6Addr::LOCALHOST),
        ] {
            let caller = TcpStream::connect((own, port)).await.unwrap();
            let (_stream, seen) = accept(&listener).await.unwrap();
            assert_eq!(seen, caller.local_addr().unwrap());
        }
    }

    #[tokio::test]
    async fn one_address_is_that_alone() {
        let listener = listen((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(address.ip(), Ipv4Addr::LOCALHOST);
        assert!(
            TcpStream::connect((Ipv6Addr::LOCALHOST, address.port()))
                .await
                .is_err()
        );
    }
}

//! IPv4 addresses of links.

use std::io;
use std::net::Ipv4Addr;

use netlink_packet_core::NlasIterator;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::socket::{Request, Socket};

const RTM_NEWADDR: u16 = 20;
/// `struct ifaddrmsg`.
const IFADDRMSG: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// An address as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkAddress {
    pub(crate) address: Ipv4Addr,
    /// Index of the link.
    pub(crate) link: u32,
}

impl LinkAddress {
    /// All of the socket's namespace.
    pub(crate) fn list(socket: &mut Socket) -> io::Result<Vec<Self>> {
        let mut all = AddressMessage::default();
        all.header.family = AddressFamily::Inet;
        let request = Request::route(&RouteNetlinkMessage::GetAddress(all), 0);
        socket.dump(&request, |kind, body| match kind {
            RTM_NEWADDR => Self::parse(body),
            _ => None,
        })
    }

    fn parse(body: &[u8]) -> Option<Self> {
        let link = u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?);
        let (mut address, mut local) = (None, None);
        for nla in NlasIterator::new(body.get(IFADDRMSG..)?).flatten() {
            let value: Option<[u8; 4]> = nla.value().try_into().ok();
            match nla.kind() {
                IFA_ADDRESS => address = value,
                IFA_LOCAL => local = value,
                _ => {}
            }
        }
        // On a point-to-point link the other one is the peer's.
        let address = local.or(address)?.into();
        Some(Self { address, link })
    }
}

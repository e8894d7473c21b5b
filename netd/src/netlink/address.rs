//! Addresses of links.

use std::io;
use std::net::{IpAddr, Ipv6Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE, NlasIterator};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::neighbour::ip;
use super::route::Route;
use super::socket::{Request, Socket};

const RTM_NEWADDR: u16 = 20;
/// `struct ifaddrmsg`.
const IFADDRMSG: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

/// An address as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinkAddress {
    pub(crate) address: IpAddr,
    pub(crate) prefix_len: u8,
    /// Index of the link.
    pub(crate) link: u32,
}

impl LinkAddress {
    /// Give the link an IPv6 address that can be used at once (IFA_F_NODAD), with the on-link route that comes with it.
    /// Repeating it is fine.
    pub(crate) fn add6(index: u32, address: Ipv6Addr, prefix_len: u8) -> Request {
        let mut message = message6(index, address, prefix_len);
        message
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Nodad));
        Request::route(
            &RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    /// Take an IPv6 address from the link.
    pub(crate) fn delete6(index: u32, address: Ipv6Addr, prefix_len: u8) -> Request {
        Request::route(
            &RouteNetlinkMessage::DelAddress(message6(index, address, prefix_len)),
            0,
        )
    }

    /// Give the link an address without neighbours.
    pub(crate) fn add_single(index: u32, address: IpAddr) -> Request {
        match address {
            IpAddr::V4(address) => Route::add_address(index, address, 32),
            IpAddr::V6(address) => Self::add6(index, address, 128),
        }
    }

    /// Take it away.
    pub(crate) fn delete_single(index: u32, address: IpAddr) -> Request {
        match address {
            IpAddr::V4(address) => Route::delete_address(index, address, 32),
            IpAddr::V6(address) => Self::delete6(index, address, 128),
        }
    }

    /// Whether it is an address without neighbours.
    pub(crate) fn is_single(&self) -> bool {
        self.prefix_len == if self.address.is_ipv4() { 32 } else { 128 }
    }

    /// All of the socket's namespace, of both families.
    pub(crate) fn list(socket: &mut Socket) -> io::Result<Vec<Self>> {
        let request = Request::route(&RouteNetlinkMessage::GetAddress(AddressMessage::default()), 0);
        socket.dump(&request, |kind, body| match kind {
            RTM_NEWADDR => Self::parse(body),
            _ => None,
        })
    }

    /// From the body of a message.
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        let prefix_len = *body.get(1)?;
        let link = u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?);
        let (mut address, mut local) = (None, None);
        for nla in NlasIterator::new(body.get(IFADDRMSG..)?).flatten() {
            match nla.kind() {
                IFA_ADDRESS => address = ip(nla.value()),
                IFA_LOCAL => local = ip(nla.value()),
                _ => {}
            }
        }
        // On a point-to-point link the other one is the peer's.
        Some(Self {
            address: local.or(address)?,
            prefix_len,
            link,
        })
    }
}

fn message6(index: u32, address: Ipv6Addr, prefix_len: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.prefix_len = prefix_len;
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Address(address.into())];
    message
}

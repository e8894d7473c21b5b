//! Addresses and routes.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE, NlasIterator};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::direct::RTPROT_DIRECT;
use super::family::Subnet;
use super::socket::{Request, Socket};

const RTM_NEWROUTE: u16 = 24;
/// `struct rtmsg`.
const RTMSG: usize = 12;
/// Addresses of this host.
const RT_TABLE_LOCAL: u8 = 255;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;

/// A unicast or local route as the kernel has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route<N: Subnet> {
    pub(crate) destination: N,
    pub(crate) gateway: Option<N::Address>,
    /// Index of the outgoing link.
    pub(crate) link: Option<u32>,
    /// Whether it leads to a container of another node, and so is ours: see [`super::DirectRoute`].
    pub(crate) direct: bool,
}

impl Route<Ipv4Net> {
    /// Give the link an IPv4 address, with the on-link route that comes with it. Repeating it is fine.
    pub(crate) fn add_address(index: u32, address: Ipv4Addr, prefix_len: u8) -> Request {
        let mut message = address_message(index, address, prefix_len);
        if let Ok(net) = Ipv4Net::new(address, prefix_len)
            && prefix_len < 31
        {
            message
                .attributes
                .push(AddressAttribute::Broadcast(net.broadcast()));
        }
        Request::route(
            &RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    /// Take an address from the link.
    pub(crate) fn delete_address(index: u32, address: Ipv4Addr, prefix_len: u8) -> Request {
        let message = address_message(index, address, prefix_len);
        Request::route(&RouteNetlinkMessage::DelAddress(message), 0)
    }
}

impl Route<Ipv6Net> {
    /// Take packets to ::1 that come in by this link, too, for this host's. What arrives with that address has been dropped
    /// before (RFC 4291, 2.5.3); it is for answers whose address was translated on the way. Repeating it is fine, and what
    /// the host sends to itself takes the loopback link as before, whose route is the better one.
    pub(crate) fn take_loopback(index: u32) -> Request {
        let mut message = message(Ipv6Net::from(Ipv6Addr::LOCALHOST), None, index);
        message.header.kind = RouteType::Local;
        message.header.table = RT_TABLE_LOCAL;
        Request::route(
            &RouteNetlinkMessage::NewRoute(message),
            NLM_F_CREATE | NLM_F_APPEND,
        )
    }
}

impl<N: Subnet> Route<N> {
    /// Route `destination` through `gateway`, or straight onto the link. Replaces an equal route.
    pub(crate) fn add(destination: N, gateway: Option<N::Address>, index: u32) -> Request {
        Request::route(
            &RouteNetlinkMessage::NewRoute(message(destination, gateway, index)),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    pub(crate) fn delete(destination: N, gateway: Option<N::Address>, index: u32) -> Request {
        Request::route(
            &RouteNetlinkMessage::DelRoute(message(destination, gateway, index)),
            0,
        )
    }

    /// The routes of every table in the socket's namespace.
    pub(crate) fn list(socket: &mut Socket) -> io::Result<Vec<Self>> {
        let mut all = RouteMessage::default();
        all.header.address_family = N::FAMILY;
        let request = Request::route(&RouteNetlinkMessage::GetRoute(all), 0);
        socket.dump(&request, |kind, body| {
            if kind == RTM_NEWROUTE {
                Self::parse(body)
            } else {
                None
            }
        })
    }

    fn parse(body: &[u8]) -> Option<Self> {
        let (prefix_len, kind) = (*body.get(1)?, *body.get(7)?);
        if !matches!(kind, RTN_UNICAST | RTN_LOCAL) {
            return None;
        }
        let (mut destination, mut gateway, mut link) = (N::UNSPECIFIED, None, None);
        for nla in NlasIterator::new(body.get(RTMSG..)?).flatten() {
            match nla.kind() {
                RTA_DST => destination = N::address(nla.value())?,
                RTA_GATEWAY => gateway = N::address(nla.value()),
                RTA_OIF => link = nla.value().try_into().ok().map(u32::from_ne_bytes),
                _ => {}
            }
        }
        Some(Self {
            destination: N::join(destination, prefix_len)?,
            gateway,
            link,
            direct: *body.get(5)? == RTPROT_DIRECT,
        })
    }
}

fn address_message(index: u32, address: Ipv4Addr, prefix_len: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.prefix_len = prefix_len;
    message.header.index = index;
    message.attributes = vec![
        AddressAttribute::Local(address.into()),
        AddressAttribute::Address(address.into()),
    ];
    message
}

fn message<N: Subnet>(destination: N, gateway: Option<N::Address>, index: u32) -> RouteMessage {
    let (network, prefix_len) = destination.split();
    let mut message = RouteMessage::default();
    message.header.address_family = N::FAMILY;
    message.header.destination_prefix_length = prefix_len;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = RouteType::Unicast;
    message.header.scope = if gateway.is_some() {
        RouteScope::Universe
    } else {
        RouteScope::Link
    };
    if prefix_len > 0 {
        message
            .attributes
            .push(RouteAttribute::Destination(N::route_address(network)));
    }
    message
        .attributes
        .extend(gateway.map(|g| RouteAttribute::Gateway(N::route_address(g))));
    message.attributes.push(RouteAttribute::Oif(index));
    message
}

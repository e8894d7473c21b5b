//! Which way packets to an address would take.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::NlasIterator;
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::socket::{Request, Socket};

const RTM_NEWROUTE: u16 = 24;
/// `struct rtmsg`.
const RTMSG: usize = 12;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_METRICS: u16 = 8;
const RTA_VIA: u16 = 18;
const RTAX_MTU: u16 = 2;
/// Place of the route's type in `struct rtmsg`, and that of an address of the namespace itself.
const TYPE: usize = 7;
const RTN_LOCAL: u8 = 2;

/// The route that an address has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Path {
    /// Index of the outgoing link; `None` where there are several.
    pub(crate) link: Option<u32>,
    /// Whether another router comes first.
    pub(crate) routed: bool,
    /// Whether it is an address of the namespace itself, and in use.
    pub(crate) local: bool,
    /// What the route itself says, if it does.
    pub(crate) mtu: Option<u32>,
}

impl Path {
    /// The route as configured, not what was found out about this destination on the way.
    pub(crate) fn find(socket: &mut Socket, to: IpAddr) -> io::Result<Self> {
        let mut question = RouteMessage::default();
        let (family, length, destination) = match to {
            IpAddr::V4(to) => (AddressFamily::Inet, 32, RouteAddress::Inet(to)),
            IpAddr::V6(to) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(to)),
        };
        question.header.address_family = family;
        question.header.destination_prefix_length = length;
        question.header.flags = RouteFlags::FibMatch;
        question.attributes.push(RouteAttribute::Destination(destination));
        let question = Request::route(&RouteNetlinkMessage::GetRoute(question), 0);
        socket.ask(&question, |kind, body| match kind {
            RTM_NEWROUTE => Self::parse(body),
            _ => None,
        })
    }

    fn parse(body: &[u8]) -> Option<Self> {
        let mut path = Self {
            local: body.get(TYPE) == Some(&RTN_LOCAL),
            ..Self::default()
        };
        let number = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_ne_bytes);
        for nla in NlasIterator::new(body.get(RTMSG..)?).flatten() {
            match nla.kind() {
                RTA_OIF => path.link = number(nla.value()),
                RTA_GATEWAY | RTA_VIA => path.routed = true,
                RTA_METRICS => {
                    let mtu = NlasIterator::new(nla.value())
                        .flatten()
                        .find(|metric| metric.kind() == RTAX_MTU);
                    path.mtu = mtu.and_then(|metric| number(metric.value()));
                }
                _ => {}
            }
        }
        Some(path)
    }
}

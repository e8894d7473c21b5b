//! Routes to single addresses of other nodes' containers, of both families. They lie in the main table, the host's too, and
//! are known from everybody else's by who made them.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE, NlasIterator};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::neighbour::ip;
use super::socket::{Request, Socket};

const RTM_NEWROUTE: u16 = 24;
/// `struct rtmsg`.
const RTMSG: usize = 12;
/// `struct rtvia` before its address.
const RTVIA: usize = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_VIA: u16 = 18;

/// Who made a route (rtnetlink(7), `rtm_protocol`): a number that no routing daemon has.
pub(super) const RTPROT_DIRECT: u8 = 83;

/// A route to one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DirectRoute {
    pub(crate) to: IpAddr,
    /// The next one on the way. IPv4 may have one with an IPv6 address (RFC 5549; Linux 5.2).
    pub(crate) via: IpAddr,
    /// Index of the outgoing link.
    pub(crate) link: u32,
}

impl DirectRoute {
    /// Replaces an equal route.
    pub(crate) fn set(self) -> Request {
        Request::route(
            &RouteNetlinkMessage::NewRoute(self.message()),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    /// Refused with ESRCH if it is not there.
    pub(crate) fn delete(self) -> Request {
        Request::route(&RouteNetlinkMessage::DelRoute(self.message()), 0)
    }

    /// All in the socket's namespace.
    pub(crate) fn list(socket: &mut Socket) -> io::Result<Vec<Self>> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut all = RouteMessage::default();
            all.header.address_family = family;
            let request = Request::route(&RouteNetlinkMessage::GetRoute(all), 0);
            found.extend(socket.dump(&request, |kind, body| match kind {
                RTM_NEWROUTE => Self::parse(body),
                _ => None,
            })?);
        }
        Ok(found)
    }

    fn parse(body: &[u8]) -> Option<Self> {
        if *body.get(5)? != RTPROT_DIRECT {
            return None;
        }
        let (mut to, mut via, mut link) = (None, None, None);
        for nla in NlasIterator::new(body.get(RTMSG..)?).flatten() {
            match nla.kind() {
                RTA_DST => to = ip(nla.value()),
                RTA_GATEWAY => via = ip(nla.value()),
                RTA_VIA => via = nla.value().get(RTVIA..).and_then(ip),
                RTA_OIF => link = nla.value().try_into().ok().map(u32::from_ne_bytes),
                _ => {}
            }
        }
        Some(Self {
            to: to?,
            via: via?,
            link: link?,
        })
    }

    fn message(self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        (header.address_family, header.destination_prefix_length) = match self.to {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        header.table = RouteHeader::RT_TABLE_MAIN;
        header.protocol = RouteProtocol::Other(RTPROT_DIRECT);
        header.kind = RouteType::Unicast;
        message.attributes = vec![
            RouteAttribute::Destination(route_address(self.to)),
            match (self.to, self.via) {
                (IpAddr::V4(_), IpAddr::V6(via)) => RouteAttribute::Via(RouteVia::Inet6(via)),
                (_, via) => RouteAttribute::Gateway(route_address(via)),
            },
            RouteAttribute::Oif(self.link),
        ];
        message
    }
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_reads_as_it_is_written_also_one_of_ipv4_over_ipv6() {
        for (to, via) in [
            ("10.7.0.12", "192.0.2.2"),
            ("10.7.0.12", "2001:db8::2"),
            ("fd00:7::12", "fe80::2"),
        ] {
            let route = DirectRoute {
                to: to.parse().unwrap(),
                via: via.parse().unwrap(),
                link: 7,
            };
            assert_eq!(DirectRoute::parse(&route.set().body), Some(route));
            let mut foreign = route.set().body;
            foreign[5] = 4;
            assert_eq!(DirectRoute::parse(&foreign), None, "an administrator's");
        }
    }
}

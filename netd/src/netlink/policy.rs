//! Policy routing: rules that choose a table by mark, and routes whose next hop is known by its neighbour entry alone.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NlasIterator};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::socket::{Request, Socket};

const RTM_NEWROUTE: u16 = 24;
const RTM_NEWRULE: u16 = 32;
/// `struct rtmsg` and `struct fib_rule_hdr`.
const HEADER: usize = 12;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_TABLE: u16 = 15;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
/// The main table.
pub(crate) const MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;
/// Of our rules: before those of the main table.
const PRIORITY: u32 = 1000;

/// Packets with this mark are routed by this table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MarkRule {
    pub(crate) mark: u32,
    pub(crate) table: u32,
}

/// A route through a neighbour that need not be on a subnet of the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Detour {
    pub(crate) destination: IpNet,
    pub(crate) neighbour: IpAddr,
    /// Index of the outgoing link.
    pub(crate) link: u32,
    pub(crate) table: u32,
}

impl MarkRule {
    /// Refused with EEXIST if it is there.
    pub(crate) fn create(self, ipv6: bool) -> Request {
        Request::route(
            &RouteNetlinkMessage::NewRule(self.message(ipv6)),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// Refused with ENOENT if it is not there.
    pub(crate) fn delete(self, ipv6: bool) -> Request {
        Request::route(&RouteNetlinkMessage::DelRule(self.message(ipv6)), 0)
    }

    /// All rules of the socket's namespace that go by a mark.
    pub(crate) fn list(socket: &mut Socket, ipv6: bool) -> io::Result<Vec<Self>> {
        let mut all = RuleMessage::default();
        all.header.family = family(ipv6);
        let request = Request::route(&RouteNetlinkMessage::GetRule(all), 0);
        socket.dump(&request, |kind, body| {
            if kind == RTM_NEWRULE {
                Self::parse(body)
            } else {
                None
            }
        })
    }

    /// From the body of a message.
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        let number = |attribute| find(body, attribute)?.try_into().ok().map(u32::from_ne_bytes);
        Some(Self {
            mark: number(FRA_FWMARK)?,
            table: number(FRA_TABLE)?,
        })
    }

    fn message(self, ipv6: bool) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = family(ipv6);
        message.header.action = RuleAction::ToTable;
        message.attributes = vec![
            RuleAttribute::Priority(PRIORITY),
            RuleAttribute::FwMark(self.mark),
            RuleAttribute::Table(self.table),
        ];
        message
    }
}

impl Detour {
    /// Replaces an equal route.
    pub(crate) fn add(self) -> Request {
        Request::route(
            &RouteNetlinkMessage::NewRoute(self.message()),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    /// Refused with ESRCH if it is not there.
    pub(crate) fn delete(self) -> Request {
        Request::route(&RouteNetlinkMessage::DelRoute(self.message()), 0)
    }

    /// All routes over one link of the socket's namespace that have a next hop.
    pub(crate) fn list(socket: &mut Socket, link: u32, ipv6: bool) -> io::Result<Vec<Self>> {
        let mut all = RouteMessage::default();
        all.header.address_family = family(ipv6);
        let request = Request::route(&RouteNetlinkMessage::GetRoute(all), 0);
        let found = socket.dump(&request, |kind, body| {
            if kind == RTM_NEWROUTE {
                Self::parse(body, ipv6)
            } else {
                None
            }
        })?;
        Ok(found.into_iter().filter(|route| route.link == link).collect())
    }

    /// From the body of a message.
    pub(crate) fn parse(body: &[u8], ipv6: bool) -> Option<Self> {
        let any = if ipv6 {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        };
        let destination = find(body, RTA_DST).map_or(Some(any), address)?;
        let number = |attribute| find(body, attribute)?.try_into().ok().map(u32::from_ne_bytes);
        Some(Self {
            destination: IpNet::new(destination, *body.get(1)?).ok()?,
            neighbour: address(find(body, RTA_GATEWAY)?)?,
            link: number(RTA_OIF)?,
            table: number(RTA_TABLE)?,
        })
    }

    fn message(self) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = family(self.neighbour.is_ipv6());
        message.header.destination_prefix_length = self.destination.prefix_len();
        message.header.protocol = RouteProtocol::Static;
        message.header.kind = RouteType::Unicast;
        message.header.flags = RouteFlags::Onlink;
        if self.destination.prefix_len() > 0 {
            let to = RouteAttribute::Destination(route_address(self.destination.network()));
            message.attributes.push(to);
        }
        message.attributes.extend([
            RouteAttribute::Gateway(route_address(self.neighbour)),
            RouteAttribute::Oif(self.link),
            RouteAttribute::Table(self.table),
        ]);
        message
    }
}

fn family(ipv6: bool) -> AddressFamily {
    if ipv6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    }
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    v4().or_else(|_| v6()).ok()
}

fn find(body: &[u8], attribute: u16) -> Option<&[u8]> {
    let attributes = body.get(HEADER..)?;
    let mut all = NlasIterator::new(attributes).flatten();
    let found = all.find(|nla| nla.kind() == attribute)?;
    let start = found.value().as_ptr() as usize - attributes.as_ptr() as usize;
    attributes.get(start..start + found.value().len())
}

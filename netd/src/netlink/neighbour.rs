//! Neighbours and forwarding entries: who is behind which hardware address, and behind which bridge port or node that is.
//! Only entries that never age are ours; what the kernel learns or resolves by itself is neither read nor touched.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE, NlasIterator};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::socket::{Request, Socket};
use crate::types::Mac;

const RTM_NEWNEIGH: u16 = 28;
/// `struct ndmsg`.
const NDMSG: usize = 12;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;
const NTF_SELF: u8 = 2;

/// A permanent neighbour: `address` on the link has this hardware address, and nobody is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Neighbour {
    /// Index of the link.
    pub(crate) link: u32,
    pub(crate) address: IpAddr,
    pub(crate) mac: Mac,
}

/// An address for which the namespace answers on the link, because it routes there (arp(7), "proxy").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Proxy {
    /// Index of the link.
    pub(crate) link: u32,
    pub(crate) address: IpAddr,
}

/// A static forwarding entry of one bridge port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Forwarding {
    /// Index of the port.
    pub(crate) link: u32,
    pub(crate) mac: Mac,
    pub(crate) place: Place,
}

/// Whose table an entry is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// The bridge's: frames to this hardware address leave by this port.
    Bridge,
    /// The VXLAN device's own: they go to the node at this address.
    Node(IpAddr),
}

impl Neighbour {
    /// Replaces what is known of the address.
    pub(crate) fn set(&self) -> Request {
        let mut message = self.message();
        message.header.state = NeighbourState::Permanent;
        message
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(self.mac.0.to_vec()));
        Request::route(
            &RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    pub(crate) fn delete(&self) -> Request {
        Request::route(&RouteNetlinkMessage::DelNeighbour(self.message()), 0)
    }

    /// The permanent neighbours on one link, of both families.
    pub(crate) fn list(socket: &mut Socket, link: u32) -> io::Result<Vec<Self>> {
        let mut all = NeighbourMessage::default();
        all.attributes = vec![NeighbourAttribute::IfIndex(link)];
        let request = Request::route(&RouteNetlinkMessage::GetNeighbour(all), 0);
        socket.dump(&request, |kind, body| match kind {
            RTM_NEWNEIGH => Self::parse(body).filter(|neighbour| neighbour.link == link),
            _ => None,
        })
    }

    /// Link and address of the neighbours in the socket's namespace that it has found out by itself.
    pub(crate) fn found_out(socket: &mut Socket) -> io::Result<Vec<(u32, IpAddr)>> {
        let request = Request::route(&RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()), 0);
        socket.dump(&request, |kind, body| {
            let entry = Entry::parse(body).filter(|_| kind == RTM_NEWNEIGH)?;
            let inet = matches!(entry.family, libc::AF_INET | libc::AF_INET6);
            let own = entry.state & (NUD_PERMANENT | NUD_NOARP) != 0;
            Some((entry.link, entry.destination?)).filter(|_| inet && !own)
        })
    }

    /// Forget an address: whoever is sent to next asks anew.
    pub(crate) fn forget(link: u32, address: IpAddr) -> Request {
        Request::route(&RouteNetlinkMessage::DelNeighbour(on_link(link, address)), 0)
    }

    /// From the body of a message.
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        let entry = Entry::parse(body)?;
        let inet = matches!(entry.family, libc::AF_INET | libc::AF_INET6);
        (inet && entry.state & NUD_PERMANENT != 0).then_some(Self {
            link: entry.link,
            address: entry.destination?,
            mac: entry.mac?,
        })
    }

    /// Link and address of a neighbour, from the body of a message that tells of its end, which says no more.
    pub(crate) fn parse_gone(body: &[u8]) -> Option<(u32, IpAddr)> {
        let entry = Entry::parse(body)?;
        let inet = matches!(entry.family, libc::AF_INET | libc::AF_INET6);
        Some((entry.link, entry.destination?)).filter(|_| inet)
    }

    fn message(&self) -> NeighbourMessage {
        on_link(self.link, self.address)
    }
}

impl Proxy {
    /// Repeating it is fine.
    pub(crate) fn set(&self) -> Request {
        Request::route(
            &RouteNetlinkMessage::NewNeighbour(self.message()),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    pub(crate) fn delete(&self) -> Request {
        Request::route(&RouteNetlinkMessage::DelNeighbour(self.message()), 0)
    }

    /// All in the socket's namespace.
    pub(crate) fn list(socket: &mut Socket) -> io::Result<Vec<Self>> {
        let mut all = NeighbourMessage::default();
        all.header.flags = NeighbourFlags::Proxy;
        let request = Request::route(&RouteNetlinkMessage::GetNeighbour(all), 0);
        socket.dump(&request, |kind, body| match kind {
            RTM_NEWNEIGH => {
                let entry = Entry::parse(body)?;
                Some(Self {
                    link: entry.link,
                    address: entry.destination?,
                })
            }
            _ => None,
        })
    }

    fn message(&self) -> NeighbourMessage {
        let mut message = on_link(self.link, self.address);
        message.header.flags = NeighbourFlags::Proxy;
        message
    }
}

impl Forwarding {
    /// Replaces what is known of the hardware address in that table.
    pub(crate) fn set(&self) -> Request {
        let mut message = self.message();
        match self.place {
            // The bridge takes "permanent" for an address of its own.
            Place::Bridge => message.header.state = NeighbourState::Noarp,
            Place::Node(node) => {
                message.header.state = NeighbourState::Permanent;
                message.attributes.push(destination(node));
            }
        }
        Request::route(
            &RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
    }

    /// Whatever the table says of the hardware address goes.
    pub(crate) fn delete(&self) -> Request {
        Request::route(&RouteNetlinkMessage::DelNeighbour(self.message()), 0)
    }

    /// The static entries of one port, in both tables. Those of the port's own hardware address are not among them.
    pub(crate) fn list(socket: &mut Socket, port: u32) -> io::Result<Vec<Self>> {
        let mut all = NeighbourMessage::default();
        all.header.family = AddressFamily::Bridge;
        all.header.ifindex = port;
        let request = Request::route(&RouteNetlinkMessage::GetNeighbour(all), 0);
        socket.dump(&request, |kind, body| match kind {
            RTM_NEWNEIGH => Self::parse(body).filter(|entry| entry.link == port),
            _ => None,
        })
    }

    /// From the body of a message.
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        let entry = Entry::parse(body)?;
        let place = match entry.flags & NTF_SELF {
            0 if entry.state & NUD_NOARP != 0 => Place::Bridge,
            0 => return None,
            _ => Place::Node(entry.destination?),
        };
        (entry.family == libc::AF_BRIDGE).then_some(Self {
            link: entry.link,
            mac: entry.mac?,
            place,
        })
    }

    fn message(&self) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message.header.ifindex = self.link;
        message.header.flags = match self.place {
            Place::Bridge => NeighbourFlags::Controller,
            Place::Node(_) => NeighbourFlags::Own,
        };
        message.attributes = vec![NeighbourAttribute::LinkLayerAddress(self.mac.0.to_vec())];
        message
    }
}

/// `struct ndmsg` and the attributes that matter here.
struct Entry {
    family: i32,
    link: u32,
    state: u16,
    flags: u8,
    destination: Option<IpAddr>,
    mac: Option<Mac>,
}

impl Entry {
    fn parse(body: &[u8]) -> Option<Self> {
        let mut entry = Self {
            family: i32::from(*body.first()?),
            link: u32::from_ne_bytes(body.get(4..8)?.try_into().ok()?),
            state: u16::from_ne_bytes(body.get(8..10)?.try_into().ok()?),
            flags: *body.get(10)?,
            destination: None,
            mac: None,
        };
        for nla in NlasIterator::new(body.get(NDMSG..)?).flatten() {
            match nla.kind() {
                NDA_DST => entry.destination = ip(nla.value()),
                NDA_LLADDR => entry.mac = nla.value().try_into().ok().map(Mac),
                _ => {}
            }
        }
        Some(entry)
    }
}

/// About an address on a link.
fn on_link(link: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.ifindex = link;
    message.attributes = vec![destination(address)];
    message
}

fn destination(address: IpAddr) -> NeighbourAttribute {
    NeighbourAttribute::Destination(match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    })
}

/// An address by its octets.
pub(super) fn ip(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).into()),
        _ => None,
    }
}

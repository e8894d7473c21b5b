//! Connection tracking: forget flows. UDP has no end, so a client that keeps sending would be led to a backend long gone
//! for as long as it sends; TCP flows are left to finish.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NlaBuffer, NlasIterator};

use super::socket::{Request, Socket, errno};

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const NFGENMSG: usize = 4;
const NLA_F_NESTED: u16 = 0x8000;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;

/// One tracked flow, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flow {
    /// IANA number.
    pub(crate) protocol: u8,
    /// The client.
    pub(crate) source: (IpAddr, u16),
    /// Where the client sent it.
    pub(crate) wanted: (IpAddr, u16),
    /// Who answers.
    pub(crate) answering: (IpAddr, u16),
    tuple: Vec<u8>,
    id: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Tuple {
    source: (IpAddr, u16),
    destination: (IpAddr, u16),
    protocol: u8,
}

impl Flow {
    /// Forget the flows of the socket's namespace that `which` picks.
    pub(crate) fn forget(socket: &mut Socket, which: impl Fn(&Self) -> bool) -> io::Result<usize> {
        let mut count = 0;
        for flow in Self::list(socket)?.iter().filter(|flow| which(flow)) {
            match socket.request(flow.delete()) {
                Err(e) if errno(&e) != Some(libc::ENOENT) => return Err(e),
                _ => count += 1,
            }
        }
        Ok(count)
    }

    /// All of the socket's namespace.
    pub(crate) fn list(socket: &mut Socket) -> io::Result<Vec<Self>> {
        let request = Request {
            kind: kind(IPCTNL_MSG_CT_GET),
            flags: 0,
            body: vec![libc::AF_UNSPEC as u8, 0, 0, 0],
        };
        socket.dump(&request, |_, body| Self::parse(body))
    }

    fn family(&self) -> u8 {
        let family = if self.wanted.0.is_ipv4() {
            libc::AF_INET
        } else {
            libc::AF_INET6
        };
        family as u8
    }

    fn delete(&self) -> Request {
        let mut body = vec![self.family(), 0, 0, 0];
        for (kind, value) in [(CTA_TUPLE_ORIG | NLA_F_NESTED, &self.tuple), (CTA_ID, &self.id)] {
            body.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
            body.extend_from_slice(&kind.to_ne_bytes());
            body.extend_from_slice(value);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        Request {
            kind: kind(IPCTNL_MSG_CT_DELETE),
            flags: 0,
            body,
        }
    }

    fn parse(body: &[u8]) -> Option<Self> {
        let attributes = body.get(NFGENMSG..)?;
        let (orig, reply) = (
            find(attributes, CTA_TUPLE_ORIG)?,
            find(attributes, CTA_TUPLE_REPLY)?,
        );
        let (wanted, answering) = (Tuple::parse(orig)?, Tuple::parse(reply)?);
        Some(Self {
            protocol: wanted.protocol,
            source: wanted.source,
            wanted: wanted.destination,
            answering: answering.source,
            tuple: orig.to_vec(),
            id: find(attributes, CTA_ID)?.to_vec(),
        })
    }
}

impl Tuple {
    /// Source and destination are attributes 1 and 2 of the addresses, 3 and 4 if they are IPv6; and 2 and 3 of the protocol.
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (ip, proto) = (find(bytes, CTA_TUPLE_IP)?, find(bytes, CTA_TUPLE_PROTO)?);
        let address = |kind| super::neighbour::ip(find(ip, kind).or_else(|| find(ip, kind + 2))?);
        let port = |kind| {
            find(proto, kind)
                .and_then(|bytes| Some(u16::from_be_bytes(bytes.try_into().ok()?)))
                .unwrap_or(0)
        };
        Some(Self {
            source: (address(1)?, port(2)),
            destination: (address(2)?, port(3)),
            protocol: *find(proto, 1)?.first()?,
        })
    }
}

fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    let mut all = NlasIterator::new(attributes).flatten();
    let found: NlaBuffer<&[u8]> = all.find(|nla| nla.kind() == kind)?;
    let start = found.value().as_ptr() as usize - attributes.as_ptr() as usize;
    attributes.get(start..start + found.value().len())
}

fn kind(message: u16) -> u16 {
    NFNL_SUBSYS_CTNETLINK << 8 | message
}

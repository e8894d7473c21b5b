//! Links: the requests that make, change and remove them, and a dump that reads only what is needed (so that a kernel newer
//! than the decoding crate cannot break it).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet, AfSpecUnspec, InetDevConf, InfoBridge, InfoData, InfoKind, InfoVeth, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage,
};

use super::port::PortSettings;
use super::socket::{Request, Socket, errno};
use super::vxlan::VxlanSettings;
use crate::types::Mac;

const RTM_NEWLINK: u16 = 16;
/// `struct ifinfomsg`.
const IFINFOMSG: usize = 16;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;

/// A link as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) alias: Option<String>,
    pub(crate) master: Option<u32>,
    pub(crate) mtu: u32,
    pub(crate) mac: Option<Mac>,
    pub(crate) up: bool,
    /// If it is a VXLAN device.
    pub(crate) vxlan: Option<VxlanSettings>,
    /// If it is a bridge's port.
    pub(crate) port: Option<PortSettings>,
}

/// A pair of virtual Ethernet devices. The near end is born up; the far end cannot be (veth_open wants a peer).
#[derive(Debug)]
pub(crate) struct Veth<'a> {
    pub(crate) name: &'a str,
    /// Bridge of the near end.
    pub(crate) master: Option<u32>,
    pub(crate) mtu: u32,
    pub(crate) peer: &'a str,
    /// Namespace in which the far end is born.
    pub(crate) peer_netns: BorrowedFd<'a>,
    pub(crate) peer_mac: Option<Mac>,
}

/// What to set on an existing link, found by name.
#[derive(Debug, Default)]
pub(crate) struct LinkChange<'a> {
    pub(crate) alias: Option<&'a str>,
    pub(crate) up: bool,
    pub(crate) mtu: Option<u32>,
    /// Index of the bridge that it is to be a port of.
    pub(crate) master: Option<u32>,
    /// Accept and send 127.0.0.0/8 on this device (net.ipv4.conf.DEV.route_localnet), set by netlink, not by sysctl.
    pub(crate) route_localnet: bool,
}

impl Veth<'_> {
    pub(crate) fn create(&self) -> Request {
        let mut peer = message(self.peer);
        peer.attributes.push(LinkAttribute::Mtu(self.mtu));
        peer.attributes
            .push(LinkAttribute::NetNsFd(self.peer_netns.as_raw_fd()));
        if let Some(mac) = self.peer_mac {
            peer.attributes.push(LinkAttribute::Address(mac.0.to_vec()));
        }
        let mut near = message(self.name);
        raise(&mut near);
        near.attributes.push(LinkAttribute::Mtu(self.mtu));
        near.attributes.extend(self.master.map(LinkAttribute::Controller));
        near.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]));
        Request::route(&RouteNetlinkMessage::NewLink(near), NLM_F_CREATE | NLM_F_EXCL)
    }
}

impl Link {
    /// A bridge, born up, that does not snoop multicast.
    pub(crate) fn create_bridge(name: &str, mac: Mac, mtu: u32) -> Request {
        let mut bridge = message(name);
        raise(&mut bridge);
        bridge.attributes.extend([
            LinkAttribute::Mtu(mtu),
            LinkAttribute::Address(mac.0.to_vec()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Bridge),
                LinkInfo::Data(InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)])),
            ]),
        ]);
        Request::route(&RouteNetlinkMessage::NewLink(bridge), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// A WireGuard device, born down in `namespace`; its UDP socket will be in the namespace of the socket that asks.
    pub(crate) fn create_wireguard(name: &str, namespace: &OwnedFd) -> Request {
        let mut link = message(name);
        link.attributes.extend([
            LinkAttribute::NetNsFd(namespace.as_raw_fd()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Wireguard)]),
        ]);
        Request::route(&RouteNetlinkMessage::NewLink(link), NLM_F_CREATE | NLM_F_EXCL)
    }

    pub(crate) fn change(name: &str, change: &LinkChange<'_>) -> Request {
        let mut link = message(name);
        if change.up {
            raise(&mut link);
        }
        link.attributes
            .extend(change.alias.map(|alias| LinkAttribute::IfAlias(alias.to_owned())));
        link.attributes.extend(change.mtu.map(LinkAttribute::Mtu));
        link.attributes
            .extend(change.master.map(LinkAttribute::Controller));
        if change.route_localnet {
            let mut conf = InetDevConf::default();
            conf.route_localnet = 1;
            let inet = AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(conf)]);
            link.attributes.push(LinkAttribute::AfSpecUnspec(vec![inet]));
        }
        Request::route(&RouteNetlinkMessage::SetLink(link), 0)
    }

    pub(crate) fn delete(name: &str) -> Request {
        Request::route(&RouteNetlinkMessage::DelLink(message(name)), 0)
    }

    /// Delete; a link that is not there is fine.
    pub(crate) fn ensure_deleted(socket: &mut Socket, name: &str) -> io::Result<()> {
        match socket.request(Self::delete(name)) {
            Err(e) if errno(&e) == Some(libc::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// All links of the socket's namespace.
    pub(crate) fn list(socket: &mut Socket) -> io::Result<Vec<Self>> {
        let request = Request::route(&RouteNetlinkMessage::GetLink(LinkMessage::default()), 0);
        socket.dump(&request, |kind, body| {
            if kind == RTM_NEWLINK {
                Self::parse(body)
            } else {
                None
            }
        })
    }

    pub(crate) fn find(socket: &mut Socket, name: &str) -> io::Result<Option<Self>> {
        Ok(Self::list(socket)?.into_iter().find(|link| link.name == name))
    }

    /// Asks about one link, which has its consequences: the kernel sees from a queue that a link can be sent over, and drops what
    /// comes before that; but it sees to the link that it is asked about at once (`rtnl_getlink`, since 6.7).
    pub(crate) fn settle(socket: &mut Socket, name: &str) -> io::Result<Self> {
        let question = Request::route(&RouteNetlinkMessage::GetLink(message(name)), 0);
        socket.ask(&question, |kind, body| match kind {
            RTM_NEWLINK => Self::parse(body),
            _ => None,
        })
    }

    /// From the body of a message.
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_ne_bytes(body.get(at..at + 4)?.try_into().ok()?));
        let mut link = Self {
            index: word(4)?,
            name: String::new(),
            alias: None,
            master: None,
            mtu: 0,
            mac: None,
            up: word(8)? & 1 != 0,
            vxlan: None,
            port: None,
        };
        for nla in NlasIterator::new(body.get(IFINFOMSG..)?).flatten() {
            let value = nla.value();
            let text = || String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
            let number = || value.try_into().ok().map(u32::from_ne_bytes);
            match nla.kind() {
                IFLA_ADDRESS => link.mac = value.try_into().ok().map(Mac),
                IFLA_IFNAME => link.name = text(),
                IFLA_IFALIAS => link.alias = Some(text()),
                IFLA_MASTER => link.master = number(),
                IFLA_MTU => link.mtu = number().unwrap_or(0),
                IFLA_LINKINFO => link.parse_info(value),
                _ => {}
            }
        }
        Some(link)
    }

    fn parse_info(&mut self, info: &[u8]) {
        let (mut kind, mut master) = (Vec::new(), Vec::new());
        for nla in NlasIterator::new(info).flatten() {
            // The kernel names the kind before its data.
            match nla.kind() {
                IFLA_INFO_KIND => kind = nla.value().to_vec(),
                IFLA_INFO_SLAVE_KIND => master = nla.value().to_vec(),
                IFLA_INFO_DATA if kind.starts_with(b"vxlan") => {
                    self.vxlan = Some(VxlanSettings::parse(nla.value()));
                }
                IFLA_INFO_SLAVE_DATA if master.starts_with(b"bridge") => {
                    self.port = Some(PortSettings::parse(nla.value()));
                }
                _ => {}
            }
        }
    }
}

fn message(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

fn raise(message: &mut LinkMessage) {
    message.header.flags |= LinkFlags::Up;
    message.header.change_mask |= LinkFlags::Up;
}

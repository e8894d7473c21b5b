//! VXLAN devices: the request that makes one across two namespaces, and what a dump says of one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage, VxlanDf,
};

use super::socket::Request;
use crate::types::Mac;

const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_LOCAL6: u16 = 17;

/// A VXLAN device as wanted. Its UDP socket is in the namespace of the netlink socket that carries the request; the device
/// is born, down, in `netns`. It learns nothing, floods nothing (no default remote), computes UDP checksums and never
/// lets the underlay fragment.
#[derive(Debug)]
pub(crate) struct Vxlan<'a> {
    pub(crate) name: &'a str,
    pub(crate) settings: VxlanSettings,
    pub(crate) mtu: u32,
    /// `None`: the kernel draws one.
    pub(crate) mac: Option<Mac>,
    pub(crate) netns: BorrowedFd<'a>,
}

/// What makes one VXLAN device different from another, and cannot be changed while it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VxlanSettings {
    pub(crate) vni: u32,
    pub(crate) port: u16,
    /// Source of the outer packets; its family is that of the underlay. Unspecified: the kernel chooses by route.
    pub(crate) local: IpAddr,
    pub(crate) learning: bool,
}

impl Vxlan<'_> {
    pub(crate) fn create(&self) -> Request {
        let VxlanSettings {
            vni,
            port,
            local,
            learning,
        } = self.settings;
        let mut data = vec![
            InfoVxlan::Id(vni),
            InfoVxlan::Port(port),
            InfoVxlan::Learning(learning),
        ];
        match local {
            IpAddr::V4(any) if any.is_unspecified() => {}
            IpAddr::V4(local) => data.push(InfoVxlan::Local(local)),
            IpAddr::V6(local) => data.push(InfoVxlan::Local6(local)),
        }
        data.extend(match local {
            IpAddr::V4(_) => vec![InfoVxlan::UDPCsum(true), InfoVxlan::Df(VxlanDf::Set)],
            IpAddr::V6(_) => vec![InfoVxlan::UDPZeroCsumTX(false), InfoVxlan::UDPZeroCsumRX(false)],
        });
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(self.name.to_owned()),
            LinkAttribute::NetNsFd(self.netns.as_raw_fd()),
            LinkAttribute::Mtu(self.mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vxlan),
                LinkInfo::Data(InfoData::Vxlan(data)),
            ]),
        ];
        message
            .attributes
            .extend(self.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
        Request::route(&RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }
}

impl VxlanSettings {
    /// From the content of `IFLA_INFO_DATA`. A device without a local address reads as having 0.0.0.0.
    pub(super) fn parse(data: &[u8]) -> Self {
        let mut found = Self {
            vni: 0,
            port: 0,
            local: Ipv4Addr::UNSPECIFIED.into(),
            learning: false,
        };
        for nla in NlasIterator::new(data).flatten() {
            let value = nla.value();
            match nla.kind() {
                IFLA_VXLAN_ID => found.vni = value.try_into().map_or(0, u32::from_ne_bytes),
                IFLA_VXLAN_PORT => found.port = value.try_into().map_or(0, u16::from_be_bytes),
                IFLA_VXLAN_LEARNING => found.learning = value.first().is_some_and(|on| *on != 0),
                IFLA_VXLAN_LOCAL => {
                    if let Ok(octets) = <[u8; 4]>::try_from(value) {
                        found.local = Ipv4Addr::from(octets).into();
                    }
                }
                IFLA_VXLAN_LOCAL6 => {
                    if let Ok(octets) = <[u8; 16]>::try_from(value) {
                        found.local = Ipv6Addr::from(octets).into();
                    }
                }
                _ => {}
            }
        }
        found
    }
}

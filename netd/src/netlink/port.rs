//! Settings of a bridge's port.

use netlink_packet_core::NlasIterator;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoBridgePort, InfoPortData, InfoPortKind, LinkAttribute, LinkInfo, LinkMessage,
};

use super::socket::Request;

const IFLA_BRPORT_LEARNING: u16 = 8;
const IFLA_BRPORT_UNICAST_FLOOD: u16 = 9;
const IFLA_BRPORT_MCAST_FLOOD: u16 = 27;
const IFLA_BRPORT_BCAST_FLOOD: u16 = 30;
const IFLA_BRPORT_NEIGH_SUPPRESS: u16 = 32;

/// What a port learns and lets out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PortSettings {
    /// Learn from frames who is behind it.
    pub(crate) learning: bool,
    /// Frames to nobody known go out here too, …
    pub(crate) flood: bool,
    /// … as do those to groups …
    pub(crate) multicast_flood: bool,
    /// … and those to everybody.
    pub(crate) broadcast_flood: bool,
    /// The bridge answers for the neighbours behind it that it knows, instead of asking there.
    pub(crate) suppress_neighbours: bool,
}

impl PortSettings {
    /// Of a port to other nodes: what goes out is known beforehand, and nothing else does.
    pub(crate) const STATIC: Self = Self {
        learning: false,
        flood: false,
        multicast_flood: false,
        broadcast_flood: false,
        suppress_neighbours: true,
    };

    /// Put in force on the port of that name.
    pub(crate) fn set(&self, port: &str) -> Request {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(port.to_owned()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::PortKind(InfoPortKind::Bridge),
                LinkInfo::PortData(InfoPortData::BridgePort(vec![
                    InfoBridgePort::Learning(self.learning),
                    InfoBridgePort::UnicastFlood(self.flood),
                    InfoBridgePort::MulticastFlood(self.multicast_flood),
                    InfoBridgePort::BroadcastFlood(self.broadcast_flood),
                    InfoBridgePort::NeighSupress(self.suppress_neighbours),
                ])),
            ]),
        ];
        // Of an existing link, only this kind of message takes a port's settings (rtnl_newlink).
        Request::route(&RouteNetlinkMessage::NewLink(message), 0)
    }

    /// From the content of `IFLA_INFO_SLAVE_DATA`.
    pub(super) fn parse(data: &[u8]) -> Self {
        let mut found = Self {
            learning: false,
            flood: false,
            multicast_flood: false,
            broadcast_flood: false,
            suppress_neighbours: false,
        };
        for nla in NlasIterator::new(data).flatten() {
            let on = nla.value().first().is_some_and(|on| *on != 0);
            match nla.kind() {
                IFLA_BRPORT_LEARNING => found.learning = on,
                IFLA_BRPORT_UNICAST_FLOOD => found.flood = on,
                IFLA_BRPORT_MCAST_FLOOD => found.multicast_flood = on,
                IFLA_BRPORT_BCAST_FLOOD => found.broadcast_flood = on,
                IFLA_BRPORT_NEIGH_SUPPRESS => found.suppress_neighbours = on,
                _ => {}
            }
        }
        found
    }
}

//! How one link asks for its neighbours, and answers for others (arp(7)). A new link begins as the machine's own settings
//! say, which a namespace has no part in; so each link of ours is told by itself (RTM_SETNEIGHTBL, rtnetlink(7)).

use std::time::Duration;

use netlink_packet_route::neighbour_table::{
    NeighbourTableAttribute, NeighbourTableMessage, NeighbourTableParameter as Parameter,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::socket::Request;

/// Between two questions. The kernel's own second is what a first packet costs that came before everybody knew of each
/// other.
const AGAIN: Duration = Duration::from_millis(100);
/// How often a question is asked, of all and of one: as long as the kernel would, three seconds.
const QUESTIONS: u32 = 30;

/// Ask for neighbours on this link again soon.
pub(crate) fn ask_often(link: u32, ipv6: bool) -> Request {
    let again = u64::try_from(AGAIN.as_millis()).unwrap_or(u64::MAX);
    set(
        link,
        ipv6,
        vec![
            Parameter::RetransTime(again),
            Parameter::McastProbes(QUESTIONS),
            Parameter::UcastProbes(QUESTIONS),
        ],
    )
}

/// Answer on this link for those behind other links at once, and not after a random wait of up to 0.8 s.
pub(crate) fn answer_at_once(link: u32, ipv6: bool) -> Request {
    set(link, ipv6, vec![Parameter::ProxyDelay(0)])
}

fn set(link: u32, ipv6: bool, parameters: Vec<Parameter>) -> Request {
    let (family, name) = match ipv6 {
        false => (AddressFamily::Inet, "arp_cache"),
        true => (AddressFamily::Inet6, "ndisc_cache"),
    };
    let mut message = NeighbourTableMessage::default();
    message.header.family = family;
    let parameters = [vec![Parameter::Ifindex(link)], parameters].concat();
    message.attributes = vec![
        NeighbourTableAttribute::Name(name.to_owned()),
        NeighbourTableAttribute::Parms(parameters),
    ];
    Request::route(&RouteNetlinkMessage::SetNeighbourTable(message), 0)
}

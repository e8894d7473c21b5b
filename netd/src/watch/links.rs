//! Links, addresses, neighbours, forwarding entries, routes and rules that go, in the fabric, and the host's links that get another packet
//! size. Whether that was our own doing, or matters, only the node knows: it is asked with all that was heard.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, Weak};
use std::time::Duration;

use netlink_sys::TokioSocket;
use netlink_sys::protocols::NETLINK_ROUTE;

use super::{PATIENCE, SETTLE, listen, mend, next};
use crate::netlink::{Detour, Forwarding, Link, LinkAddress, MarkRule, Neighbour, messages};
use crate::node::Node;
use crate::types::Mac;

/// linux/rtnetlink.h
const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_NEIGH: u32 = 3;
const RTNLGRP_IPV4_IFADDR: u32 = 5;
const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_IPV4_RULE: u32 = 8;
const RTNLGRP_IPV6_IFADDR: u32 = 9;
const RTNLGRP_IPV6_ROUTE: u32 = 11;
const RTNLGRP_IPV6_RULE: u32 = 19;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_DELADDR: u16 = 21;
const RTM_DELROUTE: u16 = 25;
const RTM_DELNEIGH: u16 = 29;
const RTM_DELRULE: u16 = 33;
/// Messages about bridge ports (`AF_BRIDGE`) have less to say.
const AF_UNSPEC: u8 = 0;
const AF_INET6: u8 = libc::AF_INET6 as u8;
/// More than this is not worth telling apart.
const MOST: usize = 4096;
/// How often all is looked at although nothing was heard.
const LOOK: Duration = Duration::from_secs(30);

/// Something that is not there any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Loss {
    /// A link has gone, has left its bridge or is down.
    Link(String),
    Address(LinkAddress),
    /// On the link of this index.
    Neighbour(u32, IpAddr),
    /// At the port of this index.
    Forwarding(u32, Mac),
    /// Through a neighbour.
    Route(Detour),
    Rule(MarkRule),
    /// Not lost, but a link of the host by its index, which may have another packet size than before.
    Resized(u32, u32),
    /// The kernel could not tell everything, or it is time to look.
    Perhaps,
}

/// A socket that hears of losses.
pub(crate) struct LinkWatch {
    socket: TokioSocket,
    /// What a message, by its kind and body, tells.
    read: fn(u16, &[u8]) -> Option<Loss>,
    /// Whether all is looked at from time to time.
    looks: bool,
}

impl LinkWatch {
    /// Must be called where a runtime is at hand.
    pub(crate) fn fabric(fabric: &OwnedFd) -> io::Result<Self> {
        let groups = [
            RTNLGRP_LINK,
            RTNLGRP_NEIGH,
            RTNLGRP_IPV4_IFADDR,
            RTNLGRP_IPV6_IFADDR,
            RTNLGRP_IPV4_ROUTE,
            RTNLGRP_IPV4_RULE,
            RTNLGRP_IPV6_ROUTE,
            RTNLGRP_IPV6_RULE,
        ];
        Ok(Self {
            socket: listen(fabric, NETLINK_ROUTE, &groups)?,
            read: loss,
            looks: true,
        })
    }

    /// Likewise.
    pub(crate) fn host(host: &OwnedFd) -> io::Result<Self> {
        Ok(Self {
            socket: listen(host, NETLINK_ROUTE, &[RTNLGRP_LINK])?,
            read: resized,
            looks: false,
        })
    }

    /// Have the node mended of what it has lost; ends with the node.
    pub(crate) async fn run(mut self, node: Weak<Mutex<Node>>) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        look.tick().await; // the first is at once, and the node has just looked
        loop {
            let mut losses = Vec::new();
            tokio::select! {
                _ = look.tick(), if self.looks => losses.push(Loss::Perhaps),
                news = next(&mut self.socket) => hear(news, self.read, &mut losses),
            }
            if losses.is_empty() {
                continue;
            }
            for _ in 0..PATIENCE {
                match tokio::time::timeout(SETTLE, next(&mut self.socket)).await {
                    Ok(news) => hear(news, self.read, &mut losses),
                    Err(_) => break,
                }
            }
            let work = move |node: &mut Node| node.mend(&losses);
            if !mend(&node, "links", work).await {
                return;
            }
        }
    }
}

fn hear(news: Option<Vec<u8>>, read: fn(u16, &[u8]) -> Option<Loss>, losses: &mut Vec<Loss>) {
    match news {
        Some(news) if losses.len() < MOST => {
            losses.extend(messages(&news).filter_map(|message| read(message.kind, message.body)));
        }
        _ => *losses = vec![Loss::Perhaps],
    }
}

fn loss(kind: u16, body: &[u8]) -> Option<Loss> {
    match kind {
        RTM_DELLINK => Link::parse(body).map(|link| Loss::Link(link.name)),
        RTM_NEWLINK if body.first() == Some(&AF_UNSPEC) => {
            let down = Link::parse(body).filter(|link| !link.up);
            down.map(|link| Loss::Link(link.name))
        }
        RTM_DELADDR => LinkAddress::parse(body).map(Loss::Address),
        RTM_DELROUTE => Detour::parse(body, body.first() == Some(&AF_INET6)).map(Loss::Route),
        RTM_DELRULE => MarkRule::parse(body).map(Loss::Rule),
        RTM_DELNEIGH => {
            let neighbour = Neighbour::parse_gone(body).map(|(link, who)| Loss::Neighbour(link, who));
            neighbour.or_else(|| Forwarding::parse(body).map(|entry| Loss::Forwarding(entry.link, entry.mac)))
        }
        _ => None,
    }
}

fn resized(kind: u16, body: &[u8]) -> Option<Loss> {
    let new = kind == RTM_NEWLINK && body.first() == Some(&AF_UNSPEC);
    let link = Link::parse(body).filter(|_| new)?;
    Some(Loss::Resized(link.index, link.mtu))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut message = ((16 + body.len()) as u32).to_ne_bytes().to_vec();
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&[0; 10]);
        message.extend_from_slice(body);
        message
    }

    /// A neighbour 10.0.0.5 of link 7, in the state that the kernel gives one that it is about to forget.
    fn neighbour() -> Vec<u8> {
        let mut body = vec![2, 0, 0, 0, 7, 0, 0, 0, 0x20, 0, 0, 1];
        body.extend_from_slice(&[8, 0, 1, 0, 10, 0, 0, 5]);
        body
    }

    fn losses_in(datagram: &[u8]) -> Vec<Loss> {
        let mut losses = Vec::new();
        hear(Some(datagram.to_vec()), loss, &mut losses);
        losses
    }

    #[test]
    fn what_goes_is_a_loss_and_what_comes_is_none() {
        let gone = message(RTM_DELNEIGH, &neighbour());
        let loss = Loss::Neighbour(7, "10.0.0.5".parse().unwrap());
        assert_eq!(losses_in(&gone), std::slice::from_ref(&loss));
        assert_eq!(losses_in(&message(28, &neighbour())), []);
        assert_eq!(losses_in(&[gone.clone(), gone].concat()), [loss.clone(), loss]);
        // index 3, down, named "vx"
        let mut link = vec![0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        link.extend_from_slice(&[7, 0, 3, 0, b'v', b'x', 0, 0]);
        assert_eq!(losses_in(&message(RTM_NEWLINK, &link)), [Loss::Link("vx".into())]);
        link[8] = 1;
        assert_eq!(losses_in(&message(RTM_NEWLINK, &link)), [], "up");
        assert_eq!(losses_in(&message(RTM_DELLINK, &link)), [Loss::Link("vx".into())]);
    }

    #[test]
    fn too_much_is_heard_as_perhaps() {
        let mut losses = vec![Loss::Link("vx".into()); MOST];
        hear(Some(message(RTM_DELNEIGH, &neighbour())), loss, &mut losses);
        assert_eq!(losses, [Loss::Perhaps]);
        let mut losses = Vec::new();
        hear(None, loss, &mut losses);
        assert_eq!(losses, [Loss::Perhaps]);
    }
}

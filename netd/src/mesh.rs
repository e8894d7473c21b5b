//! The ways to and from the tasks of other nodes, for published ports: which nodes there are on the transit device, and
//! behind which of them a task is. Plain data: what is wanted, what is there, and the steps from the one to the other.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use sha2::{Digest, Sha256};

use crate::netlink::{Detour, Forwarding, MAIN, MarkRule, Neighbour, Place, Request};
use crate::types::{Mac, Overlay, OverlayMode, Underlay};

/// What the transit device carries. No network has this VXLAN network identifier.
pub(crate) const TRANSIT: Overlay = Overlay {
    vni: 4096,
    encrypted: false,
    mode: OverlayMode::Vxlan,
};

/// Four octets that stand for a node: its IPv4 address of the data path or, of an IPv6 address, a hash of it where no IPv4
/// address can be (240.0.0.0/4). Everything that a node is called on the transit device comes of them: its hardware
/// address ends in them, next hops are written so, and they are the mark of the connections that it brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tag(Ipv4Addr);

impl Tag {
    pub(crate) fn of(node: IpAddr) -> Self {
        match node {
            IpAddr::V4(address) => Self(address),
            IpAddr::V6(address) => {
                let hash = Sha256::digest(address.octets());
                // The last octet is never 255, as that of the broadcast address is.
                Self(Ipv4Addr::new(0xf0 | hash[0], hash[1], hash[2], hash[3] & 0x7f))
            }
        }
    }

    pub(crate) fn mac(self) -> Mac {
        Mac::from_ipv4(self.0)
    }

    /// As the packet filter loads it from a hardware address.
    fn rule(self) -> MarkRule {
        MarkRule {
            mark: u32::from_ne_bytes(self.0.octets()),
            table: u32::from(self.0),
        }
    }

    fn from_rule(rule: MarkRule) -> Option<Self> {
        let tag = Self(Ipv4Addr::from(rule.table));
        (tag.rule() == rule).then_some(tag)
    }

    fn from_mac(Mac([_, _, a, b, c, d]): Mac) -> Self {
        Self(Ipv4Addr::new(a, b, c, d))
    }

    fn from_next_hop(address: IpAddr) -> Option<Self> {
        match address {
            IpAddr::V4(address) => Some(Self(address)),
            IpAddr::V6(_) => None,
        }
    }

    fn next_hop(self) -> IpAddr {
        IpAddr::V4(self.0)
    }
}

/// Who and what is reached over the transit device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Mesh {
    /// Nodes and their addresses of the data path; `None`: something of it is there, but not all, or not so.
    pub(crate) peers: BTreeMap<Tag, Option<IpAddr>>,
    /// Tasks and the nodes behind which they are.
    pub(crate) routes: BTreeMap<IpAddr, Tag>,
}

/// One step from what is there to what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    AddPeer(Tag, IpAddr),
    AddRoute(IpAddr, Tag),
    DropRoute(IpAddr, Tag),
    DropPeer(Tag),
}

/// What the kernel has on the transit device, and the rules of the fabric.
#[derive(Debug, Clone, Default)]
pub(crate) struct Dump {
    pub(crate) rules: Vec<MarkRule>,
    pub(crate) routes: Vec<Detour>,
    pub(crate) neighbours: Vec<Neighbour>,
    pub(crate) forwardings: Vec<Forwarding>,
}

impl Mesh {
    /// Nodes of `underlay`, and those `tasks` (address and node) whose node is among them. A node whose address is of the
    /// other family cannot be reached.
    pub(crate) fn wanted<'a>(underlay: &Underlay, tasks: impl Iterator<Item = (IpAddr, &'a str)>) -> Self {
        let own = underlay.address;
        let another = |other: IpAddr| other != own && other.is_ipv4() == own.is_ipv4();
        let others = underlay.peers.iter().filter(|peer| another(peer.address));
        let nodes: BTreeMap<&str, IpAddr> = others.map(|peer| (peer.node.as_str(), peer.address)).collect();
        let routes = tasks.filter_map(|(task, node)| Some((task, Tag::of(*nodes.get(node)?))));
        Self {
            peers: nodes
                .values()
                .map(|address| (Tag::of(*address), Some(*address)))
                .collect(),
            routes: routes.collect(),
        }
    }

    /// What a dump amounts to.
    pub(crate) fn found(dump: &Dump) -> Self {
        let mut found = Self::default();
        for route in dump.routes.iter().filter(|route| route.table == MAIN) {
            if let Some(tag) = Tag::from_next_hop(route.neighbour) {
                found.routes.insert(route.destination.addr(), tag);
            }
        }
        let neighbours = dump
            .neighbours
            .iter()
            .filter_map(|one| Tag::from_next_hop(one.address));
        let rules = dump.rules.iter().filter_map(|rule| Tag::from_rule(*rule));
        let forwardings = dump.forwardings.iter().map(|entry| Tag::from_mac(entry.mac));
        for tag in neighbours.chain(rules).chain(forwardings) {
            found.peers.entry(tag).or_insert_with(|| dump.whole(tag));
        }
        found
    }

    /// Nodes come before the tasks behind them and go after them.
    pub(crate) fn steps(&self, wanted: &Self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (tag, address) in &wanted.peers {
            if let Some(address) = address.filter(|_| self.peers.get(tag) != Some(address)) {
                steps.push(Step::AddPeer(*tag, address));
            }
        }
        let new = wanted
            .routes
            .iter()
            .filter(|(task, tag)| self.routes.get(task) != Some(tag));
        steps.extend(new.map(|(task, tag)| Step::AddRoute(*task, *tag)));
        let old = self
            .routes
            .iter()
            .filter(|(task, _)| !wanted.routes.contains_key(task));
        steps.extend(old.map(|(task, tag)| Step::DropRoute(*task, *tag)));
        let gone = self.peers.keys().filter(|tag| !wanted.peers.contains_key(tag));
        steps.extend(gone.map(|tag| Step::DropPeer(*tag)));
        steps
    }

    /// Whether the loss of this route, rule or neighbour is one.
    pub(crate) fn needs_route(&self, route: &Detour) -> bool {
        let Some(tag) = Tag::from_next_hop(route.neighbour) else {
            return false;
        };
        let task = self.routes.get(&route.destination.addr()) == Some(&tag);
        let back = route.table == tag.rule().table && self.peers.contains_key(&tag);
        task && route.table == MAIN || back
    }

    pub(crate) fn needs_rule(&self, rule: MarkRule) -> bool {
        Tag::from_rule(rule).is_some_and(|tag| self.peers.contains_key(&tag))
    }

    pub(crate) fn needs_neighbour(&self, address: IpAddr) -> bool {
        Tag::from_next_hop(address).is_some_and(|tag| self.peers.contains_key(&tag))
    }

    pub(crate) fn needs_forwarding(&self, mac: Mac) -> bool {
        self.peers.contains_key(&Tag::from_mac(mac))
    }

    /// Hardware addresses from which packets are taken.
    pub(crate) fn senders(&self) -> Vec<Mac> {
        self.peers.keys().map(|tag| tag.mac()).collect()
    }
}

impl Dump {
    /// The node's address, if all that belongs to it is there.
    fn whole(&self, tag: Tag) -> Option<IpAddr> {
        let mac = tag.mac();
        let entry = self.forwardings.iter().find(|entry| entry.mac == mac)?;
        let Place::Node(address) = entry.place else {
            return None;
        };
        let named = |one: &Neighbour| one.address == tag.next_hop() && one.mac == mac;
        let back = |route: &Detour| {
            let default = route.destination.prefix_len() == 0;
            default && route.table == tag.rule().table && route.neighbour == tag.next_hop()
        };
        let all = self.neighbours.iter().any(named)
            && self.rules.contains(&tag.rule())
            && self.routes.iter().any(back);
        all.then_some(address)
    }
}

impl Step {
    /// Whether it adds, or replaces, something.
    pub(crate) fn grows(&self) -> bool {
        matches!(self, Self::AddPeer(..) | Self::AddRoute(..))
    }

    /// On the transit device of this index. Without the device there are only rules, to be removed.
    pub(crate) fn requests(&self, link: Option<u32>) -> Vec<Request> {
        match (link, self) {
            (Some(link), _) => self.requests_on(link),
            (None, Self::DropPeer(tag)) => vec![tag.rule().delete(false)],
            (None, _) => Vec::new(),
        }
    }

    fn requests_on(&self, link: u32) -> Vec<Request> {
        let neighbour = |tag: Tag| Neighbour {
            link,
            address: tag.next_hop(),
            mac: tag.mac(),
        };
        let forwarding = |tag: Tag, node| Forwarding {
            link,
            mac: tag.mac(),
            place: Place::Node(node),
        };
        let route = |destination: IpNet, tag: Tag, table| Detour {
            destination,
            neighbour: tag.next_hop(),
            link,
            table,
        };
        let back = |tag: Tag| route(ipnet::Ipv4Net::default().into(), tag, tag.rule().table);
        match *self {
            Self::AddPeer(tag, node) => vec![
                forwarding(tag, node).set(),
                neighbour(tag).set(),
                back(tag).add(),
                tag.rule().create(false),
            ],
            Self::AddRoute(task, tag) => vec![route(task.into(), tag, MAIN).add()],
            Self::DropRoute(task, tag) => vec![route(task.into(), tag, MAIN).delete()],
            Self::DropPeer(tag) => vec![
                tag.rule().delete(false),
                back(tag).delete(),
                neighbour(tag).delete(),
                forwarding(tag, tag.next_hop()).delete(),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::UnderlayPeer;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn underlay(peers: &[(&str, &str)]) -> Underlay {
        let peer = |(node, address): &(&str, &str)| UnderlayPeer {
            node: (*node).into(),
            address: ip(address),
            mtu: 1500,
            forwards: true,
            public_key: None,
        };
        Underlay {
            address: ip("192.0.2.1"),
            port: 4789,
            peers: peers.iter().map(peer).collect(),
        }
    }

    fn tag(text: &str) -> Tag {
        Tag::of(ip(text))
    }

    #[test]
    fn a_tag_is_the_address_or_a_hash_that_no_address_is() {
        assert_eq!(tag("192.0.2.7").mac().to_string(), "02:42:c0:00:02:07");
        assert_eq!(tag("192.0.2.7").rule().table, 0xc000_0207);
        let (one, two) = (tag("2001:db8::1"), tag("2001:db8::2"));
        assert_ne!(one, two);
        assert!(one.0.octets()[0] >= 240 && !one.0.is_broadcast());
        assert_eq!(Tag::from_rule(one.rule()), Some(one));
        let foreign = MarkRule { mark: 1, table: 254 };
        assert_eq!(Tag::from_rule(foreign), None);
    }

    #[test]
    fn only_tasks_of_known_nodes_have_a_way() {
        let tasks = [
            (ip("10.0.0.5"), "b"),
            (ip("10.0.0.6"), "lost"),
            (ip("10.0.0.7"), "a"),
        ];
        let here = underlay(&[("a", "192.0.2.1"), ("b", "192.0.2.2")]);
        let mesh = Mesh::wanted(&here, tasks.into_iter());
        assert_eq!(mesh.routes, BTreeMap::from([(ip("10.0.0.5"), tag("192.0.2.2"))]));
        assert_eq!(mesh.senders(), [tag("192.0.2.2").mac()], "nobody sends to itself");
    }

    #[test]
    fn steps_lead_from_what_is_there_to_what_is_wanted() {
        let two = underlay(&[("b", "192.0.2.2"), ("c", "192.0.2.3")]);
        let before = Mesh::wanted(&two, [(ip("10.0.0.5"), "b"), (ip("10.0.0.6"), "c")].into_iter());
        let after = Mesh::wanted(
            &underlay(&[("c", "192.0.2.3")]),
            [(ip("10.0.0.5"), "c")].into_iter(),
        );
        assert_eq!(before.steps(&before), []);
        let (b, c) = (tag("192.0.2.2"), tag("192.0.2.3"));
        assert_eq!(
            before.steps(&after),
            [
                Step::AddRoute(ip("10.0.0.5"), c),
                Step::DropRoute(ip("10.0.0.6"), c),
                Step::DropPeer(b)
            ]
        );
        assert_eq!(
            Mesh::default().steps(&after),
            [
                Step::AddPeer(c, ip("192.0.2.3")),
                Step::AddRoute(ip("10.0.0.5"), c)
            ]
        );
    }

    #[test]
    fn what_is_there_in_part_is_made_again() {
        let b = tag("192.0.2.2");
        let whole = Dump {
            rules: vec![b.rule()],
            routes: vec![Detour {
                destination: "0.0.0.0/0".parse().unwrap(),
                neighbour: b.next_hop(),
                link: 7,
                table: b.rule().table,
            }],
            neighbours: vec![Neighbour {
                link: 7,
                address: b.next_hop(),
                mac: b.mac(),
            }],
            forwardings: vec![Forwarding {
                link: 7,
                mac: b.mac(),
                place: Place::Node(ip("192.0.2.2")),
            }],
        };
        let wanted = Mesh::wanted(&underlay(&[("b", "192.0.2.2")]), std::iter::empty());
        assert_eq!(Mesh::found(&whole), wanted);
        let without: [fn(&mut Dump); 4] = [
            |dump| dump.rules.clear(),
            |dump| dump.routes.clear(),
            |dump| dump.neighbours.clear(),
            |dump| dump.forwardings.clear(),
        ];
        for take_away in without {
            let mut dump = whole.clone();
            take_away(&mut dump);
            let steps = Mesh::found(&dump).steps(&wanted);
            assert_eq!(steps, [Step::AddPeer(b, ip("192.0.2.2"))], "{dump:?}");
        }
    }
}

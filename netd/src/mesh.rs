//! The ways to and from the tasks of other nodes, for published ports: which nodes there are on the transit device, and
//! behind which of them a task is. Plain data: what is wanted, what is there, and the steps from the one to the other.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use sha2::{Digest, Sha256};

use crate::netlink::{Detour, Forwarding, MAIN, MarkRule, Neighbour, Place, Request};
use crate::nft::Ip;
use crate::types::{Mac, Overlay, OverlayMode, Underlay};

/// What the transit device carries. No network has this VXLAN network identifier.
pub(crate) const TRANSIT: Overlay = Overlay {
    vni: 4096,
    encrypted: false,
    mode: OverlayMode::Vxlan,
};

/// Four octets that stand for a node: its IPv4 address of the data path or, of an IPv6 address, a hash of it where no IPv4
/// address can be (240.0.0.0/4). Everything that a node is called on the transit device comes of them: its hardware
/// address ends in them, next hops are written so (those of IPv6 are the link-local address that goes with the hardware
/// address), and they are the mark of the connections that it brings.
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
            IpAddr::V6(address) => Mac::of_link_local(address).map(Self::from_mac),
        }
    }

    fn next_hop(self, ip: Ip) -> IpAddr {
        match ip {
            Ip::V4 => self.0.into(),
            Ip::V6 => self.mac().link_local().into(),
        }
    }
}

/// Who and what is reached over the transit device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Mesh {
    /// Nodes and their addresses of the data path; `None`: something of it is there, but not all, or not so.
    pub(crate) peers: BTreeMap<Tag, Option<IpAddr>>,
    /// Tasks and the nodes behind which they are.
    pub(crate) routes: BTreeMap<IpAddr, Tag>,
    /// Whether the device carries IPv6 too.
    pub(crate) ipv6: bool,
}

/// The transit device as a way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Way {
    /// Index of the link.
    pub(crate) link: u32,
    pub(crate) ipv6: bool,
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
    pub(crate) rules6: Vec<MarkRule>,
    pub(crate) routes: Vec<Detour>,
    pub(crate) neighbours: Vec<Neighbour>,
    pub(crate) forwardings: Vec<Forwarding>,
    pub(crate) ipv6: bool,
}

impl Mesh {
    /// Nodes of `underlay`, and those `tasks` (address and node) whose node is among them. A node whose address is of the
    /// other family cannot be reached; nor can IPv6 addresses of tasks over a device without `ipv6`.
    pub(crate) fn wanted<'a>(
        underlay: &Underlay,
        tasks: impl Iterator<Item = (IpAddr, &'a str)>,
        ipv6: bool,
    ) -> Self {
        let own = underlay.address;
        let another = |other: IpAddr| other != own && other.is_ipv4() == own.is_ipv4();
        let others = underlay.peers.iter().filter(|peer| another(peer.address));
        let nodes: BTreeMap<&str, IpAddr> = others.map(|peer| (peer.node.as_str(), peer.address)).collect();
        let tasks = tasks.filter(|(task, _)| task.is_ipv4() || ipv6);
        let routes = tasks.filter_map(|(task, node)| Some((task, Tag::of(*nodes.get(node)?))));
        Self {
            peers: nodes
                .values()
                .map(|address| (Tag::of(*address), Some(*address)))
                .collect(),
            routes: routes.collect(),
            ipv6,
        }
    }

    /// What a dump amounts to.
    pub(crate) fn found(dump: &Dump) -> Self {
        let mut found = Self {
            ipv6: dump.ipv6,
            ..Self::default()
        };
        for route in dump.routes.iter().filter(|route| route.table == MAIN) {
            if let Some(tag) = Tag::from_next_hop(route.neighbour) {
                found.routes.insert(route.destination.addr(), tag);
            }
        }
        let neighbours = dump
            .neighbours
            .iter()
            .filter_map(|one| Tag::from_next_hop(one.address));
        let rules = dump.rules.iter().chain(&dump.rules6);
        let rules = rules.filter_map(|rule| Tag::from_rule(*rule));
        let forwardings = dump.forwardings.iter().map(|entry| Tag::from_mac(entry.mac));
        for tag in neighbours.chain(rules).chain(forwardings) {
            found.peers.entry(tag).or_insert_with(|| dump.whole(tag));
        }
        found
    }

    /// Nodes come before the tasks behind them and go after them.
    pub(crate) fn steps(&self, wanted: &Self) -> Vec<Step> {
        let mut steps = Vec::new();
        let same = |tag: &Tag, address| self.ipv6 == wanted.ipv6 && self.peers.get(tag) == Some(address);
        for (tag, address) in &wanted.peers {
            if let Some(address) = address.filter(|_| !same(tag, address)) {
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
        let both = versions(self.ipv6);
        both.iter().all(|ip| self.leads(tag, *ip)).then_some(address)
    }

    /// Whether the node is known as a next hop of this IP version, and answers go back to it.
    fn leads(&self, tag: Tag, ip: Ip) -> bool {
        let named = |one: &Neighbour| one.address == tag.next_hop(ip) && one.mac == tag.mac();
        let back = |route: &Detour| {
            let default = route.destination.prefix_len() == 0;
            default && route.table == tag.rule().table && route.neighbour == tag.next_hop(ip)
        };
        let rules = match ip {
            Ip::V4 => &self.rules,
            Ip::V6 => &self.rules6,
        };
        self.neighbours.iter().any(named) && rules.contains(&tag.rule()) && self.routes.iter().any(back)
    }
}

fn versions(ipv6: bool) -> &'static [Ip] {
    if ipv6 { &Ip::BOTH } else { &[Ip::V4] }
}

impl Step {
    /// Whether it adds, or replaces, something.
    pub(crate) fn grows(&self) -> bool {
        matches!(self, Self::AddPeer(..) | Self::AddRoute(..))
    }

    /// On the transit device. Without the device there are only rules, to be removed.
    pub(crate) fn requests(&self, way: Option<Way>) -> Vec<Request> {
        match (way, self) {
            (Some(way), _) => self.requests_on(way),
            (None, Self::DropPeer(tag)) => [false, true].map(|ipv6| tag.rule().delete(ipv6)).into(),
            (None, _) => Vec::new(),
        }
    }

    fn requests_on(&self, way: Way) -> Vec<Request> {
        let link = way.link;
        let forwarding = |tag: Tag, node| Forwarding {
            link,
            mac: tag.mac(),
            place: Place::Node(node),
        };
        let to = |task: IpAddr, tag: Tag| Detour {
            destination: task.into(),
            neighbour: tag.next_hop(Ip::of(task)),
            link,
            table: MAIN,
        };
        let each = |requests: fn(Tag, Ip, u32) -> [Request; 3], tag| {
            let both = versions(way.ipv6).iter();
            both.flat_map(move |ip| requests(tag, *ip, link))
        };
        match *self {
            Self::AddPeer(tag, node) => {
                let first = forwarding(tag, node).set();
                std::iter::once(first).chain(each(add_next_hop, tag)).collect()
            }
            Self::AddRoute(task, tag) => vec![to(task, tag).add()],
            Self::DropRoute(task, tag) => vec![to(task, tag).delete()],
            Self::DropPeer(tag) => {
                let last = forwarding(tag, tag.next_hop(Ip::V4)).delete();
                each(drop_next_hop, tag).chain([last]).collect()
            }
        }
    }
}

/// A node as a next hop on this link, and the way back to it.
fn add_next_hop(tag: Tag, ip: Ip, link: u32) -> [Request; 3] {
    let (neighbour, back) = next_hop(tag, ip, link);
    [neighbour.set(), back.add(), tag.rule().create(ip == Ip::V6)]
}

fn drop_next_hop(tag: Tag, ip: Ip, link: u32) -> [Request; 3] {
    let (neighbour, back) = next_hop(tag, ip, link);
    [tag.rule().delete(ip == Ip::V6), back.delete(), neighbour.delete()]
}

fn next_hop(tag: Tag, ip: Ip, link: u32) -> (Neighbour, Detour) {
    let neighbour = Neighbour {
        link,
        address: tag.next_hop(ip),
        mac: tag.mac(),
    };
    let back = Detour {
        destination: match ip {
            Ip::V4 => Ipv4Net::default().into(),
            Ip::V6 => Ipv6Net::default().into(),
        },
        neighbour: neighbour.address,
        link,
        table: tag.rule().table,
    };
    (neighbour, back)
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
            next_hop6: None,
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
        assert_eq!(one.next_hop(Ip::V6).to_string()[..6], *"fe80::");
        for tag in [one, tag("192.0.2.7")] {
            assert_eq!(
                Ip::BOTH.map(|ip| Tag::from_next_hop(tag.next_hop(ip))),
                [Some(tag); 2]
            );
        }
        let foreign = MarkRule { mark: 1, table: 254 };
        assert_eq!(Tag::from_rule(foreign), None);
    }

    #[test]
    fn only_tasks_of_known_nodes_have_a_way() {
        let tasks = [
            (ip("10.0.0.5"), "b"),
            (ip("fd00::5"), "b"),
            (ip("10.0.0.6"), "lost"),
            (ip("10.0.0.7"), "a"),
        ];
        let here = underlay(&[("a", "192.0.2.1"), ("b", "192.0.2.2")]);
        let mesh = Mesh::wanted(&here, tasks.into_iter(), false);
        assert_eq!(mesh.routes, BTreeMap::from([(ip("10.0.0.5"), tag("192.0.2.2"))]));
        assert_eq!(mesh.senders(), [tag("192.0.2.2").mac()], "nobody sends to itself");
        let both = Mesh::wanted(&here, tasks.into_iter(), true);
        assert_eq!(
            both.routes.keys().copied().collect::<Vec<_>>(),
            [ip("10.0.0.5"), ip("fd00::5")]
        );
    }

    #[test]
    fn steps_lead_from_what_is_there_to_what_is_wanted() {
        let two = underlay(&[("b", "192.0.2.2"), ("c", "192.0.2.3")]);
        let tasks = [(ip("10.0.0.5"), "b"), (ip("10.0.0.6"), "c")];
        let before = Mesh::wanted(&two, tasks.into_iter(), false);
        let after = Mesh::wanted(
            &underlay(&[("c", "192.0.2.3")]),
            [(ip("10.0.0.5"), "c")].into_iter(),
            false,
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
        let [(neighbour, back), (neighbour6, back6)] = Ip::BOTH.map(|ip| next_hop(b, ip, 7));
        let whole = Dump {
            rules: vec![b.rule()],
            rules6: vec![b.rule()],
            routes: vec![back, back6],
            neighbours: vec![neighbour, neighbour6],
            ipv6: true,
            forwardings: vec![Forwarding {
                link: 7,
                mac: b.mac(),
                place: Place::Node(ip("192.0.2.2")),
            }],
        };
        let wanted = Mesh::wanted(&underlay(&[("b", "192.0.2.2")]), std::iter::empty(), true);
        assert_eq!(Mesh::found(&whole), wanted);
        let without: [fn(&mut Dump); 7] = [
            |dump| dump.rules.clear(),
            |dump| dump.rules6.clear(),
            |dump| _ = dump.routes.remove(0),
            |dump| _ = dump.routes.remove(1),
            |dump| _ = dump.neighbours.remove(0),
            |dump| _ = dump.neighbours.remove(1),
            |dump| dump.forwardings.clear(),
        ];
        for take_away in without {
            let mut dump = whole.clone();
            take_away(&mut dump);
            let steps = Mesh::found(&dump).steps(&wanted);
            assert_eq!(steps, [Step::AddPeer(b, ip("192.0.2.2"))], "{dump:?}");
        }
        let only_v4 = Dump { ipv6: false, ..whole };
        let steps = Mesh::found(&only_v4).steps(&wanted);
        assert_eq!(
            steps.len(),
            1,
            "a device that gets IPv6 gets all ways anew: {steps:?}"
        );
    }
}

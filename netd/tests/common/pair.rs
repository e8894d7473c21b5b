//! Two nodes with a container each, which may go directly: 10.7.0.11 and fd00:7::11 on the first, 10.7.0.12 and fd00:7::12
//! on the second.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::Arc;

use netd::{Member, MemberAttachment, Netd, NetworkConfig, Overlay, OverlayMode, Underlay};

use super::netlink::{DirectRoute, LinkAddress, Proxy, Socket};
use super::nodes::{Node, Nodes};
use super::{Box, request};

pub const NETWORK: &str = "net";

pub struct Pair {
    pub nodes: Nodes,
    pub netds: Vec<Arc<Netd>>,
    pub boxes: Vec<Box>,
}

impl Pair {
    /// Nodes that know each other by IPv4.
    pub fn new(config: &NetworkConfig) -> Self {
        Self::with_underlay(config, Nodes::underlay)
    }

    pub fn with_underlay(config: &NetworkConfig, underlay: impl Fn(&Nodes, u8) -> Underlay) -> Self {
        let nodes = Nodes::new(2);
        let netds: Vec<_> = nodes.nodes.iter().map(Node::open).collect();
        let attach = |(node, netd): (&Node, &Arc<Netd>)| {
            node.wait(netd.ensure_network(config)).unwrap();
            let mut wanted = request(&format!("box{}", node.number), &[NETWORK]);
            wanted.endpoints[0].ipv4 = Some(container(node.number));
            wanted.endpoints[0].ipv6 = config.subnet6.map(|_| container6(node.number));
            Box::new(node.wait(netd.attach(wanted)).unwrap())
        };
        let boxes = nodes.nodes.iter().zip(&netds).map(attach).collect();
        let pair = Self { nodes, netds, boxes };
        for number in [1, 2] {
            let (node, netd) = (pair.node(number), pair.netd(number));
            let underlay = underlay(&pair.nodes, number);
            node.wait(netd.set_underlay(Some(underlay))).unwrap();
            let others = vec![member(3 - number, config)];
            node.wait(netd.set_members(others)).unwrap();
        }
        pair
    }

    pub fn node(&self, number: u8) -> &Node {
        &self.nodes.nodes[usize::from(number) - 1]
    }

    pub fn netd(&self, number: u8) -> &Netd {
        &self.netds[usize::from(number) - 1]
    }

    /// The addresses of the other one's container to which a node sends packets straight there.
    pub fn directly(&self, number: u8) -> Vec<IpAddr> {
        direct_routes(&self.node(number).fabric())
    }

    /// Whether the first node sends packets for the second's container straight there.
    pub fn is_direct(&self) -> bool {
        !self.directly(1).is_empty()
    }

    /// How the network spans the nodes is another from now on.
    pub fn switch(&self, config: &NetworkConfig) {
        for number in [1, 2] {
            let switched = self.netd(number).ensure_network(config);
            self.node(number).wait(switched).unwrap();
        }
    }

    /// Whether packets of calls pass neither node's fabric but straight from one end of its links to the other.
    pub fn is_short(&self, call: impl Fn()) -> bool {
        let sent = || [1, 2].map(|number| sent(&self.node(number).fabric()));
        let before = sent();
        (0..20).for_each(|_| call());
        // Each call takes several packets each way; nodes ask each other meanwhile.
        let few = |(before, after)| after - before < 20;
        before.into_iter().zip(sent()).all(few)
    }

    pub fn nft(&self, number: u8, rules: &str) {
        let run = || Command::new("nft").arg(rules).status().unwrap();
        let status = sys::netns::run_in(&self.node(number).host, run).unwrap();
        assert!(status.success(), "{rules}");
    }

    /// No encapsulated packet arrives at any node from now on.
    pub fn drop_vxlan(&self) {
        let rules = "table inet vxlan { chain in { type filter hook prerouting priority -400; udp dport 4789 drop\n }\n }";
        [1, 2].into_iter().for_each(|number| self.nft(number, rules));
    }

    /// Everything that is there because of the direct way, on both nodes.
    pub fn traces(&self) -> Vec<String> {
        let mut traces = Vec::new();
        for node in &self.nodes.nodes {
            let (host, fabric) = (&node.host, node.fabric());
            traces.extend(
                direct_routes(host)
                    .iter()
                    .map(|to| format!("host's route to {to}")),
            );
            traces.extend(
                direct_routes(&fabric)
                    .iter()
                    .map(|to| format!("fabric's route to {to}")),
            );
            traces.extend(probes(&fabric).iter().map(|own| format!("probe address {own}")));
            traces.extend(admitted(host).iter().map(|who| format!("host admits {who}")));
            traces.extend(admitted(&fabric).iter().map(|who| format!("fabric admits {who}")));
            if proxies(&fabric) > 0 {
                traces.push("the fabric answers for neighbours".to_owned());
            }
        }
        traces
    }
}

pub fn container(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 7, 0, 10 + number)
}

pub fn container6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 7, 0, 0, 0, 0, 0, 0x10 + u16::from(number))
}

pub fn member(number: u8, config: &NetworkConfig) -> Member {
    let v6 = config.subnet6.map(|_| container6(number).into());
    let on = MemberAttachment {
        network: NETWORK.into(),
        addresses: [container(number).into()].into_iter().chain(v6).collect(),
        ..MemberAttachment::default()
    };
    Member {
        id: format!("task{number}"),
        node: format!("n{number}"),
        attachments: vec![on],
    }
}

pub fn config(mode: OverlayMode) -> NetworkConfig {
    NetworkConfig {
        id: NETWORK.into(),
        name: NETWORK.into(),
        subnet: Some("10.7.0.0/24".parse().unwrap()),
        overlay: Some(Overlay {
            vni: 4200,
            mode,
            ..Overlay::default()
        }),
        ..NetworkConfig::default()
    }
}

/// The same with IPv6.
pub fn dual(mode: OverlayMode) -> NetworkConfig {
    NetworkConfig {
        ipv6: true,
        subnet6: Some("fd00:7::/64".parse().unwrap()),
        ..config(mode)
    }
}

/// Addresses of other nodes' containers, and of probes, that this namespace routes.
pub fn direct_routes(namespace: &OwnedFd) -> Vec<IpAddr> {
    let list = || DirectRoute::list(&mut Socket::route().unwrap()).unwrap();
    let routes = sys::netns::run_in(namespace, list).unwrap().into_iter();
    routes.map(|route| route.to).collect()
}

/// Packets that a fabric has sent by all its links.
fn sent(fabric: &OwnedFd) -> u64 {
    let read = || std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let text = sys::netns::run_in(fabric, read).unwrap();
    let links = text.lines().filter_map(|line| line.trim().split_once(':'));
    let passed = links.filter(|(name, _)| *name != "lo");
    // Eight numbers of what came in, and then those of what went out.
    let packets = passed.map(|(_, numbers)| numbers.split_whitespace().nth(9).unwrap());
    packets.map(|packets| packets.parse::<u64>().unwrap()).sum()
}

pub fn proxies(namespace: &OwnedFd) -> usize {
    let list = || Proxy::list(&mut Socket::route().unwrap()).unwrap();
    sys::netns::run_in(namespace, list).unwrap().len()
}

/// Addresses of the loopback link that are not those of every loopback link.
fn probes(fabric: &OwnedFd) -> Vec<IpAddr> {
    let list = || LinkAddress::list(&mut Socket::route().unwrap()).unwrap();
    let all = sys::netns::run_in(fabric, list).unwrap().into_iter();
    let own = all.filter(|one| one.link == 1 && !one.address.is_loopback());
    own.map(|one| one.address).collect()
}

/// Elements of the sets of addresses that are let in.
fn admitted(namespace: &OwnedFd) -> BTreeSet<String> {
    let run = || Command::new("nft").args(["list", "sets"]).output().unwrap();
    let output = sys::netns::run_in(namespace, run).unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let sets = text.split("set ").filter(|set| set.starts_with("direct "));
    let elements = sets.filter_map(|set| set.split_once("elements = {")?.1.split_once('}'));
    let words = elements.flat_map(|(elements, _)| elements.split([',', ' ', '\n', '\t']));
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

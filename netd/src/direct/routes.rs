//! What the direct way takes: routes in the host and in the fabric, this node's probe address, and whose packets are let in.
//! Plain data, for one IP version.
//!
//! In the host: every container that *might* be reached directly has a route to its node, and what comes from there is let
//! in, so that the two nodes need not decide in the same moment, and strict reverse path filters see what they expect. In the
//! fabric: those of nodes that have answered are led to the host, and the fabric answers for them on their network.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::View;
use crate::firewall::Admitted;
use crate::nft::Ip;

/// The next one on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hop {
    pub(crate) via: IpAddr,
    /// Index of the link.
    pub(crate) link: u32,
}

/// A node that is reached without a router in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Near {
    /// Its underlay address.
    pub(crate) underlay: IpAddr,
    /// Of the host. Its address may be of the other version, or the link's alone.
    pub(crate) hop: Hop,
}

/// A container of another node, on a network whose packets may go directly.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Container<'a> {
    pub(crate) node: &'a str,
    pub(crate) address: IpAddr,
    /// Index of its network's bridge.
    pub(crate) bridge: u32,
}

/// All that there is in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Routes {
    /// The host's, also that to this node's own probe address.
    pub(crate) outside: BTreeMap<IpAddr, Hop>,
    /// This node's probe address: the fabric has it.
    pub(crate) own: Option<IpAddr>,
    /// Let in, and not tracked, in both namespaces.
    pub(crate) admitted: Admitted,
    /// The fabric's, with the index of the bridge on which it answers.
    pub(crate) inside: BTreeMap<IpAddr, u32>,
}

/// What is known when it is planned.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Situation<'a> {
    pub(crate) ip: Ip,
    /// This node's underlay address.
    pub(crate) underlay: IpAddr,
    /// From the host to the fabric.
    pub(crate) home: Hop,
    pub(crate) near: &'a BTreeMap<String, Near>,
    /// Nodes that have answered.
    pub(crate) found: &'a BTreeSet<String>,
    /// Those with addresses of the other version do not matter.
    pub(crate) containers: &'a [Container<'a>],
}

impl Situation<'_> {
    /// Whom to ask, and which routes there shall be.
    pub(crate) fn plan(&self) -> (View, Routes) {
        let containers = self.containers.iter();
        let containers: Vec<_> = containers.filter(|c| Ip::of(c.address) == self.ip).collect();
        let concerned: BTreeSet<&str> = containers.iter().map(|container| container.node).collect();
        let asked = self
            .near
            .iter()
            .filter(|(node, _)| concerned.contains(node.as_str()));
        let view = View::new(
            self.ip,
            self.underlay,
            asked.map(|(node, near)| (node.clone(), near.underlay)),
        );
        let mut routes = Routes::default();
        let hop = |node: &str| self.near.get(node).map(|near| near.hop);
        for (node, probe) in &view.nodes {
            routes.outside.extend(hop(node).map(|hop| (*probe, hop)));
            routes.admitted.insert(*probe, None);
        }
        for container in containers {
            let asked = view.nodes.contains_key(container.node);
            let Some(hop) = hop(container.node).filter(|_| asked) else {
                continue;
            };
            routes.outside.insert(container.address, hop);
            routes.admitted.insert(container.address, Some(container.bridge));
            if self.found.contains(container.node) {
                routes.inside.insert(container.address, container.bridge);
            }
        }
        routes.own = view.own.filter(|_| !view.nodes.is_empty());
        routes.outside.extend(routes.own.map(|own| (own, self.home)));
        (view, routes)
    }
}

/// What is to go, and what is to come.
pub(crate) fn difference<'a, T: PartialEq>(
    present: &'a BTreeMap<IpAddr, T>,
    wanted: &'a BTreeMap<IpAddr, T>,
) -> (
    impl Iterator<Item = (&'a IpAddr, &'a T)>,
    impl Iterator<Item = (&'a IpAddr, &'a T)>,
) {
    let gone = present
        .iter()
        .filter(|(address, value)| wanted.get(address) != Some(value));
    let new = wanted
        .iter()
        .filter(|(address, value)| present.get(address) != Some(value));
    (gone, new)
}

#[cfg(test)]
mod tests {
    use super::super::probe_address;
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn hop(via: &str, link: u32) -> Hop {
        Hop {
            via: address(via),
            link,
        }
    }

    fn near(nodes: &[(&str, &str, &str)]) -> BTreeMap<String, Near> {
        let near = |(node, underlay, via): &(&str, &str, &str)| {
            let near = Near {
                underlay: address(underlay),
                hop: hop(via, 2),
            };
            ((*node).to_owned(), near)
        };
        nodes.iter().map(near).collect()
    }

    fn container(node: &'static str, text: &str) -> Container<'static> {
        Container {
            node,
            address: address(text),
            bridge: 5,
        }
    }

    /// The plan of the node at 192.0.2.1.
    fn plan(ip: Ip, near: &BTreeMap<String, Near>, found: &[&str], all: &[Container<'_>]) -> (View, Routes) {
        let home = match ip {
            Ip::V4 => hop("169.254.100.2", 9),
            Ip::V6 => hop("fd01::2", 9),
        };
        let situation = Situation {
            ip,
            underlay: address("192.0.2.1"),
            home,
            near,
            found: &found.iter().map(|node| (*node).to_owned()).collect(),
            containers: all,
        };
        situation.plan()
    }

    #[test]
    fn each_version_has_the_routes_of_its_own_addresses() {
        let containers = [container("b", "10.7.0.12"), container("b", "fd00:7::12")];
        let v4 = near(&[("b", "192.0.2.2", "192.0.2.2")]);
        let v6 = near(&[("b", "192.0.2.2", "fe80::2")]);
        for (ip, near, task, other, via) in [
            (Ip::V4, &v4, "10.7.0.12", "fd00:7::12", "192.0.2.2"),
            (Ip::V6, &v6, "fd00:7::12", "10.7.0.12", "fe80::2"),
        ] {
            let (view, routes) = plan(ip, near, &["b"], &containers);
            let probe = probe_address(ip, address("192.0.2.2"));
            assert_eq!(view.nodes, BTreeMap::from([("b".to_owned(), probe)]));
            assert_eq!(routes.outside[&address(task)], hop(via, 2));
            assert_eq!(routes.outside[&probe], hop(via, 2));
            assert_eq!(routes.outside[&view.own.unwrap()].link, 9, "at home");
            assert_eq!(routes.inside, BTreeMap::from([(address(task), 5)]));
            assert_eq!(
                routes.admitted,
                Admitted::from([(address(task), Some(5)), (probe, None)]),
                "a container with its network"
            );
            assert_eq!(routes.own, view.own);
            assert!(!routes.outside.contains_key(&address(other)));
        }
    }

    #[test]
    fn who_has_not_answered_may_send_but_is_sent_nothing() {
        let near = near(&[("b", "192.0.2.2", "fe80::2"), ("c", "192.0.2.3", "fe80::3")]);
        let containers = [container("b", "fd00:7::12"), container("c", "fd00:7::13")];
        let (_, routes) = plan(Ip::V6, &near, &["c"], &containers);
        assert_eq!(routes.inside, BTreeMap::from([(address("fd00:7::13"), 5)]));
        assert!(routes.outside.contains_key(&address("fd00:7::12")));
        assert_eq!(routes.admitted[&address("fd00:7::12")], Some(5));
    }

    #[test]
    fn nothing_is_there_for_nobody() {
        let near = near(&[("b", "192.0.2.2", "fe80::2")]);
        let far = [container("z", "fd00:7::12")];
        let v4 = [container("b", "10.7.0.12")];
        for containers in [&[][..], &far, &v4] {
            let (view, routes) = plan(Ip::V6, &near, &["b", "z"], containers);
            assert!(view.nodes.is_empty());
            assert_eq!(routes, Routes::default());
        }
    }

    #[test]
    fn ipv4_has_an_ipv6_hop_between_nodes_of_ipv6() {
        let near = near(&[("b", "2001:db8::2", "2001:db8::2")]);
        let (_, routes) = plan(Ip::V4, &near, &["b"], &[container("b", "10.7.0.12")]);
        assert_eq!(routes.outside[&address("10.7.0.12")], hop("2001:db8::2", 2));
        assert!(routes.own.unwrap().is_ipv4());
    }

    #[test]
    fn another_hop_is_gone_and_new() {
        let before = BTreeMap::from([(address("fd00::1"), 1), (address("fd00::2"), 1)]);
        let after = BTreeMap::from([(address("fd00::1"), 2), (address("fd00::3"), 1)]);
        let (gone, new) = difference(&before, &after);
        let names =
            |all: Vec<(&IpAddr, &i32)>| -> Vec<_> { all.iter().map(|(a, v)| format!("{a} {v}")).collect() };
        assert_eq!(names(gone.collect()), ["fd00::1 1", "fd00::2 1"]);
        assert_eq!(names(new.collect()), ["fd00::1 2", "fd00::3 1"]);
    }
}

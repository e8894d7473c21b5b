//! IPv6 between containers of several nodes without encapsulation, and IPv4 between nodes that know each other by IPv6.

mod common;
/// The netlink module is compiled into the tests as well, to build their world.
mod types {
    pub(crate) use netd::Mac;
}

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Command;

use common::cluster::flush;
use common::nodes::Nodes;
use common::pair::{Pair, config, container, container6, direct_routes, dual, member};
use common::{Box, call, eventually, request, world};
use netd::{NetworkConfig, Overlay, OverlayMode};

/// Drops what has a container's, or a probe's, IPv6 address, as a cloud does that knows its machines' alone.
const CLOSED6: &str = "table ip6 cloud { chain in { type filter hook prerouting priority -400;\n\
     iifname eth0 ip6 saddr fd00::/8 drop\n }\n }";

fn both(number: u8) -> BTreeSet<IpAddr> {
    [container(number).into(), container6(number).into()].into()
}

fn all_direct(pair: &Pair) -> bool {
    let sent = |number| pair.directly(number).into_iter().collect::<BTreeSet<_>>();
    sent(1) == both(2) && sent(2) == both(1)
}

fn ip(namespace: &std::os::fd::OwnedFd, words: &str) {
    let run = || Command::new("ip").args(words.split(' ')).status().unwrap();
    assert!(
        sys::netns::run_in(namespace, run).unwrap().success(),
        "ip {words}"
    );
}

/// The first node's container calls the second's at both its addresses, and is seen as itself.
fn calls(pair: &Pair) {
    for (to, from) in both(2).into_iter().zip(both(1)) {
        assert_eq!(pair.boxes[0].call(to, 80).unwrap(), format!("two {from}"));
    }
}

#[test]
fn both_versions_go_directly_and_nothing_stays_of_it() {
    world(|_| {
        let mut pair = Pair::new(&dual(OverlayMode::Auto));
        let _two = pair.boxes[1].serve(80, "two");
        eventually("the nodes have found each other", || all_direct(&pair));
        pair.drop_vxlan();
        calls(&pair);
        // A reopened node keeps its routes, so that nothing that is under way is lost.
        let before = direct_routes(&pair.node(1).host);
        pair.node(1).wait(pair.netd(1).shutdown(false)).unwrap();
        drop(pair.netds.remove(0));
        pair.netds.insert(0, pair.node(1).open());
        assert_eq!(direct_routes(&pair.node(1).host), before);
        assert!(all_direct(&pair));
        calls(&pair);
        for number in [1, 2] {
            let gone = pair
                .netd(number)
                .remove_members([format!("task{}", 3 - number)].into());
            pair.node(number).wait(gone).unwrap();
        }
        assert_eq!(pair.traces(), [""; 0]);
    });
}

#[test]
fn networks_that_go_directly_do_not_meet() {
    world(|_| {
        let mut pair = Pair::new(&dual(OverlayMode::Auto));
        let other = other_network(&pair);
        let _servers = [pair.boxes[1].serve(80, "two"), other[1].serve(80, "other")];
        let far = |which: &Box| -> Vec<IpAddr> {
            let on = &which.sandbox.endpoints[0];
            vec![on.ipv4.into(), on.ipv6.unwrap().address.into()]
        };
        let all = far(&pair.boxes[1]).len() + far(&other[1]).len();
        let apart = |pair: &Pair| {
            eventually("both networks go directly", || {
                [1, 2].iter().all(|number| pair.directly(*number).len() == all)
            });
            // By the filters' rules, and by those of the shorter way.
            for sent in [&pair.boxes, &other] {
                let to = sent[1].address();
                eventually("the shorter way is taken", || {
                    pair.is_short(|| drop(sent[0].call(to, 80).unwrap()))
                });
            }
            for (own, foreign) in [(&pair.boxes, &other), (&other, &pair.boxes)] {
                for (near, beyond) in far(&own[1]).into_iter().zip(far(&foreign[1])) {
                    let answer = own[0].call(near, 80);
                    assert!(answer.is_ok(), "{near}: {answer:?}");
                    let answer = own[0].call(beyond, 80);
                    assert!(answer.is_err(), "{beyond}: {answer:?}");
                }
            }
        };
        pair.drop_vxlan();
        apart(&pair);
        // The same of rules that are written anew, and of those that the next process finds.
        sys::netns::run_in(pair.node(2).fabric(), flush).unwrap();
        eventually("the rules are back", || {
            pair.boxes[0].call(container6(2), 80).is_ok()
        });
        pair.node(1).wait(pair.netd(1).shutdown(false)).unwrap();
        drop(pair.netds.remove(0));
        pair.netds.insert(0, pair.node(1).open());
        apart(&pair);
    });
}

/// A second network of the pair's nodes, with a container on each.
fn other_network(pair: &Pair) -> Vec<Box> {
    let config = NetworkConfig {
        id: "other".into(),
        name: "other".into(),
        subnet: Some("10.8.0.0/24".parse().unwrap()),
        subnet6: Some("fd00:8::/64".parse().unwrap()),
        overlay: Some(Overlay {
            vni: 4201,
            ..Overlay::default()
        }),
        ..dual(OverlayMode::Auto)
    };
    let addresses = |number: u8| (Ipv4Addr::new(10, 8, 0, number), ipv6(number));
    let attach = |number: u8| {
        let (node, netd) = (pair.node(number), pair.netd(number));
        node.wait(netd.ensure_network(&config)).unwrap();
        let mut wanted = request(&format!("other{number}"), &["other"]);
        let (v4, v6) = addresses(number + 10);
        (wanted.endpoints[0].ipv4, wanted.endpoints[0].ipv6) = (Some(v4), Some(v6));
        let sandbox = node.wait(netd.attach(wanted)).unwrap();
        let (v4, v6) = addresses(13 - number);
        let mut there = member(3 - number, &config);
        there.id = format!("other{}", 3 - number);
        there.attachments[0].network = "other".into();
        there.attachments[0].addresses = vec![v4.into(), v6.into()];
        let members = vec![member(3 - number, &config), there];
        node.wait(netd.set_members(members)).unwrap();
        Box::new(sandbox)
    };
    [1, 2].map(attach).into()
}

fn ipv6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 8, 0, 0, 0, 0, 0, number.into())
}

#[test]
fn an_ipv6_way_that_is_closed_is_not_taken_and_ipv4_does_not_mind() {
    world(|_| {
        let pair = Pair::new(&dual(OverlayMode::Auto));
        let _two = pair.boxes[1].serve(80, "two");
        eventually("the nodes have found each other", || all_direct(&pair));
        pair.nft(2, CLOSED6);
        let v4 = [IpAddr::from(container(2))];
        eventually("the way of IPv6 is given up", || pair.directly(1) == v4);
        eventually("packets are encapsulated instead", || {
            pair.boxes[0].call(container6(2), 80).is_ok()
        });
        calls(&pair);
        pair.nft(2, "delete table ip6 cloud");
        eventually("and taken again", || all_direct(&pair));
        pair.drop_vxlan();
        eventually("by connections, too", || {
            pair.boxes[0].call(container6(2), 80).is_ok()
        });
    });
}

#[test]
fn a_host_that_does_not_forward_ipv6_is_sent_none() {
    world(|_| {
        let without = |nodes: &Nodes, number| {
            let forward = |on: &str| fs::write("/proc/sys/net/ipv6/conf/all/forwarding", on).unwrap();
            sys::netns::run_in(&nodes.nodes[0].host, || forward("0")).unwrap();
            let mut underlay = nodes.underlay(number);
            // As the first node says of itself.
            underlay
                .peers
                .iter_mut()
                .filter(|peer| peer.node == "n1")
                .for_each(|peer| peer.next_hop6 = None);
            underlay
        };
        let pair = Pair::with_underlay(&dual(OverlayMode::Auto), without);
        let _two = pair.boxes[1].serve(80, "two");
        let v4 = |number| [IpAddr::from(container(number))];
        eventually("IPv4 is found", || {
            pair.directly(1) == v4(2) && pair.directly(2) == v4(1)
        });
        for number in [1, 2] {
            let routes = direct_routes(&pair.node(number).host);
            assert!(routes.iter().all(IpAddr::is_ipv4), "nobody even asks: {routes:?}");
        }
        calls(&pair);
        let facts = pair.netd(1).underlay_facts(pair.node(1).address().into());
        assert_eq!(pair.node(1).wait(facts).unwrap().unwrap().next_hop6, None);
        let facts = pair.netd(2).underlay_facts(pair.node(2).address().into());
        let said = pair.node(2).wait(facts).unwrap().unwrap().next_hop6;
        assert_eq!(said, Some(pair.node(2).link_local()));
    });
}

#[test]
fn nodes_with_ipv6_addresses_alone_go_directly_with_both_versions() {
    world(|_| {
        let underlay = |nodes: &Nodes, number: u8| {
            let node = &nodes.nodes[usize::from(number) - 1];
            ip(&node.host, "-4 address flush dev eth0");
            nodes.underlay6(number)
        };
        let pair = Pair::with_underlay(&dual(OverlayMode::Auto), underlay);
        let _two = pair.boxes[1].serve(80, "two");
        eventually("the nodes have found each other", || all_direct(&pair));
        pair.drop_vxlan();
        calls(&pair);
        for number in [1, 2] {
            pair.node(number)
                .wait(pair.netd(number).set_underlay(None))
                .unwrap();
        }
        assert_eq!(pair.traces(), [""; 0], "who leaves the cluster leaves nothing");
    });
}

#[test]
fn what_somebody_deletes_returns() {
    world(|_| {
        let pair = Pair::with_underlay(&dual(OverlayMode::Auto), Nodes::underlay6);
        let _two = pair.boxes[1].serve(80, "two");
        eventually("the nodes have found each other", || all_direct(&pair));
        let whole = |pair: &Pair| pair.traces().into_iter().collect::<BTreeSet<_>>();
        let before = whole(&pair);
        let (host, fabric) = (&pair.node(1).host, pair.node(1).fabric());
        for namespace in [host, &fabric] {
            for version in ["-4", "-6"] {
                ip(namespace, &format!("{version} route flush proto 83"));
            }
            sys::netns::run_in(namespace, flush).unwrap();
        }
        eventually("all is there again", || whole(&pair) == before);
        for probes in ["240.0.0.0/4", "fd00::/8"] {
            ip(&fabric, &format!("address flush dev lo to {probes}"));
        }
        eventually("all is there again", || whole(&pair) == before);
        pair.drop_vxlan();
        calls(&pair);
    });
}

#[test]
fn what_is_switched_off_goes_by_vxlan_at_once_and_leaves_nothing() {
    world(|_| {
        let pair = Pair::new(&dual(OverlayMode::Auto));
        let _two = pair.boxes[1].serve(80, "two");
        eventually("the nodes have found each other", || all_direct(&pair));
        calls(&pair);
        pair.switch(&dual(OverlayMode::Vxlan));
        assert_eq!(pair.traces(), [""; 0]);
        calls(&pair);
        for config in [dual(OverlayMode::Vxlan), internal()] {
            let pair = Pair::new(&config);
            assert_eq!(pair.traces(), [""; 0], "{config:?}");
        }
    });
}

fn internal() -> NetworkConfig {
    NetworkConfig {
        internal: true,
        ..dual(OverlayMode::Auto)
    }
}

#[test]
fn a_network_without_ipv6_has_no_ipv6_way() {
    world(|_| {
        let pair = Pair::new(&config(OverlayMode::Auto));
        eventually("the nodes have found each other", || pair.is_direct());
        let six: Vec<_> = pair
            .traces()
            .into_iter()
            .filter(|trace| trace.contains("::"))
            .collect();
        assert_eq!(six, [""; 0]);
    });
}

#[test]
fn strangers_do_not_come_in_by_the_direct_way_of_ipv6() {
    world(|_| {
        let pair = Pair::new(&dual(OverlayMode::Auto));
        let _one = pair.boxes[0].serve(80, "one");
        eventually("the nodes have found each other", || all_direct(&pair));
        // Beside the nodes, with a route to their containers.
        let via = pair.node(1).address6();
        ip(&pair.nodes.client, &format!("-6 route add fd00:7::/64 via {via}"));
        assert!(call(&pair.nodes.client, container6(1), 80).is_err());
    });
}

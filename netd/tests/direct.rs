//! Containers of other nodes without encapsulation: where it works, and only as long as it does.

mod common;
/// The netlink module is compiled into the tests as well, to build their world.
mod types {
    pub(crate) use netd::Mac;
}

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;
use std::process::Command;

use common::nodes::Nodes;
use common::pair::{Pair, config, container, direct_routes, member, proxies};
use common::{call, eventually, world};
use netd::{Mac, NetworkConfig, OverlayMode};

#[test]
fn neighbours_are_reached_directly_and_see_each_others_addresses() {
    world(|_| {
        let mut pair = Pair::new(&config(OverlayMode::Auto));
        let _one = pair.boxes[0].serve(80, "one");
        let _two = pair.boxes[1].serve(80, "two");
        eventually("the nodes have found each other", || pair.is_direct());
        eventually("the second one has, too", || !pair.directly(2).is_empty());
        let answer = pair.boxes[0].call(container(2), 80).unwrap();
        assert_eq!(answer, format!("two {}", container(1)), "nobody translates");
        assert_eq!(
            pair.boxes[1].call(container(1), 80).unwrap(),
            format!("one {}", container(2))
        );
        // A reopened node keeps its routes, so that nothing that is under way is lost.
        let (before, fabric) = (direct_routes(&pair.node(1).host), pair.node(1).fabric());
        pair.node(1).wait(pair.netds[0].shutdown(false)).unwrap();
        drop(pair.netds.remove(0));
        let again = pair.node(1).open();
        assert_eq!(direct_routes(&pair.node(1).host), before);
        assert_eq!(
            (direct_routes(&fabric), proxies(&fabric)),
            (vec![IpAddr::from(container(2))], 1)
        );
        assert_eq!(
            pair.boxes[0].call(container(2), 80).unwrap(),
            format!("two {}", container(1))
        );
        // Whoever leaves the cluster has no way to it any more.
        pair.node(1)
            .wait(again.remove_members(["task2".to_owned()].into()))
            .unwrap();
        assert!(
            direct_routes(&pair.node(1).host).is_empty(),
            "neither containers nor probes"
        );
        assert!(direct_routes(&fabric).is_empty());
        assert_eq!(proxies(&fabric), 0);
    });
}

#[test]
fn a_way_that_does_not_carry_containers_packets_is_not_taken() {
    world(|_| {
        let pair = Pair::new(&config(OverlayMode::Auto));
        eventually("the nodes have found each other", || pair.is_direct());
        // As a cloud does that knows no addresses but its machines'.
        let cloud = "table ip cloud { chain in { type filter hook prerouting priority -400;\n\
                 iifname eth0 ip saddr != 192.0.2.0/24 drop\n }\n }";
        pair.nft(2, cloud);
        eventually("the way is given up", || !pair.is_direct());
        pair.nft(2, "delete table ip cloud");
        eventually("and taken again", || pair.is_direct());
    });
}

/// What the first node's container has found out about the second's: its hardware address.
fn learned(pair: &Pair) -> Option<String> {
    let ask = || {
        Command::new("ip")
            .args(["neigh", "show", &container(2).to_string()])
            .output()
            .unwrap()
    };
    let output = sys::netns::run_in(&pair.boxes[0].netns, ask).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut words = text.split_whitespace().skip_while(|word| *word != "lladdr");
    words.nth(1).map(str::to_owned)
}

#[test]
fn containers_take_the_shorter_way_as_soon_as_it_is_found() {
    world(|_| {
        let pair = Pair::new(&config(OverlayMode::Auto));
        let _two = pair.boxes[1].serve(80, "two");
        eventually("the nodes have found each other", || pair.is_direct());
        let closed = "table ip closed { chain in { type filter hook prerouting priority -400;\n\
                 iifname eth0 ip saddr != 192.0.2.0/24 drop\n }\n }";
        pair.nft(2, closed);
        eventually("the way is given up", || !pair.is_direct());
        let own = Mac::from_ipv4(container(2)).to_string();
        let gateway = Mac::from_ipv4(Ipv4Addr::new(10, 7, 0, 1)).to_string();
        eventually("the container is spoken to by its own address", || {
            pair.boxes[0].call(container(2), 80).is_ok() && learned(&pair) == Some(own.clone())
        });
        pair.nft(2, "delete table ip closed");
        eventually("the way is taken again", || pair.is_direct());
        eventually("the gateway is spoken to instead", || {
            pair.boxes[0].call(container(2), 80).is_ok() && learned(&pair) == Some(gateway.clone())
        });
    });
}

#[test]
fn neighbours_are_told_of_at_once_and_asked_for_again_soon() {
    world(|_| {
        let pair = Pair::new(&config(OverlayMode::Auto));
        let read = |namespace: &OwnedFd, link: &str, name: &str| {
            let path = format!("/proc/sys/net/ipv4/neigh/{link}/{name}");
            let read = || fs::read_to_string(&path).unwrap();
            sys::netns::run_in(namespace, read).unwrap().trim().to_owned()
        };
        let (_, state) = pair.netds[0].networks().remove(0);
        assert_eq!(read(&pair.node(1).fabric(), &state.bridge, "proxy_delay"), "0");
        assert_eq!(read(&pair.boxes[0].netns, "eth0", "retrans_time_ms"), "100");
    });
}

#[test]
fn only_networks_that_may_go_directly_do() {
    world(|_| {
        for config in [
            config(OverlayMode::Vxlan),
            NetworkConfig {
                internal: true,
                ..config(OverlayMode::Auto)
            },
            NetworkConfig {
                overlay: None,
                ..config(OverlayMode::Auto)
            },
        ] {
            let pair = Pair::new(&config);
            // What is not even asked is not found: no probe address is there.
            assert!(direct_routes(&pair.node(1).host).is_empty(), "{config:?}");
        }
        let deaf = Nodes::new(2);
        let netd = deaf.nodes[0].open();
        let node = &deaf.nodes[0];
        node.wait(netd.ensure_network(&config(OverlayMode::Auto)))
            .unwrap();
        sys::netns::run_in(&node.host, || {
            fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap()
        })
        .unwrap();
        node.wait(netd.set_underlay(Some(deaf.underlay(1)))).unwrap();
        node.wait(netd.set_members(vec![member(2, &config(OverlayMode::Auto))]))
            .unwrap();
        assert!(
            direct_routes(&node.host).is_empty(),
            "a host that does not forward"
        );
    });
}

#[test]
fn strangers_do_not_come_in_by_the_direct_way() {
    world(|_| {
        let pair = Pair::new(&config(OverlayMode::Auto));
        let _one = pair.boxes[0].serve(80, "one");
        eventually("the nodes have found each other", || pair.is_direct());
        // Beside the nodes, with a route to their containers.
        let via = pair.node(1).address();
        sys::netns::run_in(&pair.nodes.client, || {
            let status = Command::new("ip")
                .args(["route", "add", "10.7.0.0/24", "via", &via.to_string()])
                .status();
            assert!(status.unwrap().success());
        })
        .unwrap();
        assert!(call(&pair.nodes.client, container(1), 80).is_err());
    });
}

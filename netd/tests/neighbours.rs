//! First packets: whoever is told of a container reaches it, and is not left to ask again and again.

mod common;
/// The netlink module is compiled into the tests as well, to build their world.
mod types {
    pub(crate) use netd::Mac;
}

use std::net::Ipv6Addr;
use std::os::fd::{AsFd, OwnedFd};

use common::netlink::{Link, LinkAddress, LinkChange, Socket, Veth};
use common::{Box, request, world};
use netd::NetworkConfig;

/// A namespace in which the kernel has so many new IPv6 addresses to see to. It does so from a queue that all namespaces
/// of the machine share.
fn crowd(count: u16) -> OwnedFd {
    let (netns, ()) = sys::netns::create(|| ()).unwrap();
    let (far, ()) = sys::netns::create(|| ()).unwrap();
    sys::netns::run_in(&netns, || {
        let mut socket = Socket::route().unwrap();
        let veth = Veth {
            name: "crowded",
            master: None,
            mtu: 1500,
            peer: "eth0",
            peer_netns: far.as_fd(),
            peer_mac: None,
        };
        socket.request(veth.create()).unwrap();
        let up = LinkChange {
            up: true,
            ..LinkChange::default()
        };
        socket.request(Link::change("crowded", &up)).unwrap();
        let up_far = || {
            Socket::route()
                .unwrap()
                .request(Link::change("eth0", &up))
                .unwrap()
        };
        sys::netns::run_in(&far, up_far).unwrap();
        let index = Link::find(&mut socket, "crowded").unwrap().unwrap().index;
        let address = |n| Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, n);
        let all: Vec<_> = (1..=count)
            .map(|n| LinkAddress::add6(index, address(n), 128))
            .collect();
        assert!(socket.bulk(&all).unwrap().is_empty());
    })
    .unwrap();
    netns
}

/// Whether others find the address: its namespace hears who asks for it (RFC 4291, section 2.7.1).
fn is_found(netns: &OwnedFd, address: Ipv6Addr) -> bool {
    let [.., a, b, c] = address.octets();
    let group = format!("ff0200000000000000000001ff{a:02x}{b:02x}{c:02x}");
    let groups = || std::fs::read_to_string("/proc/thread-self/net/igmp6").unwrap();
    sys::netns::run_in(netns, groups).unwrap().contains(&group)
}

#[test]
fn an_ipv6_address_is_found_when_the_container_is_attached() {
    world(|w| {
        let netd = w.open();
        let config = NetworkConfig {
            id: "front".into(),
            name: "front".into(),
            ipv6: true,
            ..NetworkConfig::default()
        };
        w.wait(netd.ensure_network(&config)).unwrap();
        for n in 0..4 {
            let _crowd = crowd(2000);
            let attached = w.wait(netd.attach(request(&format!("a{n}"), &["front"])));
            let container = Box::new(attached.unwrap());
            assert!(is_found(&container.netns, container.address6()), "round {n}");
        }
    });
}

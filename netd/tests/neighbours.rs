//! First packets: whoever is told of a container reaches it, and is not left to ask again and again.

mod common;
/// The netlink module is compiled into the tests as well, to build their world.
mod types {
    pub(crate) use netd::Mac;
}

use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use common::cluster::{Cluster, Task};
use common::netlink::{Link, LinkAddress, LinkChange, Route, Socket, Veth};
use common::{Box, eventually, mesh, request, world};
use ipnet::Ipv4Net;
use netd::{NetworkConfig, OverlayMode};

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

/// Asks again only after a minute, so that whatever comes sooner has come by itself.
fn ask_once(container: &Box) {
    let set = || {
        for version in ["ipv4", "ipv6"] {
            let path = format!("/proc/sys/net/{version}/neigh/eth0/retrans_time_ms");
            std::fs::write(path, "60000").unwrap();
        }
    };
    sys::netns::run_in(&container.netns, set).unwrap();
}

/// A datagram is sent to a container of another node, of which nobody has heard here; then everybody is told of it.
fn arrives_when_told(from: &Box, to: &Box, address: IpAddr, tell: impl FnOnce()) {
    let bind = |netns: &OwnedFd, port| {
        let bind = || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap(); // and IPv4
        sys::netns::run_in(netns, bind).unwrap()
    };
    let (client, server) = (bind(&from.netns, 0), bind(&to.netns, 90));
    server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let to_v6 = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    client.send_to(b"early", (to_v6, 90)).unwrap();
    tell();
    let mut buffer = [0; 16];
    let heard = server.recv(&mut buffer).map(|n| buffer[..n].to_vec());
    assert_eq!(heard.unwrap(), b"early", "to {address}");
}

/// Whether the fabric leads straight to the task's node.
fn is_direct(fabric: &OwnedFd, task: &Task) -> bool {
    let list = || Route::<Ipv4Net>::list(&mut Socket::route().unwrap()).unwrap();
    let routes = sys::netns::run_in(fabric, list).unwrap();
    routes
        .iter()
        .any(|route| route.direct && route.destination.addr() == task.address())
}

#[test]
fn who_has_asked_for_a_task_too_early_is_answered_when_his_node_hears_of_it() {
    for mode in [OverlayMode::Vxlan, OverlayMode::Auto] {
        world(|w| {
            let cluster = Cluster::with_mode(w, &[1500, 1500], false, mode);
            let a = cluster.task(0, "a", "10.9.0.5");
            ask_once(&a);
            if mode == OverlayMode::Auto {
                let first = cluster.task(1, "first", "10.9.0.6");
                let fabric = cluster.nodes[0].fabric();
                eventually("the nodes find the direct way", || is_direct(&fabric, &first));
            }
            let b = cluster.start(1, "b", "10.9.0.7");
            arrives_when_told(&a, &b, b.address().into(), || cluster.announce(&b));
        });
    }
}

#[test]
fn the_same_over_ipv6() {
    world(|_| {
        let mesh = mesh::Mesh::new(2);
        let tasks = [mesh::Task::new(1, 5), mesh::Task::new(2, 6)];
        let [a, b] = [&tasks[0], &tasks[1]].map(|task| mesh.attach(task));
        mesh.publish_on(2, &tasks);
        ask_once(&a);
        arrives_when_told(&a, &b, b.address6().into(), || mesh.publish_on(1, &tasks));
    });
}

//! The routing mesh over IPv6, and over both IP versions for tasks that are on further networks.

mod common;
/// The netlink module is compiled into the tests as well, to build their world.
mod types {
    pub(crate) use netd::Mac;
}

use std::io;
use std::net::{Ipv6Addr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use common::mesh::{Mesh, NAMES, PATIENCE, Task, WEB, connect, say};
use common::netlink::{Detour, Link, MAIN, MarkRule, Neighbour, Socket};
use common::nodes::{CLIENT, CLIENT6, Node, PORT};
use common::{Box, call, call_udp, tally, world};

/// Over both IP versions, and TCP and UDP, at every node.
fn answers_everywhere(mesh: &Mesh, name: &str) {
    for node in &mesh.nodes.nodes {
        let number = node.number;
        let (v4, v6) = (format!("{name} {CLIENT}"), format!("{name} {CLIENT6}"));
        assert_eq!(mesh.call(number).unwrap(), v4, "node {number}");
        assert_eq!(mesh.call6(number).unwrap(), v6, "node {number}");
        assert_eq!(mesh.call_udp(number).unwrap(), v4, "node {number}");
        assert_eq!(mesh.call_udp6(number).unwrap(), v6, "node {number}");
    }
}

fn refused_everywhere(mesh: &Mesh, why: &str) {
    for node in &mesh.nodes.nodes {
        let refused = mesh.call6(node.number).unwrap_err().kind();
        assert_eq!(
            refused,
            io::ErrorKind::ConnectionRefused,
            "node {}: {why}",
            node.number
        );
    }
}

#[test]
fn a_port_answers_over_ipv6_on_every_node_and_the_task_sees_the_client() {
    world(|_| {
        let mesh = Mesh::new(3);
        let task = Task::new(1, 5);
        mesh.publish(&[]);
        refused_everywhere(&mesh, "no task");
        let a = mesh.attach(&task);
        let _servers = [a.serve(80, "web"), a.serve(53, "web")];
        mesh.publish(std::slice::from_ref(&task));
        answers_everywhere(&mesh, "web");

        let (far, near) = (mesh.node(2), mesh.node(1));
        let own = far.address6();
        assert_eq!(call(&far.host, own, WEB).unwrap(), format!("web {own}"), "itself");
        for node in [far, near] {
            let loopback = Ipv6Addr::LOCALHOST;
            assert!(call(&node.host, loopback, WEB).unwrap().starts_with("web "));
            assert!(call_udp(&node.host, loopback, NAMES).unwrap().starts_with("web "));
        }
        let answer = call(&near.host, own, WEB).unwrap();
        assert_eq!(answer, format!("web {}", near.address6()), "by the long way");
        let inside = mesh.container(2, "client", "front");
        assert!(inside.call(own, WEB).unwrap().starts_with("web "), "a container");
        assert!(a.call(own, WEB).unwrap().starts_with("web "), "the task itself");
        mesh.publish(&[]);
        refused_everywhere(&mesh, "withdrawn");
    });
}

#[test]
fn both_ip_versions_pass_between_nodes_that_speak_ipv6() {
    world(|_| {
        let mesh = Mesh::over_ipv6(3);
        let task = Task::new(1, 5);
        let a = mesh.attach(&task);
        let _servers = [a.serve(80, "web"), a.serve(53, "web")];
        mesh.publish(std::slice::from_ref(&task));
        answers_everywhere(&mesh, "web");
    });
}

#[test]
fn a_nodes_own_tasks_are_preferred_over_ipv6_too() {
    world(|_| {
        let mesh = Mesh::new(3);
        let (one, two) = (Task::new(1, 5), Task::new(2, 6));
        let (a, b) = (mesh.attach(&one), mesh.attach(&two));
        let _servers = [
            a.serve(80, "one"),
            b.serve(80, "two"),
            a.serve(53, "one"),
            b.serve(53, "two"),
        ];
        mesh.publish(&[one, two.clone()]);
        let seen = |number| {
            tally(40, || mesh.call6(number).unwrap())
                .into_keys()
                .collect::<Vec<_>>()
        };
        assert_eq!(seen(1), ["one"]);
        assert_eq!(seen(2), ["two"]);
        assert_eq!(seen(3), ["one", "two"], "it has none of its own");

        // UDP has no end: a client that goes on sending must not be led to a task that is gone.
        let socket = || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        let client = sys::netns::run_in(&mesh.nodes.client, socket).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let ask = |number| {
            let to = (mesh.node(number).address6(), NAMES);
            client.send_to(b"?", to).unwrap();
            let mut buffer = [0; 64];
            let n = client.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..n]).into_owned()
        };
        assert_eq!(ask(1), format!("one {CLIENT6}"));
        mesh.publish(&[two]);
        assert_eq!(seen(1), ["two"], "it has lost its own");
        assert_eq!(ask(1), format!("two {CLIENT6}"));
    });
}

#[test]
fn what_was_begun_over_ipv6_is_finished_whatever_becomes_of_the_agents() {
    world(|_| {
        let (mut mesh, _server) = Mesh::echoing(3);
        let connect = |mesh: &Mesh, number| connect(&mesh.nodes.client, mesh.node(number).address6(), WEB);
        let mut streams: Vec<_> = (1..=3).map(|number| connect(&mesh, number)).collect();
        streams.iter_mut().for_each(|stream| say(stream, "before"));
        mesh.netds.clear();
        streams
            .iter_mut()
            .for_each(|stream| say(stream, "nobody watches"));
        (1..=3).for_each(|number| drop(connect(&mesh, number)));
        mesh.netds = mesh.nodes.nodes.iter().map(Node::open).collect();
        streams.iter_mut().for_each(|stream| say(stream, "adopted"));
        (1..=3).for_each(|number| drop(connect(&mesh, number)));
        for node in &mesh.nodes.nodes {
            node.wait(mesh.netd(node.number).remove_service("svc")).unwrap();
        }
        assert!(mesh.call6(3).is_err());
        streams.iter_mut().for_each(|stream| say(stream, "withdrawn"));
    });
}

#[test]
fn a_task_on_further_networks_answers_at_every_node_and_on_each_of_them() {
    world(|_| {
        let mesh = Mesh::new(2);
        mesh.network(1, "front", false);
        mesh.network(1, "closed", true);
        let (open, closed) = (Task::new(1, 5), Task::new(1, 6));
        let a = mesh.attach_beside(&open, &["front", "closed"]);
        let b = mesh.attach_beside(&closed, &["closed"]);
        let _servers = [
            a.serve(80, "a"),
            a.serve(53, "a"),
            b.serve(80, "b"),
            b.serve(53, "b"),
        ];
        for (task, name) in [(&open, "a"), (&closed, "b")] {
            mesh.publish(std::slice::from_ref(task));
            answers_everywhere(&mesh, name);
        }
        let neighbour = mesh.container(1, "neighbour", "front");
        let own = &a.sandbox.endpoints[0];
        for address in own.addresses() {
            assert!(
                neighbour.call(address, 80).unwrap().starts_with("a "),
                "{address}"
            );
        }
        let shared = &a.sandbox.endpoints[1];
        for address in shared.addresses() {
            assert!(b.call(address, 80).unwrap().starts_with("a "), "{address}");
        }
        let others = &b.sandbox.endpoints[0];
        for address in others.addresses() {
            assert!(
                neighbour.call(address, 80).is_err(),
                "{address} is of an internal network"
            );
        }
    });
}

#[test]
fn a_node_that_forwards_no_ipv6_answers_over_ipv4_until_it_does() {
    world(|_| {
        let mesh = Mesh::new(2);
        let task = Task::new(1, 5);
        let a = mesh.attach(&task);
        let _web = a.serve(80, "web");
        let forward = |on: &str| {
            let set = || std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", on).unwrap();
            sys::netns::run_in(&mesh.node(2).host, set).unwrap();
        };
        forward("0");
        mesh.publish(std::slice::from_ref(&task));
        assert_eq!(mesh.call(2).unwrap(), format!("web {CLIENT}"));
        let refused = mesh.call6(2).unwrap_err();
        assert_eq!(
            refused.kind(),
            io::ErrorKind::ConnectionRefused,
            "not left to wait"
        );
        forward("1");
        mesh.publish(std::slice::from_ref(&task));
        assert_eq!(mesh.call6(2).unwrap(), format!("web {CLIENT6}"));
    });
}

#[test]
fn only_nodes_are_let_in_over_ipv6_and_only_to_published_tasks() {
    world(|_| {
        let mesh = Mesh::new(2);
        let task = Task::new(1, 5);
        let a = mesh.attach(&task);
        let hidden = mesh.container(1, "hidden", "back");
        mesh.publish(std::slice::from_ref(&task));
        let heard = |of: &Box, from: &OwnedFd, sender: [u8; 6], to: Ipv6Addr| {
            let socket = || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 99)).unwrap();
            let socket = sys::netns::run_in(&of.netns, socket).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            forge(from, sender, to);
            socket.recv(&mut [0; 64]).is_ok()
        };
        let host = &mesh.node(2).host;
        let (member, stranger) = ([2, 0x42, 192, 0, 2, 12], [2, 0x42, 192, 0, 2, 200]);
        assert!(
            heard(&a, host, member, task.address6),
            "a node: the packet is well made"
        );
        assert!(!heard(&a, host, stranger, task.address6), "nobody");
        assert!(
            !heard(&hidden, host, member, hidden.address6()),
            "another network"
        );
        assert!(
            !heard(&a, &mesh.nodes.client, member, task.address6),
            "no node, though it says so"
        );
    });
}

/// A VXLAN packet to the first node with an IPv6 packet in it that says that it comes from this hardware address.
fn forge(netns: &OwnedFd, sender: [u8; 6], to: Ipv6Addr) {
    let datagram = |checksum: [u8; 2]| [&[0x30, 0x39, 0, 99, 0, 12], &checksum[..], b"evil"].concat();
    let pseudo = [&CLIENT6.octets()[..], &to.octets(), &[0, 0, 0, 12, 0, 0, 0, 17]].concat();
    let words = [pseudo, datagram([0; 2])].concat();
    let words = words
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    let header = [0x60, 0, 0, 0, 0, 12, 17, 64];
    let ip = [&header[..], &CLIENT6.octets(), &to.octets()].concat();
    let vxlan = [8, 0, 0, 0, 0, 0x10, 0, 0];
    let receiver = [2, 0x42, 192, 0, 2, 11];
    let ethernet = [&receiver[..], &sender, &[0x86, 0xdd]].concat();
    let packet = [&vxlan[..], &ethernet, &ip, &datagram(checksum.to_be_bytes())].concat();
    sys::netns::run_in(netns, || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(&packet, ("192.0.2.11", PORT)).unwrap();
    })
    .unwrap();
}

/// Takes something from a fabric, whose transit device has this index.
type Take = fn(&mut Socket, u32);

#[test]
fn what_somebody_takes_from_the_ipv6_side_is_made_again() {
    world(|_| {
        let mesh = Mesh::new(2);
        let task = Task::new(1, 5);
        let a = mesh.attach(&task);
        let _web = a.serve(80, "web");
        mesh.publish(std::slice::from_ref(&task));
        let takes: [(u8, Take); 4] = [
            (1, |socket, _| {
                let rule = MarkRule::list(socket, true).unwrap()[0];
                socket.request(rule.delete(true)).unwrap();
            }),
            (1, |socket, link| {
                let back = Detour::list(socket, link, true).unwrap()[0];
                socket.request(back.delete()).unwrap();
            }),
            (2, |socket, link| {
                let routes = Detour::list(socket, link, true).unwrap();
                let to = routes.iter().find(|route| route.table == MAIN).unwrap();
                socket.request(to.delete()).unwrap();
            }),
            (2, |socket, link| {
                let all = Neighbour::list(socket, link).unwrap();
                let peer = all.iter().find(|one| one.address.is_ipv6()).unwrap();
                socket.request(peer.delete()).unwrap();
            }),
        ];
        for (n, (number, take)) in takes.into_iter().enumerate() {
            let answer = mesh
                .call6(2)
                .unwrap_or_else(|error| panic!("before {n}: {error}"));
            assert_eq!(answer, format!("web {CLIENT6}"), "before {n}");
            sys::netns::run_in(mesh.node(number).fabric(), || {
                let mut socket = Socket::route().unwrap();
                let link = Link::find(&mut socket, "transit").unwrap().unwrap().index;
                take(&mut socket, link);
            })
            .unwrap();
            common::eventually(&format!("{n} is made again"), || mesh.call6(2).is_ok());
        }
    });
}

//! The routing mesh: a published port answers on every node, and the task sees who asks.

mod common;
/// The netlink module is compiled into the tests as well, to build their world.
mod types {
    pub(crate) use netd::Mac;
}

use std::io;
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use common::mesh::{Mesh, NAMES, PATIENCE, Task, WEB, connect, say};
use common::netlink::{Detour, Forwarding, Link, MAIN, MarkRule, Neighbour, Socket};
use common::nodes::{CLIENT, Node, PORT};
use common::{call, call_udp, tally, world};

#[test]
fn a_port_answers_on_every_node_and_the_task_sees_the_client() {
    world(|_| {
        let mesh = Mesh::new(3);
        let task = Task::new(1, 5);
        mesh.publish(&[]);
        for number in 1..=3 {
            let refused = mesh.call(number).unwrap_err();
            assert_eq!(
                refused.kind(),
                io::ErrorKind::ConnectionRefused,
                "node {number}: no task"
            );
        }
        let a = mesh.attach(&task);
        let (_web, _names) = (a.serve(80, "web"), a.serve(53, "names"));
        mesh.publish(std::slice::from_ref(&task));
        for number in 1..=3 {
            assert_eq!(
                mesh.call(number).unwrap(),
                format!("web {CLIENT}"),
                "node {number}"
            );
            assert_eq!(
                mesh.call_udp(number).unwrap(),
                format!("names {CLIENT}"),
                "node {number}"
            );
        }
        let (host, own) = (&mesh.node(2).host, mesh.node(2).address());
        assert_eq!(
            call(host, own, WEB).unwrap(),
            format!("web {own}"),
            "the node itself"
        );
        assert!(call(host, Ipv4Addr::LOCALHOST, WEB).unwrap().starts_with("web "));
        assert!(
            call_udp(host, Ipv4Addr::LOCALHOST, NAMES)
                .unwrap()
                .starts_with("names ")
        );
        let task_node = mesh.node(1);
        let answer = call(&task_node.host, own, WEB).unwrap();
        assert_eq!(
            answer,
            format!("web {}", task_node.address()),
            "the task's node, by the long way"
        );

        let inside = mesh.container(2, "client", "front");
        assert!(
            inside.call(own, WEB).unwrap().starts_with("web "),
            "a container, at its own host"
        );
        assert!(
            a.call(own, WEB).unwrap().starts_with("web "),
            "the task itself, at another node"
        );

        mesh.publish(&[]);
        for number in 1..=3 {
            let refused = mesh.call(number).unwrap_err();
            assert_eq!(
                refused.kind(),
                io::ErrorKind::ConnectionRefused,
                "node {number}: withdrawn"
            );
        }
    });
}

#[test]
fn a_nodes_own_tasks_are_preferred_and_lost_ones_are_left_at_once() {
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
        mesh.publish(&[one.clone(), two.clone()]);
        let seen = |number| {
            tally(40, || mesh.call(number).unwrap())
                .into_keys()
                .collect::<Vec<_>>()
        };
        assert_eq!(seen(1), ["one"]);
        assert_eq!(seen(2), ["two"]);
        assert_eq!(seen(3), ["one", "two"], "it has none of its own");

        // UDP has no end: a client that goes on sending must not be led to a task that is gone.
        let client = sys::netns::run_in(&mesh.nodes.client, || {
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap()
        });
        let client = client.unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let ask = |number| {
            client
                .send_to(b"?", (mesh.node(number).address(), NAMES))
                .unwrap();
            let mut buffer = [0; 64];
            let n = client.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..n]).into_owned()
        };
        let first = ask(3);
        let (gone, stays) = if first.starts_with("one") {
            (&one, &two)
        } else {
            (&two, &one)
        };
        mesh.publish(std::slice::from_ref(stays));
        let second = ask(3);
        assert_ne!(first, second);
        assert!(second.ends_with(&format!(" {CLIENT}")), "{second}");
        let served = ask(gone.node);
        assert_eq!(
            served, second,
            "a node that has lost its own task uses the other's"
        );
        mesh.publish(&[one.clone(), two.clone()]);
        assert_eq!(ask(gone.node), first, "and its own again once there is one");
    });
}

#[test]
fn what_was_begun_is_finished_whatever_becomes_of_the_agents() {
    world(|_| {
        let (mut mesh, _server) = Mesh::echoing(3);
        let mut streams: Vec<_> = (1..=3)
            .map(|number| connect(&mesh.nodes.client, mesh.node(number).address(), WEB))
            .collect();
        streams.iter_mut().for_each(|stream| say(stream, "before"));
        mesh.netds.clear();
        streams
            .iter_mut()
            .for_each(|stream| say(stream, "nobody watches"));
        mesh.netds = mesh.nodes.nodes.iter().map(Node::open).collect();
        streams.iter_mut().for_each(|stream| say(stream, "adopted"));
        connect(&mesh.nodes.client, mesh.node(3).address(), WEB);
        // Its service has lost it, but it has not ended: nothing new, and nothing old is cut off.
        for node in &mesh.nodes.nodes {
            node.wait(mesh.netd(node.number).remove_service("svc")).unwrap();
        }
        assert!(mesh.call(3).is_err());
        streams.iter_mut().for_each(|stream| say(stream, "withdrawn"));
    });
}

#[test]
fn one_client_at_two_nodes_from_one_port_has_two_connections() {
    world(|_| {
        let (mesh, _server) = Mesh::echoing(3);
        let mut streams: Vec<_> = (1..=3)
            .map(|number| connect_from(&mesh.nodes.client, 40_000, mesh.node(number).address()))
            .collect();
        for (n, stream) in streams.iter_mut().enumerate() {
            say(stream, &format!("way {n}"));
        }
        streams.remove(1);
        streams.iter_mut().for_each(|stream| say(stream, "still there"));
    });
}

/// From a port that another connection may have, too.
fn connect_from(netns: &OwnedFd, port: u16, to: Ipv4Addr) -> TcpStream {
    let connect = || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            socket.bind((Ipv4Addr::UNSPECIFIED, port).into()).unwrap();
            let connected = tokio::time::timeout(PATIENCE, socket.connect((to, WEB).into())).await;
            connected.unwrap().unwrap().into_std().unwrap()
        })
    };
    let stream = sys::netns::run_in(netns, connect).unwrap();
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn only_nodes_are_let_in_and_only_to_published_tasks() {
    world(|_| {
        let mesh = Mesh::new(2);
        let task = Task::new(1, 5);
        let a = mesh.attach(&task);
        let hidden = mesh.container(1, "hidden", "back");
        mesh.publish(std::slice::from_ref(&task));
        let heard = |netns: &OwnedFd, send: &dyn Fn()| {
            let socket = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 99)).unwrap();
            let socket = sys::netns::run_in(netns, socket).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            send();
            socket.recv(&mut [0; 64]).is_ok()
        };
        let (host, client) = (&mesh.node(2).host, &mesh.nodes.client);
        let member = [2, 0x42, 192, 0, 2, 12];
        let stranger = [2, 0x42, 192, 0, 2, 200];
        assert!(
            heard(&a.netns, &|| forge(host, member, task.address)),
            "a node: the packet is well made"
        );
        assert!(
            !heard(&a.netns, &|| forge(host, stranger, task.address)),
            "nobody's hardware address"
        );
        assert!(
            !heard(&hidden.netns, &|| forge(host, member, hidden.address())),
            "another network"
        );
        assert!(
            !heard(&a.netns, &|| forge(client, member, task.address)),
            "no node, though it says so"
        );

        let inside = mesh.container(2, "inside", "front");
        let knock = |netns: &OwnedFd, to: Ipv4Addr| {
            let socket = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            sys::netns::run_in(netns, || drop(socket().send_to(b"?", (to, 99)))).unwrap();
        };
        assert!(heard(&a.netns, &|| knock(&a.netns, task.address)));
        assert!(
            !heard(&a.netns, &|| forge(&inside.netns, member, task.address)),
            "a container that speaks as its node would"
        );
        assert!(
            !heard(&a.netns, &|| knock(&inside.netns, task.address)),
            "a container of another network"
        );
        assert!(
            !heard(&a.netns, &|| knock(host, task.address)),
            "the host itself, unpublished"
        );
    });
}

/// A VXLAN packet to the first node that says that it comes from this hardware address.
fn forge(netns: &OwnedFd, sender: [u8; 6], to: Ipv4Addr) {
    let mut ip = vec![0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 200];
    ip.extend(to.octets());
    let words = ip
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    let udp = [0x30, 0x39, 0, 99, 0, 12, 0, 0, b'e', b'v', b'i', b'l'];
    let vxlan = [8, 0, 0, 0, 0, 0x10, 0, 0];
    let receiver = [2, 0x42, 192, 0, 2, 11];
    let packet = [&vxlan[..], &receiver, &sender, &[8, 0], &ip, &udp].concat();
    sys::netns::run_in(netns, || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.send_to(&packet, ("192.0.2.11", PORT)).unwrap();
    })
    .unwrap();
}

#[test]
fn a_restart_repairs_and_a_farewell_leaves_nothing() {
    world(|_| {
        let mut mesh = Mesh::new(2);
        let task = Task::new(1, 5);
        let a = mesh.attach(&task);
        let _web = a.serve(80, "web");
        mesh.publish(std::slice::from_ref(&task));
        assert_eq!(rules(mesh.node(1)).len(), 2, "of each IP version");
        mesh.netds.clear();
        for node in &mesh.nodes.nodes {
            sys::netns::run_in(node.fabric(), || {
                let mut socket = Socket::route().unwrap();
                let rule = MarkRule::list(&mut socket, false).unwrap()[0];
                socket.request(rule.delete(false)).unwrap();
                socket.request(Link::delete("transit")).unwrap();
            })
            .unwrap();
        }
        assert!(mesh.call(2).is_err());
        mesh.netds = mesh.nodes.nodes.iter().map(Node::open).collect();
        assert_eq!(mesh.call(2).unwrap(), format!("web {CLIENT}"));

        for node in &mesh.nodes.nodes {
            let netd = mesh.netd(node.number);
            node.wait(netd.remove_service("svc")).unwrap();
            node.wait(netd.remove_members([task.id()].into())).unwrap();
            node.wait(netd.set_ingress(None)).unwrap();
            node.wait(netd.set_underlay(None)).unwrap();
            assert!(!common::links(&node.fabric()).contains(&"transit".to_owned()));
            assert_eq!(rules(node), []);
        }
    });
}

/// Takes something from a fabric, whose transit device has this index.
type Take = fn(&mut Socket, u32);

#[test]
fn what_somebody_takes_from_the_mesh_is_made_again() {
    world(|_| {
        let mesh = Mesh::new(2);
        let task = Task::new(1, 5);
        let a = mesh.attach(&task);
        let _web = a.serve(80, "web");
        mesh.publish(std::slice::from_ref(&task));
        // The task's node needs a rule and a route back, the other one a route, and both an entry and a neighbour.
        let takes: [(u8, Take); 6] = [
            (1, |socket, _| {
                let rule = MarkRule::list(socket, false).unwrap()[0];
                socket.request(rule.delete(false)).unwrap();
            }),
            (1, |socket, link| {
                let back = Detour::list(socket, link, false).unwrap()[0];
                socket.request(back.delete()).unwrap();
            }),
            (2, |socket, link| {
                let routes = Detour::list(socket, link, false).unwrap();
                let to = routes.iter().find(|route| route.table == MAIN).unwrap();
                socket.request(to.delete()).unwrap();
            }),
            (2, |socket, link| {
                let all = Neighbour::list(socket, link).unwrap();
                let peer = all.iter().find(|one| one.link == link).unwrap();
                socket.request(peer.delete()).unwrap();
            }),
            (1, |socket, link| {
                let entry = Forwarding::list(socket, link).unwrap()[0];
                socket.request(entry.delete()).unwrap();
            }),
            (2, |socket, _| socket.request(Link::delete("transit")).unwrap()),
        ];
        for (n, (number, take)) in takes.into_iter().enumerate() {
            assert_eq!(mesh.call(2).unwrap(), format!("web {CLIENT}"), "before {n}");
            sys::netns::run_in(mesh.node(number).fabric(), || {
                let mut socket = Socket::route().unwrap();
                let link = Link::find(&mut socket, "transit").unwrap().unwrap().index;
                take(&mut socket, link);
            })
            .unwrap();
            common::eventually(&format!("{n} is made again"), || mesh.call(2).is_ok());
        }
    });
}

/// Of its fabric, by mark.
fn rules(node: &Node) -> Vec<MarkRule> {
    let list = |ipv6| MarkRule::list(&mut Socket::route().unwrap(), ipv6).unwrap();
    sys::netns::run_in(node.fabric(), || [list(false), list(true)].concat()).unwrap()
}

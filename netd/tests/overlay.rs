//! Networks that span nodes: real packets between containers of several nodes, and everything that goes wrong with such
//! networks elsewhere.

mod common;
/// The netlink module is compiled into the tests as well, to build their world.
mod types {
    pub(crate) use netd::Mac;
}

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use common::cluster::{Cluster, Node, PORT, SUBNET, Task, flush, member, spanning};
use common::netlink::{Forwarding, Link, LinkChange, Neighbour, Place, Route, Socket, Vxlan, VxlanSettings};
use common::{Box, call, call_udp, eventually, tables, world};
use netd::{AttachRequest, EndpointRequest, ErrorKind, NetworkConfig, OverlayMode};

/// Both over TCP and UDP; each sees the other's own address.
fn talk(from: &Task, to: &Task) {
    let said = format!("{} {}", to.id, from.address());
    assert_eq!(from.call(to.address(), 80).unwrap(), said);
    assert_eq!(call_udp(&from.netns, to.address(), 80).unwrap(), said);
}

fn talks(from: &Task, to: &Task) -> bool {
    from.call(to.address(), 80)
        .is_ok_and(|said| said.starts_with(&to.id))
}

/// What the kernel of a node has of other nodes' members.
fn entries(node: &Node) -> (Vec<Forwarding>, Vec<Neighbour>) {
    let index = |prefix| node.fabric_link(prefix).map_or(u32::MAX, |link| link.index);
    let (port, bridge) = (index("vx-"), index("br-"));
    node.in_fabric(|socket| {
        let forwarding = Forwarding::list(socket, port).unwrap();
        (forwarding, Neighbour::list(socket, bridge).unwrap())
    })
}

#[test]
fn containers_of_all_nodes_talk_in_both_directions() {
    for v6 in [false, true] {
        world(|w| {
            let c = Cluster::new(w, &[1500, 1500, 1500], v6);
            let tasks = [
                c.task(0, "a", "10.9.0.10"),
                c.task(1, "b", "10.9.0.11"),
                c.task(2, "c", "10.9.1.12"),
            ];
            let _servers = tasks.each_ref().map(|task| task.serve(80, &task.id));
            for from in &tasks {
                for to in tasks.iter().filter(|to| to.id != from.id) {
                    talk(from, to);
                }
            }
        });
    }
}

#[test]
fn both_ip_versions_cross_the_nodes() {
    world(|w| {
        let c = Cluster::new(w, &[1500, 1500], false);
        let dual = NetworkConfig {
            subnet6: Some("fd00:9::/64".parse().unwrap()),
            ..spanning("dual", "10.12.0.0/16", 4098)
        };
        let container = |n: usize| {
            let node = &c.nodes[n];
            node.network(&dual);
            let endpoint = EndpointRequest {
                network: "dual".into(),
                ipv4: Some(Ipv4Addr::new(10, 12, 0, 10 + n as u8)),
                ipv6: Some(format!("fd00:9::{}", 10 + n).parse().unwrap()),
                ..EndpointRequest::default()
            };
            let request = AttachRequest {
                sandbox: format!("dual{n}"),
                endpoints: vec![endpoint],
                ..AttachRequest::default()
            };
            Box::new(node.wait(node.netd().attach(request)).unwrap())
        };
        let boxes = [container(0), container(1)];
        let v6 = |n: usize| IpAddr::V6(boxes[n].sandbox.endpoints[0].ipv6.unwrap().address);
        for (n, container) in boxes.iter().enumerate() {
            let mut told = member(&format!("dual{n}"), &c.nodes[n].name, &[container.address()]);
            told.attachments[0].network = "dual".into();
            told.attachments[0].addresses.push(v6(n));
            let other = &c.nodes[1 - n];
            other.wait(other.netd().set_members(vec![told])).unwrap();
        }
        let echo = sys::netns::run_in(&boxes[1].netns, || TcpListener::bind("[::]:80").unwrap()).unwrap();
        let clients = std::thread::spawn(move || {
            let client = || echo.accept().unwrap().0.peer_addr().unwrap().ip().to_canonical();
            [client(), client()]
        });
        let connect = |to: IpAddr| TcpStream::connect((to, 80)).unwrap();
        let connect = |to| sys::netns::run_in(&boxes[0].netns, || connect(to)).unwrap();
        let _open = [connect(v6(1)), connect(boxes[1].address().into())];
        assert_eq!(clients.join().unwrap(), [v6(0), boxes[0].address().into()]);
    });
}

/// Elsewhere neighbours and forwarding entries of the old place stay behind (stale ARP and FDB entries).
#[test]
fn an_address_that_moves_to_another_node_is_reached_there_at_once() {
    world(|w| {
        let c = Cluster::new(w, &[1500, 1500, 1500], false);
        let a = c.task(0, "a", "10.9.0.10");
        let place = |node, id: &str| c.task(node, id, "10.9.0.11");
        // To the third node, to the client's own, and back: withdrawn first, as it should be.
        for (n, node) in [1, 2, 0, 1].into_iter().enumerate() {
            let b = place(node, &format!("b{n}"));
            let _server = b.serve(80, &b.id);
            talk(&a, &b);
            c.stop(&b);
        }
        // The news of the old one's end is late, and it comes to where the new one is.
        let old = place(1, "old");
        let new = place(0, "new");
        let _servers = [old.serve(80, "old"), new.serve(80, "new")];
        talk(&a, &new);
        c.stop(&old);
        talk(&a, &new);
        // The new one ends before the old: what was said of the old one holds again.
        let again = c.start(1, "again", "10.9.0.11");
        let _server = again.serve(80, "again");
        c.announce(&again);
        c.stop(&new);
        talk(&a, &again);
        c.stop(&again);
        assert_eq!(entries(&c.nodes[0]).0, [], "nothing of it is left");
    });
}

/// Elsewhere permanent entries vanish and nobody notices; and who deletes a link has to restart the engine.
#[test]
fn what_somebody_takes_away_is_made_again() {
    world(|w| {
        let c = Cluster::new(w, &[1500, 1500], false);
        let (a, b) = (c.task(0, "a", "10.9.0.10"), c.task(1, "b", "10.9.0.11"));
        let _servers = [a.serve(80, "a"), b.serve(80, "b")];
        talk(&a, &b);
        let node = &c.nodes[0];
        let whole = entries(node);
        assert_eq!((whole.0.len(), whole.1.len()), (2, 1));
        let mended = |what: &str| {
            let host = || call(&node.host, a.address(), 80).is_ok_and(|said| said.starts_with("a "));
            let counts = || (entries(node).0.len(), entries(node).1.len());
            eventually(what, || counts() == (2, 1) && talks(&a, &b) && host());
            talk(&b, &a);
        };
        for entry in &whole.0 {
            node.in_fabric(|s| s.request(entry.delete())).unwrap();
            mended("a forwarding entry");
        }
        node.in_fabric(|s| s.request(whole.1[0].delete())).unwrap();
        mended("a neighbour");
        let name = |prefix| node.fabric_link(prefix).unwrap().name;
        for prefix in ["vx-", "ve", "uplink", "br-"] {
            let link = name(prefix);
            node.in_fabric(|s| s.request(Link::delete(&link))).unwrap();
            mended(&format!("link {link}"));
        }
        node.in_host(|s| {
            let uplink = Link::list(s).unwrap();
            let uplink = uplink
                .iter()
                .find(|link| link.name.starts_with("shoal-"))
                .unwrap();
            s.request(Link::delete(&uplink.name)).unwrap();
        });
        mended("the host's end of the uplink");
        let (vx, bridge) = (name("vx-"), node.fabric_link("br-").unwrap());
        let out = LinkChange {
            master: Some(0),
            ..LinkChange::default()
        };
        node.in_fabric(|s| s.request(Link::change(&vx, &out))).unwrap();
        mended("a port that has left its bridge");
        let gateway = Route::delete_address(bridge.index, a.gateway(), 16);
        node.in_fabric(|s| s.request(gateway)).unwrap();
        mended("the gateway's address");
        for netns in [&node.host, &node.fabric()] {
            let before = tables(netns);
            sys::netns::run_in(netns, flush).unwrap();
            eventually("the packet filter", || tables(netns) == before);
            mended("a packet filter");
        }
    });
}

/// Elsewhere a crash leaves a device behind, and no network with its identifier can be made ("file exists").
#[test]
fn what_a_crash_leaves_is_no_obstacle() {
    world(|w| {
        let mut c = Cluster::new(w, &[1500, 1500], false);
        let b = c.task(1, "b", "10.9.0.11");
        let _server = b.serve(80, "b");
        // A device of a network that is no more; one of another program, in the host's own namespace.
        let device = |node: &Node, name: &str, vni, netns: &std::os::fd::OwnedFd| {
            let create = Vxlan {
                name,
                settings: VxlanSettings {
                    vni,
                    port: PORT,
                    local: node.address,
                    learning: false,
                },
                mtu: 1450,
                mac: None,
                netns: netns.as_fd(),
            };
            node.in_host(|s| s.request(create.create())).unwrap();
        };
        device(&c.nodes[0], "vx-stale", 5000, &c.nodes[0].fabric());
        device(&c.nodes[0], "vx-foreign", 5001, &c.nodes[0].host);
        let node = &c.nodes[0];
        node.network(&spanning("late", "10.10.0.0/16", 5000));
        let taken = spanning("taken", "10.11.0.0/16", 5001);
        let refused = node.wait(node.netd().ensure_network(&taken)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
        assert!(node.in_host(|s| Link::find(s, "vx-foreign").unwrap()).is_some());
        assert!(refused.to_string().contains("5001"), "{refused}");
        assert_eq!(node.netd().networks().len(), 2, "nothing is left of it");
        // The whole fabric is lost; the kernel is still taking it apart when the agent is back.
        c.nodes[0].kill();
        let fabric = c.nodes[0].run_dir().join("netns/fabric");
        nix::mount::umount2(&fabric, nix::mount::MntFlags::MNT_DETACH).unwrap();
        c.nodes[0].start();
        c.introduce(0);
        let a = c.task(0, "a", "10.9.0.10");
        talk(&a, &b);
    });
}

/// Elsewhere the packet size is a constant, whatever the links between the nodes are.
#[test]
fn packets_fit_the_narrowest_link_and_follow_it() {
    world(|w| {
        let c = Cluster::new(w, &[9000, 1400], false);
        let (a, b) = (c.task(0, "a", "10.9.0.10"), c.task(1, "b", "10.9.0.11"));
        let fits = |mtu: u32| {
            for (node, task) in [(&c.nodes[0], &a), (&c.nodes[1], &b)] {
                let links = node.fabric_links().into_iter();
                let ours: Vec<_> = links
                    .filter(|l| ["br-", "vx-", "ve"].iter().any(|p| l.name.starts_with(p)))
                    .map(|l| l.mtu)
                    .collect();
                let inside = || Link::find(&mut Socket::route().unwrap(), "eth0").unwrap();
                let inside = sys::netns::run_in(&task.netns, inside).unwrap().unwrap().mtu;
                let said = node.netd().networks()[0].1.mtu;
                if (&ours[..], inside, said) != (&[mtu; 3], mtu, mtu) {
                    return false;
                }
            }
            true
        };
        let check = |mtu: u32| {
            eventually(&format!("packets of {mtu}"), || fits(mtu));
            assert_eq!(transfer(&a, &b), 1 << 20, "{mtu}");
        };
        check(1350);
        let resize = |mtu: u32| {
            let change = LinkChange {
                mtu: Some(mtu),
                ..LinkChange::default()
            };
            c.nodes[1]
                .in_host(|s| s.request(Link::change("eth0", &change)))
                .unwrap();
            sys::netns::run_in(&c.wire, || {
                let mut socket = Socket::route().unwrap();
                socket.request(Link::change("n1", &change)).unwrap();
            })
            .unwrap();
            // Its neighbours are told; it finds out itself.
            c.introduce(0);
        };
        resize(9000);
        check(8950);
        resize(1400);
        check(1350);
        let wide = |mtu| NetworkConfig {
            mtu: Some(mtu),
            ..spanning("wide", "10.10.0.0/16", 5000)
        };
        let node = &c.nodes[0];
        let refused = node.wait(node.netd().ensure_network(&wide(1351))).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        assert!(refused.to_string().contains("1350"), "{refused}");
        assert_eq!(node.network(&wide(1300)).mtu, 1300);
        let tight = || {
            node.netd()
                .warnings()
                .into_iter()
                .find(|w| w.contains("network wide"))
        };
        assert_eq!(tight(), None);
        resize(1340);
        eventually("a word on what does not fit any more", || {
            tight().is_some_and(|warning| warning.contains("1290"))
        });
    });
}

/// A megabyte, which fills packets to the brim; bytes that arrived.
fn transfer(from: &Task, to: &Task) -> usize {
    let listener = sys::netns::run_in(&to.netns, || TcpListener::bind("0.0.0.0:81").unwrap()).unwrap();
    let receive = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut bytes).unwrap();
        bytes.len()
    });
    let address = to.address();
    let connect = || TcpStream::connect((address, 81)).unwrap();
    let mut stream = sys::netns::run_in(&from.netns, connect).unwrap();
    stream.write_all(&vec![7; 1 << 20]).unwrap();
    drop(stream);
    receive.join().unwrap()
}

/// VXLAN does not say who sent a packet: without a guard everybody who reaches the port speaks on every network.
#[test]
fn forged_packets_are_dropped() {
    world(|w| {
        let c = Cluster::new(w, &[1500, 1500], false);
        let (a, b) = (c.task(0, "a", "10.9.0.10"), c.task(1, "b", "10.9.0.11"));
        let local = c.task(0, "local", "10.9.0.12");
        let _servers = [b.serve(80, "b"), local.serve(80, "local")];
        talk(&a, &b);
        talk(&b, &local);
        let heard = forge::listen(&b);
        let heard_local = forge::listen(&local);
        let stranger = c.stranger(Ipv4Addr::new(192, 0, 2, 77));
        let [here, there] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)];
        forge::send(&stranger, there, b.address(), "of a stranger");
        forge::send(&a.netns, there, b.address(), "of a container");
        forge::send(&a.netns, here, local.address(), "of a container to its own node");
        forge::send(&stranger, here, local.address(), "of a stranger");
        // The other node itself may: that shows that the packets are well made.
        forge::send(&c.nodes[0].host, there, b.address(), "of a node");
        forge::send(&c.nodes[1].host, here, local.address(), "of a node");
        assert_eq!(forge::first(&heard), "of a node");
        assert_eq!(forge::first(&heard_local), "of a node");
        // Another address of the node is not one at which others would send.
        let second = Ipv4Addr::new(192, 0, 2, 92);
        c.nodes[1].in_host(|s| {
            let link = Link::find(s, "eth0").unwrap().unwrap().index;
            s.request(Route::add_address(link, second, 24)).unwrap();
        });
        forge::send(&c.nodes[0].host, second, b.address(), "to another address");
        forge::send(&c.nodes[0].host, there, b.address(), "the last");
        assert_eq!(forge::first(&heard), "the last");
    });
}

/// The same between nodes that know each other by IPv6.
#[test]
fn forged_packets_are_dropped_over_ipv6() {
    world(|w| {
        let c = Cluster::new(w, &[1500, 1500], true);
        let (a, b) = (c.task(0, "a", "10.9.0.10"), c.task(1, "b", "10.9.0.11"));
        let _server = b.serve(80, "b");
        talk(&a, &b);
        let heard = forge::listen(&b);
        let stranger = c.stranger(Ipv4Addr::new(192, 0, 2, 77));
        let there = c.nodes[1].address;
        // A container that has a way to the node over IPv6.
        let node = &c.nodes[0];
        let dual = NetworkConfig {
            id: "dual".into(),
            name: "dual".into(),
            ipv6: true,
            ..NetworkConfig::default()
        };
        node.network(&dual);
        let wanted = common::request("six", &["dual"]);
        let six = Box::new(node.wait(node.netd().attach(wanted)).unwrap());
        let refused = six.call(there, 80).unwrap_err().kind();
        assert_eq!(refused, std::io::ErrorKind::ConnectionRefused, "it is reached");
        forge::send(&stranger, there, b.address(), "of a stranger");
        forge::send(&six.netns, there, b.address(), "of a container");
        // From an address of the other node by which nobody knows it, and to one by which nobody knows this one.
        forge::send(
            &node.host,
            Ipv4Addr::new(192, 0, 2, 2),
            b.address(),
            "to another address",
        );
        forge::send(&node.host, there, b.address(), "of a node");
        assert_eq!(forge::first(&heard), "of a node");
    });
}

/// Elsewhere networks are broken after a restart.
#[test]
fn packets_flow_while_the_agent_is_dead_and_when_it_returns() {
    world(|w| {
        let mut c = Cluster::new(w, &[1500, 1500], false);
        let (a, b) = (c.task(0, "a", "10.9.0.10"), c.task(1, "b", "10.9.0.11"));
        let _servers = [a.serve(80, "a"), b.serve(80, "b")];
        let mut talk_on = Conversation::begin(&a, &b);
        let mut say = || talk_on.say();
        say();
        let state = |c: &Cluster| {
            let links = c.nodes[0].fabric_links();
            let indexes: Vec<_> = links.into_iter().map(|l| (l.index, l.name)).collect();
            (indexes, entries(&c.nodes[0]))
        };
        let before = state(&c);
        for _ in 0..3 {
            c.nodes[0].kill();
            say();
            talk(&a, &b);
            talk(&b, &a);
            c.nodes[0].start();
            say();
            assert_eq!(state(&c), before, "nothing was made anew");
            assert_eq!(c.nodes[0].netd().members(), ["b"]);
            c.introduce(0);
        }
        talk(&a, &b);
        assert_eq!(state(&c), before);
        // What changes while it is dead is put right when it returns.
        c.nodes[0].kill();
        let stale = before.1.0[0];
        let other = Forwarding {
            mac: netd::Mac([2, 0x42, 10, 9, 9, 9]),
            place: Place::Node(c.nodes[1].address),
            ..stale
        };
        c.nodes[0]
            .in_fabric(|s| s.batch(vec![stale.delete(), other.set()]))
            .unwrap();
        c.nodes[0].start();
        assert_eq!(state(&c), before);
    });
}

/// One that goes on: a byte there and back at a time.
struct Conversation {
    stream: TcpStream,
    echo: Option<std::thread::JoinHandle<()>>,
}

impl Conversation {
    fn begin(from: &Task, to: &Task) -> Self {
        let listener = sys::netns::run_in(&to.netns, || TcpListener::bind("0.0.0.0:81").unwrap()).unwrap();
        let echo = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut byte = [0];
            while stream.read_exact(&mut byte).is_ok() {
                stream.write_all(&byte).unwrap();
            }
        });
        let address = to.address();
        let connect = || TcpStream::connect((address, 81)).unwrap();
        let stream = sys::netns::run_in(&from.netns, connect).unwrap();
        let patience = Some(std::time::Duration::from_secs(10));
        stream.set_read_timeout(patience).unwrap();
        let echo = Some(echo);
        Self { stream, echo }
    }

    fn say(&mut self) {
        self.stream.write_all(b"x").unwrap();
        self.stream.read_exact(&mut [0]).unwrap();
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
        self.echo.take().map(std::thread::JoinHandle::join);
    }
}

/// Who was told that the fabric leads there directly goes on being led when it does not any more.
#[test]
fn conversations_survive_the_change_between_direct_and_encapsulated() {
    world(|w| {
        let c = Cluster::with_mode(w, &[1500, 1500], false, OverlayMode::Auto);
        let (a, b) = (c.task(0, "a", "10.9.0.10"), c.task(1, "b", "10.9.0.11"));
        let _servers = [a.serve(80, "a"), b.serve(80, "b")];
        let mut encapsulated = Conversation::begin(&a, &b);
        encapsulated.say();
        // Whom the fabric answers for is no neighbour any more.
        let direct = |n: usize| entries(&c.nodes[n]).1.is_empty();
        eventually("the nodes have found each other", || direct(0) && direct(1));
        encapsulated.say();
        drop(encapsulated);
        forget(&a, &b);
        forget(&b, &a);
        let mut conversation = Conversation::begin(&a, &b);
        conversation.say();
        talk(&b, &a);
        (0..2).for_each(|n| c.introduce_apart(n));
        assert!(!direct(0) && !direct(1));
        conversation.say();
        talk(&a, &b);
        talk(&b, &a);
    });
}

/// As time would have it.
fn forget(task: &Task, other: &Task) {
    let work = || {
        let mut socket = Socket::route().unwrap();
        let link = Link::find(&mut socket, "eth0").unwrap().unwrap().index;
        let neighbour = Neighbour {
            link,
            address: other.address().into(),
            mac: netd::Mac([0; 6]),
        };
        socket.bulk(&[neighbour.delete()]).unwrap();
    };
    sys::netns::run_in(&task.netns, work).unwrap();
}

#[test]
fn members_by_the_hundred_come_and_go_and_nothing_is_left() {
    world(|w| {
        let c = Cluster::new(w, &[1500, 1500], false);
        let (node, other) = (&c.nodes[0], &c.nodes[1].name);
        let address = |n: u32| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 9, 2, 0)) + n);
        let members: Vec<_> = (0..200)
            .map(|n| member(&format!("t{n}"), other, &[address(n)]))
            .collect();
        let counts = || (entries(node).0.len(), entries(node).1.len());
        for _ in 0..2 {
            node.wait(node.netd().set_members(members.clone())).unwrap();
            assert_eq!(counts(), (400, 200));
            let ids: BTreeSet<_> = members.iter().skip(1).map(|m| m.id.clone()).collect();
            node.wait(node.netd().remove_members(ids)).unwrap();
            assert_eq!(counts(), (2, 1));
        }
        node.wait(node.netd().set_members(members)).unwrap();
        // Away from the cluster, and back.
        node.wait(node.netd().set_underlay(None)).unwrap();
        assert!(node.fabric_link("vx-").is_none());
        assert_eq!(counts(), (0, 0));
        assert_eq!(tables(&node.host).len(), 1, "the guard has gone");
        c.introduce(0);
        assert_eq!(counts(), (400, 200));
        assert_eq!(tables(&node.host).len(), 2);
        // Another identifier, without another network.
        node.network(&spanning("net", SUBNET, 6000));
        let vni = node.fabric_link("vx-").unwrap().vxlan.unwrap().vni;
        assert_eq!((vni, counts()), (6000, (400, 200)));
        node.wait(node.netd().remove_network("net")).unwrap();
        let links: Vec<_> = node.fabric_links().into_iter().map(|l| l.name).collect();
        assert_eq!(links, ["lo", "uplink"]);
        assert!(node.in_fabric(|s| Neighbour::list(s, 0).unwrap()).is_empty());
        // Members of a network that comes later are known to it.
        node.network(&spanning("net", SUBNET, 4097));
        assert_eq!(counts(), (400, 200));
    });
}

/// Packets that somebody makes who is no VXLAN device.
mod forge {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
    use std::os::fd::OwnedFd;
    use std::time::Duration;

    use super::{PORT, Task};
    use netd::Mac;

    const LISTENER: u16 = 9999;

    pub(super) fn listen(task: &Task) -> UdpSocket {
        let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, LISTENER)).unwrap();
        let socket = sys::netns::run_in(&task.netns, bind).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }

    pub(super) fn first(socket: &UdpSocket) -> String {
        let mut buffer = [0; 128];
        let n = socket.recv(&mut buffer).expect("a packet that is let through");
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    }

    /// To `node`'s port: a frame on network 4097 for the container with address `to`.
    pub(super) fn send(from: &OwnedFd, node: impl Into<IpAddr>, to: Ipv4Addr, text: &str) {
        let node = SocketAddr::new(node.into(), PORT);
        let packet = frame(to, text);
        let deliver = || {
            let any: IpAddr = match node {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = UdpSocket::bind((any, 0)).unwrap();
            // A packet filter on the way out may refuse it: all the same.
            let _ = socket.send_to(&packet, node);
        };
        sys::netns::run_in(from, deliver).unwrap();
    }

    fn frame(to: Ipv4Addr, text: &str) -> Vec<u8> {
        let source = Ipv4Addr::new(10, 9, 0, 99);
        let mut packet = vec![8, 0, 0, 0, 0, 0x10, 0x01, 0];
        packet.extend(Mac::from_ipv4(to).0);
        packet.extend(Mac::from_ipv4(source).0);
        packet.extend([8, 0]);
        let udp = 8 + text.len() as u16;
        let mut ip = vec![0x45, 0];
        ip.extend((20 + udp).to_be_bytes());
        ip.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
        ip.extend(source.octets());
        ip.extend(to.octets());
        let sum: u32 = ip
            .chunks(2)
            .map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])))
            .sum();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(ip);
        packet.extend(12345u16.to_be_bytes());
        packet.extend(LISTENER.to_be_bytes());
        packet.extend(udp.to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(text.as_bytes());
        packet
    }
}

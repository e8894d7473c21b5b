//! Networks that span nodes: real packets between containers of several nodes, and everything that goes wrong with such
//! networks elsewhere.

mod common;
/// The netlink module is compiled into the tests as well, to build their world.
mod types {
    pub(crate) use netd::Mac;
}

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use common::cluster::{Cluster, Node, PORT, SUBNET, flush, member, spanning, talk, talks};
use common::netlink::{Link, LinkChange, Neighbour, Route, Vxlan, VxlanSettings};
use common::{Box, call, eventually, tables, world};
use netd::{AttachRequest, EndpointRequest, ErrorKind, NetworkConfig};

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
        assert_eq!(c.nodes[0].entries().0, [], "nothing of it is left");
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
        let whole = node.entries();
        assert_eq!((whole.0.len(), whole.1.len()), (2, 1));
        let mended = |what: &str| {
            let host = || call(&node.host, a.address(), 80).is_ok_and(|said| said.starts_with("a "));
            let counts = || (node.entries().0.len(), node.entries().1.len());
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

#[test]
fn members_by_the_hundred_come_and_go_and_nothing_is_left() {
    world(|w| {
        let c = Cluster::new(w, &[1500, 1500], false);
        let (node, other) = (&c.nodes[0], &c.nodes[1].name);
        let address = |n: u32| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 9, 2, 0)) + n);
        let members: Vec<_> = (0..200)
            .map(|n| member(&format!("t{n}"), other, &[address(n)]))
            .collect();
        let counts = || (node.entries().0.len(), node.entries().1.len());
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

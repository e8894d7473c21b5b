//! Containers, networks and the way out, with real packets.

mod common;
/// The netlink module is compiled into the tests as well, to build their world.
mod types {
    pub(crate) use netd::Mac;
}

use std::net::Ipv4Addr;

use common::{ANSWER, OUTSIDE, Server, dns_outside, query, request, tables, world};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::RecordType;
use netd::{EndpointRequest, ErrorKind, NetworkConfig};

#[test]
fn containers_of_a_network_find_each_other_by_name() {
    world(|w| {
        let netd = w.open();
        w.network(&netd, "front", false);
        let a = w.attach(&netd, "alpha", &["front"]);
        let b = w.attach(&netd, "beta", &["front"]);
        let _server = b.serve(80, "beta");
        assert_eq!(a.resolve("beta"), [b.address()]);
        assert_eq!(a.call(b.address(), 80).unwrap(), format!("beta {}", a.address()));
        // The gateway answers as well, and reverse questions too.
        let at_gateway = query(&a.netns, a.gateway().into(), "BETA.front.", RecordType::A).unwrap();
        assert_eq!(common::addresses(&at_gateway), [b.address()]);
        let [x, y, z, q] = b.address().octets();
        let reverse = format!("{q}.{z}.{y}.{x}.in-addr.arpa.");
        let ptr = query(&a.netns, a.sandbox.nameserver, &reverse, RecordType::PTR).unwrap();
        assert_eq!(ptr.answers[0].data.to_string(), "beta.front.");
        let aaaa = query(&a.netns, a.sandbox.nameserver, "beta.", RecordType::AAAA).unwrap();
        assert_eq!(
            (aaaa.metadata.response_code, aaaa.answers.len()),
            (ResponseCode::NoError, 0)
        );
    });
}

#[test]
fn a_container_may_be_a_dns_server_itself() {
    world(|w| {
        let netd = w.open();
        w.network(&netd, "front", false);
        let a = w.attach(&netd, "alpha", &["front"]);
        let _own = a.serve(53, "own");
        let b = w.attach(&netd, "beta", &["front"]);
        assert_eq!(a.resolve("beta"), [b.address()], "127.0.0.11 is still ours");
        assert!(
            common::call_udp(&b.netns, a.address(), 53)
                .unwrap()
                .starts_with("own ")
        );
        assert!(b.call(a.address(), 53).unwrap().starts_with("own "));
        // And over TCP, by hand: length, then the packet.
        let answer = common::query_tcp(&a.netns, a.sandbox.nameserver, "beta.", RecordType::A).unwrap();
        assert_eq!(common::addresses(&answer), [b.address()]);
    });
}

#[test]
fn networks_are_isolated_from_each_other() {
    world(|w| {
        let netd = w.open();
        w.network(&netd, "one", false);
        w.network(&netd, "two", false);
        let a = w.attach(&netd, "alpha", &["one"]);
        let b = w.attach(&netd, "beta", &["two"]);
        let both = w.attach(&netd, "both", &["one", "two"]);
        let _server = b.serve(80, "beta");
        assert!(
            a.call(b.address(), 80).is_err(),
            "no way from one network to another"
        );
        assert!(
            query(&a.netns, b.gateway().into(), "beta.", RecordType::A).is_err(),
            "nor to its DNS"
        );
        assert_eq!(
            both.call(b.address(), 80).unwrap().split(' ').next(),
            Some("beta")
        );
        assert_eq!(both.resolve("beta"), [b.address()]);
    });
}

#[test]
fn egress_is_masqueraded_and_internal_networks_have_none() {
    world(|w| {
        let asked = dns_outside(w);
        let netd = w.open();
        w.network(&netd, "open", false);
        w.network(&netd, "closed", true);
        let a = w.attach(&netd, "alpha", &["open"]);
        let b = w.attach(&netd, "beta", &["closed"]);
        let _server = Server::start(&w.outside, 80, "world");
        assert_eq!(a.call(OUTSIDE, 80).unwrap(), format!("world {}", common::HOST));
        assert_eq!(a.resolve("example.com."), [ANSWER]);
        assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 1);
        assert!(b.call(OUTSIDE, 80).is_err());
        let inside = query(&b.netns, b.sandbox.nameserver, "example.com.", RecordType::A).unwrap();
        assert_eq!(inside.metadata.response_code, ResponseCode::NXDomain);
        let at_gateway = query(&b.netns, b.gateway().into(), "example.com.", RecordType::A).unwrap();
        assert_eq!(at_gateway.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(
            asked.load(std::sync::atomic::Ordering::Relaxed),
            1,
            "not a single packet left the closed network"
        );
    });
}

#[test]
fn the_outside_cannot_route_into_a_network_and_the_host_can() {
    world(|w| {
        let netd = w.open();
        w.network(&netd, "open", false);
        let a = w.attach(&netd, "alpha", &["open"]);
        let _server = a.serve(80, "alpha");
        assert_eq!(
            common::call(&w.host, a.address(), 80).unwrap().split(' ').next(),
            Some("alpha")
        );
        sys::netns::run_in(&w.outside, || {
            let mut socket = common::netlink::Socket::route().unwrap();
            let index = common::netlink::Link::find(&mut socket, "eth0")
                .unwrap()
                .unwrap()
                .index;
            let route = common::netlink::Route::add(
                "172.16.0.0/12".parse::<ipnet::Ipv4Net>().unwrap(),
                Some(common::HOST),
                index,
            );
            socket.request(route).unwrap();
        })
        .unwrap();
        assert!(common::call(&w.outside, a.address(), 80).is_err());
    });
}

#[test]
fn a_container_cannot_speak_in_anothers_name() {
    world(|w| {
        let netd = w.open();
        let state = w.network(&netd, "front", false);
        let a = w.attach(&netd, "alpha", &["front"]);
        let b = w.attach(&netd, "beta", &["front"]);
        let _server = b.serve(80, "beta");
        let stolen = Ipv4Addr::from(u32::from(state.subnet.network()) + 77);
        let call_as = |source: Ipv4Addr| {
            sys::netns::run_in(&a.netns, || {
                let mut socket = common::netlink::Socket::route().unwrap();
                let index = common::netlink::Link::find(&mut socket, "eth0")
                    .unwrap()
                    .unwrap()
                    .index;
                socket
                    .request(common::netlink::Route::add_address(index, source, 16))
                    .unwrap();
                let socket = std::net::UdpSocket::bind((source, 0)).unwrap();
                socket
                    .set_read_timeout(Some(std::time::Duration::from_millis(500)))
                    .unwrap();
                socket.send_to(b"?", (b.address(), 80)).unwrap();
                socket.recv(&mut [0; 32]).is_ok()
            })
            .unwrap()
        };
        assert!(call_as(a.address()), "its own address passes");
        assert!(!call_as(stolen), "a stolen one does not");
    });
}

#[test]
fn networks_come_and_go_at_runtime() {
    world(|w| {
        let netd = w.open();
        w.network(&netd, "one", true);
        w.network(&netd, "two", false);
        let a = w.attach(&netd, "alpha", &["one"]);
        let b = w.attach(&netd, "beta", &["two"]);
        let _server = b.serve(80, "beta");
        let _outside = Server::start(&w.outside, 80, "world");
        assert!(a.call(OUTSIDE, 80).is_err());
        let join = EndpointRequest {
            network: "two".into(),
            aliases: vec!["al".into()],
            ..EndpointRequest::default()
        };
        let endpoint = w.wait(netd.connect("alpha", join.clone())).unwrap();
        assert_eq!(endpoint.interface, "eth1");
        assert_eq!(a.resolve("beta"), [b.address()]);
        assert_eq!(b.resolve("al"), [endpoint.ipv4]);
        assert!(a.call(b.address(), 80).is_ok());
        assert!(a.call(OUTSIDE, 80).is_ok(), "the new network has a way out");
        assert_eq!(
            w.wait(netd.connect("alpha", join)).unwrap_err().kind(),
            ErrorKind::Conflict
        );
        w.wait(netd.disconnect("alpha", "two")).unwrap();
        assert!(a.call(b.address(), 80).is_err());
        assert!(b.resolve("al").is_empty());
        assert_eq!(
            w.wait(netd.disconnect("alpha", "two")).unwrap_err().kind(),
            ErrorKind::NotFound
        );
    });
}

#[test]
fn what_cannot_be_is_refused_by_name_and_leaves_nothing() {
    world(|w| {
        let netd = w.open();
        let state = w.network(&netd, "front", false);
        let network = |id: &str, subnet: &str| NetworkConfig {
            id: id.into(),
            name: id.into(),
            subnet: Some(subnet.parse().unwrap()),
            ..NetworkConfig::default()
        };
        let refuse = |config: NetworkConfig, with: &str| {
            let error = w.wait(netd.ensure_network(&config)).unwrap_err().to_string();
            assert!(error.contains(&config.name) && error.contains(with), "{error}");
        };
        refuse(network("clash", &state.subnet.to_string()), "front");
        refuse(network("route", "192.0.2.0/25"), "eth0");
        refuse(network("host-bits", "10.1.1.1/24"), "host bits");
        refuse(
            NetworkConfig {
                gateway: Some(OUTSIDE),
                ..network("far", "10.1.1.0/24")
            },
            "192.0.2.1",
        );
        w.wait(netd.ensure_network(&network("tiny", "10.9.9.0/29")))
            .unwrap();
        for n in 0..5 {
            w.attach(&netd, &format!("t{n}"), &["tiny"]);
        }
        let full = w.wait(netd.attach(request("t5", &["tiny"]))).unwrap_err();
        assert_eq!(
            (full.kind(), full.to_string().contains("tiny")),
            (ErrorKind::Exhausted, true)
        );
        w.wait(netd.detach("t2")).unwrap();
        let again = w.attach(&netd, "t6", &["tiny"]);
        let mut wanted = request("t7", &["front"]);
        wanted.endpoints[0].ipv4 = Some(again.address());
        assert_eq!(
            w.wait(netd.attach(wanted)).unwrap_err().kind(),
            ErrorKind::Invalid
        );
        let missing = w
            .wait(netd.attach(request("t8", &["front", "nowhere"])))
            .unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        assert_eq!(netd.endpoints("front"), []);
        let busy = w.wait(netd.remove_network("tiny")).unwrap_err().to_string();
        assert!(busy.contains("tiny") && busy.contains("t6"), "{busy}");
        assert!(w.wait(netd.attach(request("../x", &["front"]))).is_err());
    });
}

#[test]
fn there_is_no_ipv6_where_none_was_asked_for() {
    world(|w| {
        let netd = w.open();
        w.network(&netd, "front", false);
        let a = w.attach(&netd, "alpha", &["front"]);
        let fabric = common::open(&w.config().run_dir.join("netns/fabric"));
        for netns in [&a.netns, &fabric] {
            let read = || std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap();
            let addresses = sys::netns::run_in(netns, read).unwrap();
            assert!(addresses.lines().all(|line| line.ends_with(" lo")), "{addresses}");
        }
    });
}

#[test]
fn garbage_on_the_dns_sockets_harms_nobody() {
    world(|w| {
        let netd = w.open();
        w.network(&netd, "front", true);
        let a = w.attach(&netd, "alpha", &["front"]);
        for server in [a.sandbox.nameserver, a.gateway().into()] {
            sys::netns::run_in(&a.netns, || {
                let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
                for n in 0..5000u32 {
                    let packet: Vec<u8> = (0..n % 600).map(|_| rand::random()).collect();
                    let _ = socket.send_to(&packet, (server, 53));
                }
                // Connections that say nothing, or too much.
                for n in 0..40 {
                    let mut stream = std::net::TcpStream::connect((server, 53)).unwrap();
                    if n % 2 == 0 {
                        let _ = std::io::Write::write_all(&mut stream, &[0xff; 4096]);
                    }
                }
            })
            .unwrap();
            assert_eq!(a.resolve("alpha"), [a.address()]);
            let answer = common::query_tcp(&a.netns, server, "alpha.", RecordType::A).unwrap();
            assert_eq!(common::addresses(&answer), [a.address()]);
        }
    });
}

#[test]
fn two_agents_in_one_namespace_stay_out_of_each_others_way() {
    world(|w| {
        let first = w.open();
        let other = tempfile::tempdir().unwrap();
        let config = netd::NetdConfig {
            state_dir: other.path().join("netd"),
            run_dir: other.path().join("run"),
            instance: "other".into(),
            ..w.config()
        };
        let second = w.wait(netd::Netd::open(config)).unwrap();
        let (one, two) = (
            w.network(&first, "front", false),
            w.network(&second, "front", false),
        );
        assert_ne!(one.subnet, two.subnet);
        let publish = netd::Publish {
            host_port: Some(8080),
            container_port: 80,
            ..netd::Publish::default()
        };
        let wanted = netd::AttachRequest {
            publish: vec![publish],
            ..request("web", &["front"])
        };
        let a = w
            .wait(first.attach(wanted.clone()))
            .map(common::Box::new)
            .unwrap();
        let taken = w.wait(second.attach(wanted)).unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::Conflict);
        let b = w.attach(&second, "web", &["front"]);
        let (_a, _b) = (a.serve(80, "first"), b.serve(80, "second"));
        assert!(
            common::call(&w.outside, common::HOST, 8080)
                .unwrap()
                .starts_with("first ")
        );
        assert_eq!(b.resolve("web"), [b.address()]);
        assert!(
            a.call(b.address(), 80).is_err(),
            "another agent's network is another network"
        );
        w.wait(second.detach("web")).unwrap();
        w.wait(second.shutdown(true)).unwrap();
        assert!(
            common::call(&w.outside, common::HOST, 8080)
                .unwrap()
                .starts_with("first ")
        );
    });
}

#[test]
fn many_are_attached_at_once() {
    world(|w| {
        let netd = w.open();
        w.network(&netd, "front", false);
        let names: Vec<_> = (0..30).map(|n| format!("c{n}")).collect();
        let attached = w.wait(async {
            let all = names.iter().map(|name| netd.attach(request(name, &["front"])));
            futures::future::join_all(all).await
        });
        let mut addresses: Vec<_> = attached
            .into_iter()
            .map(|s| s.unwrap().endpoints[0].ipv4)
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        assert_eq!(addresses.len(), 30);
        let gone =
            w.wait(async { futures::future::join_all(names.iter().map(|name| netd.detach(name))).await });
        assert!(gone.into_iter().all(|result| result.is_ok()));
        assert_eq!(netd.endpoints("front"), []);
    });
}

#[test]
fn a_sandbox_comes_back_at_once_under_the_same_id() {
    world(|w| {
        let netd = w.open();
        w.network(&netd, "front", false);
        let b = w.attach(&netd, "beta", &["front"]);
        for _ in 0..3 {
            let a = w.attach(&netd, "alpha", &["front"]);
            let _server = a.serve(80, "alpha");
            assert_eq!(b.resolve("alpha"), [a.address()]);
            assert!(b.call(a.address(), 80).is_ok());
            w.wait(netd.detach("alpha")).unwrap();
            assert!(
                b.call(a.address(), 80).is_err(),
                "cut off although its namespace is still held here"
            );
        }
    });
}

#[test]
fn nothing_is_left_when_all_is_removed() {
    world(|w| {
        let links = w.host_links();
        let netd = w.open();
        w.network(&netd, "front", false);
        w.network(&netd, "back", true);
        for n in 0..4 {
            w.attach(&netd, &format!("c{n}"), &["front", "back"]);
        }
        w.attach(&netd, "lonely", &[]);
        let fabric = common::open(&w.config().run_dir.join("netns/fabric"));
        for n in 0..4 {
            w.wait(netd.detach(&format!("c{n}"))).unwrap();
            w.wait(netd.detach(&format!("c{n}"))).unwrap();
        }
        w.wait(netd.retain(&[])).unwrap();
        assert_eq!(netd.sandbox("lonely"), None);
        common::eventually("lo, uplink and two bridges", || common::links(&fabric).len() == 4);
        w.wait(netd.remove_network("front")).unwrap();
        w.wait(netd.remove_network("back")).unwrap();
        assert_eq!(common::links(&fabric).len(), 2);
        w.wait(netd.shutdown(true)).unwrap();
        assert_eq!(w.host_links(), links);
        assert_eq!(tables(&w.host), Vec::<String>::new());
        assert_eq!(
            std::fs::read_dir(w.config().run_dir.join("netns"))
                .unwrap()
                .count(),
            0
        );
        assert_eq!(
            std::fs::read_dir(w.config().run_dir.join("netd/sandboxes"))
                .unwrap()
                .count(),
            0
        );
    });
}

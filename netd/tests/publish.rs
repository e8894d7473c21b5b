//! Published ports: from outside, from the host, on one address only; conflicts; the client's own address.

mod common;
/// The netlink module is compiled into the tests as well, to build their world.
mod types {
    pub(crate) use netd::Mac;
}

use std::net::{IpAddr, Ipv4Addr, TcpListener};

use common::{Box, HOST, OUTSIDE, World, call, call_udp, request, world};
use netd::{AttachRequest, ErrorKind, Netd, Protocol, Publish};

fn publish(host_ip: Option<Ipv4Addr>, host_port: u16, container_port: u16, protocol: Protocol) -> Publish {
    Publish {
        host_ip: host_ip.map(IpAddr::V4),
        host_port: Some(host_port),
        container_port,
        protocol,
    }
}

fn tcp(host_port: u16, container_port: u16) -> Publish {
    publish(None, host_port, container_port, Protocol::Tcp)
}

fn attach(w: &World, netd: &Netd, id: &str, ports: &[Publish]) -> netd::Result<Box> {
    let wanted = AttachRequest {
        publish: ports.to_vec(),
        ..request(id, &["front"])
    };
    w.wait(netd.attach(wanted)).map(Box::new)
}

#[test]
fn a_published_port_answers_everywhere_and_sees_the_client() {
    world(|w| {
        let netd = w.open();
        w.network(&netd, "front", false);
        let a = attach(
            w,
            &netd,
            "web",
            &[tcp(8080, 80), publish(None, 5353, 53, Protocol::Udp)],
        )
        .unwrap();
        let other = attach(w, &netd, "other", &[]).unwrap();
        let _server = a.serve(80, "web");
        assert_eq!(
            call(&w.outside, HOST, 8080).unwrap(),
            format!("web {OUTSIDE}"),
            "the client's own address"
        );
        assert_eq!(call(&w.host, HOST, 8080).unwrap(), format!("web {HOST}"));
        assert_eq!(
            call(&w.host, Ipv4Addr::LOCALHOST, 8080).unwrap(),
            format!("web {}", netd.host_gateway())
        );
        assert!(
            other.call(HOST, 8080).unwrap().starts_with("web "),
            "a neighbour on the same network"
        );
        assert!(
            a.call(HOST, 8080).unwrap().starts_with("web "),
            "the container itself"
        );
        let _names = a.serve(53, "names");
        assert_eq!(
            call_udp(&w.outside, HOST, 5353).unwrap(),
            format!("names {OUTSIDE}")
        );
        assert!(
            call_udp(&w.host, Ipv4Addr::LOCALHOST, 5353)
                .unwrap()
                .starts_with("names ")
        );
        w.wait(netd.detach("web")).unwrap();
        let refused = call(&w.outside, HOST, 8080).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn a_host_that_does_not_forward_still_answers_locally_and_says_so() {
    world(|w| {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        let netd = w.open();
        assert!(
            netd.warnings()
                .iter()
                .any(|warning| warning.contains("IPv4 forwarding is disabled"))
        );
        w.network(&netd, "front", false);
        let a = attach(w, &netd, "web", &[tcp(8080, 80)]).unwrap();
        let _server = a.serve(80, "web");
        assert!(
            call(&w.host, Ipv4Addr::LOCALHOST, 8080)
                .unwrap()
                .starts_with("web ")
        );
        assert!(call(&w.host, HOST, 8080).unwrap().starts_with("web "));
        assert_eq!(
            std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward")
                .unwrap()
                .trim(),
            "0",
            "not ours to change"
        );
    });
}

#[test]
fn a_port_on_one_address_is_not_reachable_at_another() {
    world(|w| {
        let netd = w.open();
        w.network(&netd, "front", false);
        let local = publish(Some(Ipv4Addr::LOCALHOST), 8080, 80, Protocol::Tcp);
        let public = publish(Some(HOST), 8080, 80, Protocol::Tcp);
        let a = attach(w, &netd, "inside", &[local]).unwrap();
        let _inside = a.serve(80, "inside");
        assert!(
            call(&w.host, Ipv4Addr::LOCALHOST, 8080)
                .unwrap()
                .starts_with("inside ")
        );
        assert!(
            call(&w.outside, HOST, 8080).is_err(),
            "CVE-2021-4024: bound to loopback is not public"
        );
        let b = attach(w, &netd, "public", &[public]).unwrap();
        let _public = b.serve(80, "public");
        assert_eq!(call(&w.outside, HOST, 8080).unwrap(), format!("public {OUTSIDE}"));
        assert!(
            call(&w.host, Ipv4Addr::LOCALHOST, 8080)
                .unwrap()
                .starts_with("inside ")
        );
    });
}

#[test]
fn a_taken_port_is_refused_with_its_holder_and_nothing_is_left() {
    world(|w| {
        let netd = w.open();
        w.network(&netd, "front", false);
        attach(w, &netd, "first", &[tcp(8080, 80)]).unwrap();
        let _foreign = TcpListener::bind("0.0.0.0:9090").unwrap();
        for (port, holder) in [
            (8080, "first".to_owned()),
            (9090, format!("pid {}", std::process::id())),
        ] {
            let error = attach(w, &netd, "second", &[tcp(7070, 80), tcp(port, 80)]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict);
            let text = error.to_string();
            assert!(
                text.contains(&port.to_string()) && text.contains(&holder),
                "{text}"
            );
            assert!(text.contains("port is already allocated"));
            assert!(
                netd.publish_conflict(port, Protocol::Tcp)
                    .unwrap()
                    .contains(&holder)
            );
        }
        assert_eq!(netd.publish_conflict(7070, Protocol::Tcp), None, "given back");
        assert_eq!(netd.endpoints("front").len(), 1);
        w.wait(netd.detach("first")).unwrap();
        attach(w, &netd, "second", &[tcp(8080, 80)]).unwrap();
        assert!(
            TcpListener::bind("0.0.0.0:8080").is_err(),
            "held against other programs"
        );
    });
}

#[test]
fn free_ports_are_found_and_impossible_wishes_refused() {
    world(|w| {
        let netd = w.open();
        w.network(&netd, "front", false);
        w.network(&netd, "closed", true);
        let a = attach(
            w,
            &netd,
            "web",
            &[
                tcp(0, 80),
                Publish {
                    container_port: 80,
                    ..Publish::default()
                },
            ],
        )
        .unwrap();
        let ports: Vec<u16> = a.sandbox.published.iter().map(|p| p.host_port.unwrap()).collect();
        assert_ne!(ports[0], ports[1]);
        let _server = a.serve(80, "web");
        for port in ports {
            assert!(call(&w.outside, HOST, port).unwrap().starts_with("web "));
        }
        let v6 = Publish {
            host_ip: Some("::1".parse().unwrap()),
            container_port: 80,
            ..Publish::default()
        };
        assert_eq!(
            attach(w, &netd, "v6", &[v6]).unwrap_err().kind(),
            ErrorKind::Invalid
        );
        let inside = AttachRequest {
            publish: vec![tcp(8080, 80)],
            ..request("inside", &["closed"])
        };
        assert_eq!(
            w.wait(netd.attach(inside)).unwrap_err().kind(),
            ErrorKind::Invalid
        );
    });
}

#[test]
fn traffic_that_is_only_passing_through_is_left_alone() {
    world(|w| {
        let netd = w.open();
        w.network(&netd, "front", false);
        let a = attach(w, &netd, "web", &[tcp(80, 80)]).unwrap();
        let _server = a.serve(80, "web");
        let _world = common::Server::start(&w.outside, 80, "world");
        // CVE-2025-54410 and kin: port 80 of somebody else is not port 80 of this host.
        assert!(a.call(OUTSIDE, 80).unwrap().starts_with("world "));
        assert!(call(&w.host, OUTSIDE, 80).unwrap().starts_with("world "));
    });
}

//! Networks with IPv6 beside IPv4, with real packets.

mod common;
/// The netlink module is compiled into the tests as well, to build their world.
mod types {
    pub(crate) use netd::Mac;
}

use std::net::{IpAddr, Ipv6Addr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use common::netlink::{Link, LinkAddress, Route, Socket};
use common::{Box, HOST6, OUTSIDE6, Server, World, call, call_udp, query, request, world};
use hickory_proto::rr::{RData, RecordType};
use netd::{AttachRequest, ErrorKind, Ipv6State, Netd, NetworkConfig, Protocol, Publish};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, bind, sendto, setsockopt, socket,
    sockopt,
};

fn network(w: &World, netd: &Netd, id: &str, internal: bool) -> Ipv6State {
    let config = NetworkConfig {
        id: id.into(),
        name: id.into(),
        internal,
        ipv6: true,
        ..NetworkConfig::default()
    };
    w.wait(netd.ensure_network(&config)).unwrap().ipv6.unwrap()
}

fn publish(host_ip: Option<IpAddr>, host_port: u16) -> Publish {
    Publish {
        host_ip,
        host_port: Some(host_port),
        container_port: 80,
        protocol: Protocol::Tcp,
    }
}

fn attach(w: &World, netd: &Netd, id: &str, ports: &[Publish]) -> netd::Result<Box> {
    let wanted = AttachRequest {
        publish: ports.to_vec(),
        ..request(id, &["front"])
    };
    w.wait(netd.attach(wanted)).map(Box::new)
}

fn resolve(from: &Box, server: IpAddr, name: &str) -> Vec<Ipv6Addr> {
    let answer = query(&from.netns, server, name, RecordType::AAAA).unwrap();
    let address = |data: &RData| match data {
        RData::AAAA(a) => Some(a.0),
        _ => None,
    };
    answer.answers.iter().filter_map(|r| address(&r.data)).collect()
}

/// The name of a reverse question.
fn reverse(address: Ipv6Addr) -> String {
    let nibbles = hex(address).into_iter().rev().map(|digit| format!("{digit}."));
    format!("{}ip6.arpa.", nibbles.collect::<String>())
}

fn hex(address: Ipv6Addr) -> Vec<char> {
    let octets = address.octets().into_iter();
    octets
        .flat_map(|octet| format!("{octet:02x}").chars().collect::<Vec<_>>())
        .collect()
}

#[test]
fn containers_reach_each_other_by_name_at_once_and_the_world_outside() {
    world(|w| {
        let netd = w.open();
        let state = network(w, &netd, "front", false);
        assert_eq!(state.subnet.prefix_len(), 64);
        assert_eq!(state.subnet.addr().octets()[0], 0xfd, "unique local");
        let a = w.attach(&netd, "alpha", &["front"]);
        let b = w.attach(&netd, "beta", &["front"]);
        assert!(state.subnet.contains(&a.address6()));
        let _beta = b.serve(80, "beta");
        for server in [a.sandbox.nameserver, state.gateway.into()] {
            assert_eq!(resolve(&a, server, "beta."), [b.address6()]);
            let ptr = query(&a.netns, server, &reverse(b.address6()), RecordType::PTR).unwrap();
            assert_eq!(ptr.answers[0].data.to_string(), "beta.front.");
        }
        let beta = format!("beta {}", a.address6());
        assert_eq!(a.call(b.address6(), 80).unwrap(), beta);
        assert_eq!(call_udp(&a.netns, b.address6(), 80).unwrap(), beta);
        assert_eq!(
            a.call(b.address(), 80).unwrap(),
            format!("beta {}", a.address()),
            "IPv4 as before"
        );
        let _world = Server::start(&w.outside, 80, "world");
        assert_eq!(
            a.call(OUTSIDE6, 80).unwrap(),
            format!("world {HOST6}"),
            "masqueraded"
        );
        assert!(call(&w.host, b.address6(), 80).unwrap().starts_with("beta "));
    });
}

#[test]
fn networks_are_isolated_and_internal_ones_closed() {
    world(|w| {
        let netd = w.open();
        network(w, &netd, "one", false);
        let other = network(w, &netd, "two", false);
        network(w, &netd, "closed", true);
        w.network(&netd, "old", false);
        let a = w.attach(&netd, "alpha", &["one"]);
        let b = w.attach(&netd, "beta", &["two"]);
        let c = w.attach(&netd, "gamma", &["closed"]);
        let d = w.attach(&netd, "delta", &["closed", "old"]);
        let _beta = b.serve(80, "beta");
        let _world = Server::start(&w.outside, 80, "world");
        assert!(a.call(b.address6(), 80).is_err(), "no way from one to another");
        assert!(
            query(&a.netns, other.gateway.into(), "beta.", RecordType::AAAA).is_err(),
            "nor to its DNS"
        );
        assert!(
            c.call(OUTSIDE6, 80).is_err(),
            "an internal network has no way out"
        );
        let _delta = d.serve(80, "delta");
        assert!(c.call(d.address6(), 80).unwrap().starts_with("delta "));
        assert_eq!(d.sandbox.endpoints[1].ipv6, None);
        assert_eq!(
            addresses(&d.netns, "eth1"),
            0,
            "a network without IPv6 gives not even a link-local address"
        );
        route_into(&w.outside, b.address6());
        assert!(
            call(&w.outside, b.address6(), 80).is_err(),
            "the outside cannot route in"
        );
    });
}

/// IPv6 addresses of a link.
fn addresses(netns: &OwnedFd, name: &str) -> usize {
    sys::netns::run_in(netns, || {
        let mut socket = Socket::route().unwrap();
        let link = Link::find(&mut socket, name).unwrap().unwrap().index;
        let all = LinkAddress::list(&mut socket).unwrap();
        all.iter()
            .filter(|a| a.link == link && a.address.is_ipv6())
            .count()
    })
    .unwrap()
}

fn route_into(netns: &OwnedFd, to: Ipv6Addr) {
    let add = || {
        let mut socket = Socket::route().unwrap();
        let link = Link::find(&mut socket, "eth0").unwrap().unwrap().index;
        let subnet = ipnet::Ipv6Net::new(to, 64).unwrap();
        socket.request(Route::add(subnet, Some(HOST6), link)).unwrap();
    };
    sys::netns::run_in(netns, add).unwrap();
}

#[test]
fn a_published_port_answers_over_ipv6_and_sees_the_client() {
    world(|w| {
        let netd = w.open();
        network(w, &netd, "front", false);
        let a = attach(w, &netd, "web", &[publish(None, 8080)]).unwrap();
        let _web = a.serve(80, "web");
        assert_eq!(
            a.sandbox.published.len(),
            2,
            "at 0.0.0.0 and at [::]: {:?}",
            a.sandbox.published
        );
        assert_eq!(
            call(&w.outside, HOST6, 8080).unwrap(),
            format!("web {OUTSIDE6}"),
            "the client's own address"
        );
        assert!(call(&w.outside, common::HOST, 8080).unwrap().starts_with("web "));
        assert!(call(&w.host, HOST6, 8080).unwrap().starts_with("web "));
        let other = attach(w, &netd, "other", &[]).unwrap();
        assert!(other.call(HOST6, 8080).unwrap().starts_with("web "));
        let one = attach(w, &netd, "one", &[publish(Some(HOST6.into()), 9090)]).unwrap();
        let _one = one.serve(80, "one");
        assert!(call(&w.outside, HOST6, 9090).unwrap().starts_with("one "));
        assert!(call(&w.outside, common::HOST, 9090).is_err());
        w.wait(netd.detach("web")).unwrap();
        assert!(call(&w.outside, HOST6, 8080).is_err());
    });
}

#[test]
fn a_port_of_the_loopback_address_answers_this_host_alone() {
    world(|w| {
        let netd = w.open();
        network(w, &netd, "front", false);
        let loopback = Ipv6Addr::LOCALHOST;
        let everywhere = attach(w, &netd, "everywhere", &[publish(None, 8080)]).unwrap();
        let _everywhere = everywhere.serve(80, "everywhere");
        let here = attach(w, &netd, "here", &[publish(Some(loopback.into()), 7070)]).unwrap();
        let _here = here.serve(80, "here");
        for (port, name) in [(8080, "everywhere "), (7070, "here ")] {
            assert!(call(&w.host, loopback, port).unwrap().starts_with(name));
        }
        let datagrams = Publish {
            protocol: Protocol::Udp,
            ..publish(Some(loopback.into()), 5353)
        };
        let udp = attach(w, &netd, "udp", &[datagrams]).unwrap();
        let _udp = udp.serve(80, "udp");
        assert!(call_udp(&w.host, loopback, 5353).unwrap().starts_with("udp "));
        assert!(call(&w.outside, HOST6, 7070).is_err(), "not from elsewhere");
        assert!(call(&w.host, HOST6, 7070).is_err(), "nor at another address");
        let _own = Server::start(&w.host, 99, "host");
        assert_eq!(call(&w.host, loopback, 99).unwrap(), format!("host {loopback}"));

        w.network(&netd, "old", false);
        let refused = AttachRequest {
            publish: vec![publish(Some(loopback.into()), 6060)],
            ..request("v4", &["old"])
        };
        let error = w.wait(netd.attach(refused)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(
            error
                .to_string()
                .contains("::1: the container is on no network with IPv6")
        );
    });
}

#[test]
fn a_host_that_forwards_no_ipv6_takes_no_port_that_it_could_not_serve() {
    world(|w| {
        let forward = |on: &str| std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", on).unwrap();
        let netd = w.open();
        network(w, &netd, "front", false);
        let remedy = "sysctl net.ipv6.conf.all.forwarding=1";
        let warned = || netd.warnings().iter().any(|warning| warning.contains(remedy));
        assert!(!warned());
        forward("0");
        assert!(warned());
        let a = attach(w, &netd, "web", &[publish(None, 8080)]).unwrap();
        assert_eq!(a.sandbox.published.len(), 1, "{:?}", a.sandbox.published);
        let refused = call(&w.outside, HOST6, 8080).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "at once");
        let local = publish(Some(Ipv6Addr::LOCALHOST.into()), 8080);
        let b = attach(w, &netd, "local", &[local]).unwrap();
        let _local = b.serve(80, "local");
        assert!(
            call(&w.host, Ipv6Addr::LOCALHOST, 8080)
                .unwrap()
                .starts_with("local ")
        );
    });
}

#[test]
fn a_container_cannot_speak_in_anothers_name_nor_as_a_router() {
    world(|w| {
        let netd = w.open();
        let state = network(w, &netd, "front", false);
        let a = w.attach(&netd, "alpha", &["front"]);
        let b = w.attach(&netd, "beta", &["front"]);
        let _beta = b.serve(80, "beta");
        let stolen = Ipv6Addr::from(u128::from(state.subnet.network()) + 77);
        assert!(call_as(&a, a.address6(), b.address6()), "its own address passes");
        assert!(!call_as(&a, stolen, b.address6()), "a stolen one does not");
        // The gateway's place in a neighbour's cache cannot be taken, and nobody else is a router.
        assert_eq!(resolve(&b, state.gateway.into(), "alpha."), [a.address6()]);
        let (own, gateway) = (a.address6(), state.gateway);
        send(&a, own, b.address6(), &advertisement(gateway));
        send(&a, gateway, b.address6(), &advertisement(gateway));
        send(&a, gateway, b.address6(), &solicitation(b.address6()));
        send(&a, link_local(&a), b.address6(), &router_advertisement());
        assert_eq!(
            resolve(&b, gateway.into(), "alpha."),
            [a.address6()],
            "the gateway is where it was"
        );
        assert_eq!(addresses(&b.netns, "eth0"), 2, "its own and the link-local one");
        assert!(call_as(&a, own, b.address6()), "true advertisements pass");
    });
}

fn call_as(from: &Box, source: Ipv6Addr, to: Ipv6Addr) -> bool {
    sys::netns::run_in(&from.netns, || {
        let mut socket = Socket::route().unwrap();
        let index = Link::find(&mut socket, "eth0").unwrap().unwrap().index;
        socket.request(LinkAddress::add6(index, source, 64)).unwrap();
        let socket = UdpSocket::bind((source, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        // A datagram may be lost while a link comes up.
        (0..3).any(|_| {
            socket.send_to(b"?", (to, 80)).unwrap();
            socket.recv(&mut [0; 32]).is_ok()
        })
    })
    .unwrap()
}

/// A hardware address that nobody has, as an option of this type.
fn option(kind: u8) -> [u8; 8] {
    [kind, 1, 2, 0, 0, 0, 0, 66]
}

/// "I am `target`", unasked, overriding what is known (RFC 4861, 4.4).
fn advertisement(target: Ipv6Addr) -> Vec<u8> {
    [&[136, 0, 0, 0, 0x20, 0, 0, 0], &target.octets()[..], &option(2)].concat()
}

fn solicitation(target: Ipv6Addr) -> Vec<u8> {
    [&[135, 0, 0, 0, 0, 0, 0, 0], &target.octets()[..], &option(1)].concat()
}

/// "Come to me, and this is a prefix for addresses of your own" (RFC 4861, 4.2).
fn router_advertisement() -> Vec<u8> {
    let header = [134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0];
    let prefix = [3, 4, 64, 0xc0, 0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0, 0, 0];
    let network = Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 0).octets();
    [&header[..], &prefix, &network, &option(1)].concat()
}

fn link_local(of: &Box) -> Ipv6Addr {
    let [a, b, c, d, e, f] = of.sandbox.endpoints[0].mac.0;
    let half = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    Ipv6Addr::from(0xfe80_u128 << 112 | u128::from(u64::from_be_bytes(half)))
}

/// An ICMPv6 message with any source address; the kernel adds the checksum.
fn send(from: &Box, source: Ipv6Addr, to: Ipv6Addr, message: &[u8]) {
    sys::netns::run_in(&from.netns, || {
        let mut netlink = Socket::route().unwrap();
        let index = Link::find(&mut netlink, "eth0").unwrap().unwrap().index;
        netlink.request(LinkAddress::add6(index, source, 64)).unwrap();
        let raw = socket(
            AddressFamily::Inet6,
            SockType::Raw,
            SockFlag::empty(),
            SockProtocol::IcmpV6,
        )
        .unwrap();
        setsockopt(&raw, sockopt::Ipv6Ttl, &255).unwrap();
        let at = |ip: Ipv6Addr| SockaddrIn6::from(SocketAddrV6::new(ip, 0, 0, index));
        bind(raw.as_raw_fd(), &at(source)).unwrap();
        sendto(raw.as_raw_fd(), message, &at(to), MsgFlags::empty()).unwrap();
    })
    .unwrap();
}

//! Packets that somebody sends to the data port who is no node, or in another's name.

mod common;
/// The netlink module is compiled into the tests as well, to build their world.
mod types {
    pub(crate) use netd::Mac;
}

use std::net::Ipv4Addr;

use common::cluster::{Cluster, PORT, Task, talk};
use common::netlink::{Link, Route};
use common::{Box, world};
use netd::NetworkConfig;

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

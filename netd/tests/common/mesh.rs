//! Nodes with a routing mesh between them, and tasks behind it. Everything has addresses of both IP versions.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use netd::{
    Backend, EndpointRequest, IngressPort, Member, MemberAttachment, Netd, NetworkConfig, Overlay, Protocol,
    ServiceEndpoint, ServiceNetwork, Underlay,
};

use super::nodes::{Node, Nodes};
use super::{Box, call, call_udp, request};

pub const PATIENCE: Duration = Duration::from_secs(3);
/// The published ports: TCP to 80, UDP to 53.
pub const WEB: u16 = 8080;
pub const NAMES: u16 = 5353;

/// A task: where it runs, its sandbox there and its address on the ingress network.
#[derive(Clone)]
pub struct Task {
    pub node: u8,
    pub address: Ipv4Addr,
    pub address6: Ipv6Addr,
}

impl Task {
    pub fn new(node: u8, last: u8) -> Self {
        Self {
            node,
            address: Ipv4Addr::new(10, 255, 0, last),
            address6: Ipv6Addr::new(0xfd00, 0x255, 0, 0, 0, 0, 0, last.into()),
        }
    }

    pub fn id(&self) -> String {
        format!("task{}", self.address.octets()[3])
    }

    fn backend(&self, seen_from: u8) -> Backend {
        let here = self.node == seen_from;
        Backend {
            task: self.id(),
            name: self.id(),
            addresses: vec![("ingress".into(), self.address)],
            addresses6: vec![("ingress".into(), self.address6)],
            sandbox: here.then(|| self.id()),
            node: (!here).then(|| format!("n{}", self.node)),
        }
    }

    fn member(&self) -> Member {
        let on = MemberAttachment {
            network: "ingress".into(),
            addresses: vec![self.address.into(), self.address6.into()],
            ..MemberAttachment::default()
        };
        Member {
            id: self.id(),
            node: format!("n{}", self.node),
            attachments: vec![on],
        }
    }
}

/// Nodes with netd, told of each other.
pub struct Mesh {
    pub nodes: Nodes,
    pub netds: Vec<Arc<Netd>>,
}

impl Mesh {
    pub fn new(count: u8) -> Self {
        Self::over(count, Nodes::underlay)
    }

    /// Nodes that speak IPv6 among themselves.
    pub fn over_ipv6(count: u8) -> Self {
        Self::over(count, Nodes::underlay6)
    }

    fn over(count: u8, underlay: fn(&Nodes, u8) -> Underlay) -> Self {
        let nodes = Nodes::new(count);
        let netds: Vec<_> = nodes.nodes.iter().map(Node::open).collect();
        for (node, netd) in nodes.nodes.iter().zip(&netds) {
            node.wait(netd.set_underlay(Some(underlay(&nodes, node.number))))
                .unwrap();
            node.wait(netd.set_ingress(Some("ingress".into()))).unwrap();
        }
        Self { nodes, netds }
    }

    pub fn node(&self, number: u8) -> &Node {
        &self.nodes.nodes[usize::from(number) - 1]
    }

    pub fn netd(&self, number: u8) -> &Arc<Netd> {
        &self.netds[usize::from(number) - 1]
    }

    /// The network of published ports, or one of this node alone.
    pub fn network(&self, number: u8, id: &str, internal: bool) {
        let ingress = id == "ingress";
        let config = NetworkConfig {
            id: id.into(),
            name: id.into(),
            subnet: ingress.then(|| "10.255.0.0/24".parse().unwrap()),
            subnet6: ingress.then(|| "fd00:255::/64".parse().unwrap()),
            ipv6: true,
            internal,
            overlay: ingress.then_some(Overlay {
                vni: 4097,
                ..Overlay::default()
            }),
            ..NetworkConfig::default()
        };
        self.node(number)
            .wait(self.netd(number).ensure_network(&config))
            .unwrap();
    }

    /// A container on a network of its node alone.
    pub fn container(&self, number: u8, id: &str, network: &str) -> Box {
        self.network(number, network, false);
        let attached = self
            .node(number)
            .wait(self.netd(number).attach(request(id, &[network])));
        Box::new(attached.unwrap())
    }

    /// Nodes of which the first has a task that answers at the published port with what it is told.
    pub fn echoing(count: u8) -> (Self, Box) {
        let (mesh, task) = (Self::new(count), Task::new(1, 5));
        let server = mesh.attach(&task);
        echo(&server.netns, 80);
        mesh.publish(std::slice::from_ref(&task));
        (mesh, server)
    }

    pub fn attach(&self, task: &Task) -> Box {
        self.attach_beside(task, &[])
    }

    /// On these networks of its node, too, which come first, as those of a service do.
    pub fn attach_beside(&self, task: &Task, networks: &[&str]) -> Box {
        self.network(task.node, "ingress", false);
        let mut wanted = request(&task.id(), networks);
        wanted.endpoints.push(EndpointRequest {
            network: "ingress".into(),
            ipv4: Some(task.address),
            ipv6: Some(task.address6),
            ..EndpointRequest::default()
        });
        let attached = self.node(task.node).wait(self.netd(task.node).attach(wanted));
        Box::new(attached.unwrap())
    }

    /// Every node is told of the tasks, as members and as the backends of a service. They answer when this returns: whoever
    /// gave an address has waited until it is in use.
    pub fn publish(&self, tasks: &[Task]) {
        for node in &self.nodes.nodes {
            self.publish_on(node.number, tasks);
        }
    }

    pub fn publish_on(&self, number: u8, tasks: &[Task]) {
        let far = tasks.iter().filter(|task| task.node != number);
        let (node, netd) = (self.node(number), self.netd(number));
        node.wait(netd.set_members(far.map(Task::member).collect()))
            .unwrap();
        let port = |published, target, protocol| IngressPort {
            published,
            target,
            protocol,
        };
        let ingress = ServiceNetwork {
            network: "ingress".into(),
            vip: Some(Ipv4Addr::new(10, 255, 0, 2)),
            vip6: Some(Ipv6Addr::new(0xfd00, 0x255, 0, 0, 0, 0, 0, 2)),
            ..ServiceNetwork::default()
        };
        let service = ServiceEndpoint {
            id: "svc".into(),
            name: "web".into(),
            networks: vec![ingress],
            ports: vec![port(WEB, 80, Protocol::Tcp), port(NAMES, 53, Protocol::Udp)],
            backends: tasks.iter().map(|task| task.backend(number)).collect(),
        };
        node.wait(netd.set_service(service)).unwrap();
    }

    pub fn call(&self, number: u8) -> io::Result<String> {
        call(&self.nodes.client, self.node(number).address(), WEB)
    }

    pub fn call6(&self, number: u8) -> io::Result<String> {
        call(&self.nodes.client, self.node(number).address6(), WEB)
    }

    pub fn call_udp(&self, number: u8) -> io::Result<String> {
        call_udp(&self.nodes.client, self.node(number).address(), NAMES)
    }

    pub fn call_udp6(&self, number: u8) -> io::Result<String> {
        call_udp(&self.nodes.client, self.node(number).address6(), NAMES)
    }
}

/// Says back what it is told, as long as it is told something.
pub fn echo(netns: &OwnedFd, port: u16) {
    let listener = sys::netns::run_in(netns, || {
        TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap() // and IPv4
    });
    let listener = listener.unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok(n @ 1..) = stream.read(&mut buffer) {
                    let _ = stream.write_all(&buffer[..n]);
                }
            });
        }
    });
}

pub fn say(stream: &mut TcpStream, word: &str) {
    stream.write_all(word.as_bytes()).unwrap();
    let mut buffer = vec![0; word.len()];
    stream.read_exact(&mut buffer).unwrap();
    assert_eq!(buffer, word.as_bytes());
}

pub fn connect(netns: &OwnedFd, to: impl Into<IpAddr>, port: u16) -> TcpStream {
    let to = (to.into(), port).into();
    let connect = || TcpStream::connect_timeout(&to, PATIENCE).unwrap();
    let stream = sys::netns::run_in(netns, connect).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

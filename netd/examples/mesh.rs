//! What the routing mesh costs: connections per second to a published port of the task's node and of another node, beside
//! those to the task's host itself, paired in each round. As root: `cargo run --release -p netd --example mesh [ROUNDS]`.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use common::nodes::{Node, Nodes};
use common::{Box, request, world};
use netd::{Backend, IngressPort, NetworkConfig, Protocol, ServiceEndpoint};

#[path = "../tests/common/mod.rs"]
mod common;
/// The netlink module is compiled into the figures as well, to build their world.
mod types {
    pub(crate) use netd::Mac;
}

/// Short: the ways share the client's ports, and a connection that ended is remembered for ten seconds.
const ROUND: Duration = Duration::from_millis(100);

fn main() {
    let rounds = std::env::args().nth(1).and_then(|text| text.parse().ok());
    world(|_| measure(rounds.unwrap_or(9)));
}

fn measure(rounds: usize) {
    let nodes = Nodes::new(2);
    let netds: Vec<_> = nodes.nodes.iter().map(Node::open).collect();
    let address = Ipv4Addr::new(10, 255, 0, 5);
    for (node, netd) in nodes.nodes.iter().zip(&netds) {
        node.wait(netd.set_underlay(Some(nodes.underlay(node.number))))
            .unwrap();
        node.wait(netd.set_ingress(Some("ingress".into()))).unwrap();
    }
    let config = NetworkConfig {
        id: "ingress".into(),
        name: "ingress".into(),
        subnet: Some("10.255.0.0/24".parse().unwrap()),
        ..NetworkConfig::default()
    };
    nodes.nodes[0].wait(netds[0].ensure_network(&config)).unwrap();
    let mut wanted = request("task", &["ingress"]);
    wanted.endpoints[0].ipv4 = Some(address);
    let task = Box::new(nodes.nodes[0].wait(netds[0].attach(wanted)).unwrap());
    serve(&task.netns, 80);
    serve(&nodes.nodes[0].host, 9000);
    for (node, netd) in nodes.nodes.iter().zip(&netds) {
        let here = node.number == 1;
        let service = ServiceEndpoint {
            id: "svc".into(),
            name: "web".into(),
            ports: vec![IngressPort {
                published: 8080,
                target: 80,
                protocol: Protocol::Tcp,
            }],
            backends: vec![Backend {
                task: "task".into(),
                name: "task".into(),
                addresses: vec![("ingress".into(), address)],
                sandbox: here.then(|| "task".into()),
                node: (!here).then(|| "n1".into()),
                ..Backend::default()
            }],
            ..ServiceEndpoint::default()
        };
        node.wait(netd.set_service(service)).unwrap();
    }
    let [first, second] = [&nodes.nodes[0], &nodes.nodes[1]].map(Node::address);
    let (mut near, mut far, mut mesh) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        let bare = calls(&nodes.client, first, 9000);
        let here = calls(&nodes.client, first, 8080);
        let there = calls(&nodes.client, second, 8080);
        near.push(here / bare);
        far.push(there / bare);
        mesh.push(there / here);
    }
    println!("port of the task's node / its host   {:.2}", median(&mut near));
    println!("port of another node / its host      {:.2}", median(&mut far));
    println!("port of another node / of the task's {:.2}", median(&mut mesh));
}

/// One byte each way on each connection.
fn serve(netns: &OwnedFd, port: u16) {
    let listener = sys::netns::run_in(netns, || {
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap()
    });
    let listener = listener.unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream: TcpStream = stream;
            let mut byte = [0];
            let _ = stream
                .read_exact(&mut byte)
                .and_then(|()| stream.write_all(&byte));
        }
    });
}

/// Connections per second.
fn calls(client: &OwnedFd, to: Ipv4Addr, port: u16) -> f64 {
    let work = || {
        let (start, mut count) = (Instant::now(), 0u32);
        while start.elapsed() < ROUND {
            let mut stream = TcpStream::connect((to, port)).unwrap();
            stream.write_all(b"?").unwrap();
            stream.read_exact(&mut [0]).unwrap();
            count += 1;
        }
        f64::from(count) / start.elapsed().as_secs_f64()
    };
    sys::netns::run_in(client, work).unwrap()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

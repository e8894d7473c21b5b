//! The routing mesh over UDP: a port answers on every node, whoever runs the task, which sees who asks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::{Agent, Cluster, Host, eventually, in_network_of};

/// Before a question is asked again.
const PATIENCE: Duration = Duration::from_secs(1);

/// A server in the container of the node's one task: says its node's name and who asks, until the test ends.
fn serve(agent: &Agent, node: &'static str) -> Result<()> {
    let list = agent.get("/containers/json")?;
    let id = list[0]["Id"].as_str().context("no container")?;
    let container = agent.get(&format!("/containers/{id}/json"))?;
    let pid = container["State"]["Pid"].as_i64().context("no process")?;
    // For both IP versions.
    let socket = in_network_of(pid, || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 53)))??;
    std::thread::spawn(move || {
        let mut question = [0; 16];
        while let Ok((_, asker)) = socket.recv_from(&mut question) {
            let answer = format!("{node} {}", asker.ip().to_canonical());
            let _ = socket.send_to(answer.as_bytes(), asker);
        }
    });
    Ok(())
}

/// A client's socket, which keeps its port whatever it asks.
fn client(host: &Host, any: IpAddr) -> Result<UdpSocket> {
    let socket = host.enter(|| UdpSocket::bind((any, 0)))??;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn ask(socket: &UdpSocket, node: SocketAddr) -> Result<String> {
    socket.send_to(b"who?", node)?;
    let mut answer = [0; 100];
    let (length, from) = socket.recv_from(&mut answer)?;
    ensure!(from == node, "{from} answers for {node}");
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

fn wait_answer(socket: &UdpSocket, node: SocketAddr, expected: &str) -> Result<()> {
    eventually(&format!("{expected} answers at {node}"), || {
        let answer = ask(socket, node)?;
        ensure!(answer == expected, "it was {answer}");
        Ok(())
    })
}

/// Every node's addresses at the published port.
fn doors() -> impl Iterator<Item = (SocketAddr, &'static str)> {
    (1..=3).flat_map(|node: u8| {
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0x99, 0, 0, 0, 0, node.into());
        let v4 = SocketAddr::from((Ipv4Addr::new(10, 99, 0, node), 5353));
        [
            (v4, "10.99.0.200"),
            (SocketAddr::from((v6, 5353)), "2001:db8:99::200"),
        ]
    })
}

#[test]
fn a_udp_port_answers_on_every_node_and_follows_its_task_to_another() -> Result<()> {
    let cluster = Cluster::joined(3)?;
    for (node, number) in cluster.nodes.iter().zip(1..) {
        node.build_busybox()?;
        node.host.add_ipv6(number)?;
    }
    let host = cluster.plug_in(200)?;
    host.add_ipv6(200)?;
    let manager = cluster.manager();
    manager.cli_ok(
        "service create -d --name dns -p 5353:53/udp --constraint node.hostname==node2 --stop-grace-period 1s bb sleep 100000",
    )?;
    cluster.wait_spread("dns", &[0, 1, 0])?;
    serve(&cluster.nodes[1], "node2")?;
    let (v4, v6) = (
        client(&host, Ipv4Addr::UNSPECIFIED.into())?,
        client(&host, Ipv6Addr::UNSPECIFIED.into())?,
    );
    let socket = |door: &SocketAddr| if door.is_ipv4() { &v4 } else { &v6 };
    for (door, own) in doors() {
        wait_answer(socket(&door), door, &format!("node2 {own}"))?;
    }

    // UDP has no end: clients that go on asking from the same port must not be led to a task that is gone.
    manager.cli_ok(
        "service update -d --constraint-rm node.hostname==node2 --constraint-add node.hostname==node3 dns",
    )?;
    cluster.wait_spread("dns", &[0, 0, 1])?;
    serve(&cluster.nodes[2], "node3")?;
    for (door, own) in doors() {
        wait_answer(socket(&door), door, &format!("node3 {own}"))?;
    }
    manager.cli_ok("service rm dns")?;
    Ok(())
}

//! What others notice of a node that is lost: connections with what runs there end, and its containers have no names until it
//! is back.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use integration::{Agent, Cluster, eventually};

/// Repeats what it hears, to as many as come.
const ECHO: &str = "nc -ll -p 80 -e cat";

/// What a container prints.
fn inside(agent: &Agent, container: &str, script: &str) -> Result<String> {
    agent.cli_ok(&["exec", container, "sh", "-c", script])
}

/// Begins a connection that only listens once it has been answered; `NAME.ended` is there when it has ended.
fn listen(agent: &Agent, container: &str, name: &str, to: &str) -> Result<()> {
    let script = format!(
        "mkfifo /{name}; sleep 100000 > /{name} & (nc {to} 80 < /{name} > /{name}.heard; touch /{name}.ended) & \
         echo hello > /{name}"
    );
    agent.cli_ok(&["exec", "-d", container, "sh", "-c", &script])?;
    eventually(&format!("{to} answers"), || {
        let heard = inside(agent, container, &format!("cat /{name}.heard"))?;
        ensure!(heard.contains("hello"), "it said {heard:?}");
        Ok(())
    })
}

fn has_ended(agent: &Agent, container: &str, name: &str) -> Result<bool> {
    let script = format!("test -e /{name}.ended && echo yes || echo no");
    Ok(inside(agent, container, &script)?.trim() == "yes")
}

fn wait_end(agent: &Agent, container: &str, name: &str) -> Result<()> {
    eventually(&format!("the connection {name} ends"), || {
        ensure!(has_ended(agent, container, name)?, "it goes on");
        Ok(())
    })
}

/// The address that a container on the first node finds under a name, if any.
fn finds(agent: &Agent, container: &str, name: &str) -> Result<Option<String>> {
    let found = inside(agent, container, &format!("nslookup {name} || true"))?;
    // The server's own address has a port, where this nslookup says it at all.
    let mut words = found.split_whitespace().skip_while(|word| *word != "Name:");
    let address = words.find(|word| word.starts_with("10.77."));
    Ok(address.map(str::to_owned))
}

fn wait_name(agent: &Agent, name: &str, there: bool) -> Result<()> {
    eventually(&format!("{name} is found: {there}"), || {
        let found = finds(agent, "client", name)?;
        ensure!(found.is_some() == there, "it leads to {found:?}");
        Ok(())
    })
}

#[test]
fn connections_to_a_lost_node_end_and_its_containers_have_no_names_until_it_is_back() -> Result<()> {
    let mut cluster = Cluster::joined(3)?;
    // One node with each of the balancers.
    cluster.nodes[1].flags = vec!["--balancer=nftables".into()];
    cluster.nodes[1].stop()?;
    cluster.nodes[1].run()?;
    cluster.wait_state("node2", "ready")?;
    for node in &cluster.nodes {
        node.build_busybox()?;
    }
    let (manager, near, lost) = (cluster.manager(), &cluster.nodes[1], &cluster.nodes[2]);
    manager.cli_ok("network create -d overlay --attachable --subnet 10.77.0.0/24 net")?;
    manager.cli_ok(&format!(
        "service create -d --name web --network net --constraint node.hostname==node3 bb sh -c '{ECHO}'"
    ))?;
    cluster.wait_spread("web", &[0, 0, 1])?;
    manager.cli_ok("run -d --name client --network net bb sleep 100000")?;
    near.cli_ok(&[
        "run",
        "-d",
        "--name",
        "other",
        "--network",
        "net",
        "bb",
        "sh",
        "-c",
        ECHO,
    ])?;
    lost.cli_ok(&[
        "run",
        "-d",
        "--name",
        "box",
        "--network",
        "net",
        "bb",
        "sh",
        "-c",
        ECHO,
    ])?;
    wait_name(manager, "box", true)?;
    wait_name(manager, "tasks.web", true)?;
    let task = finds(manager, "client", "tasks.web")?.context("it has just been there")?;
    for (name, to) in [
        ("vip", "web"),
        ("task", &task),
        ("box", "box"),
        ("other", "other"),
    ] {
        listen(manager, "client", name, to)?;
    }

    near.cli_ok("run -d --name ruled --network net bb sleep 100000")?;
    listen(near, "ruled", "vip", "web")?;
    listen(near, "ruled", "task", &task)?;

    cluster.set_cable(3, false)?;
    wait_end(near, "ruled", "vip")?;
    wait_end(near, "ruled", "task")?;
    for name in ["vip", "task", "box"] {
        wait_end(manager, "client", name)?;
    }
    wait_name(manager, "box", false)?;
    ensure!(
        finds(manager, "client", "other")?.is_some(),
        "that node is not lost"
    );
    ensure!(
        !has_ended(manager, "client", "other")?,
        "connections elsewhere go on"
    );

    cluster.set_cable(3, true)?;
    let begin = std::time::Instant::now();
    wait_name(manager, "box", true)?;
    println!("cable back -> name back: {:?}", begin.elapsed());
    listen(manager, "client", "again", "box")
}

/// What the service says back through a published port.
fn say(stream: &mut TcpStream, word: &str) -> std::io::Result<String> {
    stream.write_all(word.as_bytes())?;
    let mut answer = [0; 16];
    let length = stream.read(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into_owned())
}

#[test]
fn a_client_of_a_published_port_is_refused_once_the_tasks_node_is_lost() -> Result<()> {
    let cluster = Cluster::joined(3)?;
    for node in &cluster.nodes {
        node.build_busybox()?;
    }
    let client = cluster.plug_in(200)?;
    cluster.manager().cli_ok(&format!(
        "service create -d --name web -p 8080:80 --constraint node.hostname==node3 bb sh -c '{ECHO}'"
    ))?;
    cluster.wait_spread("web", &[0, 0, 1])?;
    let mut streams = Vec::new();
    for door in 1..=2 {
        let address = format!("10.99.0.{door}:8080").parse()?;
        let stream = eventually("the port answers", || {
            let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(5));
            let mut stream = client.enter(connect)??;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            ensure!(say(&mut stream, "hello")? == "hello");
            Ok(stream)
        })?;
        streams.push(stream);
    }
    cluster.set_cable(3, false)?;
    cluster.wait_state("node3", "down")?;
    let begin = std::time::Instant::now();
    for stream in &mut streams {
        let error = loop {
            match say(stream, "on") {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    ensure!(begin.elapsed() < Duration::from_secs(30), "it waits for ever");
                }
                Err(error) => break error,
                Ok(said) => bail!("a lost node says {said:?}"),
            }
        };
        println!("node given up -> client refused: {:?}", begin.elapsed());
        ensure!(error.kind() == std::io::ErrorKind::ConnectionReset, "{error}");
    }
    cluster.set_cable(3, true)?;
    cluster.wait_state("node3", "ready")?;
    Ok(())
}

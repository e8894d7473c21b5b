//! Nodes that reach each other over IPv6: with such addresses alone, and beside IPv4's.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use integration::{Agent, Cluster, Versions, eventually};

/// Answers with where it runs, over both IP versions: on port 80 in HTTP, on port 81 as it is, on port 82 with a MiB.
const SERVE: &str = "mkdir /www; echo $NODE | tee /www/index.html; head -c 1048576 /dev/zero > /www/big; \
    nc -ll -p 81 -e cat /www/index.html & nc -ll -p 82 -e cat /www/big & exec httpd -f -p 80 -h /www";

/// The name of the container of a service's task on a node.
fn container(node: &Agent, service: &str) -> Result<String> {
    let names = node.cli_ok("ps --format {{.Names}}")?;
    let begin = format!("{service}.");
    let own = names.lines().find(|name| name.starts_with(&begin));
    own.map(str::to_owned)
        .with_context(|| format!("no {service} in {names:?}"))
}

fn inside(node: &Agent, script: &str) -> Result<String> {
    node.cli_ok(&["exec", &container(node, "web")?, "sh", "-c", script])
}

/// What the tasks of `web` say on a port at each of their addresses of one IP version, to a task on this node.
pub(crate) fn answers(node: &Agent, kind: &str, port: u16, then: &str) -> Result<Vec<String>> {
    let ask = format!(
        "for A in $(nslookup -type={kind} tasks.web | sed '1,/^Name:/d;s/^Address.*: //p;d'); \
         do nc -w 10 $A {port} </dev/null {then}; done"
    );
    let mut said: Vec<_> = inside(node, &ask)?
        .lines()
        .map(|line| line.trim().to_owned())
        .collect();
    said.sort_unstable();
    Ok(said)
}

/// A network with both IP versions, and a service with a task on each node that is on it.
pub(crate) fn serve(cluster: &Cluster) -> Result<()> {
    let from = cluster.manager();
    from.build_busybox()?;
    from.cli_ok("network create -d overlay --ipv6 --attachable dual")?;
    let words = "service create -d --name web --mode global --network dual --stop-grace-period 1s";
    from.cli_ok(&format!(
        "{words} -e NODE={{{{.Node.Hostname}}}} -p 8080:80 bb sh -c '{SERVE}'"
    ))?;
    cluster
        .wait_spread("web", &vec![1; cluster.nodes.len()])
        .map(drop)
}

/// Every task reaches every other at its addresses of both IP versions, and large packets arrive.
fn reach(cluster: &Cluster) -> Result<()> {
    let count = cluster.nodes.len();
    let all: Vec<_> = (1..=count).map(|number| format!("node{number}")).collect();
    for node in &cluster.nodes {
        for kind in ["a", "aaaa"] {
            eventually("every task answers every other", || {
                let found = answers(node, kind, 81, "")?;
                ensure!(found == all, "{kind}: {found:?}\n{}", node.log());
                Ok(())
            })?;
            assert_eq!(
                answers(node, kind, 82, "| wc -c")?,
                vec!["1048576"; count],
                "{kind}"
            );
        }
    }
    Ok(())
}

#[test]
fn nodes_with_ipv6_alone_are_a_cluster_like_any_other() -> Result<()> {
    let mut cluster = Cluster::with_addresses(Versions::V6, 3)?;
    cluster.form(1, 2)?;
    let command = cluster.manager().cli_ok("swarm join-token worker")?;
    assert!(command.contains(" [fd99::1]:2377"), "{command}");
    assert_eq!(cluster.node("node3")?["Status"]["Addr"], "fd99::3");
    // The image is on node1 alone.
    serve(&cluster)?;
    reach(&cluster)?;
    let shown = cluster.nodes[2].get("/networks/dual")?;
    let peers = &shown["Peers"];
    let peers = peers.as_array().into_iter().flatten();
    let peers: BTreeSet<_> = peers.filter_map(|peer| peer["IP"].as_str()).collect();
    assert_eq!(peers, ["fd99::1", "fd99::2", "fd99::3"].into());
    // The headers around a packet are those of IPv6.
    let link = inside(&cluster.nodes[2], "cat /sys/class/net/eth0/mtu")?;
    assert_eq!(link.trim(), "1430");
    mesh(&cluster)?;
    followers(&cluster)?;
    cluster.nodes[2].kill()?;
    cluster.nodes[2].run()?;
    cluster.wait_state("node3", "ready")?;
    reach(&cluster)
}

/// The other nodes as managers: what they are asked the leader answers, and nodes tell what their tasks have said.
fn followers(cluster: &Cluster) -> Result<()> {
    cluster.manager().cli_ok("node promote node2 node3")?;
    eventually("there are three managers", || {
        for number in 1..=3 {
            let node = cluster.node(&format!("node{number}"))?;
            let at = &node["ManagerStatus"]["Addr"];
            ensure!(*at == format!("[fd99::{number}]:2377"), "{node}");
        }
        Ok(())
    })?;
    eventually("a follower tells what all nodes know", || {
        let logs = cluster.worker().cli_ok("service logs --raw web")?;
        let said: BTreeSet<_> = logs.lines().collect();
        ensure!(said == ["node1", "node2", "node3"].into(), "{said:?}");
        Ok(())
    })
}

/// A port answers on a node without a task of its service.
fn mesh(cluster: &Cluster) -> Result<()> {
    let words =
        "service create -d --name lone --constraint node.hostname==node1 --stop-grace-period 1s -p 8081:80";
    cluster.manager().cli_ok(&format!(
        "{words} -e NODE={{{{.Node.Hostname}}}} bb sh -c '{SERVE}'"
    ))?;
    cluster.wait_spread("lone", &[1, 0, 0])?;
    for node in &cluster.nodes {
        eventually("the port answers", || {
            let said = node.host.get("127.0.0.1:8081", "/")?;
            ensure!(said.trim() == "node1", "{said}");
            Ok(())
        })?;
    }
    cluster.manager().cli_ok("service rm lone").map(drop)
}

#[test]
fn a_manager_is_joined_over_either_ip_version() -> Result<()> {
    let cluster = Cluster::with_addresses(Versions::Both, 3)?;
    cluster.init()?;
    for (number, address) in [(1, "[fd99::1]:2377"), (2, "10.99.0.1:2377")] {
        let token = cluster.worker_token()?;
        cluster.nodes[number].cli_ok(&["swarm", "join", "--token", &token, address])?;
    }
    for number in 1..=3_u8 {
        let node = cluster.wait_state(&format!("node{number}"), "ready")?;
        // All are known by addresses of one version: that of the managers.
        assert_eq!(node["Status"]["Addr"], format!("10.99.0.{number}"));
    }
    serve(&cluster)?;
    reach(&cluster)
}

//! The routing mesh over IPv6, and over both IP versions for services that are on further networks.

use anyhow::{Context, Result, bail, ensure};
use integration::{Cluster, Host, eventually};
use serde_json::{Value, json};

use crate::who::{WHO, ask, wait_answer};

/// Three nodes and a client, with IPv6 addresses beside the others.
fn dual_stack() -> Result<(Cluster, Host)> {
    let cluster = Cluster::joined(3)?;
    for (node, number) in cluster.nodes.iter().zip(1..) {
        node.build_busybox()?;
        node.host.add_ipv6(number)?;
    }
    let client = cluster.plug_in(200)?;
    client.add_ipv6(200)?;
    Ok((cluster, client))
}

/// At every node, over both IP versions, one of these answers, and has seen the client's own address.
fn answer_everywhere(client: &Host, port: u16, by: impl Fn(u8) -> Vec<u8>) -> Result<()> {
    for node in 1..=3 {
        let seen =
            |client: &str| -> Vec<_> { by(node).iter().map(|n| format!("node{n} {client}")).collect() };
        wait_answer(client, &format!("10.99.0.{node}:{port}"), &seen("10.99.0.200"))?;
        let own = format!("[2001:db8:99::{node}]:{port}");
        wait_answer(client, &own, &seen("2001:db8:99::200"))?;
    }
    Ok(())
}

fn refused(client: &Host, address: &str) -> Result<()> {
    eventually(&format!("{address} refuses"), || match ask(client, address) {
        Err(error) if error.to_string().contains("refused") => Ok(()),
        answer => bail!("{answer:?}"),
    })
}

#[test]
fn a_published_port_answers_over_ipv6_on_every_node_and_the_task_sees_the_client() -> Result<()> {
    let (mut cluster, client) = dual_stack()?;
    let ingress = cluster.manager().get("/networks/ingress")?;
    ensure!(ingress["EnableIPv6"] == true, "{ingress}");
    let mut words = vec!["service", "create", "-d", "--name", "web", "-p", "8080:80"];
    words.extend(["--stop-grace-period", "1s", "-e", "NODE={{.Node.Hostname}}"]);
    words.extend([
        "--constraint",
        "node.hostname!=node1",
        "--replicas-max-per-node",
        "1",
    ]);
    words.extend(["bb", "sh", "-c", WHO]);
    cluster.manager().cli_ok(&words)?;
    cluster.manager().wait_running("web", 1)?;
    let spread = cluster.manager().running_tasks("web")?;
    let node2 = cluster.node("node2")?["ID"].clone();
    let home = if spread[0]["NodeID"] == node2 { 2 } else { 3 };
    answer_everywhere(&client, 8080, |_| vec![home])?;
    for node in &cluster.nodes {
        let answer = ask(&node.host, "[::1]:8080")?;
        ensure!(answer.starts_with(&format!("node{home} ")), "{answer}");
    }

    cluster.manager().cli_ok(&["service", "scale", "-d", "web=2"])?;
    cluster.wait_spread("web", &[0, 1, 1])?;
    answer_everywhere(
        &client,
        8080,
        |node| if node == 1 { vec![2, 3] } else { vec![node] },
    )?;

    // Nobody watches over it, and still it answers.
    cluster.nodes[1].kill()?;
    let own = ask(&client, "[2001:db8:99::2]:8080")?;
    ensure!(own == "node2 2001:db8:99::200", "{own}");
    cluster.nodes[1].run()?;
    wait_answer(
        &client,
        "[2001:db8:99::2]:8080",
        &["node2 2001:db8:99::200".to_owned()],
    )?;
    cluster.manager().cli_ok(&["service", "rm", "web"])?;
    for node in 1..=3 {
        refused(&client, &format!("[2001:db8:99::{node}]:8080"))?;
    }
    Ok(())
}

#[test]
fn an_ingress_network_without_ipv6_publishes_over_ipv4_and_one_that_replaces_it_over_both() -> Result<()> {
    let cluster = Cluster::joined(2)?;
    for (node, number) in cluster.nodes.iter().zip(1..) {
        node.build_busybox()?;
        node.host.add_ipv6(number)?;
    }
    let manager = cluster.manager();
    let client = cluster.plug_in(200)?;
    client.add_ipv6(200)?;
    for (flag, over_ipv6) in [("", false), ("--ipv6 ", true)] {
        eventually("nobody is on it", || manager.cli_ok("network rm ingress"))?;
        manager.cli_ok(&format!("network create -d overlay --ingress {flag}ingress"))?;
        let mut words: Vec<_> = "service create -d --name web -p 8080:80 --constraint node.hostname==node2"
            .split(' ')
            .collect();
        words.extend(["-e", "NODE={{.Node.Hostname}}", "bb", "sh", "-c", WHO]);
        manager.cli_ok(&words)?;
        for node in 1..=2 {
            wait_answer(
                &client,
                &format!("10.99.0.{node}:8080"),
                &["node2 10.99.0.200".to_owned()],
            )?;
            let address = format!("[2001:db8:99::{node}]:8080");
            if over_ipv6 {
                wait_answer(&client, &address, &["node2 2001:db8:99::200".to_owned()])?;
            } else {
                refused(&client, &address)?;
            }
        }
        manager.cli_ok("service rm web")?;
    }
    Ok(())
}

/// `open` is on a network of the front and on an internal one, `closed` on the internal one alone; both publish a port.
fn stack() -> Value {
    let service = |networks: &[&str], port: u16, node: &str| {
        json!({
            "image": "bb",
            "command": ["sh", "-c", WHO.replace('$', "$$")],
            "environment": {"NODE": "{{.Node.Hostname}}"},
            "networks": networks,
            "ports": [format!("{port}:80")],
            "deploy": {"placement": {"constraints": [format!("node.hostname=={node}")]}},
        })
    };
    let services = json!({
        "open": service(&["front", "back"], 8080, "node2"),
        "closed": service(&["back"], 8081, "node3"),
    });
    let networks = json!({"front": {"enable_ipv6": true}, "back": {"internal": true}});
    json!({"services": services, "networks": networks})
}

#[test]
fn services_on_several_and_on_internal_networks_answer_at_their_ports_and_among_themselves() -> Result<()> {
    let (cluster, client) = dual_stack()?;
    let manager = cluster.manager();
    let file = manager.host.directory().join("stack.yml");
    std::fs::write(&file, stack().to_string())?;
    let file = file.to_str().context("a path")?;
    manager.cli_ok(&["stack", "deploy", "--detach=false", "-c", file, "s"])?;
    answer_everywhere(&client, 8080, |_| vec![2])?;
    answer_everywhere(&client, 8081, |_| vec![3])?;
    for (from, to, node) in [("s_closed", "open", 2), ("s_open", "closed", 3)] {
        let said = eventually(&format!("{to} answers {from}"), || {
            manager.cli_ok(&[
                "service",
                "exec",
                from,
                "wget",
                "-qO-",
                &format!("http://{to}/cgi-bin/who"),
            ])
        })?;
        ensure!(
            said.starts_with(&format!("node{node} ")),
            "{from} asked {to}: {said}"
        );
    }
    manager.cli_ok(&["stack", "rm", "s"])?;
    for port in [8080, 8081] {
        refused(&client, &format!("[2001:db8:99::1]:{port}"))?;
    }
    Ok(())
}

//! Containers of two nodes on one switch reach each other without encapsulation, over both IP versions.

use std::process::Command;

use anyhow::{Result, ensure};
use integration::{Agent, Cluster, Host, Versions, eventually};

use crate::ipv6_underlay::{answers, serve};
use crate::overlay::{SERVE, container, everywhere, inside};

/// Nothing encapsulated comes in any more.
const NO_VXLAN: &str =
    "table inet vxlan { chain in { type filter hook prerouting priority -400; udp dport 4789 drop\n }\n }";

/// The host's routes to single addresses of other nodes.
fn direct_routes(host: &Host) -> Result<String> {
    let list = |version| {
        Command::new("ip")
            .args([version, "route", "show", "proto", "83"])
            .output()
    };
    let outputs = host.enter(|| ["-4", "-6"].map(list))?;
    let mut routes = String::new();
    for output in outputs {
        routes += &String::from_utf8(output?.stdout)?;
    }
    Ok(routes)
}

fn go_directly(versions: Versions) -> Result<()> {
    let cluster = Cluster::with_addresses(versions, 2)?;
    cluster.form(1, 1)?;
    serve(&cluster)?;
    for node in &cluster.nodes {
        node.host.nft(NO_VXLAN)?;
    }
    let all = ["node1", "node2"];
    for node in &cluster.nodes {
        for kind in ["a", "aaaa"] {
            eventually("every task answers every other, also with much", || {
                let found = answers(node, kind, 81, "")?;
                ensure!(found == all, "{kind}: {found:?}\n{}", node.log());
                let sizes = answers(node, kind, 82, "| wc -c")?;
                ensure!(sizes == ["1048576"; 2], "{kind}: {sizes:?}");
                Ok(())
            })?;
        }
    }
    for node in &cluster.nodes {
        ensure!(!direct_routes(&node.host)?.is_empty(), "another way was taken");
    }
    cluster.worker().cli_ok("swarm leave")?;
    let routes = direct_routes(&cluster.worker().host)?;
    ensure!(routes.is_empty(), "who has left has still a way back: {routes}");
    cluster.manager().cli_ok("service rm web")?;
    eventually("nothing is left on the other node", || {
        let routes = direct_routes(&cluster.manager().host)?;
        ensure!(routes.is_empty(), "{routes}");
        Ok(())
    })
}

#[test]
fn both_ip_versions_go_directly_between_nodes_with_ipv4_addresses() -> Result<()> {
    go_directly(Versions::V4)
}

#[test]
fn both_ip_versions_go_directly_between_nodes_with_ipv6_addresses() -> Result<()> {
    go_directly(Versions::V6)
}

/// What a task hears from another one's address.
fn hears(node: &Agent, service: &str, address: &str) -> Result<String> {
    let ask = format!("timeout 2 wget -q -O - http://{address}/ 2>&1 || echo nothing");
    Ok(inside(node, service, &ask)?.trim().to_owned())
}

#[test]
fn networks_whose_containers_go_directly_do_not_meet() -> Result<()> {
    let cluster = Cluster::joined(2)?;
    let [near, far] = [&cluster.nodes[0], &cluster.nodes[1]];
    near.build_busybox()?;
    let mut addresses = Vec::new();
    for network in ["front", "back"] {
        near.cli_ok(&format!("network create -d overlay {network}"))?;
        everywhere(&cluster, network, &format!("--network {network}"), SERVE)?;
        let format = format!("{{{{.NetworkSettings.Networks.{network}.IPAddress}}}}");
        let id = container(far, network)?;
        let address = far.cli_ok(&["inspect", "--format", &format, &id])?;
        addresses.push((network, address.trim().to_owned()));
    }
    for node in &cluster.nodes {
        node.host.nft(NO_VXLAN)?;
    }
    for (network, address) in &addresses {
        eventually("the other node's task answers", || {
            let said = hears(near, network, address)?;
            ensure!(said == "node2", "{said}");
            Ok(())
        })?;
    }
    let [(front, at_front), (back, at_back)] = &addresses[..] else {
        unreachable!("there are two networks");
    };
    for (from, to) in [(front, at_back), (back, at_front)] {
        let said = hears(near, from, to)?;
        ensure!(said.ends_with("nothing"), "{from} hears from {to}: {said}");
    }
    Ok(())
}

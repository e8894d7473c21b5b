//! Containers of two nodes on one switch reach each other without encapsulation, over both IP versions.

use std::process::Command;

use anyhow::{Result, ensure};
use integration::{Cluster, Host, Versions, eventually};

use crate::ipv6_underlay::{answers, serve};

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

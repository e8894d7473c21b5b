//! What Docker's overlay networks are known to suffer from, each by its name. Of the list three are shown here; the others
//! where their subject is: names after a node's return (`overlay`), the client's address in the mesh (`mesh`, `mesh6`),
//! IPv6 (`ipv6`, `ipv6_underlay`, `mesh6`).

use anyhow::{Context, Result, ensure};
use integration::{Agent, Cluster, eventually};

use crate::attachable;
use crate::overlay::{SERVE, everywhere, inside, wait_answers};

/// The address that moves between nodes.
const ADDRESS: &str = "10.77.0.50";

/// A container hears from the address which node it is on.
fn wait_hears(node: &Agent, from: &str, expected: &str) -> Result<()> {
    eventually(&format!("{from} finds {ADDRESS} on {expected}"), || {
        let ask = format!("timeout 1 wget -q -O - http://{ADDRESS}/");
        let said = attachable::inside(node, from, &ask)?;
        ensure!(said.trim() == expected, "{said}");
        Ok(())
    })
}

/// Entries of neighbours and of the forwarding table say where somebody was, and nobody corrects them.
#[test]
fn stale_neighbour_and_forwarding_entries() -> Result<()> {
    let cluster = attachable::joined(2)?;
    let [one, two] = [&cluster.nodes[0], &cluster.nodes[1]];
    attachable::run(one, "client1", "--network net")?;
    attachable::run(two, "client2", "--network net")?;
    for (node, name) in [(one, "node1"), (two, "node2"), (one, "node1")] {
        let flags = format!("run -d --name moved --network net --ip {ADDRESS} -e NODE={name} bb sh -c");
        let mut words: Vec<&str> = flags.split(' ').collect();
        words.push(SERVE);
        node.cli_ok(&words)?;
        wait_hears(one, "client1", name)?;
        wait_hears(two, "client2", name)?;
        node.cli_ok("rm -f moved")?;
    }
    Ok(())
}

/// The one address that a name leads to, as a task sees it; none if the name is unknown.
fn virtual_address(node: &Agent, name: &str) -> Result<Option<String>> {
    let found = inside(node, "probe", &format!("nslookup {name} || true"))?;
    let words = found.split_whitespace().skip_while(|word| *word != "Name:");
    let addresses: Vec<_> = words
        .filter(|word| word.parse::<std::net::Ipv4Addr>().is_ok())
        .collect();
    ensure!(
        addresses.len() < 2,
        "{name} has several virtual addresses: {found}"
    );
    Ok(addresses.first().map(|address| (*address).to_owned()))
}

/// A service is gone, and its address stays with its name, or answers for nobody.
#[test]
fn ghost_virtual_addresses() -> Result<()> {
    let cluster = Cluster::joined(2)?;
    let manager = cluster.manager();
    manager.build_busybox()?;
    manager.cli_ok("network create -d overlay net")?;
    everywhere(&cluster, "probe", "--network net", "sleep 10000")?;
    for _ in 0..3 {
        everywhere(&cluster, "web", "--network net", SERVE)?;
        wait_answers(&cluster, &[0, 1], "tasks.web", &["node1", "node2"])?;
        let address = virtual_address(manager, "web")?.context("it has no address")?;
        for node in &cluster.nodes {
            let seen = virtual_address(node, "web")?;
            ensure!(seen.as_ref() == Some(&address), "{seen:?} is not {address}");
            inside(node, "probe", "timeout 5 wget -q -O - http://web/")?;
        }
        manager.cli_ok("service rm web")?;
        for node in &cluster.nodes {
            eventually("the name is gone", || {
                let seen = virtual_address(node, "web")?;
                ensure!(seen.is_none(), "{seen:?}");
                Ok(())
            })?;
            let ask = format!("timeout 2 wget -q -O - http://{address}/");
            ensure!(inside(node, "probe", &ask).is_err(), "{address} answers");
        }
    }
    Ok(())
}

/// All daemons were restarted, and networks that were there before carry nothing, or take nobody in.
#[test]
fn networks_that_are_broken_after_a_restart() -> Result<()> {
    let mut cluster = Cluster::joined(2)?;
    cluster.manager().build_busybox()?;
    cluster.manager().cli_ok("network create -d overlay net")?;
    everywhere(&cluster, "probe", "--network net", "sleep 10000")?;
    everywhere(&cluster, "web", "--network net", SERVE)?;
    let all = ["node1", "node2"];
    wait_answers(&cluster, &[0, 1], "tasks.web", &all)?;
    for node in &mut cluster.nodes {
        node.kill()?;
    }
    for node in &mut cluster.nodes {
        node.run()?;
    }
    for node in all {
        cluster.wait_state(node, "ready")?;
    }
    wait_answers(&cluster, &[0, 1], "tasks.web", &all)?;
    everywhere(&cluster, "late", "--network net", SERVE)?;
    wait_answers(&cluster, &[0, 1], "tasks.late", &all)?;
    for node in &cluster.nodes {
        for name in ["web", "late"] {
            inside(node, "probe", &format!("timeout 5 wget -q -O - http://{name}/"))?;
        }
    }
    Ok(())
}

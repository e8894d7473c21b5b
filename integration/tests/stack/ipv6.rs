//! Networks with IPv6 beside IPv4: on one node, and across nodes.

use anyhow::{Context, Result, ensure};
use integration::{Agent, Cluster, eventually};

/// Says its address to whoever connects.
const SERVER: &str = "exec nc -ll -p 80 -e cat /etc/hostname";

#[test]
fn containers_of_a_dual_stack_bridge_reach_each_other_over_ipv6() -> Result<()> {
    let agent = Agent::start()?;
    agent.build_busybox()?;
    let refusal = agent.cli_refused(&["network", "create", "--subnet", "fd00:5::/64", "no"])?;
    ensure!(refusal.contains("--ipv6"), "{refusal}");
    let subnets = "--subnet 10.55.0.0/24 --subnet fd00:55::/64 --gateway fd00:55::9";
    agent.cli_ok(&format!("network create --ipv6 {subnets} dual"))?;
    let network = &agent.get("/networks/dual")?;
    ensure!(network["EnableIPv6"] == true, "{network}");
    ensure!(
        network["IPAM"]["Config"][1]["Gateway"] == "fd00:55::9",
        "{network}"
    );
    let run = [
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "dual",
        "--ip6",
        "fd00:55::77",
        "bb",
        "sh",
        "-c",
        SERVER,
    ];
    agent.cli_ok(&run)?;
    let web = agent.get("/containers/web/json")?;
    let settings = &web["NetworkSettings"]["Networks"]["dual"];
    ensure!(settings["GlobalIPv6Address"] == "fd00:55::77", "{settings}");
    ensure!(settings["IPv6Gateway"] == "fd00:55::9", "{settings}");
    let ask = "nslookup -type=aaaa web | grep -q fd00:55::77 && nc fd00:55::77 80 </dev/null";
    let name = web["Config"]["Hostname"].as_str().context("no hostname")?;
    eventually("the server answers over IPv6", || {
        let said = agent.cli_ok(&["run", "--rm", "--network", "dual", "bb", "sh", "-c", ask])?;
        ensure!(said.contains(name), "{said}");
        Ok(())
    })
}

#[test]
fn a_service_is_reached_over_ipv6_from_another_node() -> Result<()> {
    let cluster = Cluster::joined(2)?;
    for node in &cluster.nodes {
        node.build_busybox()?;
    }
    let manager = cluster.manager();
    manager.cli_ok("network create -d overlay --ipv6 --attachable dual")?;
    let names = ["web on node1", "client on node2"];
    let place = |node: &str| format!("node.hostname=={node}");
    for (name, node, script) in [("web", "node1", SERVER), ("client", "node2", "exec sleep 1000")] {
        let place = place(node);
        let mut words = vec!["service", "create", "-d", "--name", name, "--network", "dual"];
        words.extend(["--constraint", &place, "bb", "sh", "-c", script]);
        manager.cli_ok(&words)?;
    }
    for name in ["web", "client"] {
        manager.wait_running(name, 1).with_context(|| names.join(", "))?;
    }
    let service = manager.get("/services/web")?;
    let vips = service["Endpoint"]["VirtualIPs"]
        .as_array()
        .context("no virtual IPs")?;
    ensure!(vips.len() == 2, "one of each IP version: {service}");
    let ask = |name: &str| {
        format!(
            "A=$(nslookup -type=aaaa {name} | sed -n 's/^Address: //p' | tail -1); nc -w 3 $A 80 </dev/null"
        )
    };
    let client = eventually("the client runs on the other node", || {
        let all = cluster.worker().get("/containers/json")?;
        let id = all[0]["Id"].as_str().context("no container")?;
        Ok(id.to_owned())
    })?;
    for name in ["tasks.web", "web"] {
        let ask = ask(name);
        eventually("the service answers over IPv6", || {
            let said = cluster.worker().cli_ok(&["exec", &client, "sh", "-c", &ask])?;
            ensure!(!said.trim().is_empty(), "nobody answers at {name}");
            Ok(())
        })?;
    }
    Ok(())
}

//! What there is too little of, and what somebody else has: subnets, addresses, ports. It is said where a user looks, and it
//! ends when there is room.

use std::net::TcpListener;

use anyhow::{Context, Result, ensure};
use integration::{Agent, Cluster, eventually};
use serde_json::Value;

/// What is wrong with a network, as `network inspect` shows it.
fn problems(agent: &Agent, network: &str) -> Result<Vec<String>> {
    let shown = agent.get(&format!("/networks/{network}"))?;
    let problems = shown["Problems"].as_array().cloned().unwrap_or_default();
    Ok(problems
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect())
}

#[test]
fn a_node_that_reaches_a_networks_addresses_otherwise_joins_and_takes_no_tasks_of_it() -> Result<()> {
    let cluster = Cluster::new(3)?;
    cluster.init()?;
    let manager = cluster.manager();
    manager.build_busybox()?;
    cluster.join(1, "worker")?;
    cluster.wait_state("node2", "ready")?;
    manager.cli_ok("network create -d overlay --subnet 10.77.0.0/24 net")?;
    assert_eq!(problems(manager, "net")?, Vec::<String>::new());

    let third = &cluster.nodes[2];
    third.host.ip("route add 10.77.0.128/25 via 10.99.0.1")?;
    cluster.join(2, "worker")?;
    cluster.wait_state("node3", "ready")?;
    let expected = "subnet 10.77.0.0/24 of network net overlaps with 10.77.0.128/25, which node node3 reaches otherwise: \
                    it takes no tasks of it";
    assert_eq!(problems(manager, "net")?, [expected]);
    let node = manager.cli_ok("node inspect node3")?;
    assert!(node.contains(expected), "{node}");

    // The others work, and the node takes whatever is not on that network.
    manager.cli_ok("service create -d --name web --network net --replicas 4 bb sleep 1000")?;
    manager.cli_ok("service create -d --name free --mode global bb sleep 1000")?;
    cluster.wait_spread("web", &[2, 2, 0])?;
    cluster.wait_spread("free", &[1, 1, 1])?;
    manager.cli_ok(
        "service create -d --name tied --network net --constraint node.hostname==node3 bb sleep 1000",
    )?;
    eventually("the task says why it waits", || {
        let tasks = manager.cli_ok("service ps --no-trunc tied")?;
        let expected = "10.77.0.0/24";
        ensure!(tasks.contains("Pending") && tasks.contains(expected), "{tasks}");
        Ok(())
    })?;
    // It was not tried first.
    let tried = manager.cli_ok("node ps node3 --format {{.Name}}")?;
    assert!(tried.lines().all(|task| task.starts_with("free.")), "{tried}");

    // The route goes, and what waits for that begins.
    third.host.ip("route del 10.77.0.128/25")?;
    cluster.wait_spread("tied", &[0, 0, 1])?;
    assert_eq!(problems(manager, "net")?, Vec::<String>::new());
    Ok(())
}

#[test]
fn routes_and_networks_that_come_later_are_known_to_the_cluster() -> Result<()> {
    let cluster = Cluster::joined(2)?;
    let (manager, worker) = (cluster.manager(), cluster.worker());
    manager.build_busybox()?;
    manager.cli_ok("network create -d overlay --subnet 10.77.0.0/24 net")?;
    manager.cli_ok("service create -d --name web --network net --replicas 2 bb sleep 1000")?;
    cluster.wait_spread("web", &[1, 1])?;
    assert_eq!(problems(manager, "net")?, Vec::<String>::new());

    // Somebody dials into a network elsewhere.
    worker.host.ip("link add vpn type veth peer name away")?;
    worker.host.ip("link set away up")?;
    worker.host.ip("link set vpn up")?;
    worker.host.ip("address add 10.77.9.1/16 dev vpn")?;
    let expected = "subnet 10.77.0.0/24 of network net overlaps with 10.77.0.0/16, which node node2 reaches otherwise: \
                    it takes no tasks of it";
    eventually("the network says what is wrong", || {
        let problems = problems(manager, "net")?;
        ensure!(problems == [expected], "{problems:?}");
        Ok(())
    })?;
    manager.cli_ok("service scale -d web=4")?;
    // What runs already stays.
    cluster.wait_spread("web", &[3, 1])?;
    let words = "service create -d --name tied --network net --constraint node.hostname==node2 bb sleep 1000";
    manager.cli_ok(words)?;
    eventually("a task says why it waits", || {
        let tasks = manager.cli_ok("service ps --no-trunc tied")?;
        ensure!(
            tasks.contains("Pending") && tasks.contains("10.77.0.0/24"),
            "{tasks}"
        );
        Ok(())
    })?;
    // Its routes go with the link, and no message tells of each.
    worker.host.ip("link set vpn down")?;
    cluster.wait_spread("tied", &[0, 1])?;
    assert_eq!(problems(manager, "net")?, Vec::<String>::new());

    // A network of the node alone, without a route on the host.
    worker.cli_ok("network create --internal --subnet 10.78.0.0/24 own")?;
    eventually("its subnet is kept from the cluster", || {
        let words = [
            "network",
            "create",
            "-d",
            "overlay",
            "--subnet",
            "10.78.0.0/24",
            "late",
        ];
        let refused = manager.cli(&words)?;
        if refused.status.success() {
            manager.cli_ok("network rm late")?;
        }
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(
            said.contains("10.78.0.0/24, which node node2 reaches otherwise"),
            "{said}"
        );
        Ok(())
    })?;
    worker.cli_ok("network rm own")?;
    eventually("its subnet is free", || {
        manager
            .cli_ok("network create -d overlay --subnet 10.78.0.0/24 late")
            .map(drop)
    })
}

#[test]
fn a_small_networks_last_address_is_missed_aloud_until_tasks_go() -> Result<()> {
    let cluster = Cluster::joined(2)?;
    let manager = cluster.manager();
    manager.build_busybox()?;
    // Of its six addresses one is the gateway's and one the service's.
    manager.cli_ok("network create -d overlay --subnet 10.66.0.0/29 small")?;
    manager.cli_ok(
        "service create -d --name web --network small --replicas 6 --stop-grace-period 1s bb sleep 1000",
    )?;
    manager.wait_running("web", 4)?;
    let reason =
        "no free address in network small (10.66.0.0/29); remove tasks or services, or use a larger subnet";
    eventually("task and network say what is missing", || {
        let tasks = manager.cli_ok("service ps --no-trunc web")?;
        ensure!(tasks.matches(reason).count() == 2, "{tasks}");
        let problems = problems(manager, "small")?;
        ensure!(problems == [format!("{reason}: 2 tasks wait")], "{problems:?}");
        Ok(())
    })?;
    // What is on no such network does not mind, and what is waits like the others.
    manager.cli_ok("service create -d --name other --network small bb sleep 1000")?;
    manager.cli_ok("service create -d --name free bb sleep 1000")?;
    manager.wait_running("free", 1)?;
    eventually("the next service waits, too", || {
        let tasks = manager.cli_ok("service ps --no-trunc other")?;
        ensure!(tasks.contains(reason), "{tasks}");
        Ok(())
    })?;

    manager.cli_ok("service scale -d web=2")?;
    manager.wait_running("other", 1)?;
    manager.wait_running("web", 2)?;
    eventually("nothing is missing any more", || {
        let problems = problems(manager, "small")?;
        ensure!(problems.is_empty(), "{problems:?}");
        Ok(())
    })?;
    let mut seen = std::collections::BTreeSet::new();
    for service in ["web", "other"] {
        for task in manager.running_tasks(service)? {
            let address = task["NetworksAttachments"][0]["Addresses"][0].as_str();
            assert!(seen.insert(address.context("an address")?.to_owned()), "{seen:?}");
        }
    }
    Ok(())
}

#[test]
fn a_port_that_another_program_holds_on_one_node_is_taken_when_it_goes() -> Result<()> {
    let cluster = Cluster::joined(2)?;
    let (manager, worker) = (cluster.manager(), cluster.worker());
    manager.build_busybox()?;
    let client = cluster.plug_in(200)?;
    let foreign = worker.host.enter(|| TcpListener::bind("0.0.0.0:8080"))??;
    let serve = "mkdir /www; echo $NODE > /www/index.html; exec httpd -f -p 80 -h /www";
    let mut words = vec!["service", "create", "-d", "--name", "web", "--mode", "global"];
    words.extend(["-p", "8080:80", "-p", "8081:80", "-e", "NODE={{.Node.Hostname}}"]);
    words.extend(["--stop-grace-period", "1s", "bb", "sh", "-c", serve]);
    manager.cli_ok(&words)?;
    cluster.wait_spread("web", &[1, 1])?;
    let ask = |node: u8, port: u16| client.get(&format!("10.99.0.{node}:{port}"), "/");
    eventually("the other node answers", || {
        ensure!(ask(1, 8080)? == "node1\n");
        Ok(())
    })?;
    eventually("the port that is free answers on both", || {
        ensure!(ask(1, 8081)? == "node1\n" && ask(2, 8081)? == "node2\n");
        Ok(())
    })?;
    let warnings = || -> Result<String> { Ok(worker.get("/info")?["Warnings"].to_string()) };
    eventually("the node says who has the other port", || {
        let warnings = warnings()?;
        let expected = "service web: this node does not answer at port 8080/tcp, which is held by";
        ensure!(warnings.contains(expected), "{warnings}");
        Ok(())
    })?;
    drop(foreign);
    eventually("the port is taken", || {
        let answer = ask(2, 8080)?;
        ensure!(answer == "node2\n", "{answer}");
        Ok(())
    })?;
    let warnings = warnings()?;
    assert!(!warnings.contains("8080"), "{warnings}");
    let again = worker.host.enter(|| TcpListener::bind("0.0.0.0:8080"))?;
    assert!(again.is_err(), "nobody else can have it");
    Ok(())
}

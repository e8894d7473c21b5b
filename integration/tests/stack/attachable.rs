//! Containers that were started by hand on the cluster's networks, and services with an address of their own.

use anyhow::{Context, Result, ensure};
use integration::{Agent, Cluster, agent::escape, eventually};
use serde_json::Value;

use crate::docker_cli::Docker;

/// So many nodes with an image, the first of them a manager with an attachable network of a known subnet.
pub(crate) fn joined(count: u8) -> Result<Cluster> {
    let cluster = Cluster::joined(count)?;
    for node in &cluster.nodes {
        node.build_busybox()?;
    }
    cluster
        .manager()
        .cli_ok("network create -d overlay --attachable --subnet 10.77.0.0/24 net")?;
    Ok(cluster)
}

/// Starts a container that sleeps.
pub(crate) fn run(agent: &Agent, name: &str, flags: &str) -> Result<String> {
    agent.cli_ok(&format!("run -d --name {name} {flags} bb sleep 1000"))
}

/// The address of a container on a network, as its node tells it.
pub(crate) fn address(agent: &Agent, container: &str, network: &str) -> Result<String> {
    let inspect = agent.get(&format!("/containers/{container}/json"))?;
    let on = &inspect["NetworkSettings"]["Networks"][network];
    let address = on["IPAddress"].as_str().filter(|text| !text.is_empty());
    address
        .map(str::to_owned)
        .with_context(|| format!("{container} is not on {network}: {inspect}"))
}

/// What a container prints.
pub(crate) fn inside(agent: &Agent, container: &str, script: &str) -> Result<String> {
    agent.cli_ok(&["exec", container, "sh", "-c", script])
}

/// The places that the manager knows, each as container, address and state.
pub(crate) fn places(cluster: &Cluster) -> Result<Vec<(String, String, String)>> {
    let filters = escape(r#"{"runtime":["attachment"]}"#);
    let tasks = cluster.manager().get(&format!("/tasks?filters={filters}"))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let tasks = tasks.as_array().into_iter().flatten();
    let mut places: Vec<_> = tasks
        .map(|task| {
            (
                text(&task["Spec"]["Networks"][0]["Aliases"][0]),
                text(&task["NetworksAttachments"][0]["Addresses"][0]),
                text(&task["Status"]["State"]),
            )
        })
        .collect();
    places.sort();
    Ok(places)
}

/// Waits until these containers have places at these addresses, and no others have any.
pub(crate) fn wait_places(cluster: &Cluster, expected: &[(&str, &str)]) -> Result<()> {
    eventually(&format!("the places are {expected:?}"), || {
        let places = places(cluster)?;
        let now: Vec<_> = places
            .iter()
            .map(|(name, address, _)| (name.as_str(), address.as_str()))
            .collect();
        ensure!(now == expected, "they are {places:?}");
        let running = places.iter().all(|(.., state)| state == "running");
        ensure!(running, "they are {places:?}");
        Ok(())
    })
}

#[test]
fn a_worker_starts_containers_on_the_clusters_networks() -> Result<()> {
    let cluster = joined(2)?;
    let (manager, worker) = (cluster.manager(), cluster.worker());
    let refused = worker.cli_refused("network create -d overlay other")?;
    assert!(refused.contains("not a swarm manager"), "{refused}");
    let listed = worker.cli_ok("network ls --format {{.Name}}")?;
    assert!(
        !listed.lines().any(|name| name == "net"),
        "nothing is on it yet: {listed}"
    );

    run(worker, "box", "--network net --network-alias other")?;
    assert_eq!(address(worker, "box", "net")?, "10.77.0.2");
    wait_places(&cluster, &[("box", "10.77.0.2/24")])?;
    let shown = inside(worker, "box", "ip -4 -o addr show eth0; ip route")?;
    assert!(shown.contains("10.77.0.2/24"), "{shown}");
    assert!(shown.contains("default via 10.77.0.1 dev eth0"), "{shown}");
    let network = worker.get("/networks/net")?;
    assert_eq!(
        (&network["Scope"], &network["Driver"], &network["Attachable"]),
        (&"swarm".into(), &"overlay".into(), &true.into()),
        "{network}"
    );
    let containers = network["Containers"].as_object().context("containers")?;
    let addresses: Vec<_> = containers.values().map(|on| &on["IPv4Address"]).collect();
    assert_eq!(addresses, ["10.77.0.2/24"]);

    // Who is beside it finds it by its name, its alias, and its short identifier.
    run(worker, "near", "--network net")?;
    let id = worker.get("/containers/box/json")?["Id"]
        .as_str()
        .unwrap_or_default()[..12]
        .to_owned();
    for name in ["box", "other", &id] {
        let answer = inside(worker, "near", &format!("ping -c 1 -W 5 {name}"))?;
        assert!(answer.contains("10.77.0.2"), "{answer}");
    }
    // Nobody is given an address twice, whichever node asks.
    run(manager, "front", "--network net")?;
    wait_places(
        &cluster,
        &[
            ("box", "10.77.0.2/24"),
            ("front", "10.77.0.4/24"),
            ("near", "10.77.0.3/24"),
        ],
    )?;
    let tasks = manager.cli_ok("node ps node2 -q")?;
    assert_eq!(tasks, "", "places are no tasks of anybody's");
    let refused = manager.cli_refused("network rm net")?;
    assert!(
        refused.contains("in use by the following tasks") && refused.contains("(container box on node2)"),
        "{refused}"
    );
    manager.cli_ok("rm -f front")?;
    worker.cli_ok("rm -f box near")?;
    wait_places(&cluster, &[])?;
    manager.cli_ok("network rm net")?;
    eventually("the worker has forgotten the network", || {
        let listed = worker.cli_ok("network ls --format {{.Name}}")?;
        ensure!(!listed.lines().any(|name| name == "net"), "{listed}");
        Ok(())
    })
}

#[test]
fn addresses_that_are_asked_for_are_given_or_refused() -> Result<()> {
    let cluster = joined(2)?;
    let (manager, worker) = (cluster.manager(), cluster.worker());
    manager.cli_ok("network create -d overlay --attachable any")?;
    manager.cli_ok("network create -d overlay closed")?;
    let refused = |flags: &str| worker.cli_refused(&format!("run -d --rm {flags} bb sleep 1000"));
    for (flags, expected) in [
        (
            "--network closed",
            "Could not attach to network closed: rpc error: code = PermissionDenied desc = network closed not manually attachable",
        ),
        (
            "--network nosuch",
            "Could not attach to network nosuch: rpc error: code = NotFound desc = network nosuch not found",
        ),
        (
            "--network any --ip 10.0.0.9",
            "user specified IP address is supported only when connecting to networks with user configured subnets",
        ),
        (
            "--network net --ip 10.78.0.9",
            "address 10.78.0.9 is not one of network net (10.77.0.0/24)",
        ),
        (
            "--network net --ip 10.77.0.1",
            "address 10.77.0.1 of network net is in use by the network itself: it is its gateway",
        ),
    ] {
        let said = refused(flags)?;
        assert!(said.contains(expected), "{flags}: {said}");
    }
    run(worker, "fixed", "--network name=net,ip=10.77.0.50,alias=rock")?;
    assert_eq!(address(worker, "fixed", "net")?, "10.77.0.50");
    let said = manager.cli_refused("run -d --rm --network net --ip 10.77.0.50 bb sleep 1000")?;
    let expected = "address 10.77.0.50 of network net is in use by container fixed on node node2";
    assert!(said.contains(expected), "{said}");
    assert!(
        manager.cli_ok("ps -aq")?.is_empty() && worker.cli_ok("ps -q")?.lines().count() == 1,
        "what was refused leaves nothing"
    );
    wait_places(&cluster, &[("fixed", "10.77.0.50/24")])?;
    worker.cli_ok("rm -f fixed")?;
    run(manager, "next", "--network net --ip 10.77.0.50")?;
    assert_eq!(address(manager, "next", "net")?, "10.77.0.50");
    manager.cli_ok("rm -f next").map(drop)
}

#[test]
fn containers_are_connected_and_disconnected() -> Result<()> {
    let cluster = joined(2)?;
    let worker = cluster.worker();
    worker.cli_ok("network create mine")?;
    run(worker, "box", "--network mine")?;
    worker.cli_ok("network connect --ip 10.77.0.60 --alias rock net box")?;
    let shown = inside(worker, "box", "ip -4 -o addr; ip route")?;
    assert!(
        shown.contains("eth1") && shown.contains("10.77.0.60/24"),
        "{shown}"
    );
    assert!(
        shown.contains("dev eth0") && !shown.contains("default via 10.77.0.1"),
        "{shown}"
    );
    wait_places(&cluster, &[("box", "10.77.0.60/24")])?;
    let again = worker.cli_refused("network connect net box")?;
    assert!(again.contains("already exists in network net"), "{again}");
    run(worker, "near", "--network net")?;
    assert!(inside(worker, "near", "ping -c 1 -W 5 rock")?.contains("10.77.0.60"));

    worker.cli_ok("network disconnect net box")?;
    let shown = inside(worker, "box", "ip -4 -o addr")?;
    assert!(!shown.contains("10.77.0."), "{shown}");
    wait_places(&cluster, &[("near", "10.77.0.2/24")])?;
    let again = worker.cli_refused("network disconnect net box")?;
    assert!(again.contains("is not connected to network net"), "{again}");

    // A container that does not run has no place; it gets one when it starts.
    worker.cli_ok("stop -t 0 box")?;
    worker.cli_ok("network connect net box")?;
    wait_places(&cluster, &[("near", "10.77.0.2/24")])?;
    worker.cli_ok("start box")?;
    let given = address(worker, "box", "net")?;
    wait_places(
        &cluster,
        &[("box", &format!("{given}/24")), ("near", "10.77.0.2/24")],
    )?;
    worker.cli_ok("stop -t 0 box")?;
    worker.cli_ok("network disconnect net box")?;
    worker.cli_ok("start box")?;
    wait_places(&cluster, &[("near", "10.77.0.2/24")])?;
    worker.cli_ok("rm -f box near")?;
    worker.cli_ok("network rm mine").map(drop)
}

/// What a container prints, once the command in it succeeds.
fn succeeds(agent: &Agent, container: &str, script: &str) -> Result<String> {
    eventually(&format!("{script} in {container}"), || {
        inside(agent, container, script)
    })
}

#[test]
fn containers_reach_services_and_each_other_across_nodes() -> Result<()> {
    let cluster = joined(3)?;
    let [manager, near, far] = cluster.nodes.as_slice() else {
        anyhow::bail!("three nodes")
    };
    let serve = "mkdir /www; hostname > /www/index.html; exec httpd -f -p 80 -h /www";
    manager.cli_ok(&[
        "service",
        "create",
        "-d",
        "--name",
        "web",
        "--network",
        "net",
        "--replicas",
        "3",
        "--hostname",
        "{{.Node.Hostname}}",
        "--stop-grace-period",
        "1s",
        "bb",
        "sh",
        "-c",
        serve,
    ])?;
    cluster.wait_spread("web", &[1, 1, 1])?;
    // None of the nodes is asked for anything but its own container: names and ways are there when it starts.
    far.cli_ok(&[
        "run",
        "-d",
        "--name",
        "rock",
        "--hostname",
        "rock",
        "--network",
        "name=net,alias=stone,ip=10.77.0.99",
        "bb",
        "sh",
        "-c",
        serve,
    ])?;
    run(near, "box", "--network net")?;
    let vip = manager.get("/services/web")?["Endpoint"]["VirtualIPs"][0]["Addr"].clone();
    let vip = vip
        .as_str()
        .unwrap_or_default()
        .split('/')
        .next()
        .unwrap_or_default();
    for name in ["rock", "stone", "10.77.0.99"] {
        let answer = succeeds(near, "box", &format!("wget -qO- http://{name}/"))?;
        assert_eq!(answer, "rock\n", "{name}");
    }
    for name in ["web", vip] {
        let mut seen = std::collections::BTreeSet::new();
        eventually(&format!("every task answers at {name}"), || {
            seen.insert(inside(near, "box", &format!("wget -qO- http://{name}/"))?);
            ensure!(seen.len() == 3, "{seen:?}");
            Ok(())
        })?;
    }
    // The way back: a service's task on another node finds the container.
    let id = manager.cli_ok("ps -q --filter name=web")?;
    let answer = succeeds(manager, id.trim(), "ping -c 1 -W 5 box")?;
    assert!(answer.contains(&address(near, "box", "net")?), "{answer}");

    far.cli_ok("rm -f rock")?;
    eventually("nobody finds what is gone", || {
        let found = inside(near, "box", "nslookup rock");
        ensure!(found.is_err(), "{found:?}");
        Ok(())
    })?;
    // Its address is another's now, on another node, and whoever knew the old place finds the new one.
    manager.cli_ok(&[
        "run",
        "-d",
        "--name",
        "rock",
        "--hostname",
        "moved",
        "--network",
        "name=net,ip=10.77.0.99",
        "bb",
        "sh",
        "-c",
        serve,
    ])?;
    for name in ["rock", "10.77.0.99"] {
        let answer = succeeds(near, "box", &format!("wget -qO- http://{name}/"))?;
        assert_eq!(answer, "moved\n", "{name}");
    }
    near.cli_ok("rm -f box")?;
    manager.cli_ok("rm -f rock")?;
    manager.cli_ok("service rm web").map(drop)
}

#[test]
fn the_stock_command_line_attaches_containers() -> Result<()> {
    let cluster = joined(2)?;
    let Some(docker) = Docker::new(cluster.worker())? else {
        return Ok(());
    };
    docker.run(&["network", "create", "mine"])?;
    docker.run(&[
        "run",
        "-d",
        "--name",
        "box",
        "--network",
        "mine",
        "--network",
        "name=net,ip=10.77.0.70,alias=rock",
        "bb",
        "sleep",
        "1000",
    ])?;
    wait_places(&cluster, &[("box", "10.77.0.70/24")])?;
    let address = "{{(index .NetworkSettings.Networks \"net\").IPAddress}}";
    assert_eq!(docker.run(&["inspect", "-f", address, "box"])?, "10.77.0.70\n");
    let answer = docker.run(&[
        "run",
        "--rm",
        "--network",
        "net",
        "bb",
        "ping",
        "-c",
        "1",
        "-W",
        "5",
        "rock",
    ])?;
    assert!(answer.contains("10.77.0.70"), "{answer}");
    let containers = "{{range .Containers}}{{.Name}} {{.IPv4Address}}{{end}}";
    assert_eq!(
        docker.run(&["network", "inspect", "-f", containers, "net"])?,
        "box 10.77.0.70/24\n"
    );
    docker.run(&["network", "disconnect", "net", "box"])?;
    wait_places(&cluster, &[])?;
    docker.run(&[
        "network",
        "connect",
        "--ip",
        "10.77.0.71",
        "--alias",
        "stone",
        "net",
        "box",
    ])?;
    wait_places(&cluster, &[("box", "10.77.0.71/24")])?;
    docker.run(&["rm", "-f", "box"])?;
    wait_places(&cluster, &[])?;
    docker.run(&["network", "rm", "mine"]).map(drop)
}

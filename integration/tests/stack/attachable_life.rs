//! Places on the cluster's networks outlive agents and managers, and end with containers and nodes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use integration::{Agent, Cluster, agent::escape, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::attachable::{address, inside, joined, places, run, wait_places};

/// The task that holds the only place.
fn place(cluster: &Cluster) -> Result<Value> {
    let filters = escape(r#"{"runtime":["attachment"]}"#);
    let tasks = cluster.manager().get(&format!("/tasks?filters={filters}"))?;
    Ok(tasks[0]["ID"].clone())
}

/// Kills the container's process, as it would end by itself, and waits until it has started again.
fn crash(agent: &Agent, container: &str) -> Result<()> {
    let before = agent.get(&format!("/containers/{container}/json"))?;
    let process = before["State"]["Pid"].to_string();
    let killed = std::process::Command::new("kill")
        .args(["-9", &process])
        .status()?;
    ensure!(killed.success(), "kill {process}");
    eventually("it has started again", || {
        let now = agent.get(&format!("/containers/{container}/json"))?;
        let again = now["RestartCount"] != before["RestartCount"] && now["State"]["Status"] == "running";
        ensure!(again, "it is {}", now["State"]);
        Ok(())
    })
}

/// The process of a running container.
fn process(agent: &Agent, container: &str) -> Result<Pid> {
    let state = agent.get(&format!("/containers/{container}/json"))?["State"].clone();
    let process = state["Pid"].as_i64().filter(|process| *process > 0);
    let process = process.with_context(|| format!("{container} does not run: {state}"))?;
    Ok(Pid::from_raw(i32::try_from(process)?))
}

/// Waits until a container runs as another process.
fn wait_another(agent: &Agent, container: &str, before: Pid) -> Result<()> {
    eventually("it runs again", || {
        let now = process(agent, container)?;
        ensure!(now != before, "it is still {now}");
        Ok(())
    })
}

#[test]
fn a_container_keeps_its_address_whatever_ends() -> Result<()> {
    let mut cluster = joined(2)?;
    run(cluster.worker(), "before", "--network net")?;
    run(cluster.worker(), "box", "--network net --restart always")?;
    cluster.worker().cli_ok("rm -f before")?;
    let expected = [("box", "10.77.0.3/24")];
    wait_places(&cluster, &expected)?;
    let first = place(&cluster)?;

    // It ends by itself and starts again: it has had its place all the time.
    crash(cluster.worker(), "box")?;
    assert_eq!(address(cluster.worker(), "box", "net")?, "10.77.0.3");
    assert_eq!(place(&cluster)?, first);
    cluster.worker().cli_ok("restart -t 0 box")?;
    wait_places(&cluster, &expected)?;

    // Its agent ends: nobody takes the place away, and the agent knows it again.
    let held = place(&cluster)?;
    let running = inside(cluster.worker(), "box", "ip -4 -o addr show eth0")?;
    assert!(running.contains("10.77.0.3/24"), "{running}");
    cluster.worker_mut().kill()?;
    cluster.wait_state("node2", "down")?;
    wait_places(&cluster, &expected)?;
    cluster.worker_mut().run()?;
    cluster.wait_state("node2", "ready")?;
    wait_places(&cluster, &expected)?;
    assert_eq!(place(&cluster)?, held);
    assert_eq!(address(cluster.worker(), "box", "net")?, "10.77.0.3");
    assert!(inside(cluster.worker(), "box", "ip -4 -o addr show eth0")?.contains("10.77.0.3/24"));

    // It ends while no agent lives: it starts again as soon as there is a manager to ask, where it was.
    let process = process(cluster.worker(), "box")?;
    cluster.worker_mut().kill()?;
    kill(process, Signal::SIGKILL)?;
    cluster.worker_mut().run()?;
    wait_another(cluster.worker(), "box", process)?;
    wait_places(&cluster, &expected)?;

    // It ends while no manager lives: it is not given up.
    let process = self::process(cluster.worker(), "box")?;
    cluster.nodes[0].kill()?;
    kill(process, Signal::SIGKILL)?;
    eventually("it waits to start again", || {
        let state = cluster.worker().get("/containers/box/json")?["State"].clone();
        ensure!(state["Status"] == "restarting", "{state}");
        Ok(())
    })?;
    // Longer than anybody is asked for a place.
    std::thread::sleep(Duration::from_secs(10));
    cluster.nodes[0].run()?;
    wait_another(cluster.worker(), "box", process)?;
    wait_places(&cluster, &expected)?;
    let held = place(&cluster)?;

    // Without a manager what runs runs on, what would need one is told so, and what ends is told later.
    run(cluster.worker(), "gone", "--network net")?;
    cluster.nodes[0].kill()?;
    let refused = cluster
        .worker()
        .cli_refused("run -d --rm --network net bb sleep 1000")?;
    assert!(
        refused.contains("Could not attach to network net: no manager of the cluster can be reached"),
        "{refused}"
    );
    assert!(inside(cluster.worker(), "box", "ip -4 -o addr show eth0")?.contains("10.77.0.3/24"));
    cluster.worker().cli_ok("rm -f gone")?;
    cluster.nodes[0].run()?;
    cluster.wait_state("node2", "ready")?;
    wait_places(&cluster, &expected)?;
    assert_eq!(place(&cluster)?, held);
    Ok(())
}

#[test]
fn who_leaves_the_cluster_leaves_its_networks() -> Result<()> {
    let cluster = joined(2)?;
    let (manager, worker) = (cluster.manager(), cluster.worker());
    worker.cli_ok("network create mine")?;
    run(worker, "box", "--network mine")?;
    worker.cli_ok("network connect net box")?;
    run(worker, "other", "--network net")?;
    wait_places(&cluster, &[("box", "10.77.0.2/24"), ("other", "10.77.0.3/24")])?;
    worker.cli_ok("swarm leave")?;
    assert!(places(&cluster)?.is_empty(), "{:?}", places(&cluster)?);
    manager.cli_ok("network rm net")?;
    let shown = inside(worker, "box", "ip -4 -o addr")?;
    assert!(shown.contains("eth0") && !shown.contains("10.77.0."), "{shown}");
    let listed = worker.cli_ok("network ls --format {{.Name}}")?;
    assert!(!listed.lines().any(|name| name == "net"), "{listed}");
    worker.cli_ok("rm -f box other")?;
    let refused = worker.cli_refused("run -d --rm --network net bb sleep 1000")?;
    assert!(refused.contains("network net not found"), "{refused}");
    worker.cli_ok("network rm mine").map(drop)
}

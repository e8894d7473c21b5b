//! A service that asked for fencing never has two tasks of one slot: a node that is cut off stops them by itself before
//! they are replaced, whether or not its agent lives.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use integration::{Agent, Cluster, eventually};
use serde_json::Value;

/// Two nodes with the image, and services whose tasks are on the second one.
fn cluster() -> Result<Cluster> {
    let cluster = Cluster::joined(2)?;
    for node in &cluster.nodes {
        node.build_busybox()?;
    }
    Ok(cluster)
}

fn serve_on_second(cluster: &Cluster, words: &str) -> Result<()> {
    cluster.set_availability("node1", "pause")?;
    cluster.manager().cli_ok(&format!("service create -d {words}"))?;
    let name = words.split_whitespace().nth(1).context("a name")?;
    cluster.wait_spread(name, &[0, 1])?;
    cluster.set_availability("node1", "active")
}

/// The state of the container of the service's task on this node.
fn container(agent: &Agent, service: &str) -> Result<Value> {
    let filter = integration::agent::escape(&format!(r#"{{"name":["{service}.1"]}}"#));
    let listed = agent.get(&format!("/containers/json?all=1&filters={filter}"))?;
    let id = listed[0]["Id"].as_str().context("a container")?;
    Ok(agent.get(&format!("/containers/{id}/json"))?["State"].clone())
}

/// The moment of a state, which is the same clock on all nodes here.
fn moment(state: &Value, which: &str) -> Result<String> {
    let text = state[which].as_str().context("a time")?;
    // Digits of a second may be fewer where they are zero.
    let (seconds, digits) = text.trim_end_matches('Z').split_once('.').unwrap_or((text, "0"));
    Ok(format!("{seconds}.{digits:0<9}"))
}

fn assert_one_after_the_other(old: &Value, new: &Value) -> Result<()> {
    assert_eq!(old["Running"], false, "{old}");
    let (ended, started) = (moment(old, "FinishedAt")?, moment(new, "StartedAt")?);
    assert!(ended < started, "{ended} is not before {started}");
    let error = old["Error"].as_str().unwrap_or_default();
    assert!(error.contains("lease has run out"), "{old}");
    Ok(())
}

const STUBBORN: &str = "bb sh -c 'trap \"\" TERM; while :; do sleep 0.1; done'";

#[test]
fn a_node_that_is_cut_off_stops_what_is_fenced_before_it_is_replaced() -> Result<()> {
    let cluster = cluster()?;
    let (manager, worker) = (cluster.manager(), cluster.worker());
    serve_on_second(
        &cluster,
        "--name one --fencing 4s --stop-grace-period 2s bb sleep 1000",
    )?;
    serve_on_second(
        &cluster,
        &format!("--name deaf --fencing 4s --stop-grace-period 2s {STUBBORN}"),
    )?;
    serve_on_second(&cluster, "--name plain --stop-grace-period 2s bb sleep 1000")?;
    cluster.set_cable(2, false)?;
    for service in ["plain", "one", "deaf"] {
        cluster.wait_spread(service, &[1, 0])?;
    }
    for service in ["one", "deaf"] {
        assert_one_after_the_other(&container(worker, service)?, &container(manager, service)?)?;
    }
    assert_eq!(
        container(worker, "plain")?["Running"],
        true,
        "nobody asked for more"
    );
    assert_eq!(container(worker, "deaf")?["ExitCode"], 137);
    // What a node alone must not start, nobody starts there by hand.
    let id = worker.cli_ok("ps -aq --filter name=one.1")?;
    let refused = worker.cli_refused(&format!("start {}", id.trim()))?;
    assert!(refused.contains("lease"), "{refused}");

    cluster.set_cable(2, true)?;
    cluster.wait_state("node2", "ready")?;
    for service in ["plain", "one", "deaf"] {
        cluster.wait_spread(service, &[1, 0])?;
    }
    eventually("the task says why it ended", || {
        let tasks = manager.cli_ok("service ps --no-trunc one")?;
        ensure!(tasks.contains("its lease has run out"), "{tasks}");
        Ok(())
    })
}

#[test]
fn what_is_fenced_ends_although_its_agent_is_dead() -> Result<()> {
    let mut cluster = cluster()?;
    serve_on_second(
        &cluster,
        "--name one --fencing 4s --stop-grace-period 1s bb sleep 1000",
    )?;
    let process = container(cluster.worker(), "one")?["Pid"]
        .as_i64()
        .context("a process")?;
    let alive = || Path::new(&format!("/proc/{process}")).exists();
    // A short absence is no reason.
    cluster.worker_mut().kill()?;
    cluster.worker_mut().run()?;
    cluster.wait_state("node2", "ready")?;
    std::thread::sleep(std::time::Duration::from_secs(5));
    assert!(alive(), "its lease is extended again");

    cluster.worker_mut().kill()?;
    cluster.wait_spread("one", &[1, 0])?;
    assert!(!alive());
    cluster.worker_mut().run()?;
    assert_one_after_the_other(
        &container(cluster.worker(), "one")?,
        &container(cluster.manager(), "one")?,
    )
}

#[test]
fn fencing_is_refused_where_it_cannot_be() -> Result<()> {
    let agent = Agent::start_swarm()?;
    agent.build_busybox()?;
    let refused =
        |words: &str| agent.cli_refused(&format!("service create -d --name x {words} bb sleep 1000"));
    let first = refused("--fencing 15s --update-order start-first")?;
    assert!(first.contains("exclude each other"), "{first}");
    let short = refused("--fencing 2s")?;
    assert!(short.contains("three heartbeats"), "{short}");
    agent.cli_ok("service create -d --name x --fencing 15s bb sleep 1000")?;
    agent.wait_running("x", 1)?;
    let slow = agent.cli_refused("swarm update --dispatcher-heartbeat 6s")?;
    assert!(slow.contains("service x"), "{slow}");
    // A task has its lease for life: a service without one gets another task.
    let before = container(&agent, "x")?["Pid"].clone();
    agent.cli_ok("service update -d --fencing none x")?;
    eventually("the task is replaced", || {
        let now = container(&agent, "x")?;
        ensure!(now["Running"] == true && now["Pid"] != before, "{now}");
        Ok(())
    })?;
    agent.cli_ok("swarm update --dispatcher-heartbeat 6s").map(drop)
}

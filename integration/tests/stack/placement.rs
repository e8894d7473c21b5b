//! Where tasks go beyond Docker's rules, and what is said of those that wait.

use anyhow::{Context, Result, ensure};
use integration::{Agent, Cluster, eventually};
use serde_json::Value;

fn joined() -> Result<Cluster> {
    let cluster = Cluster::joined(2)?;
    for node in &cluster.nodes {
        node.build_busybox()?;
    }
    Ok(cluster)
}

/// Creates a service of sleepers without waiting for it.
fn serve(agent: &Agent, name: &str, flags: &str) -> Result<()> {
    let line = format!("service create -d --name {name} --stop-grace-period 1s {flags} bb sleep 1000");
    agent.cli_ok(&line).map(drop)
}

/// Waits until a task of the service says this.
fn wait_said(agent: &Agent, service: &str, words: &str) -> Result<()> {
    eventually(&format!("{service} says {words:?}"), || {
        let said = agent.cli_ok(&["service", "ps", "--no-trunc", service])?;
        ensure!(said.contains(words), "{said}");
        Ok(())
    })
}

fn nodes_of(tasks: &[Value]) -> Vec<&Value> {
    tasks.iter().map(|task| &task["NodeID"]).collect()
}

#[test]
fn services_keep_apart_and_together_and_the_rule_that_left_no_node_is_named() -> Result<()> {
    let cluster = joined()?;
    let manager = cluster.manager();
    serve(manager, "a", "")?;
    let a = manager.wait_running("a", 1)?;
    serve(manager, "b", "--anti-affinity a --replicas 2")?;
    let b = manager.wait_running("b", 2)?;
    assert!(nodes_of(&b).iter().all(|node| **node != a[0]["NodeID"]), "{b:?}");
    serve(manager, "beside", "--affinity b --replicas 2")?;
    let beside = manager.wait_running("beside", 2)?;
    assert_eq!(nodes_of(&beside), nodes_of(&b));
    serve(manager, "lonely", "--anti-affinity a --anti-affinity b")?;
    wait_said(
        manager,
        "lonely",
        "no suitable node (anti-affinity with a on 1 node; anti-affinity with b on 1 node)",
    )?;
    manager.cli_ok("service update -d --anti-affinity-rm b lonely")?;
    let lonely = manager.wait_running("lonely", 1)?;
    assert_eq!(nodes_of(&lonely), [&b[0]["NodeID"]]);
    let refused = manager.cli_refused("service create -d --affinity lonely --name lonely bb")?;
    assert!(refused.contains("lonely is the service itself"), "{refused}");
    Ok(())
}

#[test]
fn a_task_goes_back_to_its_volume_or_says_where_that_is() -> Result<()> {
    let cluster = joined()?;
    let manager = cluster.manager();
    serve(manager, "db", "--mount type=volume,source=data,target=/data")?;
    let first = manager.wait_running("db", 1)?;
    let names = ["node1", "node2"];
    let holds = |name: &str| Ok::<_, anyhow::Error>(cluster.node(name)?["ID"] == first[0]["NodeID"]);
    let home = match holds(names[0])? {
        true => names[0],
        false => names[1],
    };
    eventually("the node tells of its volume", || {
        let node = cluster.node(home)?;
        let volumes = node["Description"]["Volumes"].as_array().context("no volumes")?;
        ensure!(volumes.iter().any(|name| name == "data"), "{volumes:?}");
        Ok(())
    })?;
    cluster.set_availability(home, "drain")?;
    let words = format!("volume data is on node {home}, which is drained, not on 1 node");
    wait_said(manager, "db", &words)?;
    cluster.set_availability(home, "active")?;
    let back = manager.wait_running("db", 1)?;
    assert_eq!(nodes_of(&back), nodes_of(&first));
    Ok(())
}

#[test]
fn what_a_node_has_is_given_once() -> Result<()> {
    let mut agent = Agent::start()?;
    agent.stop()?;
    agent.flags = [
        "--node-generic-resource=GPU=UUID1",
        "--node-generic-resource=GPU=UUID2",
    ]
    .map(str::to_owned)
    .into();
    agent.run()?;
    agent.cli_ok("swarm init --advertise-addr 127.0.0.1")?;
    agent.build_busybox()?;
    serve(&agent, "gpu", "--generic-resource GPU=1 --replicas 2")?;
    let tasks = agent.wait_running("gpu", 2)?;
    let mut given = Vec::new();
    for task in &tasks {
        let container = task["Status"]["ContainerStatus"]["ContainerID"].as_str();
        let container = container.context("no container")?;
        let words = ["exec", container, "sh", "-c", "echo $DOCKER_RESOURCE_GPU"];
        given.push(agent.cli_ok(&words)?.trim().to_owned());
    }
    given.sort();
    assert_eq!(given, ["UUID1", "UUID2"]);
    serve(&agent, "more", "--generic-resource GPU=1")?;
    wait_said(
        &agent,
        "more",
        "no suitable node (insufficient resources (GPU) on 1 node)",
    )?;
    agent.cli_ok("service rm gpu")?;
    agent.wait_running("more", 1)?;
    Ok(())
}

//! Managers that do not hear each other: cut off both ways, one way, and again and again.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration::{Agent, Cluster, eventually};
use serde_json::json;

fn write(agent: &Agent, name: &str) -> Result<()> {
    let body = json!({"Name": name, "Data": "eA=="});
    agent.post("/configs/create", &body).map(drop)
}

fn has(agent: &Agent, name: &str) -> Result<bool> {
    let listed = agent.get("/configs")?;
    let mut names = listed.as_array().into_iter().flatten();
    Ok(names.any(|config| config["Spec"]["Name"] == name))
}

fn leads(asked: &Agent, name: &str) -> Result<bool> {
    let listed = asked.cli_ok("node ls --format '{{.Hostname}} {{.ManagerStatus}}'")?;
    Ok(listed.lines().any(|line| line.trim() == format!("{name} Leader")))
}

/// Says so in the words of Docker, instead of what it remembers.
fn knows_no_leader(agent: &Agent) -> Result<()> {
    let refused = agent.cli_refused("service ls")?;
    ensure!(
        refused.contains("The swarm does not have a leader"),
        "{refused}\n{}",
        agent.log()
    );
    Ok(())
}

fn follows(agent: &Agent, name: &str) -> Result<()> {
    eventually("the manager follows again", || {
        ensure!(has(agent, name)? && !leads(agent, "node1")?, "{}", agent.log());
        Ok(())
    })
}

#[test]
fn a_leader_that_is_cut_off_says_that_it_is_none() -> Result<()> {
    let cluster = Cluster::managed(3, 0)?;
    let (first, second) = (&cluster.nodes[0], &cluster.nodes[1]);
    write(first, "before")?;
    cluster.set_cable(1, false)?;
    eventually("the others go on", || write(second, "without"))?;
    eventually("the one that is cut off knows", || knows_no_leader(first))?;
    assert!(write(first, "lost").is_err());
    cluster.set_cable(1, true)?;
    follows(first, "without")?;
    assert!(!has(second, "lost")?, "nobody has acknowledged it");
    Ok(())
}

#[test]
fn a_leader_that_is_heard_but_hears_nobody_is_replaced() -> Result<()> {
    let cluster = Cluster::managed(3, 0)?;
    let (first, second) = (&cluster.nodes[0], &cluster.nodes[1]);
    write(first, "before")?;
    first.host.deafen(&["10.99.0.2", "10.99.0.3"])?;
    eventually("the others go on", || write(second, "without"))?;
    eventually("the deaf one knows", || knows_no_leader(first))?;
    first.host.undeafen()?;
    follows(first, "without")
}

#[test]
fn a_manager_whose_cable_is_loose_disturbs_nobody() -> Result<()> {
    let cluster = Cluster::managed(3, 0)?;
    let (first, second, third) = (&cluster.nodes[0], &cluster.nodes[1], &cluster.nodes[2]);
    for round in 0..6 {
        cluster.set_cable(3, false)?;
        write(first, &format!("a{round}"))?;
        // Longer than any election takes, then shorter than one.
        std::thread::sleep(Duration::from_millis(if round % 2 == 0 { 1500 } else { 300 }));
        write(second, &format!("b{round}"))?;
        cluster.set_cable(3, true)?;
        std::thread::sleep(Duration::from_millis(300));
    }
    assert!(leads(first, "node1")?, "{}", first.log());
    eventually("it catches up", || {
        ensure!(has(third, "b5")? && leads(third, "node1")?);
        Ok(())
    })
}

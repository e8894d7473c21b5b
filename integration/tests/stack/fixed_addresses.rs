//! Services and containers with addresses that a file says.

use anyhow::{Context, Result, ensure};
use integration::{Agent, Cluster, eventually};

use crate::attachable::{inside, run};

const STACK: &str = r#"
services:
  free:
    image: bb
    command: sleep 1000
    stop_grace_period: 1s
    networks: [back]
    deploy: {replicas: 3}
  rock:
    image: bb
    command: sleep 1000
    stop_grace_period: 1s
    networks:
      back: {aliases: [stone], ipv4_address: 10.78.0.2}
    deploy:
      update_config: {order: start-first}
networks:
  back:
    attachable: true
    ipam: {config: [{subnet: 10.78.0.0/24}]}
"#;

/// The address of a service's only running task.
fn task_address(agent: &Agent, service: &str) -> Result<String> {
    let tasks = agent.wait_running(service, 1)?;
    let address = &tasks[0]["NetworksAttachments"][0]["Addresses"][0];
    Ok(address.as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_service_has_the_address_that_its_file_says() -> Result<()> {
    let cluster = Cluster::joined(2)?;
    for node in &cluster.nodes {
        node.build_busybox()?;
    }
    let manager = cluster.manager();
    let file = manager.host.directory().join("stack.yml");
    let deploy = |text: &str| -> Result<Vec<&str>> {
        std::fs::write(&file, text)?;
        Ok(vec![
            "stack",
            "deploy",
            "-d",
            "-c",
            file.to_str().context("path")?,
            "s",
        ])
    };
    let refused = manager.cli_refused(&deploy(
        &STACK.replace("deploy:\n", "deploy:\n      replicas: 2\n"),
    )?)?;
    assert!(refused.contains("an address belongs to one task"), "{refused}");
    manager.cli_ok(&deploy(STACK)?)?;
    // It is the first address of the network, and yet nobody else was given it.
    manager.wait_running("s_free", 3)?;
    assert_eq!(task_address(manager, "s_rock")?, "10.78.0.2/24");
    run(manager, "guest", "--network s_back")?;
    for name in ["rock", "stone", "s_rock"] {
        let answer = inside(manager, "guest", &format!("nslookup {name}"))?;
        assert!(answer.contains("Address"), "{answer}");
    }

    // Two tasks cannot have it: the old one stops first, whatever the file says of the order.
    manager.cli_ok("service update -d --force s_rock")?;
    eventually("another task has the address", || {
        let tasks = manager.cli_ok("service ps s_rock -q")?;
        ensure!(tasks.lines().count() == 2, "{tasks}");
        ensure!(task_address(manager, "s_rock")? == "10.78.0.2/24", "it has not");
        Ok(())
    })?;

    // Who comes second waits, and says for whom.
    manager.cli_ok("service create -d --name late --network name=s_back,ip=10.78.0.2 bb sleep 1000")?;
    let why = eventually("the second says why it waits", || {
        let errors = manager.cli_ok("service ps --no-trunc --format {{.Error}} late")?;
        ensure!(!errors.trim().is_empty(), "it says nothing");
        Ok(errors)
    })?;
    assert!(
        why.contains("kept for service s_rock, which asks for it too"),
        "{why}"
    );
    let refused = manager.cli_refused("service scale -d s_rock=2")?;
    assert!(refused.contains("an address belongs to one task"), "{refused}");
    manager.cli_ok("service rm s_rock")?;
    assert_eq!(task_address(manager, "late")?, "10.78.0.2/24");
    manager.cli_ok("service rm late")?;
    manager.cli_ok("rm -f guest")?;
    manager.cli_ok("stack rm s").map(drop)
}

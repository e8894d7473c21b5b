//! How tasks are kept up where Docker's spec has no field for it.

use anyhow::{Result, ensure};
use integration::{Agent, Cluster, eventually};

fn swarm() -> Result<Agent> {
    let agent = Agent::start_swarm()?;
    agent.build_busybox()?;
    Ok(agent)
}

/// Fails with what the command said, which has to contain the text.
fn refused(agent: &Agent, words: &[&str], text: &str) -> Result<()> {
    let output = agent.cli(words)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success(), "{words:?} was not refused");
    ensure!(said.contains(text), "{words:?}: {said}");
    Ok(())
}

#[test]
fn a_service_goes_back_to_any_version_that_is_kept() -> Result<()> {
    let agent = swarm()?;
    let words = ["service", "create", "--name", "web", "--stop-grace-period", "1s"];
    agent.cli_ok(&[&words[..], &["-e", "V=1", "bb", "sleep", "1000"]].concat())?;
    for (old, new) in [("V=1", "V=2"), ("V=2", "V=3")] {
        agent.cli_ok(&["service", "update", "--env-rm", old, "--env-add", new, "web"])?;
    }
    let listed = agent.cli_ok(&["service", "history", "web"])?;
    let heading: Vec<&str> = listed
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    assert_eq!(heading, ["VERSION", "UPDATED", "IMAGE", "CHANGES"]);
    let history = |agent: &Agent| {
        agent.cli_ok(&[
            "service",
            "history",
            "--format",
            "{{.Version}} {{.Image}} {{.Changes}} {{.Current}}",
            "web",
        ])
    };
    let first: Vec<String> = history(&agent)?.lines().map(str::to_owned).collect();
    assert_eq!(first.len(), 3, "{first:?}");
    assert!(
        first[0].starts_with("3 * bb") && first[0].ends_with("Env true"),
        "{first:?}"
    );
    assert!(
        first[2].starts_with("1 bb") && first[2].ends_with(" false"),
        "{first:?}"
    );

    agent.cli_ok(&["service", "rollback", "--to", "1", "web"])?;
    let spec = agent.get("/services/web")?;
    assert_eq!(
        spec["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"][0], "V=1",
        "{spec}"
    );
    assert_eq!(spec["UpdateStatus"]["State"], "rollback_completed", "{spec}");
    assert!(
        spec.get("History").is_none(),
        "Docker's clients are not shown it: {spec}"
    );
    assert!(history(&agent)?.contains("1 * bb"));
    refused(
        &agent,
        &["service", "rollback", "--to", "1", "web"],
        "has version 1 already",
    )?;
    refused(
        &agent,
        &["service", "rollback", "--to", "9", "web"],
        "service web has no version 9 to go back to: kept are 2, 3",
    )
}

#[test]
fn an_update_that_comes_to_nothing_in_time_is_rolled_back() -> Result<()> {
    let agent = swarm()?;
    let words = ["service", "create", "--name", "web", "--stop-grace-period", "1s"];
    let ways = [
        "--update-failure-action",
        "rollback",
        "--update-progress-deadline",
        "1s",
    ];
    agent.cli_ok(&[&words[..], &ways, &["bb", "sleep", "1000"]].concat())?;
    let sick = [
        "--health-cmd",
        "false",
        "--health-interval",
        "1s",
        "--health-retries",
        "1000",
    ];
    refused(
        &agent,
        &[&["service", "update"], &sick[..], &["web"]].concat(),
        "rolled back",
    )?;
    eventually("it is as before", || {
        let service = agent.get("/services/web")?;
        ensure!(
            service["UpdateStatus"]["State"] == "rollback_completed"
                && service["Spec"]["TaskTemplate"]["ContainerSpec"]["Healthcheck"].is_null(),
            "{service}"
        );
        Ok(())
    })?;
    agent.wait_running("web", 1)?;
    refused(
        &agent,
        &[
            "service",
            "update",
            "--label-add",
            "shoal.restart.max-delay=soon",
            "web",
        ],
        "shoal.restart.max-delay",
    )
}

#[test]
fn a_service_spreads_again_when_a_node_is_back() -> Result<()> {
    let cluster = Cluster::joined(2)?;
    for node in &cluster.nodes {
        node.build_busybox()?;
    }
    let manager = cluster.manager();
    let words = [
        "service",
        "create",
        "-d",
        "--replicas",
        "4",
        "--stop-grace-period",
        "1s",
        "--name",
    ];
    manager.cli_ok(&[&words[..], &["web", "bb", "sleep", "1000"]].concat())?;
    manager.cli_ok(
        &[
            &words[..],
            &["still", "--rebalance", "off", "bb", "sleep", "1000"],
        ]
        .concat(),
    )?;
    cluster.wait_spread("web", &[2, 2])?;
    cluster.wait_spread("still", &[2, 2])?;
    cluster.set_availability("node2", "drain")?;
    cluster.wait_spread("web", &[4, 0])?;
    cluster.wait_spread("still", &[4, 0])?;

    cluster.set_availability("node2", "active")?;
    let plan = manager.cli_ok(&[
        "swarm",
        "rebalance",
        "--dry-run",
        "--format",
        "{{.Service}} {{.From}} {{.To}} {{.Reason}}",
    ])?;
    let plan: Vec<&str> = plan.lines().map(str::trim).collect();
    assert_eq!(plan.len(), 3, "{plan:?}");
    assert_eq!(plan[..2], ["web node1 node2", "web node1 node2"]);
    assert!(
        plan[2].starts_with("still ") && plan[2].contains("shoal.rebalance is off"),
        "{plan:?}"
    );
    let table = manager.cli_ok(&["swarm", "rebalance", "--dry-run"])?;
    let heading: Vec<&str> = table
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    assert_eq!(heading, ["SERVICE", "TASK", "FROM", "TO", "REASON"]);

    cluster.wait_spread("web", &[2, 2])?;
    cluster.wait_spread("still", &[4, 0])?;
    let rest = manager.cli_ok(&["swarm", "rebalance", "--dry-run"])?;
    assert!(!rest.contains("web"), "{rest}");
    Ok(())
}

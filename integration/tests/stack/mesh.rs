//! The routing mesh: a published port answers on every node, whoever runs the tasks, and they see who asks.

use anyhow::{Result, bail, ensure};
use integration::{Cluster, Host, eventually};

use crate::who::{self, WHO};

const CLIENT: &str = "10.99.0.200";

fn ask(client: &Host, node: u8) -> Result<String> {
    who::ask(client, &format!("10.99.0.{node}:8080"))
}

/// Waits until every one of these nodes lets one of those answer.
fn wait_answers(client: &Host, nodes: &[u8], by: impl Fn(u8) -> Vec<u8>) -> Result<()> {
    for node in nodes {
        let expected: Vec<_> = by(*node).iter().map(|n| format!("node{n} {CLIENT}")).collect();
        who::wait_answer(client, &format!("10.99.0.{node}:8080"), &expected)?;
    }
    Ok(())
}

/// The number of the node that runs the service's only task.
fn home(cluster: &Cluster) -> Result<u8> {
    let task = cluster.manager().wait_running("web", 1)?.remove(0);
    for number in 1..=3 {
        if cluster.node(&format!("node{number}"))?["ID"] == task["NodeID"] {
            return Ok(number);
        }
    }
    bail!("nobody runs {task}")
}

#[test]
fn a_published_port_answers_on_every_node_and_the_task_sees_the_client() -> Result<()> {
    let mut cluster = Cluster::joined(3)?;
    for node in &cluster.nodes {
        node.build_busybox()?;
    }
    let client = cluster.plug_in(200)?;
    let mut words = vec!["service", "create", "-d", "--name", "web", "-p", "8080:80"];
    words.extend(["--stop-grace-period", "1s", "-e", "NODE={{.Node.Hostname}}"]);
    // The manager is not to be killed below.
    words.extend(["--constraint", "node.role==worker", "bb", "sh", "-c", WHO]);
    cluster.manager().cli_ok(&words)?;
    let task = home(&cluster)?;
    wait_answers(&client, &[1, 2, 3], |_| vec![task])?;

    cluster.manager().cli_ok(&["service", "scale", "-d", "web=2"])?;
    cluster.wait_spread("web", &[0, 1, 1])?;
    wait_answers(&client, &[1, 2, 3], |node| {
        if node == 1 { vec![2, 3] } else { vec![node] }
    })?;

    cluster.manager().cli_ok(&["service", "scale", "-d", "web=1"])?;
    eventually("one task is left", || ensure_one(&cluster))?;
    let task = home(&cluster)?;
    let other = 5 - task;
    wait_answers(&client, &[1, 2, 3], |_| vec![task])?;

    // Nobody watches over it, and still it answers.
    cluster.nodes[usize::from(task) - 1].kill()?;
    for node in 1..=3 {
        ensure!(
            ask(&client, node)? == format!("node{task} {CLIENT}"),
            "without the agent"
        );
    }
    cluster.set_cable(task, false)?;
    wait_answers(&client, &[1, other], |_| vec![other])?;

    cluster.manager().cli_ok(&["service", "rm", "web"])?;
    for node in [1, other] {
        eventually(&format!("node{node} refuses"), || match ask(&client, node) {
            Err(error) if error.to_string().contains("refused") => Ok(()),
            answer => bail!("{answer:?}"),
        })?;
    }
    Ok(())
}

fn ensure_one(cluster: &Cluster) -> Result<()> {
    let count = cluster.manager().running_tasks("web")?.len();
    ensure!(count == 1, "{count} tasks run");
    Ok(())
}

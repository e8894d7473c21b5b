//! Volumes and tasks belong together: a task goes back to its data, and `volume mv` takes both to another node.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use integration::{Agent, Cluster, eventually};
use serde_json::{Value, json};

/// A cluster with a service of one task that writes into the volume `data` on node2.
fn with_database() -> Result<Cluster> {
    with_database_in(Cluster::joined(3)?, "node2")
}

/// The same in a cluster that is there.
fn with_database_in(cluster: Cluster, home: &str) -> Result<Cluster> {
    let spread: Vec<usize> = (1..=cluster.nodes.len())
        .map(|number| usize::from(format!("node{number}") == home))
        .collect();
    let home = format!("node.hostname=={home}");
    cluster.manager().build_busybox()?;
    let script = "mkdir -p /data/deep; test -e /data/made || { hostname > /data/deep/rows; touch /data/made; chown 70:70 \
        /data/deep; }; exec sleep 1000";
    let words = [
        "service",
        "create",
        "-d",
        "--name",
        "db",
        "--hostname",
        "{{.Node.Hostname}}",
        "--stop-grace-period",
        "1s",
        "--mount",
        "source=data,target=/data",
        "--constraint",
        &home,
        "bb",
        "sh",
        "-c",
        script,
    ];
    cluster.manager().cli_ok(&words)?;
    cluster.wait_spread("db", &spread)?;
    eventually("the database is made", || {
        ensure!(data(cluster.worker()).join("made").exists());
        Ok(())
    })?;
    let free = ["service", "update", "-d", "--constraint-rm", &home, "db"];
    cluster.manager().cli_ok(&free)?;
    cluster.wait_spread("db", &spread)?;
    Ok(cluster)
}

/// Where a node has the volume's files.
fn data(agent: &Agent) -> PathBuf {
    agent.root().join("storage/volumes/data/_data")
}

fn volumes(agent: &Agent) -> Result<Vec<String>> {
    let listed = agent.get("/volumes")?;
    let listed = listed["Volumes"].as_array().into_iter().flatten();
    Ok(listed
        .map(|one| one["Name"].as_str().unwrap_or_default().to_owned())
        .collect())
}

fn tasks(cluster: &Cluster) -> Result<Vec<Value>> {
    let tasks = cluster
        .manager()
        .get("/tasks?filters=%7B%22service%22%3A%5B%22db%22%5D%7D")?;
    Ok(tasks.as_array().context("tasks")?.clone())
}

fn is_whole(dir: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    assert_eq!(std::fs::read_to_string(dir.join("deep/rows"))?, "node2\n");
    assert_eq!(std::fs::metadata(dir.join("deep"))?.uid(), 70);
    Ok(())
}

#[test]
fn a_drained_database_waits_for_its_volume_and_moves_with_it() -> Result<()> {
    let cluster = with_database()?;
    let manager = cluster.manager();
    let listed = manager.cli_ok(&[
        "volume",
        "ls",
        "--cluster",
        "--format",
        "{{.Node}} {{.Name}} {{.Driver}}",
    ])?;
    assert_eq!(listed.trim(), "node2 data local");

    let drained = manager.cli("node update --availability drain node2")?;
    let warned = String::from_utf8_lossy(&drained.stderr).into_owned();
    assert!(
        warned.contains("WARNING: volume data is on this node alone") && warned.contains("service db"),
        "{warned}"
    );
    let shown = manager.cli_ok("node inspect --pretty node2")?;
    assert!(shown.contains("data (service db)"), "{shown}");
    eventually("its task waits and says why", || {
        let tasks = tasks(&cluster)?;
        let waits = tasks.iter().any(|task| {
            let error = task["Status"]["Err"].as_str().unwrap_or_default();
            task["Status"]["State"] == "pending"
                && error.contains("volume data is on node node2, which is drained")
        });
        ensure!(waits, "{tasks:?}");
        Ok(())
    })?;

    let said = manager.cli_ok(&["volume", "mv", "data", "node3"])?;
    assert_eq!(said.trim(), "data");
    cluster.wait_spread("db", &[0, 0, 1])?;
    is_whole(&data(&cluster.nodes[2]))?;
    assert_eq!(volumes(&cluster.nodes[2])?, ["data"]);
    assert_eq!(volumes(cluster.worker())?, [""; 0]);
    assert!(!data(cluster.worker()).exists());
    let labels = cluster.node("node2")?["Spec"]["Labels"].clone();
    ensure!(labels == json!({}) || labels.is_null(), "still held: {labels}");
    Ok(())
}

#[test]
fn a_running_database_is_stopped_moved_and_started() -> Result<()> {
    let cluster = with_database()?;
    let manager = cluster.manager();
    let words = ["volume", "mv", "--from", "node2", "data", "node1"];
    manager.cli_ok(&words)?;
    cluster.wait_spread("db", &[1, 0, 0])?;
    is_whole(&data(manager))?;
    assert_eq!(volumes(cluster.worker())?, [""; 0]);
    let refused = manager.cli_refused(&["volume", "mv", "data", "node1"])?;
    assert!(
        refused.contains("volume data is on node node1 already"),
        "{refused}"
    );
    let refused = manager.cli_refused(&["volume", "mv", "nothing", "node2"])?;
    assert!(refused.contains("no node has a volume nothing"), "{refused}");
    Ok(())
}

#[test]
fn a_move_that_cannot_be_leaves_everything_as_it_was() -> Result<()> {
    let cluster = with_database()?;
    let manager = cluster.manager();
    // Something that is not the cluster's uses it.
    let worker = cluster.worker();
    worker.cli_ok(&[
        "run",
        "-d",
        "--name",
        "other",
        "-v",
        "data:/data",
        "bb",
        "sleep",
        "1000",
    ])?;
    let refused = manager.cli_refused(&["volume", "mv", "data", "node3"])?;
    assert!(refused.contains("volume is in use"), "{refused}");
    cluster.wait_spread("db", &[0, 1, 0])?;
    worker.cli_ok(&["rm", "-f", "other"])?;

    // Another volume of that name is not touched.
    cluster.nodes[2].cli_ok(&["volume", "create", "data"])?;
    std::fs::write(data(&cluster.nodes[2]).join("mine"), "")?;
    let refused = eventually("both volumes are known", || {
        let listed = manager.cli_ok(&["volume", "ls", "--cluster", "-q"])?;
        ensure!(listed.lines().count() == 2, "{listed}");
        manager.cli_refused(&["volume", "mv", "--from", "node2", "data", "node3"])
    })?;
    assert!(
        refused.contains("a volume data with other data is on the node already"),
        "{refused}"
    );
    cluster.wait_spread("db", &[0, 1, 0])?;
    is_whole(&data(worker))?;
    assert!(data(&cluster.nodes[2]).join("mine").exists());
    Ok(())
}

fn leader(asked: &Agent) -> Result<usize> {
    let listed = asked.cli_ok("node ls --format '{{.Hostname}} {{.ManagerStatus}}'")?;
    let leads = |number: &usize| {
        let line = format!("node{} Leader", number + 1);
        listed.lines().any(|listed| listed.trim() == line)
    };
    (0..3).find(leads).with_context(|| format!("no leader: {listed}"))
}

/// A copy counts when it is whole.
fn holds_whole(agent: &Agent) -> bool {
    let bulk = std::fs::metadata(data(agent).join("bulk"));
    bulk.is_ok_and(|bulk| bulk.len() == BULK as u64) && is_whole(&data(agent)).is_ok()
}

const BULK: usize = 96 << 20;

/// Moves the volume between two nodes while the leader and one of the two die, as soon as the moment has come; says it
/// again when all are back.
fn move_among_deaths(
    cluster: &mut Cluster,
    (from, to): (usize, usize),
    dies: usize,
    moment: impl Fn(&Cluster, &Agent) -> Result<()>,
) -> Result<()> {
    let name = format!("node{}", to + 1);
    let words = ["volume", "mv", "data", &name];
    let leads = leader(cluster.manager())?;
    let asked = (0..3).find(|manager| ![leads, dies].contains(manager));
    let asked = asked.context("another manager")?;
    let mut moving = cluster.nodes[asked].cli_piped(&words)?;
    eventually("the moment has come", || moment(cluster, &cluster.nodes[asked]))?;
    cluster.nodes[leads].kill()?;
    cluster.nodes[dies].kill()?;
    let moved = moving.wait()?.success();
    assert!(
        holds_whole(&cluster.nodes[from]) || holds_whole(&cluster.nodes[to]),
        "said to have moved: {moved}"
    );
    cluster.nodes[leads].run()?;
    cluster.nodes[dies].run()?;
    let asked = &cluster.nodes[asked];
    eventually("all are back", || {
        let nodes = asked.cli_ok("node ls --format '{{.Status}}'")?;
        ensure!(nodes.lines().all(|line| line.trim() == "Ready"), "{nodes}");
        Ok(())
    })?;

    if !moved {
        asked.cli_ok(&words)?;
    }
    let spread: Vec<usize> = (0..4).map(|node| usize::from(node == to)).collect();
    cluster.wait_spread("db", &spread)?;
    assert!(holds_whole(&cluster.nodes[to]));
    assert_eq!(volumes(&cluster.nodes[from])?, [""; 0]);
    Ok(())
}

#[test]
fn a_move_goes_on_after_its_leader_and_a_node_have_died() -> Result<()> {
    let mut cluster = with_database_in(Cluster::managed(3, 1)?, "node2")?;
    std::fs::write(data(cluster.worker()).join("bulk"), vec![7; BULK])?;
    // The node that gets it, when the tasks are held.
    move_among_deaths(&mut cluster, (1, 3), 3, |_, asked| {
        let node = asked.get("/nodes/node2")?;
        let labels = node["Spec"]["Labels"].as_object();
        ensure!(labels.is_some_and(|labels| !labels.is_empty()), "{node}");
        Ok(())
    })?;
    // The node that gives it, when the copy is there.
    move_among_deaths(&mut cluster, (3, 1), 3, |cluster, _| {
        ensure!(data(&cluster.nodes[1]).join("bulk").exists());
        Ok(())
    })
}

//! A manager and a worker, each on a machine of its own as far as the network is concerned.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use integration::{Agent, Cluster, cluster, eventually};
use serde_json::Value;

use crate::docker_cli::Docker;
use crate::overlay::{SERVE, everywhere, wait_answers};

const REMOTE: &str = "10.99.0.1:2377";

/// Two nodes, both with the image that the services here are made of.
fn joined() -> Result<Cluster> {
    let cluster = Cluster::joined(2)?;
    for node in &cluster.nodes {
        node.build_busybox()?;
    }
    Ok(cluster)
}

fn serve(cluster: &Cluster, replicas: &str) -> Result<()> {
    let words = [
        "service",
        "create",
        "-d",
        "--name",
        "web",
        "--replicas",
        replicas,
        "--stop-grace-period",
        "1s",
        // What is said of places here holds however long a test takes.
        "--rebalance",
        "off",
        "bb",
        "sleep",
        "1000",
    ];
    cluster.manager().cli_ok(&words).map(drop)
}

/// Identifiers of the containers that a node runs.
fn containers(agent: &Agent) -> Result<Vec<String>> {
    let listed = agent.get("/containers/json")?;
    let mut ids: Vec<String> = listed
        .as_array()
        .into_iter()
        .flatten()
        .map(|container| container["Id"].as_str().unwrap_or_default().to_owned())
        .collect();
    ids.sort();
    Ok(ids)
}

fn wait_containers(agent: &Agent, count: usize) -> Result<Vec<String>> {
    eventually(&format!("{count} containers run"), || {
        let ids = containers(agent)?;
        ensure!(ids.len() == count, "{} run", ids.len());
        Ok(ids)
    })
}

/// Processes of the tasks of a node.
fn processes(tasks: &[Value], node: &Value) -> Vec<i64> {
    tasks
        .iter()
        .filter(|task| task["NodeID"] == node["ID"])
        .filter_map(|task| task["Status"]["ContainerStatus"]["PID"].as_i64())
        .collect()
}

fn alive(process: i64) -> bool {
    Path::new(&format!("/proc/{process}")).exists()
}

/// The agent is in no cluster, and nothing is left of an attempt.
fn assert_alone(agent: &Agent) -> Result<()> {
    let info = agent.get("/info")?;
    assert_eq!(info["Swarm"]["LocalNodeState"], "inactive", "{info}");
    for rest in ["swarm/node.json", "swarm/certificates"] {
        let path = agent.root().join(rest);
        assert!(!path.exists(), "{} is left", path.display());
    }
    Ok(())
}

#[test]
fn a_worker_shares_the_work_until_it_leaves() -> Result<()> {
    let cluster = joined()?;
    let (manager, worker) = (cluster.manager(), cluster.worker());
    let listed = manager.cli_ok(&[
        "node",
        "ls",
        "--format",
        "{{.Hostname}} {{.Status}} {{.ManagerStatus}}",
    ])?;
    let mut lines: Vec<&str> = listed.lines().map(str::trim).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["node1 Ready Leader", "node2 Ready"]);
    let node = cluster.node("node2")?;
    assert_eq!(
        (&node["Spec"]["Role"], &node["Status"]["Addr"]),
        (&"worker".into(), &"10.99.0.2".into()),
        "{node}"
    );

    serve(&cluster, "4")?;
    cluster.wait_spread("web", &[2, 2])?;
    assert_eq!(containers(worker)?.len(), 2);
    let own = manager.cli_ok(&["node", "ps", "node2", "--filter", "desired-state=running", "-q"])?;
    assert_eq!(own.lines().count(), 2, "{own}");

    cluster.set_availability("node2", "drain")?;
    cluster.wait_spread("web", &[4, 0])?;
    wait_containers(worker, 0)?;
    cluster.set_availability("node2", "active")?;
    manager.cli_ok(&["service", "scale", "-d", "web=6"])?;
    cluster.wait_spread("web", &[4, 2])?;

    let refused = manager.cli(&["node", "rm", "node2"])?;
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && text.contains("is not down"),
        "{text}"
    );
    let left = worker.cli_ok(&["swarm", "leave"])?;
    assert_eq!(left, "Node left the swarm.\n");
    assert!(containers(worker)?.is_empty());
    assert_alone(worker)?;
    cluster.wait_state("node2", "down")?;
    cluster.wait_spread("web", &[6, 0])?;
    manager.cli_ok(&["node", "rm", "node2"])?;
    assert!(cluster.node("node2").is_err());
    Ok(())
}

#[test]
fn a_published_port_answers_on_every_node_with_a_task() -> Result<()> {
    let cluster = joined()?;
    let script = "mkdir /www; echo $NODE > /www/index.html; httpd -f -p 80 -h /www";
    cluster.manager().cli_ok(&[
        "service",
        "create",
        "-d",
        "--name",
        "site",
        "--mode",
        "global",
        "-p",
        "8080:80",
        "-e",
        "NODE={{.Node.Hostname}}",
        "bb",
        "sh",
        "-c",
        script,
    ])?;
    cluster.wait_spread("site", &[1, 1])?;
    // Networks end at their node yet, so each node answers for itself, and always.
    for (node, address) in [("node1", "10.99.0.1:8080"), ("node2", "10.99.0.2:8080")] {
        let answer = eventually("the port answers", || cluster.manager().host.get(address, "/"))?;
        assert_eq!(answer.trim(), node);
        for _ in 0..5 {
            assert_eq!(cluster.worker().host.get(address, "/")?, answer);
        }
    }
    Ok(())
}

#[test]
fn a_worker_knows_that_it_is_no_manager() -> Result<()> {
    let cluster = Cluster::joined(2)?;
    let worker = cluster.worker();
    for path in ["/nodes", "/services", "/tasks", "/secrets", "/configs", "/swarm"] {
        let answer = worker.ask("GET", path, None)?;
        assert_eq!(answer.status, 503, "{path}");
        let text = answer.text();
        assert!(
            text.contains("Worker nodes can't be used to view or modify cluster state"),
            "{path}: {text}"
        );
    }
    let swarm = &worker.get("/info")?["Swarm"];
    assert_eq!(swarm["LocalNodeState"], "active", "{swarm}");
    assert_eq!(swarm["ControlAvailable"], false);
    assert_eq!(swarm["NodeAddr"], "10.99.0.2");
    assert_eq!(swarm["NodeID"], cluster.node("node2")?["ID"]);
    assert_eq!(swarm["RemoteManagers"][0]["Addr"], REMOTE);
    assert_eq!(swarm["Error"], "");
    for (path, body) in [
        ("/swarm/init", serde_json::json!({"ListenAddr": "0.0.0.0:2377"})),
        ("/swarm/join", cluster::join_body("SWMTKN-1-x-y")),
    ] {
        let answer = worker.ask("POST", path, Some(&body))?;
        assert_eq!(answer.status, 503, "{path}");
        assert!(
            answer.text().contains("already part of a swarm"),
            "{}",
            answer.text()
        );
    }
    Ok(())
}

#[test]
fn a_lost_worker_is_replaced_and_what_it_still_runs_ends_when_it_is_back() -> Result<()> {
    let mut cluster = joined()?;
    cluster
        .worker()
        .cli_ok(&["run", "-d", "--name", "own", "bb", "sleep", "1000"])?;
    serve(&cluster, "4")?;
    let tasks = cluster.wait_spread("web", &[2, 2])?;
    let running = processes(&tasks, &cluster.node("node2")?);
    assert_eq!(running.len(), 2, "{tasks:?}");

    cluster.worker_mut().kill()?;
    cluster.wait_state("node2", "down")?;
    cluster.wait_spread("web", &[4, 0])?;
    assert!(
        running.iter().copied().all(alive),
        "containers outlive their agent"
    );

    cluster.worker_mut().run()?;
    cluster.wait_state("node2", "ready")?;
    let left = wait_containers(cluster.worker(), 1)?;
    assert_eq!(
        cluster.worker().get("/containers/own/json")?["Id"],
        left[0].as_str()
    );
    assert!(!running.iter().copied().any(alive));
    // What returns is as good as new.
    cluster.manager().cli_ok(&["service", "scale", "-d", "web=6"])?;
    cluster.wait_spread("web", &[4, 2])?;
    Ok(())
}

#[test]
fn a_worker_that_was_cut_off_gives_up_what_was_replaced() -> Result<()> {
    let cluster = joined()?;
    serve(&cluster, "2")?;
    let tasks = cluster.wait_spread("web", &[1, 1])?;
    let running = processes(&tasks, &cluster.node("node2")?);
    cluster.set_cable(2, false)?;
    cluster.wait_state("node2", "down")?;
    cluster.wait_spread("web", &[2, 0])?;
    eventually("the worker notices", || {
        let info = cluster.worker().get("/info")?;
        ensure!(info["Swarm"]["Error"] != "", "{}", info["Swarm"]);
        Ok(())
    })?;
    assert!(
        running.iter().copied().all(alive),
        "a worker on its own keeps what it has"
    );
    cluster.set_cable(2, true)?;
    cluster.wait_state("node2", "ready")?;
    wait_containers(cluster.worker(), 0)?;
    cluster.wait_spread("web", &[2, 0])?;
    Ok(())
}

#[test]
fn a_manager_listens_where_it_is_told_or_says_why_not() -> Result<()> {
    let cluster = Cluster::new(2)?;
    let manager = cluster.manager();
    let taken = manager
        .host
        .enter(|| std::net::TcpListener::bind("0.0.0.0:2377"))??;
    let refused = manager.cli(&["swarm", "init", "--advertise-addr", "10.99.0.1"])?;
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("2377"), "{text}");
    assert_alone(manager)?;
    let words = ["swarm", "init", "--advertise-addr", "10.99.0.1:4000"];
    manager.cli_ok(&[&words[..], &["--listen-addr", "10.99.0.1:4000"]].concat())?;
    drop(taken);
    let token = cluster.worker_token()?;
    let worker = cluster.worker();
    // Whoever is refused after it was let in says good-bye: the managers do not wait for it.
    let refused = worker.cli_refused(&format!(
        "swarm join --token {token} --advertise-addr 10.99.0.77 10.99.0.1:4000"
    ))?;
    assert!(refused.contains("10.99.0.77"), "{refused}");
    assert_alone(worker)?;
    let node = cluster.node("node2")?;
    assert_eq!(node["Status"]["Message"], "the node has left", "{node}");
    worker.cli_ok(&["swarm", "join", "--token", &token, "10.99.0.1:4000"])?;
    cluster.wait_state("node2", "ready")?;
    Ok(())
}

/// A host with several addresses: others find it by the one that its user has named, whatever it speaks from.
#[test]
fn a_node_is_known_by_the_address_that_it_was_told_to_advertise() -> Result<()> {
    let mut cluster = Cluster::new(2)?;
    cluster.init()?;
    cluster.manager().build_busybox()?;
    let named = "10.99.0.200";
    let worker = cluster.worker();
    worker.host.ip(&format!("address add {named}/24 dev eth0"))?;
    let token = cluster.worker_token()?;
    worker.cli_ok(&format!(
        "swarm join --token {token} --advertise-addr {named} 10.99.0.1:2377"
    ))?;
    cluster.wait_state("node2", "ready")?;
    let is_known = |cluster: &Cluster| {
        eventually("the node is known by its address", || {
            let node = cluster.node("node2")?;
            ensure!(node["Status"]["Addr"] == named, "{node}");
            let info = cluster.worker().get("/info")?;
            ensure!(info["Swarm"]["NodeAddr"] == named, "{}", info["Swarm"]);
            Ok(())
        })
    };
    is_known(&cluster)?;
    // Networks, and what managers ask nodes, come by that address.
    cluster.manager().cli_ok("network create -d overlay net")?;
    everywhere(&cluster, "probe", "--network net", SERVE)?;
    wait_answers(&cluster, &[0, 1], "tasks.probe", &["node1", "node2"])?;
    let asked = cluster.manager().cli_ok("events --cluster --since 1m --until 0s");
    ensure!(
        asked.as_ref().is_ok_and(|said| said.contains("node2")),
        "{asked:?}"
    );
    cluster.worker_mut().kill()?;
    cluster.worker_mut().run()?;
    cluster.wait_state("node2", "ready")?;
    is_known(&cluster)?;
    // It keeps it in either role.
    cluster.manager().cli_ok("node promote node2")?;
    eventually("the manager is known by it, too", || {
        let node = cluster.node("node2")?;
        ensure!(node["ManagerStatus"]["Addr"] == format!("{named}:2377"), "{node}");
        Ok(())
    })?;
    is_known(&cluster)?;
    cluster.manager().cli_ok("node demote node2")?;
    eventually("it is a worker", || {
        let node = cluster.node("node2")?;
        ensure!(node["ManagerStatus"] == Value::Null, "{node}");
        Ok(())
    })?;
    is_known(&cluster)?;
    cluster.worker().cli_ok("swarm leave")?;
    ensure!(!cluster.worker().root().join("swarm/advertise-addr").exists());
    Ok(())
}

#[test]
fn a_worker_keeps_its_tasks_while_it_or_the_manager_starts_anew() -> Result<()> {
    let mut cluster = joined()?;
    serve(&cluster, "2")?;
    let tasks = cluster.wait_spread("web", &[1, 1])?;
    let before = containers(cluster.worker())?;
    let same = |tasks: &[Value]| {
        let mut ids: Vec<String> = tasks.iter().map(|task| task["ID"].to_string()).collect();
        ids.sort();
        ids
    };

    cluster.nodes[0].kill()?;
    eventually("the worker misses its manager", || {
        let info = cluster.worker().get("/info")?;
        ensure!(info["Swarm"]["Error"] != "", "{}", info["Swarm"]);
        Ok(())
    })?;
    assert_eq!(containers(cluster.worker())?, before);
    cluster.nodes[0].run()?;
    cluster.wait_state("node2", "ready")?;
    assert_eq!(same(&cluster.wait_spread("web", &[1, 1])?), same(&tasks));

    cluster.worker_mut().stop()?;
    cluster.worker_mut().run()?;
    cluster.wait_state("node2", "ready")?;
    let now = cluster.wait_spread("web", &[1, 1]);
    // A worker that was away for too long may have been replaced; one that was not has kept what it had.
    if same(&now?) == same(&tasks) {
        assert_eq!(containers(cluster.worker())?, before);
    }
    Ok(())
}

#[test]
fn who_may_not_join_is_told_why() -> Result<()> {
    let cluster = Cluster::new(3)?;
    let (manager, worker, stranger) = (cluster.manager(), cluster.worker(), &cluster.nodes[2]);
    cluster.init()?;
    stranger.cli_ok(&["swarm", "init", "--advertise-addr", "10.99.0.3"])?;
    let token = cluster.worker_token()?;
    let foreign = stranger.cli_ok(&["swarm", "join-token", "-q", "worker"])?;
    let (start, secret) = token.rsplit_once('-').context("a token")?;
    let turned: String = secret.chars().rev().collect();

    let refuse = |token: &str, remote: &str, reason: &str| -> Result<()> {
        let output = worker.cli(&["swarm", "join", "--token", token.trim(), remote])?;
        let text = String::from_utf8_lossy(&output.stderr).to_lowercase();
        assert!(
            !output.status.success() && text.contains(reason),
            "{reason}: {text}"
        );
        assert!(!text.contains(secret), "the secret is told to nobody: {text}");
        assert_alone(worker)
    };
    refuse("nonsense", REMOTE, "join token")?;
    refuse(&foreign, REMOTE, "another root certificate")?;
    refuse(&format!("{start}-{turned}"), REMOTE, "token")?;
    refuse(&token, "10.99.0.1:2378", "10.99.0.1:2378")?;
    refuse(&token, "node1:2377", "node1:2377")?;
    manager.cli_ok(&["swarm", "join-token", "-q", "--rotate", "worker"])?;
    refuse(&token, REMOTE, "token")?;
    assert_eq!(manager.get("/nodes")?.as_array().map(Vec::len), Some(1));

    let token = cluster.worker_token()?;
    worker.cli_ok(&[
        "swarm",
        "join",
        "--token",
        &token,
        "--availability",
        "drain",
        "10.99.0.1",
    ])?;
    let node = cluster.wait_state("node2", "ready")?;
    assert_eq!(node["Spec"]["Availability"], "drain");
    let key = worker.root().join("swarm/certificates/swarm-node.pem");
    assert_eq!(std::fs::metadata(&key)?.permissions().mode() & 0o777, 0o600);
    for node in &cluster.nodes {
        assert!(!node.log().contains(secret), "the secret is in no log");
    }
    Ok(())
}

#[test]
fn a_removed_worker_ends_its_tasks_and_may_come_back() -> Result<()> {
    let mut cluster = joined()?;
    serve(&cluster, "2")?;
    let first = cluster.node("node2")?;
    cluster.wait_spread("web", &[1, 1])?;
    cluster.worker_mut().kill()?;
    cluster.wait_state("node2", "down")?;
    cluster.manager().cli_ok(&["node", "rm", "node2"])?;

    cluster.worker_mut().run()?;
    wait_containers(cluster.worker(), 0)?;
    assert!(
        cluster.node("node2").is_err(),
        "a removed node is not let in again"
    );
    let info = cluster.worker().get("/info")?;
    assert_ne!(info["Swarm"]["Error"], "", "{}", info["Swarm"]);
    let info = cluster.worker().cli_ok(&["info"])?;
    assert!(
        info.contains("is not part of the cluster") && info.contains(REMOTE),
        "{info}"
    );
    cluster.worker().cli_ok(&["swarm", "leave"])?;
    assert_alone(cluster.worker())?;

    let token = cluster.worker_token()?;
    cluster
        .worker()
        .cli_ok(&["swarm", "join", "--token", &token, REMOTE])?;
    let second = cluster.wait_state("node2", "ready")?;
    assert_ne!(first["ID"], second["ID"]);
    Ok(())
}

#[test]
fn docker_joins_a_swarm() -> Result<()> {
    let cluster = Cluster::new(2)?;
    let (Some(manager), Some(worker)) = (Docker::new(cluster.manager())?, Docker::new(cluster.worker())?)
    else {
        return Ok(());
    };
    manager.run(&["swarm", "init", "--advertise-addr", "10.99.0.1"])?;
    let token = manager.run(&["swarm", "join-token", "-q", "worker"])?;
    let joined = worker.run(&["swarm", "join", "--token", token.trim(), REMOTE])?;
    assert_eq!(joined, "This node joined a swarm as a worker.\n");
    cluster.wait_state("node2", "ready")?;
    let info = worker.run(&[
        "info",
        "--format",
        "{{.Swarm.LocalNodeState}} {{.Swarm.ControlAvailable}}",
    ])?;
    assert_eq!(info, "active false\n");
    for words in [&["node", "ls", "-q"][..], &["service", "ls"]] {
        let error = worker.run(words).unwrap_err().to_string();
        assert!(error.contains("Worker nodes can't be used"), "{error}");
    }
    manager.run(&["node", "update", "--label-add", "a=b", "node2"])?;
    manager.run(&["node", "inspect", "node2"])?;
    worker.run(&["swarm", "leave"])?;
    cluster.wait_state("node2", "down")?;
    manager.run(&["node", "rm", "node2"])?;
    Ok(())
}

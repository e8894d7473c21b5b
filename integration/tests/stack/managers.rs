//! Several managers: they join, lose their leader, change their roles, and all fall at once.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration::{Agent, Cluster, eventually};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Name and manager status of every node, as this node tells it.
fn statuses(agent: &Agent) -> Result<BTreeSet<String>> {
    let listed = agent.cli_ok("node ls --format '{{.Hostname}} {{.ManagerStatus}}'")?;
    Ok(listed.lines().map(|line| line.trim().to_owned()).collect())
}

fn wait_statuses(agent: &Agent, expected: &[&str]) -> Result<()> {
    let expected: BTreeSet<String> = expected.iter().map(|line| (*line).to_owned()).collect();
    eventually(&format!("the managers are {expected:?}"), || {
        let now = statuses(agent)?;
        ensure!(now == expected, "they are {now:?}\n{}", agent.log());
        Ok(())
    })
}

/// The place among the nodes of the manager that leads, as this one tells it.
fn leader(cluster: &Cluster, asked: usize) -> Result<usize> {
    eventually("there is a leader", || {
        let status = statuses(&cluster.nodes[asked])?;
        let line = status.iter().find(|line| line.ends_with(" Leader"));
        let name = line
            .and_then(|line| line.split(' ').next())
            .with_context(|| format!("{status:?}"))?;
        Ok(name.trim_start_matches("node").parse::<usize>()? - 1)
    })
}

fn build_everywhere(cluster: &Cluster) -> Result<()> {
    cluster.nodes.iter().try_for_each(Agent::build_busybox)
}

fn serve(agent: &Agent, replicas: usize) -> Result<()> {
    agent
        .cli_ok(&format!(
            "service create -d --name web --replicas {replicas} --stop-grace-period 1s bb sleep 1000"
        ))
        .map(drop)
}

/// Processes of the tasks that run on a node.
fn processes(tasks: &[Value], node: &Value) -> Vec<i64> {
    tasks
        .iter()
        .filter(|task| task["NodeID"] == node["ID"])
        .filter_map(|task| task["Status"]["ContainerStatus"]["PID"].as_i64())
        .collect()
}

fn alive(process: &i64) -> bool {
    Path::new(&format!("/proc/{process}")).exists()
}

fn create_config(agent: &Agent, name: &str) -> Result<()> {
    agent
        .post("/configs/create", &json!({"Name": name, "Data": "eA=="}))
        .map(drop)
}

fn configs(agent: &Agent) -> Result<BTreeSet<String>> {
    let listed = agent.get("/configs")?;
    let names = listed.as_array().into_iter().flatten();
    Ok(names
        .map(|config| config["Spec"]["Name"].as_str().unwrap_or_default().to_owned())
        .collect())
}

#[test]
fn any_manager_answers_for_the_cluster() -> Result<()> {
    let cluster = Cluster::managed(3, 1)?;
    build_everywhere(&cluster)?;
    let lines = ["node1 Leader", "node2 Reachable", "node3 Reachable", "node4"];
    for node in &cluster.nodes[..3] {
        wait_statuses(node, &lines)?;
    }
    let refused = cluster.nodes[3].cli_refused("node ls")?;
    assert!(refused.contains("This node is not a swarm manager"), "{refused}");

    // What one manager acknowledges, any other knows at once.
    for (number, node) in cluster.nodes[..3].iter().cycle().take(12).enumerate() {
        create_config(node, &format!("c{number}"))?;
        let next = &cluster.nodes[(number + 1) % 3];
        assert_eq!(configs(next)?.len(), number + 1);
    }
    serve(&cluster.nodes[2], 4)?;
    cluster.wait_spread("web", &[1, 1, 1, 1])?;
    let info = cluster.nodes[1].get("/info")?;
    assert_eq!(info["Swarm"]["Managers"], 3, "{info}");
    assert_eq!(info["Swarm"]["ControlAvailable"], true, "{info}");
    let refused = cluster.nodes[1].cli_refused("swarm leave")?;
    assert!(refused.contains("participating as a manager"), "{refused}");
    Ok(())
}

#[test]
fn a_lost_leader_is_replaced_with_its_tasks() -> Result<()> {
    let mut cluster = Cluster::managed(3, 1)?;
    build_everywhere(&cluster)?;
    serve(cluster.manager(), 4)?;
    let tasks = cluster.wait_spread("web", &[1, 1, 1, 1])?;
    let own = processes(&tasks, &cluster.node("node1")?);
    let others: Vec<i64> = tasks
        .iter()
        .filter_map(|task| task["Status"]["ContainerStatus"]["PID"].as_i64())
        .filter(|process| !own.contains(process))
        .collect();

    let lost = Instant::now();
    cluster.nodes[0].kill()?;
    let second = &cluster.nodes[1];
    eventually("a write is accepted", || create_config(second, "after"))?;
    println!("leader killed → write accepted: {:?}", lost.elapsed());
    eventually("the lost tasks run elsewhere", || {
        let tasks = second.running_tasks("web")?;
        let lost = processes(&tasks, &json!({"ID": tasks[0]["NodeID"]}));
        ensure!(tasks.len() == 4 && !tasks.iter().any(|task| own.contains(&task["Status"]["ContainerStatus"]["PID"].as_i64().unwrap_or(0))), "{lost:?}");
        Ok(())
    })?;
    println!("leader killed → its tasks elsewhere: {:?}", lost.elapsed());
    assert!(own.iter().all(alive), "containers outlive the agent");

    cluster.nodes[0].run()?;
    eventually("the lost leader follows", || {
        let status = statuses(&cluster.nodes[0])?;
        ensure!(status.contains("node1 Reachable"), "{status:?}");
        Ok(())
    })?;
    eventually("what was replaced is gone", || {
        ensure!(!own.iter().any(alive));
        Ok(())
    })?;
    assert!(others.iter().all(alive), "nobody else was touched");
    assert!(configs(&cluster.nodes[0])?.contains("after"));
    Ok(())
}

#[test]
fn nodes_are_promoted_and_demoted_while_their_tasks_run_on() -> Result<()> {
    let cluster = Cluster::managed(1, 2)?;
    build_everywhere(&cluster)?;
    serve(cluster.manager(), 3)?;
    let tasks = cluster.wait_spread("web", &[1, 1, 1])?;
    let before: Vec<i64> = tasks
        .iter()
        .filter_map(|task| task["Status"]["ContainerStatus"]["PID"].as_i64())
        .collect();
    let refused = cluster.manager().cli_refused("node demote node1")?;
    assert!(
        refused.contains("attempting to demote the last manager of the swarm"),
        "{refused}"
    );
    let said = cluster.manager().cli_ok("node promote node2 node3")?;
    assert_eq!(
        said,
        "Node node2 promoted to a manager in the swarm.\nNode node3 promoted to a manager in the swarm.\n"
    );
    let three = ["node1 Leader", "node2 Reachable", "node3 Reachable"];
    wait_statuses(cluster.manager(), &three)?;
    for node in &cluster.nodes {
        wait_statuses(node, &three)?;
    }
    // The leader goes back to work.
    let said = cluster.nodes[1].cli_ok("node demote node1")?;
    assert_eq!(said, "Manager node1 demoted in the swarm.\n");
    eventually("node1 is a worker", || {
        let refused = cluster.nodes[0].cli_refused("node ls")?;
        ensure!(refused.contains("Worker nodes can't be used"), "{refused}");
        Ok(())
    })?;
    let now = leader(&cluster, 1)?;
    assert!(now == 1 || now == 2);
    let other = 3 - now;
    cluster.nodes[now].cli_ok(&format!("node demote node{}", other + 1))?;
    let expected = format!("node{} Leader", now + 1);
    eventually("one manager is left", || {
        let status = statuses(&cluster.nodes[now])?;
        let led = status
            .iter()
            .filter(|line| line.contains(' '))
            .collect::<Vec<_>>();
        ensure!(led == [&expected], "{status:?}");
        Ok(())
    })?;
    cluster.nodes[now].cli_ok("service scale -d web=4")?;
    cluster.nodes[now].wait_running("web", 4)?;
    assert!(before.iter().all(alive), "no task was touched");
    Ok(())
}

#[test]
fn all_managers_fall_at_once_and_nothing_is_touched() -> Result<()> {
    let mut cluster = Cluster::managed(3, 1)?;
    build_everywhere(&cluster)?;
    serve(cluster.manager(), 4)?;
    let tasks = cluster.wait_spread("web", &[1, 1, 1, 1])?;
    let before: Vec<i64> = tasks
        .iter()
        .filter_map(|task| task["Status"]["ContainerStatus"]["PID"].as_i64())
        .collect();
    for number in 0..3 {
        cluster.nodes[number].kill()?;
    }
    assert!(before.iter().all(alive));
    for number in 0..3 {
        cluster.nodes[number].run()?;
    }
    let begun = Instant::now();
    eventually("the managers decide again", || {
        create_config(&cluster.nodes[2], "after")
    })?;
    println!("three managers restarted → write accepted: {:?}", begun.elapsed());
    for number in 1..=4 {
        eventually("every node is ready", || {
            let nodes = cluster.nodes[0].get("/nodes")?;
            let name = format!("node{number}");
            let ready =
                nodes.as_array().into_iter().flatten().any(|node| {
                    node["Description"]["Hostname"] == *name && node["Status"]["State"] == "ready"
                });
            ensure!(ready, "{nodes}");
            Ok(())
        })?;
    }
    let tasks = cluster.nodes[0].wait_running("web", 4)?;
    let after: BTreeSet<i64> = tasks
        .iter()
        .filter_map(|task| task["Status"]["ContainerStatus"]["PID"].as_i64())
        .collect();
    assert_eq!(after, before.iter().copied().collect(), "nothing was replaced");
    assert!(before.iter().all(alive));
    Ok(())
}

#[test]
fn one_manager_goes_on_alone_by_force() -> Result<()> {
    let mut cluster = Cluster::managed(3, 1)?;
    build_everywhere(&cluster)?;
    serve(cluster.manager(), 2)?;
    cluster.manager().wait_running("web", 2)?;
    create_config(cluster.manager(), "kept")?;
    cluster.nodes[1].kill()?;
    cluster.nodes[2].kill()?;
    let refused = eventually("there is no leader", || {
        cluster.nodes[0].cli_refused("service ls")
    })?;
    assert!(refused.contains("The swarm does not have a leader"), "{refused}");
    let said = cluster.nodes[0].cli_ok("swarm init --force-new-cluster --advertise-addr 10.99.0.1")?;
    assert!(said.contains("Swarm initialized"), "{said}");
    assert!(configs(&cluster.nodes[0])?.contains("kept"));
    wait_statuses(&cluster.nodes[0], &["node1 Leader", "node2", "node3", "node4"])?;
    cluster.nodes[0].cli_ok("service scale -d web=3")?;
    cluster.nodes[0].wait_running("web", 3)?;
    cluster.wait_state("node4", "ready")?;
    Ok(())
}

#[test]
fn a_manager_that_was_removed_while_it_was_away_says_how_to_go_on() -> Result<()> {
    let mut cluster = Cluster::managed(3, 0)?;
    cluster.nodes[2].kill()?;
    cluster.set_cable(3, false)?;
    cluster.wait_state("node3", "down")?;
    cluster.manager().cli_ok("node demote node3")?;
    eventually("it is removed", || {
        let removed = cluster.manager().cli_ok("node rm --force node3");
        removed.with_context(|| cluster.manager().log())
    })?;
    // It reaches nobody who could tell it.
    cluster.nodes[2].run()?;
    let removed = &cluster.nodes[2];
    for words in ["node ls", "service ls"] {
        let refused = removed.cli_refused(words)?;
        assert!(
            refused.contains("does not have a leader") && refused.contains("`swarm leave --force`"),
            "{words}: {refused}"
        );
    }
    let info = removed.cli_ok("info")?;
    assert!(
        info.contains("Error: rpc error") && info.contains("`swarm leave --force`"),
        "{info}"
    );
    removed.cli_ok("swarm leave --force")?;
    let swarm = removed.get("/info")?["Swarm"].clone();
    assert_eq!(
        (&swarm["LocalNodeState"], &swarm["Error"]),
        (&"inactive".into(), &"".into())
    );
    cluster.set_cable(3, true)?;
    cluster.join(2, "manager")?;
    wait_statuses(
        cluster.manager(),
        &["node1 Leader", "node2 Reachable", "node3 Reachable"],
    )
}

/// What happened, for the check of linearizability: names that were acknowledged, in the order of their acknowledgement.
#[derive(Default)]
struct History {
    acknowledged: Mutex<Vec<String>>,
    attempted: Mutex<BTreeSet<String>>,
}

/// A set that only grows is linearizable if every read holds all that was acknowledged before it began, and nothing that
/// was never attempted; and if what one read has seen, no later one misses.
#[test]
fn no_acknowledged_write_is_lost_while_leaders_fall() -> Result<()> {
    let mut cluster = Cluster::managed(3, 0)?;
    let history = History::default();
    let over = AtomicBool::new(false);
    for round in 0..4 {
        let lead = leader(&cluster, if round == 0 { 0 } else { round % 3 })?;
        let sockets: Vec<_> = cluster.nodes.iter().map(Agent::socket).collect();
        std::thread::scope(|scope| -> Result<()> {
            over.store(false, Ordering::SeqCst);
            let (history, over, sockets) = (&history, &over, &sockets);
            let writer = scope.spawn(move || write_until(history, sockets, round, over));
            let reader = scope.spawn(move || read_until(history, sockets, over));
            std::thread::sleep(Duration::from_millis(500));
            match round % 2 {
                0 => {
                    cluster.nodes[lead].kill()?;
                    std::thread::sleep(Duration::from_millis(2500));
                    cluster.nodes[lead].run()?;
                }
                _ => {
                    let process =
                        Pid::from_raw(cluster.nodes[lead].pid().context("no process")?.cast_signed());
                    kill(process, Signal::SIGSTOP)?;
                    std::thread::sleep(Duration::from_millis(4000));
                    kill(process, Signal::SIGCONT)?;
                }
            }
            std::thread::sleep(Duration::from_millis(1500));
            over.store(true, Ordering::SeqCst);
            writer.join().expect("the writer panicked")?;
            reader.join().expect("the reader panicked")
        })?;
    }
    let acknowledged: BTreeSet<String> = history.acknowledged.lock().unwrap().iter().cloned().collect();
    ensure!(acknowledged.len() > 20, "only {} writes", acknowledged.len());
    for node in &cluster.nodes {
        let last = eventually("every manager answers", || configs(node))?;
        let lost: Vec<_> = acknowledged.difference(&last).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
    }
    Ok(())
}

fn ask(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
    integration::http::request(socket, method, path, body)?
        .success()?
        .json()
}

fn write_until(
    history: &History,
    sockets: &[std::path::PathBuf],
    round: usize,
    over: &AtomicBool,
) -> Result<()> {
    for number in 0.. {
        if over.load(Ordering::SeqCst) {
            return Ok(());
        }
        let name = format!("r{round}-{number}");
        history.attempted.lock().unwrap().insert(name.clone());
        let body = json!({"Name": name, "Data": "eA=="});
        // One that is not acknowledged may be written or not.
        if ask(
            &sockets[number % sockets.len()],
            "POST",
            "/configs/create",
            Some(&body),
        )
        .is_ok()
        {
            history.acknowledged.lock().unwrap().push(name);
        }
    }
    Ok(())
}

fn read_until(history: &History, sockets: &[std::path::PathBuf], over: &AtomicBool) -> Result<()> {
    let mut seen = BTreeSet::new();
    for number in 0.. {
        if over.load(Ordering::SeqCst) {
            break;
        }
        let before: BTreeSet<String> = history.acknowledged.lock().unwrap().iter().cloned().collect();
        let Ok(listed) = ask(&sockets[(number + 1) % sockets.len()], "GET", "/configs", None) else {
            continue;
        };
        let names = listed.as_array().into_iter().flatten();
        let read: BTreeSet<String> = names
            .map(|config| config["Spec"]["Name"].as_str().unwrap_or_default().to_owned())
            .collect();
        let attempted = history.attempted.lock().unwrap().clone();
        ensure!(
            before.is_subset(&read),
            "acknowledged but not read: {:?}",
            before.difference(&read)
        );
        ensure!(
            seen.is_subset(&read),
            "read before but not now: {:?}",
            seen.difference(&read)
        );
        ensure!(
            read.is_subset(&attempted),
            "never written: {:?}",
            read.difference(&attempted)
        );
        seen = read;
    }
    Ok(())
}

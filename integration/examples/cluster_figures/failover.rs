//! What is lost, and how long it takes until it is made good: a node, the leader, all managers at once.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use crate::Options;
use crate::side::{Node, Side, until};
use crate::table::{Figure, Table};

/// A worker's cable is cut, as if its machine had died; until all tasks run elsewhere.
pub(crate) fn node(options: &Options, table: &mut Table) -> Result<()> {
    let mut figure = Figure::seconds("node killed → its tasks run elsewhere");
    let sides = table.sides(|kind| Side::new(kind, 3, 1));
    for _ in 0..options.rounds {
        figure.pair(&sides, |side: &Side| {
            side.service("web", options.replicas)?;
            let lost = node_id(side, 3)?;
            side.switch.set_cable(3, false)?;
            let took = until("the tasks run elsewhere", || {
                let running = side.running(&side.nodes[0], "web")?;
                let elsewhere = running.iter().filter(|task| task["NodeID"] != lost).count();
                ensure!(elsewhere == options.replicas, "{elsewhere} run elsewhere");
                Ok(())
            });
            side.switch.set_cable(3, true)?;
            until("the node is back", || {
                ensure!(side.ready(&side.nodes[0])? == 3);
                Ok(())
            })?;
            side.remove("web")?;
            Ok(took?.as_secs_f64())
        });
    }
    table.add(figure);
    Ok(())
}

/// The leader of three managers is killed; until another takes a write. What was acknowledged must be there afterwards.
pub(crate) fn leader(options: &Options, table: &mut Table) -> Result<()> {
    let mut figure = Figure::seconds("leader killed → writes accepted");
    let mut sides = table.sides(|kind| Side::new(kind, 3, 3));
    let mut number = 0;
    for _ in 0..options.rounds {
        figure.pair_mut(&mut sides, |_, side: &mut Side| {
            number += 1;
            lose_leader(side, number)
        });
    }
    table.add(figure);
    Ok(())
}

fn lose_leader(side: &mut Side, number: usize) -> Result<f64> {
    let before = format!("before-{number}");
    let mut leader = 0;
    until("there is a leader", || {
        leader = side.leader(&side.nodes[0])?;
        Ok(())
    })?;
    let other = (leader + 1) % side.nodes.len();
    write(&side.nodes[other], &before)?;
    side.nodes[leader].kill()?;
    let mut tries = 0;
    let took = until("a write is accepted", || {
        tries += 1;
        write(&side.nodes[other], &format!("after-{number}-{tries}"))
    });
    side.nodes[leader].run()?;
    until("the managers are together again", || {
        ensure!(side.reachable(&side.nodes[other])? == side.nodes.len());
        Ok(())
    })?;
    let names = configs(&side.nodes[other])?;
    for name in [before, format!("after-{number}-{tries}")] {
        ensure!(names.contains(&name), "the acknowledged write {name} is lost");
    }
    Ok(took?.as_secs_f64())
}

/// All three managers are killed and started; until a write is accepted, and how many containers are the same as before.
pub(crate) fn restart(options: &Options, table: &mut Table) -> Result<()> {
    let mut figure = Figure::seconds("cluster of 3 killed and started → writes accepted");
    let mut kept = Figure::count("of its containers still the same, of 100");
    let mut sides = table.sides(|kind| {
        let side = Side::new(kind, 3, 3)?;
        side.service("web", options.replicas)?;
        Ok(side)
    });
    let mut number = 0;
    for _ in 0..options.rounds {
        let mut shares = Vec::new();
        figure.pair_mut(&mut sides, |kind, side: &mut Side| {
            number += 1;
            let (took, share) = lose_all(side, &format!("restart-{number}"))?;
            shares.push((kind, Ok(share)));
            until("the tasks run", || {
                ensure!(side.running(&side.nodes[0], "web")?.len() == options.replicas);
                Ok(())
            })?;
            Ok(took)
        });
        kept.values(shares);
    }
    table.add(figure);
    table.add(kept);
    Ok(())
}

/// Seconds from the start of all daemons until a write is accepted, and how many of a hundred containers outlived it.
fn lose_all(side: &mut Side, config: &str) -> Result<(f64, f64)> {
    let before = processes(side)?;
    for node in &mut side.nodes {
        node.kill()?;
    }
    let began = Instant::now();
    run_all(side)?;
    until("a write is accepted", || write(&side.nodes[0], config))?;
    let took = began.elapsed();
    let left = before
        .iter()
        .filter(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists());
    let share = 100.0 * left.count() as f64 / before.len().max(1) as f64;
    Ok((took.as_secs_f64(), share))
}

/// Starts all daemons at the same time, as after a power cut.
fn run_all(side: &mut Side) -> Result<()> {
    std::thread::scope(|scope| {
        let started: Vec<_> = side
            .nodes
            .iter_mut()
            .map(|node| scope.spawn(|| node.run()))
            .collect();
        started
            .into_iter()
            .try_for_each(|node| node.join().unwrap_or_else(|_| bail!("a thread panicked")))
    })
}

/// The smallest thing that a manager has to agree upon with the others. Given up soon, because what is asked may be dead.
fn write(node: &Node, name: &str) -> Result<()> {
    node.post("/configs/create", &json!({"Name": name, "Data": "eA=="}))
        .map(drop)
}

fn configs(node: &Node) -> Result<BTreeSet<String>> {
    let list = node.get("/configs")?;
    let name = |config: &Value| config["Spec"]["Name"].as_str().unwrap_or_default().to_owned();
    Ok(list.as_array().into_iter().flatten().map(name).collect())
}

/// The containers' first processes, by their identifiers and start times.
fn processes(side: &Side) -> Result<BTreeSet<i64>> {
    let mut pids = BTreeSet::new();
    for node in &side.nodes {
        for container in node.get("/containers/json")?.as_array().into_iter().flatten() {
            let id = container["Id"].as_str().unwrap_or_default();
            let found = node.get(&format!("/containers/{id}/json"))?;
            pids.extend(found["State"]["Pid"].as_i64());
        }
    }
    Ok(pids)
}

fn node_id(side: &Side, number: u8) -> Result<Value> {
    let name = format!("node{number}");
    let nodes = side.nodes[0].get("/nodes")?;
    let found = nodes
        .as_array()
        .into_iter()
        .flatten()
        .find(|node| node["Description"]["Hostname"] == name.as_str());
    Ok(found.map(|node| node["ID"].clone()).unwrap_or_default())
}

//! Tasks beside each other: strategies, affinity and anti-affinity over whole passes.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::spec::Labels;
use proto::spec::placement_labels::{AFFINITY, ANTI_AFFINITY, STRATEGY};
use proto::wire::NodeLoad;
use proto::{NodeId, Service, Task, TaskState};
use tokio::time::Instant;

use super::cluster::Cluster;
use super::tests::{cluster, counts, create, node, pass, reserve, task};
use crate::state::{Change, Event};

/// A cluster learns of a service with these labels.
fn service(cluster: &mut Cluster, name: &str, labels: &[(&str, &str)]) {
    let mut service = Service {
        id: name.into(),
        ..Service::default()
    };
    service.spec.name = name.into();
    service.spec.labels = labels
        .iter()
        .map(|&(key, value)| (key.to_owned(), value.to_owned()))
        .collect::<Labels>();
    cluster.note(&Event::Service(Change::Create(Arc::new(service))), Instant::now());
}

fn tasks(cluster: &mut Cluster, service: &str, count: u64) {
    (1..=count).for_each(|slot| create(cluster, task(service, slot)));
}

/// Passes until nothing changes; where every task is, and what the others say.
fn settle(cluster: &mut Cluster) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let (mut assigned, mut waiting) = (BTreeMap::new(), BTreeMap::new());
    loop {
        let (more, said) = pass(cluster);
        waiting.extend(said);
        waiting.retain(|task, _| !more.contains_key(task));
        assigned.extend(more);
        if !cluster.has_work() {
            return (assigned, waiting);
        }
    }
}

fn of<'a>(assigned: &'a BTreeMap<String, String>, service: &str) -> Vec<&'a str> {
    let prefix = format!("{service}.");
    let ours = assigned.iter().filter(|(task, _)| task.starts_with(&prefix));
    ours.map(|(_, node)| node.as_str()).collect()
}

#[test]
fn binpack_fills_the_fullest_node_that_still_fits() {
    let mut cluster = cluster([node(1), node(2), node(3)]);
    service(&mut cluster, "old", &[]);
    let mut running = task("old", 1);
    reserve(&mut running, 30);
    running.node_id = "n02".into();
    running.status.state = TaskState::Running;
    create(&mut cluster, running);
    service(&mut cluster, "web", &[(STRATEGY, "binpack")]);
    for slot in 1..=5 {
        let mut task = task("web", slot);
        reserve(&mut task, 30);
        create(&mut cluster, task);
    }
    let (assigned, waiting) = settle(&mut cluster);
    assert!(waiting.is_empty());
    assert_eq!(counts(&assigned), BTreeMap::from([("n01", 3), ("n02", 2)]));
}

#[test]
fn among_nodes_alike_the_one_with_less_reserved_and_then_the_idle_one_is_chosen() {
    let mut cluster = cluster([node(1), node(2), node(3)]);
    let busy = NodeLoad {
        cpu_percent: 90,
        memory_percent: 10,
    };
    cluster.loads.put(&NodeId::from("n02"), busy);
    for (slot, memory) in [(1, 20), (2, 10), (3, 10)] {
        let mut running: Task = task("old", slot);
        reserve(&mut running, memory);
        running.node_id = NodeId::from(format!("n0{slot}"));
        running.status.state = TaskState::Running;
        create(&mut cluster, running);
    }
    tasks(&mut cluster, "web", 3);
    let (assigned, _) = settle(&mut cluster);
    assert_eq!(of(&assigned, "web"), ["n03", "n02", "n01"]);
}

#[test]
fn anti_affinity_goes_both_ways_and_says_so() {
    let mut cluster = cluster([node(1), node(2)]);
    service(&mut cluster, "loud", &[(ANTI_AFFINITY, "quiet")]);
    service(&mut cluster, "quiet", &[]);
    tasks(&mut cluster, "loud", 1);
    let (assigned, _) = settle(&mut cluster);
    assert_eq!(of(&assigned, "loud"), ["n01"]);
    tasks(&mut cluster, "quiet", 2);
    let (assigned, _) = settle(&mut cluster);
    assert_eq!(of(&assigned, "quiet"), ["n02", "n02"], "the other has said it");
    create(&mut cluster, task("loud", 2));
    create(&mut cluster, task("loud", 3));
    let (assigned, waiting) = settle(&mut cluster);
    assert_eq!(of(&assigned, "loud"), ["n01", "n01"]);
    assert!(waiting.is_empty());
    service(&mut cluster, "third", &[(ANTI_AFFINITY, "loud,quiet")]);
    tasks(&mut cluster, "third", 1);
    let (_, waiting) = settle(&mut cluster);
    assert_eq!(
        waiting["third.1"],
        "no suitable node (anti-affinity with loud on 1 node; anti-affinity with quiet on 1 node)"
    );
}

#[test]
fn a_service_that_dislikes_itself_has_one_task_per_node() {
    let mut cluster = cluster([node(1), node(2)]);
    service(&mut cluster, "db", &[(ANTI_AFFINITY, "db")]);
    tasks(&mut cluster, "db", 3);
    let (assigned, waiting) = settle(&mut cluster);
    assert_eq!(counts(&assigned), BTreeMap::from([("n01", 1), ("n02", 1)]));
    assert_eq!(
        waiting["db.3"],
        "no suitable node (anti-affinity with db on 2 nodes)"
    );
}

#[test]
fn a_task_waits_for_the_service_that_it_wants_beside_it() {
    let mut cluster = cluster([node(1), node(2), node(3)]);
    service(&mut cluster, "app", &[(AFFINITY, "cache")]);
    tasks(&mut cluster, "app", 4);
    let (_, waiting) = settle(&mut cluster);
    assert_eq!(
        waiting["app.1"],
        "no suitable node (affinity with cache not satisfied on 3 nodes: no such service)"
    );
    service(&mut cluster, "cache", &[]);
    let (_, waiting) = settle(&mut cluster);
    assert_eq!(
        waiting["app.1"],
        "no suitable node (affinity with cache not satisfied on 3 nodes)"
    );
    tasks(&mut cluster, "cache", 2);
    let (assigned, waiting) = settle(&mut cluster);
    assert!(waiting.is_empty(), "{waiting:?}");
    assert_eq!(of(&assigned, "cache"), ["n01", "n02"]);
    assert_eq!(of(&assigned, "app"), ["n01", "n02", "n01", "n02"]);
}

#[test]
fn services_that_want_each_other_come_together() {
    let mut cluster = cluster([node(1), node(2)]);
    service(&mut cluster, "a", &[(AFFINITY, "b")]);
    service(&mut cluster, "b", &[(AFFINITY, "a")]);
    tasks(&mut cluster, "a", 1);
    tasks(&mut cluster, "b", 3);
    let (assigned, waiting) = settle(&mut cluster);
    assert!(waiting.is_empty(), "{waiting:?}");
    let node = of(&assigned, "a")[0];
    assert_eq!(of(&assigned, "b"), [node; 3]);
}

#[test]
fn a_short_name_is_first_looked_for_in_the_stack() {
    let stack = ("com.docker.stack.namespace", "shop");
    let mut cluster = cluster([node(1), node(2)]);
    service(&mut cluster, "web", &[]);
    service(&mut cluster, "shop_web", &[stack]);
    service(&mut cluster, "shop_db", &[stack, (ANTI_AFFINITY, "web")]);
    for (name, node) in [("web", "n01"), ("shop_web", "n02")] {
        let mut running = task(name, 1);
        running.node_id = node.into();
        running.status.state = TaskState::Running;
        create(&mut cluster, running);
    }
    tasks(&mut cluster, "shop_db", 2);
    let (assigned, _) = settle(&mut cluster);
    assert_eq!(of(&assigned, "shop_db"), ["n01", "n01"]);
}

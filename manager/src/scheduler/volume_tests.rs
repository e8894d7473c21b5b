//! Tasks go back to their data: volumes over whole passes.

use std::sync::Arc;

use proto::object::NodeState;
use proto::spec::{Availability, Mount, ServiceMode};
use proto::{Node, Service, Task, TaskState};
use tokio::time::Instant;

use super::cluster::Cluster;
use super::tests::{cluster, counts, create, node, pass, reserve, task};
use crate::state::{Change, Event};

fn service(cluster: &mut Cluster, name: &str, replicas: u64) {
    let mut service = Service {
        id: name.into(),
        ..Service::default()
    };
    service.spec.name = name.into();
    service.spec.mode = ServiceMode::replicated(replicas);
    cluster.note(&Event::Service(Change::Create(Arc::new(service))), Instant::now());
}

fn with_volume(service: &str, slot: u64, source: &str) -> Task {
    let mut task = task(service, slot);
    let mount = Mount {
        source: source.into(),
        target: "/data".into(),
        ..Mount::default()
    };
    std::sync::Arc::make_mut(&mut task.spec)
        .container_spec
        .get_or_insert_default()
        .mounts
        .push(mount);
    task
}

fn holding(number: usize, volumes: &[&str]) -> Node {
    let mut node = node(number);
    node.description.hostname = format!("host{number}");
    node.description.volumes = volumes.iter().map(|&name| name.to_owned()).collect();
    node
}

fn change(cluster: &mut Cluster, node: Node) {
    cluster.note(&Event::Node(Change::Create(Arc::new(node))), Instant::now());
}

/// Where the task of an earlier pass is told to have ended.
fn ended(cluster: &mut Cluster, mut task: Task, node: &str) {
    task.node_id = node.into();
    task.status.state = TaskState::Running;
    create(cluster, task.clone());
    task.status.state = TaskState::Shutdown;
    create(cluster, task);
}

#[test]
fn a_single_replica_goes_where_its_data_is_or_waits_and_says_where_that_is() {
    let mut cluster = cluster([holding(1, &[]), holding(2, &["data"]), holding(3, &[])]);
    service(&mut cluster, "db", 1);
    create(&mut cluster, with_volume("db", 1, "data"));
    assert_eq!(pass(&mut cluster).0["db.1"], "n02");

    let mut down = holding(2, &["data"]);
    down.status.state = NodeState::Down;
    change(&mut cluster, down);
    let mut second = with_volume("db", 1, "data");
    second.id = "second".into();
    create(&mut cluster, second);
    assert_eq!(
        pass(&mut cluster).1["second"],
        "no suitable node (volume data is on node host2, which is down, not on 2 nodes; 1 node not available for new \
         tasks)"
    );
    let mut drained = holding(2, &["data"]);
    drained.spec.availability = Availability::Drain;
    change(&mut cluster, drained);
    assert!(pass(&mut cluster).1["second"].contains("data is on node host2, which is drained"));
    change(&mut cluster, holding(2, &["data"]));
    assert_eq!(pass(&mut cluster).0["second"], "n02", "it is back");
}

#[test]
fn a_volume_that_was_moved_takes_its_task_with_it() {
    let mut cluster = cluster([holding(1, &["data"]), holding(2, &[])]);
    service(&mut cluster, "db", 1);
    ended(&mut cluster, with_volume("db", 1, "data"), "n01");
    change(&mut cluster, holding(2, &["data"]));
    change(&mut cluster, holding(1, &[]));
    create(&mut cluster, with_volume("db", 1, "data"));
    assert_eq!(pass(&mut cluster).0["db.1"], "n02");
}

#[test]
fn a_volume_on_its_way_holds_its_tasks_and_no_others() {
    let leaving = |volumes: &[&str]| {
        let mut node = holding(1, volumes);
        let label = format!("{}data", super::volumes::LEAVING);
        node.spec.labels.insert(label, "n02".into());
        node
    };
    let mut cluster = cluster([leaving(&["data"]), holding(2, &[])]);
    service(&mut cluster, "db", 1);
    service(&mut cluster, "cache", 3);
    create(&mut cluster, with_volume("db", 1, "data"));
    // Nor may one of several replicas begin to write to it.
    create(&mut cluster, with_volume("cache", 1, "data"));
    service(&mut cluster, "other", 3);
    create(&mut cluster, with_volume("other", 1, "more"));
    let (assigned, reasons) = pass(&mut cluster);
    assert_eq!(assigned.keys().collect::<Vec<_>>(), ["other.1"]);
    for task in ["db.1", "cache.1"] {
        assert_eq!(reasons[task], "volume data is being moved to another node");
    }
    change(&mut cluster, holding(2, &["data"]));
    change(&mut cluster, leaving(&[]));
    assert!(pass(&mut cluster).0.is_empty(), "the move has not ended");
    change(&mut cluster, holding(1, &[]));
    assert_eq!(pass(&mut cluster).0["db.1"], "n02");
}

#[test]
fn of_several_copies_the_one_that_was_used_last_counts() {
    let mut cluster = cluster([holding(1, &["data"]), holding(2, &["data"])]);
    service(&mut cluster, "db", 1);
    ended(&mut cluster, with_volume("db", 1, "data"), "n02");
    create(&mut cluster, with_volume("db", 1, "data"));
    assert_eq!(pass(&mut cluster).0["db.1"], "n02");
    let mut gone = holding(2, &["data"]);
    gone.status.state = NodeState::Down;
    change(&mut cluster, gone.clone());
    ended(&mut cluster, with_volume("db", 1, "data"), "n02");
    create(&mut cluster, with_volume("db", 1, "data"));
    assert!(pass(&mut cluster).1["db.1"].contains("data is on node host2, which is down"));
    let gone = Event::Node(Change::Remove(Arc::new(gone)));
    cluster.note(&gone, Instant::now());
    create(&mut cluster, with_volume("db", 2, "data"));
    assert_eq!(pass(&mut cluster).0["db.1"], "n01", "the last node was given up");
}

#[test]
fn a_volume_that_nobody_has_is_made_where_the_slot_was_before() {
    let mut cluster = cluster([holding(1, &[]), holding(2, &[])]);
    service(&mut cluster, "db", 1);
    ended(&mut cluster, with_volume("db", 1, "data"), "n02");
    create(&mut cluster, task("other", 1));
    let mut other = task("other", 2);
    reserve(&mut other, 10);
    other.node_id = "n02".into();
    other.status.state = TaskState::Running;
    create(&mut cluster, other);
    create(&mut cluster, with_volume("db", 1, "data"));
    assert_eq!(pass(&mut cluster).0["db.1"], "n02", "though n01 is emptier");
}

#[test]
fn services_that_share_a_new_volume_come_together() {
    let mut cluster = cluster([holding(1, &[]), holding(2, &[])]);
    service(&mut cluster, "app", 1);
    service(&mut cluster, "backup", 1);
    create(&mut cluster, with_volume("app", 1, "data"));
    create(&mut cluster, with_volume("backup", 1, "data"));
    let (assigned, _) = pass(&mut cluster);
    assert_eq!(counts(&assigned).len(), 1, "{assigned:?}");
}

#[test]
fn several_replicas_spread_unless_each_has_a_volume_of_its_own() {
    let mut cluster = cluster([
        holding(1, &["cache", "store-1"]),
        holding(2, &["store-3"]),
        holding(3, &["store-2"]),
    ]);
    service(&mut cluster, "web", 3);
    service(&mut cluster, "store", 3);
    for slot in 1..=3 {
        create(&mut cluster, with_volume("web", slot, "cache"));
        create(&mut cluster, with_volume("store", slot, "store-{{.Task.Slot}}"));
    }
    let (mut assigned, waiting) = pass(&mut cluster);
    assert!(waiting.is_empty(), "{waiting:?}");
    let own = [("store.1", "n01"), ("store.2", "n03"), ("store.3", "n02")];
    for (task, node) in own {
        assert_eq!(assigned.remove(task).as_deref(), Some(node));
    }
    assert_eq!(counts(&assigned).len(), 3, "a cache binds nobody");
}

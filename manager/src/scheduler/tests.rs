//! Properties of a pass over random clusters, and what tasks without a node say.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use proto::object::NodeState;
use proto::spec::{
    Availability, EndpointSpec, Placement, PlacementPreference, PortConfig, PublishMode, Reservations,
    ResourceRequirements, SpreadOver,
};
use proto::{Node, NodeId, Task, TaskId, TaskState, Version};
use tokio::time::Instant;

use super::cluster::Cluster;
use super::constraint;
use super::filter::Filters;
use super::group::Outcome;
use super::node::NodeInfo;
use crate::state::{Change, Event};

pub(super) fn node(number: usize) -> Node {
    let mut node = Node {
        id: NodeId::from(format!("n{number:02}")),
        ..Node::default()
    };
    node.status.state = NodeState::Ready;
    node.description.resources = Reservations {
        memory_bytes: 100,
        ..Reservations::default()
    };
    node.description.platform.os = "linux".into();
    node.description.platform.architecture = "x86_64".into();
    node
}

/// A pending task of the service.
pub(super) fn task(service: &str, slot: u64) -> Task {
    let mut task = Task {
        id: TaskId::from(format!("{service}.{slot}")),
        service_id: service.into(),
        slot,
        spec_version: Some(Version { index: 1 }),
        desired_state: TaskState::Running,
        ..Task::default()
    };
    task.status.state = TaskState::Pending;
    task.status.message = "pending task scheduling".into();
    task
}

fn placement(task: &mut Task) -> &mut Placement {
    std::sync::Arc::make_mut(&mut task.spec)
        .placement
        .get_or_insert_default()
}

pub(super) fn reserve(task: &mut Task, memory_bytes: i64) {
    let reservations = Some(Reservations {
        memory_bytes,
        ..Reservations::default()
    });
    std::sync::Arc::make_mut(&mut task.spec).resources = Some(ResourceRequirements {
        reservations,
        limits: None,
    });
}

fn host_port(task: &mut Task, port: u16) {
    let port = PortConfig {
        published_port: port,
        publish_mode: PublishMode::Host,
        ..PortConfig::default()
    };
    task.endpoint = Some(EndpointSpec {
        ports: vec![port],
        ..EndpointSpec::default()
    });
}

fn spread_over(task: &mut Task, label: &str) {
    let spread = Some(SpreadOver {
        spread_descriptor: label.into(),
    });
    placement(task).preferences.push(PlacementPreference { spread });
}

pub(super) fn create(cluster: &mut Cluster, task: Task) {
    cluster.note(&Event::Task(Change::Create(Arc::new(task))), Instant::now());
}

pub(super) fn cluster(nodes: impl IntoIterator<Item = Node>) -> Cluster {
    let mut cluster = Cluster::default();
    for node in nodes {
        cluster.note(&Event::Node(Change::Create(Arc::new(node))), Instant::now());
    }
    cluster
}

/// Runs a pass; the node of each assigned task, and what the others say.
pub(super) fn pass(cluster: &mut Cluster) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    let (mut assigned, mut waiting) = (BTreeMap::new(), BTreeMap::new());
    for decision in cluster.schedule(Instant::now()) {
        let id = String::from(decision.task.id.clone());
        match decision.outcome {
            Outcome::Assign { node, .. } => drop(assigned.insert(id, String::from(node))),
            Outcome::Wait { err, .. } => drop(waiting.insert(id, err)),
        }
    }
    (assigned, waiting)
}

/// How many tasks each node got.
pub(super) fn counts(assigned: &BTreeMap<String, String>) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    assigned
        .values()
        .for_each(|node| *counts.entry(node.as_str()).or_default() += 1);
    counts
}

/// What one task that finds no node on these says.
fn says(nodes: impl IntoIterator<Item = Node>, change: impl Fn(&mut Task)) -> String {
    let mut cluster = cluster(nodes);
    let mut task = task("web", 1);
    change(&mut task);
    create(&mut cluster, task);
    pass(&mut cluster).1.remove("web.1").unwrap()
}

#[test]
fn every_filter_explains_itself() {
    assert_eq!(says([], |_| {}), "no suitable node");
    let mut down = node(1);
    down.status.state = NodeState::Down;
    assert_eq!(
        says([down.clone()], |_| {}),
        "no suitable node (1 node not available for new tasks)"
    );
    assert_eq!(
        says([node(1), node(2)], |task| reserve(task, 101)),
        "no suitable node (insufficient resources on 2 nodes)"
    );
    assert_eq!(
        says([node(1)], |task| placement(task)
            .constraints
            .push("node.role==manager".into())),
        "no suitable node (scheduling constraints not satisfied on 1 node)"
    );
    assert_eq!(
        says([node(1)], |task| {
            let arm = proto::spec::Platform {
                architecture: "arm64".into(),
                os: "linux".into(),
            };
            placement(task).platforms.push(arm);
        }),
        "no suitable node (unsupported platform on 1 node)"
    );
    assert_eq!(
        says([down, node(2), node(3)], |task| reserve(task, 101)),
        "no suitable node (insufficient resources on 2 nodes; 1 node not available for new tasks)"
    );
}

#[test]
fn an_encrypted_network_needs_a_kernel_that_encrypts() {
    let encrypted = |task: &mut Task| {
        let mut attachment = proto::object::NetworkAttachment::default();
        let driver = attachment
            .network
            .spec
            .driver_configuration
            .get_or_insert_default();
        driver.options.insert("encrypted".into(), String::new());
        task.networks_attachments.push(attachment);
    };
    assert_eq!(
        says([node(1), node(2)], encrypted),
        "no suitable node (no WireGuard for an encrypted network on 2 nodes)"
    );
    let mut able = node(3);
    able.description.data_path.public_key = "key".into();
    able.status.state = proto::object::NodeState::Down;
    assert_eq!(
        says([node(1), able], encrypted),
        "no suitable node (1 node not available for new tasks; no WireGuard for an encrypted network on 1 node)"
    );
}

#[test]
fn a_node_that_reaches_a_subnet_otherwise_takes_no_task_of_it() {
    let on = |task: &mut Task| {
        let mut attachment = proto::object::NetworkAttachment::default();
        attachment.network.ipam.configs = vec![proto::spec::IpamConfig {
            subnet: "10.0.7.0/24".into(),
            ..Default::default()
        }];
        task.networks_attachments.push(attachment);
    };
    let mut elsewhere = node(1);
    elsewhere.description.subnets = vec!["10.0.0.0/20".into()];
    assert_eq!(
        says([elsewhere.clone()], on),
        "no suitable node (network subnet 10.0.7.0/24 overlaps with what is reached otherwise from 1 node)"
    );
}

#[test]
fn missing_drivers_and_taken_ports_are_explained() {
    let mut plain = node(1);
    plain.description.engine.plugins = vec![proto::object::EnginePlugin {
        kind: "Volume".into(),
        name: "local".into(),
    }];
    let explained = says([plain], |task| {
        let driver = proto::spec::VolumeDriver {
            name: "nfs".into(),
            ..Default::default()
        };
        let options = proto::spec::VolumeOptions {
            driver_config: Some(driver),
            ..Default::default()
        };
        let mount = proto::spec::Mount {
            volume_options: Some(options),
            ..Default::default()
        };
        std::sync::Arc::make_mut(&mut task.spec).container_spec = Some(proto::spec::ContainerSpec {
            mounts: vec![mount],
            ..Default::default()
        });
    });
    assert_eq!(explained, "no suitable node (missing plugin on 1 node)");

    let mut cluster = cluster([node(1)]);
    for slot in 1..=2 {
        let mut task = task("web", slot);
        host_port(&mut task, 80);
        create(&mut cluster, task);
    }
    let (assigned, waiting) = pass(&mut cluster);
    assert_eq!(assigned["web.1"], "n01");
    assert_eq!(
        waiting["web.2"],
        "no suitable node (host-mode port already in use on 1 node)"
    );
}

#[test]
fn max_replicas_per_node_hold() {
    let mut cluster = cluster([node(1), node(2)]);
    for slot in 1..=5 {
        let mut task = task("web", slot);
        placement(&mut task).max_replicas = 2;
        create(&mut cluster, task);
    }
    let (assigned, waiting) = pass(&mut cluster);
    assert_eq!(counts(&assigned), BTreeMap::from([("n01", 2), ("n02", 2)]));
    assert_eq!(
        waiting["web.5"],
        "no suitable node (max replicas per node limit exceed)"
    );
    assert!(pass(&mut cluster).0.is_empty(), "and it is said once");
}

#[test]
fn tasks_are_spread_over_labels_before_nodes() {
    let nodes = (1..=4).map(|number| {
        let mut node = node(number);
        node.spec
            .labels
            .insert("zone".into(), if number == 1 { "a".into() } else { "b".into() });
        node
    });
    let mut cluster = cluster(nodes);
    for slot in 1..=6 {
        let mut task = task("web", slot);
        spread_over(&mut task, "node.labels.zone");
        create(&mut cluster, task);
    }
    let (assigned, _) = pass(&mut cluster);
    assert_eq!(
        counts(&assigned),
        BTreeMap::from([("n01", 3), ("n02", 1), ("n03", 1), ("n04", 1)])
    );
}

#[test]
fn a_node_on_which_the_service_keeps_failing_is_the_last_choice() {
    let mut cluster = cluster([node(1), node(2)]);
    for slot in 1..=5 {
        let mut failing = task("web", slot);
        failing.node_id = "n01".into();
        failing.status.state = TaskState::Running;
        create(&mut cluster, failing.clone());
        failing.status.state = TaskState::Failed;
        cluster.note(&Event::Task(Change::Create(Arc::new(failing))), Instant::now());
    }
    for slot in 6..=8 {
        create(&mut cluster, task("web", slot));
    }
    create(&mut cluster, task("other", 1));
    let (assigned, _) = pass(&mut cluster);
    assert!(
        (6..=8).all(|slot| assigned[&format!("web.{slot}")] == "n02"),
        "{assigned:?}"
    );
    assert_eq!(assigned["other.1"], "n01", "other services do not mind");
}

#[test]
fn a_task_with_a_node_is_confirmed_there_or_waits() {
    let mut cluster = cluster([node(1), node(2)]);
    let mut global = task("log", 0);
    global.node_id = "n02".into();
    reserve(&mut global, 60);
    create(&mut cluster, global.clone());
    let decision = cluster.schedule(Instant::now()).remove(0);
    let message = "scheduler confirmed task can run on preassigned node";
    assert_eq!(
        decision.outcome,
        Outcome::Assign {
            node: "n02".into(),
            given: vec![],
            message
        }
    );
    global.id = "second".into();
    create(&mut cluster, global);
    assert_eq!(pass(&mut cluster).1["second"], "insufficient resources on 1 node");
}

#[derive(Debug, Clone)]
struct Service {
    tasks: u64,
    memory: i64,
    zone: Option<bool>,
    max_replicas: u64,
    port: Option<u16>,
    spread: bool,
}

fn services() -> impl Strategy<Value = Vec<Service>> {
    let service = (
        0..12u64,
        prop_oneof![Just(0), 1..60i64],
        proptest::option::of(any::<bool>()),
        prop_oneof![2 => Just(0), 1 => 1..3u64],
        proptest::option::weighted(0.2, 1..3u16),
        any::<bool>(),
    );
    let service = service.prop_map(|(tasks, memory, zone, max_replicas, port, spread)| Service {
        tasks,
        memory,
        zone,
        max_replicas,
        port,
        spread,
    });
    proptest::collection::vec(service, 1..5)
}

fn nodes() -> impl Strategy<Value = Vec<(bool, bool)>> {
    proptest::collection::vec((any::<bool>(), proptest::bool::weighted(0.8)), 0..8)
}

proptest! {
    #[test]
    fn what_is_placed_fits_and_what_waits_fits_nowhere(services in services(), nodes in nodes()) {
        let nodes: Vec<Node> = nodes.iter().enumerate().map(|(number, (zone, open))| {
            let mut node = node(number);
            node.spec.labels.insert("zone".into(), zone.to_string());
            node.spec.availability = if *open { Availability::Active } else { Availability::Drain };
            node
        }).collect();
        let mut cluster = cluster(nodes.clone());
        let mut tasks = BTreeMap::new();
        for (number, service) in services.iter().enumerate() {
            for slot in 1..=service.tasks {
                let mut task = task(&format!("s{number}"), slot);
                reserve(&mut task, service.memory);
                placement(&mut task).max_replicas = service.max_replicas;
                if let Some(zone) = service.zone {
                    placement(&mut task).constraints.push(format!("node.labels.zone=={zone}"));
                }
                if let Some(port) = service.port {
                    host_port(&mut task, port);
                }
                if service.spread {
                    spread_over(&mut task, "node.labels.zone");
                }
                tasks.insert(String::from(task.id.clone()), task.clone());
                create(&mut cluster, task);
            }
        }
        let (assigned, waiting) = pass(&mut cluster);
        prop_assert_eq!(assigned.len() + waiting.len(), tasks.len(), "each task has its word");

        // On a copy of the cluster made from nothing, every node holds what it was given.
        let mut infos: BTreeMap<String, NodeInfo> = nodes
            .iter()
            .map(|node| (String::from(node.id.clone()), NodeInfo::new(Arc::new(node.clone()))))
            .collect();
        for (id, node) in &assigned {
            let (task, info) = (&tasks[id], infos.get_mut(node).unwrap());
            prop_assert_eq!(Filters::new(task).check(info), Ok(()));
            let constraints = &task.spec.placement.as_ref().unwrap().constraints;
            prop_assert!(constraint::matches(&constraint::parse(constraints).unwrap(), &info.node));
            info.add(task, &[]);
        }
        for id in waiting.keys() {
            let filters = Filters::new(&tasks[id]);
            prop_assert!(infos.values().all(|info| filters.check(info).is_err()), "{id} would fit");
        }
        prop_assert_eq!(pass(&mut cluster), (BTreeMap::new(), BTreeMap::new()), "a pass is idempotent");

        // What is told anew by the store changes nothing.
        for (id, node) in &assigned {
            let mut task = tasks[id].clone();
            task.node_id = NodeId::from(node.as_str());
            task.status.state = TaskState::Assigned;
            create(&mut cluster, task);
        }
        prop_assert_eq!(pass(&mut cluster).0, BTreeMap::new());

        // When all tasks end, all room is given back.
        for id in assigned.keys() {
            cluster.note(&Event::Task(Change::Remove(Arc::new(tasks[id].clone()))), Instant::now());
        }
        if waiting.is_empty() {
            for info in &cluster.nodes {
                let empty = format!("{:?}", NodeInfo::new(info.node.clone()));
                prop_assert_eq!(format!("{:?}", info), empty);
            }
        }
    }

    #[test]
    fn equal_nodes_get_equally_many(count in 1..9usize, tasks in 0..60u64) {
        let mut cluster = cluster((0..count).map(node));
        (1..=tasks).for_each(|slot| create(&mut cluster, task("web", slot)));
        let (assigned, _) = pass(&mut cluster);
        let counts: Vec<usize> = (0..count)
            .map(|number| assigned.values().filter(|node| **node == format!("n{number:02}")).count())
            .collect();
        prop_assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
    }
}

//! Tasks beside each other: strategies, affinity and anti-affinity over whole passes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
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

/// Where a service of so many tasks of this size goes; nodes with room for so much, of which so much is taken.
fn nodes_used(strategy: &str, nodes: &[(i64, i64)], tasks: u64, size: i64) -> (usize, usize) {
    let all = nodes.iter().enumerate().map(|(number, (room, _))| {
        let mut node = node(number);
        node.description.resources.memory_bytes = *room;
        node
    });
    let mut cluster = cluster(all);
    for (number, (_, taken)) in nodes.iter().enumerate() {
        let mut running = task("old", number as u64 + 1);
        reserve(&mut running, *taken);
        running.node_id = NodeId::from(format!("n{number:02}"));
        running.status.state = TaskState::Running;
        create(&mut cluster, running);
    }
    service(&mut cluster, "web", &[(STRATEGY, strategy)]);
    for slot in 1..=tasks {
        let mut task = task("web", slot);
        reserve(&mut task, size);
        create(&mut cluster, task);
    }
    let (assigned, _) = settle(&mut cluster);
    (assigned.len(), counts(&assigned).len())
}

/// What a random service asks for: how many tasks, of which size, how, beside which earlier services, and which it dislikes.
#[derive(Debug, Clone)]
struct Wish {
    tasks: u64,
    size: i64,
    binpack: bool,
    likes: Option<usize>,
    dislikes: BTreeSet<usize>,
}

fn wishes() -> impl Strategy<Value = Vec<Wish>> {
    let wish = (
        0..6u64,
        0..40i64,
        any::<bool>(),
        proptest::option::weighted(0.3, 0..4usize),
        proptest::collection::btree_set(0..4usize, 0..2),
    );
    let wish = wish.prop_map(|(tasks, size, binpack, likes, dislikes)| Wish {
        tasks,
        size,
        binpack,
        likes,
        dislikes,
    });
    proptest::collection::vec(wish, 1..5)
}

impl Wish {
    /// The service that it wants beside it: an earlier one, so that nobody waits in a circle, and none that it dislikes.
    fn liked(&self, own: usize) -> Option<usize> {
        self.likes
            .filter(|liked| *liked < own && !self.dislikes.contains(liked))
    }

    fn labels(&self, own: usize) -> Vec<(&'static str, String)> {
        let names: Vec<_> = self.dislikes.iter().map(|number| format!("s{number}")).collect();
        let mut labels = vec![(ANTI_AFFINITY, names.join(","))];
        labels.extend(self.liked(own).map(|liked| (AFFINITY, format!("s{liked}"))));
        labels.extend(self.binpack.then(|| (STRATEGY, "binpack".to_owned())));
        labels
    }
}

proptest! {
    #[test]
    fn binpack_never_uses_more_nodes_than_spread(
        nodes in proptest::collection::vec((1..100i64, 0..60i64), 1..8),
        tasks in 0..20u64,
        size in 1..40i64,
    ) {
        let (spread, packed) = (
            nodes_used("spread", &nodes, tasks, size),
            nodes_used("binpack", &nodes, tasks, size),
        );
        prop_assert_eq!(spread.0, packed.0, "as many tasks find room");
        prop_assert!(packed.1 <= spread.1, "{packed:?} {spread:?}");
    }

    #[test]
    fn rules_between_services_hold_and_what_waits_fits_nowhere(wishes in wishes(), count in 0..6usize) {
        let mut cluster = cluster((0..count).map(node));
        let mut tasks = BTreeMap::new();
        for (number, wish) in wishes.iter().enumerate() {
            let (name, labels) = (format!("s{number}"), wish.labels(number));
            let labels: Vec<_> = labels.iter().map(|(key, value)| (*key, value.as_str())).collect();
            service(&mut cluster, &name, &labels);
            for slot in 1..=wish.tasks {
                let mut task = task(&name, slot);
                reserve(&mut task, wish.size);
                tasks.insert(String::from(task.id.clone()), (number, task.clone()));
                create(&mut cluster, task);
            }
        }
        let (assigned, waiting) = settle(&mut cluster);
        prop_assert_eq!(assigned.len() + waiting.len(), tasks.len(), "each task has its word");

        let mut on_nodes: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (task, node) in &assigned {
            on_nodes.entry(node).or_default().push(tasks[task].0);
        }
        for services in on_nodes.values() {
            for (place, one) in services.iter().enumerate() {
                let liked = wishes[*one].liked(*one).filter(|liked| *liked < wishes.len());
                prop_assert!(liked.is_none_or(|liked| services.contains(&liked)), "{one} misses its neighbour");
                for (other_place, other) in services.iter().enumerate() {
                    let dislikes = place != other_place && wishes[*one].dislikes.contains(other);
                    prop_assert!(!dislikes, "{one} is beside {other}");
                }
            }
        }
        for id in waiting.keys() {
            let filters = cluster.filters(&tasks[id].1);
            let fits = cluster.nodes.iter().any(|info| filters.check(info).is_ok());
            prop_assert!(!fits, "{id} would fit");
        }
        cluster.retry = true;
        prop_assert_eq!(pass(&mut cluster).0, BTreeMap::new(), "a second pass places nothing");
    }
}

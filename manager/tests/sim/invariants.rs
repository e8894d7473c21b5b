//! What must hold, each under its own name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use manager::scheduler::constraint;
use manager::state::{Change, Event, Filter, Key, Reader, Store};
use proto::object::NodeState;
use proto::spec::{Availability, UpdateOrder};
use proto::{Config, Node, NodeId, Service, ServiceId, Task, TaskId, TaskState};

use crate::managers::Seats;
use crate::world::World;

/// Who led in which term.
#[derive(Default)]
pub(crate) struct Terms(Mutex<BTreeMap<u64, String>>);

impl Terms {
    /// One leader per term.
    pub(crate) fn one_leader_per_term(&self, world: &World, term: u64, place: &str) {
        let mut terms = self.0.lock().unwrap();
        let first = terms.entry(term).or_insert_with(|| place.to_owned());
        if first != place {
            world.violated(
                "one leader per term",
                format_args!("{first} and {place} in {term}"),
            );
        }
    }
}

/// What every object looked like at each of its versions, and what was acknowledged.
#[derive(Default)]
pub(crate) struct Histories {
    versions: Mutex<BTreeMap<(String, u64), String>>,
    /// Entries of the ledger, each with the version of a state that has it.
    acknowledged: Mutex<BTreeMap<String, u64>>,
}

impl Histories {
    /// A writer was told that its entry is in the ledger, at the latest in this version.
    pub(crate) fn acknowledge(&self, entry: String, version: u64) {
        self.acknowledged.lock().unwrap().insert(entry, version);
    }

    /// An acknowledged write is in every later state.
    pub(crate) fn an_acknowledged_write_is_in_every_later_state(
        &self,
        world: &World,
        place: &str,
        ledger: Option<&Config>,
    ) {
        let version = ledger.map_or(u64::MAX, |ledger| ledger.meta.version.index);
        let is_there = |entry: &String| ledger.is_some_and(|ledger| ledger.spec.labels.contains_key(entry));
        let acknowledged = self.acknowledged.lock().unwrap();
        let mut due = acknowledged.iter().filter(|(_, since)| **since <= version);
        if let Some((entry, since)) = due.find(|(entry, _)| !is_there(entry)) {
            world.violated(
                "an acknowledged write is in every later state",
                format_args!("{place} has lost {entry} of {since} at {version}"),
            );
        }
    }

    /// All managers see the same object at the same version.
    fn histories_agree(&self, world: &World, place: &str, id: &str, version: u64, seen: String) {
        let mut versions = self.versions.lock().unwrap();
        let first = versions
            .entry((id.to_owned(), version))
            .or_insert_with(|| seen.clone());
        if *first != seen {
            world.violated(
                "histories agree",
                format_args!("{place} sees {id} at {version} as {seen}, others {first}"),
            );
        }
    }
}

/// Follows one store from its beginning until it is gone.
pub(crate) async fn watch(
    world: World,
    place: String,
    store: Store,
    histories: Arc<Histories>,
    lost: Arc<Lost>,
    seats: Seats,
) {
    let (mut mirror, mut events) = store.view_and_watch(Filter::all().with_commits(), |tx| {
        Mirror::new(tx.all::<Task>(), &tx.all::<Service>(), &tx.all::<Node>())
    });
    // What holds at the end of a transaction need not hold within it.
    let mut changed = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Event::Task(change) => {
                mirror.note(&world, &place, &change);
                tell(&world, &place, &change);
                a_task_only_grows(&world, &change);
                // Others may see many changes as one, by a snapshot.
                if seats.all().iter().any(|seat| seat.place == place) {
                    constraints_hold(&world, &mirror, &change);
                }
                if let Some(task) = change.new_object() {
                    let seen = format!(
                        "{:?} {:?} {}",
                        task.status.state, task.desired_state, task.node_id
                    );
                    histories.histories_agree(
                        &world,
                        &place,
                        task.id.as_str(),
                        task.meta.version.index,
                        seen,
                    );
                    changed.push(task.clone());
                }
            }
            Event::Service(change) => match change.new_object() {
                Some(service) => {
                    let seen = format!("{:?}", service.spec);
                    histories.histories_agree(
                        &world,
                        &place,
                        service.id.as_str(),
                        service.meta.version.index,
                        seen,
                    );
                    mirror.services.insert(service.id.clone(), service.clone());
                }
                None => drop(mirror.services.remove(&change.object().id)),
            },
            Event::Node(change) => {
                let object = change.object();
                world.note(format_args!(
                    "{place}: node {} is {:?} {:?}",
                    object.id, object.status.state, object.spec.availability
                ));
                if object.status.state == NodeState::Down {
                    lost.note(&mirror, &object.id);
                }
                match change.new_object() {
                    Some(node) => drop(mirror.nodes.insert(node.id.clone(), node.clone())),
                    None => drop(mirror.nodes.remove(&object.id)),
                }
            }
            Event::Config(change) => {
                histories.an_acknowledged_write_is_in_every_later_state(
                    &world,
                    &place,
                    change.new_object().map(|ledger| &**ledger),
                );
            }
            Event::Commit(version) => {
                for task in changed.drain(..) {
                    one_wanted_task_per_slot(&world, &mut mirror, &task);
                }
                if version <= mirror.version {
                    let before = mirror.version;
                    world.violated(
                        "each change once and in order",
                        format_args!("{place}: {version} after {before}"),
                    );
                }
                mirror.version = version;
            }
            _ => {}
        }
    }
}

/// Leaves the change in the trace.
fn tell(world: &World, place: &str, change: &Change<Task>) {
    let task = change.object();
    let gone = if change.new_object().is_none() {
        " is removed"
    } else {
        ""
    };
    world.note(format_args!(
        "{place}: task {}{gone} {}.{} on {:?} is {:?}, shall be {:?}",
        task.id, task.service_name, task.slot, task.node_id, task.status.state, task.desired_state
    ));
}

/// The store as its events tell it.
struct Mirror {
    version: u64,
    /// Slots that have two tasks because the service started first then, which it may do no longer.
    doubled: BTreeSet<(ServiceId, u64, Option<NodeId>)>,
    tasks: BTreeMap<TaskId, Arc<Task>>,
    services: BTreeMap<ServiceId, Arc<Service>>,
    nodes: BTreeMap<NodeId, Arc<Node>>,
}

impl Mirror {
    fn new(tasks: Vec<Arc<Task>>, services: &[Arc<Service>], nodes: &[Arc<Node>]) -> Self {
        Self {
            version: 0,
            doubled: BTreeSet::new(),
            tasks: tasks.into_iter().map(|task| (task.id.clone(), task)).collect(),
            services: services
                .iter()
                .map(|service| (service.id.clone(), service.clone()))
                .collect(),
            nodes: nodes.iter().map(|node| (node.id.clone(), node.clone())).collect(),
        }
    }

    /// Every watcher sees each change once and in order: what an event calls the old object is the one before it.
    fn note(&mut self, world: &World, place: &str, change: &Change<Task>) {
        let object = change.object();
        let known = self.tasks.get(&object.id).map(|task| task.meta.version);
        let old = change.old().map(|task| task.meta.version);
        if known != old {
            world.violated(
                "each change once and in order",
                format_args!(
                    "{place}: task {} was {old:?} for the event and {known:?} before it",
                    object.id
                ),
            );
        }
        match change.new_object() {
            Some(task) => drop(self.tasks.insert(task.id.clone(), task.clone())),
            None => drop(self.tasks.remove(&object.id)),
        }
    }
}

/// A task's state only grows, it never moves, and its spec never changes.
fn a_task_only_grows(world: &World, change: &Change<Task>) {
    let (Some(old), Some(new)) = (change.old(), change.new_object()) else {
        return;
    };
    let grows = new.status.state >= old.status.state && new.desired_state >= old.desired_state;
    let stays = old.node_id.is_empty() || old.node_id == new.node_id;
    if !grows || !stays || old.spec != new.spec {
        let state = |task: &Task| (task.status.state, task.desired_state, task.node_id.clone());
        world.violated(
            "a task only grows",
            format_args!("{} {:?} → {:?}", new.id, state(old), state(new)),
        );
    }
}

/// A task is put on a node only if the node satisfies its constraints and takes tasks.
fn constraints_hold(world: &World, mirror: &Mirror, change: &Change<Task>) {
    let assigned = |task: &Arc<Task>| task.status.state == TaskState::Assigned;
    let Some(task) = change.new_object().filter(|task| assigned(task)) else {
        return;
    };
    if change.old().is_some_and(assigned) {
        return;
    }
    let Some(node) = mirror.nodes.get(&task.node_id) else {
        return world.violated(
            "constraints hold",
            format_args!("{} is on {}, which is not there", task.id, task.node_id),
        );
    };
    if !satisfies(task, node)
        || node.spec.availability != Availability::Active
        || node.status.state != NodeState::Ready
    {
        world.violated(
            "constraints hold",
            format_args!("{} was put on {}", task.id, task.node_id),
        );
    }
}

fn satisfies(task: &Task, node: &Node) -> bool {
    let texts = task
        .spec
        .placement
        .as_ref()
        .map(|placement| placement.constraints.as_slice());
    constraint::parse(texts.unwrap_or_default())
        .is_ok_and(|constraints| constraint::matches(&constraints, node))
}

/// Of a slot at most one task is wanted running, outside of start-first and but for one from which the other takes over.
fn one_wanted_task_per_slot(world: &World, mirror: &mut Mirror, task: &Task) {
    let Some(service) = mirror.services.get(&task.service_id) else {
        return;
    };
    let slot = (
        task.service_id.clone(),
        task.slot,
        (task.slot == 0).then(|| task.node_id.clone()),
    );
    let wanted = wanted_in_slot(mirror, task);
    if wanted.len() < 2 {
        mirror.doubled.remove(&slot);
    } else if starts_first(service) {
        mirror.doubled.insert(slot);
    } else if !mirror.doubled.contains(&slot) {
        let (spec, status) = (&service.spec, &service.update_status);
        let what = format_args!("{} {}: {wanted:?}, {status:?}, {spec:?}", spec.name, task.slot);
        world.violated("one wanted task per slot", what);
    }
}

/// The tasks of a task's slot that are wanted running and of which none takes over from the other.
fn wanted_in_slot(mirror: &Mirror, task: &Task) -> Vec<TaskId> {
    let same = |other: &&Arc<Task>| {
        other.service_id == task.service_id
            && other.slot == task.slot
            && (task.slot != 0 || other.node_id == task.node_id)
            && other.desired_state == TaskState::Running
            && !other.status.state.is_terminal()
    };
    let mut wanted: Vec<_> = mirror.tasks.values().filter(same).collect();
    let leaving: Vec<_> = wanted.iter().filter_map(|task| takes_over_from(task)).collect();
    wanted.retain(|task| !leaving.contains(&&task.id));
    wanted.iter().map(|task| task.id.clone()).collect()
}

/// The task from which this one takes over while that one still runs: its node is drained, or has more than its share.
fn takes_over_from(task: &Task) -> Option<&TaskId> {
    task.takes_over.as_ref().map(|over| &over.task)
}

/// Whether two tasks of one slot may run at once.
pub(crate) fn starts_first(service: &Service) -> bool {
    let first = |config: &Option<proto::spec::UpdateConfig>| {
        config
            .as_ref()
            .is_some_and(|config| config.order == UpdateOrder::StartFirst)
    };
    let before = service
        .previous_spec
        .as_ref()
        .is_some_and(|spec| first(&spec.update_config));
    first(&service.spec.update_config) || first(&service.spec.rollback_config) || before
}

/// Tasks of which more than one may run in a slot.
#[derive(Default)]
pub(crate) struct Lost {
    /// Their node was lost: nobody can stop them, and they are replaced at once.
    tasks: Mutex<BTreeSet<TaskId>>,
    /// They share their slot since their service started first, which it may do no longer.
    doubled: Mutex<BTreeSet<TaskId>>,
}

impl Lost {
    fn note(&self, mirror: &Mirror, node: &NodeId) {
        let on_node = mirror.tasks.values().filter(|task| task.node_id == *node);
        let on_node = on_node.map(|task| task.id.clone());
        self.tasks.lock().unwrap().extend(on_node);
    }

    fn has(&self, id: &TaskId) -> bool {
        self.tasks.lock().unwrap().contains(id)
    }
}

/// At most one container per slot really runs, outside of start-first, apart from those of lost nodes and from those from
/// which another takes over.
pub(crate) fn one_container_per_slot(world: &World, store: &Store, lost: &Lost) {
    let mut slots: BTreeMap<_, (bool, Vec<TaskId>)> = BTreeMap::new();
    let running = world.running();
    let leaving: BTreeSet<TaskId> = running
        .keys()
        .filter_map(|id| store.view(|tx| tx.get::<Task>(id.as_str())))
        .filter_map(|task| takes_over_from(&task).cloned())
        .collect();
    for (id, container) in running {
        let service = store.view(|tx| tx.get::<Service>(container.service.as_str()));
        let Some(service) = service.filter(|_| !leaving.contains(&id) && !lost.has(&id)) else {
            continue;
        };
        let node = (container.slot == 0).then_some(container.node);
        let slot = slots
            .entry((container.service, container.slot, node))
            .or_default();
        slot.0 = starts_first(&service);
        slot.1.push(id);
    }
    let mut doubled = lost.doubled.lock().unwrap();
    let before = std::mem::take(&mut *doubled);
    for (slot, (starts_first, tasks)) in slots.into_iter().filter(|(_, (_, tasks))| tasks.len() > 1) {
        if starts_first || tasks.iter().all(|task| before.contains(task)) {
            doubled.extend(tasks);
        } else {
            world.violated("one container per slot", format_args!("{slot:?}: {tasks:?}"));
        }
    }
}

/// Why the service is not what its spec says, if it is not: by the store, and by what really runs.
pub(crate) fn service_converges(
    world: &World,
    store: &Store,
    service: &Service,
    image: &str,
) -> Result<(), String> {
    let (tasks, nodes) = store.view(|tx| {
        (
            tx.by_key::<Task>(Key::Service(service.id.as_str().to_owned())),
            tx.all::<Node>(),
        )
    });
    let wanted: Vec<_> = tasks
        .iter()
        .filter(|task| task.desired_state == TaskState::Running)
        .collect();
    let places = match service.spec.mode.replicas() {
        Some(replicas) => replicas as usize,
        None => nodes.iter().filter(|node| takes(service, node)).count(),
    };
    let good = |task: &&&Arc<Task>| {
        let runs_image = task
            .spec
            .container_spec
            .as_ref()
            .is_some_and(|container| container.image == image);
        let node = nodes.iter().find(|node| node.id == task.node_id);
        task.status.state == TaskState::Running
            && runs_image
            && node.is_some_and(|node| satisfies(task, node))
    };
    let running = wanted.iter().filter(good).count();
    if wanted.len() != places || running != places {
        let states: Vec<_> = tasks
            .iter()
            .map(|task| {
                (
                    &task.id,
                    task.slot,
                    &task.node_id,
                    task.status.state,
                    task.desired_state,
                    &task.status.err,
                )
            })
            .collect();
        return Err(format!("{running} of {places} tasks run: {states:?}"));
    }
    let truth: BTreeSet<_> = world
        .running()
        .into_iter()
        .filter(|(_, container)| container.service == service.id)
        .map(|(id, _)| id)
        .collect();
    let store: BTreeSet<_> = wanted.iter().map(|task| task.id.clone()).collect();
    (truth == store)
        .then_some(())
        .ok_or_else(|| format!("the containers {truth:?} run, the tasks {store:?} should"))
}

fn takes(service: &Service, node: &Node) -> bool {
    let task = Task {
        spec: service.spec.task_template.clone().into(),
        ..Task::default()
    };
    satisfies(&task, node)
        && node.spec.availability == Availability::Active
        && node.status.state == NodeState::Ready
}

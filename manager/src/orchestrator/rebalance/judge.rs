//! Whether tasks of a service may move to spread it again, and between which nodes.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use proto::object::{NodeState, UpdateState};
use proto::spec::{Availability, LogDriver, PlacementLabels, Reservations, Strategy};
use proto::upkeep::Upkeep;
use proto::{Cluster, Node, NodeId, Service, Task, TaskState};

use super::super::handover::may_overlap;
use super::super::slot::{SlotKey, by_slot};
use super::super::task::{is_dirty, is_wanted, satisfies_placement};
use super::plan::Place;
use crate::scheduler::constraint::Fact;
use crate::state::{Key, ReadTx, Reader};

/// Why tasks of a service do not move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// The user does not want it.
    Off,
    /// Its tasks are where others are, or as close together as they can be.
    PlacedOtherwise,
    /// A task must have stopped before the next one of its slot starts.
    StopFirst,
    /// An update is under way, or waits for the user.
    Update,
    /// Not all of its tasks run as they shall.
    Unsteady,
}

impl Obstacle {
    /// Whether it passes without a change of the service's spec.
    pub(crate) fn passes(self) -> bool {
        matches!(self, Self::Update | Self::Unsteady)
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "not moved: the label shoal.rebalance is off",
            Self::PlacedOtherwise => "not moved: the service is not placed by spreading alone",
            Self::StopFirst => "not moved: its tasks may not overlap (shoal.drain.order)",
            Self::Update => "not moved: an update is under way or paused",
            Self::Unsteady => "not moved: not all of its tasks run",
        })
    }
}

/// What is to be said of a service that is spread over nodes at all.
#[derive(Debug)]
pub(crate) struct Judgement {
    pub(crate) service: Arc<Service>,
    pub(crate) places: Vec<Place>,
    pub(crate) obstacle: Option<Obstacle>,
}

/// Judges a service; `None` if it has no tasks that could be spread. `takes`: whether the node may be given tasks.
pub(crate) fn judge(
    tx: &ReadTx<'_>,
    nodes: &[Arc<Node>],
    service: &Arc<Service>,
    takes: &dyn Fn(&NodeId) -> bool,
) -> Option<Judgement> {
    let replicas = service
        .spec
        .mode
        .replicas()
        .filter(|_| !service.spec.mode.is_job())?;
    if replicas < 2 || service.pending_delete {
        return None;
    }
    let tasks = tx.by_key::<Task>(Key::Service(service.id.as_str().to_owned()));
    let cluster = tx.all::<Cluster>().into_iter().next();
    let defaults = cluster
        .as_ref()
        .and_then(|cluster| cluster.spec.task_defaults.as_ref());
    let log = defaults.and_then(|defaults| defaults.log_driver.as_ref());
    let obstacle = forbidden(service).or_else(|| unready(service, replicas, &tasks, nodes, log));
    let facts = preferences(service);
    let mut on: BTreeMap<&NodeId, Vec<&Arc<Task>>> = BTreeMap::new();
    for task in tasks.iter().filter(|task| is_wanted(task)) {
        on.entry(&task.node_id).or_default().push(task);
    }
    let place = |node: &Arc<Node>| {
        let mut here = on.get(&node.id).cloned().unwrap_or_default();
        here.sort_by_key(|task| (task.meta.created_at, task.slot));
        let free = node.spec.availability == Availability::Active;
        let room = match is_open(node) && takes(&node.id) {
            true => room(tx, service, node, here.len()),
            false => 0,
        };
        (room > 0 || !here.is_empty()).then(|| Place {
            node: node.id.clone(),
            path: facts.iter().map(|fact| fact.of(node).to_owned()).collect(),
            tasks: here.len(),
            movable: here.iter().filter(|_| free).map(|task| task.id.clone()).collect(),
            room,
        })
    };
    Some(Judgement {
        service: service.clone(),
        places: nodes.iter().filter_map(place).collect(),
        obstacle,
    })
}

/// Whether the node takes tasks.
pub(crate) fn is_open(node: &Node) -> bool {
    node.status.state == NodeState::Ready && node.spec.availability == Availability::Active
}

fn forbidden(service: &Service) -> Option<Obstacle> {
    let upkeep = Upkeep::of(&service.spec.labels);
    let placement = PlacementLabels::parse(&service.spec.labels).unwrap_or_default();
    let spread = placement.strategy == Strategy::Spread
        && placement.affinity.is_empty()
        && placement.anti_affinity.is_empty();
    if !upkeep.rebalance {
        Some(Obstacle::Off)
    } else if !spread {
        Some(Obstacle::PlacedOtherwise)
    } else if !may_overlap(service, upkeep.drain_order) {
        Some(Obstacle::StopFirst)
    } else {
        None
    }
}

fn unready(
    service: &Service,
    replicas: u64,
    tasks: &[Arc<Task>],
    nodes: &[Arc<Node>],
    log: Option<&LogDriver>,
) -> Option<Obstacle> {
    let state = service.update_status.as_ref().map(|status| status.state);
    if !matches!(
        state,
        None | Some(UpdateState::Completed | UpdateState::RollbackCompleted)
    ) {
        return Some(Obstacle::Update);
    }
    let nodes: HashMap<&NodeId, &Arc<Node>> = nodes.iter().map(|node| (&node.id, node)).collect();
    let steady = |task: &Task| {
        let node = nodes.get(&task.node_id).copied();
        let runs = task.status.state == TaskState::Running && task.desired_state == TaskState::Running;
        runs && !is_dirty(service, log, task, node.map(Arc::as_ref))
    };
    let slots = by_slot(service, tasks);
    let wanted = slots
        .values()
        .map(|slot| slot.iter().filter(|task| is_wanted(task)).collect::<Vec<_>>());
    let wanted: Vec<_> = wanted.filter(|tasks| !tasks.is_empty()).collect();
    let all =
        wanted.len() as u64 == replicas && wanted.iter().all(|tasks| tasks.len() == 1 && steady(tasks[0]));
    (!all).then_some(Obstacle::Unsteady)
}

/// Over what the service wants to be spread, outermost first.
fn preferences(service: &Service) -> Vec<Fact> {
    let placement = service.spec.task_template.placement.iter();
    let spread = placement
        .flat_map(|placement| &placement.preferences)
        .filter_map(|one| one.spread.as_ref());
    spread
        .filter_map(|over| Fact::parse(&over.spread_descriptor))
        .collect()
}

/// How many more tasks of the service the node could take. The scheduler has the last word: what it refuses does not
/// move.
fn room(tx: &ReadTx<'_>, service: &Service, node: &Node, here: usize) -> usize {
    if !satisfies_placement(service, node) {
        return 0;
    }
    let placement = service.spec.task_template.placement.as_ref();
    let most = match placement.map_or(0, |placement| placement.max_replicas) {
        0 => usize::MAX,
        most => usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(here),
    };
    let resources = service.spec.task_template.resources.as_ref();
    match resources.and_then(|resources| resources.reservations.as_ref()) {
        Some(each) => most.min(fits(tx, node, each)),
        None => most,
    }
}

/// How often the reserved processor time and memory fit into what is left of the node.
fn fits(tx: &ReadTx<'_>, node: &Node, each: &Reservations) -> usize {
    let tasks = tx.by_key::<Task>(Key::Node(node.id.as_str().to_owned()));
    let (mut cpus, mut memory) = (
        node.description.resources.nano_cpus,
        node.description.resources.memory_bytes,
    );
    for task in tasks
        .iter()
        .filter(|task| is_wanted(task) || !task.status.state.is_terminal())
    {
        let resources = task.spec.resources.as_ref();
        if let Some(reserved) = resources.and_then(|resources| resources.reservations.as_ref()) {
            cpus -= reserved.nano_cpus;
            memory -= reserved.memory_bytes;
        }
    }
    let times = |left: i64, each: i64| match each {
        ..=0 => usize::MAX,
        each => usize::try_from(left.max(0) / each).unwrap_or(usize::MAX),
    };
    times(cpus, each.nano_cpus).min(times(memory, each.memory_bytes))
}

/// The slot that the task is in.
pub(crate) fn slot(service: &Service, task: &Task) -> SlotKey {
    SlotKey::of(service, task)
}

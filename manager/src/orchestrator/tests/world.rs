//! A service, its tasks and three nodes without a store, and what can happen to them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use proto::object::{NodeState, TakeOver, TakeOverReason, UpdateState};
use proto::spec::{
    Availability, ContainerSpec, FailureAction, Labels, Placement, RestartCondition, RestartPolicy,
    ServiceMode, TaskSpec, UpdateConfig, UpdateOrder,
};
use proto::{Node, NodeId, Service, ServiceSpec, Task, TaskId, TaskState, Timestamp, Version, upkeep};
use tokio::time::Instant;

use super::super::draft::{Action, Picture, UpdateChange};
use super::super::handover::staying;
use super::super::plan::{Memory, Plan, plan};
use super::super::rest::is_at_rest;
use super::super::slot::{SlotKey, by_slot};
use super::super::task::{fitness, is_dirty, is_wanted, new_task, satisfies_placement, task_spec};
use super::super::write::change_update;

/// What can happen between two reconciliations.
#[derive(Debug, Clone)]
pub(super) enum Happening {
    /// A task takes its next step; the number chooses it.
    Step(usize),
    /// A task fails.
    Fail(usize),
    Replicas(u64),
    NewSpec,
    Drain(usize),
    Pause(usize),
    /// The node is labelled so that the service may not run there.
    Forbid(usize),
    /// A task is to move to another node, as the rebalancer does it.
    Move(usize, usize),
    Lose(usize),
    Return(usize),
    /// The leader changes.
    Forget,
    Wait(u64),
}

/// How long a task that is told to stop may take; then its replacement starts all the same.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// A service, its tasks and three nodes, without a store.
pub(super) struct World {
    pub(super) picture: Picture,
    memory: Memory,
    now: Instant,
    version: u64,
    /// Since when tasks are not wanted.
    unwanted: HashMap<TaskId, Instant>,
    /// Tasks whose node was lost: they are replaced while they may run, unless they have a lease.
    lost: HashSet<TaskId>,
    /// When the nodes that are lost heard from a manager last.
    cut_off: HashMap<NodeId, Instant>,
}

impl World {
    pub(super) fn new(global: bool, update: UpdateConfig, labels: Labels, replicas: u64) -> Self {
        let spec = ServiceSpec {
            name: "web".into(),
            labels,
            mode: if global {
                ServiceMode::global()
            } else {
                ServiceMode::replicated(replicas)
            },
            task_template: TaskSpec {
                container_spec: Some(ContainerSpec::default()),
                restart_policy: Some(RestartPolicy {
                    condition: RestartCondition::Any,
                    delay: Some(2_000_000_000),
                    ..RestartPolicy::default()
                }),
                placement: Some(Placement {
                    constraints: vec!["node.labels.away!=yes".into()],
                    ..Placement::default()
                }),
                ..TaskSpec::default()
            },
            update_config: Some(update.clone()),
            rollback_config: Some(UpdateConfig {
                failure_action: FailureAction::Pause,
                ..update
            }),
            ..ServiceSpec::default()
        };
        let service = Service {
            id: "s".into(),
            spec,
            spec_version: Some(Version { index: 0 }),
            ..Service::default()
        };
        let node = |number: usize| {
            let mut node = Node {
                id: NodeId::from(format!("n{number}")),
                ..Node::default()
            };
            node.status.state = NodeState::Ready;
            (node.id.clone(), Arc::new(node))
        };
        let picture = Picture {
            service: Arc::new(service),
            tasks: Vec::new(),
            nodes: (0..3).map(node).collect(),
            default_log: None,
            heard: BTreeMap::new(),
        };
        Self {
            picture,
            memory: Memory::default(),
            now: Instant::now(),
            version: 1,
            unwanted: HashMap::new(),
            lost: HashSet::new(),
            cut_off: HashMap::new(),
        }
    }

    /// Plans and applies; returns the number of changes.
    pub(super) fn reconcile(&mut self) -> usize {
        self.listen();
        let plan = self.plan();
        let actions: Vec<Action> = plan.steps.into_iter().flatten().collect();
        self.version += 1;
        let count = actions.len();
        for action in actions {
            match action {
                Action::Create(mut made) => {
                    let task = Arc::make_mut(&mut made);
                    task.meta.version.index = self.version;
                    task.meta.created_at = Timestamp::now();
                    self.picture.tasks.push(made);
                }
                Action::Desire(id, state) => {
                    let task = self.picture.tasks.iter_mut().find(|task| task.id == id).unwrap();
                    assert!(task.desired_state < state);
                    if state > TaskState::Complete {
                        self.unwanted.entry(id).or_insert(self.now);
                    }
                    Arc::make_mut(task).desired_state = state;
                }
                Action::Update(change) => {
                    change_update(
                        Arc::make_mut(&mut self.picture.service),
                        &change,
                        Timestamp::now(),
                    );
                    assert_ne!(change, UpdateChange::Pause(String::new()));
                }
                Action::RemoveService => unreachable!("nobody removes it"),
            }
        }
        // The reaper.
        self.picture.tasks.retain(|task| {
            task.desired_state != TaskState::Remove
                || !(task.status.state.is_terminal() || task.status.state < TaskState::Assigned)
        });
        count
    }

    /// The plan. Of a service that is said to be at rest it has to be empty.
    fn plan(&mut self) -> Plan {
        let rests = self.is_at_rest();
        let plan = plan(&self.picture, &mut self.memory, self.now);
        if rests {
            assert!(
                plan.steps.iter().all(Vec::is_empty) && plan.wake.is_none(),
                "{plan:?}"
            );
            assert!(self.memory.delays.is_empty() && self.memory.handovers.is_empty());
            assert!(self.memory.update.is_none() && !self.memory.enforce && !self.memory.handing_over);
        }
        plan
    }

    /// Whether nothing is left to be done, so that planning is spared.
    pub(super) fn is_at_rest(&self) -> bool {
        is_at_rest(&self.picture, &self.memory)
    }

    fn is_fenced(&self) -> bool {
        upkeep::fencing(&self.picture.service.spec.labels).is_some()
    }

    /// Nodes that are there are heard all the time.
    fn listen(&mut self) {
        for id in self.picture.nodes.keys() {
            if !self.cut_off.contains_key(id) {
                self.picture.heard.insert(id.clone(), self.now);
            }
        }
    }

    /// Whether the lease of the node's tasks is over, and they are dead.
    fn has_fenced(&self, node: &NodeId) -> bool {
        let cut_off = self.cut_off.get(node);
        cut_off.is_some_and(|at| self.is_fenced() && self.now >= *at + Duration::from_secs(15 + 10))
    }

    fn service(&mut self) -> &mut Service {
        Arc::make_mut(&mut self.picture.service)
    }

    fn node(&mut self, number: usize) -> &mut Node {
        Arc::make_mut(
            self.picture
                .nodes
                .get_mut(&NodeId::from(format!("n{number}")))
                .unwrap(),
        )
    }

    pub(super) fn happen(&mut self, happening: &Happening) {
        match happening {
            Happening::Step(number) => self.step(*number, false),
            Happening::Fail(number) => self.step(*number, true),
            Happening::Replicas(replicas) => {
                if !self.picture.service.spec.mode.is_global() {
                    self.write(|spec| spec.mode = ServiceMode::replicated(*replicas));
                }
            }
            Happening::NewSpec => self.write(|spec| spec.task_template.force_update += 1),
            Happening::Drain(number) => self.node(*number).spec.availability = Availability::Drain,
            Happening::Pause(number) => self.node(*number).spec.availability = Availability::Pause,
            Happening::Forbid(number) => {
                let labels = &mut self.node(*number).spec.labels;
                labels.insert("away".into(), "yes".into());
                self.memory.enforce = true;
            }
            Happening::Move(slot, node) => self.move_task(*slot, *node),
            Happening::Lose(number) => {
                self.node(*number).status.state = NodeState::Down;
                let id = NodeId::from(format!("n{number}"));
                let there = self.picture.tasks.iter().filter(|task| task.node_id == id);
                self.lost.extend(there.map(|task| task.id.clone()));
                self.listen();
                self.cut_off.entry(id).or_insert(self.now);
            }
            Happening::Return(number) => {
                let id = NodeId::from(format!("n{number}"));
                let fenced = self.has_fenced(&id);
                self.cut_off.remove(&id);
                let there = self.picture.tasks.iter_mut().filter(|task| task.node_id == id);
                for task in there.filter(|task| fenced && task.status.state >= TaskState::Starting) {
                    let state = &mut Arc::make_mut(task).status.state;
                    *state = (*state).max(TaskState::Failed);
                }
                let node = self.node(*number);
                node.spec.availability = Availability::Active;
                node.spec.labels.clear();
                node.status.state = NodeState::Ready;
                self.memory.enforce = true;
            }
            Happening::Forget => {
                self.memory = Memory {
                    enforce: true,
                    ..Memory::default()
                };
                let now = self.now;
                self.picture.heard.values_mut().for_each(|heard| *heard = now);
            }
            Happening::Wait(seconds) => self.now += Duration::from_secs(*seconds),
        }
    }

    /// As the rebalancer does: only of services at rest, and one at a time.
    fn move_task(&mut self, slot: usize, node: usize) {
        let service = self.picture.service.clone();
        let status = service.update_status.as_ref().map(|status| status.state);
        let slots = by_slot(&service, &self.picture.tasks);
        let at_rest = slots.values().all(|slot| {
            let mut tasks = slot.iter().filter(|task| is_wanted(task));
            let clean = |task: &Task| !is_dirty(&service, None, task, None);
            let first = tasks.next();
            tasks.next().is_none()
                && first.is_some_and(|task| task.status.state == TaskState::Running && clean(task))
        });
        let key = SlotKey::Number(slot as u64);
        let Some(old) = slots.get(&key).and_then(|slot| staying(slot).next()) else {
            return;
        };
        if service.spec.mode.is_global()
            || self.is_fenced()
            || !at_rest
            || !matches!(status, None | Some(UpdateState::Completed))
        {
            return;
        }
        self.version += 1;
        let mut task = new_task(&service, Arc::new(task_spec(&service, None)), &key);
        task.takes_over = Some(TakeOver {
            task: old.id.clone(),
            reason: TakeOverReason::Rebalance,
        });
        task.node_id = NodeId::from(format!("n{node}"));
        task.meta.version.index = self.version;
        task.meta.created_at = Timestamp::now();
        self.picture.tasks.push(Arc::new(task));
    }

    /// Without start-first a slot has one task that runs, but while one takes over from another, where nobody can know,
    /// and where one does not stop in time; with a lease in no case.
    pub(super) fn check_slots(&self) {
        let config = self.picture.service.spec.update_config.as_ref();
        if !self.is_fenced() && config.is_some_and(|config| config.order == UpdateOrder::StartFirst) {
            return;
        }
        let leaves = |task: &Task| {
            let over = self
                .picture
                .tasks
                .iter()
                .filter_map(|new| new.takes_over.as_ref());
            over.into_iter().any(|over| over.task == task.id)
        };
        let late = |task: &Task| {
            let since = self.unwanted.get(&task.id);
            since.is_some_and(|since| self.now >= *since + STOP_TIMEOUT)
        };
        for (key, slot) in by_slot(&self.picture.service, &self.picture.tasks) {
            let alive: Vec<_> = slot
                .iter()
                .filter(|task| (TaskState::Starting..=TaskState::Running).contains(&task.status.state))
                .filter(|task| match self.is_fenced() {
                    true => !self.has_fenced(&task.node_id),
                    false => !self.lost.contains(&task.id) && !leaves(task) && !late(task),
                })
                .collect();
            assert!(alive.len() <= 1, "two run in {key:?}: {alive:#?}");
        }
    }

    /// As the control API does.
    fn write(&mut self, change: impl FnOnce(&mut ServiceSpec)) {
        let version = self.version;
        let service = self.service();
        service.previous_spec = Some(Box::new(service.spec.clone()));
        service.previous_spec_version = service.spec_version;
        change(&mut service.spec);
        service.spec_version = Some(Version { index: version });
        service.update_status = None;
    }

    /// One task goes on as its node, the allocator or the scheduler would take it.
    pub(super) fn step(&mut self, number: usize, fail: bool) {
        let open: Vec<NodeId> = self
            .picture
            .nodes
            .values()
            .filter(|node| fitness(Some(node)).is_none() && node.spec.availability == Availability::Active)
            .filter(|node| satisfies_placement(&self.picture.service, node))
            .map(|node| node.id.clone())
            .collect();
        let lost = |task: &Task| {
            let node = self.picture.nodes.get(&task.node_id);
            node.is_some_and(|node| node.status.state == NodeState::Down)
        };
        let alive: Vec<usize> = (0..self.picture.tasks.len())
            .filter(|index| {
                let task = &self.picture.tasks[*index];
                !task.status.state.is_terminal() && !lost(task)
            })
            .collect();
        let Some(index) = alive.get(number % alive.len().max(1)) else {
            return;
        };
        let task = Arc::make_mut(&mut self.picture.tasks[*index]);
        let state = task.status.state;
        let wanted = is_wanted(task);
        task.status.timestamp = Timestamp::now();
        task.status.state = match state {
            _ if !wanted && state >= TaskState::Assigned => TaskState::Shutdown,
            TaskState::New => TaskState::Pending,
            TaskState::Pending if !wanted => return,
            TaskState::Pending => {
                let Some(node) = open.get(number % open.len().max(1)) else {
                    return;
                };
                if task.node_id.is_empty() {
                    task.node_id = node.clone();
                } else if !open.contains(&task.node_id) {
                    return;
                }
                TaskState::Assigned
            }
            _ if fail => TaskState::Failed,
            TaskState::Assigned => TaskState::Ready,
            TaskState::Ready if task.desired_state >= TaskState::Running => TaskState::Starting,
            TaskState::Ready => return,
            _ => TaskState::Running,
        };
    }

    /// Everything goes well from now on, and a user sees to updates that wait.
    pub(super) fn calm_down(&mut self) {
        (0..3).for_each(|number| self.happen(&Happening::Return(number)));
        for _ in 0..400 {
            let status = self
                .picture
                .service
                .update_status
                .as_ref()
                .map(|status| status.state);
            if matches!(status, Some(UpdateState::Paused | UpdateState::RollbackPaused)) {
                self.write(|_| {});
            }
            self.reconcile();
            for number in 0..self.picture.tasks.len() {
                self.step(number, false);
            }
            self.check_slots();
            self.now += Duration::from_secs(1);
        }
    }

    pub(super) fn check_converged(&mut self) {
        let service = self.picture.service.clone();
        let slots = by_slot(&service, &self.picture.tasks);
        let running: BTreeMap<&SlotKey, Vec<&Arc<Task>>> = slots
            .iter()
            .map(|(key, slot)| {
                (
                    key,
                    slot.iter().filter(|task| is_wanted(task)).collect::<Vec<_>>(),
                )
            })
            .filter(|(_, tasks)| !tasks.is_empty())
            .collect();
        let expected = service.spec.mode.replicas().unwrap_or(3);
        assert_eq!(running.len() as u64, expected, "{:#?}", self.picture.tasks);
        for tasks in running.values() {
            assert_eq!(tasks.len(), 1, "one task in each slot: {tasks:#?}");
            assert_eq!(tasks[0].status.state, TaskState::Running);
            let node = self.picture.nodes.get(&tasks[0].node_id).map(Arc::as_ref);
            assert!(
                !is_dirty(&service, None, tasks[0], node),
                "{:#?} {tasks:#?}",
                service.update_status
            );
        }
        if let Some(status) = &service.update_status {
            assert!(
                matches!(
                    status.state,
                    UpdateState::Completed | UpdateState::RollbackCompleted
                ),
                "{status:?}"
            );
        }
        assert_eq!(self.reconcile(), 0, "a converged service is left alone");
        self.happen(&Happening::Forget);
        assert_eq!(self.reconcile(), 0, "also by a new leader");
    }
}

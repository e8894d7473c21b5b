//! Properties of the pure plan: whatever happened before, a service converges to its spec and then stays.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proto::object::{NodeState, UpdateState};
use proto::spec::{
    Availability, ContainerSpec, FailureAction, RestartCondition, RestartPolicy, ServiceMode, TaskSpec,
    UpdateConfig, UpdateOrder,
};
use proto::{Node, NodeId, Service, ServiceSpec, Task, TaskState, Timestamp, Version};
use tokio::time::Instant;

use super::draft::{Action, Picture, UpdateChange};
use super::plan::{Memory, plan};
use super::slot::{SlotKey, by_slot};
use super::task::{fitness, is_dirty, is_wanted};
use super::write::change_update;

/// What can happen between two reconciliations.
#[derive(Debug, Clone)]
enum Happening {
    /// A task takes its next step; the number chooses it.
    Step(usize),
    /// A task fails.
    Fail(usize),
    Replicas(u64),
    NewSpec,
    Drain(usize),
    Lose(usize),
    Return(usize),
    /// The leader changes.
    Forget,
    Wait(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        8 => (0..64usize).prop_map(Happening::Step),
        2 => (0..64usize).prop_map(Happening::Fail),
        2 => (0..8u64).prop_map(Happening::Replicas),
        1 => Just(Happening::NewSpec),
        1 => (0..3usize).prop_map(Happening::Drain),
        1 => (0..3usize).prop_map(Happening::Lose),
        2 => (0..3usize).prop_map(Happening::Return),
        1 => Just(Happening::Forget),
        3 => (0..20u64).prop_map(Happening::Wait),
    ]
}

fn config() -> impl Strategy<Value = UpdateConfig> {
    let action = prop_oneof![
        Just(FailureAction::Pause),
        Just(FailureAction::Continue),
        Just(FailureAction::Rollback)
    ];
    let order = prop_oneof![Just(UpdateOrder::StopFirst), Just(UpdateOrder::StartFirst)];
    (0..4u64, 0..10i64, action, order).prop_map(|(parallelism, delay, failure_action, order)| UpdateConfig {
        parallelism,
        delay: delay * 1_000_000_000,
        failure_action,
        order,
        ..UpdateConfig::default()
    })
}

/// A service, its tasks and three nodes, without a store.
struct World {
    picture: Picture,
    memory: Memory,
    now: Instant,
    version: u64,
}

impl World {
    fn new(global: bool, update: UpdateConfig, replicas: u64) -> Self {
        let spec = ServiceSpec {
            name: "web".into(),
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
        };
        Self {
            picture,
            memory: Memory::default(),
            now: Instant::now(),
            version: 1,
        }
    }

    /// Plans and applies; returns the number of changes.
    fn reconcile(&mut self) -> usize {
        let plan = plan(&self.picture, &mut self.memory, self.now);
        let actions: Vec<Action> = plan.steps.into_iter().flatten().collect();
        self.version += 1;
        let count = actions.len();
        for action in actions {
            match action {
                Action::Create(mut task) => {
                    task.meta.version.index = self.version;
                    task.meta.created_at = Timestamp::now();
                    self.picture.tasks.push(Arc::new(*task));
                }
                Action::Desire(id, state) => {
                    let task = self.picture.tasks.iter_mut().find(|task| task.id == id).unwrap();
                    assert!(task.desired_state < state);
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

    fn happen(&mut self, happening: &Happening) {
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
            Happening::Lose(number) => self.node(*number).status.state = NodeState::Down,
            Happening::Return(number) => {
                let node = self.node(*number);
                node.spec.availability = Availability::Active;
                node.status.state = NodeState::Ready;
            }
            Happening::Forget => {
                self.memory = Memory {
                    enforce: true,
                    ..Memory::default()
                }
            }
            Happening::Wait(seconds) => self.now += Duration::from_secs(*seconds),
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
    fn step(&mut self, number: usize, fail: bool) {
        let open: Vec<NodeId> = self
            .picture
            .nodes
            .values()
            .filter(|node| fitness(Some(node)).is_none())
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
                if task.slot == 0 && !open.contains(&task.node_id) {
                    return;
                }
                if task.slot != 0 {
                    task.node_id = node.clone();
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
    fn calm_down(&mut self) {
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
            self.now += Duration::from_secs(1);
        }
    }

    fn check_converged(&mut self) {
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

/// Two updates in quick succession: the last task waits for both that are to stop, not for the later one alone.
#[test]
fn a_new_task_waits_for_all_that_have_yet_to_stop() {
    let mut world = World::new(false, UpdateConfig::default(), 1);
    let state = |world: &World, task: usize| world.picture.tasks[task].desired_state;
    world.reconcile();
    (0..5).for_each(|_| world.step(0, false));
    assert_eq!(world.picture.tasks[0].status.state, TaskState::Running);
    for _ in 0..2 {
        world.happen(&Happening::NewSpec);
        world.reconcile();
        let alive = world.picture.tasks.len() - 1;
        (0..2).for_each(|_| world.step(alive, false));
    }
    assert_eq!(world.picture.tasks.len(), 3);
    // Of those alive the second is the second one made; it has been told to stop.
    world.step(1, false);
    world.reconcile();
    assert_eq!(world.picture.tasks[1].status.state, TaskState::Shutdown);
    assert_eq!(state(&world, 2), TaskState::Ready, "the first one still runs");
    world.step(0, false);
    world.reconcile();
    assert_eq!(state(&world, 2), TaskState::Running);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn whatever_happened_a_service_converges(
        global in any::<bool>(),
        update in config(),
        replicas in 0..6u64,
        happenings in proptest::collection::vec((happening(), any::<bool>()), 0..60),
    ) {
        let mut world = World::new(global, update, replicas);
        for (happening, look) in &happenings {
            world.happen(happening);
            if *look {
                // A rollback gives reason for more.
                let settled = (0..4).any(|_| world.reconcile() == 0);
                prop_assert!(settled, "a plan that is carried out is not planned again");
            }
        }
        world.calm_down();
        world.check_converged();
    }
}

//! Whether there is nothing to do for a service: its tasks run or come to run, one in each slot, on nodes that can keep
//! them, and nothing waits, moves or is updated.
//!
//! That is so most of the time, and of nearly every service when a manager begins to lead. One look at each task tells
//! it; planning would take a large service apart into slots first, to find nothing.

use std::sync::Arc;

use proto::object::UpdateState;
use proto::{Task, TaskSpec, TaskState, upkeep};

use super::draft::Picture;
use super::plan::Memory;
use super::task::{fitness, has_stopped, is_wanted, satisfies_placement, task_spec};

/// Whether a plan for the service would be empty, and nothing would have to be remembered. Where that cannot be told
/// without planning, the answer is no: of services with a task per node, of jobs, and after an update.
pub(crate) fn is_at_rest(picture: &Picture, memory: &Memory) -> bool {
    let replicas = picture.service.spec.mode.replicas();
    replicas.is_some_and(|replicas| {
        nothing_is_remembered(memory)
            && !is_being_updated(picture)
            && fills_its_slots(picture, replicas)
            && stays(picture, memory.enforce)
    })
}

fn nothing_is_remembered(memory: &Memory) -> bool {
    memory.delays.is_empty() && memory.handovers.is_empty() && memory.update.is_none()
}

fn is_being_updated(picture: &Picture) -> bool {
    let state = picture.service.update_status.as_ref().map(|status| status.state);
    !matches!(
        state,
        None | Some(UpdateState::Completed | UpdateState::RollbackCompleted)
    )
}

/// Whether as many slots as there shall be have one task that is wanted, and no other slot has any.
fn fills_its_slots(picture: &Picture, replicas: u64) -> bool {
    let mut slots = Vec::with_capacity(picture.tasks.len());
    let mut spec = Spec::of(picture);
    for task in picture.tasks.iter().filter(|task| is_wanted(task)) {
        if !goes_on(task) || !spec.is_of(task) {
            return false;
        }
        slots.push(task.slot);
    }
    slots.sort_unstable();
    let doubled = slots.windows(2).any(|pair| pair[0] == pair[1]);
    let mut gone = picture.tasks.iter().filter(|task| !is_wanted(task));
    slots.len() as u64 == replicas && !doubled && gone.all(|task| slots.binary_search(&task.slot).is_ok())
}

/// Whether the task goes on, waits for nothing and takes nobody's place.
fn goes_on(task: &Task) -> bool {
    task.desired_state == TaskState::Running && !has_stopped(task) && task.takes_over.is_none()
}

/// What the service asks of its tasks.
struct Spec<'a> {
    picture: &'a Picture,
    wanted: TaskSpec,
    /// A task's spec that was found equal: tasks share theirs.
    equal: Option<&'a Arc<TaskSpec>>,
}

impl<'a> Spec<'a> {
    fn of(picture: &'a Picture) -> Self {
        Self {
            picture,
            wanted: task_spec(&picture.service, picture.default_log.as_ref()),
            equal: None,
        }
    }

    /// Whether the task is what the service asks for: as [`is_dirty`](super::task::is_dirty), but for what is clean on
    /// its node alone.
    fn is_of(&mut self, task: &'a Task) -> bool {
        let service = &self.picture.service;
        if service.spec_version.is_some() && service.spec_version == task.spec_version {
            return true;
        }
        let fencing = |labels| upkeep::fencing(labels);
        if service.spec.endpoint_spec != task.endpoint
            || fencing(&service.spec.labels) != fencing(&task.labels)
        {
            return false;
        }
        if !self.equal.is_some_and(|equal| Arc::ptr_eq(equal, &task.spec)) {
            self.equal = (self.wanted == *task.spec).then_some(&task.spec);
        }
        self.equal.is_some()
    }
}

/// Whether the nodes can keep the tasks that they have.
fn stays(picture: &Picture, enforce: bool) -> bool {
    let can_keep = |task: &Task| {
        let node = picture.nodes.get(&task.node_id).map(AsRef::as_ref);
        let placed = |node| !enforce || satisfies_placement(&picture.service, node);
        fitness(node).is_none() && node.is_some_and(placed)
    };
    let mut wanted = picture.tasks.iter().filter(|task| is_wanted(task));
    wanted.all(|task| task.node_id.is_empty() || can_keep(task))
}

#[cfg(test)]
mod tests {
    use proto::object::{NodeState, TakeOver, UpdateStatus};
    use proto::spec::ServiceMode;
    use proto::{Node, Service, Version};

    use super::*;

    const VERSION: Option<Version> = Some(Version { index: 7 });

    /// Two replicas that run, and one that has ended before one of them.
    fn picture() -> Picture {
        let mut service = Service {
            spec_version: VERSION,
            ..Service::default()
        };
        service.spec.mode = ServiceMode::replicated(2);
        let task = |slot: u64, desired_state, state| {
            let mut task = Task {
                slot,
                desired_state,
                spec_version: VERSION,
                node_id: "n".into(),
                ..Task::default()
            };
            task.status.state = state;
            Arc::new(task)
        };
        let mut node = Node::default();
        node.status.state = NodeState::Ready;
        Picture {
            service: Arc::new(service),
            tasks: vec![
                task(1, TaskState::Shutdown, TaskState::Failed),
                task(1, TaskState::Running, TaskState::Running),
                task(4, TaskState::Running, TaskState::Starting),
            ],
            nodes: [("n".into(), Arc::new(node))].into(),
            ..Picture::default()
        }
    }

    #[test]
    fn a_service_whose_tasks_run_is_at_rest() {
        assert!(is_at_rest(&picture(), &Memory::default()));
        let mut pending = picture();
        Arc::make_mut(&mut pending.tasks[2]).node_id = "".into();
        Arc::make_mut(&mut pending.service).update_status = Some(UpdateStatus {
            state: UpdateState::Completed,
            ..UpdateStatus::default()
        });
        // The service was only scaled since.
        Arc::make_mut(&mut pending.tasks[2]).spec_version = Some(Version { index: 6 });
        assert!(is_at_rest(&pending, &Memory::default()));
    }

    #[test]
    fn whatever_has_to_be_done_something_about_is_no_rest() {
        let changed = |change: fn(&mut Picture)| {
            let mut picture = picture();
            change(&mut picture);
            is_at_rest(&picture, &Memory::default())
        };
        let of_task: [fn(&mut Task); 6] = [
            |task| task.status.state = TaskState::Failed,
            |task| task.desired_state = TaskState::Ready,
            |task| task.desired_state = TaskState::Shutdown,
            |task| task.slot = 1,
            |task| {
                task.spec_version = Some(Version { index: 6 });
                Arc::make_mut(&mut task.spec).force_update = 1;
            },
            |task| task.takes_over = Some(TakeOver::default()),
        ];
        for change in of_task {
            let mut picture = picture();
            change(Arc::make_mut(&mut picture.tasks[2]));
            assert!(
                !is_at_rest(&picture, &Memory::default()),
                "{:?}",
                picture.tasks[2]
            );
        }
        assert!(!changed(|picture| {
            Arc::make_mut(&mut picture.service).spec.mode = ServiceMode::replicated(3);
        }));
        assert!(!changed(|picture| {
            Arc::make_mut(&mut picture.service).spec.mode = ServiceMode::global();
        }));
        assert!(!changed(|picture| Arc::make_mut(&mut picture.tasks[0]).slot = 9));
        assert!(!changed(|picture| picture.nodes.clear()));
    }
}

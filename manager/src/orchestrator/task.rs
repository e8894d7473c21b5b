//! What the orchestrators know of single tasks: how one is made, whether it is still what its service asks for, and
//! whether its node can keep it.

use std::sync::Arc;
use std::time::Duration;

use proto::object::{NodeState, TaskStatus};
use proto::spec::{Availability, LogDriver};
use proto::upkeep;
use proto::{Node, NodeId, Service, Task, TaskId, TaskSpec, TaskState, Timestamp};

use crate::scheduler::constraint;

use super::slot::SlotKey;

/// A new task of a service for a slot. It is wanted running; callers lower that where it has to wait.
pub(super) fn new_task(service: &Service, spec: Arc<TaskSpec>, slot: &SlotKey) -> Task {
    let (number, node_id) = match slot {
        SlotKey::Number(number) => (*number, NodeId::default()),
        SlotKey::Node(node) => (0, node.clone()),
    };
    Task {
        id: TaskId::random(),
        labels: service.spec.labels.clone(),
        spec,
        spec_version: service.spec_version,
        service_id: service.id.clone(),
        service_name: service.spec.name.clone(),
        slot: number,
        node_id,
        status: TaskStatus {
            timestamp: Timestamp::now(),
            state: TaskState::New,
            message: "created".into(),
            ..TaskStatus::default()
        },
        desired_state: TaskState::Running,
        endpoint: service.spec.endpoint_spec.clone(),
        job_iteration: service.spec.mode.is_job().then(|| {
            service
                .job_status
                .as_ref()
                .map(|job| job.job_iteration)
                .unwrap_or_default()
        }),
        ..Task::default()
    }
}

/// The service's task spec with the cluster's defaults filled in.
pub(super) fn task_spec(service: &Service, default_log: Option<&LogDriver>) -> TaskSpec {
    let mut spec = service.spec.task_template.clone();
    if spec.log_driver.is_none() {
        spec.log_driver = default_log.cloned();
    }
    spec
}

/// Whether the task is no longer what the service asks for and has to be replaced.
///
/// A change of the replica count or of the service's own labels, but for its lease, leaves tasks clean, and so does a change of placement
/// alone that the task's node satisfies.
pub(crate) fn is_dirty(
    service: &Service,
    default_log: Option<&LogDriver>,
    task: &Task,
    node: Option<&Node>,
) -> bool {
    if service.spec_version.is_some() && service.spec_version == task.spec_version {
        return false;
    }
    // A task has the lease that its service asked for when it was made, for its whole life.
    if service.spec.endpoint_spec != task.endpoint
        || upkeep::fencing(&service.spec.labels) != upkeep::fencing(&task.labels)
    {
        return true;
    }
    let mut wanted = task_spec(service, default_log);
    if wanted == *task.spec {
        return false;
    }
    wanted.placement.clone_from(&task.spec.placement);
    wanted != *task.spec || !node.is_some_and(|node| satisfies_placement(service, node))
}

/// Whether the node satisfies the constraints of the service as it is now.
pub(super) fn satisfies_placement(service: &Service, node: &Node) -> bool {
    match &service.spec.task_template.placement {
        // What cannot be read was refused when the service was written; if it is there, no node satisfies it.
        Some(placement) => constraint::parse(&placement.constraints)
            .is_ok_and(|constraints| constraint::matches(&constraints, node)),
        None => true,
    }
}

/// Why a node cannot keep its tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfit {
    /// It is gone from the cluster, or has missed its heartbeats: nobody will stop its tasks soon.
    Lost,
    /// It is there and told to give its tasks away.
    Drained,
}

/// Whether a node can keep its tasks.
pub(super) fn fitness(node: Option<&Node>) -> Option<Unfit> {
    match node {
        None => Some(Unfit::Lost),
        Some(node) if node.status.state == NodeState::Down => Some(Unfit::Lost),
        Some(node) if node.spec.availability == Availability::Drain => Some(Unfit::Drained),
        Some(_) => None,
    }
}

/// Whether a manager still wants the task to run, now or soon; of a job: to run to its end.
pub(super) fn is_wanted(task: &Task) -> bool {
    task.desired_state <= TaskState::Complete
}

/// Whether the task will do nothing more: it has ended, or it is unwanted and no node has heard of it.
pub(super) fn has_stopped(task: &Task) -> bool {
    task.status.state.is_terminal() || (!is_wanted(task) && task.status.state < TaskState::Assigned)
}

/// Stop grace period of containers that do not name one.
const DEFAULT_GRACE: Duration = Duration::from_secs(10);

/// The time between a task's stop signal and its end by force.
pub(super) fn stop_grace(task: &Task) -> Duration {
    let container = task.spec.container_spec.as_ref();
    let grace = container.and_then(|container| container.stop_grace_period);
    grace.map_or(DEFAULT_GRACE, |nanos| {
        Duration::from_nanos(nanos.try_into().unwrap_or_default())
    })
}

/// The order in which tasks of one slot were made; the store gives tasks of one transaction the same time.
pub(super) fn by_creation(tasks: &mut [Arc<Task>]) {
    tasks.sort_by(|one, two| {
        (one.meta.created_at, one.meta.version, &one.id).cmp(&(
            two.meta.created_at,
            two.meta.version,
            &two.id,
        ))
    });
}

//! The one decision of a task's life: given what is observed and what is desired, what is the next step?
//!
//! Pure, so that the whole state machine is tested as a table. The controller in [`super::controller`] carries the steps
//! out. The rules are SwarmKit's (`agent/exec/controller.go`): a state only grows, a terminal task does nothing.

use proto::TaskState;

/// What the controller does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Say that this node has taken the task.
    Accept,
    /// Say that preparation begins.
    BeginPreparing,
    /// Bring the image here, make volumes, networks, secrets and the container; then READY.
    Prepare,
    /// Say that the container is being started.
    BeginStarting,
    /// Start the container and wait until it is healthy; then RUNNING.
    Start,
    /// Wait for the container to end; then COMPLETE or FAILED.
    Watch,
    /// Take the task out of its service, stop the container; then SHUTDOWN.
    Shutdown,
    /// Nothing to do until the desired state changes.
    Rest,
}

/// The next step of a task.
pub fn step(observed: TaskState, desired: TaskState) -> Step {
    if observed.is_terminal() {
        return Step::Rest;
    }
    if desired >= TaskState::Shutdown {
        return Step::Shutdown;
    }
    if observed > desired {
        return Step::Rest;
    }
    match observed {
        TaskState::New | TaskState::Pending | TaskState::Assigned => Step::Accept,
        TaskState::Accepted => Step::BeginPreparing,
        TaskState::Preparing => Step::Prepare,
        TaskState::Ready if desired == TaskState::Ready => Step::Rest,
        TaskState::Ready => Step::BeginStarting,
        TaskState::Starting => Step::Start,
        _ => Step::Watch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TaskState::*;

    const ALL: [TaskState; 14] = [
        New, Pending, Assigned, Accepted, Preparing, Ready, Starting, Running, Complete, Shutdown, Failed,
        Rejected, Remove, Orphaned,
    ];

    #[test]
    fn a_wanted_task_walks_to_running() {
        let walk = [
            (Assigned, Step::Accept),
            (Accepted, Step::BeginPreparing),
            (Preparing, Step::Prepare),
            (Ready, Step::BeginStarting),
            (Starting, Step::Start),
            (Running, Step::Watch),
        ];
        for (observed, expected) in walk {
            assert_eq!(step(observed, Running), expected, "{observed}");
            assert_eq!(step(observed, Complete), expected, "job, {observed}");
        }
    }

    #[test]
    fn a_held_task_stops_at_ready() {
        assert_eq!(step(Preparing, Ready), Step::Prepare);
        assert_eq!(step(Ready, Ready), Step::Rest);
        assert_eq!(step(Starting, Ready), Step::Rest);
    }

    #[test]
    fn an_unwanted_task_is_shut_down_from_anywhere() {
        for observed in ALL.into_iter().filter(|state| !state.is_terminal()) {
            for desired in [Shutdown, Failed, Rejected, Remove, Orphaned] {
                assert_eq!(step(observed, desired), Step::Shutdown, "{observed} → {desired}");
            }
        }
    }

    #[test]
    fn a_finished_task_rests() {
        for observed in ALL.into_iter().filter(|state| state.is_terminal()) {
            for desired in ALL {
                assert_eq!(step(observed, desired), Step::Rest, "{observed} → {desired}");
            }
        }
    }
}

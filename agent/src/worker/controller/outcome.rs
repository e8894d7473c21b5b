//! What a container's state says of its task.

use proto::TaskState;
use tokio::sync::watch;

use crate::engine::{ContainerState, HealthStatus, Status};

/// What became of a container that was started.
pub(super) enum Verdict {
    /// Up, and healthy where health is asked.
    Serving,
    /// Its probes say no.
    Unhealthy,
    /// Its process has ended.
    Ended(ContainerState),
}

pub(super) async fn started(state: &mut watch::Receiver<ContainerState>) -> Verdict {
    verdict(state, true).await
}

pub(super) async fn ended(state: &mut watch::Receiver<ContainerState>) -> Verdict {
    verdict(state, false).await
}

async fn verdict(state: &mut watch::Receiver<ContainerState>, until_serving: bool) -> Verdict {
    loop {
        let now = state.borrow_and_update().clone();
        let health = now.health.as_ref().map(|health| health.status);
        match (now.status, health) {
            _ if now.removed => return Verdict::Ended(now),
            (Status::Exited | Status::Dead | Status::Removing, _) => return Verdict::Ended(now),
            (Status::Running, Some(HealthStatus::Unhealthy)) => return Verdict::Unhealthy,
            (Status::Running, None | Some(HealthStatus::Healthy)) if until_serving => {
                return Verdict::Serving;
            }
            _ => {}
        }
        if state.changed().await.is_err() {
            return Verdict::Ended(now);
        }
    }
}

/// Why an ended container did not end well; `None` if it did.
pub(super) fn failure(state: &ContainerState) -> Option<String> {
    if state.removed {
        return Some("task: the container was removed".into());
    }
    if state.exit_code == 0 && state.error.is_empty() {
        return None;
    }
    let mut reason = format!("task: non-zero exit ({})", state.exit_code);
    if state.oom_killed {
        reason.push_str(": out of memory");
    }
    if !state.error.is_empty() {
        reason.push_str(": ");
        reason.push_str(&state.error);
    }
    Some(reason)
}

/// Where a task goes on after a restart of the agent, from what the manager recorded and what is found.
pub(super) fn resume(recorded: TaskState, found: Option<&ContainerState>) -> (TaskState, String) {
    if recorded.is_terminal() {
        return (recorded, String::new());
    }
    match found.map(|container| container.status) {
        None if recorded >= TaskState::Ready => (TaskState::Failed, "task: the container is gone".into()),
        None => (recorded, String::new()),
        Some(Status::Created) if recorded == TaskState::Running => {
            (TaskState::Failed, "task: the container was never started".into())
        }
        Some(Status::Created) => (recorded.max(TaskState::Ready), String::new()),
        Some(_) => (recorded.max(TaskState::Starting), String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(status: Status) -> ContainerState {
        ContainerState {
            status,
            ..ContainerState::default()
        }
    }

    #[test]
    fn a_restart_of_the_agent_loses_no_task() {
        let cases = [
            (TaskState::Assigned, None, TaskState::Assigned),
            (TaskState::Preparing, Some(Status::Created), TaskState::Ready),
            (TaskState::Assigned, Some(Status::Running), TaskState::Starting),
            (TaskState::Running, Some(Status::Running), TaskState::Running),
            (TaskState::Running, Some(Status::Exited), TaskState::Running),
            (TaskState::Starting, Some(Status::Exited), TaskState::Starting),
            (TaskState::Running, None, TaskState::Failed),
            (TaskState::Running, Some(Status::Created), TaskState::Failed),
            (TaskState::Shutdown, Some(Status::Running), TaskState::Shutdown),
        ];
        for (recorded, found, expected) in cases {
            let (resumed, _) = resume(recorded, found.map(state).as_ref());
            assert_eq!(resumed, expected, "{recorded} with {found:?}");
        }
    }

    #[test]
    fn exits_read_as_docker_writes_them() {
        let mut exited = state(Status::Exited);
        assert_eq!(failure(&exited), None);
        exited.exit_code = 137;
        assert_eq!(failure(&exited).unwrap(), "task: non-zero exit (137)");
        exited.oom_killed = true;
        assert_eq!(
            failure(&exited).unwrap(),
            "task: non-zero exit (137): out of memory"
        );
    }

    #[tokio::test]
    async fn a_container_serves_once_it_is_healthy() {
        use crate::engine::Health;
        let (sender, mut receiver) = watch::channel(ContainerState {
            status: Status::Running,
            health: Some(Health::default()),
            ..ContainerState::default()
        });
        let waiting = tokio::spawn(async move { started(&mut receiver).await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        sender.send_modify(|state| {
            state.health = Some(Health {
                status: HealthStatus::Healthy,
                ..Health::default()
            });
        });
        assert!(matches!(waiting.await.unwrap(), Verdict::Serving));
    }
}

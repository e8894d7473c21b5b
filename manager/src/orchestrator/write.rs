//! Writing a plan to the store.

use std::sync::Arc;

use proto::object::{TaskStatus, UpdateState, UpdateStatus};
use proto::{Service, ServiceId, Task, TaskState, Timestamp};

use super::draft::{Action, Step, UpdateChange};
use super::task::is_wanted;
use crate::history::change_spec;
use crate::state::{Kind, Reader, Store, StoreError, WriteTx};

/// Writes the steps, each whole or not at all. A step that no longer fits is left out: what it was planned on has
/// changed, which makes its service dirty again.
pub(super) async fn apply(store: &Store, work: Vec<(ServiceId, Step)>) -> Result<(), StoreError> {
    let mut batch = store.batch().await;
    for (id, step) in work {
        match batch.update(|tx| apply_step(tx, &id, step)).await {
            Err(error @ StoreError::Propose(_)) => return Err(error),
            Err(error) => tracing::debug!(service.id = %id, %error, "a planned step no longer fits"),
            Ok(()) => {}
        }
    }
    batch.commit().await
}

fn apply_step(tx: &mut WriteTx<'_>, id: &ServiceId, step: Step) -> Result<(), StoreError> {
    step.into_iter().try_for_each(|action| match action {
        Action::Create(task) => create(tx, id, task),
        Action::Desire(task, state) => desire(tx, task.as_str(), state),
        Action::Update(change) => tx.modify::<Service>(id.as_str(), |service| {
            change_update(service, &change, Timestamp::now())
        }),
        Action::RemoveService => tx.remove::<Service>(id.as_str()),
    })
}

fn create(tx: &mut WriteTx<'_>, id: &ServiceId, task: Arc<Task>) -> Result<(), StoreError> {
    match tx.get::<Service>(id.as_str()) {
        Some(service) if !service.pending_delete => tx.create_shared(task),
        _ => Err(StoreError::NotFound {
            kind: Kind::Service,
            id: id.as_str().to_owned(),
        }),
    }
}

/// Wanted states only grow. A task that is not wanted any more and that no node has heard of ends here and now: until
/// it is assigned its status is the manager's.
fn desire(tx: &mut WriteTx<'_>, id: &str, state: TaskState) -> Result<(), StoreError> {
    tx.modify::<Task>(id, |task| {
        task.desired_state = task.desired_state.max(state);
        if !is_wanted(task) && task.status.state < TaskState::Assigned {
            task.status = TaskStatus {
                timestamp: Timestamp::now(),
                state: TaskState::Shutdown,
                message: "shutdown before it was assigned".into(),
                ..TaskStatus::default()
            };
        }
    })
}

/// Changes the update status; nothing where the service was written anew meanwhile, which clears the status.
pub(super) fn change_update(service: &mut Service, change: &UpdateChange, now: Timestamp) {
    let Some(status) = service.update_status.as_mut() else {
        if *change == UpdateChange::Start {
            service.update_status = Some(UpdateStatus {
                state: UpdateState::Updating,
                started_at: Some(now),
                completed_at: None,
                message: "update in progress".into(),
            });
        }
        return;
    };
    let back = status.state == UpdateState::RollbackStarted;
    match change {
        UpdateChange::Start => {}
        UpdateChange::Complete => {
            let (state, message) = match back {
                true => (UpdateState::RollbackCompleted, "rollback completed"),
                false => (UpdateState::Completed, "update completed"),
            };
            (status.state, status.message, status.completed_at) = (state, message.into(), Some(now));
        }
        UpdateChange::Pause(message) => {
            status.state = if back {
                UpdateState::RollbackPaused
            } else {
                UpdateState::Paused
            };
            status.message.clone_from(message);
        }
        UpdateChange::RollBack(message) => {
            let Some(previous) = service.previous_spec.take() else {
                return;
            };
            status.state = UpdateState::RollbackStarted;
            status.message.clone_from(message);
            let version = service.previous_spec_version.take();
            change_spec(service, *previous, version, now);
            // What failed is kept, but not as what Docker's clients go back to.
            (service.previous_spec, service.previous_spec_version) = (None, None);
        }
    }
}

//! A worker of an update: takes one slot at a time from the old tasks to the new one.

use std::sync::Arc;
use std::time::Duration;

use proto::spec::UpdateOrder;
use proto::{Task, TaskId, TaskState};
use tokio::time::Instant;

use super::super::delay::{Delay, Delays};
use super::super::draft::Draft;
use super::super::handover::staying;
use super::super::slot::SlotKey;
use super::super::task::{has_stopped, is_wanted};
use super::is_slot_dirty;

/// What a worker waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Worker {
    /// For the slot's new task to run, or to end.
    Starting {
        slot: SlotKey,
        task: TaskId,
        /// Since when nothing but its node holds the task back; `None` while it waits for another one to stop.
        since: Option<Instant>,
    },
    /// For the delay between slots to be over.
    Resting { until: Instant },
}

/// A worker that has begun with a slot.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) worker: Worker,
    /// The task that it made, if it had to make one.
    pub(super) made: Option<TaskId>,
}

impl Worker {
    /// When it wants to be woken, if it is the time that it waits for.
    pub(super) fn wake(&self, deadline: Option<Duration>) -> Option<Instant> {
        match self {
            Self::Starting { since, .. } => Some((*since)? + deadline?),
            Self::Resting { until } => Some(*until),
        }
    }

    /// Remembers since when its task may start.
    pub(super) fn note(&mut self, draft: &Draft<'_>, now: Instant) {
        if let Self::Starting { slot, task, since } = self
            && since.is_none()
            && draft
                .task(slot, task)
                .is_some_and(|task| task.desired_state >= TaskState::Running)
        {
            *since = Some(now);
        }
    }

    /// Gives up a task that does not run by its deadline. Returns which.
    pub(super) fn give_up(
        &mut self,
        draft: &Draft<'_>,
        deadline: Duration,
        rest: Duration,
        now: Instant,
    ) -> Option<TaskId> {
        let Self::Starting { slot, task, since } = self else {
            return None;
        };
        let waits = draft
            .task(slot, task)
            .is_some_and(|task| is_wanted(task) && task.status.state < TaskState::Running);
        if !waits || now < (*since)? + deadline {
            return None;
        }
        let late = task.clone();
        *self = Self::Resting { until: now + rest };
        Some(late)
    }
}

/// Begins to update a slot: with the new task that is already there, or with one that it makes. `None` if nothing is
/// left to do.
pub(super) fn begin(
    draft: &mut Draft<'_>,
    delays: &mut Delays,
    key: &SlotKey,
    order: UpdateOrder,
    now: Instant,
) -> Option<Started> {
    if !is_slot_dirty(draft, key) {
        return None;
    }
    draft.begin();
    let existing = existing(draft, key);
    let made = existing.is_none();
    let id = match (existing, order) {
        (Some(task), UpdateOrder::StopFirst) => {
            shut_down_others(draft, key, &task.id);
            task.id.clone()
        }
        (Some(task), UpdateOrder::StartFirst) => task.id.clone(),
        // It is wanted running at once: nothing has to stop before.
        (None, UpdateOrder::StartFirst) => draft.create(key, TaskState::Running),
        (None, UpdateOrder::StopFirst) => {
            // An earlier update may have left more than one of them.
            let old: Vec<_> = draft
                .slot(key)
                .iter()
                .filter(|task| !has_stopped(task))
                .cloned()
                .collect();
            let id = draft.create(key, TaskState::Ready);
            shut_down_others(draft, key, &id);
            delays.insert(id.clone(), Delay::new(now, Duration::ZERO, &old));
            id
        }
    };
    let worker = Worker::Starting {
        slot: key.clone(),
        task: id.clone(),
        since: None,
    };
    Some(Started {
        worker,
        made: made.then_some(id),
    })
}

/// Lets a worker proceed. Returns whether it is still busy.
pub(super) fn proceed(
    worker: &mut Worker,
    draft: &mut Draft<'_>,
    order: UpdateOrder,
    rest: Duration,
    now: Instant,
) -> bool {
    if let Worker::Starting { slot, task, .. } = worker {
        let state = draft
            .task(slot, task)
            .map(|task| (task.status.state, is_wanted(task)));
        match state {
            Some((state, true)) if state < TaskState::Running => return true,
            Some((TaskState::Running, true)) if order == UpdateOrder::StartFirst => {
                draft.begin();
                shut_down_others(draft, slot, task);
            }
            // It runs; or it ended or is no longer wanted, which the restart policy sees to.
            _ => {}
        }
        *worker = Worker::Resting { until: now + rest };
    }
    matches!(worker, Worker::Resting { until } if now < *until)
}

/// Shuts down every task of the slot but one, as a part of the present step.
pub(super) fn shut_down_others(draft: &mut Draft<'_>, key: &SlotKey, keep: &TaskId) {
    let others: Vec<TaskId> = draft
        .slot(key)
        .iter()
        .filter(|task| is_wanted(task) && task.id != *keep)
        .map(|task| task.id.clone())
        .collect();
    others
        .iter()
        .for_each(|id| draft.desire(key, id, TaskState::Shutdown));
}

/// The task of the slot that is already as the service asks for; rather one that runs than one that waits.
fn existing(draft: &Draft<'_>, key: &SlotKey) -> Option<Arc<Task>> {
    let clean = || staying(draft.slot(key)).filter(|task| !draft.is_dirty(task));
    clean()
        .find(|task| task.desired_state == TaskState::Running)
        .or_else(|| clean().next())
        .cloned()
}

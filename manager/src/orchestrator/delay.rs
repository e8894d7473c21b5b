//! Tasks that are made and prepared but wait to be started: until a delay is over, and until the task whose place they
//! take has stopped. They are wanted READY meanwhile, and RUNNING (of a job: COMPLETE) afterwards.
//!
//! What waits is remembered in memory; a task found wanted READY without such a memory, after a change of leader, gets
//! its delay again from what the store says of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proto::{Task, TaskId, TaskState, Timestamp};
use tokio::time::Instant;

use super::backoff::restart_delay;
use super::draft::Draft;
use super::fence;
use super::slot::SlotKey;
use super::task::{Unfit, fitness, has_stopped, is_wanted, stop_grace};

/// How long to wait for a task to stop before its replacement starts all the same.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// Given to a node beyond the stop grace period of a task.
const STOP_MARGIN: Duration = Duration::from_secs(10);

/// Why a task waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delay {
    /// Not before this.
    at: Instant,
    /// Not before each of these tasks has stopped, or its time is over.
    after: Vec<(TaskId, Instant)>,
}

impl Delay {
    /// Waits for the time, and for these tasks to stop.
    pub(crate) fn new<'t>(
        now: Instant,
        delay: Duration,
        after: impl IntoIterator<Item = &'t Arc<Task>>,
    ) -> Self {
        let after = after
            .into_iter()
            .map(|task| (task.id.clone(), now + stop_timeout(task)));
        Self {
            at: now + delay,
            after: after.collect(),
        }
    }

    /// The next moment at which the wait may be over; `None` if it is over now.
    fn pending(&self, draft: &Draft<'_>, key: &SlotKey, now: Instant) -> Option<Instant> {
        if now < self.at {
            return Some(self.at);
        }
        let until = |(id, give_up): &(TaskId, Instant)| {
            let task = draft.task(key, id).filter(|task| !has_stopped(task))?;
            match fence::end(draft, task, now) {
                Some(end) => Some(end),
                None => Some(*give_up).filter(|_| is_held(draft, task)),
            }
        };
        self.after
            .iter()
            .filter_map(until)
            .filter(|until| now < *until)
            .min()
    }
}

/// Whether somebody will stop a task.
fn is_held(draft: &Draft<'_>, task: &Task) -> bool {
    fitness(draft.node(&task.node_id)) != Some(Unfit::Lost)
}

/// The waiting tasks of one service.
pub(crate) type Delays = HashMap<TaskId, Delay>;

/// Starts the tasks whose wait is over. Returns when the next wait may be over.
pub(crate) fn promote(draft: &mut Draft<'_>, delays: &mut Delays, now: Instant) -> Option<Instant> {
    let waiting: Vec<(SlotKey, Arc<Task>)> = draft
        .slots
        .iter()
        .flat_map(|(key, slot)| slot.iter().map(move |task| (key, task)))
        .filter(|(_, task)| task.desired_state < TaskState::Running)
        .map(|(key, task)| (key.clone(), task.clone()))
        .collect();
    delays.retain(|id, _| waiting.iter().any(|(_, task)| task.id == *id));
    let mut wake: Option<Instant> = None;
    for (key, task) in waiting {
        let delay = delays
            .entry(task.id.clone())
            .or_insert_with(|| recovered(draft, &key, &task, now));
        match delay.pending(draft, &key, now) {
            Some(moment) => wake = Some(wake.map_or(moment, |wake| wake.min(moment))),
            None => {
                delays.remove(&task.id);
                draft.begin();
                draft.desire(&key, &task.id, started(&task));
            }
        }
    }
    wake
}

/// The state in which a task that waits no longer is wanted.
fn started(task: &Task) -> TaskState {
    match task.job_iteration {
        Some(_) => TaskState::Complete,
        None => TaskState::Running,
    }
}

/// The delay of a task whose reason to wait is no longer known: the rest of its restart delay since it was made, and
/// any task before it that has yet to stop.
fn recovered(draft: &Draft<'_>, key: &SlotKey, task: &Task, now: Instant) -> Delay {
    let age = Timestamp::now().0 - task.meta.created_at.0;
    let rest = restart_delay(task, &draft.upkeep).saturating_sub(age.try_into().unwrap_or_default());
    let before = draft.slot(key).iter();
    Delay::new(
        now,
        rest,
        before.filter(|other| !is_wanted(other) && !has_stopped(other)),
    )
}

fn stop_timeout(task: &Task) -> Duration {
    STOP_TIMEOUT.max(stop_grace(task) + STOP_MARGIN)
}

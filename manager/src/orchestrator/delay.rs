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
use super::slot::SlotKey;
use super::task::{Unfit, fitness, has_stopped, is_wanted};

/// How long to wait for a task to stop before its replacement starts all the same.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// Given to a node beyond the stop grace period of a task.
const STOP_MARGIN: Duration = Duration::from_secs(10);
/// Stop grace period of containers that do not name one.
const DEFAULT_GRACE: Duration = Duration::from_secs(10);

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
        let waits = |(id, give_up): &&(TaskId, Instant)| {
            now < *give_up && draft.task(key, id).is_some_and(|task| is_held(draft, task))
        };
        self.after.iter().filter(waits).map(|(_, give_up)| *give_up).min()
    }
}

/// Whether a task of the slot still has its place: it has not stopped, and somebody will stop it.
fn is_held(draft: &Draft<'_>, task: &Task) -> bool {
    !has_stopped(task) && fitness(draft.node(&task.node_id)) != Some(Unfit::Lost)
}

/// The waiting tasks of one service.
pub(crate) type Delays = HashMap<TaskId, Delay>;

/// Starts the tasks whose wait is over. Returns when the next wait may be over.
pub(crate) fn promote(draft: &mut Draft<'_>, delays: &mut Delays, now: Instant) -> Option<Instant> {
    let waiting: Vec<(SlotKey, Arc<Task>)> = draft
        .slots
        .iter()
        .flat_map(|(key, slot)| slot.iter().map(move |task| (key.clone(), task.clone())))
        .filter(|(_, task)| task.desired_state < TaskState::Running)
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
    let grace = task
        .spec
        .container_spec
        .as_ref()
        .and_then(|container| container.stop_grace_period);
    let grace = grace.map_or(DEFAULT_GRACE, |nanos| {
        Duration::from_nanos(nanos.try_into().unwrap_or_default())
    });
    STOP_TIMEOUT.max(grace + STOP_MARGIN)
}

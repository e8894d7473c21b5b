//! Replacing tasks that have ended or whose node cannot keep them, as the restart policy of the task says.
//!
//! A replacement is made at once and wanted READY, so that its node prepares it during the delay; [`super::delay`]
//! starts it. How often a slot was restarted is not remembered anywhere: the tasks that the reaper keeps tell it.

use std::sync::Arc;
use std::time::Duration;

use proto::object::TakeOverReason;
use proto::spec::{RestartCondition, RestartPolicy};
use proto::{Task, TaskState};
use time::OffsetDateTime;
use tokio::time::Instant;

use super::backoff::{failures_with, restart_delay};
use super::delay::{Delay, Delays};
use super::draft::Draft;
use super::fence;
use super::handover::{self, is_leaving, may_overlap};
use super::slot::SlotKey;
use super::task::{Unfit, fitness, has_stopped, is_wanted, satisfies_placement};

/// What the planner of a mode says about replacing.
pub(crate) struct Rules<'r> {
    /// Whether tasks that run on a node which no longer satisfies the constraints are moved away now.
    pub(crate) enforce: bool,
    /// Whether a slot may get another task.
    pub(crate) replaceable: &'r dyn Fn(&SlotKey) -> bool,
}

/// Shuts down tasks that have ended or cannot stay, and makes their replacements.
pub(crate) fn restart(draft: &mut Draft<'_>, delays: &mut Delays, rules: &Rules<'_>, now: Instant) {
    let all = draft.slots.iter();
    let all = all.flat_map(|(key, slot)| slot.iter().map(move |task| (key, task)));
    let due: Vec<(SlotKey, Arc<Task>, Cause)> = all
        // A task that fails while it waits is seen to when its wait is over: otherwise it would fail in a tight loop.
        .filter(|(_, task)| is_wanted(task) && !delays.contains_key(&task.id))
        .filter_map(|(key, task)| Some((key.clone(), task.clone(), cause(draft, task, rules.enforce)?)))
        .collect();
    for (key, task, cause) in due {
        match cause {
            Cause::Unfit(Unfit::Drained) if is_leaving(draft.slot(&key), &task) => {}
            Cause::Unfit(Unfit::Drained) if hands_over(draft, rules, &key, &task) => {
                handover::begin(draft, &key, &task, TakeOverReason::Drain);
            }
            cause => replace(draft, delays, rules, &key, &task, cause, now),
        }
    }
}

/// Why a task has to be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Ended,
    Unfit(Unfit),
    Misplaced,
}

fn cause(draft: &Draft<'_>, task: &Task, enforce: bool) -> Option<Cause> {
    if has_stopped(task) {
        let done = task.job_iteration.is_some() && task.status.state == TaskState::Complete;
        return (!done).then_some(Cause::Ended);
    }
    if task.node_id.is_empty() {
        return None;
    }
    let node = draft.node(&task.node_id);
    if let Some(unfit) = fitness(node) {
        return Some(Cause::Unfit(unfit));
    }
    let misplaced = enforce && node.is_some_and(|node| !satisfies_placement(draft.service(), node));
    misplaced.then_some(Cause::Misplaced)
}

/// Whether the task of a drained node goes on until its replacement runs.
fn hands_over(draft: &Draft<'_>, rules: &Rules<'_>, key: &SlotKey, task: &Task) -> bool {
    let slot = draft.slot(key);
    task.status.state == TaskState::Running
        && task.desired_state == TaskState::Running
        && may_overlap(draft.service(), draft.upkeep.drain_order)
        && !is_replaced(draft, slot, task)
        && (rules.replaceable)(key)
        && should_restart(task, slot)
}

/// Whether another task of the slot is there in its place: during an update the new one.
fn is_replaced(draft: &Draft<'_>, slot: &[Arc<Task>], task: &Task) -> bool {
    slot.iter().any(|other| {
        other.id != task.id && is_wanted(other) && !draft.is_dirty(other) && !is_leaving(slot, other)
    })
}

fn replace(
    draft: &mut Draft<'_>,
    delays: &mut Delays,
    rules: &Rules<'_>,
    key: &SlotKey,
    task: &Task,
    cause: Cause,
    now: Instant,
) {
    draft.begin();
    let slot = draft.slot(key);
    // Whoever takes over is there already, even if an update has begun that will replace it in its turn.
    let replaced = is_replaced(draft, slot, task) || is_leaving(slot, task);
    draft.desire(key, &task.id, TaskState::Shutdown);
    if replaced || handover::reason(task) == Some(TakeOverReason::Rebalance) && runs_on(draft, key, task) {
        return;
    }
    if !(rules.replaceable)(key) || !should_restart(task, draft.slot(key)) {
        // Nothing will take over any more.
        if let Some(old) = handover::from(task) {
            draft.desire(key, old, TaskState::Shutdown);
        }
        return;
    }
    let stops = match cause {
        Cause::Misplaced | Cause::Unfit(Unfit::Drained) => true,
        Cause::Unfit(Unfit::Lost) => fence::is_fenced(task),
        Cause::Ended => false,
    };
    // Only a task's own end is answered with patience.
    let failures = match cause {
        Cause::Ended => failures_with(task, &draft.upkeep),
        Cause::Unfit(_) | Cause::Misplaced => 0,
    };
    // Besides the task itself an earlier update may have left some that have yet to stop.
    let before: Vec<_> = draft
        .slot(key)
        .iter()
        .filter(|other| {
            if other.id == task.id {
                stops
            } else {
                !is_wanted(other) && !has_stopped(other)
            }
        })
        .cloned()
        .collect();
    let made = draft.create_with(key, TaskState::Ready, |made| {
        made.failures = failures;
        made.takes_over.clone_from(&task.takes_over);
    });
    let delay = match cause {
        Cause::Ended => restart_delay(&made, &draft.upkeep),
        Cause::Unfit(_) | Cause::Misplaced => Duration::ZERO,
    };
    delays.insert(made.id.clone(), Delay::new(now, delay, &before));
}

/// Whether the task from which this one should take over is still wanted: then nothing is lost with this one.
fn runs_on(draft: &Draft<'_>, key: &SlotKey, task: &Task) -> bool {
    let old = handover::from(task).and_then(|old| draft.task(key, old));
    old.is_some_and(|old| is_wanted(old))
}

/// Whether an ended task of the slot is to be replaced: by the condition of its policy, and if the restarts of its
/// slot, within the window before its end if there is one, are fewer than the attempts.
pub(crate) fn should_restart(task: &Task, slot: &[Arc<Task>]) -> bool {
    let default = RestartPolicy::default();
    let policy = task.spec.restart_policy.as_ref().unwrap_or(&default);
    let well = task.status.state == TaskState::Complete;
    let wanted = match policy.condition {
        RestartCondition::None => false,
        RestartCondition::OnFailure => !well,
        // To run a job again that has succeeded would be no use.
        RestartCondition::Any => !(well && task.job_iteration.is_some()),
    };
    let attempts = policy.max_attempts.filter(|attempts| *attempts > 0);
    wanted && attempts.is_none_or(|attempts| restarts(task, slot, policy.window) < attempts)
}

/// Restarts of the slot that count for the task: every task made from the same spec but the first is a restart.
fn restarts(task: &Task, slot: &[Arc<Task>], window: Option<i64>) -> u64 {
    let end = task.status.timestamp.0;
    let start = window
        .filter(|nanos| *nanos > 0)
        .and_then(|nanos| end.checked_sub(time::Duration::nanoseconds(nanos)));
    let counts = |created: OffsetDateTime| start.is_none_or(|start| created > start && created <= end);
    let same = slot.iter().filter(|other| {
        other.spec_version == task.spec_version
            && other.job_iteration == task.job_iteration
            && other.desired_state < TaskState::Remove
    });
    same.skip(1)
        .filter(|other| counts(other.meta.created_at.0))
        .count() as u64
}

#[cfg(test)]
mod tests {
    use proto::{TaskId, Timestamp, Version};
    use time::OffsetDateTime;

    use super::*;

    /// A task made and ended so many seconds after the epoch.
    fn task(made: i64, ended: i64, state: TaskState, policy: &RestartPolicy) -> Arc<Task> {
        let at = |seconds| Timestamp(OffsetDateTime::from_unix_timestamp(seconds).unwrap());
        let mut task = Task {
            id: TaskId::random(),
            spec_version: Some(Version { index: 1 }),
            ..Task::default()
        };
        task.meta.created_at = at(made);
        (task.status.timestamp, task.status.state) = (at(ended), state);
        std::sync::Arc::make_mut(&mut task.spec).restart_policy = Some(policy.clone());
        Arc::new(task)
    }

    fn policy(attempts: u64, window: Option<i64>) -> RestartPolicy {
        RestartPolicy {
            max_attempts: Some(attempts),
            window: window.map(|seconds| seconds * 1_000_000_000),
            ..RestartPolicy::default()
        }
    }

    fn restarts_last(slot: &[Arc<Task>]) -> bool {
        should_restart(slot.last().unwrap(), slot)
    }

    #[test]
    fn attempts_without_a_window_count_for_ever() {
        let policy = policy(2, None);
        let mut slot = vec![task(0, 10, TaskState::Failed, &policy)];
        assert!(restarts_last(&slot));
        slot.push(task(1000, 1010, TaskState::Failed, &policy));
        assert!(restarts_last(&slot));
        slot.push(task(2000, 2010, TaskState::Failed, &policy));
        assert!(!restarts_last(&slot));
    }

    #[test]
    fn attempts_count_within_the_window_before_the_end() {
        let policy = policy(2, Some(60));
        let first = task(0, 5, TaskState::Failed, &policy);
        let second = task(10, 15, TaskState::Failed, &policy);
        let quick = task(20, 25, TaskState::Failed, &policy);
        assert!(!restarts_last(&[first.clone(), second.clone(), quick]));
        let later = task(20, 75, TaskState::Failed, &policy);
        assert!(
            restarts_last(&[first, second, later]),
            "the first restart is out of the window"
        );
    }

    #[test]
    fn tasks_of_another_spec_do_not_count() {
        let policy = policy(1, None);
        let mut before = Arc::unwrap_or_clone(task(0, 5, TaskState::Failed, &policy));
        before.spec_version = Some(Version { index: 0 });
        let first = task(10, 15, TaskState::Failed, &policy);
        assert!(restarts_last(&[Arc::new(before), first]));
    }

    #[test]
    fn the_condition_decides_first() {
        let on = |condition, state| {
            let policy = RestartPolicy {
                condition,
                ..RestartPolicy::default()
            };
            restarts_last(&[task(0, 5, state, &policy)])
        };
        assert!(on(RestartCondition::Any, TaskState::Complete));
        assert!(on(RestartCondition::OnFailure, TaskState::Failed));
        assert!(!on(RestartCondition::OnFailure, TaskState::Complete));
        assert!(!on(RestartCondition::None, TaskState::Failed));
    }
}

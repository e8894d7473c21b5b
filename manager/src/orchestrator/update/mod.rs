//! Rolling updates: bringing the tasks of a service from one spec to the next, a few slots at a time.
//!
//! An [`Update`] is a state machine without a thread: every reconciliation of its service gives it the tasks as they
//! are and the time, it plans what is next and says when it wants to be woken.
//!
//! ```text
//! dirty slots → queue → workers (as many as the parallelism): replace, wait until RUNNING, rest for the delay
//!             queue and workers empty → monitor → completed
//! too many failures on the way        → paused, or rolled back (a rollback that fails is paused)
//! ```
//!
//! A failure is a task that ends by itself soon, or one that does not run by the progress deadline.

mod config;
mod worker;

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use proto::object::UpdateState;
use proto::spec::{FailureAction, ServiceSpec};
use proto::{Task, TaskId, TaskState};
use tokio::time::Instant;

use self::config::Config;
use self::worker::{Worker, begin, proceed};
use super::delay::Delays;
use super::draft::{Draft, UpdateChange};
use super::handover::staying;
use super::slot::SlotKey;

/// One update of one service.
#[derive(Debug)]
pub(crate) struct Update {
    /// What it works towards; an update towards anything else takes its place.
    target: ServiceSpec,
    rollback: bool,
    config: Config,
    queue: VecDeque<SlotKey>,
    /// Slots that it has had to do with: what it leaves behind in them is not taken up again.
    known: HashSet<SlotKey>,
    /// Slots that had to be updated when it began.
    slots: usize,
    workers: Vec<Worker>,
    /// Tasks that it made, and since when they run.
    made: HashMap<TaskId, Option<Instant>>,
    failed: HashSet<TaskId>,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Rolling,
    /// All slots are done; failures count until then.
    Monitoring(Instant),
    /// Completed, paused or rolled back. Kept so that what it left behind is not taken for a new update.
    Ended,
}

/// Begins, continues or ends the update of the service over the slots given. Returns when it wants to be woken.
pub(crate) fn update(
    current: &mut Option<Update>,
    draft: &mut Draft<'_>,
    delays: &mut Delays,
    slots: &[SlotKey],
    now: Instant,
) -> Option<Instant> {
    if matches!(
        draft.update_state(),
        Some(UpdateState::Paused | UpdateState::RollbackPaused)
    ) {
        *current = None;
        finish_handovers(draft, slots);
        return None;
    }
    match current {
        // The same spec was written again meanwhile, which cleared the status.
        Some(update) if update.continues(draft) => {
            update.leave_out(slots);
            update.take_in(draft, slots);
            if update.phase != Phase::Ended && draft.update_state().is_none() {
                draft.update(UpdateChange::Start);
            }
        }
        _ => *current = Update::start(draft, slots),
    }
    let wake = current
        .as_mut()
        .and_then(|update| update.step(draft, delays, now));
    if current.as_ref().is_none_or(|update| update.phase == Phase::Ended) {
        finish_handovers(draft, slots);
    }
    wake
}

/// Whether the update is under way, so that changes of the state of tasks matter to it.
pub(crate) fn is_active(update: Option<&Update>) -> bool {
    update.is_some_and(|update| update.phase != Phase::Ended)
}

impl Update {
    /// An update towards the service's spec, if a slot needs one.
    fn start(draft: &mut Draft<'_>, slots: &[SlotKey]) -> Option<Self> {
        let queue: VecDeque<_> = slots
            .iter()
            .filter(|key| is_slot_dirty(draft, key))
            .cloned()
            .collect();
        let rollback = draft.is_rolling_back();
        if queue.is_empty() {
            if rollback || draft.update_state() == Some(UpdateState::Updating) {
                draft.update(UpdateChange::Complete);
            }
            return None;
        }
        if draft.update_state().is_none() {
            draft.update(UpdateChange::Start);
        }
        let config = Config::of(&draft.service().spec, rollback, queue.len());
        Some(Self {
            target: draft.service().spec.clone(),
            rollback,
            config,
            slots: queue.len(),
            known: slots.iter().cloned().collect(),
            queue,
            workers: Vec::new(),
            made: HashMap::new(),
            failed: HashSet::new(),
            phase: Phase::Rolling,
        })
    }

    /// Leaves out slots that are no more: scaled away, or those of a node that takes no tasks now. They are taken in again
    /// when they come back.
    fn leave_out(&mut self, slots: &[SlotKey]) {
        if self.queue.is_empty() {
            return;
        }
        let there: HashSet<&SlotKey> = slots.iter().collect();
        self.queue.retain(|key| {
            let stays = there.contains(key);
            if !stays {
                self.known.remove(key);
                self.slots -= 1;
            }
            stays
        });
    }

    /// Takes in slots that it could not see before: those of a node that was paused meanwhile.
    fn take_in(&mut self, draft: &Draft<'_>, slots: &[SlotKey]) {
        let new = slots.iter().filter(|key| !self.known.contains(*key));
        let new: Vec<SlotKey> = new.cloned().collect();
        for key in new {
            if is_slot_dirty(draft, &key) {
                self.queue.push_back(key.clone());
                self.slots += 1;
                self.phase = Phase::Rolling;
            }
            self.known.insert(key);
        }
    }

    /// Whether it still works, or has worked, towards what the service asks for.
    fn continues(&self, draft: &Draft<'_>) -> bool {
        let same_way = match self.phase {
            // A service without an update status was written anew: the same spec again asks for an update then. So does
            // a rollback to the very spec that failed, which is the previous one where it was written twice.
            Phase::Ended => draft.update_state().is_some() && (self.rollback || !draft.is_rolling_back()),
            _ => self.rollback == draft.is_rolling_back(),
        };
        same_way && self.target == draft.service().spec
    }

    fn step(&mut self, draft: &mut Draft<'_>, delays: &mut Delays, now: Instant) -> Option<Instant> {
        if self.phase == Phase::Ended {
            return None;
        }
        self.note_running(draft, now);
        let late = self.give_up_late(draft, now);
        if let Some(change) = self.verdict(draft, &late, now) {
            self.end(draft, change);
            return None;
        }
        self.work(draft, delays, now);
        if self.queue.is_empty() && self.workers.is_empty() {
            return self.monitor(draft, now);
        }
        let deadline = self.config.progress_deadline;
        self.workers.iter_mut().for_each(|worker| worker.note(draft, now));
        self.workers
            .iter()
            .filter_map(|worker| worker.wake(deadline))
            .min()
    }

    /// Lets workers proceed, and gives slots to those that are free.
    fn work(&mut self, draft: &mut Draft<'_>, delays: &mut Delays, now: Instant) {
        let order = self.config.order;
        // After the last slot there is nothing to rest for.
        let rest = if self.queue.is_empty() {
            Duration::ZERO
        } else {
            self.config.delay
        };
        self.workers
            .retain_mut(|worker| proceed(worker, draft, order, rest, now));
        while self.workers.len() < self.config.parallelism {
            let Some(key) = self.queue.pop_front() else { return };
            let Some(started) = begin(draft, delays, &key, order, now) else {
                continue;
            };
            if let Some(id) = started.made {
                self.made.insert(id, None);
            }
            self.workers.push(started.worker);
        }
    }

    fn monitor(&mut self, draft: &mut Draft<'_>, now: Instant) -> Option<Instant> {
        let until = match self.phase {
            Phase::Monitoring(until) => until,
            _ => now + self.config.monitor,
        };
        if now < until {
            self.phase = Phase::Monitoring(until);
            return Some(until);
        }
        self.end(draft, UpdateChange::Complete);
        None
    }

    fn end(&mut self, draft: &mut Draft<'_>, change: UpdateChange) {
        draft.update(change);
        self.phase = Phase::Ended;
    }

    /// Remembers since when the tasks that it made run.
    fn note_running(&mut self, draft: &Draft<'_>, now: Instant) {
        for task in draft
            .slots
            .values()
            .flatten()
            .filter(|task| task.status.state >= TaskState::Running)
        {
            if let Some(since) = self.made.get_mut(&task.id) {
                since.get_or_insert(now);
            }
        }
    }

    /// Waits no longer for tasks that should run by now. Returns which.
    fn give_up_late(&mut self, draft: &Draft<'_>, now: Instant) -> Vec<TaskId> {
        let (deadline, rest) = (self.config.progress_deadline, self.config.delay);
        let Some(deadline) = deadline else {
            return Vec::new();
        };
        self.workers
            .iter_mut()
            .filter_map(|worker| worker.give_up(draft, deadline, rest, now))
            .collect()
    }

    /// Counts failures; what to do if they are too many.
    fn verdict(&mut self, draft: &Draft<'_>, late: &[TaskId], now: Instant) -> Option<UpdateChange> {
        if self.config.failure_action == FailureAction::Continue {
            return None;
        }
        let ended = self.ended_early(draft, now);
        let failed = ended.iter().chain(late).collect::<Vec<_>>();
        let last = (*failed.last()?).clone();
        self.failed.extend(failed.into_iter().cloned());
        // Both are far below the numbers that a float cannot hold.
        #[allow(clippy::cast_precision_loss)]
        let ratio = self.failed.len() as f32 / self.slots as f32;
        let because = match self.config.progress_deadline {
            Some(deadline) if late.contains(&last) => {
                format!("due to task {last} not running after {deadline:?}")
            }
            _ => format!("due to failure or early termination of task {last}"),
        };
        (ratio > self.config.max_failure_ratio).then(|| self.consequence(draft, &because))
    }

    /// Tasks that it made and that ended by themselves, before they ran or soon after; those that are new to it.
    fn ended_early(&self, draft: &Draft<'_>, now: Instant) -> Vec<TaskId> {
        draft
            .slots
            .values()
            .flatten()
            .filter(|task| is_failure(task) && !self.failed.contains(&task.id))
            .filter(|task| {
                self.made
                    .get(&task.id)
                    .is_some_and(|since| self.counts(*since, now))
            })
            .map(|task| task.id.clone())
            .collect()
    }

    fn counts(&self, running_since: Option<Instant>, now: Instant) -> bool {
        running_since.is_none_or(|since| now.duration_since(since) <= self.config.monitor)
    }

    fn consequence(&self, draft: &Draft<'_>, because: &str) -> UpdateChange {
        match self.config.failure_action {
            // A rollback is never rolled back.
            _ if self.rollback => UpdateChange::Pause(format!("rollback paused {because}")),
            FailureAction::Rollback if draft.service().previous_spec.is_some() => {
                UpdateChange::RollBack(format!("update rolled back {because}"))
            }
            FailureAction::Rollback => UpdateChange::Pause(format!(
                "update paused {because}; there is no spec to roll back to"
            )),
            _ => UpdateChange::Pause(format!("update paused {because}")),
        }
    }
}

/// Whether the task ended by itself. One that was told to stop ends in SHUTDOWN.
fn is_failure(task: &Task) -> bool {
    task.status.state.is_terminal() && task.status.state != TaskState::Shutdown
}

/// Whether a slot has to be updated: a task in it is dirty, or there are several.
fn is_slot_dirty(draft: &Draft<'_>, key: &SlotKey) -> bool {
    let slot = draft.slot(key);
    let mut wanted = staying(slot);
    match (wanted.next(), wanted.next()) {
        (Some(_), Some(_)) => true,
        (Some(task), None) => draft.is_dirty(task),
        // The last task ended for good; under the new spec it might not.
        (None, _) => slot.last().is_some_and(|task| draft.is_dirty(task)),
    }
}

/// Where no update is under way, old tasks of a slot whose new task runs are left over from one: ends them.
fn finish_handovers(draft: &mut Draft<'_>, slots: &[SlotKey]) {
    for key in slots {
        if staying(draft.slot(key)).count() < 2 {
            continue;
        }
        let Some(new) = staying(draft.slot(key))
            .find(|task| task.status.state == TaskState::Running && !draft.is_dirty(task))
            .cloned()
        else {
            continue;
        };
        draft.begin();
        worker::shut_down_others(draft, key, &new.id);
    }
}

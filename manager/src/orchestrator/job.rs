//! Jobs: tasks that run to their end, so many in all and so many at a time, or one on each node. A job runs again as a
//! new iteration; tasks of the iterations before are removed.

use proto::{TaskState, Version};
use tokio::time::Instant;

use super::delay::Delays;
use super::draft::Draft;
use super::global;
use super::replicated::{fill, is_occupied};
use super::slot::{Slot, SlotKey, wanted};

/// Makes the tasks that are still to run, as many as may run at a time.
pub(crate) fn run_replicated(draft: &mut Draft<'_>, delays: &mut Delays, now: Instant) {
    remove_earlier_iterations(draft);
    let job = draft
        .service()
        .spec
        .mode
        .replicated_job
        .clone()
        .unwrap_or_default();
    let total = job.total_completions.or(job.max_concurrent).unwrap_or(1);
    // 0 at a time is no limit; SwarmKit would never run such a job.
    let concurrent = job.max_concurrent.unwrap_or(1);
    let concurrent = if concurrent == 0 { total } else { concurrent };
    let active = draft.slots.values().filter(|slot| is_active(slot)).count() as u64;
    let free: Vec<SlotKey> = (1..=total)
        .map(SlotKey::Number)
        .filter(|key| draft.slots.get(key).is_none_or(|slot| !is_occupied(draft, slot)))
        .take(usize::try_from(concurrent.saturating_sub(active)).unwrap_or(usize::MAX))
        .collect();
    free.iter().for_each(|key| fill(draft, delays, key, now));
}

/// Makes one task on each node that has not had one in this iteration.
pub(crate) fn run_global(draft: &mut Draft<'_>, delays: &mut Delays, now: Instant) {
    remove_earlier_iterations(draft);
    global::place(draft, delays, now);
}

/// Whether a task of the slot is on its way.
fn is_active(slot: &Slot) -> bool {
    wanted(slot).any(|task| !task.status.state.is_terminal())
}

fn remove_earlier_iterations(draft: &mut Draft<'_>) {
    let status = draft.service().job_status.as_ref();
    let iteration: Version = status.map(|job| job.job_iteration).unwrap_or_default();
    let earlier: Vec<_> = draft
        .slots
        .iter()
        .flat_map(|(key, slot)| slot.iter().map(move |task| (key.clone(), task.clone())))
        .filter(|(_, task)| task.job_iteration != Some(iteration))
        .collect();
    for (key, task) in earlier {
        draft.begin();
        draft.desire(&key, &task.id, TaskState::Remove);
    }
}

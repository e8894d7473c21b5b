//! The plan of one reconciliation of one service, in the order in which things depend on each other: start what has
//! waited long enough, replace what has ended, match the number of slots, then roll out a new spec.

use proto::TaskState;
use tokio::time::Instant;

use super::delay::{Delays, promote};
use super::draft::{Draft, Picture, Step};
use super::handover::{self, Deadlines};
use super::restart::{Rules, restart};
use super::slot::{SlotKey, is_per_node};
use super::task::is_wanted;
use super::update::{Update, is_active, update};
use super::{global, job, replicated};

/// What the orchestrator remembers of a service between reconciliations. All of it can be lost: the store tells the
/// rest, a delay begins again and an update goes over the slots that are left.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    pub(crate) delays: Delays,
    pub(crate) handovers: Deadlines,
    pub(crate) update: Option<Update>,
    /// Whether it matters that a task comes to run: an update waits for it, or an old task of its slot ends then.
    pub(crate) handing_over: bool,
    /// Whether nodes changed, so that tasks may run where the constraints no longer allow it.
    pub(crate) enforce: bool,
}

impl Memory {
    /// The service was found at rest.
    pub(crate) fn rest(&mut self) {
        (self.enforce, self.handing_over) = (false, false);
    }
}

/// What is to be done for a service.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    /// When to look at the service again, whatever happens.
    pub(crate) wake: Option<Instant>,
}

/// Plans for a service that is there.
pub(crate) fn plan(picture: &Picture, memory: &mut Memory, now: Instant) -> Plan {
    let mut draft = Draft::new(picture);
    let enforce = std::mem::take(&mut memory.enforce);
    let delays = &mut memory.delays;
    promote(&mut draft, delays, now);
    let mode = &picture.service.spec.mode;
    let standing = is_per_node(&picture.service).then(|| Draft::new(picture));
    let replaceable = |key: &SlotKey| {
        let standing = standing.as_ref();
        standing.is_none_or(|standing| global::takes_tasks(standing, key))
    };
    restart(
        &mut draft,
        delays,
        &Rules {
            enforce,
            replaceable: &replaceable,
        },
        now,
    );
    let handover = handover::proceed(&mut draft, &mut memory.handovers, now);
    let mut wake = None;
    if mode.replicated_job.is_some() {
        job::run_replicated(&mut draft, delays, now);
    } else if mode.global_job.is_some() {
        job::run_global(&mut draft, delays, now);
    } else {
        let slots = match mode.replicas() {
            Some(replicas) => replicated::scale(&mut draft, delays, replicas, now),
            None => global::place(&mut draft, delays, now),
        };
        wake = update(&mut memory.update, &mut draft, delays, &slots, now);
        let doubled = |key| draft.slot(key).iter().filter(|task| is_wanted(task)).count() > 1;
        memory.handing_over = is_active(memory.update.as_ref()) || slots.iter().any(doubled);
    }
    // Delays made by this very plan are over at once, or later than this.
    let delayed = promote(&mut draft, delays, now);
    Plan {
        steps: draft.into_steps(),
        wake: [wake, delayed, handover].into_iter().flatten().min(),
    }
}

/// Plans for a service that is gone or going: its tasks are to go, then it.
pub(crate) fn plan_removal(picture: &Picture) -> Plan {
    let mut draft = Draft::new(picture);
    for (key, slot) in draft.slots.clone() {
        for task in slot {
            draft.begin();
            draft.desire(&key, &task.id, TaskState::Remove);
        }
    }
    if picture.tasks.is_empty() && picture.service.pending_delete {
        draft.remove_service();
    }
    Plan {
        steps: draft.into_steps(),
        wake: None,
    }
}

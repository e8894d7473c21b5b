//! What this member knows of the others from what it hears of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;
use tokio::time::Instant;

/// Signs of life: of the leader, while following; of the followers, while leading.
#[derive(Debug)]
pub(super) struct Peers {
    leader: watch::Sender<Option<Instant>>,
    answers: Mutex<BTreeMap<u64, Sent>>,
    muted: AtomicBool,
    gives_up: AtomicBool,
}

/// When something was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    at: Instant,
    /// For how long this machine had been suspended by then, ever: [`Instant`] knows nothing of it.
    slept: Duration,
}

impl Sent {
    /// Now.
    pub(super) fn now() -> Self {
        Self {
            at: Instant::now(),
            slept: slept(),
        }
    }
}

impl Peers {
    pub(super) fn new() -> Self {
        Self {
            leader: watch::Sender::new(None),
            answers: Mutex::default(),
            muted: AtomicBool::new(false),
            gives_up: AtomicBool::new(false),
        }
    }

    /// The leader has been heard.
    pub(super) fn leader_spoke(&self) {
        self.leader.send_replace(Some(Instant::now()));
    }

    /// When the leader was heard last. Changes with each sign of life.
    pub(super) fn leader(&self) -> watch::Receiver<Option<Instant>> {
        self.leader.subscribe()
    }

    /// Whether the leader was heard within this time.
    pub(super) fn has_leader(&self, within: Duration) -> bool {
        self.leader.borrow().is_some_and(|at| at.elapsed() < within)
    }

    /// A follower has answered what was sent at `sent`.
    pub(super) fn answered(&self, member: u64, sent: Sent) {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let last = answers.entry(member).or_insert(sent);
        if sent.at > last.at {
            *last = sent;
        }
    }

    /// When the question was sent that the member has answered last.
    pub(super) fn last_answer(&self, member: u64) -> Option<Instant> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        answers.get(&member).map(|sent| sent.at)
    }

    /// How long ago that was, the time included for which this machine was suspended.
    pub(super) fn answered_ago(&self, member: u64) -> Option<Duration> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = answers.get(&member)?;
        let slept = slept().saturating_sub(sent.slept);
        // The two clocks are not read at the same instant.
        let slept = Some(slept).filter(|slept| *slept >= SLEPT).unwrap_or_default();
        Some(sent.at.elapsed() + slept)
    }

    /// Forgets the answers: a new term begins.
    pub(super) fn forget_answers(&self) {
        self.answers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    /// Whether the others shall hear nothing more of this leader.
    pub(super) fn is_muted(&self) -> bool {
        self.muted.load(Ordering::Relaxed)
    }

    /// See [`Peers::is_muted`].
    pub(super) fn mute(&self, muted: bool) {
        self.muted.store(muted, Ordering::Relaxed);
    }

    /// This leader has no room for what is to be written: another one may have.
    pub(super) fn give_up(&self) {
        self.gives_up.store(true, Ordering::Relaxed);
    }

    /// Whether [`Peers::give_up`] was called since this was asked last.
    pub(super) fn gives_up(&self) -> bool {
        self.gives_up.swap(false, Ordering::Relaxed)
    }
}

/// What counts as having been suspended.
const SLEPT: Duration = Duration::from_secs(1);

/// For how long this machine has been suspended since it booted.
fn slept() -> Duration {
    let at = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
    at(ClockId::Boottime).saturating_sub(at(ClockId::Monotonic))
}

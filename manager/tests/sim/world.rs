//! Time, chance and links of one run, and the trace of all that happened.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proto::world::Simulated;
use proto::{NodeId, ServiceId, TaskId};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

/// An end of a link: a node or a manager.
pub(crate) type Place = String;

/// All that a run shares. Cheap to clone.
#[derive(Clone)]
pub(crate) struct World(Arc<Inner>);

struct Inner {
    begun: Instant,
    /// Whether the trace is shown as it grows: for runs that do not end.
    live: bool,
    state: Mutex<State>,
    /// A link has changed. Wakes those who wait in their order, which a `watch` does not.
    links: Notify,
}

struct State {
    rng: StdRng,
    trace: Vec<String>,
    violations: Vec<String>,
    /// Places that are cut off, in one direction or both.
    mute: BTreeSet<Place>,
    deaf: BTreeSet<Place>,
    /// Milliseconds that a message takes at most.
    delay: u64,
    /// How likely a message is lost.
    loss: f64,
    /// Milliseconds by which the wall clock is wrong.
    skew: i64,
    /// The containers that really run.
    running: BTreeMap<TaskId, Container>,
}

/// A container that really runs somewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Container {
    pub(crate) service: ServiceId,
    pub(crate) slot: u64,
    pub(crate) node: NodeId,
    /// Whether its service asked never to have two of them.
    pub(crate) fenced: bool,
}

impl Container {
    /// Whether both have the same place, of which there may be one.
    fn excludes(&self, other: &Self) -> bool {
        self.fenced
            && other.fenced
            && (&self.service, self.slot) == (&other.service, other.slot)
            // A global service has a place on each node.
            && (self.slot > 0 || self.node == other.node)
    }
}

/// What the wall clock and the generator of identifiers of the code under test are.
struct Seen {
    world: Arc<Inner>,
    rng: StdRng,
}

impl proto::world::World for Seen {
    fn now(&mut self) -> OffsetDateTime {
        let skew = lock(&self.world.state).skew;
        let passed = i64::try_from(self.world.begun.elapsed().as_millis()).unwrap_or(i64::MAX);
        time::macros::datetime!(2026-01-01 00:00 UTC) + time::Duration::milliseconds(passed + skew)
    }

    fn random(&mut self) -> u128 {
        self.rng.random()
    }
}

impl World {
    /// A new world, and its hold on the code under test in this thread.
    pub(crate) fn new(seed: u64) -> (Self, Simulated) {
        let inner = Arc::new(Inner {
            begun: Instant::now(),
            live: std::env::var_os("SIM_LIVE").is_some(),
            state: Mutex::new(State {
                rng: StdRng::seed_from_u64(seed),
                trace: Vec::new(),
                violations: Vec::new(),
                mute: BTreeSet::new(),
                deaf: BTreeSet::new(),
                delay: 5,
                loss: 0.0,
                skew: 0,
                running: BTreeMap::new(),
            }),
            links: Notify::new(),
        });
        let seen = Seen {
            world: inner.clone(),
            rng: StdRng::seed_from_u64(!seed),
        };
        (Self(inner), proto::world::simulate(seen))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.state)
    }

    /// A number of the range, end excluded.
    pub(crate) fn draw(&self, range: Range<u64>) -> u64 {
        self.state().rng.random_range(range)
    }

    pub(crate) fn chance(&self, likely: f64) -> bool {
        self.state().rng.random_bool(likely)
    }

    /// One of them.
    pub(crate) fn pick<'a, T>(&self, of: &'a [T]) -> Option<&'a T> {
        let at = usize::try_from(self.draw(0..of.len().max(1) as u64)).unwrap_or_default();
        of.get(at)
    }

    /// Sleeps for a time of the range, in milliseconds.
    pub(crate) async fn pause(&self, millis: Range<u64>) {
        sleep(Duration::from_millis(self.draw(millis))).await;
    }

    /// Virtual milliseconds since the beginning.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.0.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn note(&self, line: impl std::fmt::Display) {
        let line = format!("{:>8} {line}", self.now());
        if self.0.live {
            eprintln!("{line}");
        }
        self.state().trace.push(line);
    }

    /// An invariant does not hold. Each is told once.
    pub(crate) fn violated(&self, invariant: &str, what: impl std::fmt::Display) {
        let text = format!("{invariant}: {what}");
        self.note(format_args!("VIOLATED {text}"));
        self.state().violations.push(text);
    }

    /// Trace and violations.
    pub(crate) fn outcome(&self) -> (Vec<String>, Vec<String>) {
        let state = self.state();
        (state.trace.clone(), state.violations.clone())
    }

    /// Cuts a place off, or joins it again.
    pub(crate) fn cut(&self, place: &str, mute: bool, deaf: bool) {
        self.note(format_args!("{place} mute={mute} deaf={deaf}"));
        let mut state = self.state();
        set(&mut state.mute, place, mute);
        set(&mut state.deaf, place, deaf);
        drop(state);
        self.0.links.notify_waiters();
    }

    pub(crate) fn weather(&self, delay: u64, loss: f64) {
        let mut state = self.state();
        (state.delay, state.loss) = (delay, loss);
    }

    pub(crate) fn skew(&self, millis: i64) {
        self.note(format_args!("the wall clock is {millis} ms off"));
        self.state().skew = millis;
    }

    /// All links work, and the clock is right.
    pub(crate) fn heal(&self) {
        self.note("healed");
        let mut state = self.state();
        state.mute.clear();
        state.deaf.clear();
        (state.delay, state.loss, state.skew) = (5, 0.0, 0);
        drop(state);
        self.0.links.notify_waiters();
    }

    /// Whether what one place sends reaches the other.
    pub(crate) fn is_open(&self, from: &str, to: &str) -> bool {
        let state = self.state();
        !state.mute.contains(from) && !state.deaf.contains(to)
    }

    /// One message's way: waited for for ever if it is lost.
    pub(crate) async fn way(&self, from: &str, to: &str) {
        let (most, loss) = {
            let state = self.state();
            (state.delay, state.loss)
        };
        self.pause(0..most + 1).await;
        if !self.is_open(from, to) || (loss > 0.0 && self.chance(loss)) {
            std::future::pending::<()>().await;
        }
    }

    /// A part of a stream: it waits while the link is cut, as TCP does.
    pub(crate) async fn stream(&self, from: &str, to: &str) {
        let most = self.state().delay;
        self.pause(0..most + 1).await;
        loop {
            let changed = self.0.links.notified();
            if self.is_open(from, to) {
                return;
            }
            changed.await;
        }
    }

    /// A container starts or ends.
    pub(crate) fn runs(&self, task: &TaskId, container: Option<Container>) {
        self.note(format_args!("container {task} {container:?}"));
        if let Some(new) = &container {
            let twin = self.running().into_iter().find(|(_, other)| new.excludes(other));
            if let Some((twin, _)) = twin {
                self.violated(
                    "a slot with a lease never has two containers",
                    format_args!("{twin} runs when {task} starts"),
                );
            }
        }
        let mut state = self.state();
        match container {
            Some(container) => drop(state.running.insert(task.clone(), container)),
            None => drop(state.running.remove(task)),
        }
    }

    /// The containers that really run.
    pub(crate) fn running(&self) -> BTreeMap<TaskId, Container> {
        self.state().running.clone()
    }
}

fn set(places: &mut BTreeSet<Place>, place: &str, member: bool) {
    if member {
        places.insert(place.to_owned());
    } else {
        places.remove(place);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

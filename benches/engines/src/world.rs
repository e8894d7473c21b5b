//! The weather: one source of chance, the links, the disks, and the trace of all that happened.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep};

use crate::Outcome;
use crate::oracle::Oracle;

/// A member of the group.
pub type Id = u64;

/// One life of a member's process: from its start to its crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    pub id: Id,
    pub count: u64,
}

/// Nobody listens at the other end.
#[derive(Debug)]
pub struct Refused;

/// All that a run shares. Cheap to clone.
#[derive(Clone)]
pub struct World(Arc<Inner>);

struct Inner {
    seed: u64,
    rng: Mutex<SmallRng>,
    state: Mutex<State>,
    oracle: Mutex<Oracle>,
    trace: Mutex<Vec<String>>,
}

#[derive(Default)]
struct State {
    begun: Option<Instant>,
    /// Links over which nothing passes, each in one direction.
    cut: BTreeSet<(Id, Id)>,
    lives: BTreeMap<Id, (u64, bool)>,
    /// Milliseconds that a sync takes at most.
    disks: BTreeMap<Id, u64>,
    loss: f64,
    twice: f64,
    delay: u64,
    healed_in: Option<u64>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Inner {
            seed,
            rng: Mutex::new(SmallRng::seed_from_u64(seed)),
            state: Mutex::new(State {
                delay: 5,
                ..State::default()
            }),
            oracle: Mutex::default(),
            trace: Mutex::default(),
        }))
    }

    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// A number of the range, end excluded.
    pub fn draw(&self, range: std::ops::Range<u64>) -> u64 {
        self.0.rng.lock().unwrap().random_range(range)
    }

    pub fn chance(&self, likely: f64) -> bool {
        self.0.rng.lock().unwrap().random_bool(likely)
    }

    /// Virtual milliseconds since the beginning.
    pub fn now(&self) -> u64 {
        let begun = *self.state().begun.get_or_insert_with(Instant::now);
        begun.elapsed().as_millis() as u64
    }

    pub fn note(&self, line: impl std::fmt::Display) {
        let line = format!("{:>8} {line}", self.now());
        self.0.trace.lock().unwrap().push(line);
    }

    pub fn violation(&self, text: String) {
        self.0.trace.lock().unwrap().push(format!("VIOLATION {text}"));
        self.oracle().violations.push(text);
    }

    pub fn oracle(&self) -> MutexGuard<'_, Oracle> {
        self.0.oracle.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// How many of a hundred messages are lost and doubled, and how many milliseconds each takes at most.
    pub fn weather(&self, loss: u64, twice: u64, delay: u64) {
        let mut state = self.state();
        (state.loss, state.twice, state.delay) = (loss as f64 / 100.0, twice as f64 / 100.0, delay);
    }

    pub fn cut(&self, from: Id, to: Id, cut: bool) {
        let mut state = self.state();
        if cut {
            state.cut.insert((from, to));
        } else {
            state.cut.remove(&(from, to));
        }
    }

    /// Cuts a member off from all others, or joins it again.
    pub fn isolate(&self, id: Id, sending: bool, receiving: bool) {
        for other in (1..=9).filter(|other| *other != id) {
            self.cut(id, other, sending);
            self.cut(other, id, receiving);
        }
    }

    /// All links work and no disk is slow.
    pub fn heal(&self) {
        let mut state = self.state();
        state.cut.clear();
        state.disks.clear();
        (state.loss, state.twice, state.delay) = (0.0, 0.0, 5);
    }

    pub fn slow_disk(&self, id: Id, millis: u64) {
        self.state().disks.insert(id, millis);
    }

    /// A process of the member begins.
    pub fn born(&self, id: Id) -> Life {
        let mut state = self.state();
        let (count, alive) = state.lives.entry(id).or_default();
        (*count, *alive) = (*count + 1, true);
        Life { id, count: *count }
    }

    pub fn die(&self, id: Id) {
        if let Some((_, alive)) = self.state().lives.get_mut(&id) {
            *alive = false;
        }
    }

    pub fn lives(&self, life: Life) -> bool {
        self.state().lives.get(&life.id) == Some(&(life.count, true))
    }

    fn anyone(&self, id: Id) -> bool {
        self.state().lives.get(&id).is_some_and(|(_, alive)| *alive)
    }

    /// The time that a write to the disk takes until it is safe. False if the process died meanwhile: nothing is safe then.
    pub async fn sync(&self, life: Life) -> bool {
        let most = self.state().disks.get(&life.id).copied().unwrap_or(2);
        sleep(Duration::from_millis(self.draw(most / 2..most + 1))).await;
        self.lives(life)
    }

    /// One message's way. True if it arrives; else it is lost without a word.
    pub async fn way(&self, from: Id, to: Id) -> bool {
        let (loss, delay) = {
            let state = self.state();
            (state.loss, state.delay)
        };
        sleep(Duration::from_millis(self.draw(0..delay + 1))).await;
        let lost = loss > 0.0 && self.chance(loss);
        !lost && !self.state().cut.contains(&(from, to))
    }

    /// Whether this message arrives a second time.
    pub fn doubled(&self) -> bool {
        let twice = self.state().twice;
        twice > 0.0 && self.chance(twice)
    }

    /// Asks another member. What is lost on either way is waited for for ever, as over a dead connection.
    pub async fn call<R, F>(&self, from: Life, to: Id, serve: impl Fn() -> F) -> Result<R, Refused>
    where
        R: Send + 'static,
        F: Future<Output = R> + Send + 'static,
    {
        if !self.way(from.id, to).await {
            return std::future::pending().await;
        }
        if !self.anyone(to) {
            return Err(Refused);
        }
        if self.doubled() {
            let (world, again) = (self.clone(), serve());
            tokio::spawn(async move {
                if world.way(from.id, to).await {
                    again.await;
                }
            });
        }
        let answer = serve().await;
        if !self.way(to, from.id).await || !self.lives(from) {
            return std::future::pending().await;
        }
        Ok(answer)
    }

    pub fn healed_in(&self, millis: u64) {
        self.state().healed_in = Some(millis);
    }

    pub fn outcome(&self) -> Outcome {
        let oracle = self.oracle();
        Outcome {
            violations: oracle.violations.clone(),
            healed_in: self.state().healed_in,
            acked: oracle.acked(),
            trace: self.0.trace.lock().unwrap_or_else(|e| e.into_inner()).clone(),
        }
    }
}

//! What goes wrong: one thing after the other, each for a while.

use crate::group::Group;
use crate::managers::{Reign, Seats};
use crate::worker::Worker;
use crate::world::World;
use manager::state::Store;

/// The managers of a run.
pub(crate) enum Managers {
    /// One, over a store in memory that outlives it.
    Alone {
        /// The store.
        store: Store,
        /// Its time as leader, while it runs.
        reign: Option<Reign>,
    },
    /// Several.
    Group(Group),
}

impl Managers {
    /// All run again.
    pub(crate) async fn start_all(&mut self, world: &World, seats: &Seats) {
        match self {
            Self::Alone { store, reign } => {
                if reign.is_none() {
                    match Reign::begin(world, seats, "m1", store.clone()).await {
                        Ok(begun) => *reign = Some(begun),
                        Err(error) => world.violated("the dispatcher starts", error),
                    }
                }
            }
            Self::Group(group) => group.start_all().await,
        }
    }

    async fn trouble(&mut self, world: &World, seats: &Seats) {
        match self {
            Self::Alone { reign, .. } => {
                drop(reign.take());
                world.pause(0..3000).await;
                self.start_all(world, seats).await;
            }
            Self::Group(group) => group.trouble().await,
        }
    }
}

/// Makes trouble for so many virtual milliseconds.
pub(crate) async fn make(
    world: &World,
    seats: &Seats,
    workers: &[Worker],
    managers: &mut Managers,
    millis: u64,
) {
    let end = world.now() + millis;
    while world.now() < end {
        world.pause(50..1500).await;
        let Some(worker) = world.pick(workers) else {
            continue;
        };
        match world.draw(0..12) {
            0 => worker.stop(),
            1 => worker.lose_power(),
            2..=4 => workers.iter().for_each(Worker::start),
            5 => world.cut(worker.id.as_str(), true, true),
            6 => world.cut(worker.id.as_str(), world.chance(0.5), world.chance(0.5)),
            7 => workers
                .iter()
                .for_each(|worker| world.cut(worker.id.as_str(), false, false)),
            8 => world.weather(world.draw(1..150), world.draw(0..8) as f64 / 100.0),
            9 => world.skew(world.draw(0..7_200_000) as i64 - 3_600_000),
            _ => managers.trouble(world, seats).await,
        }
    }
}

//! The wall clock and chance. They are the machine's, unless a simulation has put its own in their place for its thread.

use std::cell::RefCell;

use rand::Rng;
use time::OffsetDateTime;

thread_local! {
    static WORLD: RefCell<Option<Box<dyn World>>> = const { RefCell::new(None) };
}

/// Where time and chance come from in a simulation: the same from the same seed.
pub trait World: 'static {
    /// The wall clock.
    fn now(&mut self) -> OffsetDateTime;
    /// 128 bits that nobody could foresee, but for the seed.
    fn random(&mut self) -> u128;
}

/// Gives this thread another world until the guard is dropped. For simulations that run in one thread.
#[must_use]
pub fn simulate(world: impl World) -> Simulated {
    WORLD.with_borrow_mut(|current| *current = Some(Box::new(world)));
    Simulated(())
}

/// The thread's own world lasts as long as this.
#[derive(Debug)]
pub struct Simulated(());

impl Drop for Simulated {
    fn drop(&mut self) {
        WORLD.with_borrow_mut(|current| *current = None);
    }
}

pub(crate) fn now() -> OffsetDateTime {
    ask(World::now, OffsetDateTime::now_utc)
}

pub(crate) fn random() -> u128 {
    ask(World::random, || rand::rng().random())
}

fn ask<T>(simulated: impl FnOnce(&mut dyn World) -> T, machine: impl FnOnce() -> T) -> T {
    WORLD.with_borrow_mut(|world| match world {
        Some(world) => simulated(&mut **world),
        None => machine(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{TaskId, Timestamp};

    struct Fixed(u128);

    impl World for Fixed {
        fn now(&mut self) -> OffsetDateTime {
            OffsetDateTime::UNIX_EPOCH
        }

        fn random(&mut self) -> u128 {
            self.0 += 1;
            self.0
        }
    }

    #[test]
    fn a_simulated_thread_sees_its_own_time_and_chance() {
        let ids = || (TaskId::random(), TaskId::random());
        let one = {
            let _world = simulate(Fixed(7));
            assert_eq!(Timestamp::now().0, OffsetDateTime::UNIX_EPOCH);
            let other = std::thread::spawn(|| Timestamp::now().0).join().unwrap();
            assert!(other > OffsetDateTime::UNIX_EPOCH);
            ids()
        };
        let _world = simulate(Fixed(7));
        assert_eq!(ids(), one);
        drop(_world);
        assert_ne!(ids(), one);
    }
}

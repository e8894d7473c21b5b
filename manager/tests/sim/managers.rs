//! Who leads, for those who look for it, and one manager over a store in memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use manager::dispatcher::Dispatcher;
use manager::state::{Store, StoreError};
use manager::{Control, Orchestration};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::world::{Place, World};

/// What a manager offers while it leads.
#[derive(Clone)]
pub(crate) struct Seat {
    pub(crate) place: Place,
    pub(crate) store: Store,
    pub(crate) control: Control,
    pub(crate) dispatcher: Dispatcher,
    pub(crate) end: Arc<End>,
}

/// That a manager leads no longer. Wakes those who wait in their order, which a `watch` does not.
#[derive(Default)]
pub(crate) struct End {
    come: AtomicBool,
    comes: Notify,
}

impl End {
    /// Returns once it has come.
    pub(crate) async fn wait(&self) {
        loop {
            let comes = self.comes.notified();
            if self.come.load(Ordering::SeqCst) {
                return;
            }
            comes.await;
        }
    }
}

/// The managers that believe that they lead.
#[derive(Clone, Default)]
pub(crate) struct Seats(Arc<Mutex<BTreeMap<Place, Seat>>>);

impl Seats {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Place, Seat>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Seat> {
        self.lock().values().cloned().collect()
    }
}

/// A manager's time as leader: dispatcher and loops over its store. They end when it is dropped.
pub(crate) struct Reign {
    world: World,
    seats: Seats,
    place: Place,
    end: Arc<End>,
    loops: JoinHandle<()>,
    dispatcher: Dispatcher,
}

impl Reign {
    /// Begins to lead.
    pub(crate) async fn begin(
        world: &World,
        seats: &Seats,
        place: &str,
        store: Store,
    ) -> Result<Self, StoreError> {
        let dispatcher = Dispatcher::new(store.clone());
        dispatcher.lead().await?;
        world.note(format_args!("{place} leads"));
        let (loads, contacts) = (dispatcher.loads(), dispatcher.contacts());
        let loops = Orchestration::run_with(store.clone(), loads, contacts, std::future::pending());
        let loops = tokio::spawn(loops);
        let end = Arc::<End>::default();
        let seat = Seat {
            place: place.to_owned(),
            control: Control::new(store.clone()),
            store,
            dispatcher: dispatcher.clone(),
            end: end.clone(),
        };
        seats.lock().insert(place.to_owned(), seat);
        Ok(Self {
            world: world.clone(),
            seats: seats.clone(),
            place: place.to_owned(),
            end,
            loops,
            dispatcher,
        })
    }
}

impl Drop for Reign {
    fn drop(&mut self) {
        self.world.note(format_args!("{} leads no longer", self.place));
        self.seats.lock().remove(&self.place);
        self.loops.abort();
        self.dispatcher.end_sessions();
        self.end.come.store(true, Ordering::SeqCst);
        self.end.comes.notify_waiters();
    }
}

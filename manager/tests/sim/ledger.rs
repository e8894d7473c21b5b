//! One object that several write to at once: each adds an entry to what it has read, and remembers what it was told.

use std::sync::Arc;
use std::time::Duration;

use manager::state::{Reader, Store, StoreError, WriteTx};
use proto::Config;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::invariants::Histories;
use crate::managers::Seats;
use crate::world::World;

/// The object. Nothing refers to it, and nobody but the writers changes it.
const LEDGER: &str = "ledger";
/// How many write at once.
const WRITERS: usize = 3;
/// How long a writer waits before it goes elsewhere.
const PATIENCE: Duration = Duration::from_millis(500);

/// Writes until it is dropped.
pub(crate) async fn keep(world: World, seats: Seats, histories: Arc<Histories>) {
    let mut writers = JoinSet::new();
    for number in 0..WRITERS {
        writers.spawn(write(world.clone(), seats.clone(), histories.clone(), number));
    }
    while writers.join_next().await.is_some() {}
}

async fn write(world: World, seats: Seats, histories: Arc<Histories>, number: usize) {
    for count in 0.. {
        world.pause(50..600).await;
        let seats = seats.all();
        let Some(seat) = world.pick(&seats) else { continue };
        let entry = format!("{number}.{count}");
        let added = add(seat.store.clone(), entry.clone());
        if let Ok(Ok(())) = timeout(PATIENCE, added).await
            && let Some(ledger) = read(&seat.store)
        {
            let version = ledger.meta.version.index;
            world.note(format_args!(
                "{entry} is in the ledger of {} at {version}",
                seat.place
            ));
            histories.acknowledge(entry, version);
        }
    }
}

/// Writes one entry.
pub(crate) async fn add(store: Store, entry: String) -> Result<(), StoreError> {
    store.update(|tx| put(tx, &entry)).await
}

fn put(tx: &mut WriteTx<'_>, entry: &str) -> Result<(), StoreError> {
    let ledger = tx.get::<Config>(LEDGER);
    let is_new = ledger.is_none();
    let mut ledger = ledger.map_or_else(Config::default, |ledger| Config::clone(&ledger));
    ledger.id = LEDGER.into();
    ledger.spec.name = LEDGER.into();
    ledger.spec.labels.insert(entry.to_owned(), String::new());
    match is_new {
        true => tx.create(ledger),
        false => tx.update(ledger),
    }
}

/// As it is in a store.
pub(crate) fn read(store: &Store) -> Option<Arc<Config>> {
    store.view(|tx| tx.get::<Config>(LEDGER))
}

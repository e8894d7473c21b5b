//! One at a time per thing: who comes second finds what the first has brought.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedMutexGuard;

/// A lock per key, for as long as somebody holds or awaits it.
#[derive(Debug)]
pub(super) struct Flights<K>(Mutex<HashMap<K, Arc<tokio::sync::Mutex<()>>>>);

impl<K> Default for Flights<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq> Flights<K> {
    /// Returns when nobody else is at it.
    pub(super) async fn board(&self, key: K) -> OwnedMutexGuard<()> {
        let flight = {
            let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            flights.retain(|_, flight| Arc::strong_count(flight) > 1);
            flights.entry(key).or_default().clone()
        };
        flight.lock_owned().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_same_waits_and_another_does_not() {
        let flights = Flights::default();
        let first = flights.board(1).await;
        drop(flights.board(2).await);
        let mut second = Box::pin(flights.board(1));
        assert!(futures::poll!(&mut second).is_pending());
        drop(first);
        drop(second.await);
        drop(flights.board(3).await);
        assert!(
            flights.0.lock().unwrap().len() <= 1,
            "who has landed is forgotten"
        );
    }
}

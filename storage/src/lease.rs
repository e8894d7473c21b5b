//! Leases: what a load, a build or a pull has brought in stays, though no image names it yet.
//!
//! A lease has an owner (for people) and an expiry; dropping the guard ends it. After a crash the row remains
//! until it expires, so that work that is resumed finds its layers.

use std::time::Duration;

use crate::digest::DiffId;
use crate::error::Result;
use crate::metadata::{Kind, LeaseRow, Tx};
use crate::store::{self, Storage};

/// A running lease; ends when dropped.
#[derive(Debug)]
pub struct Lease {
    storage: Storage,
    id: String,
    row: LeaseRow,
}

/// The leases of a store.
#[derive(Debug, Clone)]
pub struct Leases(Storage);

impl Leases {
    pub(crate) fn new(storage: Storage) -> Self {
        Self(storage)
    }

    /// Starts a lease of `owner` (e.g. `build`) that ends by itself after `ttl`.
    pub fn acquire(&self, owner: &str, ttl: Duration) -> Result<Lease> {
        let id = store::random_hex(16)?;
        let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let expires = store::unix_now().saturating_add(ttl);
        let row = LeaseRow {
            owner: owner.to_owned(),
            expires,
            layers: Default::default(),
        };
        self.0
            .inner()
            .metadata
            .update(|tx| tx.put(Kind::Leases, &id, &row))?;
        Ok(Lease {
            storage: self.0.clone(),
            id,
            row,
        })
    }
}

impl Lease {
    /// Adds layers in a transaction. A lease that has expired meanwhile is started anew: its owner is still at work.
    pub(crate) fn hold(&self, tx: &Tx, layers: impl IntoIterator<Item = DiffId>) -> Result<()> {
        let mut row = tx
            .get(Kind::Leases, &self.id)?
            .unwrap_or_else(|| self.row.clone());
        row.layers.extend(layers);
        tx.put(Kind::Leases, &self.id, &row)?;
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let ended = self
            .storage
            .inner()
            .metadata
            .update(|tx| tx.remove(Kind::Leases, &self.id));
        if let Err(error) = ended {
            tracing::warn!(lease.id = %self.id, %error, "lease not ended; it expires by itself");
        }
    }
}

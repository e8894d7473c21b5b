//! The desired and observed state of the cluster: typed tables that every loop watches and reconciles.
//!
//! - [`Store`]: read with [`Store::view`], change with [`Store::update`] or [`Store::batch`], follow with [`Store::watch`]
//! - [`object`]: which objects are kept, and one change of one object ([`StoreAction`])
//! - [`table`], [`tables`]: objects by identifier and by index key
//! - [`tx`]: reading and changing inside one transaction
//! - [`watch`]: every change once, in order; `audience`: to whom, where there is a watcher for each node
//! - [`Proposer`]: the way a change set becomes agreed upon; consensus stands behind it
//!
//! ```text
//! update(|tx| …) → change set → Proposer (consensus) → Replica::apply → tables + events to the watchers
//! ```

mod audience;
mod batch;
pub mod consensus;
mod error;
mod index;
mod keys;
mod layer;
mod object;
mod proposer;
mod replica;
mod row;
mod store;
mod table;
mod tables;
mod tx;
mod watch;

pub use audience::{Audience, Circle};
pub use batch::{Batch, MAX_CHANGES};
pub use error::StoreError;
pub use index::{By, Key, KeyRef};
pub use object::{Kind, Object, StoreAction, StoreObject};
pub use proposer::{MemoryProposer, ProposeError, Proposer};
pub use replica::Replica;
pub use store::Store;
pub use tables::Tables;
pub use tx::{ReadTx, Reader, WriteTx};
pub use watch::{Change, Event, Filter, WatchStream};

#[cfg(test)]
mod tests;

//! What can go wrong with a transaction.

use super::object::Kind;
use super::proposer::ProposeError;

/// A transaction that was not committed. Nothing of it is in the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The object to change is not there.
    #[error("{kind} {id} not found")]
    NotFound {
        /// What was looked for.
        kind: Kind,
        /// Its identifier.
        id: String,
    },
    /// An object with this identifier is already there.
    #[error("{kind} {id} already exists")]
    Exists {
        /// What was to be created.
        kind: Kind,
        /// Its identifier.
        id: String,
    },
    /// Another object of the kind bears the name.
    #[error("name conflicts with an existing object: {kind} {name} already exists")]
    NameConflict {
        /// What was to be created.
        kind: Kind,
        /// Its name.
        name: String,
    },
    /// The object changed since it was read.
    #[error("update out of sequence")]
    Sequence {
        /// What was to be changed.
        kind: Kind,
        /// Its identifier.
        id: String,
    },
    /// The change set was not agreed upon.
    #[error("could not commit the change")]
    Propose(#[from] ProposeError),
}

//! Why an operation was refused.

use crate::state::{Kind, StoreError};

/// An operation that was refused. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nothing goes by this identifier or name.
    #[error("{kind} {reference} not found")]
    NotFound {
        /// What was looked for.
        kind: Kind,
        /// What the user said.
        reference: String,
    },
    /// Several objects go by this name or beginning of an identifier.
    #[error("{kind} {reference} is ambiguous ({matches} matches found)")]
    Ambiguous {
        /// What was looked for.
        kind: Kind,
        /// What the user said.
        reference: String,
        /// How many there are.
        matches: usize,
    },
    /// Another object of the kind bears the name.
    #[error("name conflicts with an existing object: {kind} {name} already exists")]
    NameConflict {
        /// What was to be made.
        kind: Kind,
        /// The name.
        name: String,
    },
    /// The object changed since the user read it.
    #[error("update out of sequence")]
    OutOfSequence,
    /// The request makes no sense, or names something that this version cannot do.
    #[error("{0}")]
    InvalidArgument(String),
    /// Something else needs the object.
    #[error(
        "{kind} '{name}' is in use by the following {}: {}",
        if users.len() == 1 { user_kind.to_string() } else { format!("{user_kind}s") },
        users.join(", ")
    )]
    InUse {
        /// What was to be removed.
        kind: Kind,
        /// Its name.
        name: String,
        /// What needs it.
        user_kind: Kind,
        /// The names of those.
        users: Vec<String>,
    },
    /// The request makes sense, but not now.
    #[error("{0}")]
    FailedPrecondition(String),
    /// The change could not be committed.
    #[error("the cluster's state could not be changed")]
    Unavailable(#[source] StoreError),
}

/// The classes of refusals, for protocols that know no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such object (HTTP 404).
    NotFound,
    /// It clashes with what is there (HTTP 409).
    Conflict,
    /// The request is wrong (HTTP 400).
    Invalid,
    /// The state does not allow it (HTTP 400 in Docker's API, as gRPC's `FailedPrecondition`).
    Precondition,
    /// Try again later (HTTP 503).
    Unavailable,
}

impl ControlError {
    /// Its class.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::NameConflict { .. } => ErrorKind::Conflict,
            // Docker's API answers 400 to a stale version and to an ambiguous name.
            Self::Ambiguous { .. } | Self::OutOfSequence | Self::InvalidArgument(_) => ErrorKind::Invalid,
            Self::InUse { .. } | Self::FailedPrecondition(_) => ErrorKind::Precondition,
            Self::Unavailable(_) => ErrorKind::Unavailable,
        }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::InvalidArgument(message.into())
    }

    pub(super) fn not_found(kind: Kind, reference: impl Into<String>) -> Self {
        Self::NotFound {
            kind,
            reference: reference.into(),
        }
    }
}

impl From<StoreError> for ControlError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound { kind, id } => Self::NotFound { kind, reference: id },
            StoreError::NameConflict { kind, name } => Self::NameConflict { kind, name },
            StoreError::Exists { kind, id } => Self::NameConflict { kind, name: id },
            StoreError::Sequence { .. } => Self::OutOfSequence,
            error @ StoreError::Propose(_) => Self::Unavailable(error),
        }
    }
}

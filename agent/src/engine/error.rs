//! What can go wrong in the engine, sorted by what the caller can do about it.

use std::error::Error;
use std::path::PathBuf;

use super::network::places::PlaceError;

/// Result of an engine operation.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

/// A cause from another room, kept whole.
pub type Cause = Box<dyn Error + Send + Sync + 'static>;

/// A failed engine operation.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No container of this name, id or id prefix.
    #[error("No such container: {0}")]
    NoSuchContainer(String),
    /// No exec of this id.
    #[error("No such exec instance: {0}")]
    NoSuchExec(String),
    /// The image of a create request is not on this node.
    #[error("No such image: {0}")]
    NoSuchImage(String),
    /// A network named in the request does not exist.
    #[error("network {0} not found")]
    NoSuchNetwork(String),
    /// An id prefix that fits several containers.
    #[error("multiple containers found with provided prefix: {0}")]
    AmbiguousPrefix(String),
    /// The request itself is wrong.
    #[error("{0}")]
    Invalid(String),
    /// Known to Docker, not built here.
    #[error("{0}")]
    Unsupported(String),
    /// The container, or another one, is in the wrong state for this.
    #[error("{0}")]
    Conflict(String),
    /// Nothing to do: already started, already stopped.
    #[error("container {0} is already in that state")]
    Unchanged(String),
    /// The payload could not be executed; `code` is 126 or 127.
    #[error("failed to start container {container}: {message}")]
    StartFailed {
        /// Full id.
        container: String,
        /// What the runtime said.
        message: String,
        /// Exit code that the container now has.
        code: i32,
    },
    /// A file of the engine could not be read or written.
    #[error("{verb} {}", path.display())]
    File {
        /// What was tried, as a verb.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: std::io::Error,
    },
    /// A record that this version cannot read.
    #[error("parse {}", path.display())]
    Record {
        /// The record's file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: serde_json::Error,
    },
    /// The storage room failed.
    #[error("{action}")]
    Storage {
        /// What was asked of it, with the object.
        action: String,
        /// Why it failed.
        #[source]
        source: Cause,
    },
    /// The network room failed.
    #[error("{action}")]
    Network {
        /// What was asked of it, with the object.
        action: String,
        /// Why it failed.
        #[source]
        source: Cause,
    },
    /// A container has no place on one of the cluster's networks.
    #[error("Could not attach to network {network}")]
    Place {
        /// As it was named.
        network: String,
        /// Why.
        #[source]
        source: PlaceError,
    },
    /// The container's shim failed or answered with an error.
    #[error("{action} (container {container:.12})")]
    Shim {
        /// What was asked of it.
        action: &'static str,
        /// Full id.
        container: String,
        /// Why it failed.
        #[source]
        source: Cause,
    },
}

impl EngineError {
    /// Wraps an I/O error with what was tried on which file.
    pub fn file(verb: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { verb, path, source }
    }

    /// Wraps an error of the storage room.
    pub fn storage<E: Into<Cause>>(action: impl Into<String>) -> impl FnOnce(E) -> Self {
        let action = action.into();
        move |source| Self::Storage {
            action,
            source: source.into(),
        }
    }

    /// Wraps an error of the network room.
    pub fn network<E: Into<Cause>>(action: impl Into<String>) -> impl FnOnce(E) -> Self {
        let action = action.into();
        move |source| Self::Network {
            action,
            source: source.into(),
        }
    }
}

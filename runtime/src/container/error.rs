//! Errors of operations on containers.

use std::io;
use std::path::PathBuf;

use oci_spec::runtime::ContainerState;

use super::ContainerId;
use crate::process::payload::PlanError;
use crate::{cgroups, process, rootfs, spec};

/// Why an operation on a container failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The id is no file name.
    #[error("container id {0:?}: only letters, digits and _+-. are allowed")]
    InvalidId(String),
    /// There is no such signal.
    #[error("unknown signal {0:?}")]
    InvalidSignal(String),
    /// There is no such container.
    #[error("container {0} does not exist")]
    NotFound(ContainerId),
    /// The id is taken.
    #[error("container {0} exists already")]
    Exists(ContainerId),
    /// The container is not in a state that allows the operation.
    #[error("cannot {operation} container {id}: it is {status}")]
    Status {
        /// What was asked for.
        operation: &'static str,
        /// The container.
        id: ContainerId,
        /// What it is.
        status: ContainerState,
    },
    /// The request and the configuration disagree about a terminal.
    #[error("{0}")]
    Terminal(&'static str),
    /// The configuration cannot be acted on.
    #[error(transparent)]
    Spec(#[from] spec::Error),
    /// The process cannot be planned.
    #[error(transparent)]
    Payload(#[from] PlanError),
    /// The cgroup could not be made, entered or removed.
    #[error(transparent)]
    Cgroup(#[from] cgroups::Error),
    /// A source of the root filesystem could not be opened.
    #[error(transparent)]
    Rootfs(#[from] rootfs::Error),
    /// A process could not be made, or told why it failed.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// An operation on the container's state failed.
    #[error("{operation} {path:?}")]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// The exit code that stands for this error by convention: 127 when the payload's program was not found, 126
    /// when it could not be executed, otherwise `None`.
    pub fn exit_code(&self) -> Option<i32> {
        match self {
            Self::Process(error) => Some(error.code()).filter(|code| matches!(code, 126 | 127)),
            _ => None,
        }
    }

    pub(super) fn file(
        operation: &'static str,
        path: impl Into<PathBuf>,
        source: impl Into<io::Error>,
    ) -> Self {
        Self::File {
            operation,
            path: path.into(),
            source: source.into(),
        }
    }
}

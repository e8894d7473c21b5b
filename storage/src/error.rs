//! The crate's error: one variant per module, and the kind that a caller turns into a status code.

use std::path::PathBuf;

use crate::content::ContentError;
use crate::digest::DigestError;
use crate::image::{ArchiveError, ChangeError, ImageError, TransferError};
use crate::layer::LayerError;
use crate::metadata::MetadataError;
use crate::reference::ReferenceError;
use crate::root_fd::RootError;
use crate::snapshot::SnapshotError;
use crate::store::OpenError;
use crate::volume::VolumeError;

/// What every function of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Anything that can go wrong here. The text names operation and object; causes are in `source()`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Digest(#[from] DigestError),
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error(transparent)]
    Change(#[from] ChangeError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error(transparent)]
    Root(#[from] RootError),
    /// The file system of the store is full; nothing of the operation was kept.
    #[error("{operation}: no space left in {}: free some space (for example with `image prune`) and try again", root.display())]
    NoSpace {
        operation: &'static str,
        root: PathBuf,
        source: Box<Error>,
    },
}

/// What a caller has to know of an error: the Docker API maps these to 404, 409, 400, 507-like 500, 500.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    NotFound,
    Conflict,
    Invalid,
    NoSpace,
    Internal,
}

impl Error {
    /// The kind of failure.
    pub fn kind(&self) -> Kind {
        match self {
            Self::NoSpace { .. } => Kind::NoSpace,
            _ if self.is_out_of_space() => Kind::NoSpace,
            Self::Digest(_) | Self::Reference(_) | Self::Change(_) => Kind::Invalid,
            Self::Archive(error) => error.kind(),
            Self::Transfer(error) => error.kind(),
            Self::Layer(error) => error.kind(),
            Self::Image(error) => error.kind(),
            Self::Snapshot(error) => error.kind(),
            Self::Volume(error) => error.kind(),
            Self::Root(error) => error.kind(),
            Self::Open(_) | Self::Content(_) | Self::Metadata(_) => Kind::Internal,
        }
    }

    /// The text with all causes, as it is shown at the edge: `what: why: why`.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }

    fn is_out_of_space(&self) -> bool {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = cause {
            let code = error
                .downcast_ref::<std::io::Error>()
                .and_then(std::io::Error::raw_os_error)
                .or_else(|| {
                    error
                        .downcast_ref::<rustix::io::Errno>()
                        .map(|e| e.raw_os_error())
                });
            if matches!(code, Some(libc::ENOSPC | libc::EDQUOT)) {
                return true;
            }
            cause = error.source();
        }
        false
    }

    /// Turns a full disk met anywhere in `operation` into the one error that says so.
    pub(crate) fn explain_space(self, operation: &'static str, root: &std::path::Path) -> Self {
        match self {
            Self::NoSpace { .. } => self,
            error if error.is_out_of_space() => Self::NoSpace {
                operation,
                root: root.to_owned(),
                source: Box::new(error),
            },
            error => error,
        }
    }
}

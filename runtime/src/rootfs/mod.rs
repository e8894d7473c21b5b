//! The root filesystem of a container.
//!
//! ```text
//! plan    (pure)          config.json ─▶ Plan: mounts, devices, masks as data
//! sources (the caller)    Plan ─▶ detached mounts: the root, bind sources, the container's cgroup directories
//! apply   (init)          attaches them below the root's own descriptor, makes the rest, pivots
//! ```
//! Sources are opened with the caller's privileges and in its mount namespace, where their paths mean what the user
//! meant; init, possibly in a user namespace, only attaches them. Nothing is ever mounted in the caller's namespace.

mod apply;
mod cgroup;
mod dev;
mod masks;
pub(crate) mod options;
mod overlay;
pub(crate) mod path;
mod plan;
mod sources;
mod walk;

use std::io;
use std::path::PathBuf;

pub(crate) use apply::{Applied, apply, enter_cwd};
pub(crate) use dev::attach_console;
pub(crate) use plan::{Plan, plan};
pub(crate) use sources::Sources;

/// Why the root filesystem could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operation on a path of the host failed.
    #[error("{operation} {path:?}")]
    Host {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// An operation on a path inside the container failed.
    #[error("{operation} {path:?} in the container")]
    Inside {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A filesystem refused an option or could not be created.
    #[error("create {fstype} filesystem{}", detail(.option, .log))]
    Filesystem {
        /// Its type.
        fstype: String,
        /// The option that was refused.
        option: Option<String>,
        /// What the filesystem wrote to its configuration log.
        log: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A step that has no path failed.
    #[error("{0}")]
    Step(&'static str, #[source] io::Error),
    /// Something inside the root is not what it must be.
    #[error("{path:?} in the container: {reason}")]
    Refused {
        /// The path.
        path: PathBuf,
        /// Why it is refused.
        reason: &'static str,
    },
}

fn detail(option: &Option<String>, log: &str) -> String {
    let mut text = String::new();
    if let Some(option) = option {
        text.push_str(&format!(", option {option:?}"));
    }
    if !log.is_empty() {
        text.push_str(&format!(" ({log})"));
    }
    text
}

impl Error {
    fn host(operation: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Host {
            operation,
            path: path.into(),
            source: source.into(),
        }
    }

    fn inside(operation: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Inside {
            operation,
            path: path.into(),
            source: source.into(),
        }
    }

    fn refused(path: impl Into<PathBuf>, reason: &'static str) -> Self {
        Self::Refused {
            path: path.into(),
            reason,
        }
    }
}

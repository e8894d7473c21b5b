//! Control groups, on the unified hierarchy (v2) and on separate ones (v1, and hybrid machines that have both).
//!
//! ```text
//! layout  (pure)  /proc/self/mountinfo ─▶ the hierarchies of this machine
//! plan    (pure)  linux.resources × layout ─▶ writes: file, value
//! delegation      (v2) passes controllers down to them
//! apply           makes the directories, writes, opens the doors that init enters through
//! ```
//! A process enters a v1 hierarchy by writing `0` to `tasks` itself: for a single thread that moves itself the kernel takes
//! no system-wide lock, which for another's pid in `cgroup.procs` it does (kernel/cgroup/cgroup.c,
//! `cgroup_procs_write_start`). It enters the unified hierarchy by being born in it (`CLONE_INTO_CGROUP`).
//!
//! The crate cgroups-rs was measured beside this (0.3.4, release builds, a hybrid machine with ten hierarchies): memory, cpu and
//! pids limits set and the directories removed again are 79 system calls, 0.23 ms for making them and 0.07 ms for removing
//! them (median of 120), without a device rule and without entering. What is here makes the same directories with the same
//! three limits, the ten default device rules, and enters all ten with 83, removal included. The time is no reason to
//! leave the crate; that it has no plan to look at before it writes, and moves processes through `cgroup.procs`, is.

mod apply;
mod controllers;
mod delegation;
mod layout;
mod plan;
mod procs;

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(crate) use apply::{Cgroup, Doors, create, directories, open_doors, open_doors_beside, remove};
pub(crate) use layout::Layout;
pub(crate) use plan::{Plan, plan};
pub(crate) use procs::{kill_all, members};

/// Version of a hierarchy's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Version {
    /// One of several hierarchies.
    V1,
    /// The unified hierarchy.
    V2,
}

/// A container's directory in one hierarchy, as remembered in its state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Directory {
    /// Absolute path.
    pub(crate) path: PathBuf,
    /// Interface it has.
    pub(crate) version: Version,
}

/// Why the cgroup of a container could not be made, entered or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine's hierarchies could not be listed.
    #[error("read the cgroup mounts from /proc/self/mountinfo")]
    Layout(#[source] io::Error),
    /// There is no cgroup filesystem.
    #[error("no cgroup filesystem is mounted on this machine")]
    None,
    /// The configuration asks for what this machine or cgroup version does not have.
    #[error("linux.resources.{field}: {reason}")]
    Unavailable {
        /// The field.
        field: String,
        /// Why not.
        reason: String,
    },
    /// The path is not one that is accepted.
    #[error("linux.cgroupsPath {path:?}: {reason}")]
    Path {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An operation on a file or directory of a hierarchy failed.
    #[error("{operation} {path:?}{}", .value.as_deref().map(|v| format!(": {v:?}")).unwrap_or_default())]
    File {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// The value written, if that was it.
        value: Option<String>,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl Error {
    fn file(operation: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::File {
            operation,
            path: path.into(),
            value: None,
            source: source.into(),
        }
    }
}

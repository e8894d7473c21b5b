//! The processes of a container: init, and those that `exec` adds.
//!
//! ```text
//!  caller                                   init (or joiner)
//!    │ clone3, oom score, id maps              │ enters cgroups, joins namespaces by path
//!    │ ── Mapped (user namespace only) ──────▶ │ becomes root of its user namespace
//!    │                                         │ root filesystem, sysctls, hostname, identity
//!    │ ◀────────────── Ready, with the terminal│
//!    │ writes state.json                       │
//!    │ ── Commit ────────────────────────────▶ │ waits for start, unless it is to run at once
//!    │                                         │ seccomp, execve
//!    │ ◀── end of file: the program runs       │
//! ```
//! At any point init may answer `Failed` instead; a side that dies shows the other an end of file. An order other than
//! this one is an error, never a hang.

pub(crate) mod caps;
pub(crate) mod channel;
pub(crate) mod home;
pub(crate) mod identity;
pub(crate) mod init;
pub(crate) mod join;
pub(crate) mod namespaces;
pub(crate) mod payload;
pub(crate) mod rlimits;
pub(crate) mod stdio;
mod sysctl;

use std::io;

/// Why a process of a container did not come to be. Raised in the process itself, it reaches the caller as text.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A step that has no object of its own failed.
    #[error("{0}")]
    Step(&'static str, #[source] io::Error),
    /// A namespace could not be opened or joined.
    #[error("join {kind} namespace {path:?}")]
    Namespace {
        /// Its type.
        kind: &'static str,
        /// Where it is.
        path: std::path::PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A sysctl could not be written.
    #[error("write sysctl {path:?}: {value:?}")]
    Sysctl {
        /// Path below /proc.
        path: String,
        /// The value.
        value: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A resource limit could not be set.
    #[error("set {name} to {soft}:{hard}{}", rlimits::hint(.source))]
    Rlimit {
        /// Its name.
        name: String,
        /// Soft limit.
        soft: u64,
        /// Hard limit.
        hard: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The configuration grants a capability that the runtime does not have itself.
    #[error("capability {0} is not available to the runtime")]
    Capability(String),
    /// The OOM score could not be set.
    #[error("set process.oomScoreAdj to {value}")]
    OomScore {
        /// The value.
        value: i32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Setting up the root filesystem failed.
    #[error(transparent)]
    Rootfs(#[from] crate::rootfs::Error),
    /// The program could not be executed.
    #[error("exec: {program:?}: {reason}")]
    Exec {
        /// The program as it was asked for.
        program: String,
        /// Why.
        reason: String,
        /// 127 if there is no such program, 126 if it cannot be executed.
        code: i32,
    },
    /// The other side closed the channel.
    #[error("{0}")]
    Gone(&'static str),
    /// The process said why it failed.
    #[error("{text}")]
    Failed {
        /// Exit code it ended with.
        code: i32,
        /// Its words.
        text: String,
    },
}

impl Error {
    /// Exit code of a process that ends with this error.
    pub(crate) fn code(&self) -> i32 {
        match self {
            Self::Exec { code, .. } | Self::Failed { code, .. } => *code,
            _ => 1,
        }
    }
}

/// `error` and its causes, as one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

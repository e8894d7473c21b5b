//! Containers: what exists of one on disk, and the operations on it.
//!
//! A container is a directory `<state dir>/<id>` (`state.json`, `start.sock`) and a process, its init. Operations on
//! one container are serialised by `flock(2)` on that directory; reading its state takes no lock.

pub(crate) mod create;
mod error;
mod exec;
mod id;
mod lifecycle;
pub(crate) mod record;

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

pub use error::Error;
pub use id::{ContainerId, Signal};

/// The directory that holds the state of all containers (`--root`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateDir(pub PathBuf);

/// Where a container's root filesystem comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rootfs {
    /// The directory that `root.path` of config.json names.
    Bundle,
    /// An overlay, mounted inside the container's mount namespace only.
    Overlay(OverlayMount),
}

/// An overlay to mount as the root; nothing of it appears in the caller's mount namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverlayMount {
    /// Read-only layers, the topmost first. At least one.
    pub lower: Vec<PathBuf>,
    /// Writable layer; without it the root is read-only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper: Option<PathBuf>,
    /// Scratch directory beside `upper`, on the same filesystem.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<PathBuf>,
    /// Further overlay options: `volatile`, `metacopy=on`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

/// What becomes descriptors 0, 1 and 2 of a process in the container.
#[derive(Debug)]
pub enum Stdio {
    /// The caller's own.
    Inherit,
    /// These.
    Fds {
        /// Descriptor 0.
        stdin: OwnedFd,
        /// Descriptor 1.
        stdout: OwnedFd,
        /// Descriptor 2.
        stderr: OwnedFd,
    },
    /// A new terminal of the container's own devpts; its master comes back in [`Created::terminal`].
    Terminal {
        /// Rows and columns, if known.
        size: Option<(u16, u16)>,
    },
}

/// A container to create.
#[derive(Debug)]
pub struct CreateRequest {
    /// Its id, unique in the state directory.
    pub id: ContainerId,
    /// The bundle, a directory that holds config.json.
    pub bundle: PathBuf,
    /// Its root filesystem.
    pub rootfs: Rootfs,
    /// Its stdio. Must be [`Stdio::Terminal`] exactly if `process.terminal` is set.
    pub stdio: Stdio,
}

/// A further process to run in a container.
#[derive(Debug)]
pub struct ExecRequest {
    /// The process, as in config.json.
    pub process: oci_spec::runtime::Process,
    /// Its stdio. Must be [`Stdio::Terminal`] exactly if `process.terminal` is set.
    pub stdio: Stdio,
}

/// A process that was made in a container. The caller is its parent and must reap it.
#[derive(Debug)]
pub struct Created {
    /// Process id in the caller's PID namespace.
    pub pid: Pid,
    /// Descriptor of the process, close-on-exec.
    pub pidfd: OwnedFd,
    /// Master of the terminal, if one was asked for.
    pub terminal: Option<OwnedFd>,
}

/// Creates a container; its init waits for [`start`]. On error nothing of it remains.
pub fn create(state: &StateDir, request: CreateRequest) -> Result<Created, Error> {
    let spec = crate::spec::load(&request.bundle)?;
    create::create(state, request, &spec, create::Start::Later)
}

/// Creates a container whose payload runs at once; returns when it was executed, or why it could not be. On error nothing
/// of it remains.
pub fn run(state: &StateDir, request: CreateRequest) -> Result<Created, Error> {
    let spec = crate::spec::load(&request.bundle)?;
    create::create(state, request, &spec, create::Start::Now)
}

/// Lets the payload of a created container run; returns when it was executed, or why it could not be. In the latter case
/// init has ended with [`Error::exit_code`], and the container is stopped.
pub fn start(state: &StateDir, id: &ContainerId) -> Result<(), Error> {
    lifecycle::start(state, id)
}

/// Sends `signal` to the container's init, or with `all` to each of its processes.
pub fn kill(state: &StateDir, id: &ContainerId, signal: Signal, all: bool) -> Result<(), Error> {
    lifecycle::kill(state, id, signal, all)
}

/// Removes a stopped container; with `force` kills it first, and it need not exist.
pub fn delete(state: &StateDir, id: &ContainerId, force: bool) -> Result<(), Error> {
    lifecycle::delete(state, id, force)
}

/// The container's state as the OCI runtime specification words it.
pub fn state(state: &StateDir, id: &ContainerId) -> Result<oci_spec::runtime::State, Error> {
    lifecycle::state(state, id)
}

/// All containers of the state directory, by id. One whose state cannot be read is left out.
pub fn list(state: &StateDir) -> Result<Vec<oci_spec::runtime::State>, Error> {
    lifecycle::list(state)
}

/// The processes of a container, in the caller's PID namespace, ascending.
pub fn pids(state: &StateDir, id: &ContainerId) -> Result<Vec<Pid>, Error> {
    lifecycle::pids(state, id)
}

/// Runs a further process in a running container; returns when it was executed, or why it could not be.
pub fn exec(state: &StateDir, id: &ContainerId, request: ExecRequest) -> Result<Created, Error> {
    exec::exec(state, id, request)
}

//! The OCI runtime: a bundle in, a container out. Single-threaded and synchronous throughout, because it forks
//! ([`sys::process::fork_with`]) and goes on running ordinary code in the child.
//!
//! ```text
//! caller ── create ──▶ plan (spec, rootfs, cgroups as data) ── clone3 ──▶ init
//!   │                                                           │ joins cgroups and namespaces
//!   │ ◀──────────────── ready, or the error ─────────────────── │ applies the root plan, pivots
//!   │ writes state.json                                         │ waits on start.sock
//! caller ── start ───────────── connects ─────────────────────▶ │ identity, seccomp, execve
//!     ◀── end of file: the payload runs │ a message: why not ── │
//! ```
//!
//! [`container`] is the library (create, start, kill, delete, exec, state); [`cli`] the command line of the
//! `runtime` binary over it; [`shim`] the process that stays beside each container of the agent.

mod cgroups;
pub mod cli;
pub mod container;
mod process;
mod rootfs;
mod seal;
pub mod seccomp;
pub mod shim;
mod spec;
pub mod tty;

pub use container::{
    ContainerId, CreateRequest, Created, Error, ExecRequest, OverlayMount, Rootfs, Signal, StateDir, Stdio,
    create, delete, exec, kill, list, pids, run, start, state,
};

//! The shim: one small process per container of the agent, which is the parent of its init, holds its stdio, keeps its
//! log, runs execs in it, and writes down how it ended. It needs nobody: the agent may die and come back.
//!
//! ```text
//!  agent ── spawns ──▶ shim ── create ──▶ init (waits)        stdout of the shim: {"pid":n} or {"error":"…"}, once
//!  agent ◀── shim.sock ──▶ server ── start, exec, kill …      [`protocol`]
//!                            │
//!     pidfd ── exit ────────▶│──▶ exit.json                   [`exit`]
//!     pipes, pty ── output ─▶│──▶ log (json-file, rotated)    [`log`]
//!                            │──▶ attached clients            [`client`], [`outbox`]
//!     pipe, pty ◀── input ───│◀── attached clients            [`stdio`]
//! ```
//!
//! In: `<bundle>/config.json` and `<bundle>/shim.json` ([`config`]). Out: `<bundle>/shim.sock`, `<bundle>/exit.json`,
//! `<bundle>/exec-<id>.json`, the log. The working directory is the bundle, so that the socket's path may be longer than
//! the 108 bytes of `sockaddr_un`; a client whose path is too long connects through `/proc/self/fd/N/shim.sock`.
//!
//! Its standard input is nothing that it reads: it is kept open, for the agent to take a duplicate of (`pidfd_getfd(2)`) after
//! its own end. It is the socket at which the container asks for names, so that questions wait instead of being refused.
//!
//! A container may run for as long as its [`lease`] lasts and no longer, whether or not anybody else is alive.
//!
//! One thread, one epoll instance, no polling: whatever happens is an event on a descriptor or one of a few deadlines.
//! The life of a process is [`process::Phase`]; init and execs differ only in what their end means.

mod client;
mod clock;
mod config;
mod ending;
mod exec;
mod exit;
mod lease;
mod log;
mod outbox;
mod poller;
mod process;
mod protocol;
mod requests;
mod server;
mod setup;
mod stdio;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use crate::container::{ContainerId, StateDir};
use crate::process::chain;

/// Name of the socket in the bundle.
const SOCKET: &str = "shim.sock";

/// `runtime shim --bundle BUNDLE ID`: creates the container, says so, and serves it until it has ended.
pub fn main(state: &StateDir, bundle: &Path, id: &ContainerId) -> ExitCode {
    let server = match setup::prepare(state, bundle, id) {
        Ok(server) => server,
        Err(error) => {
            announce(&json!({ "error": chain(&error) }));
            return ExitCode::FAILURE;
        }
    };
    announce(&json!({ "pid": server.init_pid() }));
    match server.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            server::report(&format!("wait for events: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Writes the one line that the agent waits for, and closes stdout. If nobody reads it, the container still runs.
fn announce(line: &serde_json::Value) {
    let _ = writeln!(std::io::stdout(), "{line}");
    if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdout(null);
    }
}

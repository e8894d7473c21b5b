//! Black-box tests under root: real processes, the real kernel, and several nodes on one machine.
//!
//! A node is an agent in a network namespace of its own ([`Host`]), with its own `--root` and `--run-dir`
//! ([`Agent`]); a [`Cluster`] is several of them on one cable. Tests speak to it as its users do: by the command line, or by HTTP on its socket ([`http`]). A missing
//! privilege is a failure, not a skip. Everything that a test makes is gone when its values are dropped, and the
//! [`census`] at the end of the run fails if something is left.

pub mod agent;
pub mod census;
pub mod cluster;
pub mod host;
pub mod http;
pub mod image;
pub mod node_client;
pub mod switch;
pub mod vm;
pub mod words;

pub use agent::Agent;
pub use cluster::Cluster;
pub use host::{Host, in_network_of};
pub use switch::{Switch, Versions};
pub use words::Words;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The folder that the binaries under test were built into: the one that the test itself runs from.
pub fn binaries() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    // target/<triple>/debug/deps/stack-0123 → target/<triple>/debug
    test.ancestors().nth(2).map(PathBuf::from).unwrap_or_default()
}

/// The folder of the workspace.
pub fn workspace() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map(PathBuf::from)
        .unwrap_or_default()
}

/// Waits until `ready` answers with a value, or fails with what it last said. Tests wait for what a user would see;
/// the limit is generous because the machine may be busy, and no test passes or fails by how long it took.
pub fn eventually<T>(what: &str, mut ready: impl FnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        match ready() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > end => bail!("{what} did not come true: {error:#}"),
            Err(_) => std::thread::sleep(Duration::from_millis(25)),
        }
    }
}

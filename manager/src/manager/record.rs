//! Who this manager is: the one file that makes a directory a manager's.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use proto::NodeId;
use serde::{Deserialize, Serialize};

use super::ManagerError;
use crate::ca::Identity;
use crate::files::{self, FileError};

/// Who this manager is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Record {
    /// The node that it runs on.
    #[serde(rename = "NodeID")]
    pub(super) node_id: NodeId,
    /// Its number within consensus.
    pub(super) member: u64,
    /// `IP:port` at which other nodes reach it.
    pub(super) address: String,
    /// Where it listens for them.
    #[serde(default = "everywhere")]
    pub(super) listen: SocketAddr,
}

/// Where managers listened before it was recorded.
fn everywhere() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::UNSPECIFIED, super::birth::PORT))
}

impl Record {
    /// Where it is.
    pub(super) fn path(state_dir: &Path) -> PathBuf {
        state_dir.join("manager.json")
    }

    /// Reads it; `None` if there is none.
    pub(super) fn load(state_dir: &Path) -> Result<Option<Self>, ManagerError> {
        let path = Self::path(state_dir);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|_| ManagerError::Damaged(path)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(files::error("read", &path)(error).into()),
        }
    }

    /// Writes it. From then on the directory is a manager's.
    pub(super) fn save(&self, state_dir: &Path) -> Result<(), FileError> {
        let written = files::replace(&Self::path(state_dir), |writer| {
            Ok(serde_json::to_writer(writer, self)?)
        });
        written.map(|_| ())
    }
}

/// Removes everything that a manager keeps, its record first: after a crash in between, what is left is not a manager's.
pub(super) fn erase(state_dir: &Path) -> Result<(), FileError> {
    let path = Record::path(state_dir);
    remove(&path, std::fs::remove_file)?;
    if state_dir.exists() {
        files::sync_dir(&path).map_err(files::error("sync", state_dir))?;
    }
    for dir in ["raft", "certificates"] {
        remove(&state_dir.join(dir), std::fs::remove_dir_all)?;
    }
    Ok(())
}

/// Removes what makes the directory a manager's, its record first, and leaves what makes it a node's.
pub(super) fn shed(state_dir: &Path) -> Result<(), FileError> {
    let path = Record::path(state_dir);
    remove(&path, std::fs::remove_file)?;
    files::sync_dir(&path).map_err(files::error("sync", state_dir))?;
    remove(&state_dir.join("raft"), std::fs::remove_dir_all)?;
    Identity::shed(&state_dir.join("certificates"))
}

fn remove(path: &Path, remove: impl FnOnce(PathBuf) -> std::io::Result<()>) -> Result<(), FileError> {
    match remove(path.to_owned()) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(files::error("remove", path)(error)),
        _ => Ok(()),
    }
}

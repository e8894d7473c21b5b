//! What a node keeps of its membership: the record, and the certificates that go with it.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use proto::spec::NodeRole;
use proto::{ClusterId, NodeId};
use serde::{Deserialize, Serialize};

use super::{Joined, RemoteError, RemoteManager};
use crate::files;

/// `node.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Record {
    #[serde(rename = "ClusterID")]
    cluster: ClusterId,
    #[serde(rename = "NodeID")]
    node: NodeId,
    role: NodeRole,
    address: IpAddr,
    managers: Vec<Manager>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Manager {
    #[serde(rename = "NodeID")]
    node: NodeId,
    address: SocketAddr,
}

/// What the node shows and trusts, in PEM. Debug output does not show the key.
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) root: String,
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("cert", &self.cert)
            .finish_non_exhaustive()
    }
}

/// Reads the record; `None` if there is none.
pub(super) fn load(state_dir: &Path) -> Result<Option<Joined>, RemoteError> {
    let path = path(state_dir);
    let Some(text) = read(&path)? else { return Ok(None) };
    let record: Record = serde_json::from_str(&text).map_err(|_| RemoteError::Damaged(path))?;
    let managers = record.managers.into_iter().map(|manager| RemoteManager {
        node: manager.node,
        address: manager.address,
    });
    Ok(Some(Joined {
        cluster: record.cluster,
        node: record.node,
        role: record.role,
        address: record.address,
        managers: managers.collect(),
    }))
}

/// Writes the record. From then on the directory is a node's.
pub(super) fn save(state_dir: &Path, joined: &Joined) -> Result<(), RemoteError> {
    let managers = joined.managers.iter().map(|manager| Manager {
        node: manager.node.clone(),
        address: manager.address,
    });
    let record = Record {
        cluster: joined.cluster.clone(),
        node: joined.node.clone(),
        role: joined.role,
        address: joined.address,
        managers: managers.collect(),
    };
    files::replace(&path(state_dir), |writer| {
        Ok(serde_json::to_writer(writer, &record)?)
    })?;
    Ok(())
}

/// Reads root, certificate and key.
pub(super) fn credentials(state_dir: &Path) -> Result<Credentials, RemoteError> {
    let damaged = || RemoteError::Damaged(own_path(state_dir));
    let own = read(&own_path(state_dir))?.ok_or_else(damaged)?;
    let root = read(&root_path(state_dir))?.ok_or_else(|| RemoteError::Damaged(root_path(state_dir)))?;
    let (cert, key) = own.split_once(KEY_FOLLOWS).ok_or_else(damaged)?;
    Ok(Credentials {
        root,
        cert: cert.to_owned(),
        key: format!("{KEY_FOLLOWS}{key}"),
    })
}

/// Writes root, certificate and key. Certificate and key are one file: a crash leaves the old pair or the new one.
pub(super) fn save_credentials(state_dir: &Path, credentials: &Credentials) -> Result<(), RemoteError> {
    files::make_dir(&dir(state_dir))?;
    let own = format!("{}{}", credentials.cert, credentials.key);
    for (path, text) in [
        (root_path(state_dir), &credentials.root),
        (own_path(state_dir), &own),
    ] {
        files::replace(&path, |writer| writer.write_all(text.as_bytes()))?;
    }
    Ok(())
}

/// Removes everything, the record first: after a crash in between, what is left is not a node's.
pub(super) fn erase(state_dir: &Path) -> Result<(), RemoteError> {
    let path = path(state_dir);
    remove(&path, std::fs::remove_file)?;
    if state_dir.exists() {
        files::sync_dir(&path).map_err(files::error("sync", state_dir))?;
    }
    remove(&dir(state_dir), std::fs::remove_dir_all)
}

/// Removes the record and this node's own certificate, and leaves what a manager keeps beside them.
pub(super) fn shed(state_dir: &Path) -> Result<(), RemoteError> {
    remove(&path(state_dir), std::fs::remove_file)?;
    remove(&own_path(state_dir), std::fs::remove_file)
}

/// Where the key begins in the file of both.
const KEY_FOLLOWS: &str = "-----BEGIN PRIVATE KEY-----";

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("node.json")
}

fn dir(state_dir: &Path) -> PathBuf {
    state_dir.join("certificates")
}

fn root_path(state_dir: &Path) -> PathBuf {
    dir(state_dir).join("swarm-root-ca.crt")
}

fn own_path(state_dir: &Path) -> PathBuf {
    dir(state_dir).join("swarm-node.pem")
}

fn read(path: &Path) -> Result<Option<String>, RemoteError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) if error.kind() == ErrorKind::InvalidData => Err(RemoteError::Damaged(path.to_owned())),
        Err(error) => Err(files::error("read", path)(error).into()),
    }
}

fn remove(path: &Path, remove: impl FnOnce(PathBuf) -> std::io::Result<()>) -> Result<(), RemoteError> {
    match remove(path.to_owned()) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(files::error("remove", path)(error).into()),
        _ => Ok(()),
    }
}

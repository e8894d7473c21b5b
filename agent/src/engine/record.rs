//! The durable record of a container, `<root>/containers/<cid>/container.json`, written whole: beside, synced, renamed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::error::{EngineError, Result};
use super::id::ContainerId;
use super::mounts::ResolvedMount;
use super::request::TaskRef;
use super::state::ContainerState;
use crate::api::types::config::ContainerConfig;
use crate::api::types::host_config::{HostConfig, PortMap};
use crate::api::types::network_settings::EndpointSettings;

/// File name of the record in a container's directory.
pub const FILE: &str = "container.json";

/// Everything durable about a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    pub id: ContainerId,
    /// Without slash.
    pub name: String,
    #[serde(with = "time::serde::rfc3339")]
    pub created: OffsetDateTime,
    /// `sha256:…`
    pub image_id: String,
    /// What runs: the first word, and the rest.
    pub path: String,
    pub args: Vec<String>,
    /// Merged with the image's.
    pub config: ContainerConfig,
    /// With defaults filled in.
    pub host_config: HostConfig,
    pub mounts: Vec<ResolvedMount>,
    /// Networks as wanted, by the names that were used for them.
    pub networks: BTreeMap<String, EndpointSettings>,
    /// The same as they are, while it runs.
    pub attached: BTreeMap<String, EndpointSettings>,
    /// The addresses that it had when it ran last, by the same names: asked for again where the managers give them.
    #[serde(default)]
    pub last_addresses: BTreeMap<String, Ipv4Addr>,
    /// Published ports as they are while it runs.
    pub ports: PortMap,
    pub task: Option<TaskRef>,
    pub files: Vec<FileRecord>,
    pub state: ContainerState,
}

/// A secret or config of the container; its content lies under [`Paths::files`], named by its index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRecord {
    pub target: String,
}

/// Where one container keeps what is its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// Durable: `<root>/containers/<cid>`.
    pub dir: PathBuf,
    /// Ends with the boot: `<run-dir>/containers/<cid>`.
    pub bundle: PathBuf,
    /// OCI state of the runtime: `<run-dir>/runtime/<cid>`.
    pub runtime_state: PathBuf,
    /// Secrets and configs, in memory: `<run-dir>/files/<cid>`.
    pub files: PathBuf,
    id: ContainerId,
}

impl Paths {
    /// The paths of container `id`.
    pub fn new(root: &Path, run_dir: &Path, id: &ContainerId) -> Self {
        Self {
            dir: root.join("containers").join(id.as_str()),
            bundle: run_dir.join("containers").join(id.as_str()),
            runtime_state: run_dir.join("runtime").join(id.as_str()),
            files: run_dir.join("files").join(id.as_str()),
            id: id.clone(),
        }
    }

    /// Whose paths these are.
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// Its json-file log; rotated files have `.1`, `.2` … appended.
    pub fn log(&self) -> PathBuf {
        self.dir.join(format!("{}-json.log", self.id))
    }

    /// The shim's socket.
    pub fn socket(&self) -> PathBuf {
        self.bundle.join("shim.sock")
    }

    /// Where the shim writes how the container ended.
    pub fn exit(&self) -> PathBuf {
        self.bundle.join("exit.json")
    }
}

impl ContainerRecord {
    /// Reads the record in `dir`; `None` if there is none.
    ///
    /// # Errors
    /// An unreadable or malformed record.
    pub fn load(dir: &Path) -> Result<Option<Self>> {
        let path = dir.join(FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(EngineError::file("read", path)(error)),
        };
        match serde_json::from_slice(&bytes) {
            Ok(record) => Ok(Some(record)),
            Err(source) => Err(EngineError::Record { path, source }),
        }
    }

    /// Writes the record into `dir`, which must exist.
    ///
    /// # Errors
    /// A full disk above all; the old record is then untouched.
    pub fn save(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let bytes = serde_json::to_vec(self).map_err(|source| EngineError::Record {
            path: path.clone(),
            source,
        })?;
        write_atomically(&path, &bytes).map_err(EngineError::file("write", path))
    }

    /// True if the image's or the request's healthcheck is on.
    pub fn has_healthcheck(&self) -> bool {
        self.config
            .healthcheck
            .as_ref()
            .is_some_and(|check| check.test.first().is_some_and(|kind| kind != "NONE"))
    }
}

fn write_atomically(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let fresh = path.with_extension("tmp");
    let written = File::create(&fresh).and_then(|mut file| {
        file.write_all(bytes)?;
        // Data before name: after a power cut either the old record or the new one is there, and whole. The name itself is
        // not waited for; a container that a power cut has ended is found ended either way.
        file.sync_data()
    });
    if let Err(error) = written.and_then(|()| fs::rename(&fresh, path)) {
        let _ = fs::remove_file(&fresh);
        return Err(error);
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A record as small as can be.
    pub(crate) fn sample() -> ContainerRecord {
        ContainerRecord {
            id: ContainerId::parse(&"ab".repeat(32)).unwrap(),
            name: "web".into(),
            created: OffsetDateTime::from_unix_timestamp(1_700_000_000).unwrap(),
            image_id: format!("sha256:{}", "c".repeat(64)),
            path: "/bin/sh".into(),
            args: vec!["-c".into(), "true".into()],
            config: ContainerConfig {
                image: "bb".into(),
                ..Default::default()
            },
            host_config: HostConfig {
                network_mode: "bridge".into(),
                ..Default::default()
            },
            mounts: Vec::new(),
            networks: BTreeMap::new(),
            attached: BTreeMap::new(),
            last_addresses: BTreeMap::new(),
            ports: PortMap::new(),
            task: None,
            files: Vec::new(),
            state: ContainerState::default(),
        }
    }

    #[test]
    fn a_record_reads_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ContainerRecord::load(dir.path()).unwrap(), None);
        let mut record = sample();
        record.state.started_at = Some(OffsetDateTime::now_utc());
        record.save(dir.path()).unwrap();
        record.name = "renamed".into();
        record.save(dir.path()).unwrap();
        assert_eq!(ContainerRecord::load(dir.path()).unwrap(), Some(record));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_torn_record_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), b"{\"id\":").unwrap();
        let error = ContainerRecord::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("container.json"), "{error}");
    }
}

//! What is known of a container on disk: `<state dir>/<id>/state.json`.
//!
//! It is written twice by `create`, each time whole or not at all: before the cgroup is made, so that a crash leaves a trace
//! of what is to be removed, and when init is ready. The status is never stored but derived from the process and from
//! `start.sock`, which exists until the start.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use oci_spec::runtime::{ContainerState, State};
use rustix::process::PidfdFlags;
use serde::{Deserialize, Serialize};

use super::{ContainerId, Error, StateDir};
use crate::cgroups::Directory;

/// Version of the runtime specification that states claim.
const OCI_VERSION: &str = "1.2.0";

/// Socket that init listens on until it is started.
const GATE: &str = "start.sock";

/// The record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) bundle: PathBuf,
    /// Init; 0 while there is none yet.
    pub(crate) pid: i32,
    /// When init was started, clock ticks since boot (proc_pid_stat(5)): with the pid it names a process for ever.
    pub(crate) start_time: u64,
    pub(crate) cgroups: Vec<Directory>,
    /// Types of its namespaces (`CLONE_NEW*`).
    pub(crate) namespaces: u64,
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    pub(crate) annotations: HashMap<String, String>,
}

/// The directory of one container.
#[derive(Debug)]
pub(crate) struct Home {
    path: PathBuf,
}

/// Exclusive or shared right to act on a container; ends when dropped. A process that is forked must close it.
pub(crate) type Lock = Flock<File>;

impl Home {
    /// The directory, which need not exist.
    pub(crate) fn of(state: &StateDir, id: &ContainerId) -> Self {
        Self {
            path: state.0.join(id.as_str()),
        }
    }

    /// Makes the directory and takes it. One that was left behind by a crash, without a record, is taken over.
    pub(crate) fn make(&self, id: &ContainerId) -> Result<Lock, Error> {
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(parent).map_err(|e| Error::file("make", parent, e))?;
        match rustix::fs::mkdir(&self.path, rustix::fs::Mode::RWXU) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(Error::file("make", &self.path, error)),
        }
        let lock = self.lock(id, FlockArg::LockExclusive)?;
        if self.path.join("state.json").exists() {
            return Err(Error::Exists(id.clone()));
        }
        Ok(lock)
    }

    /// Waits until nobody else acts on the container, then holds it.
    pub(crate) fn lock(&self, id: &ContainerId, how: FlockArg) -> Result<Lock, Error> {
        let directory = File::open(&self.path).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::NotFound(id.clone()),
            _ => Error::file("open", &self.path, error),
        })?;
        let lock =
            Flock::lock(directory, how).map_err(|(_, error)| Error::file("lock", &self.path, error))?;
        // The one before us may have deleted it.
        let same = lock.metadata().ok().zip(fs::metadata(&self.path).ok());
        use std::os::unix::fs::MetadataExt;
        match same {
            Some((held, named)) if held.ino() == named.ino() => Ok(lock),
            _ => Err(Error::NotFound(id.clone())),
        }
    }

    /// Writes the record: whole, or not at all.
    pub(crate) fn save(&self, record: &Record) -> Result<(), Error> {
        let (path, temporary) = (self.path.join("state.json"), self.path.join("state.json.new"));
        let bytes =
            serde_json::to_vec(record).map_err(|e| Error::file("write", &path, io::Error::from(e)))?;
        fs::write(&temporary, bytes)
            .and_then(|()| fs::rename(&temporary, &path))
            .map_err(|e| Error::file("write", &path, e))
    }

    /// Reads the record.
    pub(crate) fn load(&self, id: &ContainerId) -> Result<Record, Error> {
        let path = self.path.join("state.json");
        let bytes = fs::read(&path).map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => Error::NotFound(id.clone()),
            _ => Error::file("read", &path, error),
        })?;
        serde_json::from_slice(&bytes).map_err(|e| Error::file("parse", &path, io::Error::from(e)))
    }

    /// Removes the directory and all in it.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(Error::file("remove", &self.path, error))
            }
            _ => Ok(()),
        }
    }

    /// Path of the gate by way of `lock`, which is open on the directory: the path itself may be longer than the 108
    /// bytes of a socket's address.
    pub(crate) fn gate(lock: &Lock) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{GATE}", lock.as_raw_fd()))
    }

    /// Takes the gate away: the container was started.
    pub(crate) fn remove_gate(&self) {
        // Without the file, or with one that nobody answers at, the container is not startable all the same.
        let _ = fs::remove_file(self.path.join(GATE));
    }

    fn has_gate(&self) -> bool {
        self.path.join(GATE).exists()
    }

    /// What `record` amounts to now.
    pub(crate) fn status(&self, record: &Record) -> ContainerState {
        match start_time(record.pid) {
            _ if record.pid == 0 => ContainerState::Creating,
            Some(time) if time == record.start_time => {
                if self.has_gate() {
                    ContainerState::Created
                } else {
                    ContainerState::Running
                }
            }
            _ => ContainerState::Stopped,
        }
    }
}

impl Record {
    /// A descriptor of init, proven to be of this very process; `None` if it has ended.
    pub(crate) fn open_init(&self) -> Result<Option<OwnedFd>, Error> {
        let Some(pid) = rustix::process::Pid::from_raw(self.pid).filter(|_| self.pid > 0) else {
            return Ok(None);
        };
        let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            opened => opened.map_err(|e| Error::file("open process", format!("/proc/{}", self.pid), e))?,
        };
        // Once the descriptor is open the number cannot be used again: now the time decides.
        Ok((start_time(self.pid) == Some(self.start_time)).then_some(pidfd))
    }

    /// The state as the runtime specification words it.
    pub(crate) fn to_oci(&self, id: &ContainerId, status: ContainerState) -> State {
        let mut state = State::default();
        state
            .set_version(OCI_VERSION.to_owned())
            .set_id(id.to_string())
            .set_status(status)
            .set_pid(Some(if status == ContainerState::Stopped {
                0
            } else {
                self.pid
            }))
            .set_bundle(self.bundle.clone())
            .set_annotations((!self.annotations.is_empty()).then(|| self.annotations.clone()));
        state
    }
}

/// Start time of a process that has not ended, from `/proc/<pid>/stat`.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name may hold anything, spaces and parentheses too: fields are counted from the last parenthesis. Field 3 is the
/// state, field 22 the start time.
fn parse_stat(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let tail = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20";
        assert_eq!(parse_stat(&format!("7 (a) b) S {tail}")), Some(4711));
        assert_eq!(
            parse_stat(&format!("7 (sh) Z {tail}")),
            None,
            "a zombie has ended"
        );
        assert!(start_time(i32::try_from(std::process::id()).unwrap()).is_some());
    }

    fn record(pid: i32, start_time: u64) -> Record {
        Record {
            bundle: "/b".into(),
            pid,
            start_time,
            cgroups: Vec::new(),
            namespaces: 0,
            annotations: HashMap::new(),
        }
    }

    #[test]
    fn the_status_is_derived() {
        let dir = tempfile::tempdir().unwrap();
        let (state, id) = (StateDir(dir.path().to_owned()), "x".parse().unwrap());
        let home = Home::of(&state, &id);
        let _lock = home.make(&id).unwrap();
        assert_eq!(home.status(&record(0, 0)), ContainerState::Creating);
        let me = i32::try_from(std::process::id()).unwrap();
        let time = start_time(me).unwrap();
        assert_eq!(home.status(&record(me, time)), ContainerState::Running);
        assert_eq!(home.status(&record(me, time + 1)), ContainerState::Stopped);
        fs::write(home.path.join(GATE), "").unwrap();
        assert_eq!(home.status(&record(me, time)), ContainerState::Created);
    }

    #[test]
    fn a_record_survives_and_a_second_container_of_the_name_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (state, id) = (StateDir(dir.path().to_owned()), "x".parse().unwrap());
        let home = Home::of(&state, &id);
        drop(home.make(&id).unwrap());
        drop(home.make(&id).unwrap());
        home.save(&record(1, 2)).unwrap();
        assert_eq!(home.load(&id).unwrap(), record(1, 2));
        assert!(matches!(home.make(&id), Err(Error::Exists(_))));
        home.remove().unwrap();
        assert!(matches!(home.load(&id), Err(Error::NotFound(_))));
    }
}

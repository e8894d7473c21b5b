//! The file of a manager's keys.
//!
//! ```text
//! {"Format":1,"UnlockKey":"SWMKEY-1-…","DataKey":"…","Plain":false}
//! ```
//! The data key is wrapped by the unlock key. Without autolock the unlock key stands beside it, so that the manager starts by
//! itself; with autolock it is not on this disk. The file is replaced in one step: after a crash there is the old one or the
//! new one, and both have the same data key.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::AtRest;
use super::at_rest::{unwrap, wrap};
use super::key::{SecretKey, UnlockKey};
use crate::files::{self, FileError};

const FORMAT: u32 = 1;

/// The keys could not be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The unlock key is not on this disk, and nobody has given it.
    #[error("the manager is locked")]
    Locked,
    /// It is another one.
    #[error("invalid key provided")]
    WrongKey,
    /// The file makes no sense.
    #[error("{} is damaged; restore the directory from a backup", .0.display())]
    Damaged(PathBuf),
    /// A file could not be worked with.
    #[error(transparent)]
    File(#[from] FileError),
}

/// The keys of one manager.
#[derive(Debug)]
pub struct Vault {
    path: PathBuf,
    data_key: SecretKey,
    state: Mutex<State>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    lock: Lock,
    plain: bool,
}

/// Where the unlock key is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Lock {
    /// Beside the data key.
    Open(UnlockKey),
    /// In the cluster's object, and with people.
    Locked(UnlockKey),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct File {
    format: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unlock_key: Option<String>,
    data_key: String,
    #[serde(default)]
    plain: bool,
}

impl Vault {
    /// Makes keys for a manager that has none. `plain` if it may have files from before there were keys.
    ///
    /// # Errors
    /// [`VaultError::File`].
    pub fn create(dir: &Path, plain: bool) -> Result<Self, VaultError> {
        files::make_dir(dir)?;
        let lock = Lock::Open(UnlockKey::generate());
        let vault = Self {
            path: path(dir),
            data_key: SecretKey::generate(),
            state: Mutex::new(State { lock, plain }),
        };
        vault.save(&vault.state())?;
        Ok(vault)
    }

    /// Opens the keys of the directory, with the unlock key where it does not lie beside them; makes them where there are
    /// none yet.
    ///
    /// # Errors
    /// [`VaultError::Locked`], [`VaultError::WrongKey`], [`VaultError::Damaged`], [`VaultError::File`].
    pub fn open(dir: &Path, given: Option<&UnlockKey>) -> Result<Self, VaultError> {
        let Some(file) = read(dir)? else {
            return Self::create(dir, true);
        };
        let damaged = || VaultError::Damaged(path(dir));
        let wrapped = STANDARD.decode(&file.data_key).map_err(|_| damaged())?;
        let lock = match (&file.unlock_key, given) {
            (Some(text), _) => Lock::Open(text.parse().map_err(|_| damaged())?),
            (None, Some(key)) => Lock::Locked(key.clone()),
            (None, None) => return Err(VaultError::Locked),
        };
        let data_key = unwrap(&lock.key().0, &wrapped).ok_or_else(|| match &lock {
            Lock::Open(_) => damaged(),
            Lock::Locked(_) => VaultError::WrongKey,
        })?;
        let plain = file.plain;
        Ok(Self {
            path: path(dir),
            data_key,
            state: Mutex::new(State { lock, plain }),
        })
    }

    /// Whether the directory's keys need an unlock key from a person.
    ///
    /// # Errors
    /// [`VaultError::Damaged`], [`VaultError::File`].
    pub fn is_locked(dir: &Path) -> Result<bool, VaultError> {
        Ok(read(dir)?.is_some_and(|file| file.unlock_key.is_none()))
    }

    /// For what is kept on the disk.
    pub fn at_rest(&self) -> AtRest {
        AtRest::new(self.data_key.clone(), self.state().plain)
    }

    /// Whether a restart will need the unlock key from a person.
    pub fn locks(&self) -> bool {
        matches!(self.state().lock, Lock::Locked(_))
    }

    /// Wraps the data key by the cluster's unlock key, which is then not on this disk; or by one that is, if the cluster has
    /// none. Returns whether anything has changed.
    ///
    /// # Errors
    /// [`VaultError::File`]: the keys are as they were.
    pub fn follow(&self, cluster: Option<&UnlockKey>) -> Result<bool, VaultError> {
        let mut state = self.state();
        let lock = match (cluster, &state.lock) {
            (Some(key), _) => Lock::Locked(key.clone()),
            (None, open @ Lock::Open(_)) => open.clone(),
            (None, Lock::Locked(_)) => Lock::Open(UnlockKey::generate()),
        };
        let new = State {
            lock,
            plain: state.plain,
        };
        if new == *state {
            return Ok(false);
        }
        self.save(&new)?;
        *state = new;
        Ok(true)
    }

    /// All that is kept is sealed from now on: a file that is not was put there by somebody.
    ///
    /// # Errors
    /// [`VaultError::File`].
    pub fn sealed(&self) -> Result<(), VaultError> {
        let mut state = self.state();
        if state.plain {
            let new = State {
                plain: false,
                ..state.clone()
            };
            self.save(&new)?;
            *state = new;
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn save(&self, state: &State) -> Result<(), FileError> {
        let failed = files::error("write", &self.path);
        let wrapped = wrap(&state.lock.key().0, &self.data_key).map_err(failed)?;
        let file = File {
            format: FORMAT,
            unlock_key: match &state.lock {
                Lock::Open(key) => Some(key.to_string()),
                Lock::Locked(_) => None,
            },
            data_key: STANDARD.encode(wrapped),
            plain: state.plain,
        };
        files::replace(&self.path, |writer| Ok(serde_json::to_writer(writer, &file)?)).map(drop)
    }
}

impl Lock {
    fn key(&self) -> &UnlockKey {
        match self {
            Self::Open(key) | Self::Locked(key) => key,
        }
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join("keys.json")
}

fn read(dir: &Path) -> Result<Option<File>, VaultError> {
    let path = path(dir);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(files::error("read", &path)(error).into()),
    };
    let file: File = serde_json::from_slice(&bytes).map_err(|_| VaultError::Damaged(path.clone()))?;
    match file.format {
        FORMAT => Ok(Some(file)),
        _ => Err(VaultError::Damaged(path)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::vault::Purpose;

    fn sealed(vault: &Vault) -> Vec<u8> {
        vault.at_rest().seal_once(Purpose::NodeKey, b"text").unwrap()
    }

    fn opens(vault: &Vault, sealed: &[u8]) -> bool {
        vault.at_rest().open_once(Purpose::NodeKey, sealed).is_some()
    }

    #[test]
    fn the_unlock_key_lies_beside_until_the_manager_locks() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path();
        let vault = Vault::create(dir, false).unwrap();
        let text = sealed(&vault);
        let mode = std::fs::metadata(path(dir)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(opens(&Vault::open(dir, None).unwrap(), &text) && !Vault::is_locked(dir).unwrap());

        let (first, second) = (UnlockKey::generate(), UnlockKey::generate());
        assert!(vault.follow(Some(&first)).unwrap() && !vault.follow(Some(&first)).unwrap());
        assert!(vault.locks() && Vault::is_locked(dir).unwrap());
        let kept = std::fs::read_to_string(path(dir)).unwrap();
        assert!(!kept.contains("SWMKEY"), "{kept}");
        assert!(matches!(Vault::open(dir, None), Err(VaultError::Locked)));
        assert!(matches!(
            Vault::open(dir, Some(&second)),
            Err(VaultError::WrongKey)
        ));
        assert!(opens(&Vault::open(dir, Some(&first)).unwrap(), &text));

        vault.follow(Some(&second)).unwrap();
        assert!(matches!(
            Vault::open(dir, Some(&first)),
            Err(VaultError::WrongKey)
        ));
        assert!(opens(&Vault::open(dir, Some(&second)).unwrap(), &text));

        vault.follow(None).unwrap();
        assert!(opens(&Vault::open(dir, None).unwrap(), &text) && !vault.locks());
        assert!(Vault::open(dir, Some(&first)).is_ok(), "it is not needed");
    }

    #[test]
    fn plain_files_are_believed_until_all_are_sealed() {
        let home = tempfile::tempdir().unwrap();
        let vault = Vault::open(home.path(), None).unwrap();
        assert!(vault.at_rest().accepts_plain());
        vault.sealed().unwrap();
        assert!(!vault.at_rest().accepts_plain());
        assert!(!Vault::open(home.path(), None).unwrap().at_rest().accepts_plain());
        std::fs::write(path(home.path()), "{}").unwrap();
        assert!(matches!(
            Vault::open(home.path(), None),
            Err(VaultError::Damaged(_))
        ));
    }
}

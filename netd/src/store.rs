//! Records on disk: one JSON file per object, replaced as a whole (temporary file, then rename).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

/// A directory of records.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    dir: PathBuf,
    /// Flush to the disk before a write counts as done. Not for what dies with the kernel anyway.
    durable: bool,
}

impl Store {
    pub(crate) fn open(dir: PathBuf, durable: bool) -> Result<Self> {
        fs::create_dir_all(&dir).map_err(|e| failed(&dir, "create", e))?;
        Ok(Self { dir, durable })
    }

    pub(crate) fn write<T: Serialize>(&self, id: &str, record: &T) -> Result<()> {
        let path = self.path(id);
        let temporary = self.dir.join(format!(".{id}.tmp"));
        let write = || -> io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec(record)?)?;
            if self.durable {
                file.sync_all()?;
            }
            fs::rename(&temporary, &path)?;
            if self.durable {
                File::open(&self.dir)?.sync_all()
            } else {
                Ok(())
            }
        };
        write().map_err(|e| failed(&path, "write", e))
    }

    /// Fine if there is none.
    pub(crate) fn remove(&self, id: &str) -> Result<()> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(&path, "remove", e)),
            _ => Ok(()),
        }
    }

    /// Every readable record. What cannot be read is set aside as `.<name>.bad`, and what a crash left half written is
    /// removed; neither may keep the node from starting.
    pub(crate) fn read_all<T: DeserializeOwned>(&self) -> Result<Vec<T>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(|e| failed(&self.dir, "list", e))? {
            let path = entry.map_err(|e| failed(&self.dir, "list", e))?.path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if name.starts_with('.') {
                if name.ends_with(".tmp") {
                    let _ = fs::remove_file(&path);
                }
                continue;
            }
            match fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?)) {
                Ok(record) => records.push(record),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "set aside an unreadable network record");
                    let _ = fs::rename(&path, self.dir.join(format!(".{name}.bad")));
                }
            }
        }
        Ok(records)
    }

    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }
}

fn failed(path: &Path, operation: &'static str, source: io::Error) -> Error {
    Error::State {
        path: path.to_owned(),
        operation,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_and_torn_ones_do_not_stop_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("s"), true).unwrap();
        store.write("a", &1).unwrap();
        store.write("b", &2).unwrap();
        store.write("a", &3).unwrap();
        fs::write(dir.path().join("s/c.json"), b"{").unwrap();
        fs::write(dir.path().join("s/.d.tmp"), b"{").unwrap();
        let mut all: Vec<u32> = store.read_all().unwrap();
        all.sort_unstable();
        assert_eq!(all, [2, 3]);
        store.remove("a").unwrap();
        store.remove("a").unwrap();
        assert_eq!(store.read_all::<u32>().unwrap(), [2]);
        assert!(dir.path().join("s/.c.json.bad").exists());
        assert!(!dir.path().join("s/.d.tmp").exists());
    }
}

//! Where `COPY` and `ADD` put files: the layer under construction, over what the image has already.
//!
//! A directory of an overlay layer hides the attributes of the one below, so every existing directory on the way
//! is entered with the attributes that it has.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use storage::{FileKind, LayerData, LayerEntry, RootError, RootFd};

use crate::error::StepError;
use crate::resolve::resolve;

/// Mode of directories that are made on the way.
const DIR_MODE: u32 = 0o755;

/// The entries of a new layer, by path: parents sort before children.
#[derive(Debug)]
pub(crate) struct Target<'a> {
    base: &'a RootFd,
    owner: (u32, u32),
    entries: BTreeMap<Vec<u8>, LayerEntry>,
    /// Directories made on the way; their time is set at the end.
    made: Vec<Vec<u8>>,
}

impl<'a> Target<'a> {
    /// New directories on the way belong to `owner`.
    pub(crate) fn new(base: &'a RootFd, owner: (u32, u32)) -> Self {
        Self {
            base,
            owner,
            entries: BTreeMap::new(),
            made: Vec::new(),
        }
    }

    /// Where `path` leads in the image; whether a directory is there.
    pub(crate) fn locate(&self, path: &Path) -> Result<(PathBuf, bool), StepError> {
        let resolved = resolve(self.base, path)?;
        let is_dir = resolved.stat.is_some_and(|stat| stat.kind == FileKind::Directory);
        Ok((resolved.path, is_dir))
    }

    /// Enters the directory `path` (resolved) and its parents: existing ones as they are, missing ones new.
    pub(crate) fn directory(&mut self, path: &Path) -> Result<(), StepError> {
        let mut so_far = PathBuf::new();
        for part in path.iter() {
            so_far.push(part);
            let key = so_far.as_os_str().as_bytes().to_vec();
            if self.entries.contains_key(&key) {
                continue;
            }
            let entry = match self.existing(&so_far)? {
                Some(entry) => entry,
                None => {
                    self.made.push(key.clone());
                    self.fresh(&key)
                }
            };
            self.entries.insert(key, entry);
        }
        Ok(())
    }

    /// Enters one member; its parent is entered already. Merges directories, replaces files.
    pub(crate) fn put(&mut self, entry: LayerEntry) -> Result<(), StepError> {
        let is_dir = matches!(entry.data, LayerData::Directory);
        let path = Path::new(std::ffi::OsStr::from_bytes(&entry.path)).to_owned();
        match self.base.lstat(Path::new("/").join(&path)) {
            Ok(stat) if is_dir && stat.kind != FileKind::Directory => {
                return Err(StepError::Invalid(format!(
                    "cannot copy to non-directory: /{}",
                    path.display()
                )));
            }
            Ok(stat) if !is_dir && stat.kind == FileKind::Directory => {
                return Err(StepError::Invalid(format!(
                    "cannot replace the directory /{} by a file",
                    path.display()
                )));
            }
            Ok(_) | Err(RootError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if !is_dir {
            let below = [entry.path.as_slice(), b"/"].concat();
            self.entries.retain(|key, _| !key.starts_with(&below));
        }
        self.made.retain(|made| *made != entry.path);
        self.entries.insert(entry.path.clone(), entry);
        Ok(())
    }

    /// The finished list. What was made on the way is as old as the newest file.
    pub(crate) fn finish(mut self) -> Vec<LayerEntry> {
        let fresh = |key: &Vec<u8>| self.made.contains(key);
        let newest = self
            .entries
            .iter()
            .filter(|(key, _)| !fresh(key))
            .map(|(_, entry)| entry.mtime)
            .max();
        for key in &self.made {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.mtime = newest.unwrap_or_default();
            }
        }
        self.entries.into_values().collect()
    }

    fn existing(&self, path: &Path) -> Result<Option<LayerEntry>, StepError> {
        let at = Path::new("/").join(path);
        let stat = match self.base.lstat(&at) {
            Ok(stat) => stat,
            Err(RootError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if stat.kind != FileKind::Directory {
            return Err(StepError::Invalid(format!(
                "cannot copy to non-directory: {}",
                at.display()
            )));
        }
        Ok(Some(LayerEntry {
            path: path.as_os_str().as_bytes().to_vec(),
            data: LayerData::Directory,
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            mtime: stat.mtime,
            xattrs: self.base.xattrs(&at)?,
        }))
    }

    fn fresh(&self, path: &[u8]) -> LayerEntry {
        LayerEntry {
            path: path.to_vec(),
            data: LayerData::Directory,
            mode: DIR_MODE,
            uid: self.owner.0,
            gid: self.owner.1,
            mtime: (0, 0),
            xattrs: Vec::new(),
        }
    }
}

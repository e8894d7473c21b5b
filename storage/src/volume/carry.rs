//! Volumes between nodes: a volume as a tar, a volume from one, and whether both are the same.
//!
//! The tar has all that a file system keeps of a file but its access time: owners, modes, times, attributes, links,
//! devices, and holes as holes. Sockets belong to processes and are passed over. Whoever receives looks at what lies on its
//! own disk, and only what counts and hashes as the source's own becomes a volume.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use rustix::fs::SeekFrom as Seeking;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{Volume, VolumeError, VolumeRow, Volumes, check_name, failed};
use crate::digest::{Digest, Hashing};
use crate::durable;
use crate::error::{Error, Result};
use crate::layer::Staging;
use crate::metadata::Kind as Table;
use crate::root_fd::{RootError, RootFd};
use crate::tar::{Entry, EntryKind, NewEntry, SparseMap, TarWriter, show};
use crate::walk::{walk, walk_counting};

/// What a volume holds. The same files give the same, on every file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Files, directories and the like, with the volume's own directory.
    pub entries: u64,
    /// Of their names, attributes and data.
    pub digest: Digest,
    /// Sockets, which are neither counted nor copied.
    pub sockets: u64,
}

/// A volume that has come in and is not visible yet. Dropped, its files go.
#[derive(Debug)]
pub struct Incoming {
    volumes: Volumes,
    dir: Staging,
    entries: u64,
}

impl Contents {
    /// Whether both hold the same files.
    pub fn same(&self, other: &Self) -> bool {
        (self.entries, self.digest) == (other.entries, other.digest)
    }
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} entries ({})", self.entries, &self.digest.hex()[..12])
    }
}

impl Volumes {
    /// What the volume holds now. Reads all of it.
    pub fn contents(&self, name: &str) -> Result<Contents> {
        contents(name, &self.get(name)?.mountpoint)
    }

    /// Writes the volume as a tar.
    pub fn send(&self, name: &str, to: &mut dyn Write) -> Result<()> {
        let root = open(&self.get(name)?.mountpoint)?;
        let mut tar = TarWriter::new(to);
        walk(&root, Path::new("/"), &mut |entry, file| {
            append(&mut tar, entry, file).map_err(|source| carry(name, entry, source))
        })?;
        tar.finish()
            .map(drop)
            .map_err(|source| failed("send", name, source))
    }

    /// Unpacks what [`Volumes::send`] wrote, aside.
    pub fn receive(&self, from: &mut dyn Read) -> Result<Incoming> {
        let unpacked = self.0.layers().unpack_volume(from).and_then(|(dir, entries)| {
            let moved = fs::rename(dir.path().join("fs"), dir.path().join("_data"));
            moved.map_err(|source| failed("receive", "", source))?;
            Ok(Incoming {
                volumes: self.clone(),
                dir,
                entries,
            })
        });
        unpacked.map_err(|error| error.explain_space("receive volume", self.0.root()))
    }
}

impl Incoming {
    /// Makes it the volume that `like` describes, durably, if it holds what is `expected`.
    ///
    /// # Errors
    /// [`VolumeError::Differs`], and [`VolumeError::Exists`] where the name is taken.
    pub fn keep(self, like: &Volume, expected: &Contents) -> Result<Volume> {
        check_name(&like.name)?;
        let found = contents(&like.name, &self.dir.path().join("_data"))?;
        if !found.same(expected) {
            return Err(VolumeError::Differs {
                name: like.name.clone(),
                expected: Box::new(expected.clone()),
                found: Box::new(found),
            }
            .into());
        }
        let row = VolumeRow {
            labels: like.labels.clone(),
            options: like.options.clone(),
            created: like.created_at.clone(),
        };
        self.place(&like.name, &row)
            .map_err(|error| error.explain_space("receive volume", self.volumes.0.root()))
    }

    fn place(&self, name: &str, row: &VolumeRow) -> Result<Volume> {
        let io = |source| failed("receive", name, source);
        let dir = self.dir.path();
        fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).map_err(io)?;
        let json = serde_json::to_vec(row).map_err(|error| io(error.into()))?;
        durable::write_new(&dir.join("volume.json"), &json).map_err(io)?;
        durable::sync_trees(&[dir], self.entries).map_err(io)?;
        let inner = self.volumes.0.inner();
        let _shelf = inner.shelf();
        if self.volumes.find(name)?.is_some() {
            let name = name.to_owned();
            return Err(VolumeError::Exists { name }.into());
        }
        durable::publish(dir, &self.volumes.dir(name)).map_err(io)?;
        inner.metadata.update(|tx| tx.put(Table::Volumes, name, row))?;
        inner.volume_watchers.tell(&self.volumes);
        Ok(self.volumes.volume(name.to_owned(), row.clone()))
    }
}

fn contents(name: &str, dir: &Path) -> Result<Contents> {
    let mut hashing = Hashing::new(io::sink());
    let mut entries = 0;
    let sockets = walk_counting(&open(dir)?, Path::new("/"), &mut |entry, file| {
        entries += 1;
        hash(&mut hashing, entry, file).map_err(|source| carry(name, entry, source))
    })?;
    Ok(Contents {
        entries,
        digest: hashing.finish().0,
        sockets,
    })
}

/// Each part with its length before it, so that no two entries read the same.
fn hash(to: &mut Hashing<io::Sink>, entry: &Entry, file: Option<File>) -> io::Result<()> {
    let mut part = |bytes: &[u8]| {
        to.write_all(&(bytes.len() as u64).to_le_bytes())
            .and_then(|()| to.write_all(bytes))
    };
    let kind = format!("{:?}", entry.kind);
    let numbers = format!(
        "{:?}",
        (
            entry.mode,
            entry.uid,
            entry.gid,
            entry.mtime,
            entry.device,
            entry.stored
        )
    );
    part(&entry.path)?;
    part(&entry.link)?;
    part(kind.as_bytes())?;
    part(numbers.as_bytes())?;
    for (name, value) in &entry.xattrs {
        part(name)?;
        part(value)?;
    }
    match file {
        Some(file) => io::copy(&mut file.take(entry.stored), to).map(drop),
        None => Ok(()),
    }
}

fn append<W: Write>(tar: &mut TarWriter<W>, entry: &Entry, file: Option<File>) -> io::Result<()> {
    let mut path = entry.path.clone();
    if path.is_empty() {
        path.push(b'.');
    }
    if entry.kind == EntryKind::Directory {
        path.push(b'/');
    }
    let new = NewEntry {
        path: &path,
        link: &entry.link,
        kind: entry.kind,
        mode: entry.mode,
        uid: entry.uid,
        gid: entry.gid,
        size: entry.stored,
        mtime: entry.mtime,
        device: entry.device,
        xattrs: &entry.xattrs,
    };
    let Some(mut file) = file else {
        return tar.append(&new, &mut io::empty());
    };
    match holes(&file, entry.stored)? {
        Some(map) => tar.append_sparse(&new, &map, &mut file),
        None => {
            file.seek(SeekFrom::Start(0))?;
            tar.append(&new, &mut file)
        }
    }
}

/// Where the data of a file with holes is; `None` for one without.
fn holes(file: &File, size: u64) -> io::Result<Option<SparseMap>> {
    let blocks = rustix::fs::fstat(file)?.st_blocks;
    if u64::try_from(blocks).unwrap_or(0) * 512 >= size {
        return Ok(None);
    }
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file, Seeking::Data(at)) {
            Ok(start) => start,
            // A hole up to the end.
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(file, Seeking::Hole(start))?.min(size);
        if end <= start {
            break;
        }
        pieces.push((start, end - start));
        at = end;
    }
    Ok(Some(SparseMap::bounded(pieces, size)))
}

fn open(dir: &Path) -> Result<RootFd, RootError> {
    RootFd::open_host(dir)
}

fn carry(name: &str, entry: &Entry, source: io::Error) -> Error {
    VolumeError::Carry {
        name: name.to_owned(),
        entry: show(&entry.path),
        source,
    }
    .into()
}

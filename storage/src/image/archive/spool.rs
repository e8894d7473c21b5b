//! An archive unpacked into numbered files: its names are only keys, never paths.
//!
//! An archive may name its layers before or after the manifest that explains them, and a pipe cannot be read twice.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use serde::de::DeserializeOwned;

use super::ArchiveError;
use crate::compression;
use crate::digest::{Digest, Hashing};
use crate::error::Result;
use crate::layer::{InRoot, Staging};
use crate::store::Storage;
use crate::tar::{Entry, EntryKind, TarReader, show};

/// Longest JSON document that is read, in bytes.
const MAX_JSON: u64 = 8 << 20;
/// Links that are followed from name to name.
const MAX_LINKS: usize = 16;

/// The archive's files by their names.
#[derive(Debug)]
pub(super) struct Spool {
    dir: Staging,
    files: HashMap<String, Spooled>,
    /// Names that stand for another: old docker archives link equal layers.
    links: HashMap<String, String>,
    /// Files written; names may repeat, numbers must not.
    written: usize,
}

#[derive(Debug, Clone)]
struct Spooled {
    path: PathBuf,
    size: u64,
    digest: Digest,
}

impl Spool {
    /// Reads the whole archive; removed when dropped.
    pub(super) fn read(storage: &Storage, archive: &mut dyn Read) -> Result<Self> {
        let dir = Staging::create(storage, "archive")?;
        let mut spool = Self {
            dir,
            files: HashMap::new(),
            links: HashMap::new(),
            written: 0,
        };
        spool.fill(archive)?;
        Ok(spool)
    }

    pub(super) fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    /// A file for reading, and its length. A file whose name is a digest has that digest, or this is an error.
    pub(super) fn open(&self, name: &str, wanted_by: &str) -> Result<(File, u64), ArchiveError> {
        let file = self.checked(name, wanted_by)?;
        let opened = File::open(&file.path);
        Ok((
            opened.map_err(|source| ArchiveError::Io {
                operation: "read spooled archive",
                source,
            })?,
            file.size,
        ))
    }

    /// A whole small file.
    pub(super) fn bytes(&self, name: &str, wanted_by: &str) -> Result<Vec<u8>, ArchiveError> {
        let (mut file, size) = self.open(name, wanted_by)?;
        if size > MAX_JSON {
            return Err(ArchiveError::TooLarge {
                file: name.to_owned(),
                limit: MAX_JSON,
            });
        }
        let mut bytes = Vec::new();
        let read = file.read_to_end(&mut bytes);
        read.map_err(|source| ArchiveError::Io {
            operation: "read spooled archive",
            source,
        })?;
        Ok(bytes)
    }

    /// A JSON document.
    pub(super) fn json<T: DeserializeOwned>(&self, name: &str, wanted_by: &str) -> Result<T, ArchiveError> {
        let bytes = self.bytes(name, wanted_by)?;
        serde_json::from_slice(&bytes).map_err(|source| ArchiveError::Json {
            file: name.to_owned(),
            source,
        })
    }

    /// Length of a file that is there.
    pub(super) fn size(&self, name: &str) -> Option<u64> {
        self.find(name).map(|file| file.size)
    }

    fn checked(&self, name: &str, wanted_by: &str) -> Result<&Spooled, ArchiveError> {
        let missing = || ArchiveError::Missing {
            file: name.to_owned(),
            wanted_by: wanted_by.to_owned(),
        };
        let file = self.find(name).ok_or_else(missing)?;
        match promised_digest(name) {
            Some(expected) if expected != file.digest => Err(ArchiveError::DigestMismatch {
                file: name.to_owned(),
                expected,
                found: file.digest,
            }),
            _ => Ok(file),
        }
    }

    fn find(&self, name: &str) -> Option<&Spooled> {
        let mut name = key(name.as_bytes())?;
        for _ in 0..MAX_LINKS {
            match self.links.get(&name) {
                Some(target) => name.clone_from(target),
                None => return self.files.get(&name),
            }
        }
        None
    }

    fn fill(&mut self, archive: &mut dyn Read) -> Result<(), ArchiveError> {
        let mut reader = TarReader::new(compression::decoder(archive)?, false);
        while let Some(entry) = reader.next_entry()? {
            self.take(&entry, &mut reader)?;
        }
        reader.finish::<ArchiveError>(&mut |_| Ok(()))?;
        Ok(())
    }

    fn take<R: Read>(&mut self, entry: &Entry, reader: &mut TarReader<R>) -> Result<(), ArchiveError> {
        let climbs = || ArchiveError::ClimbsOut(show(&entry.path));
        let name = key(&entry.path).ok_or_else(climbs)?;
        match entry.kind {
            EntryKind::File if entry.sparse.is_none() => {
                let spooled = self.write(reader)?;
                self.links.remove(&name);
                self.files.insert(name, spooled);
            }
            EntryKind::Directory => {}
            EntryKind::HardLink => {
                self.links.insert(name, key(&entry.link).ok_or_else(climbs)?);
            }
            EntryKind::Symlink => {
                let base = name.rsplit_once('/').map_or("", |(dir, _)| dir).as_bytes();
                let target = [base, b"/", &entry.link].concat();
                self.links.insert(name, key(&target).ok_or_else(climbs)?);
            }
            _ => {
                let reason = "an image archive holds plain files only".to_owned();
                return Err(ArchiveError::Unsupported {
                    file: show(&entry.path),
                    reason,
                });
            }
        }
        Ok(())
    }

    fn write<R: Read>(&mut self, reader: &mut TarReader<R>) -> Result<Spooled, ArchiveError> {
        let spooling = |source| ArchiveError::Io {
            operation: "spool archive",
            source,
        };
        self.written += 1;
        let path = self.dir.path().join(self.written.to_string());
        let mut target = Hashing::new(File::create(&path).map_err(spooling)?);
        let mut buffer = vec![0u8; 128 << 10];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => io::Write::write_all(&mut target, &buffer[..n]).map_err(spooling)?,
                Err(source) => return Err(reader.failed(source).into()),
            }
        }
        let (digest, size, _) = target.finish();
        Ok(Spooled { path, size, digest })
    }
}

/// The clean form of a name in the archive; `None` if it climbs out.
fn key(path: &[u8]) -> Option<String> {
    InRoot::parse(path).map(|path| String::from_utf8_lossy(path.as_bytes()).into_owned())
}

/// The digest that a file's name promises: `blobs/sha256/<hex>` or `<hex>.json`.
fn promised_digest(name: &str) -> Option<Digest> {
    let hex = name
        .strip_prefix("blobs/sha256/")
        .or_else(|| name.strip_suffix(".json"))?;
    Digest::from_hex(hex).ok()
}

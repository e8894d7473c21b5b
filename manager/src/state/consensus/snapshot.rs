//! The snapshot: the whole state in one file, so that the journal can begin anew.
//!
//! ```text
//! {"Format":1,"Version":…,"Meta":…}      header: openraft's snapshot meta, version of the store
//! {"Service":{…}}                        one object per line, kind by kind
//! {"Objects":n,"Sha256":"…"}             end: of all the lines before
//! ```
//! On the disk the lines are sealed; what goes to another manager is the lines. A file from before is read once and sealed.

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use openraft::SnapshotMeta;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::ConsensusError;
use super::Member;
use crate::files::{self, FileError};
use crate::state::object::Object;
use crate::state::tables::Tables;
use crate::vault::{AtRest, Purpose, SealedWriter, is_stream, open_stream};

/// What openraft knows of a snapshot.
pub(super) type Meta = SnapshotMeta<u64, Member>;

const FORMAT: u32 = 1;
/// Before the time in the names of old snapshots.
const ASIDE: &str = "snapshot-";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Header {
    format: u32,
    version: u64,
    meta: Meta,
}

#[derive(Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct End {
    objects: usize,
    sha256: String,
}

/// Where the snapshot of a directory is.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("snapshot")
}

/// Puts a snapshot in the place of the one before.
pub(super) fn save(
    dir: &Path,
    at_rest: &AtRest,
    meta: &Meta,
    content: (u64, Vec<Object>),
) -> Result<(), FileError> {
    replace(dir, at_rest, |writer| encode(writer, meta, content))
}

/// Keeps the last snapshot under a name of its own, `snapshot-<time in ns>`, and of those so many as are wanted. Nobody reads
/// them: they are for people.
pub(super) fn set_aside(dir: &Path, keep: u64) -> Result<(), FileError> {
    let last = path(dir);
    if let (1.., Ok(modified)) = (keep, last.metadata().and_then(|metadata| metadata.modified())) {
        let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        let aside = dir.join(format!("{ASIDE}{:020}", since.as_nanos()));
        match std::fs::hard_link(&last, &aside) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(files::error("link", &aside)(error));
            }
            _ => {}
        }
    }
    let mut old: Vec<_> = std::fs::read_dir(dir)
        .map_err(files::error("read", dir))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(ASIDE))
        .collect();
    old.sort_by(|one, two| two.cmp(one));
    for name in old.into_iter().skip(usize::try_from(keep).unwrap_or(usize::MAX)) {
        let path = dir.join(name);
        std::fs::remove_file(&path).map_err(files::error("remove", &path))?;
    }
    Ok(())
}

/// The snapshot's lines; `None` if there is none yet.
pub(super) fn bytes(dir: &Path, at_rest: &AtRest) -> Result<Option<Vec<u8>>, ConsensusError> {
    let path = path(dir);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(files::error("read", &path)(error).into()),
    };
    if at_rest.accepts_plain() && !is_stream(&bytes) {
        replace(dir, at_rest, |writer| writer.write_all(&bytes))?;
        return Ok(Some(bytes));
    }
    let opened = open_stream(&bytes, at_rest, Purpose::Snapshot);
    opened
        .map(Some)
        .map_err(|offset| ConsensusError::Damaged { path, offset })
}

fn replace(
    dir: &Path,
    at_rest: &AtRest,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), FileError> {
    let replaced = files::replace(&path(dir), |file| {
        let mut sealed = SealedWriter::new(file, at_rest, Purpose::Snapshot)?;
        write(&mut sealed)?;
        sealed.finish()
    });
    replaced.map(drop)
}

/// Writes a snapshot of the objects, at their version. Lets go of each once it is written: it may have changed meanwhile.
pub(super) fn encode(
    writer: &mut dyn Write,
    meta: &Meta,
    (version, objects): (u64, Vec<Object>),
) -> io::Result<()> {
    let mut lines = Lines {
        writer,
        digest: Sha256::new(),
    };
    lines.put(&Header {
        format: FORMAT,
        version,
        meta: meta.clone(),
    })?;
    let count = objects.len();
    for object in objects {
        lines.put(&object)?;
    }
    let sha256 = hex::encode(lines.digest.clone().finalize());
    lines.put(&End {
        objects: count,
        sha256,
    })
}

/// What openraft knows of the snapshot whose lines these are; an error tells at which byte it is damaged.
pub(super) fn meta(bytes: &[u8]) -> Result<Meta, u64> {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let header: Header = serde_json::from_slice(line).map_err(|_| 0u64)?;
    match header.format {
        FORMAT => Ok(header.meta),
        _ => Err(0),
    }
}

/// Reads a snapshot; an error tells at which byte it is damaged.
pub(super) fn decode(bytes: &[u8]) -> Result<(Meta, Tables), u64> {
    let mut at = 0;
    let mut digest = Sha256::new();
    let mut rest = bytes;
    let mut line = Vec::new();
    let mut next = |digest: &mut Sha256| {
        let sum = hex::encode(digest.clone().finalize());
        line.clear();
        let read = rest.read_until(b'\n', &mut line).unwrap_or(0);
        digest.update(&line);
        let start = at;
        at += read as u64;
        if line.ends_with(b"\n") {
            Ok((line.clone(), start, sum))
        } else {
            Err(start)
        }
    };
    let (line, start, _) = next(&mut digest)?;
    let header: Header = serde_json::from_slice(&line).map_err(|_| start)?;
    let mut tables = Tables {
        version: header.version,
        ..Tables::default()
    };
    let mut objects = 0;
    loop {
        let (line, start, sha256) = next(&mut digest)?;
        if let Ok(object) = serde_json::from_slice::<Object>(&line) {
            tables.put(object);
            objects += 1;
            continue;
        }
        let end: End = serde_json::from_slice(&line).map_err(|_| start)?;
        let whole = header.format == FORMAT && end == End { objects, sha256 };
        return if whole {
            Ok((header.meta, tables))
        } else {
            Err(start)
        };
    }
}

struct Lines<'a> {
    writer: &'a mut dyn Write,
    digest: Sha256,
}

impl Lines<'_> {
    fn put(&mut self, value: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(value)?;
        line.push(b'\n');
        self.digest.update(&line);
        self.writer.write_all(&line)
    }
}

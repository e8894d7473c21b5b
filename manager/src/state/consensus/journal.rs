//! The journal: one append-only file of frames, each synced before it counts.
//!
//! ```text
//! frame = "SHJ1" | length u32 LE | first 8 bytes of SHA-256 of the payload | payload (JSON: list of records)
//! ```
//! One frame is one write and one fdatasync, so an interrupted write can only be the last frame: it was never
//! acknowledged and is cut off. A bad frame with a good one behind it is damage, and is refused.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use openraft::{Entry, LogId, Vote};
use rustix::fs::{FallocateFlags, fallocate};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{ConsensusError, Types};
use crate::files::{self, FileError};

const MAGIC: &[u8; 4] = b"SHJ1";
const HEADER: usize = 16;
/// Bytes that are set aside at a time.
const CHUNK: u64 = 1 << 20;

/// What happened to the log, in order.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Record {
    /// This manager has voted.
    Vote(Vote<u64>),
    /// An entry follows the last one.
    Entry(Entry<Types>),
    /// Entries from this index on are void.
    Truncate(u64),
    /// Entries up to this one are in a snapshot.
    Purge(LogId<u64>),
}

/// The open file.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    /// Bytes of good frames.
    size: u64,
    /// Bytes that the file system has set aside for the file.
    reserved: u64,
}

/// Where the journal of a directory is.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("journal")
}

impl Journal {
    /// Opens or makes the journal; hands every record to `replay`, in order. Cuts an interrupted write off.
    pub(super) fn open(dir: &Path, replay: impl FnMut(Record)) -> Result<Self, ConsensusError> {
        let path = path(dir);
        let options = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path);
        let file = options.map_err(files::error("open", &path))?;
        let bytes = std::fs::read(&path).map_err(files::error("read", &path))?;
        let size = scan(&path, &bytes, replay)?;
        let mut journal = Self {
            path,
            file,
            size,
            reserved: size,
        };
        journal
            .settle(bytes.len() as u64)
            .map_err(files::error("repair", &journal.path))?;
        Ok(journal)
    }

    /// Appends the records and returns once they are on the disk.
    pub(super) fn append(&mut self, records: &[Record]) -> io::Result<()> {
        let frame = frame(records)?;
        let written = self
            .file
            .write_all_at(&frame, self.size)
            .and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // Whatever part of it arrived must not stand before a later frame.
            self.file.set_len(self.size)?;
            self.reserved = self.size;
            return Err(error);
        }
        self.size += frame.len() as u64;
        Ok(())
    }

    /// Replaces the content by the records alone.
    pub(super) fn rewrite(&mut self, records: &[Record]) -> Result<(), FileError> {
        let frame = frame(records).map_err(files::error("write", &self.path))?;
        let (file, size) = files::replace(&self.path, |writer| writer.write_all(&frame))?;
        (self.file, self.size, self.reserved) = (file, size, size);
        Ok(())
    }

    /// Sets aside room for so many bytes more, so that appending them cannot fail for lack of space.
    pub(super) fn reserve(&mut self, bytes: u64) -> io::Result<()> {
        let needed = self.size + bytes;
        if needed <= self.reserved {
            return Ok(());
        }
        let end = needed.next_multiple_of(CHUNK);
        match fallocate(&self.file, FallocateFlags::KEEP_SIZE, self.size, end - self.size) {
            // A file system that cannot set space aside: appending will tell.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                self.reserved = end;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Bytes of the file.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The file itself, for words to the user.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Cuts off what is behind the good frames, and makes a new file's name durable.
    fn settle(&mut self, found: u64) -> io::Result<()> {
        if found > self.size {
            tracing::warn!(path = %self.path.display(), bytes = found - self.size, "cut off an interrupted write");
            self.file.set_len(self.size)?;
        }
        self.file.sync_all()?;
        files::sync_dir(&self.path)
    }
}

fn frame(records: &[Record]) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; HEADER];
    serde_json::to_writer(&mut frame, records)?;
    let length = u32::try_from(frame.len() - HEADER).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let digest = Sha256::digest(&frame[HEADER..]);
    let mut header = &mut frame[..HEADER];
    header.write_all(MAGIC)?;
    header.write_all(&length.to_le_bytes())?;
    header.write_all(&digest[..8])?;
    Ok(frame)
}

/// Reads frames from the start; returns where the good ones end.
fn scan(path: &Path, bytes: &[u8], mut replay: impl FnMut(Record)) -> Result<u64, ConsensusError> {
    let damaged = |offset: usize| ConsensusError::Damaged {
        path: path.to_owned(),
        offset: offset as u64,
    };
    let mut offset = 0;
    while let Some(payload) = payload(&bytes[offset..]) {
        let records: Vec<Record> = serde_json::from_slice(payload).map_err(|_| damaged(offset))?;
        records.into_iter().for_each(&mut replay);
        offset += HEADER + payload.len();
    }
    let behind = bytes.len().min(offset + 1);
    let good_behind = (behind..bytes.len()).any(|at| bytes[at..].starts_with(MAGIC) && payload_at(bytes, at));
    if good_behind {
        Err(damaged(offset))
    } else {
        Ok(offset as u64)
    }
}

fn payload_at(bytes: &[u8], at: usize) -> bool {
    payload(&bytes[at..]).is_some()
}

/// The payload of the frame at the beginning of `bytes`, if it is whole and good.
fn payload(bytes: &[u8]) -> Option<&[u8]> {
    let (header, rest) = bytes.split_at_checked(HEADER)?;
    let length = u32::from_le_bytes(header[4..8].try_into().ok()?);
    let payload = rest.get(..usize::try_from(length).ok()?)?;
    (header.starts_with(MAGIC) && header[8..] == Sha256::digest(payload)[..8]).then_some(payload)
}

//! The journal: one append-only file of frames, each synced before it counts.
//!
//! ```text
//! frame   = "SHJ2" | length u32 LE | first 8 bytes of SHA-256 of the payload | payload
//! payload = salt | number u64 LE | sealed JSON: list of records
//! ```
//! One frame is one write and one fdatasync, so an interrupted write can only be the last frame: it was never
//! acknowledged and is cut off. A bad frame with a good one behind it is damage, and is refused.
//!
//! Every opening and every rewriting seals under a salt of its own and counts its attempts, so a frame that takes the place
//! of one that was cut off shares no nonce with it. A frame is bound to its place in the file and to the salt of the file's
//! first frame: it opens nowhere else. A file from before frames were sealed ("SHJ1", the payload is the JSON) is read once
//! and sealed.

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
use crate::vault::{AtRest, Opener, Purpose, Salt, Sealer};

const SEALED: &[u8; 4] = b"SHJ2";
const PLAIN: &[u8; 4] = b"SHJ1";
const HEADER: usize = 16;
/// Bytes of a payload before what is sealed.
const PREFIX: usize = Salt::LENGTH + 8;
/// Bytes that are set aside at a time.
const CHUNK: u64 = 1 << 20;
/// Records in one frame when the journal is written anew. An entry has 1.5 MiB at most.
const TOGETHER: usize = 4;

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
    at_rest: AtRest,
    sealer: Sealer,
    /// The salt of the first frame, once there is one.
    first: Option<Salt>,
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
    pub(super) fn open(
        dir: &Path,
        at_rest: &AtRest,
        replay: impl FnMut(Record),
    ) -> Result<Self, ConsensusError> {
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
        let found = scan(&path, &bytes, at_rest, replay)?;
        let mut journal = Self {
            path,
            file,
            at_rest: at_rest.clone(),
            sealer: at_rest.sealer(Purpose::Journal),
            first: found.first,
            size: found.size,
            reserved: found.size,
        };
        journal
            .settle(bytes.len() as u64)
            .map_err(files::error("repair", &journal.path))?;
        if let Some(plain) = found.plain {
            journal.replace(plain.into_iter().map(Ok))?;
        }
        Ok(journal)
    }

    /// Appends the records and returns once they are on the disk.
    pub(super) fn append(&mut self, records: &[Record]) -> io::Result<()> {
        let first = self.first.unwrap_or(self.sealer.salt());
        let frame = frame(&mut self.sealer, first, self.size, &serde_json::to_vec(records)?)?;
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
        self.first = Some(first);
        self.size += frame.len() as u64;
        Ok(())
    }

    /// Replaces the content by the records alone. After a large snapshot they are many: a few at a time make a frame.
    pub(super) fn rewrite(&mut self, records: &[Record]) -> Result<(), FileError> {
        self.replace(
            records
                .chunks(TOGETHER)
                .map(|records| Ok(serde_json::to_vec(records)?)),
        )
    }

    /// Replaces the content by these lists of records.
    fn replace(&mut self, lists: impl Iterator<Item = io::Result<Vec<u8>>>) -> Result<(), FileError> {
        let mut sealer = self.at_rest.sealer(Purpose::Journal);
        let first = sealer.salt();
        let (file, size) = files::replace(&self.path, |writer| {
            let mut at = 0;
            for list in lists {
                let frame = frame(&mut sealer, first, at, &list?)?;
                writer.write_all(&frame)?;
                at += frame.len() as u64;
            }
            Ok(())
        })?;
        (self.file, self.size, self.reserved) = (file, size, size);
        (self.sealer, self.first) = (sealer, (size > 0).then_some(first));
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

fn frame(sealer: &mut Sealer, first: Salt, offset: u64, text: &[u8]) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; HEADER];
    frame.extend_from_slice(&sealer.salt().0);
    frame.extend_from_slice(&sealer.next().to_le_bytes());
    frame.extend_from_slice(text);
    sealer.seal(&place(first, offset), &mut frame, HEADER + PREFIX)?;
    let length = u32::try_from(frame.len() - HEADER).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let digest = Sha256::digest(&frame[HEADER..]);
    let mut header = &mut frame[..HEADER];
    header.write_all(SEALED)?;
    header.write_all(&length.to_le_bytes())?;
    header.write_all(&digest[..8])?;
    Ok(frame)
}

/// What a frame is bound to.
fn place(first: Salt, offset: u64) -> Vec<u8> {
    [first.0.as_slice(), &offset.to_le_bytes()].concat()
}

/// What a file holds beside its records.
#[derive(Default)]
struct Found {
    /// Where the good frames end.
    size: u64,
    first: Option<Salt>,
    /// The lists of a file that is not sealed yet.
    plain: Option<Vec<Vec<u8>>>,
}

/// Reads frames from the start.
fn scan(
    path: &Path,
    bytes: &[u8],
    at_rest: &AtRest,
    mut replay: impl FnMut(Record),
) -> Result<Found, ConsensusError> {
    let damaged = |offset: usize| ConsensusError::Damaged {
        path: path.to_owned(),
        offset: offset as u64,
    };
    let is_plain = at_rest.accepts_plain() && bytes.starts_with(PLAIN);
    let magic = if is_plain { PLAIN } else { SEALED };
    let mut reader = Reader::new(at_rest);
    let mut found = Found {
        plain: is_plain.then(Vec::new),
        ..Found::default()
    };
    let mut offset = 0;
    while let Some(payload) = payload(magic, &bytes[offset..]) {
        let text = match &mut found.plain {
            Some(lists) => {
                lists.push(payload.to_vec());
                Some(payload.to_vec())
            }
            None => reader.open(offset as u64, payload),
        };
        let records: Option<Vec<Record>> = text.and_then(|text| serde_json::from_slice(&text).ok());
        records
            .ok_or_else(|| damaged(offset))?
            .into_iter()
            .for_each(&mut replay);
        offset += HEADER + payload.len();
    }
    (found.size, found.first) = (offset as u64, reader.first);
    match has_good_frame(&bytes[offset..]) {
        true => Err(damaged(offset)),
        false => Ok(found),
    }
}

/// Whether a frame begins anywhere in what is left. One of the wrong kind is damage, too, and no interrupted write.
fn has_good_frame(bytes: &[u8]) -> bool {
    let good = |at: usize| {
        let kinds = [SEALED, PLAIN].into_iter();
        kinds
            .map(|magic| payload(magic, &bytes[at..]))
            .any(|found| found.is_some())
    };
    (0..bytes.len()).any(good)
}

/// Opens frames in their order. Few openings of the journal mean few salts.
struct Reader<'a> {
    at_rest: &'a AtRest,
    first: Option<Salt>,
    current: Option<(Salt, Opener)>,
}

impl<'a> Reader<'a> {
    fn new(at_rest: &'a AtRest) -> Self {
        Self {
            at_rest,
            first: None,
            current: None,
        }
    }

    fn open(&mut self, offset: u64, payload: &[u8]) -> Option<Vec<u8>> {
        let (salt, rest) = Salt::split(payload)?;
        let (number, sealed) = rest.split_first_chunk()?;
        let first = *self.first.get_or_insert(salt);
        let known = self.current.take().filter(|(known, _)| *known == salt);
        let (_, opener) = self
            .current
            .insert(known.unwrap_or_else(|| (salt, self.at_rest.opener(Purpose::Journal, salt))));
        opener.open(u64::from_le_bytes(*number), &place(first, offset), sealed)
    }
}

/// The payload of the frame at the beginning of `bytes`, if it is whole and good.
fn payload<'a>(magic: &[u8; 4], bytes: &'a [u8]) -> Option<&'a [u8]> {
    if !bytes.starts_with(magic) {
        return None;
    }
    let (header, rest) = bytes.split_at_checked(HEADER)?;
    let length = u32::from_le_bytes(header[4..8].try_into().ok()?);
    let payload = rest.get(..usize::try_from(length).ok()?)?;
    (header[8..] == Sha256::digest(payload)[..8]).then_some(payload)
}

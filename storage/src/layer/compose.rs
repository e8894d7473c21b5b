//! A layer made from entries in memory and files on disk: the tar is produced while it is read.

use std::fs::File;
use std::io::{self, Cursor, Read, Take};
use std::path::PathBuf;
use std::sync::Arc;

use super::LayerError;
use crate::root_fd::RootFd;
use crate::tar::{EntryKind, NewEntry, TarWriter, Xattrs, show};

/// One member of a new layer.
#[derive(Debug, Clone)]
pub struct LayerEntry {
    /// Relative to the root, without a leading `/`; empty for the root itself.
    pub path: Vec<u8>,
    pub data: LayerData,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Unix seconds and nanoseconds.
    pub mtime: (i64, u32),
    pub xattrs: Xattrs,
}

/// What the member is.
#[derive(Debug, Clone)]
pub enum LayerData {
    Directory,
    /// `size` bytes of the file at `path` in `root`.
    File {
        root: Arc<RootFd>,
        path: PathBuf,
        size: u64,
    },
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

/// Refuses names that would mean something else in a layer.
pub(super) fn check(entries: &[LayerEntry]) -> Result<(), LayerError> {
    let is_whiteout = |path: &[u8]| {
        path.rsplit(|b| *b == b'/')
            .next()
            .is_some_and(|n| n.starts_with(b".wh."))
    };
    match entries.iter().find(|entry| is_whiteout(&entry.path)) {
        Some(entry) => Err(LayerError::WhiteoutName(show(&entry.path))),
        None => Ok(()),
    }
}

/// Reads as the tar of the entries.
#[derive(Debug)]
pub(super) struct EntryReader {
    entries: std::vec::IntoIter<LayerEntry>,
    /// Headers and padding.
    head: Cursor<Vec<u8>>,
    body: Option<Take<File>>,
    padding: usize,
    ended: bool,
}

impl EntryReader {
    pub(super) fn new(entries: Vec<LayerEntry>) -> Self {
        let entries = entries.into_iter();
        Self {
            entries,
            head: Cursor::default(),
            body: None,
            padding: 0,
            ended: false,
        }
    }

    /// Prepares what follows; false at the end.
    fn advance(&mut self) -> io::Result<bool> {
        if self.padding > 0 {
            self.head = Cursor::new(vec![0; std::mem::take(&mut self.padding)]);
            return Ok(true);
        }
        if let Some(entry) = self.entries.next() {
            self.begin(&entry)?;
            return Ok(true);
        }
        if !std::mem::replace(&mut self.ended, true) {
            self.head = Cursor::new(TarWriter::new(Vec::new()).finish()?);
            return Ok(true);
        }
        Ok(false)
    }

    fn begin(&mut self, entry: &LayerEntry) -> io::Result<()> {
        let mut tar = TarWriter::new(Vec::new());
        let path = if matches!(entry.data, LayerData::Directory) {
            let dot: &[u8] = if entry.path.is_empty() { b"." } else { b"" };
            [dot, &entry.path, b"/"].concat()
        } else {
            entry.path.clone()
        };
        tar.header(&describe(entry, &path, &entry.xattrs))?;
        self.head = Cursor::new(std::mem::take(tar.raw()));
        if let LayerData::File { root, path, size } = &entry.data {
            self.body = Some(root.open(path).map_err(io::Error::other)?.take(*size));
            self.padding = (512 - size % 512) as usize % 512;
        }
        Ok(())
    }

    fn read_body(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(body) = &mut self.body else { return Ok(0) };
        let n = body.read(buf)?;
        if n == 0 {
            let missing = body.limit();
            self.body = None;
            if missing > 0 {
                return Err(io::Error::other("a file shrank while it was read"));
            }
        }
        Ok(n)
    }
}

impl Read for EntryReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            let n = self.head.read(buf)?;
            if n > 0 {
                return Ok(n);
            }
            let n = self.read_body(buf)?;
            if n > 0 {
                return Ok(n);
            }
            if !self.advance()? {
                return Ok(0);
            }
        }
    }
}

fn describe<'a>(entry: &'a LayerEntry, path: &'a [u8], xattrs: &'a Xattrs) -> NewEntry<'a> {
    let (kind, link, size, device): (EntryKind, &[u8], u64, (u32, u32)) = match &entry.data {
        LayerData::Directory => (EntryKind::Directory, b"", 0, (0, 0)),
        LayerData::File { size, .. } => (EntryKind::File, b"", *size, (0, 0)),
        LayerData::Symlink(target) => (EntryKind::Symlink, target, 0, (0, 0)),
        LayerData::HardLink(target) => (EntryKind::HardLink, target, 0, (0, 0)),
        LayerData::CharDevice(major, minor) => (EntryKind::CharDevice, b"", 0, (*major, *minor)),
        LayerData::BlockDevice(major, minor) => (EntryKind::BlockDevice, b"", 0, (*major, *minor)),
        LayerData::Fifo => (EntryKind::Fifo, b"", 0, (0, 0)),
    };
    NewEntry {
        path,
        link,
        kind,
        mode: entry.mode & 0o7777,
        uid: entry.uid,
        gid: entry.gid,
        size,
        mtime: entry.mtime,
        device,
        xattrs,
    }
}

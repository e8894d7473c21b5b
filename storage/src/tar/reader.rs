//! Reading a tar stream entry by entry.
//!
//! Everything that is read goes through the hasher; everything but the data of plain files also goes to the
//! `frame` buffer, so that a caller can keep what is needed to write the same tar again.

use std::io::{self, Read};

use super::header::{BLOCK, EntryKind, Flag, Header};
use super::pax::{self, Pax};
use super::sparse::{self, DataMap, SparseMap};
use super::{TarError, show};
use crate::digest::{Digest, Hashing};

/// Longest PAX header, GNU long name or long link that is read, in bytes (Go's archive/tar has the same bound).
const MAX_SPECIAL: u64 = 1 << 20;
/// Bytes of headers that one entry may have, all kinds together.
const MAX_FRAME: usize = 32 << 20;
/// Largest size that fits a ustar size field.
const USTAR_MAX: u64 = 0o777_7777_7777;

/// One member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// As written, not yet checked against climbing out.
    pub(crate) path: Vec<u8>,
    /// Target of a link, as written.
    pub(crate) link: Vec<u8>,
    pub(crate) kind: EntryKind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: super::Xattrs,
    /// Bytes of data that follow in the stream.
    pub(crate) stored: u64,
    pub(crate) sparse: Option<SparseMap>,
}

/// Reads a plain tar. The data of an entry is read through [`Read`]; what is left of it is skipped.
pub(crate) struct TarReader<R> {
    input: Hashing<R>,
    /// Raw bytes since the last [`TarReader::take_frame`] that are not plain file data.
    frame: Option<Vec<u8>>,
    remaining: u64,
    padding: usize,
    /// Whether the current entry's data goes to the frame.
    framed_data: bool,
    last: String,
    /// A good header was read.
    started: bool,
    done: bool,
}

impl<R: Read> TarReader<R> {
    /// With `keep_frame`, the caller must drain the frame after each entry.
    pub(crate) fn new(input: R, keep_frame: bool) -> Self {
        Self {
            input: Hashing::new(input),
            frame: keep_frame.then(Vec::new),
            remaining: 0,
            padding: 0,
            framed_data: false,
            last: String::new(),
            started: false,
            done: false,
        }
    }

    /// The raw bytes read since the last call, without the data of plain files.
    pub(crate) fn take_frame(&mut self) -> Vec<u8> {
        self.frame.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The next entry, or `None` at the end of the archive.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut before = Before::default();
        loop {
            self.skip_data()?;
            if self.frame.as_ref().is_some_and(|frame| frame.len() > MAX_FRAME) {
                return Err(self.damaged("too many extended headers precede it"));
            }
            let Some(block) = self.header_block()? else {
                return if before.is_empty() {
                    Ok(None)
                } else {
                    Err(self.truncated())
                };
            };
            let header = Header::parse(&block).map_err(|reason| self.bad_header(&block, reason))?;
            self.started = true;
            match header.flag() {
                Flag::Pax => before.pax = self.pax(&header)?,
                Flag::GlobalPax => drop(self.special(&header)?),
                Flag::LongName => before.name = Some(self.special_text(&header)?),
                Flag::LongLink => before.link = Some(self.special_text(&header)?),
                Flag::Entry(kind) => return self.entry(&header, kind, before, None).map(Some),
                Flag::Sparse => {
                    let map = self.old_sparse(&block)?;
                    return self.entry(&header, EntryKind::File, before, Some(map)).map(Some);
                }
                Flag::Unknown(flag) => {
                    let reason = format!("unsupported type {:?}", char::from(flag));
                    return Err(TarError::Entry {
                        entry: show(&header.name()),
                        reason,
                    });
                }
            }
        }
    }

    /// Reads the stream to its end (archives are padded after their end mark), handing the frame to `rest` piece by
    /// piece: digest and length of everything.
    pub(crate) fn finish<E: From<TarError>>(
        mut self,
        rest: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(Digest, u64), E> {
        self.framed_data = true;
        let mut buffer = [0u8; 8192];
        loop {
            let n = self.raw(&mut buffer).map_err(|source| self.failed(source))?;
            rest(&self.take_frame())?;
            if n == 0 {
                let (digest, count, _) = self.input.finish();
                return Ok((digest, count));
            }
        }
    }

    fn entry(
        &mut self,
        header: &Header<'_>,
        kind: EntryKind,
        before: Before,
        old_sparse: Option<(Vec<(u64, u64)>, u64)>,
    ) -> Result<Entry, TarError> {
        let pax = before.pax;
        let mut path = before.name.or(pax.path).unwrap_or_else(|| header.name());
        let fail = |reason: String| TarError::Entry {
            entry: show(&path),
            reason,
        };
        let need = |name: &str| fail(format!("its {name} is no valid number"));
        let written = header.size().ok_or_else(|| need("size"))?;
        let stored = if kind == EntryKind::File {
            data_size(written, pax.size).map_err(&fail)?
        } else {
            0
        };
        let mut entry = Entry {
            path: Vec::new(),
            link: before.link.or(pax.link).unwrap_or_else(|| header.link()),
            kind,
            mode: header.mode().ok_or_else(|| need("mode"))? & 0o7777,
            uid: pax.uid.or_else(|| header.uid()).ok_or_else(|| need("owner"))?,
            gid: pax.gid.or_else(|| header.gid()).ok_or_else(|| need("group"))?,
            mtime: pax
                .mtime
                .or_else(|| header.mtime().map(|t| (t, 0)))
                .ok_or_else(|| need("time"))?,
            device: match kind {
                EntryKind::CharDevice | EntryKind::BlockDevice => {
                    header.device().ok_or_else(|| need("device number"))?
                }
                _ => (0, 0),
            },
            xattrs: pax.xattrs,
            stored,
            sparse: None,
        };
        self.last = show(&path);
        self.remaining = stored;
        self.padding = padding(stored);
        if let Some((pieces, size)) = old_sparse {
            entry.sparse = Some(SparseMap::checked(pieces, size, stored).map_err(&fail)?);
        } else if !pax.sparse.is_empty() && kind == EntryKind::File {
            let (map, name) = self.pax_sparse(&pax.sparse)?;
            path = name.unwrap_or(path);
            entry.sparse = Some(map);
            entry.stored = self.remaining;
        }
        self.framed_data = entry.sparse.is_some();
        if path.is_empty() {
            return Err(self.damaged("its name is empty"));
        }
        entry.path = path;
        Ok(entry)
    }

    fn pax_sparse(&mut self, records: &[(String, String)]) -> Result<(SparseMap, Option<Vec<u8>>), TarError> {
        let entry = self.last.clone();
        let fail = |reason: String| TarError::Entry {
            entry: entry.clone(),
            reason,
        };
        let value = |key: &str| records.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        let number = |key: &str| value(key).and_then(|v| pax::decimal(v.as_bytes()));
        let name = value("name").map(|n| n.as_bytes().to_vec());
        let size = number("realsize")
            .or_else(|| number("size"))
            .ok_or_else(|| fail("its sparse size is missing".into()))?;
        let pieces = match (value("major"), value("minor"), value("map")) {
            (Some("1"), Some("0"), None) => self.data_map()?,
            (None, None, Some(map)) | (Some("0"), Some("1"), Some(map)) => {
                sparse::pax_map(map).map_err(&fail)?
            }
            _ => {
                return Err(fail(
                    "unsupported sparse format: repack it with `tar --sparse-version=1.0`".into(),
                ));
            }
        };
        let map = SparseMap::checked(pieces, size, self.remaining).map_err(&fail)?;
        Ok((map, name))
    }

    fn data_map(&mut self) -> Result<Vec<(u64, u64)>, TarError> {
        let mut map = DataMap::default();
        self.framed_data = true;
        loop {
            if self.remaining < BLOCK as u64 {
                return Err(self.truncated());
            }
            let block = self.full_block()?.ok_or_else(|| self.truncated())?;
            self.remaining -= BLOCK as u64;
            let done = map.block(&block);
            if let Some(pieces) = done.map_err(|reason| TarError::Entry {
                entry: self.last.clone(),
                reason,
            })? {
                return Ok(pieces);
            }
        }
    }

    fn old_sparse(&mut self, header: &[u8; BLOCK]) -> Result<(Vec<(u64, u64)>, u64), TarError> {
        let fail = |last: &str, reason| TarError::Entry {
            entry: last.to_owned(),
            reason,
        };
        let mut pieces = Vec::new();
        let size =
            sparse::old_gnu_size(header).ok_or_else(|| self.damaged("its sparse size is no number"))?;
        let mut more = sparse::old_gnu(header, true, &mut pieces).map_err(|r| fail(&self.last, r))?;
        while more {
            let block = self.full_block()?.ok_or_else(|| self.truncated())?;
            more = sparse::old_gnu(&block, false, &mut pieces).map_err(|r| fail(&self.last, r))?;
        }
        // A hole at the end is written as a piece of length 0 at the file's size.
        pieces.retain(|(_, length)| *length > 0);
        Ok((pieces, size))
    }

    fn pax(&mut self, header: &Header<'_>) -> Result<Pax, TarError> {
        let data = self.special(header)?;
        pax::parse(&data).map_err(|reason| TarError::Entry {
            entry: show(&header.name()),
            reason,
        })
    }

    fn special_text(&mut self, header: &Header<'_>) -> Result<Vec<u8>, TarError> {
        let data = self.special(header)?;
        Ok(super::header::text(&data).to_vec())
    }

    /// The data of an entry that only describes another.
    fn special(&mut self, header: &Header<'_>) -> Result<Vec<u8>, TarError> {
        let size = header
            .size()
            .ok_or_else(|| self.damaged("its size is no number"))?;
        if size > MAX_SPECIAL {
            return Err(self.damaged("an extended header is longer than 1 MiB"));
        }
        self.remaining = size;
        self.padding = padding(size);
        self.framed_data = true;
        let mut data = Vec::new();
        match self.read_to_end(&mut data) {
            Ok(_) => Ok(data),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Reads over what is left of the current entry and its padding. The very last padding may be missing.
    fn skip_data(&mut self) -> Result<(), TarError> {
        let mut buffer = [0u8; 8192];
        while self.remaining > 0 {
            if let Err(error) = self.read(&mut buffer) {
                return Err(self.failed(error));
            }
        }
        self.framed_data = true;
        while self.padding > 0 {
            let want = self.padding;
            match self.raw(&mut buffer[..want]) {
                Ok(0) => self.padding = 0,
                Ok(n) => self.padding -= n,
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(())
    }

    /// The next header, or `None` at the end mark (two zero blocks) or the end of the stream.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        if self.done {
            return Ok(None);
        }
        let Some(block) = self.full_block()? else {
            self.done = true;
            return Ok(None);
        };
        if block.iter().any(|b| *b != 0) {
            return Ok(Some(block));
        }
        self.done = true;
        match self.full_block()? {
            Some(second) if second.iter().any(|b| *b != 0) => {
                Err(self.damaged("a lone zero block precedes it"))
            }
            _ => Ok(None),
        }
    }

    /// A whole block, or `None` at the end of the stream.
    fn full_block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        self.framed_data = true;
        let mut block = [0u8; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            match self.raw(&mut block[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) if self.started => return Err(self.truncated()),
                // A stream shorter than a block.
                Ok(0) => return Err(TarError::NotATar),
                Ok(n) => have += n,
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(Some(block))
    }

    fn raw(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = loop {
            match self.input.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        if let (true, Some(frame)) = (self.framed_data, &mut self.frame) {
            frame.extend_from_slice(&buffer[..n]);
        }
        Ok(n)
    }

    fn truncated(&self) -> TarError {
        TarError::Truncated {
            entry: self.last.clone(),
        }
    }

    /// A bad first header without a tar's magic means that this never was one.
    fn bad_header(&self, block: &[u8; BLOCK], reason: &'static str) -> TarError {
        if self.started || block[257..262] == *b"ustar" {
            self.damaged(reason)
        } else {
            TarError::NotATar
        }
    }

    fn damaged(&self, reason: &'static str) -> TarError {
        TarError::Header {
            after: self.last.clone(),
            reason,
        }
    }

    /// Names an I/O error: an early end (ours or the decompressor's) is a truncated archive.
    pub(crate) fn failed(&self, source: io::Error) -> TarError {
        match source.kind() {
            io::ErrorKind::UnexpectedEof => self.truncated(),
            _ => TarError::Read {
                after: self.last.clone(),
                source,
            },
        }
    }
}

impl<R: Read> Read for TarReader<R> {
    /// Data of the current entry.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.remaining == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let most = usize::try_from(self.remaining).map_or(buffer.len(), |left| left.min(buffer.len()));
        let n = self.raw(&mut buffer[..most])?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.remaining -= n as u64;
        Ok(n)
    }
}

/// What preceding special entries say about the entry that follows.
#[derive(Default)]
struct Before {
    pax: Pax,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Before {
    fn is_empty(&self) -> bool {
        self.pax == Pax::default() && self.name.is_none() && self.link.is_none()
    }
}

/// The one size of an entry. A PAX size may only differ from the header's where that field cannot hold it: any other
/// pair is read differently by different tools (CVE-2025-62518).
fn data_size(header: u64, pax: Option<u64>) -> Result<u64, String> {
    match pax {
        Some(size) if size != header && size <= USTAR_MAX => Err(format!(
            "its header says {header} bytes and its PAX record {size}"
        )),
        Some(size) => Ok(size),
        None => Ok(header),
    }
}

fn padding(size: u64) -> usize {
    let over = (size % BLOCK as u64) as usize;
    if over == 0 { 0 } else { BLOCK - over }
}

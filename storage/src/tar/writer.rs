//! Writing tars that are the same for the same input: PAX only where ustar cannot say it, no names of users, no clock.

use std::io::{self, Read, Seek, SeekFrom, Write};

use super::SparseMap;
use super::header::{BLOCK, EntryKind};

/// An entry to write. Times are whole where possible: a PAX record is added only for nanoseconds.
#[derive(Debug, Clone)]
pub(crate) struct NewEntry<'a> {
    pub(crate) path: &'a [u8],
    pub(crate) link: &'a [u8],
    pub(crate) kind: EntryKind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u64,
    pub(crate) mtime: (i64, u32),
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

impl<'a> NewEntry<'a> {
    /// A plain entry of root's, to be changed where needed.
    pub(crate) fn new(path: &'a [u8], kind: EntryKind, mode: u32, size: u64) -> Self {
        Self {
            path,
            link: b"",
            kind,
            mode,
            uid: 0,
            gid: 0,
            size,
            mtime: (0, 0),
            device: (0, 0),
            xattrs: &[],
        }
    }
}

/// Writes entries one after the other; [`TarWriter::finish`] writes the end mark.
#[derive(Debug)]
pub(crate) struct TarWriter<W> {
    output: W,
}

impl<W: Write> TarWriter<W> {
    pub(crate) fn new(output: W) -> Self {
        Self { output }
    }

    /// Writes an entry with `entry.size` bytes of `data`; fewer are an error.
    pub(crate) fn append(&mut self, entry: &NewEntry<'_>, data: &mut dyn Read) -> io::Result<()> {
        self.header(entry)?;
        let copied = io::copy(&mut data.take(entry.size), &mut self.output)?;
        if copied != entry.size {
            return Err(shrank());
        }
        self.pad(entry.size)
    }

    /// Writes a file with holes (PAX format 1.0: the map stands before the data). `entry.size` is the length of the file.
    pub(crate) fn append_sparse(
        &mut self,
        entry: &NewEntry<'_>,
        map: &SparseMap,
        data: &mut (impl Read + Seek),
    ) -> io::Result<()> {
        let mut text = format!("{}\n", map.pieces.len()).into_bytes();
        for (offset, length) in &map.pieces {
            text.extend(format!("{offset}\n{length}\n").into_bytes());
        }
        text.resize(text.len().next_multiple_of(BLOCK), 0);
        let stored: u64 = map.pieces.iter().map(|(_, length)| length).sum();
        let shrunk = NewEntry {
            size: text.len() as u64 + stored,
            ..entry.clone()
        };
        let real = entry.size.to_string();
        let sparse = [("major", "1"), ("minor", "0"), ("realsize", real.as_str())];
        let sparse = sparse.map(|(key, value)| {
            let key = format!("GNU.sparse.{key}").into_bytes();
            (key, value.as_bytes().to_vec())
        });
        self.header_with(&shrunk, sparse.to_vec())?;
        self.output.write_all(&text)?;
        for (offset, length) in &map.pieces {
            data.seek(SeekFrom::Start(*offset))?;
            if io::copy(&mut data.by_ref().take(*length), &mut self.output)? != *length {
                return Err(shrank());
            }
        }
        self.pad(shrunk.size)
    }

    /// Hands out the stream for raw bytes.
    pub(crate) fn raw(&mut self) -> &mut W {
        &mut self.output
    }

    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.output.write_all(&[0; 2 * BLOCK])?;
        self.output.flush()?;
        Ok(self.output)
    }

    /// Writes the headers alone; the caller writes the data through [`TarWriter::raw`] and then pads.
    pub(crate) fn header(&mut self, entry: &NewEntry<'_>) -> io::Result<()> {
        self.header_with(entry, Vec::new())
    }

    fn header_with(&mut self, entry: &NewEntry<'_>, more: Records) -> io::Result<()> {
        let records = pax_records(entry, more);
        if !records.is_empty() {
            let mut special = NewEntry::new(b"PaxHeader", EntryKind::File, 0o644, records.len() as u64);
            special.mtime = (entry.mtime.0.max(0), 0);
            self.output.write_all(&block(&special, b'x'))?;
            self.output.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        self.output.write_all(&block(entry, flag(entry.kind)))
    }

    pub(crate) fn pad(&mut self, size: u64) -> io::Result<()> {
        let over = (size % BLOCK as u64) as usize;
        if over > 0 {
            self.output.write_all(&[0; BLOCK][over..])?;
        }
        Ok(())
    }
}

/// Keys and values of a PAX header.
type Records = Vec<(Vec<u8>, Vec<u8>)>;

fn shrank() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "file shrank while it was read")
}

fn flag(kind: EntryKind) -> u8 {
    match kind {
        EntryKind::File => b'0',
        EntryKind::HardLink => b'1',
        EntryKind::Symlink => b'2',
        EntryKind::CharDevice => b'3',
        EntryKind::BlockDevice => b'4',
        EntryKind::Directory => b'5',
        EntryKind::Fifo => b'6',
    }
}

/// Largest values of the octal fields.
const MAX_SIZE: u64 = 0o777_7777_7777;
const MAX_ID: u32 = 0o777_7777;

fn block(entry: &NewEntry<'_>, flag: u8) -> [u8; BLOCK] {
    let mut block = [0u8; BLOCK];
    put(&mut block[..100], entry.path);
    octal(&mut block[100..108], u64::from(entry.mode));
    octal(&mut block[108..116], u64::from(entry.uid.min(MAX_ID)));
    octal(&mut block[116..124], u64::from(entry.gid.min(MAX_ID)));
    octal(&mut block[124..136], entry.size.min(MAX_SIZE));
    octal(&mut block[136..148], whole_time(entry));
    block[156] = flag;
    put(&mut block[157..257], entry.link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    octal(&mut block[329..337], u64::from(entry.device.0));
    octal(&mut block[337..345], u64::from(entry.device.1));
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
    octal(&mut block[148..155], sum);
    block
}

fn put(field: &mut [u8], value: &[u8]) {
    let n = value.len().min(field.len());
    field[..n].copy_from_slice(&value[..n]);
}

/// Zero-filled octal digits with a closing NUL.
fn octal(field: &mut [u8], value: u64) {
    let width = field.len() - 1;
    let digits = format!("{value:0width$o}");
    field[..width].copy_from_slice(&digits.as_bytes()[digits.len() - width..]);
    field[width] = 0;
}

fn whole_time(entry: &NewEntry<'_>) -> u64 {
    u64::try_from(entry.mtime.0).map_or(0, |seconds| seconds.min(MAX_SIZE))
}

/// The records for what the header block cannot hold, sorted by key.
fn pax_records(entry: &NewEntry<'_>, mut records: Records) -> Vec<u8> {
    let mut add = |key: &str, value: Vec<u8>| records.push((key.as_bytes().to_vec(), value));
    if entry.path.len() > 100 || !entry.path.is_ascii() {
        add("path", entry.path.to_vec());
    }
    if entry.link.len() > 100 || !entry.link.is_ascii() {
        add("linkpath", entry.link.to_vec());
    }
    if entry.size > MAX_SIZE {
        add("size", entry.size.to_string().into_bytes());
    }
    if entry.uid > MAX_ID {
        add("uid", entry.uid.to_string().into_bytes());
    }
    if entry.gid > MAX_ID {
        add("gid", entry.gid.to_string().into_bytes());
    }
    if entry.mtime.1 != 0 || entry.mtime.0 != i64::try_from(whole_time(entry)).unwrap_or(0) {
        add("mtime", pax_time(entry.mtime).into_bytes());
    }
    for (name, value) in entry.xattrs {
        records.push(([b"SCHILY.xattr.", name.as_slice()].concat(), value.clone()));
    }
    records.sort();
    records
        .iter()
        .flat_map(|(key, value)| record(key, value))
        .collect()
}

fn pax_time((seconds, nanos): (i64, u32)) -> String {
    if nanos == 0 {
        return seconds.to_string();
    }
    let (sign, seconds, nanos) = if seconds < 0 {
        ("-", -(seconds + 1), 1_000_000_000 - nanos)
    } else {
        ("", seconds, nanos)
    };
    format!("{sign}{seconds}.{nanos:09}")
        .trim_end_matches('0')
        .to_owned()
}

/// `"<length> <key>=<value>\n"`, where the length counts its own digits.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

#[cfg(test)]
mod tests {
    use super::super::TarReader;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            path in "[a-zé/]{1,160}", seconds in -5i64..5_000_000_000, nanos in 0u32..1_000_000_000,
            uid in 0u32..5_000_000, data in prop::collection::vec(any::<u8>(), 0..1500),
            xattr in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let xattrs = [(b"user.x".to_vec(), xattr)];
            let mut entry = NewEntry::new(path.as_bytes(), EntryKind::File, 0o640, data.len() as u64);
            entry.mtime = (seconds, nanos);
            entry.uid = uid;
            entry.xattrs = &xattrs;
            let mut writer = TarWriter::new(Vec::new());
            writer.append(&entry, &mut data.as_slice()).unwrap();
            let bytes = writer.finish().unwrap();

            // The other parser agrees on where the data is (it cannot read records with a newline in the value).
            if !xattrs[0].1.contains(&b'\n') {
                let mut oracle = tar::Archive::new(bytes.as_slice());
                let mut other = oracle.entries().unwrap().next().unwrap().unwrap();
                prop_assert_eq!(other.path_bytes().to_vec(), path.as_bytes());
                let mut other_data = Vec::new();
                other.read_to_end(&mut other_data).unwrap();
                prop_assert_eq!(&other_data, &data);
            }

            let mut reader = TarReader::new(bytes.as_slice(), false);
            let read = reader.next_entry().unwrap().unwrap();
            prop_assert_eq!(read.path, path.as_bytes());
            prop_assert_eq!((read.mtime, read.uid), ((seconds, nanos), uid));
            prop_assert_eq!(read.xattrs.as_slice(), xattrs.as_slice());
            let mut content = Vec::new();
            reader.read_to_end(&mut content).unwrap();
            prop_assert_eq!(&content, &data);
            prop_assert!(reader.next_entry().unwrap().is_none());
        }

        #[test]
        fn no_damage_panics(at in 0usize..2048, with in any::<u8>(), cut in 0usize..3000) {
            let mut writer = TarWriter::new(Vec::new());
            let long = [b'n'; 120];
            let entry = NewEntry::new(&long, EntryKind::File, 0o600, 3);
            writer.append(&entry, &mut &b"abc"[..]).unwrap();
            let mut bytes = writer.finish().unwrap();
            if let Some(byte) = bytes.get_mut(at) { *byte = with; }
            bytes.truncate(cut);
            let mut reader = TarReader::new(bytes.as_slice(), true);
            while let Ok(Some(_)) = reader.next_entry() {}
        }
    }
}

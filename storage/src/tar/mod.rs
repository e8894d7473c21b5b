//! Reading and writing tar streams (POSIX pax, ustar, GNU).
//!
//! An own parser, because a layer's identity is every byte of its tar: the reader hands out what is *not* file data
//! too (see [`reader::TarReader`]), refuses what two parsers could read differently (CVE-2025-62518 and its
//! kin: PAX size beside header size, malformed PAX records), and accepts a last block without padding, as Docker does.

mod header;
mod pax;
pub(crate) mod reader;
mod sparse;
pub(crate) mod writer;

use std::io;

pub(crate) use self::header::EntryKind;
pub(crate) use self::reader::{Entry, TarReader};
pub(crate) use self::sparse::SparseMap;
pub(crate) use self::writer::{NewEntry, TarWriter};

/// Extended attributes: names and values.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Why a tar stream was refused.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("read tar stream after entry {after:?}")]
    Read { after: String, source: io::Error },
    #[error("the archive is truncated: it ends inside {entry:?}; get it again")]
    Truncated { entry: String },
    #[error("this is no tar archive, neither plain nor compressed with gzip or zstd")]
    NotATar,
    #[error("tar header after entry {after:?} is damaged: {reason}")]
    Header { after: String, reason: &'static str },
    #[error("tar entry {entry:?}: {reason}")]
    Entry { entry: String, reason: String },
}

/// An entry's path as it is shown in messages.
pub(crate) fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(&path[..path.len().min(200)]).into_owned()
}

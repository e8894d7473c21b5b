//! The recipe of a layer: what turns its directory back into the very tar it came from.
//!
//! A layer is named by the digest of its tar, and tars of the same files differ in a hundred ways. So every byte of
//! the tar that is not the data of a plain file is kept here, zstd-compressed (well under 1 % of the tar), and the data
//! comes from the directory (Docker's tar-split has the same idea).
//!
//! ```text
//! recipe := step*
//! step   := 'R' length:u64 bytes      bytes of the tar as they are
//!         | 'F' size:u64 length:u32 path   the data of this file
//! ```
//! Integers are little-endian. The n-th `F` step reads `shadow/<n>` instead where that exists: an entry that a later
//! one of the same tar has replaced.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use super::path::InRoot;
use crate::root_fd::RootFd;

/// Raw bytes collected before they are written as one step.
const FLUSH: usize = 64 << 10;

/// Writes a recipe.
pub(super) struct RecipeWriter {
    output: zstd::Encoder<'static, File>,
    raw: Vec<u8>,
    files: u32,
}

impl RecipeWriter {
    pub(super) fn create(path: &Path) -> io::Result<Self> {
        let output = zstd::Encoder::new(File::create_new(path)?, 1)?;
        Ok(Self {
            output,
            raw: Vec::new(),
            files: 0,
        })
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.raw.extend_from_slice(bytes);
        if self.raw.len() >= FLUSH {
            self.flush()
        } else {
            Ok(())
        }
    }

    /// Notes that the data of a file follows; its number.
    pub(super) fn file(&mut self, at: &InRoot, size: u64) -> io::Result<u32> {
        self.flush()?;
        let path = at.as_bytes();
        let length = u32::try_from(path.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.output.write_all(b"F")?;
        self.output.write_all(&size.to_le_bytes())?;
        self.output.write_all(&length.to_le_bytes())?;
        self.output.write_all(path)?;
        self.files += 1;
        Ok(self.files - 1)
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        self.output.finish().map(drop)
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.raw.is_empty() {
            self.output.write_all(b"R")?;
            self.output.write_all(&(self.raw.len() as u64).to_le_bytes())?;
            self.output.write_all(&self.raw)?;
            self.raw.clear();
        }
        Ok(())
    }
}

/// Writes the tar of the layer in `dir` to `to`.
pub(super) fn replay(dir: &Path, to: &mut dyn Write) -> io::Result<()> {
    let mut recipe = BufReader::new(zstd::Decoder::new(File::open(dir.join("recipe"))?)?);
    let root = RootFd::open_host(&dir.join("fs")).map_err(io::Error::other)?;
    let mut files = 0u32;
    let mut step = [0u8; 1];
    while recipe.read(&mut step)? == 1 {
        let size = u64::from_le_bytes(array(&mut recipe)?);
        match step[0] {
            b'R' => copy_exactly(&mut recipe, size, to)?,
            b'F' => {
                let length = u32::from_le_bytes(array(&mut recipe)?);
                let mut path = vec![0; length as usize];
                recipe.read_exact(&mut path)?;
                copy_exactly(&mut source(dir, &root, &path, files)?, size, to)?;
                files += 1;
            }
            other => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("unknown step {other}"),
                ));
            }
        }
    }
    Ok(())
}

/// Where replaced files are kept.
pub(super) fn shadow(dir: &Path, number: u32) -> PathBuf {
    dir.join("shadow").join(number.to_string())
}

fn source(dir: &Path, root: &RootFd, path: &[u8], number: u32) -> io::Result<File> {
    use std::os::unix::ffi::OsStrExt;
    match File::open(shadow(dir, number)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => root
            .open(std::ffi::OsStr::from_bytes(path))
            .map_err(io::Error::other),
        other => other,
    }
}

fn array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn copy_exactly(from: &mut impl Read, size: u64, to: &mut dyn Write) -> io::Result<()> {
    let copied = io::copy(&mut from.take(size), to)?;
    if copied == size {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

//! A file too large for one piece, sealed while it is written.
//!
//! ```text
//! "SHS2" | salt | pieces of 64 KiB, each with its tag, the last one shorter or empty
//! ```
//! A piece is bound to its number and to whether it is the last: pieces can be neither exchanged nor cut off.

use std::io::{self, Write};

use super::AtRest;
use super::seal::{Opener, Purpose, SEALED_EXTRA, Salt, Sealer};

/// At the beginning of the file.
const MAGIC: &[u8] = b"SHS2";
/// Bytes of a piece before it is sealed.
const PIECE: usize = 64 << 10;

/// Seals what is written to it. Nothing is whole before [`SealedWriter::finish`].
pub(crate) struct SealedWriter<'a> {
    to: &'a mut dyn Write,
    sealer: Sealer,
    piece: Vec<u8>,
}

impl<'a> SealedWriter<'a> {
    /// Begins the file.
    pub(crate) fn new(to: &'a mut dyn Write, at_rest: &AtRest, purpose: Purpose) -> io::Result<Self> {
        let sealer = at_rest.sealer(purpose);
        to.write_all(MAGIC)?;
        to.write_all(&sealer.salt().0)?;
        Ok(Self {
            to,
            sealer,
            piece: Vec::with_capacity(PIECE + SEALED_EXTRA),
        })
    }

    /// Ends the file.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.put(true)
    }

    fn put(&mut self, last: bool) -> io::Result<()> {
        self.sealer.seal(&[u8::from(last)], &mut self.piece, 0)?;
        self.to.write_all(&self.piece)?;
        self.piece.clear();
        Ok(())
    }
}

impl Write for SealedWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.len() == PIECE {
            self.put(false)?;
        }
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    /// A piece goes out when it is full.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether the file is sealed at all.
pub(crate) fn is_stream(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// The whole content; an error tells at which byte it is damaged.
pub(crate) fn open_stream(bytes: &[u8], at_rest: &AtRest, purpose: Purpose) -> Result<Vec<u8>, u64> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(0u64)?;
    let (salt, sealed) = Salt::split(rest).ok_or(0u64)?;
    let opener = at_rest.opener(purpose, salt);
    let mut content = Vec::with_capacity(sealed.len());
    let start = bytes.len() - sealed.len();
    let pieces = sealed.chunks(PIECE + SEALED_EXTRA);
    let count = pieces.len();
    for (number, piece) in pieces.enumerate() {
        let opened = open_piece(&opener, number, number + 1 == count, piece);
        let damaged = (start + number * (PIECE + SEALED_EXTRA)) as u64;
        content.extend_from_slice(&opened.ok_or(damaged)?);
    }
    match count {
        0 => Err(start as u64),
        _ => Ok(content),
    }
}

fn open_piece(opener: &Opener, number: usize, last: bool, piece: &[u8]) -> Option<Vec<u8>> {
    opener.open(u64::try_from(number).ok()?, &[u8::from(last)], piece)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sealed(at_rest: &AtRest, content: &[u8]) -> Vec<u8> {
        let mut file = Vec::new();
        let mut writer = SealedWriter::new(&mut file, at_rest, Purpose::Snapshot).unwrap();
        writer.write_all(content).unwrap();
        writer.finish().unwrap();
        file
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Whatever its length, a file comes back, and neither a flipped bit nor a missing end is overlooked.
        #[test]
        fn a_file_comes_back_or_is_damaged(length in prop_oneof![0usize..3, PIECE - 1..PIECE + 2, 0..3 * PIECE], at in 0.0..1.0, bit in 0u8..8) {
            let at_rest = AtRest::ephemeral();
            let content: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            let mut file = sealed(&at_rest, &content);
            let open = |file: &[u8]| open_stream(file, &at_rest, Purpose::Snapshot);
            prop_assert_eq!(open(&file).unwrap(), content);
            let at = (file.len() as f64 * at) as usize;
            prop_assert!(open(&file[..at]).is_err());
            file[at] ^= 1 << bit;
            prop_assert!(open(&file).is_err());
        }
    }

    #[test]
    fn pieces_cannot_be_exchanged() {
        let at_rest = AtRest::ephemeral();
        let file = sealed(&at_rest, &vec![7; 3 * PIECE]);
        let (head, whole) = (MAGIC.len() + Salt::LENGTH, PIECE + SEALED_EXTRA);
        let mut swapped = file.clone();
        let (first, second) = swapped[head..].split_at_mut(whole);
        first.swap_with_slice(&mut second[..whole]);
        assert_eq!(
            open_stream(&swapped, &at_rest, Purpose::Snapshot),
            Err(head as u64)
        );
        assert!(open_stream(&file[..head + 2 * whole], &at_rest, Purpose::Snapshot).is_err());
    }
}

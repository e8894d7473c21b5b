//! Sparse files in tars: GNU's old format, and its PAX formats 0.1 and 1.0 (GNU tar manual, "Sparse Formats").

use super::header::{BLOCK, number};
use super::pax::decimal;

/// Where the data of a sparse file goes; the rest are holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SparseMap {
    /// Offset and length of each piece, in order, not overlapping.
    pub(crate) pieces: Vec<(u64, u64)>,
    /// Size of the file with its holes.
    pub(crate) size: u64,
}

/// Pieces that a map may have: a bound on memory, far above what file systems produce.
const MAX_PIECES: usize = 1 << 18;

impl SparseMap {
    /// A map of so many pieces as a reader takes: where there are more, holes between neighbours are filled.
    pub(crate) fn bounded(mut pieces: Vec<(u64, u64)>, size: u64) -> Self {
        while pieces.len() > MAX_PIECES {
            let joined = pieces.chunks(2).map(|pair| {
                let (offset, end) = (pair[0].0, pair[pair.len() - 1]);
                (offset, end.0 + end.1 - offset)
            });
            pieces = joined.collect();
        }
        Self { pieces, size }
    }

    /// Checks order, bounds and that the pieces are exactly the `stored` bytes.
    pub(super) fn checked(pieces: Vec<(u64, u64)>, size: u64, stored: u64) -> Result<Self, String> {
        let mut end = 0u64;
        let mut sum = 0u64;
        for (offset, length) in &pieces {
            let next = offset
                .checked_add(*length)
                .filter(|next| *next <= size && *offset >= end);
            end = next.ok_or("its sparse map is out of order or out of bounds")?;
            sum += length;
        }
        if sum != stored {
            return Err(format!(
                "its sparse map covers {sum} bytes but {stored} are stored"
            ));
        }
        Ok(Self { pieces, size })
    }
}

/// The pieces in an old GNU header (`from` 386, 4 of them) or extension block (`from` 0, 21 of them).
///
/// Returns whether another extension block follows.
pub(super) fn old_gnu(
    block: &[u8; BLOCK],
    first: bool,
    pieces: &mut Vec<(u64, u64)>,
) -> Result<bool, String> {
    let (start, count, more) = if first { (386, 4, 482) } else { (0, 21, 504) };
    for entry in block[start..start + count * 24].chunks_exact(24) {
        if entry[0] == 0 || entry[12] == 0 {
            break;
        }
        let value = |field| {
            number(field)
                .and_then(|n| u64::try_from(n).ok())
                .ok_or("bad number in its sparse map")
        };
        pieces.push((value(&entry[..12])?, value(&entry[12..])?));
    }
    if pieces.len() > MAX_PIECES {
        return Err("its sparse map is too long".into());
    }
    Ok(block[more] != 0)
}

/// The real size in an old GNU sparse header.
pub(super) fn old_gnu_size(block: &[u8; BLOCK]) -> Option<u64> {
    number(&block[483..495]).and_then(|n| u64::try_from(n).ok())
}

/// Format 0.1: `offset,length,offset,length…`.
pub(super) fn pax_map(text: &str) -> Result<Vec<(u64, u64)>, String> {
    let numbers: Vec<u64> = text
        .split(',')
        .filter(|part| !part.is_empty())
        .map(|part| decimal(part.as_bytes()))
        .collect::<Option<_>>()
        .ok_or("bad number in its sparse map")?;
    if !numbers.len().is_multiple_of(2) || numbers.len() / 2 > MAX_PIECES {
        return Err("its sparse map has an odd or excessive number of values".into());
    }
    Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// Format 1.0: decimal lines at the start of the data; collects them as blocks arrive.
#[derive(Debug, Default)]
pub(super) struct DataMap {
    numbers: Vec<u64>,
    partial: Vec<u8>,
}

impl DataMap {
    /// Takes one block; the map when it is complete.
    pub(super) fn block(&mut self, block: &[u8; BLOCK]) -> Result<Option<Vec<(u64, u64)>>, String> {
        for byte in block {
            if *byte != b'\n' {
                self.partial.push(*byte);
                if self.partial.len() > 20 {
                    return Err("bad number in its sparse map".into());
                }
                continue;
            }
            let value = decimal(&self.partial).ok_or("bad number in its sparse map")?;
            self.partial.clear();
            self.numbers.push(value);
            let count = usize::try_from(self.numbers[0]).unwrap_or(usize::MAX);
            if count > MAX_PIECES {
                return Err("its sparse map is too long".into());
            }
            if self.numbers.len() == 1 + 2 * count {
                return Ok(Some(
                    self.numbers[1..].chunks_exact(2).map(|p| (p[0], p[1])).collect(),
                ));
            }
        }
        Ok(None)
    }
}

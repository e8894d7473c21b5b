//! One 512-byte header block: fields and checksum (POSIX.1-2017 pax, "ustar Interchange Format"; GNU tar manual).

/// Size of a tar block in bytes.
pub(crate) const BLOCK: usize = 512;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EntryKind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
}

/// The type flags that describe the next entry instead of being one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flag {
    Entry(EntryKind),
    /// Old GNU sparse file.
    Sparse,
    Pax,
    GlobalPax,
    LongName,
    LongLink,
    Unknown(u8),
}

/// A checked header block.
pub(super) struct Header<'a> {
    block: &'a [u8; BLOCK],
}

impl<'a> Header<'a> {
    /// Checks the sum of the block; both the unsigned and the historic signed sum count.
    pub(super) fn parse(block: &'a [u8; BLOCK]) -> Result<Self, &'static str> {
        let header = Self { block };
        let stored = octal(&block[148..156]).ok_or("its checksum is no number")?;
        let outside = |i: usize| !(148..156).contains(&i);
        let unsigned: u64 = (0..BLOCK)
            .map(|i| if outside(i) { u64::from(block[i]) } else { 32 })
            .sum();
        let signed: i64 = (0..BLOCK)
            .map(|i| {
                if outside(i) {
                    i64::from(i8::from_ne_bytes([block[i]]))
                } else {
                    32
                }
            })
            .sum();
        if stored == unsigned || i64::try_from(stored) == Ok(signed) {
            Ok(header)
        } else {
            Err("its checksum does not match")
        }
    }

    pub(super) fn flag(&self) -> Flag {
        match self.block[156] {
            // V7 tar has no type for directories: the name ends in a slash.
            0 if self.name().ends_with(b"/") => Flag::Entry(EntryKind::Directory),
            0 | b'0' | b'7' => Flag::Entry(EntryKind::File),
            b'1' => Flag::Entry(EntryKind::HardLink),
            b'2' => Flag::Entry(EntryKind::Symlink),
            b'3' => Flag::Entry(EntryKind::CharDevice),
            b'4' => Flag::Entry(EntryKind::BlockDevice),
            b'5' => Flag::Entry(EntryKind::Directory),
            b'6' => Flag::Entry(EntryKind::Fifo),
            b'S' => Flag::Sparse,
            b'x' => Flag::Pax,
            b'g' => Flag::GlobalPax,
            b'L' => Flag::LongName,
            b'K' => Flag::LongLink,
            other => Flag::Unknown(other),
        }
    }

    /// The name, with the ustar prefix.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = text(&self.block[..100]);
        let prefix = text(&self.block[345..500]);
        if &self.block[257..263] != b"ustar\0" || prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, b"/", name].concat()
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.block[157..257]).to_vec()
    }

    pub(super) fn mode(&self) -> Option<u32> {
        number(&self.block[100..108]).and_then(|n| u32::try_from(n).ok())
    }

    pub(super) fn uid(&self) -> Option<u32> {
        number(&self.block[108..116]).and_then(|n| u32::try_from(n).ok())
    }

    pub(super) fn gid(&self) -> Option<u32> {
        number(&self.block[116..124]).and_then(|n| u32::try_from(n).ok())
    }

    pub(super) fn size(&self) -> Option<u64> {
        number(&self.block[124..136]).and_then(|n| u64::try_from(n).ok())
    }

    pub(super) fn mtime(&self) -> Option<i64> {
        number(&self.block[136..148])
    }

    /// Major and minor number; blank fields of old archives are 0.
    pub(super) fn device(&self) -> Option<(u32, u32)> {
        let part = |field| number(field).and_then(|n| u32::try_from(n).ok());
        Some((part(&self.block[329..337])?, part(&self.block[337..345])?))
    }
}

/// A field up to its first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    &field[..end]
}

/// Octal digits, or GNU's base-256 where the top bit of the first byte is set (two's complement).
pub(super) fn number(field: &[u8]) -> Option<i64> {
    if field.first()? & 0x80 == 0 {
        return octal(field).and_then(|n| i64::try_from(n).ok());
    }
    let negative = field[0] & 0x40 != 0;
    let mut value: i128 = if negative { -1 } else { 0 };
    for (i, byte) in field.iter().enumerate() {
        let bits = match (i, negative) {
            (0, false) => byte & 0x7f,
            (0, true) => byte | 0x80,
            _ => *byte,
        };
        value = value.checked_mul(256)?.checked_add(i128::from(bits))?;
        if i == 0 && negative {
            value = -1 - i128::from(!bits);
        }
    }
    i64::try_from(value).ok()
}

fn octal(field: &[u8]) -> Option<u64> {
    let digits: Vec<u8> = field
        .iter()
        .copied()
        .skip_while(|b| *b == b' ' || *b == 0)
        .collect();
    let end = digits
        .iter()
        .position(|b| *b == b' ' || *b == 0)
        .unwrap_or(digits.len());
    digits[..end].iter().try_fold(0u64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_base_256() {
        assert_eq!(number(b"0000755\0"), Some(0o755));
        assert_eq!(number(b"   755 \0"), Some(0o755));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"00008\0\0\0"), None);
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(
            number(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
            Some(-1)
        );
        assert_eq!(
            number(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00]),
            Some(-256)
        );
        assert_eq!(
            number(&[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0]),
            None
        );
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let mut header = tar::Header::new_ustar();
        header.set_path("a/b").unwrap();
        header.set_size(7);
        header.set_cksum();
        let mut block = *header.as_bytes();
        assert_eq!(Header::parse(&block).ok().and_then(|h| h.size()), Some(7));
        block[130] ^= 1;
        assert!(Header::parse(&block).is_err());
    }
}

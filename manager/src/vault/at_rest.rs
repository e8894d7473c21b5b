//! What a manager needs to keep something on its disk.

use super::key::{KEY, SecretKey};
use super::seal::{Opener, Purpose, Salt, Sealer};

/// Before what was sealed in one piece.
const MAGIC: &[u8] = b"SHX1";

/// Seals and opens what one manager keeps. Cheap to clone; `Debug` shows no key.
#[derive(Debug, Clone)]
pub struct AtRest {
    key: SecretKey,
    plain: bool,
}

impl AtRest {
    /// A key that nobody else has, for what nobody will open again: tests and simulations.
    pub fn ephemeral() -> Self {
        Self {
            key: SecretKey::generate(),
            plain: true,
        }
    }

    /// The data key; `plain` if files may be there that are older than it.
    pub(super) fn new(key: SecretKey, plain: bool) -> Self {
        Self { key, plain }
    }

    /// Whether a file that is not sealed is to be believed. Once all are sealed, one that is not was put there by somebody.
    pub(crate) fn accepts_plain(&self) -> bool {
        self.plain
    }

    /// Seals under a fresh salt.
    pub(crate) fn sealer(&self, purpose: Purpose) -> Sealer {
        Sealer::new(&self.key, purpose)
    }

    /// Opens what was sealed under this salt.
    pub(crate) fn opener(&self, purpose: Purpose, salt: Salt) -> Opener {
        Opener::new(&self.key, purpose, salt)
    }

    /// A small thing in one piece: `"SHX1" | salt | sealed`.
    pub(crate) fn seal_once(&self, purpose: Purpose, text: &[u8]) -> std::io::Result<Vec<u8>> {
        seal_once(&self.key, purpose, text)
    }

    /// The thing again; `None` if it was sealed by another, or tampered with.
    pub(crate) fn open_once(&self, purpose: Purpose, sealed: &[u8]) -> Option<Vec<u8>> {
        open_once(&self.key, purpose, sealed)
    }
}

/// Whether the bytes are what [`AtRest::seal_once`] makes.
pub(crate) fn is_sealed(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// A key under another.
pub(super) fn wrap(under: &SecretKey, key: &SecretKey) -> std::io::Result<Vec<u8>> {
    seal_once(under, Purpose::DataKey, key.bytes())
}

/// The key again; `None` if `under` is the wrong one.
pub(super) fn unwrap(under: &SecretKey, wrapped: &[u8]) -> Option<SecretKey> {
    let opened = open_once(under, Purpose::DataKey, wrapped)?;
    (opened.len() == KEY).then(|| SecretKey::from_bytes(&opened))?
}

fn seal_once(key: &SecretKey, purpose: Purpose, text: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut sealer = Sealer::new(key, purpose);
    let mut buffer = [MAGIC, &sealer.salt().0].concat();
    let from = buffer.len();
    buffer.extend_from_slice(text);
    sealer.seal(MAGIC, &mut buffer, from)?;
    Ok(buffer)
}

fn open_once(key: &SecretKey, purpose: Purpose, sealed: &[u8]) -> Option<Vec<u8>> {
    let (salt, rest) = Salt::split(sealed.strip_prefix(MAGIC)?)?;
    Opener::new(key, purpose, salt).open(0, MAGIC, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_piece_comes_back_and_no_other() {
        let (ours, theirs) = (AtRest::ephemeral(), AtRest::ephemeral());
        let sealed = ours.seal_once(Purpose::NodeKey, b"private").unwrap();
        assert!(is_sealed(&sealed) && !sealed.windows(7).any(|part| part == b"private"));
        assert_eq!(ours.open_once(Purpose::NodeKey, &sealed).unwrap(), b"private");
        assert!(theirs.open_once(Purpose::NodeKey, &sealed).is_none());
        assert!(ours.open_once(Purpose::DataKey, &sealed).is_none());
        for cut in 0..sealed.len() {
            assert!(ours.open_once(Purpose::NodeKey, &sealed[..cut]).is_none());
        }
    }
}

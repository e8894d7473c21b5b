//! AES-256-GCM with nonces that never repeat.
//!
//! A long-lived key never meets the cipher: a [`Sealer`] derives a key of its own from it (HKDF-SHA256) with a salt of 128
//! random bits, and counts what it seals. The count is the nonce. It goes up with every attempt and is never written to be
//! read back, so neither a failed write nor a crash can bring a nonce back: whoever starts again draws another salt.

use rand::Rng;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf;

use super::key::SecretKey;

/// Bytes of a salt.
const SALT: usize = 16;
/// Bytes by which what is sealed is longer: the tag.
pub(crate) const SEALED_EXTRA: usize = 16;

/// What a derived key is for. Something that was sealed for one purpose does not open for another.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    /// Frames of the journal.
    Journal,
    /// Pieces of the snapshot.
    Snapshot,
    /// The data key under the unlock key.
    DataKey,
    /// The node's private key.
    NodeKey,
}

impl Purpose {
    fn info(self) -> &'static [u8] {
        match self {
            Self::Journal => b"shoal journal 1",
            Self::Snapshot => b"shoal snapshot 1",
            Self::DataKey => b"shoal data key 1",
            Self::NodeKey => b"shoal node key 1",
        }
    }
}

/// Makes a derived key different from every other; not secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Salt(pub(crate) [u8; SALT]);

impl Salt {
    /// Bytes of one.
    pub(crate) const LENGTH: usize = SALT;

    /// The salt that stands at the beginning, and what follows it.
    pub(crate) fn split(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (salt, rest) = bytes.split_first_chunk()?;
        Some((Self(*salt), rest))
    }
}

/// Seals under a derived key of its own.
#[derive(Debug)]
pub(crate) struct Sealer {
    key: LessSafeKey,
    salt: Salt,
    next: u64,
}

impl Sealer {
    /// With a fresh salt.
    pub(crate) fn new(key: &SecretKey, purpose: Purpose) -> Self {
        let salt = Salt(rand::rng().random());
        Self {
            key: derive(key, purpose, salt),
            salt,
            next: 0,
        }
    }

    /// What the opener needs to know.
    pub(crate) fn salt(&self) -> Salt {
        self.salt
    }

    /// The number of the next piece.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Seals what stands in the buffer from `from` on, in place, and puts the tag behind it. `aad` is not kept, and must be
    /// the same to open it.
    pub(crate) fn seal(&mut self, aad: &[u8], buffer: &mut Vec<u8>, from: usize) -> std::io::Result<()> {
        let number = self.next;
        self.next += 1;
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(number), Aad::from(aad), &mut buffer[from..])
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::FileTooLarge))?;
        buffer.extend_from_slice(tag.as_ref());
        Ok(())
    }
}

/// Opens what a [`Sealer`] with the same key, purpose and salt has sealed.
#[derive(Debug)]
pub(crate) struct Opener {
    key: LessSafeKey,
}

impl Opener {
    pub(crate) fn new(key: &SecretKey, purpose: Purpose, salt: Salt) -> Self {
        Self {
            key: derive(key, purpose, salt),
        }
    }

    /// Piece number so-and-so; `None` if it is another, or was tampered with.
    pub(crate) fn open(&self, number: u64, aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = sealed.to_vec();
        let opened = self.key.open_in_place(nonce(number), Aad::from(aad), &mut buffer);
        let length = opened.ok()?.len();
        buffer.truncate(length);
        Some(buffer)
    }
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

fn derive(key: &SecretKey, purpose: Purpose, salt: Salt) -> LessSafeKey {
    let extracted = hkdf::Salt::new(hkdf::HKDF_SHA256, &salt.0).extract(key.bytes());
    let info = [purpose.info()];
    // It fails for lengths beyond 255 digests only; a key is one.
    let derived = extracted.expand(&info, &AES_256_GCM).expect("32 bytes");
    LessSafeKey::new(UnboundKey::from(derived))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_in_its_place_alone() {
        let key = SecretKey::generate();
        let mut sealer = Sealer::new(&key, Purpose::Journal);
        let seal = |sealer: &mut Sealer, aad: &[u8]| {
            let mut buffer = b"head".to_vec();
            buffer.extend_from_slice(b"the same text");
            sealer.seal(aad, &mut buffer, 4).unwrap();
            assert_eq!(&buffer[..4], b"head");
            buffer.split_off(4)
        };
        let (first, second) = (seal(&mut sealer, b"1"), seal(&mut sealer, b"1"));
        assert_ne!(first, second, "no nonce comes twice");
        assert_eq!(first.len(), "the same text".len() + SEALED_EXTRA);
        let opener = Opener::new(&key, Purpose::Journal, sealer.salt());
        assert_eq!(opener.open(0, b"1", &first).unwrap(), b"the same text");
        assert!(opener.open(1, b"1", &first).is_none(), "another number");
        assert!(opener.open(0, b"2", &first).is_none(), "another place");
        let other = Opener::new(&SecretKey::generate(), Purpose::Journal, sealer.salt());
        assert!(other.open(0, b"1", &first).is_none(), "another key");
        let other = Opener::new(&key, Purpose::Snapshot, sealer.salt());
        assert!(other.open(0, b"1", &first).is_none(), "another purpose");
        let other = Sealer::new(&key, Purpose::Journal);
        assert_ne!(other.salt(), sealer.salt());
    }
}

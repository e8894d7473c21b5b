//! The keys themselves. None of them is ever shown by `Debug`.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use rand::Rng;

/// Bytes of every key.
pub(super) const KEY: usize = 32;
/// Before the digits of an unlock key, as Docker has it.
const PREFIX: &str = "SWMKEY-1-";

/// 256 random bits.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SecretKey([u8; KEY]);

impl SecretKey {
    /// A new one.
    pub(super) fn generate() -> Self {
        Self(rand::rng().random())
    }

    /// The one with these bytes, if there are as many as it takes.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// For the cipher.
    pub(super) fn bytes(&self) -> &[u8; KEY] {
        &self.0
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

/// The key with which a locked manager is opened: `SWMKEY-1-` and 43 digits of base 64. `Display` shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct UnlockKey(pub(super) SecretKey);

/// An unlock key that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid unlock key")]
pub struct UnlockKeyError;

impl UnlockKey {
    /// A new one.
    pub fn generate() -> Self {
        Self(SecretKey::generate())
    }
}

impl fmt::Display for UnlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", STANDARD_NO_PAD.encode(self.0.bytes()))
    }
}

impl fmt::Debug for UnlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UnlockKey(..)")
    }
}

impl FromStr for UnlockKey {
    type Err = UnlockKeyError;

    fn from_str(text: &str) -> Result<Self, UnlockKeyError> {
        let digits = text.strip_prefix(PREFIX).ok_or(UnlockKeyError)?;
        let bytes = STANDARD_NO_PAD.decode(digits).map_err(|_| UnlockKeyError)?;
        SecretKey::from_bytes(&bytes).map(Self).ok_or(UnlockKeyError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unlock_key_survives_the_way_through_text() {
        let key = UnlockKey::generate();
        let text = key.to_string();
        assert!(text.starts_with("SWMKEY-1-") && text.len() == 9 + 43, "{text}");
        assert_eq!(text.parse(), Ok(key.clone()));
        assert_ne!(key, UnlockKey::generate());
        assert!(!format!("{key:?}").contains(&text[9..]));
        for bad in ["", "SWMKEY-1-", &text[9..], &text[..51], &format!("{text}A")] {
            assert!(bad.parse::<UnlockKey>().is_err(), "{bad}");
        }
    }
}

//! Join tokens: `SWMTKN-1-<sha256 of the root certificate>-<secret>`, both numbers in base 36.
//!
//! The joiner compares the digest with the root certificate that it is shown before it sends the secret.

use std::fmt;
use std::str::FromStr;

use rand::Rng;
use sha2::{Digest, Sha256};

/// Digits of 256 bits in base 36.
const DIGEST_DIGITS: usize = 50;
/// Digits of 128 bits in base 36.
const SECRET_DIGITS: usize = 25;
const PREFIX: &str = "SWMTKN-1-";

/// What a node shows to join. Debug output does not show the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    digest: [u8; 32],
    secret: [u8; 16],
}

/// A token that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid join token")]
pub struct TokenError;

impl JoinToken {
    /// A new token for the root certificate, given as it is in its PEM file.
    pub fn generate(root_pem: &[u8]) -> Self {
        Self {
            digest: Sha256::digest(root_pem).into(),
            secret: rand::rng().random(),
        }
    }

    /// The same root, another secret.
    #[must_use]
    pub fn with_fresh_secret(&self) -> Self {
        Self {
            digest: self.digest,
            secret: rand::rng().random(),
        }
    }

    /// Whether the root certificate is the one that the token was made for.
    pub fn matches_root(&self, root_pem: &[u8]) -> bool {
        self.digest == <[u8; 32]>::from(Sha256::digest(root_pem))
    }

    /// Whether both tokens are the same. Takes as long whatever the difference.
    pub fn matches(&self, other: &Self) -> bool {
        let ours = self.digest.iter().chain(&self.secret);
        let theirs = other.digest.iter().chain(&other.secret);
        ours.zip(theirs)
            .fold(0, |difference, (our, their)| difference | (our ^ their))
            == 0
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (digest, secret) = (
            to_base36(&self.digest, DIGEST_DIGITS),
            to_base36(&self.secret, SECRET_DIGITS),
        );
        write!(f, "{PREFIX}{digest}-{secret}")
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("digest", &hex::encode(self.digest))
            .finish_non_exhaustive()
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let (digest, secret) = text
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('-'))
            .ok_or(TokenError)?;
        if digest.len() != DIGEST_DIGITS || secret.len() != SECRET_DIGITS {
            return Err(TokenError);
        }
        Ok(Self {
            digest: from_base36(digest)?,
            secret: from_base36(secret)?,
        })
    }
}

/// The big-endian number in base 36, padded with zeros on the left.
fn to_base36(bytes: &[u8], digits: usize) -> String {
    let mut number = bytes.to_vec();
    let mut text = vec![b'0'; digits];
    for place in text.iter_mut().rev() {
        let remainder = divide(&mut number, 36);
        *place = char::from_digit(remainder, 36).map_or(b'0', |digit| digit as u8);
    }
    text.into_iter().map(char::from).collect()
}

/// The number as big-endian bytes; refuses digits that are none and numbers that do not fit.
fn from_base36<const N: usize>(text: &str) -> Result<[u8; N], TokenError> {
    let mut number = [0u8; N];
    for character in text.chars() {
        let digit = character
            .to_digit(36)
            .filter(|_| !character.is_ascii_uppercase())
            .ok_or(TokenError)?;
        let carry = number.iter_mut().rev().fold(digit, |carry, byte| {
            let value = u32::from(*byte) * 36 + carry;
            *byte = (value & 0xff) as u8;
            value >> 8
        });
        if carry != 0 {
            return Err(TokenError);
        }
    }
    Ok(number)
}

/// Divides the big-endian number in place; the remainder.
fn divide(number: &mut [u8], by: u32) -> u32 {
    number.iter_mut().fold(0, |remainder, byte| {
        let value = remainder << 8 | u32::from(*byte);
        *byte = (value / by) as u8;
        value % by
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_the_way_through_text() {
        let token = JoinToken::generate(b"root");
        let text = token.to_string();
        assert_eq!(text.len(), "SWMTKN-1-".len() + 50 + 1 + 25);
        let back: JoinToken = text.parse().unwrap();
        assert!(back.matches(&token) && back.matches_root(b"root") && !back.matches_root(b"other"));
        assert!(!format!("{token:?}").contains(&text[60..]));
    }

    #[test]
    fn a_rotated_token_keeps_the_root_and_not_the_secret() {
        let token = JoinToken::generate(b"root");
        let fresh = token.with_fresh_secret();
        assert!(fresh.matches_root(b"root") && !fresh.matches(&token));
    }

    #[test]
    fn damaged_tokens_are_refused() {
        let good = JoinToken::generate(b"root").to_string();
        for bad in [
            "",
            "SWMTKN-1-",
            &good[..good.len() - 1],
            &format!("{good}0"),
            &good.replace("SWMTKN-1", "SWMTKN-3"),
            &good.to_uppercase(),
            &format!("SWMTKN-1-{}-{}", "z".repeat(50), "0".repeat(25)),
        ] {
            assert!(bad.parse::<JoinToken>().is_err(), "{bad}");
        }
    }

    #[test]
    fn extreme_numbers_fit_the_width() {
        for bytes in [[0u8; 32], [0xff; 32]] {
            let text = to_base36(&bytes, DIGEST_DIGITS);
            assert_eq!(from_base36::<32>(&text), Ok(bytes));
        }
    }
}

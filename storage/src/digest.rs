//! SHA-256 digests as checked values: what has this type is 64 hex digits and safe to use as a file name.
//!
//! Other algorithms are refused: nothing here could verify them (CVE-2024-3727 was an unchecked digest used as a path).

use std::fmt;
use std::io::{self, Read, Write};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A `sha256:<64 hex>` digest (OCI image specification, descriptor.md).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest([u8; 32]);

/// Why a string is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The text has another form than `sha256:` and 64 lower-case hex digits.
    #[error("invalid digest {0:?}: must be \"sha256:\" and 64 lower-case hexadecimal digits")]
    Form(String),
    /// A well-formed digest of an algorithm that cannot be verified here.
    #[error("unsupported digest algorithm in {0:?}: only sha256 is supported")]
    Algorithm(String),
}

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Parses the 64 hex digits without the algorithm.
    pub fn from_hex(hex_digits: &str) -> Result<Self, DigestError> {
        format!("sha256:{hex_digits}").parse()
    }

    /// The 64 lower-case hex digits.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let form = || DigestError::Form(text.chars().take(100).collect());
        let (algorithm, digits) = text.split_once(':').ok_or_else(form)?;
        let known_other = ["sha512", "sha384", "blake3", "md5", "sha1"].contains(&algorithm);
        if known_other && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(DigestError::Algorithm(text.chars().take(100).collect()));
        }
        let lower = digits
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if algorithm != "sha256" || digits.len() != 64 || !lower {
            return Err(form());
        }
        let mut raw = [0u8; 32];
        hex::decode_to_slice(digits, &mut raw).map_err(|_| form())?;
        Ok(Self(raw))
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! digest_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl $name {
            /// The 64 lower-case hex digits.
            pub fn hex(&self) -> String {
                self.0.hex()
            }

            /// The first 12 hex digits, as Docker's tables print it.
            pub fn short(&self) -> String {
                self.0.hex()[..12].to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = DigestError;

            fn from_str(text: &str) -> Result<Self, DigestError> {
                text.parse().map(Self)
            }
        }
    };
}

digest_id! {
    /// Digest of an image's configuration document: what Docker calls the image's ID.
    ImageId
}
digest_id! {
    /// Digest of a layer's uncompressed tar (OCI image specification, config.md, `diff_ids`).
    DiffId
}

/// Hashes what passes through it, in either direction.
#[derive(Debug)]
pub(crate) struct Hashing<T> {
    inner: T,
    hasher: Sha256,
    count: u64,
}

impl<T> Hashing<T> {
    pub(crate) fn new(inner: T) -> Self {
        Self {
            inner,
            hasher: Sha256::new(),
            count: 0,
        }
    }

    /// The digest and number of the bytes passed so far, and what was wrapped.
    pub(crate) fn finish(self) -> (Digest, u64, T) {
        (Digest(self.hasher.finalize().into()), self.count, self.inner)
    }

    fn note(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.count += bytes.len() as u64;
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.note(&buf[..n]);
        Ok(n)
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.note(&buf[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// The chain IDs of a stack of layers, bottom first (OCI image specification, config.md, "Layer ChainID").
pub(crate) fn chain_ids(diff_ids: &[DiffId]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.0,
            Some(parent) => Digest::of(format!("{parent} {diff_id}").as_bytes()),
        };
        chain.push(next);
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn digest_of_nothing_is_the_published_one() {
        assert_eq!(Digest::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse::<Digest>().unwrap(), Digest::of(b""));
    }

    #[test]
    fn what_is_no_digest_is_refused() {
        for bad in [
            "",
            "sha256",
            "sha256:",
            "sha256:../../x",
            "sha256:abc",
            &EMPTY.to_uppercase(),
            "md4:00",
        ] {
            assert!(
                matches!(bad.parse::<Digest>(), Err(DigestError::Form(_))),
                "{bad}"
            );
        }
        let long = format!("{EMPTY}0");
        assert!(long.parse::<Digest>().is_err());
        let other = format!("sha512:{}", "0".repeat(128));
        assert!(matches!(other.parse::<Digest>(), Err(DigestError::Algorithm(_))));
    }

    #[test]
    fn a_chain_of_one_is_its_layer_and_grows_by_the_formula() {
        let (a, b) = (DiffId(Digest::of(b"a")), DiffId(Digest::of(b"b")));
        let chain = chain_ids(&[a, b]);
        assert_eq!(chain[0], a.0);
        assert_eq!(chain[1], Digest::of(format!("{a} {b}").as_bytes()));
    }
}

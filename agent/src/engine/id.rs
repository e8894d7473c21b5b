//! Names of the engine's objects: container and exec ids are 64 hex digits, as Docker's.

use rand::RngCore;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A container's id: 64 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ContainerId(String);

/// An exec's id: 64 lower-case hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ExecId(String);

impl ContainerId {
    /// A fresh random id.
    pub fn random() -> Self {
        Self(random_hex())
    }

    /// `text` as an id, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        is_full_id(text).then(|| Self(text.to_owned()))
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits, as shown in tables.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl ExecId {
    /// A fresh random id.
    pub fn random() -> Self {
        Self(random_hex())
    }

    /// The whole id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for ExecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for ContainerId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

fn is_full_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// 64 random hex digits whose first twelve are not all decimal: a short id must not be a number (Docker's rule, so that
/// a hostname made from it is one).
pub(crate) fn random_hex() -> String {
    loop {
        let mut bytes = [0u8; 32];
        rand::rng().fill_bytes(&mut bytes);
        let text = hex::encode(bytes);
        if text[..12].parse::<u64>().is_err() {
            return text;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_full_hex_is_an_id() {
        let id = ContainerId::random();
        assert_eq!(ContainerId::parse(id.as_str()), Some(id.clone()));
        assert_eq!(ContainerId::parse(id.short()), None);
        assert_eq!(ContainerId::parse(&"G".repeat(64)), None);
    }
}

//! What every object carries beside its spec: a version, and when it was made and last changed.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Guards updates: an update names the version that it read, and is refused when the object has moved on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Version {
    /// Grows with every change of any object of the cluster.
    #[serde(default)]
    pub index: u64,
}

/// The fields `Version`, `CreatedAt` and `UpdatedAt` of every object.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Meta {
    /// Set by the store when it commits.
    #[serde(default)]
    pub version: Version,
    /// Set by the store when it creates the object.
    #[serde(default)]
    pub created_at: Timestamp,
    /// Set by the store when it commits.
    #[serde(default)]
    pub updated_at: Timestamp,
}

/// A moment in UTC, written as RFC 3339 with nanoseconds. The default is Go's zero time, year 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub OffsetDateTime);

impl Timestamp {
    /// Go's zero time: `0001-01-01T00:00:00Z` says that something has not happened.
    pub const ZERO: Self = Self(time::macros::datetime!(0001-01-01 00:00 UTC));

    /// The present moment.
    pub fn now() -> Self {
        Self(crate::world::now())
    }

    /// Whether the moment says that something has not happened.
    pub fn is_zero(self) -> bool {
        self == Self::ZERO
    }
}

impl Default for Timestamp {
    fn default() -> Self {
        Self::ZERO
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.format(&Rfc3339).map_err(|_| std::fmt::Error)?)
    }
}

impl std::str::FromStr for Timestamp {
    type Err = time::error::Parse;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        OffsetDateTime::parse(text, &Rfc3339).map(Self)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?.unwrap_or_default();
        if text.is_empty() {
            return Ok(Self::ZERO);
        }
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_the_way_through_json() {
        let now = Timestamp::now();
        let text = serde_json::to_string(&now).unwrap();
        assert!(text.ends_with("Z\""), "{text}");
        assert_eq!(serde_json::from_str::<Timestamp>(&text).unwrap(), now);
        assert_eq!(Timestamp::ZERO.to_string(), "0001-01-01T00:00:00Z");
    }

    #[test]
    fn meta_has_docker_s_keys() {
        let text = serde_json::to_value(Meta::default()).unwrap();
        assert_eq!(text["Version"]["Index"], 0);
        assert_eq!(text["CreatedAt"], "0001-01-01T00:00:00Z");
    }
}

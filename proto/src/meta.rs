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
        match Rfc3339Text::of(self.0) {
            Some(text) => f.write_str(text.as_str()),
            None => f.write_str(&self.0.format(&Rfc3339).map_err(|_| std::fmt::Error)?),
        }
    }
}

/// A moment in UTC as text. Moments are written with every change of every object, so this is made without a detour.
struct Rfc3339Text {
    bytes: [u8; 30],
    length: usize,
}

impl Rfc3339Text {
    /// `None` for moments that are not in UTC, or whose year has not four digits.
    fn of(moment: OffsetDateTime) -> Option<Self> {
        let year = u32::try_from(moment.year()).ok().filter(|year| *year <= 9999)?;
        if !moment.offset().is_utc() {
            return None;
        }
        let mut bytes = *b"0000-00-00T00:00:00.000000000Z";
        digits(&mut bytes[..4], year);
        digits(&mut bytes[5..7], u8::from(moment.month()).into());
        digits(&mut bytes[8..10], moment.day().into());
        digits(&mut bytes[11..13], moment.hour().into());
        digits(&mut bytes[14..16], moment.minute().into());
        digits(&mut bytes[17..19], moment.second().into());
        digits(&mut bytes[20..29], moment.nanosecond());
        let zeros = bytes[20..29].iter().rev().take_while(|digit| **digit == b'0');
        let end = match zeros.count() {
            9 => 19,
            zeros => 29 - zeros,
        };
        bytes[end] = b'Z';
        Some(Self {
            bytes,
            length: end + 1,
        })
    }

    fn as_str(&self) -> &str {
        // Nothing but ASCII is put in.
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

/// Writes the number with leading zeros.
fn digits(place: &mut [u8], mut number: u32) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
        number /= 10;
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
    fn moments_are_written_as_the_standard_has_it() {
        for nanoseconds in [
            0,
            1,
            1_000_000_000,
            1_700_000_000_120_000_000,
            1_795_444_777_000_000_009,
            -1,
            253_402_300_799_999_999_999,
        ] {
            let moment = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).unwrap();
            assert_eq!(Timestamp(moment).to_string(), moment.format(&Rfc3339).unwrap());
        }
        let elsewhere = "2026-11-23T12:00:00.5+02:00";
        assert_eq!(elsewhere.parse::<Timestamp>().unwrap().to_string(), elsewhere);
    }

    #[test]
    fn meta_has_docker_s_keys() {
        let text = serde_json::to_value(Meta::default()).unwrap();
        assert_eq!(text["Version"]["Index"], 0);
        assert_eq!(text["CreatedAt"], "0001-01-01T00:00:00Z");
    }
}

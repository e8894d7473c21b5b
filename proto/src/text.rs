//! Texts of identifiers and of keys, made for a hundred thousand objects.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes of a text that lie in the value itself.
const INLINE: usize = 30;

/// A short text. It lies in the value itself, unless it is longer than our identifiers are: they are copied and compared for every
/// change of every task, and this way nothing is allocated for it and no pointer followed. Orders, compares and hashes as a
/// `str`.
#[derive(Debug, Clone)]
pub struct Text(Place);

#[derive(Debug, Clone)]
enum Place {
    /// The text, zeros, and its length.
    Short([u8; INLINE], u8),
    Long(Arc<str>),
}

impl Text {
    /// All of it.
    #[inline]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            // It was made of a whole text.
            Place::Short(..) => std::str::from_utf8(self.bytes()).unwrap_or_default(),
            Place::Long(text) => text,
        }
    }

    /// All of it, without asking whether it is a text.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Place::Short(bytes, length) => &bytes[..usize::from(*length)],
            Place::Long(text) => text.as_bytes(),
        }
    }
}

impl From<&str> for Text {
    #[inline]
    fn from(text: &str) -> Self {
        let mut bytes = [0; INLINE];
        match (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(place), Ok(length)) => {
                place.copy_from_slice(text.as_bytes());
                Self(Place::Short(bytes, length))
            }
            _ => Self(Place::Long(text.into())),
        }
    }
}

impl Default for Text {
    fn default() -> Self {
        Self(Place::Short([0; INLINE], 0))
    }
}

impl PartialEq for Text {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Place::Short(one, length), Place::Short(two, other)) => length == other && one == two,
            _ => self.bytes() == other.bytes(),
        }
    }
}

impl Eq for Text {}

impl Ord for Text {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            // Zeros come before all else, so the length decides only between texts that end in them.
            (Place::Short(one, length), Place::Short(two, other)) => one.cmp(two).then(length.cmp(other)),
            _ => self.bytes().cmp(other.bytes()),
        }
    }
}

impl PartialOrd for Text {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// As the text, so that maps can be asked with one.
impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an identifier")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text::from(text))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_order_and_compare_as_what_they_hold() {
        let long = |end: &str| "a".repeat(INLINE - 1) + end;
        let texts = [
            String::new(),
            "a".into(),
            "a\0".into(),
            "b".into(),
            long("b"),
            long("bc"),
            long("c"),
            long("\0"),
        ];
        for (one, two) in texts
            .iter()
            .flat_map(|one| texts.iter().map(move |two| (one, two)))
        {
            let (first, second) = (Text::from(one.as_str()), Text::from(two.as_str()));
            assert_eq!(first.cmp(&second), one.cmp(two), "{one} {two}");
            assert_eq!((first == second, first.as_str()), (one == two, one.as_str()));
        }
        assert_eq!(size_of::<Text>(), INLINE + 2);
    }
}

//! Identifiers as newtypes: 25 characters of base 36, as SwarmKit makes them, from 128 random bits.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::text::Text;

/// Characters of an identifier.
const LENGTH: usize = 25;
const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

macro_rules! ids {
    ($($(#[$meta:meta])* $name:ident,)*) => {$(
        $(#[$meta])*
        #[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Text);

        impl $name {
            /// A new identifier that no other object has.
            pub fn random() -> Self {
                Self(Text::from(random().as_str()))
            }

            /// The identifier as text; empty if it names nothing.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }

            /// Whether it names nothing.
            pub fn is_empty(&self) -> bool {
                self.0.bytes().is_empty()
            }
        }

        crate::json::omit_default!($name);

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(Text::from(text.as_str()))
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(Text::from(text))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($name)).field(&self.as_str()).finish()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                self.as_str()
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                self.as_str()
            }
        }
    )*};
}

ids! {
    /// A cluster.
    ClusterId,
    /// A node; the common name of its certificate.
    NodeId,
    /// A service.
    ServiceId,
    /// A task: one attempt to run one container of a service.
    TaskId,
    /// A network that the manager keeps.
    NetworkId,
    /// A secret.
    SecretId,
    /// A config.
    ConfigId,
}

/// 128 random bits in base 36, padded to the full length so that every identifier sorts and prints alike.
fn random() -> String {
    let mut value = crate::world::random();
    let mut text = [b'0'; LENGTH];
    for place in text.iter_mut().rev() {
        // The remainder is below 36.
        *place = DIGITS[usize::try_from(value % 36).unwrap_or_default()];
        value /= 36;
    }
    text.iter().map(|&digit| char::from(digit)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_base_36_and_differ() {
        let (one, two) = (TaskId::random(), TaskId::random());
        assert_eq!(one.as_str().len(), LENGTH);
        assert!(one.as_str().bytes().all(|byte| DIGITS.contains(&byte)));
        assert_ne!(one, two);
    }

    #[test]
    fn an_identifier_is_plain_text_in_json() {
        for text in ["abc", "", &"long".repeat(20)] {
            let id = NodeId::from(text);
            let json = serde_json::to_string(&id).unwrap();
            assert_eq!(json, format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<NodeId>(&json).unwrap(), id);
        }
        assert!(serde_json::from_str::<NodeId>("5").is_err());
        assert_eq!(
            format!("{:?} {:>4}", NodeId::from("a"), NodeId::from("b")),
            "NodeId(\"a\")    b"
        );
    }

    #[test]
    fn identifiers_compare_and_hash_as_their_texts() {
        let texts = [
            "",
            "a",
            "a\0",
            "ab",
            "b",
            &"a".repeat(30),
            &"a".repeat(31),
            &"b".repeat(31),
        ];
        let ids: std::collections::HashMap<NodeId, &str> =
            texts.iter().map(|&text| (NodeId::from(text), text)).collect();
        for one in texts {
            assert_eq!(ids.get(one), Some(&one));
            for two in texts {
                assert_eq!(
                    NodeId::from(one).cmp(&NodeId::from(two)),
                    one.cmp(two),
                    "{one} {two}"
                );
            }
        }
    }
}

//! Identifiers as newtypes: 25 characters of base 36, as SwarmKit makes them, from 128 random bits.

use serde::{Deserialize, Serialize};

/// Characters of an identifier.
const LENGTH: usize = 25;
const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

macro_rules! ids {
    ($($(#[$meta:meta])* $name:ident,)*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// A new identifier that no other object has.
            pub fn random() -> Self {
                Self(random())
            }

            /// The identifier as text; empty if it names nothing.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Whether it names nothing.
            pub fn is_empty(&self) -> bool {
                self.0.is_empty()
            }
        }

        crate::json::omit_default!($name);

        impl From<String> for $name {
            fn from(text: String) -> Self {
                Self(text)
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
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
        let id = NodeId::from("abc");
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"abc\"");
    }
}

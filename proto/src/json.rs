//! Habits of the Docker API's JSON: `null` stands for an empty value, and empty values are left out.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// Reads `null` as the type's default: Go clients send `null` for empty lists and maps.
pub(crate) fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// Whether a field says nothing and is left out, as Go's `omitempty` does.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Whether a field of an API struct is left out. Words are always written, also when they are the default: Docker's
/// clients print them as they come.
pub(crate) trait Omit {
    fn is_omitted(&self) -> bool;
}

/// [`Omit::is_omitted`] as a function, for serde.
pub(crate) fn is_omitted<T: Omit>(value: &T) -> bool {
    value.is_omitted()
}

macro_rules! omit_default {
    ($($ty:ty)*) => {$(
        impl crate::json::Omit for $ty {
            fn is_omitted(&self) -> bool {
                crate::json::is_default(self)
            }
        }
    )*};
}

omit_default!(bool String i64 u16 u32 u64 f32);

impl<T> Omit for Option<T> {
    fn is_omitted(&self) -> bool {
        self.is_none()
    }
}

impl<T> Omit for Vec<T> {
    fn is_omitted(&self) -> bool {
        self.is_empty()
    }
}

impl<K, V> Omit for BTreeMap<K, V> {
    fn is_omitted(&self) -> bool {
        self.is_empty()
    }
}

/// A struct of the API: keys in PascalCase, every field optional on the way in, empty ones left out on the way out.
macro_rules! api_struct {
    ($(#[$meta:meta])* pub struct $name:ident {
        $($(#[$field_meta:meta])* pub $field:ident: $ty:ty,)*
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(rename_all = "PascalCase")]
        pub struct $name {
            $(
                $(#[$field_meta])*
                #[serde(
                    default,
                    deserialize_with = "crate::json::nullable",
                    skip_serializing_if = "crate::json::is_omitted"
                )]
                pub $field: $ty,
            )*
        }

        $crate::json::omit_default!($name);
    };
}

/// An enum of the API that is a lower-case word.
macro_rules! api_word {
    ($(#[$meta:meta])* pub enum $name:ident {
        $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)*
    }) => {
        $(#[$meta])*
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize,
        )]
        pub enum $name {
            $($(#[$variant_meta])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// The word as the API writes it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        impl $crate::json::Omit for $name {
            fn is_omitted(&self) -> bool {
                false
            }
        }

        /// Go clients send the empty string for a word that was not given.
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                if text.is_empty() {
                    return Ok(Self::default());
                }
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::spec::UnknownWord;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err($crate::spec::UnknownWord {
                        word: text.to_owned(),
                        known: &[$($word),*],
                    }),
                }
            }
        }
    };
}

pub(crate) use {api_struct, api_word, omit_default};

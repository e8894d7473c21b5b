//! Things that a node's operator counts or names: `agent run --node-generic-resource`, with dockerd's words.
//!
//! `SSD=3` counts; `GPU=UUID1` names one and may be given again for another. A kind is counted or named, not both.

use std::collections::BTreeMap;

use proto::spec::{DiscreteResource, GenericResource, NamedResource};

/// Why a flag cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GenericResourceError {
    /// Not `kind=value`.
    #[error("invalid generic resource {0:?}: it is not kind=value")]
    Form(String),
    /// A kind that is both counted and named, or counted twice.
    #[error("mixed discrete and named resources in expression '{kind}=[{}]'", values.join(" "))]
    Mixed {
        /// The kind.
        kind: String,
        /// All that was said of it.
        values: Vec<String>,
    },
    /// Less than nothing.
    #[error("generic resource {kind} cannot be {value}")]
    Negative {
        /// The kind.
        kind: String,
        /// How many.
        value: i64,
    },
}

/// What the flags say, kind by kind.
///
/// # Errors
/// The first flag that cannot be read.
pub fn parse(flags: &[String]) -> Result<Vec<GenericResource>, GenericResourceError> {
    let mut kinds: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for word in flags.iter().flat_map(|flag| flag.split(',')) {
        let plain = |part: &&str| !part.is_empty() && !part.contains(char::is_whitespace);
        let split = word
            .split_once('=')
            .filter(|(kind, value)| plain(kind) && plain(value));
        let (kind, value) = split.ok_or_else(|| GenericResourceError::Form(word.to_owned()))?;
        let values = kinds.entry(kind).or_default();
        if !values.contains(&value) || value.parse::<i64>().is_ok() {
            values.push(value);
        }
    }
    let parsed: Vec<_> = kinds
        .into_iter()
        .map(|(kind, values)| of_kind(kind, &values))
        .collect::<Result<_, _>>()?;
    Ok(parsed.concat())
}

fn of_kind(kind: &str, values: &[&str]) -> Result<Vec<GenericResource>, GenericResourceError> {
    let count = |value: &str| value.parse::<i64>().ok();
    match values {
        [only] if count(only).is_some_and(|value| value < 0) => Err(GenericResourceError::Negative {
            kind: kind.to_owned(),
            value: count(only).unwrap_or_default(),
        }),
        [only] if count(only).is_some() => Ok(vec![discrete(kind, count(only).unwrap_or_default())]),
        values if values.iter().any(|value| count(value).is_some()) => Err(GenericResourceError::Mixed {
            kind: kind.to_owned(),
            values: values.iter().map(|&value| value.to_owned()).collect(),
        }),
        values => Ok(values.iter().map(|value| named(kind, value)).collect()),
    }
}

fn discrete(kind: &str, value: i64) -> GenericResource {
    GenericResource {
        discrete_resource_spec: Some(DiscreteResource {
            kind: kind.to_owned(),
            value,
        }),
        ..GenericResource::default()
    }
}

fn named(kind: &str, value: &str) -> GenericResource {
    GenericResource {
        named_resource_spec: Some(NamedResource {
            kind: kind.to_owned(),
            value: value.to_owned(),
        }),
        ..GenericResource::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flags: &[&str]) -> Result<Vec<GenericResource>, String> {
        let flags: Vec<_> = flags.iter().map(|&flag| flag.to_owned()).collect();
        parse(&flags).map_err(|error| error.to_string())
    }

    #[test]
    fn kinds_are_counted_or_named() {
        assert_eq!(read(&[]), Ok(vec![]));
        assert_eq!(
            read(&["SSD=3", "GPU=UUID1", "GPU=UUID2", "GPU=UUID1"]),
            Ok(vec![
                named("GPU", "UUID1"),
                named("GPU", "UUID2"),
                discrete("SSD", 3)
            ])
        );
        assert_eq!(read(&["a=1,b=x"]), Ok(vec![discrete("a", 1), named("b", "x")]));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for flag in ["GPU", "=1", "GPU=", "G P=1", ""] {
            assert!(read(&[flag]).unwrap_err().contains("kind=value"), "{flag:?}");
        }
        assert_eq!(
            read(&["GPU=1", "GPU=UUID1"]).unwrap_err(),
            "mixed discrete and named resources in expression 'GPU=[1 UUID1]'"
        );
        assert!(read(&["GPU=1", "GPU=1"]).is_err());
        assert_eq!(
            read(&["SSD=-1"]).unwrap_err(),
            "generic resource SSD cannot be -1"
        );
    }
}

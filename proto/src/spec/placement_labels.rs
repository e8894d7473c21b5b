//! Where the tasks of a service go, as far as Docker's object model has no field for it: labels of the service.
//!
//! A label passes through every client unharmed. The labels are read here and nowhere else; a service with one that
//! cannot be read is refused when it is created or updated.
//!
//! - [`STRATEGY`]: `spread` (where there is none) or `binpack`
//! - [`AFFINITY`], [`ANTI_AFFINITY`]: names of services, separated by commas

use super::{Labels, UnknownWord};
use crate::json::api_word;

/// How nodes are ranked: a [`Strategy`].
pub const STRATEGY: &str = "shoal.placement.strategy";
/// Services of which a task must be on the node.
pub const AFFINITY: &str = "shoal.placement.affinity";
/// Services of which no task may be on the node.
pub const ANTI_AFFINITY: &str = "shoal.placement.anti-affinity";

/// Every label that [`PlacementLabels::parse`] reads.
pub const LABELS: [&str; 3] = [STRATEGY, AFFINITY, ANTI_AFFINITY];

api_word! {
    /// How nodes that can take a task are ranked.
    pub enum Strategy {
        /// The node with the fewest tasks of the service, then of all, then with the least reserved, comes first.
        #[default]
        Spread = "spread",
        /// The node on which the most is reserved comes first, so that other nodes stay empty.
        Binpack = "binpack",
    }
}

/// What the labels of a service say of the places of its tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PlacementLabels {
    /// How nodes are ranked.
    pub strategy: Strategy,
    /// Services of which a task must be on the node, as written.
    pub affinity: Vec<String>,
    /// Services of which no task may be on the node, as written.
    pub anti_affinity: Vec<String>,
}

/// Why the labels cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementLabelError {
    /// The strategy is none.
    #[error("label {STRATEGY}")]
    Strategy(#[source] UnknownWord),
    /// A name that no service can have.
    #[error("label {label}: {name:?} is not the name of a service")]
    Name {
        /// Which label.
        label: &'static str,
        /// What was given.
        name: String,
    },
    /// A service that must and must not be there.
    #[error("labels {AFFINITY} and {ANTI_AFFINITY} both name {0}")]
    Both(String),
}

impl PlacementLabels {
    /// Reads the labels of a service.
    ///
    /// # Errors
    /// A value that is not as described above, with the name of its label.
    pub fn parse(labels: &Labels) -> Result<Self, PlacementLabelError> {
        let strategy = labels
            .get(STRATEGY)
            .map_or(Ok(Strategy::default()), |word| word.parse())
            .map_err(PlacementLabelError::Strategy)?;
        let (affinity, anti_affinity) = (names(labels, AFFINITY)?, names(labels, ANTI_AFFINITY)?);
        match affinity.iter().find(|name| anti_affinity.contains(name)) {
            Some(name) => Err(PlacementLabelError::Both(name.clone())),
            None => Ok(Self {
                strategy,
                affinity,
                anti_affinity,
            }),
        }
    }
}

fn names(labels: &Labels, label: &'static str) -> Result<Vec<String>, PlacementLabelError> {
    let text = labels.get(label).map_or("", String::as_str).trim();
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let name = |name: &str| {
        let name = name.trim().to_owned();
        match is_name(&name) {
            true => Ok(name),
            false => Err(PlacementLabelError::Name { label, name }),
        }
    };
    text.split(',').map(name).collect()
}

fn is_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    !name.is_empty() && name.len() <= 63 && name.bytes().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(labels: &[(&str, &str)]) -> Result<PlacementLabels, PlacementLabelError> {
        let labels = labels
            .iter()
            .map(|&(key, value)| (key.to_owned(), value.to_owned()));
        PlacementLabels::parse(&labels.collect())
    }

    #[test]
    fn labels_are_read_and_no_label_is_the_default() {
        assert_eq!(parse(&[("other", "x")]), Ok(PlacementLabels::default()));
        let labels = parse(&[
            (STRATEGY, "binpack"),
            (AFFINITY, "db, cache"),
            (ANTI_AFFINITY, "web"),
        ]);
        let read = PlacementLabels {
            strategy: Strategy::Binpack,
            affinity: vec!["db".into(), "cache".into()],
            anti_affinity: vec!["web".into()],
        };
        assert_eq!(labels, Ok(read));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let error = parse(&[(STRATEGY, "tetris")]).unwrap_err();
        assert_eq!(error.to_string(), format!("label {STRATEGY}"));
        let name = |label, name: &str| {
            Err(PlacementLabelError::Name {
                label,
                name: name.into(),
            })
        };
        assert_eq!(parse(&[(AFFINITY, "a,,b")]), name(AFFINITY, ""));
        assert_eq!(parse(&[(ANTI_AFFINITY, "a b")]), name(ANTI_AFFINITY, "a b"));
        assert_eq!(
            parse(&[(AFFINITY, "a,b"), (ANTI_AFFINITY, "b")]),
            Err(PlacementLabelError::Both("b".into()))
        );
    }
}

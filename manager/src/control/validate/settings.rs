//! Labels of services that are settings: the product's own begin with [`PREFIX`], and one that it does not know is a
//! mistake. Accepted, it would be a setting that the user believes in and that nothing acts on.

use proto::spec::{Labels, placement_labels};
use proto::upkeep;

use super::{ControlError, Result};
use crate::scheduler::gate;

/// How the names of settings begin; all other names are the users'.
const PREFIX: &str = "shoal.";

/// Refuses a setting that nothing reads.
pub(super) fn refuse_unknown(labels: &Labels) -> Result<()> {
    let unknown = labels
        .keys()
        .find(|label| label.starts_with(PREFIX) && !known().any(|known| known == *label));
    match unknown {
        None => Ok(()),
        Some(label) => Err(ControlError::invalid(format!(
            "label {label}: there is no such setting; labels of services that begin with {PREFIX} are {}",
            known().collect::<Vec<_>>().join(", ")
        ))),
    }
}

/// The settings, as listed where each is read.
fn known() -> impl Iterator<Item = &'static str> {
    let listed = upkeep::LABELS.into_iter().chain(placement_labels::LABELS);
    listed.chain([gate::DEPENDS_ON])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(label: &str) -> Labels {
        [(label.to_owned(), "x".to_owned())].into()
    }

    #[test]
    fn a_setting_that_does_not_exist_is_refused_with_those_that_do() {
        for label in ["shoal.bogus", "shoal.", "shoal.fencing", "shoal.rebalance.on"] {
            let refused = refuse_unknown(&with(label)).unwrap_err();
            assert!(matches!(refused, ControlError::InvalidArgument(_)));
            let refused = refused.to_string();
            assert!(refused.starts_with(&format!("label {label}: ")), "{refused}");
            for known in [upkeep::REBALANCE, placement_labels::STRATEGY, gate::DEPENDS_ON] {
                assert!(refused.contains(known), "{refused}");
            }
        }
    }

    #[test]
    fn settings_that_are_read_and_labels_of_the_users_pass() {
        for label in known().chain(["shoal", "shoals.x", "com.example.shoal.x", "Shoal.x", ""]) {
            assert!(refuse_unknown(&with(label)).is_ok(), "{label}");
        }
    }
}

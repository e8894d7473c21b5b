//! One transaction, as it is agreed upon.

use serde::{Deserialize, Serialize};

use crate::state::object::StoreAction;

/// One transaction, as it is agreed upon.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub struct ChangeSet {
    /// The term in which it was computed; 0 where that was not recorded.
    term: u64,
    pub(super) actions: Vec<StoreAction>,
}

impl ChangeSet {
    /// What a leader of this term has computed from all that was agreed upon before.
    pub(super) fn new(term: u64, actions: Vec<StoreAction>) -> Self {
        Self { term, actions }
    }

    /// Whether it may count in an entry of this term. A leader that was another's follower in between has computed it
    /// from a state that is not the one before the entry: all members pass over it alike.
    pub(super) fn is_of(&self, term: u64) -> bool {
        self.term == term || self.term == 0
    }
}

/// What the state machine made of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It counts.
    Applied,
    /// It was computed in another term: nothing was changed.
    Void,
}

/// Both forms that were ever written.
#[derive(Deserialize)]
#[serde(untagged)]
enum Stored {
    Actions(Vec<StoreAction>),
    OfTerm { term: u64, actions: Vec<StoreAction> },
}

impl From<Stored> for ChangeSet {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::Actions(actions) => Self { term: 0, actions },
            Stored::OfTerm { term, actions } => Self { term, actions },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let old: ChangeSet = serde_json::from_str("[]").unwrap();
        assert!(old.is_of(1) && old.is_of(9));
        let text = serde_json::to_string(&ChangeSet::new(3, Vec::new())).unwrap();
        let new: ChangeSet = serde_json::from_str(&text).unwrap();
        assert!(new.is_of(3) && !new.is_of(4));
    }
}

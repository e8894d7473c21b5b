//! Identifiers of rows, and sets of them, made for tables of a hundred thousand objects.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};

use proto::text::Text;

/// An identifier that lies in the tree or map itself, unless it is unusually long: looking for it follows no pointers,
/// each of which would be a miss of the cache. Orders and compares as its text, hashes as its bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RowId(Text);

impl RowId {
    pub(super) fn as_str(&self) -> &str {
        self.0.as_str()
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.bytes()
    }
}

impl From<&str> for RowId {
    fn from(text: &str) -> Self {
        Self(Text::from(text))
    }
}

impl Hash for RowId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

/// The key as which rows are looked for. Texts of the standard library hash otherwise than their bytes.
impl Borrow<[u8]> for RowId {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

/// Rows under one key, in order. Most keys have one row.
#[derive(Debug, Clone)]
pub(super) enum Rows {
    One(RowId),
    Many(BTreeSet<RowId>),
}

impl Rows {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(rows) => rows.len(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &RowId> {
        let (one, many) = match self {
            Self::One(row) => (Some(row), None),
            Self::Many(rows) => (None, Some(rows)),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    pub(super) fn insert(&mut self, row: &RowId) {
        match self {
            Self::One(known) if known == row => {}
            Self::One(known) => *self = Self::Many(BTreeSet::from([known.clone(), row.clone()])),
            Self::Many(rows) => drop(rows.insert(row.clone())),
        }
    }

    /// Takes the row out. Returns whether none is left.
    pub(super) fn remove(&mut self, row: &RowId) -> bool {
        match self {
            Self::One(known) => known == row,
            Self::Many(rows) => {
                rows.remove(row);
                rows.is_empty()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn rows_order_and_compare_as_their_texts(one in ".{0,20}", two in ".{0,20}", same in "[ab\u{0}]{29,33}") {
            for (one, two) in [(one.clone(), two), (one, same.clone()), (same.clone(), same[..28].to_owned()), (same.clone(), same)] {
                let (first, second) = (RowId::from(one.as_str()), RowId::from(two.as_str()));
                prop_assert_eq!(first.cmp(&second), one.cmp(&two));
                prop_assert_eq!(first == second, one == two);
            }
        }
    }

    #[test]
    fn a_set_grows_and_shrinks() {
        let row = |text: &str| RowId::from(text);
        let mut rows = Rows::One(row("b"));
        rows.insert(&row("a"));
        rows.insert(&row("a"));
        assert_eq!(rows.iter().map(RowId::as_str).collect::<String>(), "ab");
        assert!(!rows.remove(&row("b")) && !rows.remove(&row("c")));
        assert!(rows.len() == 1 && rows.remove(&row("a")));
        assert!(!Rows::One(row("a")).remove(&row("b")) && Rows::One(row("a")).remove(&row("a")));
    }
}

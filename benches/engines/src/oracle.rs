//! Who sees all: what must hold whatever the weather.

use std::collections::{BTreeMap, BTreeSet};

use crate::world::Life;

/// What all members did, and what they should not have done.
#[derive(Default)]
pub struct Oracle {
    leaders: BTreeMap<u64, u64>,
    log: BTreeMap<u64, (u64, Option<u64>)>,
    applied: BTreeMap<u64, (u64, u64)>,
    acked: BTreeMap<u64, u64>,
    pub violations: Vec<String>,
}

impl Oracle {
    /// A member leads. One leader per term.
    pub fn leads(&mut self, id: u64, term: u64) {
        let first = *self.leaders.entry(term).or_insert(id);
        if first != id {
            self.violations
                .push(format!("two leaders in one term: {first} and {id} in {term}"));
            self.leaders.insert(term, id);
        }
    }

    /// A member applied an entry. Logs agree; a life applies one entry after the other.
    pub fn applied(&mut self, life: Life, index: u64, term: u64, value: Option<u64>) {
        let known = *self.log.entry(index).or_insert((term, value));
        if known != (term, value) {
            self.violations.push(format!(
                "logs differ: {life:?} applied {:?} at {index}, others {known:?}",
                (term, value)
            ));
        }
        let (count, last) = self
            .applied
            .insert(life.id, (life.count, index))
            .unwrap_or_default();
        if count == life.count && index != last + 1 {
            self.violations.push(format!(
                "commit index not monotone: {life:?} applied {index} after {last}"
            ));
        }
    }

    /// A member begins with the state of a snapshot, its own or another's.
    pub fn restored(&mut self, life: Life, index: u64, values: &[u64]) {
        let (count, last) = self
            .applied
            .insert(life.id, (life.count, index))
            .unwrap_or_default();
        if count == life.count && index < last {
            self.violations.push(format!(
                "commit index not monotone: {life:?} went back from {last} to {index}"
            ));
        }
        if values != self.values(index) {
            self.violations.push(format!(
                "logs differ: the snapshot of {life:?} at {index} holds something else"
            ));
        }
    }

    pub fn acknowledged(&mut self, value: u64, at: u64) {
        self.acked.insert(value, at);
    }

    pub fn acked(&self) -> usize {
        self.acked.len()
    }

    /// At the end: every acknowledged write is in the state of every member.
    pub fn kept(&mut self, id: u64, state: &[u64]) {
        let state: BTreeSet<u64> = state.iter().copied().collect();
        let lost: Vec<_> = self
            .acked
            .keys()
            .filter(|value| !state.contains(value))
            .copied()
            .collect();
        if !lost.is_empty() {
            self.violations.push(format!(
                "acknowledged write lost: {} of them at member {id}, e.g. {:?}",
                lost.len(),
                &lost[..lost.len().min(5)]
            ));
        }
    }

    fn values(&self, upto: u64) -> Vec<u64> {
        self.log
            .range(..=upto)
            .filter_map(|(_, (_, value))| *value)
            .collect()
    }
}

//! Balancing by map: `frontend → chain lb<N>`, and in that chain `frontend . random(N) → backend`. So every backend gets
//! exactly its share, a service costs as many elements as it has backends, and the cost of a packet does not grow with the
//! number of services. A chain exists for each N in use.

use std::collections::{BTreeMap, BTreeSet};

use crate::nft::{Element, Expr, Key, Set, Table, Transaction, Verdict};

/// The two maps of one namespace and what the kernel holds of them.
#[derive(Debug, Clone)]
pub(crate) struct Balancer {
    pub(super) table: Table,
    /// frontend : verdict
    pub(super) frontends: &'static Set,
    /// frontend . slot : backend
    pub(super) backends: &'static Set,
    /// The rule of chain lb<N>.
    pub(super) spread: fn(modulus: u32) -> Vec<Expr>,
    /// Chain for a frontend without backends; `None`: it is left out of the map.
    pub(super) empty: Option<&'static str>,
    chains: BTreeSet<u32>,
    current: BTreeMap<Key, Vec<Key>>,
}

impl Balancer {
    pub(super) fn new(
        table: Table,
        frontends: &'static Set,
        backends: &'static Set,
        spread: fn(u32) -> Vec<Expr>,
        empty: Option<&'static str>,
    ) -> Self {
        Self {
            table,
            frontends,
            backends,
            spread,
            empty,
            chains: BTreeSet::new(),
            current: BTreeMap::new(),
        }
    }

    /// Add to `transaction` what brings the maps to `wanted`. Replaces `self` only after the transaction was carried out.
    #[must_use]
    pub(crate) fn update(&self, wanted: BTreeMap<Key, Vec<Key>>, transaction: &mut Transaction) -> Self {
        let mut next = self.clone();
        let (mut old_fronts, mut old_backs) = (Vec::new(), Vec::new());
        for (front, backs) in self
            .current
            .iter()
            .filter(|(front, backs)| wanted.get(front) != Some(backs))
        {
            old_fronts.extend(self.frontend(front, backs));
            old_backs.extend(slots(front, backs));
        }
        let (mut new_fronts, mut new_backs) = (Vec::new(), Vec::new());
        for (front, backs) in wanted
            .iter()
            .filter(|(front, backs)| self.current.get(front) != Some(backs))
        {
            next.ensure_chain(backs.len() as u32, transaction);
            new_fronts.extend(self.frontend(front, backs));
            new_backs.extend(slots(front, backs));
        }
        transaction.remove(&self.table, self.frontends, &old_fronts);
        transaction.remove(&self.table, self.backends, &old_backs);
        transaction.add(&self.table, self.backends, &new_backs);
        transaction.add(&self.table, self.frontends, &new_fronts);
        next.current = wanted;
        next
    }

    /// What `next` no longer leads to: frontends with the backends that they lost.
    pub(crate) fn lost(&self, next: &Self) -> Vec<(Key, Key)> {
        let kept =
            |front: &Key, back: &Key| next.current.get(front).is_some_and(|backs| backs.contains(back));
        let pairs = self
            .current
            .iter()
            .flat_map(|(f, backs)| backs.iter().map(move |b| (f, b)));
        pairs
            .filter(|(f, b)| !kept(f, b))
            .map(|(f, b)| (f.clone(), b.clone()))
            .collect()
    }

    fn ensure_chain(&mut self, modulus: u32, transaction: &mut Transaction) {
        if modulus > 0 && self.chains.insert(modulus) {
            let name = chain(modulus);
            transaction.chain(
                &self.table,
                &crate::nft::Chain {
                    name: name.clone(),
                    base: None,
                },
            );
            transaction.rule(&self.table, &name, &(self.spread)(modulus));
        }
    }

    fn frontend(&self, front: &Key, backs: &[Key]) -> Option<Element> {
        let target = match backs.len() as u32 {
            0 => self.empty?.to_owned(),
            n => chain(n),
        };
        Some(Element::Verdict(front.clone(), Verdict::Goto(target)))
    }
}

fn chain(modulus: u32) -> String {
    format!("lb{modulus}")
}

fn slots(front: &Key, backs: &[Key]) -> impl Iterator<Item = Element> {
    backs
        .iter()
        .enumerate()
        .map(|(slot, back)| Element::Value(front.clone().slot(slot as u32), back.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::firewall::TaskFirewall;

    fn ip(last: u8) -> Key {
        Key::default().ipv4([10, 0, 0, last].into())
    }

    #[test]
    fn only_what_changed_is_sent() {
        let empty = TaskFirewall::balancer();
        let mut first = Transaction::default();
        let one = empty.update(
            BTreeMap::from([(ip(1), vec![ip(11), ip(12)]), (ip(2), vec![ip(21)])]),
            &mut first,
        );
        let mut same = Transaction::default();
        let again = one.update(one.current.clone(), &mut same);
        assert_eq!(same, Transaction::default());
        let mut less = Transaction::default();
        let two = again.update(
            BTreeMap::from([(ip(1), vec![ip(11), ip(12)]), (ip(2), vec![])]),
            &mut less,
        );
        let mut by_hand = Transaction::default();
        by_hand.remove(
            &one.table,
            one.frontends,
            &[Element::Verdict(ip(2), Verdict::Goto("lb1".into()))],
        );
        by_hand.remove(&one.table, one.backends, &[Element::Value(ip(2).slot(0), ip(21))]);
        by_hand.add(
            &one.table,
            one.frontends,
            &[Element::Verdict(ip(2), Verdict::Goto("refuse".into()))],
        );
        assert_eq!(less, by_hand);
        assert!(two.chains.is_superset(&BTreeSet::from([1, 2])));
    }
}
